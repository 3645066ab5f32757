"""Inflate gzip files (RFC 1952) no further than they are allowed to."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError

__all__ = ["TRAILING_BYTES", "inflate", "inflate_head"]

TRAILING_BYTES = 1 << 16
"""Padding tolerated after the last byte that is wanted."""

_CHUNK_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
# Deflate makes at most 258 bytes of two bits, a code of one bit for the length and one for the
# distance (RFC 1951): 1032 times its size.
_MAX_RATIO = 1032
_MAX_EMPTY_MEMBERS = 1000


def inflate_head(path: Path, count: int) -> bytes:
    """The first `count` bytes of what a gzip file holds, or all of it where that is less.

    Raises:
        ImageError: the file cannot be opened, or is damaged or truncated before there.
    """
    head = bytearray()
    with _opened(path) as stream:
        for piece in _pieces(stream, str(path), count):
            head += piece
            if len(head) >= count:
                break
    return bytes(head[:count])


def inflate(path: Path, size_bytes: int) -> NDArray[np.uint8]:
    """The first `size_bytes` bytes of what a gzip file holds, its checksum verified.

    Memory grows with what comes out, and inflating stops soon after `size_bytes`.

    Returns:
        (size_bytes,) uint8.

    Raises:
        ImageError: a file that cannot be opened, is damaged or truncated, holds less than
            `size_bytes`, or over `TRAILING_BYTES` more.
    """
    source = str(path)
    with _opened(path) as stream:
        compressed = path.stat().st_size
        if size_bytes > compressed * _MAX_RATIO:
            raise ImageError(_too_short(source, size_bytes, f"cannot come of {compressed:,}"))
        out = np.empty(size_bytes, dtype=np.uint8)
        filled = 0
        for piece in _pieces(stream, source, _PIECE_BYTES):
            wanted = piece[: max(0, size_bytes - filled)]
            if wanted:
                out[filled : filled + len(wanted)] = np.frombuffer(wanted, dtype=np.uint8)
            filled += len(piece)
            if filled > size_bytes + TRAILING_BYTES:
                raise ImageError(
                    f"{source}: the file inflates beyond the {size_bytes:,} bytes that its header "
                    "announces; the header or the file is damaged, write it again"
                )
    if filled < size_bytes:
        raise ImageError(_too_short(source, size_bytes, f"are only {filled:,}"))
    return out


def _too_short(source: str, size_bytes: int, found: str) -> str:
    return (
        f"{source}: the file is shorter than its header says ({size_bytes:,} bytes {found}); copy "
        "or export it again"
    )


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ImageError(
            f"{path}: the file cannot be opened ({error.strerror}); check its permissions"
        ) from error


def _pieces(stream: BinaryIO, source: str, piece_bytes: int) -> Iterator[bytes]:
    """What the file holds, in pieces of at most `piece_bytes`, none of them empty."""
    decoder = zlib.decompressobj(wbits=31)
    data = b""
    came, empty_members = False, 0
    while True:
        data = data or stream.read(_CHUNK_BYTES)
        at_end = not data
        try:
            piece = decoder.decompress(data, piece_bytes)
        except zlib.error as error:
            raise ImageError(
                f"{source}: the gzip data is damaged ({error}); copy or export the file again"
            ) from error
        if piece:
            came = True
            yield piece
        if decoder.eof:
            empty_members = 0 if came else empty_members + 1
            data = _next_member(decoder.unused_data, stream)
            if not data:
                return
            if empty_members > _MAX_EMPTY_MEMBERS:
                raise ImageError(
                    f"{source}: the gzip file consists of empty parts; compress it again"
                )
            decoder, came = zlib.decompressobj(wbits=31), False
        elif at_end and not piece:
            raise ImageError(f"{source}: the gzip data is truncated; copy or export the file again")
        else:
            data = decoder.unconsumed_tail


def _next_member(rest: bytes, stream: BinaryIO) -> bytes:
    """The rest of the file without padding of zeros, empty at its end."""
    while not (rest := rest.lstrip(b"\0")):
        rest = stream.read(_CHUNK_BYTES)
        if not rest:
            return b""
    return rest
