"""The pages of a TIFF file: where their directories are, found without decoding anything."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from textsam.errors import ImageError
from textsam.io.clamped import ClampedReader
from textsam.io.limits import Limits

__all__ = ["TiffPage", "page_directories", "stream_of_page"]

_NEW_SUBFILE_TYPE = 254
_REDUCED_RESOLUTION = 1
_TRANSPARENCY_MASK = 4
# Entries are sorted by tag and 254 is the lowest in use, so it is among the first if it is there.
_ENTRIES_LOOKED_AT = 16


@dataclass(frozen=True)
class TiffPage:
    """One page.

    Attributes:
        offset: where its directory is, in bytes from the start of the file.
        damage: why it cannot be read, None where its directory is inside the file.
    """

    offset: int
    damage: str | None = None


@dataclass(frozen=True)
class _Layout:
    """Field sizes of a TIFF (TIFF 6.0) or BigTIFF file; `order` is struct's sign."""

    order: str
    big: bool

    @property
    def pointer(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "I"))

    @property
    def count(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry_bytes(self) -> int:
        return 20 if self.big else 12

    @property
    def first_at(self) -> int:
        """Where the file says where its first directory is."""
        return 8 if self.big else 4


def page_directories(stream: BinaryIO, source: str, limits: Limits) -> tuple[TiffPage, ...]:
    """Follow the chain of directories from the first page to the last.

    Smaller copies of a page and transparency masks (bits 0 and 2 of NewSubfileType, TIFF 6.0,
    section 8) are no pages of their own and are left out. Where the chain leads out of the file,
    the last page is one with `damage`: it is known to have been there.

    Raises:
        ImageError: no TIFF header, a big-endian BigTIFF, a chain that runs in a circle, or no page.
        LimitError: more pages than `limits.max_images`.
    """
    layout = _layout(stream, source)
    end = stream.seek(0, io.SEEK_END)
    pages: list[TiffPage] = []
    seen: set[int] = set()
    offset = _number_at(stream, layout.first_at, layout.pointer)
    while offset:
        if offset in seen:
            raise ImageError(
                f"{source}: the page after page {len(seen)} of this TIFF is one of the pages "
                "before it, so the file is damaged; export it again"
            )
        seen.add(offset)
        limits.check_images(len(seen), source)
        page, following = _directory(stream, layout, offset, end)
        if page is not None:
            pages.append(page)
        offset = following
    if not pages:
        raise ImageError(f"{source}: this TIFF has no page to read; export it again")
    return tuple(pages)


def _layout(stream: BinaryIO, source: str) -> _Layout:
    stream.seek(0)
    head = stream.read(4)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = int.from_bytes(head[2:], "big" if order == ">" else "little")
    if order is None or version not in (42, 43):
        raise ImageError(f"{source}: this is not a TIFF file; export it again")
    if version == 43 and order == ">":
        # Pillow 13 looks for the 43 in the other byte and reads nonsense.
        raise ImageError(
            f"{source}: big-endian BigTIFF cannot be read; save it again in the other byte order, "
            "for example with tifffile.imwrite(new_path, tifffile.imread(path))"
        )
    return _Layout(order, big=version == 43)


def _number_at(stream: BinaryIO, offset: int, kind: struct.Struct) -> int | None:
    stream.seek(offset)
    data = stream.read(kind.size)
    return int(kind.unpack(data)[0]) if len(data) == kind.size else None


def _directory(
    stream: BinaryIO, layout: _Layout, offset: int, end: int
) -> tuple[TiffPage | None, int | None]:
    """The page at `offset`, None where it is no page of its own, and where the next one is."""
    count = _number_at(stream, offset, layout.count) if offset < end else None
    entries_at = offset + layout.count.size
    following = None
    if count is not None and entries_at + count * layout.entry_bytes <= end:
        following = _number_at(stream, entries_at + count * layout.entry_bytes, layout.pointer)
    if count is None or following is None:
        return TiffPage(offset, f"its directory, at byte {offset:,}, is not all in the file"), None
    stream.seek(entries_at)
    block = stream.read(min(count, _ENTRIES_LOOKED_AT) * layout.entry_bytes)
    for at in range(0, len(block), layout.entry_bytes):
        (tag,) = struct.unpack_from(layout.order + "H", block, at)
        if tag == _NEW_SUBFILE_TYPE:
            value_at = at + layout.entry_bytes - layout.pointer.size
            (kind,) = struct.unpack_from(layout.order + "I", block, value_at)
            if kind & (_REDUCED_RESOLUTION | _TRANSPARENCY_MASK):
                return None, following
    return TiffPage(offset), following


def stream_of_page(stream: BinaryIO, offset: int, source: str) -> io.BufferedReader:
    """The same file, but with the page whose directory is at `offset` as its first.

    So a page is decoded without its predecessors, and whether or not they are damaged.

    Raises:
        ImageError: no TIFF header.
    """
    layout = _layout(stream, source)
    size_bytes = stream.seek(0, io.SEEK_END)
    patched = _Patched(stream, layout.first_at, layout.pointer.pack(offset))
    return ClampedReader(patched, size_bytes)


class _Patched(io.RawIOBase):
    """A file in which some bytes read as others. Closing it leaves the file open."""

    def __init__(self, stream: BinaryIO, at: int, data: bytes) -> None:
        self._stream, self._at, self._data = stream, at, data
        stream.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        at = self._stream.tell()
        data = bytearray(self._stream.read(len(buffer)))
        begin, end = max(at, self._at), min(at + len(data), self._at + len(self._data))
        if begin < end:
            data[begin - at : end - at] = self._data[begin - self._at : end - self._at]
        buffer[: len(data)] = data
        return len(data)
