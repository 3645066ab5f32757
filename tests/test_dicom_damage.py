"""DICOM files that lie, end early, swell, or are of another kind: ImageError, soon and cheaply."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom.filereader
import pytest
from dicom_files import bundled, make, ramp, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.pixels.decoders import base
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from textsam.errors import ImageError, LimitError
from textsam.io.dicom import NoPictureError, open_dicom, open_series
from textsam.io.limits import Limits

PIXELS = ramp(8, 16, np.uint8)


@contextmanager
def cheap(most_bytes: int = 8_000_000, most_seconds: float = 5.0) -> Iterator[None]:
    """The block takes little time and memory; arrays of numpy are counted."""
    open_dicom(bundled("MR_small.dcm")).read(0)  # imports are not counted
    began = time.process_time()
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most_bytes
    assert time.process_time() - began < most_seconds


# --- what is checked from the header --------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Rows": 65535, "Columns": 65535}, "65535 rows x 65535 columns = 4,294,836,225 pixels"),
        ({"Rows": 9000, "Columns": 9000}, "need 81,000,000 bytes, the pixel data element has 128"),
        ({"Rows": 0}, "the image is empty"),
        ({"Rows": None}, "no Rows"),
        ({"Columns": None}, "no Columns"),
        ({"BitsAllocated": None}, "no BitsAllocated"),
        ({"BitsStored": None}, "no BitsStored"),
        ({"PixelRepresentation": None}, "no PixelRepresentation"),
        ({"SamplesPerPixel": None}, "no SamplesPerPixel"),
        ({"SamplesPerPixel": 2}, "MONOCHROME2 with 2 samples"),
        ({"PhotometricInterpretation": None}, "Photometric Interpretation '' is not supported"),
        ({"NumberOfFrames": 2_000_000_000}, "holds 2,000,000,000 images"),
        ({"NumberOfFrames": 19_999}, "need 2,559,872 bytes"),
        ({"NumberOfFrames": 0}, "NumberOfFrames is 0"),
        ({"NumberOfFrames": -4}, "NumberOfFrames is -4"),
        ({"BitsAllocated": 12}, "12 bits allocated"),
        ({"BitsAllocated": 128}, "128 bits allocated"),
        ({"BitsStored": 9}, "9 bits stored"),
        ({"BitsStored": 0}, "0 bits stored"),
        ({"HighBit": 9}, "up to bit 9"),
        ({"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}, "need 256 bytes"),
    ],
    ids=str,
)
def test_header_that_cannot_be_true(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "a.dcm", PIXELS, **changes)
    with cheap(), pytest.raises(ImageError, match=message) as caught:
        open_dicom(path)
    assert str(path) in str(caught.value)


def test_limits_are_those_given(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", np.stack([PIXELS] * 3))
    size = path.stat().st_size
    exact = Limits(max_bytes=size, max_pixels=128, max_images=3, max_inflated_bytes=128)
    assert len(open_dicom(path, limits=exact)) == 3
    for less, message in [
        (Limits(max_bytes=size - 1), f"has {size:,} bytes"),
        (Limits(max_pixels=127), "more than the limit of 127"),
        (Limits(max_images=2), r"holds 3 images.*\(--max-images\)"),
        (Limits(max_inflated_bytes=127), r"needs 128 bytes at once.*\(--max-inflated-bytes\)"),
    ]:
        with pytest.raises(ImageError, match=message):
            open_dicom(path, limits=less)


def deflated(body: bytes) -> bytes:
    machine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return machine.compress(body) + machine.flush()


def split(path: Path) -> tuple[bytes, bytes]:
    """The file up to the end of its meta information, and the rest."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<L", raw[140:144])
    return raw[: 144 + length], raw[144 + length :]


def test_deflated_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", PIXELS, syntax=DeflatedExplicitVRLittleEndian)
    assert open_dicom(path).headers[0].Rows == 8
    np.testing.assert_array_equal(open_dicom(path).read(0).pixels[..., 0], PIXELS)
    head, body = split(path)
    path.write_bytes(head + body[:-30])
    with pytest.raises(ImageError, match="deflated data ends before its end"):
        open_dicom(path)
    path.write_bytes(head + b"\xff" * 90)
    with pytest.raises(ImageError, match="deflated data is damaged"):
        open_dicom(path)


@pytest.mark.parametrize("at_pixels", [True, False])
def test_deflate_bomb_is_stopped_on_its_way(tmp_path: Path, at_pixels: bool) -> None:
    head, _ = split(save(tmp_path / "a.dcm", PIXELS, syntax=DeflatedExplicitVRLittleEndian))
    _, body = split(save(tmp_path / "b.dcm", PIXELS))
    # 64 MB of zeros, once after the pixels and once as an element before them.
    private = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 2_000_000_000)
    machine = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(1 << 20)
    parts = [machine.compress(body if at_pixels else private)]
    parts += [machine.compress(zeros) for _ in range(64)]
    path = tmp_path / "bomb.dcm"
    path.write_bytes(head + b"".join(parts) + machine.flush())
    assert path.stat().st_size < 100_000
    limits = Limits(max_inflated_bytes=4 << 20)
    with (
        cheap(most_bytes=12 << 20),
        pytest.raises(LimitError, match=r"decoding needs .* the limit is 4,194,304"),
    ):
        open_dicom(path, limits=limits)


@pytest.mark.parametrize("vr", [b"OB", b"UN", b"UT", b"SQ"])
def test_element_of_absurd_length_takes_no_memory(tmp_path: Path, vr: bytes) -> None:
    head, body = split(save(tmp_path / "a.dcm", PIXELS))
    path = tmp_path / "b.dcm"
    path.write_bytes(head + struct.pack("<HH2sHL", 0x0009, 0x1001, vr, 0, 0xFFFFFFF0) + body)
    with cheap(), pytest.raises(ImageError):
        open_dicom(path).read(0)


ITEM = b"\xfe\xff\x00\xe0" + bytes(4)


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_items_in_sequences_are_counted_before_they_cost_memory(
    undefined: bool, compressed: bool, tmp_path: Path
) -> None:
    syntax = DeflatedExplicitVRLittleEndian if compressed else ExplicitVRLittleEndian
    head, _ = split(save(tmp_path / "a.dcm", PIXELS, syntax=syntax))
    _, body = split(save(tmp_path / "b.dcm", PIXELS))
    at = body.index(b"\x10\x00\x10\x00PN")
    path = tmp_path / "many.dcm"

    def with_items(count: int) -> Path:
        length = 0xFFFFFFFF if undefined else 8 * count
        items = struct.pack("<HH2sHL", 0x0009, 0x1001, b"SQ", 0, length) + ITEM * count
        items += b"\xfe\xff\xdd\xe0" + bytes(4) if undefined else b""
        whole = body[:at] + items + body[at:]
        path.write_bytes(head + (deflated(whole) if compressed else whole))
        return path

    limits = Limits(max_images=100)
    np.testing.assert_array_equal(
        open_dicom(with_items(1_600), limits=limits).read(0).pixels[..., 0], PIXELS
    )
    many = with_items(1_000_000)
    with (
        cheap(most_bytes=30 << 20),  # a deflated file unfolds to 8 MB first
        pytest.raises(LimitError, match=r"many\.dcm: .* more than 1,600 items.*\(--max-images\)"),
    ):
        open_dicom(many, limits=limits)


def test_items_of_a_sequence_left_on_disk_are_counted_too(tmp_path: Path) -> None:
    head, body = split(save(tmp_path / "a.dcm", PIXELS))
    at = body.index(b"\x10\x00\x10\x00PN")
    items = ITEM * 2_200_000  # above 16 MiB a sequence is read when somebody asks for it
    element = struct.pack("<HH2sHL", 0x0009, 0x1001, b"SQ", 0, len(items)) + items
    path = tmp_path / "b.dcm"
    path.write_bytes(head + body[:at] + element + body[at:])
    with pytest.raises(LimitError, match="more than 320,000 items"):
        open_dicom(path)
    np.testing.assert_array_equal(
        open_dicom(path, limits=Limits(max_images=200_000)).read(0).pixels[..., 0], PIXELS
    )


def test_a_deflated_header_has_a_length_of_its_own(tmp_path: Path) -> None:
    head, _ = split(save(tmp_path / "a.dcm", PIXELS, syntax=DeflatedExplicitVRLittleEndian))
    _, body = split(save(tmp_path / "b.dcm", PIXELS))
    at = body.index(b"\x10\x00\x10\x00PN")
    private = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 17 << 20) + bytes(17 << 20)
    path = tmp_path / "long.dcm"
    path.write_bytes(head + deflated(body[:at] + private + body[at:]))
    with pytest.raises(LimitError, match=r"unfolds to more than 16,777,216 bytes.*without defl"):
        open_dicom(path)


def test_large_element_stays_on_disk_and_can_be_had(tmp_path: Path) -> None:
    dataset = make(PIXELS)
    dataset.add_new(0x00091001, "OB", b"\7" * 40_000_000)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    del dataset
    with cheap():
        stack = open_dicom(path)
        np.testing.assert_array_equal(stack.read(0).pixels[..., 0], PIXELS)
    assert stack.headers[0][0x00091001].value[-1] == 7


def nested(depth: int) -> bytes:
    begin = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return (begin + item) * depth


def test_nested_sequences_without_end(tmp_path: Path) -> None:
    head, body = split(save(tmp_path / "a.dcm", PIXELS))
    path = tmp_path / "b.dcm"
    path.write_bytes(head + nested(100_000) + body)
    with pytest.raises(ImageError, match="header cannot be read"):
        open_dicom(path)


# --- compressed frames ----------------------------------------------------------------------------


def encapsulated(*fragments: bytes, table: bytes = b"") -> bytes:
    raw = b""
    for fragment in (table, *fragments):
        raw += struct.pack("<HHL", 0xFFFE, 0xE000, len(fragment)) + fragment
    return raw + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def save_compressed(
    path: Path, syntax: Any, fragments: list[bytes], table: bytes = b"", **changes: Any
) -> Path:
    dataset = make(PIXELS, syntax=syntax, **changes)
    dataset.PixelData = encapsulated(*fragments, table=table)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


def jpeg_with_size(rows: int, columns: int, components: int = 1) -> bytes:
    app = b"\xff\xe0\x00\x04AB"
    start = struct.pack(">2sHBHHB", b"\xff\xc0", 8 + 3 * components, 8, rows, columns, components)
    return b"\xff\xd8" + app + start + b"\1\x11\0" * components + b"\xff\xd9"


def j2k_with_size(rows: int, columns: int, components: int = 1) -> bytes:
    siz = struct.pack(
        ">HH8LH", 38 + 3 * components, 0, columns, rows, 0, 0, columns, rows, 0, 0, components
    )
    return b"\xff\x4f\xff\x51" + siz + b"\7\1\1" * components + b"\xff\xd9"


@pytest.mark.parametrize(
    ("syntax", "make_stream"),
    [(JPEGBaseline8Bit, jpeg_with_size), (JPEG2000Lossless, j2k_with_size)],
    ids=["jpeg", "jpeg2000"],
)
@pytest.mark.parametrize("size", [(60000, 60000, 1), (8, 17, 1), (16, 8, 1), (8, 16, 3)])
def test_frame_of_another_size_than_the_header_says_never_meets_a_decoder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    syntax: Any,
    make_stream: Callable[..., bytes],
    size: tuple[int, int, int],
) -> None:
    path = save_compressed(tmp_path / "a.dcm", syntax, [make_stream(*size)])
    stack = open_dicom(path)

    def decode(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(base.Decoder, "as_array", decode)
    rows, columns, samples = size
    with pytest.raises(
        ImageError, match=f"frame is {rows} rows x {columns} columns x {samples} samples"
    ):
        stack.read(0)


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"\xff\xd8", b"\xff\xd8\xff\xc0\0", b"\xff\x4f\xff\x51\0"]
)
def test_frame_without_a_header_of_its_format(tmp_path: Path, data: bytes) -> None:
    path = save_compressed(tmp_path / "a.dcm", JPEGBaseline8Bit, [data])
    with pytest.raises(ImageError, match="does not begin with a header of its format"):
        open_dicom(path).read(0)


def cine_frames() -> tuple[list[bytes], list[np.ndarray]]:
    """Three compressed frames of a real cine, and what they decode to."""
    stack = open_dicom(bundled("examples_ybr_color.dcm"))
    raw = pydicom.dcmread(bundled("examples_ybr_color.dcm")).PixelData
    frames = list(pydicom.encaps.generate_frames(raw, number_of_frames=30))
    wanted = (0, 12, 29)
    return [frames[n] for n in wanted], [stack.read(n).pixels for n in wanted]


def save_cine(path: Path, fragments: list[bytes], table: list[int], **changes: Any) -> Path:
    dataset = pydicom.dcmread(bundled("examples_ybr_color.dcm"))
    dataset.PixelData = encapsulated(*fragments, table=struct.pack(f"<{len(table)}L", *table))
    dataset["PixelData"].is_undefined_length = True
    dataset.NumberOfFrames = 3
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def halves(frames: list[bytes]) -> tuple[list[bytes], list[int]]:
    """Each frame in two fragments, and where frames begin."""
    fragments: list[bytes] = []
    starts, at = [], 0
    for frame in frames:
        starts.append(at)
        middle = len(frame) // 4 * 2
        fragments += [frame[:middle], frame[middle:]]
        at += len(frame) + 16
    return fragments, starts


@pytest.mark.parametrize("kind", ["whole", "table", "halves", "halves+table", "wrong table"])
def test_frames_are_found_however_they_are_cut(tmp_path: Path, kind: str) -> None:
    frames, expected = cine_frames()
    fragments, starts = halves(frames)
    whole = [0, len(frames[0]) + 8, len(frames[0]) + len(frames[1]) + 16]
    given_fragments, table = {
        "whole": (frames, []),
        "table": (frames, whole),
        "halves": (fragments, []),
        "halves+table": (fragments, starts),
        # As some writers have it, from the start of the file.
        "wrong table": (frames, [start + 1234 for start in whole]),
    }[kind]
    stack = open_dicom(save_cine(tmp_path / "a.dcm", given_fragments, table))
    for number in (2, 0, 1):
        np.testing.assert_array_equal(stack.read(number).pixels, expected[number])


@pytest.mark.parametrize("with_table", [False, True])
def test_cine_cut_short_gives_the_frames_it_has(tmp_path: Path, with_table: bool) -> None:
    frames, expected = cine_frames()
    starts = [0, len(frames[0]) + 8, len(frames[0]) + len(frames[1]) + 16]
    path = save_cine(tmp_path / "a.dcm", frames, starts if with_table else [])
    raw = path.read_bytes()
    whole = raw.index(frames[1]) + len(frames[1])
    for end, good in [(whole, 2), (whole - 50, 1)]:
        path.write_bytes(raw[:end])
        stack = open_dicom(path)
        for number in range(good):
            np.testing.assert_array_equal(stack.read(number).pixels, expected[number])
        for number in range(good, 3):
            with pytest.raises(ImageError, match=rf"frame {number} of 3, from 0: .*truncated"):
                stack.read(number)


def test_fragments_that_are_no_frames_are_refused(tmp_path: Path) -> None:
    frames, _ = cine_frames()
    path = save_cine(
        tmp_path / "a.dcm", [frames[0], frames[1][:100], frames[1][100:200], b"xx"], []
    )
    with pytest.raises(ImageError, match="4 pieces of compressed data cannot be told apart"):
        open_dicom(path).read(0)


def test_compressed_frame_without_its_end_is_truncated(tmp_path: Path) -> None:
    # Some decoders fill the rest with grey.
    frames, _ = cine_frames()
    path = save_cine(tmp_path / "a.dcm", [frames[0][:-200], *frames[1:]], [])
    with pytest.raises(ImageError, match=r"frame 0 .*without its end marker"):
        open_dicom(path).read(0)


def test_compressed_and_uncompressed_are_not_mixed_up(tmp_path: Path) -> None:
    path = save_compressed(tmp_path / "a.dcm", JPEGBaseline8Bit, [jpeg_with_size(8, 16)])
    raw = path.read_bytes()
    other = save(tmp_path / "b.dcm", PIXELS).read_bytes()
    plain, jpeg = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.50"
    path.write_bytes(swap_syntax(raw, jpeg, plain))
    with pytest.raises(ImageError, match="says uncompressed pixels"):
        open_dicom(path)
    path.write_bytes(swap_syntax(other, plain, jpeg))
    with pytest.raises(ImageError, match="says compressed pixels"):
        open_dicom(path)


def swap_syntax(raw: bytes, old: bytes, new: bytes) -> bytes:
    element = b"\2\0\x10\0UI"
    before = element + struct.pack("<H", len(old)) + old
    assert before in raw
    return raw.replace(before, element + struct.pack("<H", len(new)) + new)


def test_run_lengths_that_are_too_many(tmp_path: Path) -> None:
    path = save_compressed(tmp_path / "a.dcm", RLELossless, [bytes(100_000)])
    with pytest.raises(ImageError, match="100,000 bytes of run lengths for a frame of 128 bytes"):
        open_dicom(path).read(0)


def test_run_lengths_that_do_not_fit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Runs of 128 equal bytes, for a frame of 128.
    header = struct.pack("<16L", 1, 64, *[0] * 14)
    path = save_compressed(tmp_path / "a.dcm", RLELossless, [header + b"\x81\5"])
    assert (open_dicom(path).read(0).pixels == 5).all()
    path = save_compressed(tmp_path / "b.dcm", RLELossless, [header + b"\x90\5"])
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_dicom(path).read(0)
    # Another decoder there may be would panic at too much, with a stack trace.
    path = save_compressed(tmp_path / "c.dcm", RLELossless, [header + b"\x81\5" * 4])
    assert (open_dicom(path).read(0).pixels == 5).all()
    assert capfd.readouterr() == ("", "")


def test_video_is_refused_by_name(tmp_path: Path) -> None:
    path = save_compressed(tmp_path / "a.dcm", MPEG4HP41, [b"video!"])
    with pytest.raises(ImageError, match=r"MPEG-4 AVC/H.264 High Profile .* cannot be decoded"):
        open_dicom(path)


@pytest.mark.parametrize("uid", ["1.2.840.113619.5.2", "1.2.3.4.5", "1.2.840.10008.1.2.999"])
def test_unknown_transfer_syntax_is_refused(tmp_path: Path, uid: str) -> None:
    raw = save(tmp_path / "a.dcm", PIXELS).read_bytes()
    path = tmp_path / "b.dcm"
    padded = uid.encode() + b"\0" * (len(uid) % 2)
    path.write_bytes(swap_syntax(raw, b"1.2.840.10008.1.2.1\0", padded))
    with pytest.raises(ImageError, match=uid):
        open_dicom(path)


def test_missing_decoder_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = base.get_decoder(JPEG2000Lossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(
        ImageError, match=r'JPEG 2000 .*not installed .*pip install "textsam\[medical\]"'
    ):
        open_dicom(bundled("MR_small_jp2klossless.dcm"))


# --- anything at all ------------------------------------------------------------------------------

SMALL = {
    "plain": bundled("MR_small.dcm").read_bytes(),
    "implicit": bundled("MR_small_implicit.dcm").read_bytes(),
    "big": bundled("MR_small_bigendian.dcm").read_bytes(),
    "rle": bundled("rtdose_rle.dcm").read_bytes(),
    "jpeg": bundled("SC_rgb_jpeg_dcmtk.dcm").read_bytes(),
    "j2k": bundled("MR_small_jp2klossless.dcm").read_bytes(),
    "jls": bundled("MR_small_jpeg_ls_lossless.dcm").read_bytes(),
}
LIMITS = Limits(max_bytes=10**7, max_pixels=10**6, max_images=100, max_inflated_bytes=10**7)


def read_or_refuse(path: Path) -> None:
    refusals: list[ImageError] = []
    try:
        stack = open_dicom(path, limits=LIMITS)
        for number in range(min(len(stack), 3)):
            pixels = stack.read(number).pixels
            assert 0 <= pixels.min() <= pixels.max() <= 255
    except ImageError as error:
        refusals.append(error)
    assert all(str(path) in str(error) for error in refusals)


@pytest.mark.parametrize("name", SMALL)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_an_image_error(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    raw = bytearray(SMALL[name])
    # Most of the header is in the first part.
    places = st.integers(132, min(2000, len(raw)) - 1) | st.integers(132, len(raw) - 1)
    changes = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)
    for at, byte in data.draw(changes):
        raw[at] = byte
    path = tmp_path / "damaged.dcm"
    path.write_bytes(raw)
    read_or_refuse(path)


@pytest.mark.parametrize("name", SMALL)
def test_file_cut_anywhere_gives_an_image_error(tmp_path: Path, name: str) -> None:
    raw = SMALL[name]
    path = tmp_path / "cut.dcm"
    # Trailing padding may go; everything else may not.
    for end in [*range(1, 2000, 61), *range(2000, int(len(raw) * 0.9), len(raw) // 12)]:
        path.write_bytes(raw[:end])
        with pytest.raises(ImageError, match=r"cut\.dcm"):
            list(open_dicom(path, limits=LIMITS))


def test_no_word_about_the_patient_leaves_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = save(tmp_path / "whole.dcm", PIXELS, PatientBirthDate="19700101").read_bytes()
    name = raw.index(b"Secret^Name")
    path = tmp_path / "a.dcm"
    seen = set()
    level = logging.getLogger("pydicom").level
    for at in range(name - 20, name + 50):
        for byte in (0, 255):
            path.write_bytes(raw[:at] + bytes([byte]) + raw[at + 1 :])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    image = open_dicom(path).read(0)
                    seen.add(image.source)
                except ImageError as error:
                    seen.add(str(error))
    assert str(path) in seen
    assert len(seen) > 1
    assert caplog.records == []
    assert logging.getLogger("pydicom").level == level
    assert not [text for text in seen if "Secret" in text or "SECRET" in text]


# --- files, threads, imports ----------------------------------------------------------------------


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        open_dicom(tmp_path / "missing.dcm")
    (tmp_path / "empty.dcm").touch()
    with pytest.raises(ImageError, match="empty"):
        open_dicom(tmp_path / "empty.dcm")
    with pytest.raises(ImageError, match="folder"):
        open_dicom(tmp_path)
    with pytest.raises(ImageError, match="not a DICOM file"):
        open_dicom(Path(__file__))


def test_file_changed_after_it_was_opened(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", PIXELS)
    stack = open_dicom(path)
    save(path, PIXELS, InstanceNumber=123456)
    with pytest.raises(ImageError, match="was changed after it was opened"):
        stack.read(0)
    path.unlink()
    with pytest.raises(ImageError, match="cannot be opened"):
        stack.read(0)


def test_no_file_stays_open(tmp_path: Path) -> None:
    # An open file that is forgotten is a ResourceWarning, and that is an error here.
    path = save(tmp_path / "a.dcm", PIXELS)
    process = psutil.Process()
    before = len(process.open_files())
    stacks = [open_dicom(path) for _ in range(20)]
    for stack in stacks:
        stack.read(0)
    assert len(process.open_files()) == before


@pytest.mark.parametrize("compressed", [False, True])
def test_long_cine_costs_the_memory_of_one_frame(tmp_path: Path, compressed: bool) -> None:
    if compressed:
        path = bundled("examples_ybr_color.dcm")
        frame_bytes = 240 * 320 * 3
    else:
        frame_bytes = 256 * 256
        path = save(tmp_path / "a.dcm", np.zeros((200, 256, 256), np.uint8))
    stack = open_dicom(path)
    stack.read(0)
    tracemalloc.start()
    try:
        for number in range(len(stack)):
            stack.read(number)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The stored values, float32 ones with a few intermediate results, and three channels.
    assert peak < 30 * frame_bytes


def test_threads_read_side_by_side_and_leave_warnings_as_they_were() -> None:
    path = bundled("MR_small_bigendian.dcm")
    expected = open_dicom(path).read(0).pixels
    before = list(warnings.filters)
    wrong: list[object] = []

    def work() -> None:
        try:
            for _ in range(20):
                if not np.array_equal(open_dicom(path).read(0).pixels, expected):
                    wrong.append("pixels")
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(warnings.filters) == before


def test_odd_values_cause_no_warnings(tmp_path: Path) -> None:
    # pydicom warns about each of these.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = make(PIXELS)
        dataset.add_new("StudyDate", "DA", "yesterday")
        dataset.add_new("SeriesInstanceUID", "UI", "not.a.uid")
        dataset.add_new("SpecificCharacterSet", "CS", "KLINGON")
        dataset.PixelData += bytes(64)
        path = tmp_path / "a.dcm"
        dataset.save_as(path, enforce_file_format=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(open_dicom(path).read(0).pixels[..., 0], PIXELS)
        assert len(open_series(tmp_path)) == 1


def test_implicit_values_in_a_file_that_says_explicit(tmp_path: Path) -> None:
    raw = save(tmp_path / "a.dcm", PIXELS, syntax=ImplicitVRLittleEndian).read_bytes()
    path = tmp_path / "b.dcm"
    path.write_bytes(swap_syntax(raw, b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0"))
    np.testing.assert_array_equal(open_dicom(path).read(0).pixels[..., 0], PIXELS)


def test_without_pydicom_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundled("MR_small.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for open_it in (open_dicom, open_series):
        with pytest.raises(ImageError, match=r'pip install "textsam\[medical\]"'):
            open_it(path)
    with pytest.raises(ImageError, match=r'pip install "textsam\[medical\]"'):
        open_series(path.parent)


def test_pydicom_is_imported_when_a_file_is_opened() -> None:
    code = "import sys, textsam.io.dicom; print('pydicom' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_no_picture_is_told_from_damage() -> None:
    assert issubclass(NoPictureError, ImageError)
