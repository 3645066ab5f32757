"""Millimetres: spacing, place in the patient, and the regions of ultrasound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import AXIAL, CT, ULTRASOUND, item, items, ramp, save
from pydicom import Dataset

from textsam.errors import ImageError
from textsam.io.dicom import open_dicom
from textsam.io.image import Image
from textsam.io.seg import seg_datasets
from textsam.result import Segmentation

PIXELS = ramp(20, 30, np.uint8)


def read(path: Path, index: int = 0, **options: Any) -> Image:
    return open_dicom(path, **options).read(index)


def test_spacing_is_row_then_column(tmp_path: Path) -> None:
    # The first value is the distance between rows, that is, downwards (PS3.3 10.7.1.1).
    image = read(save(tmp_path / "a.dcm", PIXELS, PixelSpacing=[0.5, 0.25]))
    assert image.spacing_mm == (0.5, 0.25)
    assert image.placement is not None
    assert image.placement.affine_mm is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"ImagerPixelSpacing": [0.14, 0.14]}, None),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, None),
        ({"ImagerPixelSpacing": [0.14, 0.14], "PixelSpacing": [0.14, 0.14]}, None),
        ({"ImagerPixelSpacing": [0.14, 0.14], "PixelSpacing": [0.12, 0.12]}, (0.12, 0.12)),
        (
            {
                "ImagerPixelSpacing": [0.14, 0.14],
                "PixelSpacing": [0.14, 0.14],
                "PixelSpacingCalibrationType": "FIDUCIAL",
            },
            (0.14, 0.14),
        ),
        ({"PixelSpacing": [0, 0]}, None),
        ({"PixelSpacing": [-1, 1]}, None),
        ({"PixelSpacing": 0.5}, None),
        ({"PixelSpacing": None}, None),
    ],
)
def test_spacing_is_that_in_the_patient_or_unknown(
    tmp_path: Path, changes: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    changes = {key: value for key, value in changes.items() if value is not None}
    assert read(save(tmp_path / "a.dcm", PIXELS, **changes)).spacing_mm == expected


def test_damaged_spacing_is_unknown(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", PIXELS, PixelSpacing=[0.5, 0.25])
    path.write_bytes(path.read_bytes().replace(b"0.5\\0.25", b"0.5\\x.25"))
    assert read(path).spacing_mm is None


def test_place_of_a_pixel_in_a_sagittal_slice(tmp_path: Path) -> None:
    # Columns run from front to back, rows from head to foot: left-handed in name only.
    path = save(
        tmp_path / "a.dcm",
        PIXELS,
        SOPClassUID=CT,
        PixelSpacing=[2, 0.5],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        ImagePositionPatient=[7, -100, 250],
    )
    placement = read(path).placement
    assert placement is not None
    assert placement.to_patient_mm(0, 0) == (7, -100, 250)
    # Ten columns are 5 mm to the back, three rows 6 mm towards the feet.
    assert placement.to_patient_mm(10, 3) == (7, -95, 244)


def test_place_in_an_oblique_slice(tmp_path: Path) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    path = save(
        tmp_path / "a.dcm",
        PIXELS,
        PixelSpacing=[1.5, 0.75],
        ImageOrientationPatient=[c, s, 0, 0, 0, -1],
        ImagePositionPatient=[1, 2, 3],
    )
    placement = read(path).placement
    assert placement is not None
    assert placement.to_patient_mm(4, 2) == pytest.approx((1 + 3 * c, 2 + 3 * s, 0))
    assert placement.affine_mm is not None
    np.testing.assert_allclose(placement.affine_mm[:3, 2], [-s, c, 0], atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]},
        {"ImageOrientationPatient": [1, 0, 0]},
        {"ImagePositionPatient": [1, 2]},
        {"PixelSpacing": [0, 1]},
    ],
)
def test_impossible_place_is_unknown(tmp_path: Path, changes: dict[str, Any]) -> None:
    good = {
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": [0, 0, 0],
        "PixelSpacing": [1, 1],
    }
    placement = read(save(tmp_path / "a.dcm", PIXELS, **{**good, **changes})).placement
    assert placement is not None
    assert placement.affine_mm is None
    placement = read(save(tmp_path / "b.dcm", PIXELS, **good)).placement
    assert placement is not None
    assert placement.affine_mm is not None


def test_one_position_is_not_that_of_all_frames(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm",
        np.stack([PIXELS, PIXELS]),
        ImageOrientationPatient=AXIAL,
        ImagePositionPatient=[0, 0, 0],
        PixelSpacing=[1, 2],
    )
    for number in range(2):
        image = read(path, number)
        assert image.placement is not None
        assert image.placement.affine_mm is None
        assert image.spacing_mm == (1, 2)


def test_enhanced_frames_have_their_own_places(tmp_path: Path) -> None:
    def frame(z: float) -> Dataset:
        return item(PlanePositionSequence=items(item(ImagePositionPatient=[10, 20, z])))

    shared = item(
        PixelMeasuresSequence=items(item(PixelSpacing=[0.5, 0.25])),
        PlaneOrientationSequence=items(item(ImageOrientationPatient=AXIAL)),
    )
    path = save(
        tmp_path / "a.dcm",
        np.stack([PIXELS, PIXELS, PIXELS]),
        SharedFunctionalGroupsSequence=items(shared),
        PerFrameFunctionalGroupsSequence=items(frame(30), frame(10), frame(20)),
    )
    # Frames stay in the order of the file, whatever their positions.
    for number, z in enumerate((30, 10, 20)):
        image = read(path, number)
        assert image.spacing_mm == (0.5, 0.25)
        assert image.placement is not None
        assert image.placement.index == number
        assert image.placement.to_patient_mm(4, 2) == (11, 21, z)


def test_frame_the_header_does_not_describe_is_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm",
        np.stack([PIXELS, PIXELS]),
        PerFrameFunctionalGroupsSequence=items(item()),
    )
    assert read(path, 0).spacing_mm is None
    with pytest.raises(ImageError, match="describes 1 frames, frame 1, from 0, is not among them"):
        read(path, 1)


def region(
    box: tuple[int, int, int, int],
    *,
    kind: tuple[int, int] = (1, 1),
    units: tuple[int, int] = (3, 3),
    step: tuple[float, float] = (0.02, 0.03),
) -> Dataset:
    return item(
        RegionSpatialFormat=kind[0],
        RegionDataType=kind[1],
        RegionFlags=0,
        RegionLocationMinX0=box[0],
        RegionLocationMinY0=box[1],
        RegionLocationMaxX1=box[2],
        RegionLocationMaxY1=box[3],
        PhysicalUnitsXDirection=units[0],
        PhysicalUnitsYDirection=units[1],
        PhysicalDeltaX=step[0],
        PhysicalDeltaY=step[1],
    )


def ultrasound(path: Path, *regions: Dataset, **more: Any) -> Path:
    return save(
        path, PIXELS, SOPClassUID=ULTRASOUND, SequenceOfUltrasoundRegions=items(*regions), **more
    )


def test_largest_region_of_tissue_is_the_picture(tmp_path: Path) -> None:
    path = ultrasound(
        tmp_path / "a.dcm",
        region((2, 3, 11, 12)),
        region((4, 5, 20, 18), step=(0.04, -0.05)),
        region((0, 0, 28, 18), kind=(3, 3), units=(4, 7)),
        region((0, 0, 28, 18), kind=(1, 2)),
    )
    image = read(path)
    assert image.region_px == (4, 5, 20, 18)
    # Centimetres to millimetres; (row, column) is (y, x).
    assert image.spacing_mm == pytest.approx((0.5, 0.4))
    np.testing.assert_array_equal(image.pixels[..., 0], PIXELS)
    uncut = read(path, crop=False)
    assert uncut.region_px is None
    assert uncut.spacing_mm == image.spacing_mm


def test_region_lengths_go_before_pixel_spacing(tmp_path: Path) -> None:
    spaced = {"PixelSpacing": [9, 9]}
    image = read(ultrasound(tmp_path / "a.dcm", region((0, 0, 20, 18)), **spaced))
    assert image.spacing_mm == pytest.approx((0.3, 0.2))
    for other in (
        region((0, 0, 20, 18), units=(4, 3)),
        region((0, 0, 20, 18), units=(3, 0)),
        region((0, 0, 20, 18), step=(0.0, 0.1)),
    ):
        image = read(ultrasound(tmp_path / "b.dcm", other, **spaced))
        assert image.spacing_mm == (9, 9)
        assert image.region_px == (0, 0, 20, 18)


def test_the_place_goes_by_pixel_spacing_and_sizes_by_the_region(tmp_path: Path) -> None:
    placed = {
        "PixelSpacing": [0.31, 0.21],
        "ImagePositionPatient": [1, 2, 3],
        "ImageOrientationPatient": AXIAL,
        "FrameOfReferenceUID": "1.2.3.4",
    }
    path = ultrasound(tmp_path / "a.dcm", region((0, 0, 20, 18)), **placed)
    image = read(path)
    assert image.spacing_mm == pytest.approx((0.3, 0.2))
    assert image.placement is not None
    assert image.placement.to_patient_mm(10, 10) == pytest.approx((3.1, 5.1, 3))
    # A SEG, whose pixels lie where the header says, can be made of it.
    mask = np.ones(image.size_px, dtype=bool)
    answer = Segmentation(
        mask, mask.astype(np.float32), 1.0, True, "tumor", image, "adapter", "lite"
    )
    assert answer.area_mm2 == pytest.approx(mask.size * 0.06)
    (made,) = seg_datasets(open_dicom(path), {0: [answer]})
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(value) for value in measures.PixelSpacing] == [0.31, 0.21]


def test_region_one_past_the_last_pixel_is_cut(tmp_path: Path) -> None:
    image = read(ultrasound(tmp_path / "a.dcm", region((5, 4, 30, 20))))
    assert image.region_px == (5, 4, 29, 19)
    whole = read(ultrasound(tmp_path / "b.dcm", region((0, 0, 29, 19))))
    assert whole.region_px is None
    assert whole.spacing_mm is not None


@pytest.mark.parametrize("box", [(0, 0, 31, 19), (0, 0, 29, 21), (0, 0, 5000, 4000)])
def test_region_of_another_picture_is_not_used(
    tmp_path: Path, box: tuple[int, int, int, int]
) -> None:
    image = read(ultrasound(tmp_path / "a.dcm", region((0, 0, 15, 15)), region(box)))
    assert image.region_px is None
    assert image.spacing_mm is None


@pytest.mark.parametrize("box", [(0, 0, 6, 19), (20, 10, 10, 15), (3, 3, 3, 3)])
def test_region_too_small_is_not_used(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    assert read(ultrasound(tmp_path / "a.dcm", region(box))).region_px is None
