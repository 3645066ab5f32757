"""Find the compressed frames of a file (PS3.5 A.4), and what size they say they are."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from textsam.errors import ImageError
from textsam.io.dicom.layout import PixelLayout

__all__ = ["Fragment", "codestream_size", "frame_table", "join_fragments"]

_ITEM = 0xFFFEE000
_END_OF_IMAGE = b"\xff\xd9"
_JPEG_START = b"\xff\xd8"
_J2K_START = b"\xff\x4f\xff\x51"
# All "start of frame" markers of ISO/IEC 10918-1 table B.1, and that of JPEG-LS (14495-1).
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
# How far from its start a JPEG 2000 codestream may begin, where it is wrapped in a JP2 file.
_WRAPPER_BYTES = 4096


@dataclass(frozen=True)
class Fragment:
    """A piece of compressed data: where its bytes begin in the file, and how many there are."""

    offset: int
    length: int


def frame_table(stream: BinaryIO, layout: PixelLayout, source: str) -> list[list[Fragment]]:
    """Which fragments make up each frame, as far as the file goes.

    The offset table decides where its entries are starts of fragments; else one fragment is one
    frame, or the ends of images in the data decide. A table shorter than `layout.frames` means
    that the file ends before, or has fewer frames than it says.

    Raises:
        ImageError: fragments that cannot be told apart into frames.
    """
    stream.seek(layout.offset)
    first = _next_item(stream)
    if first is None:
        return []
    table = stream.read(first.length)
    starts = struct.unpack(f"<{len(table) // 4}L", table[: len(table) // 4 * 4])
    base = first.offset + first.length
    fragments: list[Fragment] = []
    stream.seek(base)
    while (fragment := _next_item(stream)) is not None:
        fragments.append(fragment)
        stream.seek(fragment.offset + fragment.length)
    if not fragments:
        return []
    if layout.frames == 1:
        return [fragments]
    number_at = {fragment.offset - 8 - base: n for n, fragment in enumerate(fragments)}
    if len(starts) == layout.frames and starts[0] == 0 and list(starts) == sorted(set(starts)):
        # Entries past the end of a truncated file are of frames that are not there.
        known = [number_at[start] for start in starts if start in number_at]
        if len(known) == layout.frames or max(starts) > max(number_at):
            ends = [*known[1:], len(fragments)]
            return [fragments[a:b] for a, b in zip(known, ends, strict=True)]
    if len(fragments) <= layout.frames:
        return [[fragment] for fragment in fragments]
    frames = _split_at_ends(stream, fragments)
    if len(frames) != layout.frames:
        raise ImageError(
            f"{source}: {len(fragments)} pieces of compressed data cannot be told apart into "
            f"{layout.frames} frames; the file is damaged: export it again"
        )
    return frames


def _next_item(stream: BinaryIO) -> Fragment | None:
    head = stream.read(8)
    if len(head) < 8:
        return None
    group, element, length = struct.unpack("<HHL", head)
    if group << 16 | element != _ITEM:
        return None
    return Fragment(stream.tell(), length)


def _split_at_ends(stream: BinaryIO, fragments: list[Fragment]) -> list[list[Fragment]]:
    frames: list[list[Fragment]] = [[]]
    for fragment in fragments:
        frames[-1].append(fragment)
        tail = min(fragment.length, 16)
        stream.seek(fragment.offset + fragment.length - tail)
        if _END_OF_IMAGE in stream.read(tail):
            frames.append([])
    return [frame for frame in frames if frame]


def join_fragments(stream: BinaryIO, fragments: list[Fragment], source: str) -> bytes:
    """The bytes of one frame.

    Raises:
        ImageError: the file ends before them.
    """
    parts = []
    for fragment in fragments:
        stream.seek(fragment.offset)
        part = stream.read(fragment.length)
        if len(part) < fragment.length:
            raise ImageError(
                f"{source}: the pixel data is truncated; copy or export the file again"
            )
        parts.append(part)
    return b"".join(parts)


def codestream_size(data: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) as a JPEG, JPEG-LS or JPEG 2000 frame has them in itself.

    None where the data is of no such format or its header is damaged.
    """
    start = data[:_WRAPPER_BYTES].find(_J2K_START)
    if start >= 0 and not data.startswith(_JPEG_START):
        return _j2k_size(data[start + 4 : start + 42])
    if not data.startswith(_JPEG_START):
        return None
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        if marker in _START_OF_FRAME:
            if at + 10 > len(data):
                return None
            rows, columns, components = struct.unpack(">HHB", data[at + 5 : at + 10])
            return rows, columns, components
        at += 2 + max(length, 2)
    return None


def _j2k_size(siz: bytes) -> tuple[int, int, int] | None:
    # Lsiz, Rsiz, then the far and the near corner of the image area, four fields of tiles, and the
    # number of components (ISO/IEC 15444-1 A.5.1).
    if len(siz) < 38:
        return None
    _, _, x_end, y_end, x_start, y_start, *_, components = struct.unpack(">HH8LH", siz)
    return y_end - y_start, x_end - x_start, components
