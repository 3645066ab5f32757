"""Any source as a stack, by its content; and the one image of a source of one image."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from textsam.errors import ConfigError, ImageError, LimitError
from textsam.io.limits import Limits
from textsam.io.open import open_stack
from textsam.io.raster import read_image

VALUES = np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)


def picture(file_format: str, count: int = 1) -> bytes:
    stream = io.BytesIO()
    pages = [PIL.Image.fromarray(VALUES + number) for number in range(count)]
    options: dict[str, Any] = {} if count == 1 else {"save_all": True, "append_images": pages[1:]}
    pages[0].save(stream, format=file_format, **options)
    return stream.getvalue()


def volume(depth: int = 3) -> bytes:
    """The values, upright, in slices of an unplaced NIfTI volume."""
    values = np.repeat(VALUES[::-1].T[:, :, None], depth, axis=2)
    return bytes(nibabel.Nifti1Image(values, None).to_bytes())


def dicom(frames: int = 1, preamble: bool = True) -> bytes:
    data = pydicom.Dataset()
    data.file_meta = pydicom.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = VALUES.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    if frames > 1:
        data.NumberOfFrames = frames
    data.PixelData = VALUES.tobytes() * frames
    stream = io.BytesIO()
    if preamble:
        data.save_as(stream, enforce_file_format=True)
    else:
        data.save_as(stream, implicit_vr=False, little_endian=True)
        whole = stream.getvalue()
        assert whole[128:132] != b"DICM"
    return stream.getvalue()


SOURCES = {
    "png": (picture("PNG"), "raster", 1),
    "bmp": (picture("BMP"), "raster", 1),
    "tif": (picture("TIFF"), "raster", 1),
    "pages.tif": (picture("TIFF", 3), "raster", 3),
    "nii": (volume(), "nifti", 3),
    "nii.gz": (gzip.compress(volume()), "nifti", 3),
    "dcm": (dicom(), "dicom", 1),
    "frames.dcm": (dicom(3), "dicom", 3),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", ["a", "a.png", "a.nii", "a.dcm", "a.txt"])
def test_content_decides_and_the_name_does_not(kind: str, name: str, tmp_path: Path) -> None:
    data, expected, count = SOURCES[kind]
    path = tmp_path / name
    path.write_bytes(data)
    stack = open_stack(path)
    assert (stack.format, len(stack), stack.source) == (expected, count, str(path))
    last = stack[count - 1]
    assert last.size_px == (12, 10)
    assert last.placement is not None
    assert last.placement.index == count - 1
    shown = np.asarray(last.pixels[..., 0], dtype=np.float64)
    if expected == "dicom":
        # Its own rules scale it; tests/test_dicom*.py have them.
        assert np.corrcoef(shown.ravel(), VALUES.ravel())[0, 1] > 0.99
    else:
        assert np.array_equal(shown, VALUES + (2 if kind == "pages.tif" else 0))


def test_a_text_path_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    assert open_stack(str(tmp_path / "a.png")).source == str(tmp_path / "a.png")


def test_options_reach_their_format_and_are_ignored_by_others(tmp_path: Path) -> None:
    for kind, (data, _, count) in SOURCES.items():
        path = tmp_path / f"a.{kind}"
        path.write_bytes(data)
        stack = open_stack(path, axis=0 if "nii" not in kind else 2, window=0, crop=False)
        assert len(stack) == count
    values = np.zeros((8, 9, 10), np.uint8)
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "v.nii")
    assert [len(open_stack(tmp_path / "v.nii", axis=axis)) for axis in (0, 1, 2)] == [8, 9, 10]
    with pytest.raises(ConfigError, match="must be 0, 1 or 2"):
        open_stack(tmp_path / "v.nii", axis=3)


@pytest.mark.parametrize("kind", SOURCES)
def test_limits_reach_every_format(kind: str, tmp_path: Path) -> None:
    data, _, count = SOURCES[kind]
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(LimitError, match=r"bytes, the limit is.*raise max_bytes \(--max-bytes\)"):
        open_stack(path, limits=Limits(max_bytes=len(data) - 1))
    with pytest.raises(LimitError, match=r"120 pixels.*max_pixels=\.\.\. \(--max-pixels\)"):
        open_stack(path, limits=Limits(max_pixels=119))[0]
    if count > 1:
        with pytest.raises(LimitError, match="images, the limit is 2"):
            open_stack(path, limits=Limits(max_images=2))


def test_a_folder_is_a_dicom_series(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom())
    stack = open_stack(tmp_path)
    assert (stack.format, len(stack)) == ("dicom", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError):
        open_stack(tmp_path / "empty")


def test_dicom_without_a_preamble_has_no_signature_but_its_name_helps(tmp_path: Path) -> None:
    for name in ("a.dcm", "A.DCM", "a.ima"):
        (tmp_path / name).write_bytes(dicom(preamble=False))
        with pytest.raises(ImageError, match="export it again as a DICOM Part 10 file"):
            open_stack(tmp_path / name)
    (tmp_path / "a.bin").write_bytes(dicom(preamble=False))
    with pytest.raises(ImageError, match="not an image that can be read here"):
        open_stack(tmp_path / "a.bin")


def test_gzip_of_something_else_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(dicom()))
    with pytest.raises(ImageError, match=r"gzip file that holds dicom.*gunzip"):
        open_stack(path)
    path.write_bytes(gzip.compress(b"text"))
    with pytest.raises(ImageError, match="holds no image"):
        open_stack(path)
    path.write_bytes(b"\x1f\x8b")
    with pytest.raises(ImageError, match="truncated"):
        open_stack(path)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "empty"),
        ("https://example.org/a.png", "download"),
        ("a\0b.png", "not a usable path"),
        ("x" * 5000, "not a usable path"),
        ("no such file", "there is no such file"),
        (b"a.png", "os.fsdecode"),
    ],
)
def test_unusable_paths(path: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        open_stack(path)


# --- read_image -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "tif", "dcm", "nii", "nii.gz"])
def test_read_image_takes_any_source_of_one_image(kind: str, tmp_path: Path) -> None:
    data = SOURCES[kind][0]
    if "nii" in kind:
        data = volume(1) if kind == "nii" else gzip.compress(volume(1))
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data)
    image = read_image(path)
    assert np.array_equal(image.pixels, open_stack(path)[0].pixels)
    assert image.source == str(path)


@pytest.mark.parametrize("kind", ["pages.tif", "frames.dcm", "nii", "nii.gz"])
def test_read_image_of_several_says_how_to_choose(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(SOURCES[kind][0])
    with pytest.raises(
        ImageError, match=r"\(3\).*textsam\.io\.open\.open_stack\(path\)\[0\].*--frame"
    ) as caught:
        read_image(path)
    # What does not apply is not advised.
    assert ("--axis" in str(caught.value)) == ("nii" in kind)
    assert ("PIL.Image.open" in str(caught.value)) == (kind == "pages.tif")


def test_read_image_keeps_place_and_spacing(tmp_path: Path) -> None:
    values = np.zeros((9, 10, 1), np.uint8)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    nibabel.Nifti1Image(values, affine).to_filename(tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    assert image.spacing_mm == (3.0, 2.0)
    assert image.placement is not None
    assert image.placement.to_patient_mm(8, 9) == (0.0, 0.0, 0.0)


def test_a_file_that_came_with_pydicom() -> None:
    path = get_testdata_file("CT_small.dcm", download=False)
    assert path is not None
    image = read_image(str(path))
    assert image.size_px == (128, 128)
    assert image.spacing_mm == pytest.approx((0.661468, 0.661468))


# --- anything at all ------------------------------------------------------------------------------


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    start=st.sampled_from(
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"BM",
            b"II*\0",
            b"II+\0\x08\0\0\0",
            b"\x1f\x8b\x08\0",
            bytes(128) + b"DICM",
            b"\x5c\x01\0\0" + bytes(340) + b"n+1\0",
        ]
    ),
    rest=st.binary(max_size=400),
    name=st.sampled_from(["a.png", "a.dcm", "a.nii.gz", "a"]),
)
def test_arbitrary_bytes_raise_imageerror_or_give_an_image(
    start: bytes, rest: bytes, name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes((start + rest) or b"\0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            stack = open_stack(path, limits=Limits(max_pixels=1_000_000))
            image = stack[0]
        except ImageError:
            return
    assert image.pixels.shape[2] == 3
