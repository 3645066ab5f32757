"""Decode one frame of a file to its stored values."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.dicom.fragments import Fragment, codestream_size, frame_table, join_fragments
from textsam.io.dicom.guard import damage_reported
from textsam.io.dicom.header import DicomFile, open_pixels
from textsam.io.dicom.layout import PixelLayout
from textsam.io.limits import Limits

__all__ = ["FrameReader", "check_decodable"]

_RLE = "1.2.840.10008.1.2.5"
_NO_OFFSETS = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
_END_OF_IMAGE_WITHIN = 64


def check_decodable(file: DicomFile) -> None:
    """Raise ImageError where no installed decoder reads the file's transfer syntax."""
    with damage_reported(str(file.path), "the transfer syntax is not known"):
        _find_decoder(file)


def _find_decoder(file: DicomFile) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = UID(file.layout.syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ImageError(
            f"{file.path}: pixels of transfer syntax {syntax.name} ({syntax}) cannot be decoded; "
            "have the archive export the file uncompressed (Explicit VR Little Endian), or "
            "convert a video to images"
        ) from error
    if not decoder.is_available:
        lacking = "; ".join(decoder.missing_dependencies)
        raise ImageError(
            f"{file.path}: the decoder for transfer syntax {syntax.name} is not installed "
            f'({lacking}); run `pip install "textsam[medical]"`'
        )


class FrameReader:
    """Decodes frames of one file, one at a time.

    Args:
        file: the file, with its header read.
        limits: what it may ask for.
    """

    def __init__(self, file: DicomFile, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._table: list[list[Fragment]] | None = None

    def read(self, frame: int) -> NDArray[Any]:
        """Stored values of frame `frame`, from 0.

        Returns:
            (rows, columns) for grey and palette indices, with unused bits removed; (rows, columns,
            3), red, green, blue, for colour.

        Raises:
            ImageError: the frame is damaged, truncated or contradicts the header.
        """
        layout = self._file.layout
        source = self.name(frame)
        with open_pixels(self._file, self._limits) as stream:
            if layout.compressed:
                values = self._compressed(stream, frame, source)
            else:
                values = _uncompressed(stream, layout, frame, source)
        expected = (layout.rows, layout.columns, *((3,) if layout.samples == 3 else ()))
        if values.shape != expected:
            raise ImageError(
                f"{source}: decoded to shape {values.shape}, the header says {expected}; the file "
                "is damaged: export it again"
            )
        return values

    def name(self, frame: int) -> str:
        """How messages call a frame."""
        path, frames = self._file.path, self._file.layout.frames
        return str(path) if frames == 1 else f"{path}: frame {frame} of {frames}, from 0"

    def _compressed(self, stream: BinaryIO, frame: int, source: str) -> NDArray[Any]:
        layout = self._file.layout
        with damage_reported(source, "the compressed pixel data cannot be read"):
            if self._table is None:
                self._table = frame_table(stream, layout, str(self._file.path))
            if frame >= len(self._table):
                raise ImageError(
                    f"{source}: the pixel data is truncated: it holds {len(self._table)} of "
                    f"{layout.frames} frames; copy or export the file again"
                )
            data = join_fragments(stream, self._table[frame], source)
        _check_codestream(data, layout, source)
        item = data + b"\0" * (len(data) % 2)
        buffer = _NO_OFFSETS + struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
        # Other compressions know of values alone, and not of where in a word they lie.
        decode = _decode_words if layout.syntax == _RLE else _decode
        return decode(buffer, 0, layout, source, number_of_frames=1)


def _uncompressed(stream: BinaryIO, layout: PixelLayout, frame: int, source: str) -> NDArray[Any]:
    end = layout.offset + ((frame + 1) * layout.stored_frame_bits + 7) // 8
    stream.seek(0, 2)
    if stream.tell() < end:
        raise ImageError(f"{source}: the pixel data is truncated; copy or export the file again")
    if layout.bits_allocated == 1 and layout.little_endian:
        return _single_bits(stream, layout, frame)
    stream.seek(layout.offset)
    return _decode_words(stream, frame, layout, source)


def _single_bits(stream: BinaryIO, layout: PixelLayout, frame: int) -> NDArray[np.uint8]:
    """A frame of one bit a pixel, which may begin and end within a byte (PS3.5 8.1.1).

    pydicom 3.0 refuses some of those.
    """
    first = frame * layout.stored_frame_bits
    stream.seek(layout.offset + first // 8)
    packed = stream.read((first % 8 + layout.stored_frame_bits + 7) // 8)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    bits = bits[first % 8 : first % 8 + layout.stored_frame_bits]
    return bits.reshape(layout.rows, layout.columns)


def _decode_words(
    data: Any, frame: int, layout: PixelLayout, source: str, **options: Any
) -> NDArray[Any]:
    """Decode a frame of which all allocated bits are there, and keep the stored ones."""
    # Bits above the highest stored one may hold an overlay, and below the lowest nothing of use
    # (PS3.5 8.1.1); pydicom looks at the former only, and as if values began at bit 0.
    if layout.floating or layout.high_bit == layout.bits_stored - 1:
        return _decode(data, frame, layout, source, **options)
    values = _decode(data, frame, layout, source, correct_unused_bits=False, **options)
    values = np.left_shift(values, layout.bits_allocated - 1 - layout.high_bit)
    return np.asarray(np.right_shift(values, layout.bits_allocated - layout.bits_stored))


def _check_codestream(data: bytes, layout: PixelLayout, source: str) -> None:
    """Compare a compressed frame's own size with the header, before a decoder believes it."""
    if layout.syntax == _RLE:
        # Run lengths make data longer by less than a hundredth; two bytes can stand for 128.
        stored = layout.rows * layout.columns * layout.samples * layout.bits_allocated // 8
        if len(data) > 2 * stored + 1024:
            raise ImageError(
                f"{source}: {len(data):,} bytes of run lengths for a frame of {stored:,} bytes; "
                "the file is damaged: export it again"
            )
        return
    size = codestream_size(data)
    if size is None:
        raise ImageError(
            f"{source}: the compressed pixel data does not begin with a header of its format; the "
            "file is damaged: export it again"
        )
    if size != (layout.rows, layout.columns, layout.samples):
        raise ImageError(
            f"{source}: the compressed frame is {size[0]} rows x {size[1]} columns x {size[2]} "
            f"samples, the header says {layout.rows} x {layout.columns} x {layout.samples}; the "
            "file is damaged: export it again"
        )
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-_END_OF_IMAGE_WITHIN:]:
        # Some decoders fill what is missing with grey.
        raise ImageError(
            f"{source}: the compressed frame ends without its end marker; it is truncated, copy or "
            "export the file again"
        )


def _decode(
    data: Any, frame: int, layout: PixelLayout, source: str, **options: Any
) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    # The other decoder of run lengths, in Rust, panics on damaged data: no exception of Python's,
    # and a stack trace on standard error.
    plugin = "pydicom" if layout.syntax == _RLE else ""
    with damage_reported(source, "the pixel data cannot be decoded", in_its_words=True):
        values, properties = get_decoder(UID(layout.syntax)).as_array(
            data, index=frame, decoding_plugin=plugin, **{**layout.pixel_options(), **options}
        )
    if layout.samples == 3 and properties["photometric_interpretation"] != "RGB":
        raise ImageError(
            f"{source}: colours stored as {layout.photometric} cannot be converted to RGB here; "
            "convert the file to RGB"
        )
    # Decoders hand over whichever byte order the file has.
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
