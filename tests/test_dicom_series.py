"""Folders of DICOM files: which belong together, and in what order."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import AXIAL, BUNDLED, CT, bundled, make, save

from textsam.errors import ConfigError, ImageError
from textsam.io.dicom import DicomStack, NoPictureError, open_dicom, open_series
from textsam.io.limits import Limits


def slice_of(value: int) -> np.ndarray:
    return np.full((8, 9), value, np.uint8)


def values(stack: DicomStack) -> list[int]:
    """What each slice was made with."""
    return [int(image.pixels[0, 0, 0]) for image in stack]


def series(
    folder: Path, places: list[list[float]], orientation: list[float], **changes: list[Any]
) -> Path:
    """Slice n is of value n, at places[n]; names are in the opposite order."""
    folder.mkdir(exist_ok=True)
    for n, place in enumerate(places):
        more = {key: several[n] for key, several in changes.items() if several[n] is not None}
        save(
            folder / f"{99 - n}.dcm",
            slice_of(n),
            SOPClassUID=CT,
            ImageOrientationPatient=orientation,
            ImagePositionPatient=place,
            PixelSpacing=[1, 1],
            **more,
        )
    return folder


def test_axial_slices_run_from_feet_to_head(tmp_path: Path) -> None:
    places = [[0, 0, z] for z in (30.0, -5.0, 12.5, 100.0)]
    # Numbers of instances contradict: positions decide.
    stack = open_series(series(tmp_path, places, AXIAL, InstanceNumber=[1, 2, 3, 4]))
    assert values(stack) == [1, 2, 0, 3]
    assert [stack.where(n) for n in range(4)] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert [path.name for path in stack.paths] == ["98.dcm", "97.dcm", "99.dcm", "96.dcm"]
    assert [float(h.ImagePositionPatient[2]) for h in stack.headers] == [-5, 12.5, 30, 100]
    assert [image.placement.index for image in stack if image.placement] == [0, 1, 2, 3]
    third = stack[2].placement
    assert third is not None
    assert third.to_patient_mm(3, 4) == (3, 4, 30)


def test_oblique_slices_follow_their_normal(tmp_path: Path) -> None:
    # Columns to the back, rows to the feet: the normal points to the patient's right.
    orientation = [0, 1, 0, 0, 0, -1]
    places = [[x, 5.0 * x, -3.0 * x] for x in (10.0, -20.0, 0.0)]
    assert values(open_series(series(tmp_path, places, orientation))) == [0, 2, 1]


def test_slices_at_one_position_follow_their_number(tmp_path: Path) -> None:
    places = [[0, 0, z] for z in (1.0, 0.0, 1.0, 0.0)]
    stack = open_series(series(tmp_path, places, AXIAL, InstanceNumber=[7, 6, 5, 8]))
    assert values(stack) == [1, 3, 2, 0]


def test_slices_of_several_orientations_follow_their_number(tmp_path: Path) -> None:
    series(tmp_path, [[0, 0, 5.0], [0, 0, 1.0]], AXIAL, InstanceNumber=[3, 1])
    save(
        tmp_path / "a.dcm",
        slice_of(2),
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        ImagePositionPatient=[0, 0, 0],
        InstanceNumber=2,
    )
    assert values(open_series(tmp_path)) == [1, 2, 0]


def test_without_positions_numbers_decide_and_else_names(tmp_path: Path) -> None:
    for n, number in enumerate((10, 9, 2)):
        save(tmp_path / f"{n}.dcm", slice_of(n), InstanceNumber=number)
    assert values(open_series(tmp_path)) == [2, 1, 0]
    save(tmp_path / "3.dcm", slice_of(3), InstanceNumber=9)
    assert values(open_series(tmp_path)) == [0, 1, 2, 3]


def test_series_that_comes_with_pydicom(tmp_path: Path) -> None:
    stack = open_series(BUNDLED / "dicomdirtests" / "98892001" / "CT5N")
    places = [float(header.ImagePositionPatient[2]) for header in stack.headers]
    assert len(stack) == 5
    assert places == sorted(places)
    for image, place in zip(stack, places, strict=True):
        assert image.placement is not None
        assert image.placement.affine_mm is not None
        assert image.placement.affine_mm[2, 3] == place


def two_series(folder: Path) -> Path:
    for n in range(3):
        save(
            folder / f"{n}.dcm",
            slice_of(n),
            SeriesInstanceUID=f"1.2.{n // 2}",
            SeriesDescription=f"pass {n // 2}",
            Modality="MR",
            InstanceNumber=n,
        )
    return folder


def test_several_series_are_named_with_how_to_choose(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        open_series(two_series(tmp_path))
    message = str(caught.value)
    assert "2 series; choose one by its UID with series_uid=..." in message
    assert "1.2.0: 2 images, MR, pass 0" in message
    assert "1.2.1: 1 images, MR, pass 1" in message
    assert "Secret" not in message
    assert "SECRET" not in message
    assert values(open_series(tmp_path, series_uid="1.2.0")) == [0, 1]
    assert values(open_series(tmp_path, series_uid="1.2.1")) == [2]
    with pytest.raises(ImageError, match=r"no series 9.9; there are\n  1.2.0"):
        open_series(tmp_path, series_uid="9.9")


def test_what_is_no_picture_is_passed_over_in_a_folder(tmp_path: Path) -> None:
    save(tmp_path / "a", slice_of(1))
    shutil.copy(BUNDLED / "dicomdirtests" / "DICOMDIR", tmp_path / "DICOMDIR")
    shutil.copy(bundled("test-SR.dcm"), tmp_path / "report.dcm")
    shutil.copy(bundled("liver_1frame.dcm"), tmp_path / "seg.dcm")
    (tmp_path / "README.txt").write_text("read me", encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    (tmp_path / ".hidden.dcm").write_bytes(b"no")
    (tmp_path / "more").mkdir()
    stack = open_series(tmp_path)
    assert values(stack) == [1]
    assert stack.paths == (tmp_path / "a",)
    # But not where it is asked for by name.
    with pytest.raises(NoPictureError, match="Comprehensive SR Storage"):
        open_series([tmp_path / "a", tmp_path / "report.dcm"])
    with pytest.raises(ImageError, match="not a DICOM file"):
        open_series([tmp_path / "a", tmp_path / "README.txt"])


@pytest.mark.parametrize("content", [b"", b"II*\0a picture", b"\0" * 128 + b"DICM"])
@pytest.mark.parametrize("name", ["b.dcm", "b.IMA"])
def test_damaged_file_in_a_folder_is_reported(tmp_path: Path, content: bytes, name: str) -> None:
    save(tmp_path / "a.dcm", slice_of(1))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=re.escape(name)):
        open_series(tmp_path)


def test_file_cut_before_its_pixels_is_reported(tmp_path: Path) -> None:
    save(tmp_path / "a.dcm", slice_of(1))
    whole = save(tmp_path / "b", slice_of(2)).read_bytes()
    (tmp_path / "b").write_bytes(whole[: whole.index(b"\xe0\x7f\x10\x00")])
    with pytest.raises(ImageError, match=r"b: .*ends before its pixel data"):
        open_series(tmp_path)


def test_slice_cut_within_its_pixels_is_an_error_of_its_own(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"{n}.dcm", slice_of(n), InstanceNumber=n)
    path = tmp_path / "1.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    stack = open_series(tmp_path)
    assert int(stack.read(0).pixels[0, 0, 0]) == 0
    with pytest.raises(ImageError, match=r"1\.dcm: the pixel data is truncated"):
        stack.read(1)
    assert int(stack.read(2).pixels[0, 0, 0]) == 2


def test_the_same_image_twice_is_refused(tmp_path: Path) -> None:
    shutil.copy(save(tmp_path / "a.dcm", slice_of(1)), tmp_path / "b.dcm")
    with pytest.raises(ImageError, match=r"a\.dcm and b\.dcm are the same image"):
        open_series(tmp_path)


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"0 DICOM files and no image.*pass a folder of images"):
        open_series(tmp_path)
    (tmp_path / "inside").mkdir()
    with pytest.raises(ImageError, match="pass one of the folders inside it"):
        open_series(tmp_path)
    with pytest.raises(ImageError, match="open_series got no files"):
        open_series([])
    with pytest.raises(ImageError, match="no such file"):
        open_series(tmp_path / "missing")
    with pytest.raises(ImageError, match="folder"):
        open_dicom(tmp_path)


def test_files_of_several_frames_follow_each_other(tmp_path: Path) -> None:
    for n in range(2):
        frames = np.stack([slice_of(10 * n + k) for k in range(3 - n)])
        save(tmp_path / f"{n}.dcm", frames, InstanceNumber=9 - n)
    stack = open_series(tmp_path)
    assert values(stack) == [10, 11, 0, 1, 2]
    assert [stack.where(n) for n in range(5)] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert len(stack.headers) == len(stack.paths) == 2
    assert stack[-1].pixels[0, 0, 0] == 2
    for index in (-1, 5):
        with pytest.raises(IndexError, match=f"no number {index}"):
            stack.where(index)
    with pytest.raises(IndexError):
        stack.read(5)
    assert stack.format == "dicom"
    assert stack.source == str(tmp_path)


def test_limit_of_images_is_of_all_files_together(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"{n}.dcm", np.stack([slice_of(1)] * 4))
    assert len(open_series(tmp_path, limits=Limits(max_images=12))) == 12
    with pytest.raises(ImageError, match="holds 12 images, the limit is 11"):
        open_series(tmp_path, limits=Limits(max_images=11))
    with pytest.raises(ImageError, match="holds 3 images, the limit is 2"):
        open_series(tmp_path, limits=Limits(max_images=2))
    with pytest.raises(ConfigError):
        Limits(max_images=0)


def test_headers_of_all_files_together_stay_within_the_limit(tmp_path: Path) -> None:
    for n in range(3):
        dataset = make(slice_of(n))
        dataset.add_new(0x00091001, "OB", b"\1" * 100_000)
        dataset.save_as(tmp_path / f"{n}.dcm", enforce_file_format=True)
    assert len(open_series(tmp_path, limits=Limits(max_inflated_bytes=310_000))) == 3
    with pytest.raises(ImageError, match="the limit is 290,000"):
        open_series(tmp_path, limits=Limits(max_inflated_bytes=290_000))
