"""NIfTI out: every voxel and every place as in the source, read back with nibabel."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pytest
from dicom_sources import AXIAL, base, rotation, save, write_enhanced, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

import textsam.io.nifti_out as nifti_out
from textsam.errors import ConfigError, ImageError, TextSAMError
from textsam.io.dicom import open_dicom, open_series
from textsam.io.nifti import open_nifti
from textsam.io.nifti_out import check_nifti, write_nifti
from textsam.io.open import open_stack
from textsam.io.stack import Stack

NIBABEL_DATA = Path(nibabel.__file__).parent / "tests" / "data"


def load(path: Path) -> Any:
    return nibabel.load(path)


def random_masks(stack: Stack, seed: int = 0) -> dict[int, NDArray[np.bool_]]:
    draw = np.random.default_rng(seed)
    return {i: draw.random(stack.read(i).size_px) < 0.3 for i in range(len(stack))}


def centroid_ras(image: Any) -> NDArray[np.float64]:
    """Centre of the voxels of value 1 in the world of a NIfTI file (RAS, mm)."""
    volume = np.asarray(image.dataobj)
    voxels = np.argwhere(volume.reshape(*volume.shape, *[1] * (3 - volume.ndim)))
    return np.asarray(apply_affine(image.affine, voxels.mean(axis=0)))


def centroid_of_placements(stack: Stack, masks: dict[int, NDArray[np.bool_]]) -> NDArray[Any]:
    """The same from the masks and `Image.placement`, to RAS."""
    points = []
    for index, mask in masks.items():
        placement = stack.read(index).placement
        assert placement is not None
        points += [placement.to_patient_mm(x, y) for y, x in np.argwhere(mask)]
    left, back, head = np.array(points, dtype=float).mean(axis=0)
    return np.array([-left, -back, head])


# --- over NIfTI files -------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(8, 12), st.integers(8, 12), st.integers(8, 11)),
    axis=st.sampled_from([0, 1, 2]),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    zooms=st.tuples(*[st.floats(0.3, 4)] * 3),
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    units=st.sampled_from(["mm", "micron", "meter", "unknown"]),
    order=st.sampled_from(["<", ">"]),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    seed=st.integers(0, 9),
)
def test_a_mask_lies_over_the_file_it_is_of(
    shape: tuple[int, int, int],
    axis: int,
    angles: tuple[float, float, float],
    flips: tuple[float, float, float],
    zooms: tuple[float, float, float],
    codes: tuple[int, int],
    units: str,
    order: str,
    suffix: str,
    seed: int,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ np.diag(np.multiply(flips, zooms))
    affine[:3, 3] = (-12.5, 30, 7)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.int16)
    values = np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)
    source: Any = nibabel.Nifti1Image(values, affine, header)
    source.set_qform(affine, codes[0])
    source.set_sform(affine, codes[1])
    source.header.set_xyzt_units(units)
    source.header["cal_max"], source.header["intent_code"] = 400, 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source.to_filename(folder / "in.nii.gz")
        stack = open_nifti(folder / "in.nii.gz", axis=axis)
        masks = random_masks(stack, seed)
        del masks[2]
        path = write_nifti(folder / f"out{suffix}", stack, masks)
        made, original = load(path), load(folder / "in.nii.gz")
        volume = np.asarray(made.dataobj)
        assert volume.dtype == np.uint8
        assert set(np.unique(volume)) == {0, 1}
        assert np.array_equal(volume, stack.to_volume(masks).astype(np.uint8))
        assert not np.moveaxis(volume, axis, 0)[2].any()
        assert made.shape == original.shape
        assert np.array_equal(made.affine, original.affine)
        for field in ("qform_code", "sform_code", "xyzt_units", "pixdim", "srow_x", "quatern_b"):
            assert np.array_equal(made.header[field], original.header[field]), field
        assert made.header.endianness == original.header.endianness
        assert made.header["intent_code"] == 0
        assert (made.header["cal_min"], made.header["cal_max"]) == (0, 1)
        if max(codes) > 0:
            mm = {"mm": 1.0, "unknown": 1.0, "meter": 1e3, "micron": 1e-3}[units]
            assert centroid_ras(made) * mm == pytest.approx(
                centroid_of_placements(stack, masks), rel=1e-4, abs=1e-4
            )
        # Sliced along another axis it is the same volume.
        again = open_nifti(path, axis=axis)
        for index, mask in masks.items():
            assert np.array_equal(again.read(index).pixels[..., 0] > 0, mask)


@pytest.mark.parametrize("name", ["anatomical.nii", "example_nifti2.nii.gz", "functional.nii"])
def test_bundled_files(name: str, tmp_path: Path) -> None:
    source = NIBABEL_DATA / name
    if len(load(source).shape) > 3:
        load(source).slicer[..., 0].to_filename(tmp_path / name)
        source = tmp_path / name
    stack = open_nifti(source)
    masks = random_masks(stack)
    made, original = load(write_nifti(tmp_path / "m.nii.gz", stack, masks)), load(source)
    assert type(made) is type(original)
    assert np.array_equal(made.affine, original.affine)
    assert made.shape == original.shape
    assert np.array_equal(np.asarray(made.dataobj), stack.to_volume(masks))


GEOMETRY = (slice(76, 108), slice(123, 124), slice(252, 328))  # pixdim; xyzt_units; forms, nifti1.h


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("shape", "pixdim", "codes"),
    [
        ((10, 12, 1), (1.0, 1.5, 2.0, 0.0), (1, 0)),  # one slice has no distance to the next
        ((10, 12), (1.0, 1.5, 2.0, 0.0), (1, 0)),
        ((10, 12, 9), (1.0, 0.0, 2.0, 3.0), (0, 0)),
        ((10, 12, 9), (1.0, np.nan, 2.0, 3.0), (0, 0)),
        ((10, 12, 9), (1.0, -2.0, 2.0, 3.0), (0, 0)),  # as converters for ANALYZE wrote them
        ((10, 12, 9), (1.0, 2.0, 2.0, -3.0), (0, 0)),
        ((10, 12, 9), (0.0, 1.5, 2.0, 3.0), (0, 2)),  # no handedness, and none is asked
        ((10, 12, 9), (1.0, 1.5, 2.0, 3.0), (1, 77)),  # a code that the standard has not
        ((10, 12, 9, 1, 1), (1.0, 1.5, 2.0, 3.0), (0, 2)),
    ],
)
def test_what_says_where_the_file_lies_is_kept_byte_by_byte(
    shape: tuple[int, ...],
    pixdim: tuple[float, ...],
    codes: tuple[int, int],
    suffix: str,
    tmp_path: Path,
) -> None:
    image: Any = nibabel.Nifti1Image(np.zeros(shape, np.int16), np.diag([1.5, 2.0, 3.0, 1.0]))
    image.to_filename(tmp_path / "plain.nii")
    content = bytearray((tmp_path / "plain.nii").read_bytes())
    content[76:92] = np.array(pixdim, "<f4").tobytes()
    content[252:256] = np.array(codes, "<i2").tobytes()
    source = tmp_path / f"in{suffix}"
    source.write_bytes(gzip.compress(bytes(content)) if suffix == ".nii.gz" else bytes(content))
    stack = open_stack(source)
    masks = random_masks(stack)
    check_nifti(stack)
    path = write_nifti(tmp_path / f"out{suffix}", stack, masks)
    made = path.read_bytes()
    made = gzip.decompress(made) if suffix == ".nii.gz" else made
    assert [made[part] for part in GEOMETRY] == [bytes(content[part]) for part in GEOMETRY]
    assert made[40:56] == bytes(content[40:56]), "dim"
    voxels = np.frombuffer(made[352:], np.uint8).reshape(shape, order="F")
    assert np.array_equal(voxels, stack.to_volume(masks))
    again = open_stack(path)
    for index, mask in masks.items():
        assert np.array_equal(again.read(index).pixels[..., 0] > 0, mask)


def test_scaled_files_and_extensions_leave_no_trace(tmp_path: Path) -> None:
    image: Any = nibabel.Nifti1Image(
        np.arange(1000, dtype=np.float32).reshape(10, 10, 10), np.eye(4)
    )
    image.header.set_data_dtype(np.int8)  # stored with a slope and intercept
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    image.to_filename(tmp_path / "in.nii")
    stack = open_nifti(tmp_path / "in.nii")
    masks = random_masks(stack)
    path = write_nifti(tmp_path / "out.nii", stack, masks)
    made = load(path)
    assert np.array_equal(np.asarray(made.dataobj), stack.to_volume(masks))
    assert len(made.header.extensions) == 0
    assert path.stat().st_size == 352 + 1000


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_texts_that_may_name_the_patient_are_not_copied(kind: Any, tmp_path: Path) -> None:
    source = kind(np.zeros((9, 9, 9), np.uint8), np.eye(4))
    texts = {"descrip", "aux_file", "db_name", "intent_name"}
    for name in texts & set(source.header.keys()):
        source.header[name] = b"Doe^Jane"
    source.to_filename(tmp_path / "in.nii")
    assert (tmp_path / "in.nii").read_bytes().count(b"Doe^Jane") >= 3
    path = write_nifti(tmp_path / "out.nii", open_nifti(tmp_path / "in.nii"), {})
    assert b"Doe" not in path.read_bytes()


def test_the_same_masks_make_the_same_file(tmp_path: Path) -> None:
    image: Any = nibabel.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4))
    image.to_filename(tmp_path / "in.nii")
    stack = open_nifti(tmp_path / "in.nii")
    one = write_nifti(tmp_path / "a.nii.gz", stack, random_masks(stack))
    two = write_nifti(tmp_path / "b.NII.GZ", stack, random_masks(stack))
    assert one.read_bytes() == two.read_bytes()
    plain = write_nifti(tmp_path / "a.nii", stack, random_masks(stack))
    assert gzip.decompress(one.read_bytes()) == plain.read_bytes()


# --- over DICOM -------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(st.floats(0.2, 3), st.floats(0.2, 3)),
    distance=st.floats(0.3, 6),
    size=st.tuples(st.integers(8, 12), st.integers(8, 12)),
    count=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_a_dicom_series_becomes_a_volume_in_the_patient(
    angles: tuple[float, float, float],
    spacing: tuple[float, float],
    distance: float,
    size: tuple[int, int],
    count: int,
    seed: int,
) -> None:
    axes = rotation(angles)
    positions = [np.array([10, -90, 33.25]) + axes[:, 2] * distance * at for at in range(count)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        orientation = [*axes[:, 0], *axes[:, 1]]
        write_series(folder, positions, size=size, orientation=orientation, spacing=spacing)
        stack = open_series(folder)
        masks = random_masks(stack, seed)
        masks[0][0, 0] = True
        made = load(write_nifti(folder / "m.nii", stack, masks))
        volume = np.asarray(made.dataobj)
        assert volume.shape == (size[1], size[0], count)
        for index, mask in masks.items():
            assert np.array_equal(volume[:, :, index].T > 0, mask)
        assert centroid_ras(made) == pytest.approx(
            centroid_of_placements(stack, masks), rel=1e-5, abs=1e-4
        )
        assert (made.header["sform_code"], made.header["qform_code"]) == (1, 1)
        assert made.header.get_qform() == pytest.approx(made.affine, abs=1e-3)
        assert made.header.get_xyzt_units()[0] == "mm"


def test_frames_out_of_order_are_sorted_by_position(tmp_path: Path) -> None:
    places = [(0.0, 0.0, z) for z in (4.0, 2.0, 0.0, 6.0)]
    stack = open_dicom(write_enhanced(tmp_path / "e.dcm", places))
    masks = random_masks(stack)
    made = load(write_nifti(tmp_path / "m.nii", stack, masks))
    volume = np.asarray(made.dataobj)
    for slot, index in enumerate((2, 1, 0, 3)):
        assert np.array_equal(volume[:, :, slot].T > 0, masks[index])
    assert centroid_ras(made) == pytest.approx(centroid_of_placements(stack, masks))


def test_a_stack_from_head_to_foot_keeps_its_order(tmp_path: Path) -> None:
    stack = open_dicom(write_enhanced(tmp_path / "e.dcm", [(0, 0, z) for z in (6, 4, 2)]))
    masks = random_masks(stack)
    made = load(write_nifti(tmp_path / "m.nii", stack, masks))
    assert np.array_equal(np.asarray(made.dataobj)[:, :, 0].T > 0, masks[0])
    assert centroid_ras(made) == pytest.approx(centroid_of_placements(stack, masks))


def test_a_place_without_frame_of_reference_is_enough(tmp_path: Path) -> None:
    path = get_testdata_file("693_J2KI.dcm", download=False)
    assert isinstance(path, str)
    stack = open_dicom(path)
    masks = random_masks(stack)
    made = load(write_nifti(tmp_path / "m.nii.gz", stack, masks))
    assert made.shape == (512, 512, 1)
    assert centroid_ras(made) == pytest.approx(centroid_of_placements(stack, masks), rel=1e-5)
    assert made.header.get_zooms()[2] == pytest.approx(float(stack.headers[0].SliceThickness))


CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@pytest.mark.parametrize(
    ("positions", "extra", "why"),
    [
        ([(0, 0, 0), (0, 0, 2), (0, 0, 5)], {}, "not evenly spaced"),
        ([(0, 0, 0), (0, 1, 2), (0, 2, 4)], {}, "not evenly spaced"),  # a tilted gantry
        ([(0, 0, 0), (0, 0, 0)], {}, "not evenly spaced"),
        ([(0, 0, 0), (0, 0, 2)], {"orientation": [AXIAL, CORONAL]}, "differ in orientation"),
    ],
)
def test_slices_that_make_no_even_volume_are_refused(
    positions: list[tuple[float, float, float]], extra: dict[str, Any], why: str, tmp_path: Path
) -> None:
    write_series(tmp_path / "in", positions, **extra)
    stack = open_series(tmp_path / "in")
    with pytest.raises(ImageError, match=why):
        check_nifti(stack)
    with pytest.raises(ImageError, match=why):
        write_nifti(tmp_path / "m.nii", stack, {})
    assert not (tmp_path / "m.nii").exists()


def test_slices_may_be_a_hundredth_off(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [(0, 0, 0), (0, 0, 2.015), (0, 0, 4)])
    check_nifti(open_series(tmp_path / "in"))
    made = load(write_nifti(tmp_path / "m.nii", open_series(tmp_path / "in"), {}))
    assert made.header.get_zooms() == pytest.approx((0.5, 0.8, 2.0))
    assert not np.asarray(made.dataobj).any()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"PixelSpacing": [0.8, 0.6]}, "differ in pixel spacing"),
        ({"FrameOfReferenceUID": "1.2.77"}, "differ in their frame of reference"),
        ({"Rows": 10}, "differ in size"),
        ({"ImagePositionPatient": None}, "1 of its images have no place"),
    ],
)
def test_series_of_unlike_images_are_refused(
    changed: dict[str, Any], why: str, tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "in", [(0, 0, 2 * at) for at in range(3)])
    stack = open_series(paths)
    for keyword, value in changed.items():
        setattr(stack.headers[1], keyword, value)
    with pytest.raises(ImageError, match=f"{why}.*DICOM SEG, or masks as PNG"):
        write_nifti(tmp_path / "m.nii", stack, {})


# --- pictures ---------------------------------------------------------------------------------


def test_a_picture_lies_where_itk_puts_it(tmp_path: Path) -> None:
    PIL.Image.new("L", (12, 9)).save(tmp_path / "a.png")
    stack = open_stack(tmp_path / "a.png")
    mask = np.zeros((9, 12), bool)
    mask[2, 5:8] = True
    made = load(write_nifti(tmp_path / "m.nii.gz", stack, {0: mask}))
    assert made.shape == (12, 9)
    assert np.array_equal(np.asarray(made.dataobj).T > 0, mask)
    assert centroid_ras(made) == pytest.approx([-6, -2, 0])
    assert made.header["sform_code"] == 2
    assert made.header.get_xyzt_units()[0] == "unknown"


def test_a_side_that_nifti1_cannot_say_makes_nifti2(tmp_path: Path) -> None:
    PIL.Image.new("L", (32_768, 8)).save(tmp_path / "wide.png")
    stack = open_stack(tmp_path / "wide.png")
    mask = np.zeros((8, 32_768), bool)
    mask[3, -1] = True
    check_nifti(stack)
    made = load(write_nifti(tmp_path / "m.nii.gz", stack, {0: mask}))
    assert type(made) is nibabel.Nifti2Image
    assert np.array_equal(np.asarray(made.dataobj).T > 0, mask)
    assert centroid_ras(made) == pytest.approx([-32_767, -3, 0])
    assert made.header["sform_code"] == 2
    PIL.Image.new("L", (32_767, 8)).save(tmp_path / "less.png")
    path = write_nifti(tmp_path / "l.nii.gz", open_stack(tmp_path / "less.png"), {})
    assert type(load(path)) is nibabel.Nifti1Image


def test_the_spacing_of_a_picture_is_used(tmp_path: Path) -> None:
    header = base((9, 12), 1, PixelSpacing=[0.5, 0.25])
    stack = open_dicom(save(header, tmp_path / "a.dcm"))
    assert stack.read(0).spacing_mm == (0.5, 0.25)
    mask = np.zeros((9, 12), bool)
    mask[4, 8] = True
    made = load(write_nifti(tmp_path / "m.nii", stack, {0: mask}))
    assert centroid_ras(made) == pytest.approx([-2, -2, 0])
    assert made.header.get_zooms() == pytest.approx((0.25, 0.5))
    assert made.header.get_xyzt_units()[0] == "mm"
    assert not np.asarray(load(write_nifti(tmp_path / "e.nii", stack, {})).dataobj).any()


def test_frames_without_places_make_no_volume(tmp_path: Path) -> None:
    path = get_testdata_file("examples_ybr_color.dcm", download=False)
    assert isinstance(path, str)
    with pytest.raises(ImageError, match="its 30 images have no places in the patient"):
        write_nifti(tmp_path / "m.nii", open_dicom(path), {})
    with pytest.raises(ImageError, match="its 30 images have no places in the patient"):
        check_nifti(open_dicom(path))


# --- refusals ---------------------------------------------------------------------------------


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [(0, 0, 0), (0, 0, 2)])
    PIL.Image.new("L", (12, 9)).save(tmp_path / "a.png")
    series, picture = open_series(tmp_path / "in"), open_stack(tmp_path / "a.png")
    good = np.zeros((16, 20), bool)
    with pytest.raises(ImageError, match="no image 2 to put a mask into; there are 2"):
        write_nifti(tmp_path / "m.nii", series, {2: good})
    with pytest.raises(ImageError, match="no image -1"):
        write_nifti(tmp_path / "m.nii", series, {-1: good})
    with pytest.raises(ImageError, match=r"image 1 is bool \(20, 16\); it must be bool \(16, 20\)"):
        write_nifti(tmp_path / "m.nii", series, {1: good.T})
    with pytest.raises(ImageError, match=r"image 0 is uint8"):
        write_nifti(tmp_path / "m.nii", picture, {0: np.zeros((9, 12), np.uint8)})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"ends in \.nii or \.nii\.gz"):
        write_nifti(tmp_path / "m.img.gz", picture, {})
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(TextSAMError, match=r"m\.nii: the file cannot be written"):
        write_nifti(tmp_path / "file" / "m.nii", picture, {})


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL.Image.new("L", (12, 9)).save(tmp_path / "a.png")
    stack = open_stack(tmp_path / "a.png")
    monkeypatch.setattr(nifti_out, "find_spec", lambda name: None)
    with pytest.raises(TextSAMError, match=r"needs nibabel.*textsam\[medical\]"):
        write_nifti(tmp_path / "m.nii", stack, {})
    with pytest.raises(TextSAMError, match=r"a.png: writing NIfTI needs nibabel"):
        check_nifti(stack)
