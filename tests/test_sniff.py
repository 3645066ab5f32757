"""What a file is, by its first bytes."""

from __future__ import annotations

import gzip
import io
import struct

import nibabel
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_house import fresh_python

from textsam.io.sniff import HEAD_BYTES, sniff


def picture(file_format: str) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (9, 9)).save(stream, format=file_format)
    return stream.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_pictures_as_pillow_writes_them(file_format: str) -> None:
    assert sniff(picture(file_format)) == file_format.lower()
    assert sniff(picture(file_format)[:HEAD_BYTES]) == file_format.lower()


@pytest.mark.parametrize("start", [b"II*\0", b"MM\0*", b"II+\0\x08\0", b"MM\0+\0\x08"])
def test_tiff_and_bigtiff_in_either_byte_order(start: bytes) -> None:
    assert sniff(start) == "tiff"


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_and_nifti_in_gzip(kind: type[nibabel.Nifti1Image], order: str) -> None:
    header = kind.header_class(endianness=order)
    data = kind(np.zeros((8, 8, 2), np.int16), np.eye(4), header).to_bytes()
    assert sniff(data[:HEAD_BYTES]) == "nifti"
    assert sniff(gzip.compress(data)) == "gzip"


def test_the_header_of_a_pair_is_nifti_too() -> None:
    assert sniff(bytes(344) + b"ni1\0") == "nifti"
    assert sniff(struct.pack("<i", 540) + b"ni2\0\r\n\x1a\n") == "nifti"


def test_dicom_whatever_its_preamble_holds() -> None:
    for preamble in (bytes(128), b"II*\0".ljust(128), picture("PNG")[:128].ljust(128)):
        assert sniff(preamble + b"DICM" + bytes(100)) == "dicom"
    # Without a preamble there is no signature: group 8, element 5.
    assert sniff(b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + bytes(200)) is None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"B",
        b"GIF89a" + bytes(400),
        b"BMW is not a picture, however long its text goes on",
        b"%PDF-1.7",
        bytes(127) + b"DICM",
        bytes(345) + b"n+1\0",
        bytes(1000),
    ],
)
def test_everything_else_is_none(head: bytes) -> None:
    assert sniff(head) is None


@given(st.binary(max_size=600))
def test_any_bytes_have_an_answer_that_the_head_alone_decides(data: bytes) -> None:
    assert sniff(data) == sniff(data[:HEAD_BYTES])
    assert sniff(data) in (None, "png", "jpeg", "bmp", "tiff", "nifti", "gzip", "dicom")


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, textsam.io.sniff; print([m for m in ('numpy', 'PIL') if m in sys.modules])"
    assert fresh_python(code).strip() == "[]"
