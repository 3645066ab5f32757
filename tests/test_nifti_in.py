"""NIfTI in: which voxel each pixel shows, where it is in the patient, and which value it gets."""

from __future__ import annotations

import gzip
import os
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from textsam.errors import ConfigError, ImageError, LimitError
from textsam.io.gzipped import TRAILING_BYTES
from textsam.io.limits import Limits
from textsam.io.nifti import NiftiStack, open_nifti

RAS = np.eye(4)
IN_TMP = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(
    path: Path,
    values: NDArray[Any],
    affine: NDArray[np.float64] | None = RAS,
    *,
    kind: Any = nibabel.Nifti1Image,
    order: str = "<",
    units: str = "mm",
    **fields: Any,
) -> Path:
    """A file of `values` as they are (no scaling unless asked for), with header fields set."""
    header = kind.header_class(endianness=order)
    header.set_data_dtype(values.dtype)
    image = kind(values, affine, header)
    image.header.set_xyzt_units(units)
    for name, value in fields.items():
        image.header[name] = value
    image.to_filename(path)
    if not {"scl_slope", "scl_inter"}.isdisjoint(fields):
        # nibabel writes these two itself; they are where nifti1.h has them.
        assert path.suffix == ".nii"
        assert kind is nibabel.Nifti1Image
        data = bytearray(path.read_bytes())
        data[112:120] = struct.pack(
            f"{order}ff", fields.get("scl_slope", 1.0), fields.get("scl_inter", 0.0)
        )
        path.write_bytes(data)
    return path


def numbered(shape: tuple[int, ...], dtype: str = "int16") -> NDArray[Any]:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


def grey(stack: NiftiStack) -> NDArray[Any]:
    return np.stack([image.pixels[..., 0] for image in stack])


# --- which voxel, and where -----------------------------------------------------------------------


@st.composite
def affines(draw: st.DrawFn) -> NDArray[np.float64]:
    """Any placement: axes in any order and direction, turned a little or a lot, any zooms."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
    zooms = draw(st.lists(st.floats(0.1, 9.0), min_size=3, max_size=3))
    axis = np.array(draw(st.tuples(st.floats(1, 3), st.floats(-1, 1), st.floats(-1, 1))))
    angle = draw(st.floats(0.0, 3.1))
    axis /= np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = turn @ (np.eye(3)[:, order] * signs) * zooms
    affine[:3, 3] = draw(st.lists(st.floats(-300, 300), min_size=3, max_size=3))
    return affine


@IN_TMP
@given(
    affine=affines(),
    shape=st.tuples(*[st.integers(8, 11)] * 3),
    axis=st.integers(0, 2),
    seed=st.integers(0, 1000),
    kind=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)
def test_pixels_masks_and_places_agree_with_nibabel(
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    axis: int,
    seed: int,
    kind: Any,
    suffix: str,
    tmp_path: Path,
) -> None:
    path = write(tmp_path / f"v{suffix}", numbered(shape), affine, kind=kind)
    reference = nibabel.load(path)
    stack = open_nifti(path, axis=axis)
    assert (stack.axis, len(stack), stack.format) == (axis, shape[axis], "nifti")
    rng = np.random.default_rng(seed)
    index = int(rng.integers(len(stack)))
    image = stack[index]
    x, y = int(rng.integers(image.width)), int(rng.integers(image.height))
    mask = np.zeros(image.size_px, dtype=bool)
    mask[y, x] = True
    volume = stack.to_volume({index: mask})
    assert volume.shape == shape
    ((*voxel,),) = np.argwhere(volume)
    assert voxel[axis] == index
    # Voxels are numbered, so the value says which one is shown.
    expected = reference.get_fdata()[tuple(voxel)] / (np.prod(shape) - 1) * 255
    assert image.pixels[y, x, 0] == pytest.approx(expected, abs=1e-3)
    right, front, head = apply_affine(reference.affine, voxel)
    assert image.placement is not None
    assert image.placement.index == index
    assert image.placement.to_patient_mm(x, y) == pytest.approx((-right, -front, head), abs=1e-4)
    # Neighbours are spacing_mm apart.
    here = np.array(image.placement.to_patient_mm(0, 0))
    down, across = (
        np.linalg.norm(np.array(image.placement.to_patient_mm(*step)) - here)
        for step in ((0, 1), (1, 0))
    )
    assert image.spacing_mm == pytest.approx((down, across))
    assert sorted([*image.spacing_mm, nibabel.affines.voxel_sizes(reference.affine)[axis]]) == (
        pytest.approx(sorted(reference.header.get_zooms()), rel=1e-5)
    )


@IN_TMP
@given(affine=affines(), axis=st.integers(0, 2), seed=st.integers(0, 1000))
def test_masks_of_all_images_come_back_as_the_volume(
    affine: NDArray[np.float64], axis: int, seed: int, tmp_path: Path
) -> None:
    volume = np.random.default_rng(seed).random((8, 9, 10)) > 0.5
    stack = open_nifti(write(tmp_path / "v.nii", volume.astype(np.uint8), affine), axis=axis)
    masks = {index: stack[index].pixels[..., 0] == 1 for index in range(len(stack))}
    assert np.array_equal(stack.to_volume(masks), volume)


@IN_TMP
@given(affine=affines(), axis=st.integers(0, 2))
def test_images_are_laid_out_as_radiology_shows_them(
    affine: NDArray[np.float64], axis: int, tmp_path: Path
) -> None:
    image = open_nifti(write(tmp_path / "v.nii", numbered((9, 9, 9)), affine), axis=axis)[0]
    assert image.placement is not None
    assert image.placement.affine_mm is not None
    stored = nibabel.load(tmp_path / "v.nii").affine
    named = nibabel.aff2axcodes(stored)
    right, down = image.placement.affine_mm[:3, 0], image.placement.affine_mm[:3, 1]
    # (left, back, head): the number of the patient's axis each voxel axis is closest to.
    number = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}
    here = sorted(number[name] for at, name in enumerate(named) if at != axis)
    assert right[here[0]] > 0
    assert down[here[1]] * (-1 if here[1] == 2 else 1) > 0


def test_a_ras_volume_by_hand(tmp_path: Path) -> None:
    # RAS: i to the right, j to the front, k to the head. One marked voxel per direction.
    values = np.zeros((10, 12, 14), np.uint8)
    values[9, 0, 13] = 200  # right, back, head
    path = write(tmp_path / "v.nii", values)
    axial, sagittal, coronal = (open_nifti(path, axis=axis) for axis in (2, 0, 1))
    # Axial, seen from the feet: the patient's right is at the left, the back at the bottom.
    assert axial[13].size_px == (12, 10)
    assert np.argwhere(axial[13].pixels[..., 0]).tolist() == [[11, 0]]
    # Sagittal: front at the left, head at the top.
    assert sagittal[9].size_px == (14, 12)
    assert np.argwhere(sagittal[9].pixels[..., 0]).tolist() == [[0, 11]]
    # Coronal: right at the left, head at the top.
    assert coronal[0].size_px == (14, 10)
    assert np.argwhere(coronal[0].pixels[..., 0]).tolist() == [[0, 0]]


def test_qform_is_used_where_there_is_no_sform(tmp_path: Path) -> None:
    turned = np.array([[0, -2.0, 0, 5], [3.0, 0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(numbered((8, 9, 10)), None)
    image.set_qform(turned, code=1)
    image.to_filename(tmp_path / "v.nii")
    stack = open_nifti(tmp_path / "v.nii")
    assert stack.header.affine_mm == pytest.approx(turned, abs=1e-5)
    image.set_sform(RAS, code=2)
    image.to_filename(tmp_path / "v.nii")
    assert open_nifti(tmp_path / "v.nii").header.affine_mm == pytest.approx(RAS)


def test_unplaced_files_have_spacing_but_no_place_and_analyze_orientation(tmp_path: Path) -> None:
    values = np.zeros((10, 12, 14), np.uint8)
    values[0, 0, 0] = 200
    path = write(tmp_path / "v.nii", values, None, pixdim=[1, 2, 3, 4, 0, 0, 0, 0])
    image = open_nifti(path)[0]
    assert image.placement is not None
    assert image.placement.affine_mm is None
    assert image.spacing_mm == (3.0, 2.0)
    # i runs to the patient's left and so to the right of the picture, j to the front: up.
    assert np.argwhere(image.pixels[..., 0]).tolist() == [[11, 0]]
    path = write(tmp_path / "v.nii", values, None, pixdim=[1, 0, 3, 4, 0, 0, 0, 0])
    assert open_nifti(path)[0].spacing_mm is None


@pytest.mark.parametrize(
    ("units", "factor"), [("unknown", 1.0), ("mm", 1.0), ("meter", 1000.0), ("micron", 0.001)]
)
@pytest.mark.parametrize("placed", [True, False])
def test_units_of_length(units: str, factor: float, placed: bool, tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[0, 3] = 10.0
    path = write(
        tmp_path / "v.nii",
        numbered((8, 9, 10)),
        affine if placed else None,
        units=units,
        pixdim=[1, 2, 3, 4, 0, 0, 0, 0],
    )
    image = open_nifti(path)[0]
    assert image.spacing_mm == pytest.approx((3 * factor, 2 * factor))
    assert image.placement is not None
    place = image.placement.to_patient_mm(image.width - 1, 0)
    assert (place is not None) == placed
    if place is not None:
        # The last column is voxel 0 of a RAS volume.
        assert place[0] == pytest.approx(-10 * factor)


def test_an_undefined_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="unit of length is 5"):
        open_nifti(write(tmp_path / "v.nii", numbered((8, 9, 10)), xyzt_units=5))


@pytest.mark.parametrize(
    ("shape", "axis", "count", "size"),
    [
        ((10, 12), 2, 1, (12, 10)),
        ((10, 12, 1), 2, 1, (12, 10)),
        ((1, 10, 12), 0, 1, (12, 10)),
        ((10, 1, 12), 1, 1, (12, 10)),
        ((10, 12, 8), 2, 8, (12, 10)),
        ((10, 12, 8, 1), 2, 8, (12, 10)),
        ((10, 12, 8, 1, 1), 2, 8, (12, 10)),
    ],
)
def test_default_axis_and_trailing_ones(
    shape: tuple[int, ...], axis: int, count: int, size: tuple[int, int], tmp_path: Path
) -> None:
    values = numbered(shape, "float32")
    stack = open_nifti(write(tmp_path / "v.nii", values))
    assert (stack.axis, len(stack), stack[0].size_px) == (axis, count, size)
    masks = {n: stack[n].pixels[..., 0] > 100 for n in range(count)}
    volume = stack.to_volume(masks)
    assert volume.shape == shape
    assert np.array_equal(volume, values / values.max() * 255 > 100)


def test_several_volumes_are_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", numbered((10, 12, 8, 2)))
    with pytest.raises(ImageError, match=r"2 volumes.*slicer\[:, :, :, 0\]"):
        open_nifti(path)
    nibabel.save(nibabel.load(path).slicer[:, :, :, 0], tmp_path / "one.nii.gz")
    assert len(open_nifti(tmp_path / "one.nii.gz")) == 8


@pytest.mark.parametrize("axis", [3, -1, True, 1.5, 1.0, "0"])
def test_an_axis_that_cannot_be(axis: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", numbered((9, 9, 9)))
    with pytest.raises(ConfigError, match="must be 0, 1 or 2"):
        open_nifti(path, axis=axis)


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    stack = open_nifti(write(tmp_path / "v.nii", numbered((9, 10, 11))))
    with pytest.raises(ImageError, match=r"no image 11 .* there are 11"):
        stack.to_volume({11: np.zeros((10, 9), bool)})
    with pytest.raises(ImageError, match=r"must be bool \(10, 9\)"):
        stack.to_volume({0: np.zeros((9, 10), bool)})
    with pytest.raises(ImageError, match="uint8"):
        stack.to_volume({0: np.zeros((10, 9), np.uint8)})  # type: ignore[dict-item]


# --- values ---------------------------------------------------------------------------------------

TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_type_in_either_byte_order(
    dtype: str, order: str, suffix: str, tmp_path: Path
) -> None:
    low = 0 if dtype[0] == "u" else -100
    values = np.linspace(low, 120, 9 * 10 * 8).reshape(9, 10, 8).astype(dtype)
    path = write(tmp_path / f"v{suffix}", values, order=order)
    shown = grey(open_nifti(path)).astype(np.float64)
    if dtype == "u1":
        expected = values.astype(np.float64)
    else:
        expected = (values.astype(np.float64) - values.min()) / np.ptp(values.astype("f8")) * 255
    # RAS: both directions of an axial slice are turned.
    np.testing.assert_allclose(shown, expected.transpose(2, 1, 0)[:, ::-1, ::-1], atol=1e-3)


def test_one_scale_for_all_slices(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 3), np.int16)
    values[:, :, 1], values[:, :, 2] = 500, 1000
    assert [int(i.pixels.max()) for i in open_nifti(write(tmp_path / "v.nii", values))] == [
        0,
        127,
        255,
    ]


def test_floats_within_0_and_1_and_constant_volumes(tmp_path: Path) -> None:
    half = np.full((8, 8, 8), 0.5, np.float32)
    assert (open_nifti(write(tmp_path / "v.nii", half))[0].pixels == 127.5).all()
    flat = np.full((8, 8, 8), 7, np.int16)
    assert (open_nifti(write(tmp_path / "v.nii", flat))[0].pixels == 0).all()


@pytest.mark.parametrize("slope", [2.0, -0.5, 1.0])
def test_scaling_is_applied(slope: float, tmp_path: Path) -> None:
    values = numbered((8, 8, 8))
    path = write(tmp_path / "v.nii", values, scl_slope=slope, scl_inter=-100.0)
    true = values * slope - 100.0
    assert np.array_equal(nibabel.load(path).get_fdata(), true)
    expected = (true - true.min()) / np.ptp(true) * 255
    shown = grey(open_nifti(path))
    np.testing.assert_allclose(shown, expected.transpose(2, 1, 0)[:, ::-1, ::-1], atol=1e-3)


def test_scaled_bytes_are_stretched_and_bytes_of_parts_are_not(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 8), np.uint8)
    values[0] = 100
    path = write(tmp_path / "v.nii", values, scl_slope=2.0)
    assert grey(open_nifti(path)).max() == 255
    # True values 0 to 1/2.55: shares of one.
    path = write(tmp_path / "v.nii", values, scl_slope=1 / 255)
    assert grey(open_nifti(path)).max() == pytest.approx(100, abs=1e-4)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_slope_of_0_says_that_there_is_no_scaling(slope: float, tmp_path: Path) -> None:
    values = np.full((8, 8, 8), 9, np.uint8)
    path = write(tmp_path / "v.nii", values, scl_slope=slope, scl_inter=3.0)
    assert (grey(open_nifti(path)) == 9).all()


def test_impossible_scaling_is_refused(tmp_path: Path) -> None:
    values = numbered((8, 8, 8))
    path = write(tmp_path / "v.nii", values, scl_slope=2.0, scl_inter=float("inf"))
    with pytest.raises(ImageError, match="adds inf"):
        open_nifti(path)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_the_display_range_counts_where_there_is_one(dtype: str, tmp_path: Path) -> None:
    values = np.zeros((8, 8, 8), dtype)
    values[0], values[1], values[2] = 20, 60, 120
    path = write(tmp_path / "v.nii", values, cal_min=20.0, cal_max=100.0)
    shown = grey(open_nifti(path, axis=0))
    assert [float(image.max()) for image in shown[:4]] == [0.0, 127.5, 255.0, 0.0]
    path = write(tmp_path / "v.nii", values, cal_min=100.0, cal_max=20.0)
    assert float(grey(open_nifti(path)).max()) == (120 if dtype == "uint8" else 255)


def test_nan_is_black_and_infinity_refused(tmp_path: Path) -> None:
    values = np.linspace(-4, 6, 8**3).reshape(8, 8, 8).astype(np.float32)
    values[0] = np.nan
    stack = open_nifti(write(tmp_path / "v.nii", values), axis=0)
    assert (stack[0].pixels == 0).all()
    low, high = np.nanmin(values), np.nanmax(values)
    assert stack[4].pixels.max() == pytest.approx((values[4].max() - low) / (high - low) * 255)
    values[3, 2, 1] = np.inf
    with pytest.raises(ImageError, match="inf"):
        open_nifti(write(tmp_path / "v.nii", values), axis=0)[0]
    # With a display range the volume is not passed over, and the damage is that slice's alone.
    path = write(tmp_path / "v.nii", values, cal_min=0.0, cal_max=1.0)
    stack = open_nifti(path, axis=0)
    assert stack[4].pixels.max() == 255
    with pytest.raises(ImageError, match="slice 3: 1 values are infinite"):
        stack[3]
    with pytest.raises(ImageError, match="every voxel is NaN"):
        open_nifti(write(tmp_path / "v.nii", np.full((8, 8, 8), np.nan, np.float32)))[0]


def test_the_widest_range_there_is(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 8))
    values[0], values[1] = np.finfo(np.float64).max, np.finfo(np.float64).min
    shown = grey(open_nifti(write(tmp_path / "v.nii", values), axis=0))
    assert [float(image.max()) for image in shown[:3]] == [255.0, 0.0, 127.5]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_colour(suffix: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 10, 8, 3), dtype=np.uint8)
    packed = values.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    stack = open_nifti(write(tmp_path / f"v{suffix}", packed))
    assert stack[5].pixels.dtype == np.uint8
    assert np.array_equal(stack[5].pixels, values[:, :, 5].transpose(1, 0, 2)[::-1, ::-1])
    alpha = np.concatenate([values, np.full((9, 10, 8, 1), 255, np.uint8)], axis=3)
    packed = alpha.view([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])[..., 0]
    stack = open_nifti(write(tmp_path / f"v{suffix}", packed))
    assert np.array_equal(stack[5].pixels, values[:, :, 5].transpose(1, 0, 2)[::-1, ::-1])


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_values_are_refused(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="complex"):
        open_nifti(write(tmp_path / "v.nii", numbered((8, 8, 8), dtype)))


# --- files that are not what they say -------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_shorter_than_its_header_says(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", numbered((8, 9, 10)))
    data = path.read_bytes()[:-1]
    path = tmp_path / f"v{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    with pytest.raises(ImageError, match="shorter than its header says"):
        open_nifti(path)[0]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_padding_is_tolerated_and_a_file_far_too_long_is_not(suffix: str, tmp_path: Path) -> None:
    whole = write(tmp_path / "v.nii", numbered((8, 9, 10))).read_bytes()
    path = tmp_path / f"v{suffix}"
    for extra, accepted in ((TRAILING_BYTES, True), (TRAILING_BYTES + 1, False)):
        data = whole + bytes(extra)
        path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
        if accepted:
            assert open_nifti(path)[9].pixels.max() == 255
        else:
            with pytest.raises(ImageError, match="the header or the file is damaged"):
                open_nifti(path)[0]


def test_extensions_are_passed_over(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(numbered((8, 9, 10)), RAS)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    image.to_filename(tmp_path / "v.nii.gz")
    stack = open_nifti(tmp_path / "v.nii.gz")
    assert stack.header.data_offset > 5000
    assert stack[9].pixels.max() == 255
    assert stack[0].pixels.min() == 0


def test_damaged_and_truncated_gzip(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (16, 16, 16)).astype(np.int16)
    whole = write(tmp_path / "v.nii.gz", values).read_bytes()
    path = tmp_path / "bad.nii.gz"
    for cut in (200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ImageError, match="truncated"):
            open_nifti(path)[0]
    # One bit of the checksum at the end: all values are there, but they may be other ones.
    damaged = bytearray(whole)
    damaged[-6] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ImageError, match="gzip data is damaged"):
        open_nifti(path)[0]
    path.write_bytes(whole + b"rubbish")
    with pytest.raises(ImageError, match="gzip data is damaged"):
        open_nifti(path)[0]


def test_gzip_in_several_parts_with_padding(tmp_path: Path) -> None:
    data = write(tmp_path / "v.nii", numbered((8, 9, 10))).read_bytes()
    parts = [gzip.compress(data[:400]), gzip.compress(b""), gzip.compress(data[400:])]
    path = tmp_path / "v.nii.gz"
    path.write_bytes(b"".join(parts) + bytes(100_000))
    assert open_nifti(path)[9].pixels.max() == 255
    path.write_bytes(gzip.compress(data[:500]) + gzip.compress(b"") * 2000)
    with pytest.raises(ImageError, match="empty parts"):
        open_nifti(path)[0]


def bomb(path: Path, shape: tuple[int, int, int], size: int) -> Path:
    """A small file that inflates to `size` bytes, with a header for a volume of `shape`."""
    header = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.uint8), RAS).to_bytes()[:352]
    header = header[:42] + struct.pack("<3h", *shape) + header[48:]
    packer = zlib.compressobj(9, wbits=31)
    blank = bytes(1 << 20)
    with path.open("wb") as stream:
        stream.write(packer.compress(header))
        for _ in range(size >> 20):
            stream.write(packer.compress(blank))
        stream.write(packer.flush())
    return path


def test_a_gzip_bomb_costs_no_more_than_its_header_announces(tmp_path: Path) -> None:
    path = bomb(tmp_path / "v.nii.gz", (64, 64, 8), 200 << 20)
    assert path.stat().st_size < 300_000
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="inflates beyond the 33,120 bytes"):
            open_nifti(path)[0]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_bomb_whose_header_is_as_large_is_refused_before_it_inflates(tmp_path: Path) -> None:
    path = bomb(tmp_path / "v.nii.gz", (1024, 1024, 64), 64 << 20)
    with pytest.raises(LimitError, match="67,109,216 bytes at once"):
        open_nifti(path, limits=Limits(max_inflated_bytes=60 << 20))
    # Announced sizes that no gzip file of this size can hold are refused without memory either.
    path = bomb(tmp_path / "v.nii.gz", (1024, 1024, 512), 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="cannot come of"):
            open_nifti(path)[0]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="counts pages in memory as Linux does")
def test_a_slice_of_a_plain_file_costs_that_slice(tmp_path: Path) -> None:
    # 4 GB of zeros that take no room on disk; a display range spares the pass over the values.
    path = write(tmp_path / "v.nii", numbered((8, 8, 8)), cal_min=0.0, cal_max=1.0)
    data = path.read_bytes()[:352]
    path.write_bytes(data[:42] + struct.pack("<3h", 1024, 1024, 2048) + data[48:])
    with path.open("r+b") as stream:
        stream.truncate(352 + 2 * 1024 * 1024 * 2048)
    stack = open_nifti(path)
    tracemalloc.start()
    try:
        assert (stack[2000].pixels == 0).all()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(stack) == 2048
    assert peak < 100 << 20


def test_limits_on_images_and_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", numbered((8, 9, 10)))
    with pytest.raises(LimitError, match="10 images, the limit is 9"):
        open_nifti(path, limits=Limits(max_images=9))
    with pytest.raises(LimitError, match="72 pixels"):
        open_nifti(path, limits=Limits(max_pixels=71))
    with pytest.raises(ImageError, match="7 columns"):
        open_nifti(write(tmp_path / "v.nii", numbered((7, 9, 10))))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dim": [0, 8, 9, 10, 1, 1, 1, 1]}, "dimensions .* are damaged"),
        ({"dim": [8, 8, 9, 10, 1, 1, 1, 1]}, "dimensions .* are damaged"),
        ({"dim": [3, 8, -9, 10, 1, 1, 1, 1]}, "dimensions .* are damaged"),
        ({"dim": [3, 8, 0, 10, 1, 1, 1, 1]}, "dimensions .* are damaged"),
        ({"dim": [1, 720, 1, 1, 1, 1, 1, 1]}, "no image"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "limit"),
        ({"datatype": 99}, "type 99 .unknown"),
        ({"datatype": 1}, "one bit"),
        ({"datatype": 1536}, "128-bit"),
        ({"vox_offset": 100}, "start at byte 100"),
        ({"vox_offset": 352.5}, "start at byte 352.5"),
        ({"vox_offset": float("nan")}, "start at byte nan"),
        ({"vox_offset": 1e30}, "start at byte 1e.30"),
        ({"vox_offset": 1e9}, "shorter"),
        ({"srow_x": [0, 0, 0, 0]}, "sform.*sform_code to 0"),
        ({"srow_x": [float("nan"), 0, 0, 0]}, "sform.*damaged"),
        ({"srow_x": [1e30, 0, 0, 0]}, "sform.*damaged"),
        ({"srow_x": [1e-30, 0, 0, 0]}, "sform.*damaged"),
        ({"srow_x": [1, 0, 0, 1e12]}, "sform.*damaged"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 2.0}, "qform.*damaged"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, 1, -1, 1, 0, 0, 0, 0]}, "qform.*damaged"),
        ({"sform_code": 0, "qform_code": 1, "qoffset_x": float("inf")}, "qform.*damaged"),
        ({"sizeof_hdr": 0}, "gives its size as 0"),
        ({"sizeof_hdr": 540}, "damaged"),
        ({"magic": b"ni1"}, r"a NIfTI pair.*a\.nii\.gz"),
        ({"magic": b"abc"}, "damaged"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_headers_that_cannot_be(
    fields: dict[str, Any], words: str, order: str, tmp_path: Path
) -> None:
    image = nibabel.Nifti1Image(
        numbered((8, 9, 10)), RAS, nibabel.Nifti1Header(endianness=order, check=False)
    )
    path = tmp_path / "v.nii"
    image.to_filename(path)
    header = nibabel.Nifti1Header(path.read_bytes()[:348], order, check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    with pytest.raises(ImageError, match=words):
        open_nifti(path)[0]


def test_vox_offset_0_means_right_after_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", numbered((8, 9, 10)))
    data = bytearray(path.read_bytes())
    data[108:112] = bytes(4)
    path.write_bytes(data)
    assert open_nifti(path)[9].pixels.max() == 255


def test_nifti_2_mangled_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", numbered((8, 9, 10)), kind=nibabel.Nifti2Image)
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n", 1) + b"\0")
    with pytest.raises(ImageError, match="as by a transfer as text"):
        open_nifti(path)


def test_a_file_cut_after_it_was_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", numbered((8, 9, 10)))
    stack = open_nifti(path)
    os.truncate(path, 400)
    with pytest.raises(ImageError, match="was it changed or removed"):
        stack[0]


def test_without_nibabel_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "v.nii", numbered((8, 9, 10)))
    for name in ("nibabel", "nibabel.nifti1", "nibabel.nifti2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImageError, match=r'pip install "textsam\[medical\]"'):
        open_nifti(path)


# --- nibabel's own files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "axis", "count", "size", "spacing_mm"),
    [
        ("anatomical.nii", None, 25, (41, 33), (2.0, 2.0)),
        ("anatomical.nii", 0, 33, (25, 41), (2.0, 2.0)),
        ("reoriented_anat_moved.nii", None, 22, (26, 21), (4.0, 4.0)),
        ("reoriented_anat_moved.nii", 1, 26, (22, 21), (4.0, 4.0)),
    ],
)
def test_files_that_came_from_scanners(
    name: str,
    axis: int | None,
    count: int,
    size: tuple[int, int],
    spacing_mm: tuple[float, float],
) -> None:
    path = Path(nibabel.__file__).parent / "tests" / "data" / name
    stack = open_nifti(path, axis=axis)
    assert len(stack) == count
    data = nibabel.load(path).get_fdata()
    shown = grey(stack)
    assert shown.shape == (count, *size)
    assert stack[0].spacing_mm == pytest.approx(spacing_mm, rel=1e-6)
    # Both files run to the front and to the head, which the picture shows upwards.
    assert np.sort(shown.ravel()) == pytest.approx(
        np.sort((data - data.min()).ravel() / np.ptp(data) * 255), abs=1e-3
    )
    masks = {n: image > 60 for n, image in enumerate(shown)}
    assert np.array_equal(
        stack.to_volume(masks), ((data - data.min()) / np.ptp(data) * 255).astype("f4") > 60
    )
