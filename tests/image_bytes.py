"""Image files written by hand, for the variants Pillow cannot write, and values to put in them."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6
"""PNG colour types."""


def png_bytes(
    values: NDArray[Any],
    colour_type: int,
    *,
    size: tuple[int, int] | None = None,
    chunks: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """A PNG of 8 or 16 bits a channel written by hand, since Pillow cannot write 16-bit colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = size or values.shape[:2]
    bits = values.dtype.itemsize * 8
    stored = values.astype(values.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + body
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff_bytes(
    values: NDArray[Any],
    *,
    order: Literal["<", ">"] = "<",
    deflate: bool = False,
    white_is_zero: bool = False,
    separate_planes: bool = False,
    orientation: int = 1,
) -> bytes:
    """A one-page, one-strip TIFF 6.0 written by hand, for the variants Pillow cannot write."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    bits = values.dtype.itemsize * 8
    stored = np.moveaxis(values, -1, 0) if separate_planes else values
    data = stored.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflate else data
    extra = 8 + len(data) + len(data) % 2
    photometric = 2 if channels >= 3 else (0 if white_is_zero else 1)
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits if channels == 1 else extra),
        (259, 3, 1, 8 if deflate else 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 8),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
        (284, 3, 1, 2 if separate_planes else 1),
        (339, 3, channels, sample_format if channels == 1 else extra + 2 * channels),
    ]
    if channels == 4:
        entries.insert(-1, (338, 3, 1, 2))
    if separate_planes:
        # One strip a plane: offsets and byte counts become lists after the other lists.
        plane = len(data) // channels
        lists = extra + 4 * channels
        entries = [
            (tag, 4, channels, lists)
            if tag == 273
            else (tag, 4, channels, lists + 4 * channels)
            if tag == 279
            else (tag, kind, count, value)
            for tag, kind, count, value in entries
        ]
    tail = struct.pack(f"{order}{2 * channels}H", *[bits] * channels, *[sample_format] * channels)
    if separate_planes:
        tail += struct.pack(f"{order}{channels}I", *(8 + plane * i for i in range(channels)))
        tail += struct.pack(f"{order}{channels}I", *[plane] * channels)
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        inline = kind == 3 and count == 1
        directory += struct.pack(f"{order}HHI", tag, kind, count)
        directory += struct.pack(
            f"{order}HH" if inline else f"{order}I", *((value, 0) if inline else (value,))
        )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{order}I", extra + len(tail))
    return head + data.ljust(extra - 8, b"\0") + tail + directory + struct.pack(f"{order}I", 0)


def ramp(dtype: str, low: float, high: float, shape: tuple[int, ...] = (12, 20)) -> NDArray[Any]:
    """Evenly rising values, from the top-left corner on."""
    return np.linspace(low, high, int(np.prod(shape))).reshape(shape).astype(dtype)


def stretched(values: NDArray[Any]) -> NDArray[np.float64]:
    """What reading is documented to do with values that are neither uint8 nor in [0, 1]."""
    exact = values.astype(np.float64)
    return np.asarray((exact - exact.min()) / (exact.max() - exact.min()) * 255.0)
