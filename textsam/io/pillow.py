"""Decode raster files and Pillow images to arrays without losing bits, rotation or errors.

Pillow's own conversions are not enough for medical images: `convert("RGB")` clips 16-bit grey at
255, and 16-bit colour is cut down to its upper bytes while it is read. Here the values come out as
they are stored; scaling them is left to `textsam.io.pixels`.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import PIL.BmpImagePlugin
import PIL.Image
import PIL.ImageFile
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import PIL.TiffImagePlugin
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.clamped import ClampedReader
from textsam.io.held_setting import HeldSetting
from textsam.io.pixels import check_size
from textsam.io.raw_modes import raw_modes_of, repair_byte_order, set_raw_mode
from textsam.io.tiff import stream_of_page
from textsam.io.tiff_samples import (
    has_signed_bytes,
    refuse_depth,
    refuse_lost_channels,
    refuse_lost_slices,
    refuse_split_alpha,
    single_channel,
)

__all__ = ["array_from_pillow", "check_header", "decode_file", "stored_orientation", "upright"]

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_READABLE = "PNG, JPEG, BMP and TIFF"

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_PLANAR = 284
_SEPARATE_PLANES = 2


# Headers of any size may be parsed, as `check_size` decides what is decoded; Pillow's own limit
# would warn or raise first. Entered around headers alone, never around decoding.
_header_unlimited = HeldSetting(PIL.Image, "MAX_IMAGE_PIXELS", None)

# Pillow knows how to unpack unsigned values of 32 bits from the highest byte on, and has no entry
# for TIFFs that hold them.
_big_endian_uint32 = HeldSetting(
    PIL.TiffImagePlugin,
    "OPEN_INFO",
    {**PIL.TiffImagePlugin.OPEN_INFO, (b"MM", 1, (1,), 1, (32,), ()): ("I", "I;32B")},
)

# Other code may have told Pillow to fill truncated images with grey.
_truncation_refused = HeldSetting(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", False)


@contextmanager
def _decoding_errors(source: str) -> Iterator[None]:
    # Damaged files make Pillow's decoders raise almost anything (OSError, SyntaxError, ValueError,
    # struct.error, IndexError, ...), so all of it is reported as what it means for the caller.
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        if "raw mode" in str(error):  # there is no way from the file's layout to Pillow's
            raise ImageError(
                f"{source}: Pillow has no way to read how the channels are stored ({error}); save "
                "the image as PNG, or as TIFF with interleaved channels (planar configuration 1)"
            ) from error
        raise ImageError(
            f"{source}: the image data is truncated or damaged ({error}); copy or export the file "
            "again"
        ) from error


def decode_file(
    path: Path,
    max_pixels: int,
    *,
    directory: int | None = None,
    source: str | None = None,
    indices: bool = False,
) -> NDArray[Any]:
    """Read one image of a PNG, JPEG, BMP or TIFF file, upright, with its stored values.

    Args:
        path: the file.
        max_pixels: most pixels (height x width) accepted.
        directory: where the directory of the TIFF page to read is, in bytes from the start of the
            file (`textsam.io.tiff`); None where the file must hold one image.
        source: the name for messages; None for the path.
        indices: of an image with a palette give its indices instead of its colours.

    Returns:
        (H, W), (H, W, 3) or (H, W, 4), the last with alpha: bool, uint8, int8, uint16, int32,
        uint32 or float32 as the file stores them.

    Raises:
        ImageError: not such a file, several pages where `directory` is None, a size outside the
            limits (found from the header, before anything is decoded), or truncated or damaged
            data.
    """
    source = source or str(path)
    with _opened(path, directory, source) as stream:
        picture = _checked(stream, source, max_pixels, directory)
        with _truncation_refused:
            _set_memory_aside(picture)
            repair_byte_order(picture)
            deep = _deep_rawmode(picture, source)
            if deep is None:
                return array_from_pillow(picture, source, indices=indices)
            return upright(_read_deep(picture, deep, stream, source), picture)


def check_header(path: Path, max_pixels: int, *, directory: int | None = None) -> None:
    """Raise what can be said of a file of one image by its header alone; decode nothing."""
    with _opened(path, directory, str(path)) as stream:
        picture = _checked(stream, str(path), max_pixels, directory)
        refuse_lost_slices(picture, stream.seek(0, io.SEEK_END), str(path))


@contextmanager
def _opened(path: Path, directory: int | None, source: str) -> Iterator[BinaryIO]:
    try:
        raw = io.FileIO(path, "rb")
    except OSError as error:
        raise ImageError(
            f"{source}: the file cannot be opened ({error.strerror}); check its permissions"
        ) from error
    with ClampedReader(raw, os.fstat(raw.fileno()).st_size) as stream, _decoding_errors(source):
        yield stream if directory is None else stream_of_page(stream, directory, source)


def _checked(
    stream: BinaryIO, source: str, max_pixels: int, directory: int | None
) -> PIL.Image.Image:
    picture = _open(stream, source)
    check_size(picture.height, picture.width, source, max_pixels)
    refuse_depth(picture, source)
    if directory is None:
        _refuse_pages(picture, source)
    return picture


def stored_orientation(path: Path) -> int:
    """The EXIF orientation that a raster file carries and `upright` applies, from 1 to 8.

    The header alone is read: what a PNG says after its pixels is not seen.

    Returns:
        1, which turns nothing, where there is none, and for files of other kinds, which have none.
    """
    try:
        with _opened(path, None, str(path)) as stream:
            picture = _open(stream, str(path))
            # Not the method of PNG files, which decodes them to look behind their pixels.
            orientation = PIL.Image.Image.getexif(picture).get(_ORIENTATION, 1)
    except ImageError:
        return 1  # DICOM or NIfTI; what is wrong with any other file is said by who reads it
    return int(orientation) if orientation in range(1, 9) else 1


def array_from_pillow(
    picture: PIL.Image.Image, source: str, *, indices: bool = False
) -> NDArray[Any]:
    """The values of a Pillow image, upright; see `decode_file` for shapes and dtypes.

    The current frame is read. An EXIF orientation that is still to be applied is applied. Colour
    is 8 bits a channel in Pillow, whatever the file held: give a path to keep 16-bit colour.

    Raises:
        ImageError: a mode without a faithful conversion, or data that cannot be decoded.
    """
    with _decoding_errors(source), _truncation_refused:
        refuse_depth(picture, source)
        key = _key_of(picture)
        with _unmapped(picture):
            picture.load()
        own = indices and picture.mode == "P"
        return upright(np.asarray(picture) if own else _values(picture, key, source), picture)


def _open(stream: IO[bytes], source: str) -> PIL.Image.Image:
    with _header_unlimited, _big_endian_uint32:
        stream.seek(0)
        try:
            return PIL.Image.open(stream, formats=_FORMATS)
        except PIL.UnidentifiedImageError as error:
            raise ImageError(
                f"{source}: this is not an image that can be read here; accepted are {_READABLE} "
                "files (TIFF with 1 to 16-bit, int32, uint32 or float32 values), DICOM and NIfTI. "
                "Export it as PNG, or load it yourself and pass the numpy array"
            ) from error


def _set_memory_aside(picture: PIL.Image.Image) -> None:
    """Make the image that a TIFF is decoded into.

    Pillow would when it decodes, and compare the size with its own limit once more.
    """
    if isinstance(picture, PIL.TiffImagePlugin.TiffImageFile) and picture.tile:
        with _header_unlimited:
            picture.load_prepare()


@contextmanager
def _unmapped(picture: PIL.Image.Image) -> Iterator[None]:
    """Keep Pillow from mapping a TIFF file into memory, which it does by the file's name.

    Pillow 13 maps one that is to be turned by a quarter with its sides already exchanged, so that
    its rows run into each other.
    """
    if not isinstance(picture, PIL.TiffImagePlugin.TiffImageFile):
        yield
        return
    name, picture.filename = picture.filename, ""
    try:
        yield
    finally:
        picture.filename = name


def _refuse_pages(picture: PIL.Image.Image, source: str) -> None:
    # MPO is what phones and some cameras write under the name JPEG: one photograph, then previews.
    if picture.format == "MPO":
        return
    with _header_unlimited:
        try:
            picture.seek(1)
        except EOFError:
            return
        finally:
            picture.seek(0)
    raise ImageError(
        f"{source}: the file holds several pages or frames and it is not known which one is "
        "meant; open it with `page = PIL.Image.open(path)`, choose one with `page.seek(0)` and "
        "pass `page`, or pass each slice of the stack as its own array"
    )


def _key_of(picture: PIL.Image.Image) -> Any:
    """PNG's transparent value, where one is declared, on the scale the pixels are decoded to."""
    key = picture.info.get("transparency")
    # Pillow expands grey of 2 and 4 bits to 8, and leaves the value as it stands in the file.
    for rawmode, step in (("L;2", 85), ("L;4", 17)):
        if isinstance(key, int) and rawmode in raw_modes_of(picture):
            return key * step
    return key


def _values(picture: PIL.Image.Image, key: Any, source: str) -> NDArray[Any]:
    mode = picture.mode
    refuse_lost_channels(picture, source)
    refuse_split_alpha(picture, source)
    if has_signed_bytes(picture):
        return np.asarray(picture).view(np.int8)
    if mode == "L" and isinstance(key, int):
        return _with_key(np.asarray(picture), key)
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _with_key(single_channel(picture, source), key)
    if mode == "P":
        with_alpha = key is not None or (
            picture.palette is not None and picture.palette.mode.endswith("A")
        )
        return np.asarray(picture.convert("RGBA" if with_alpha else "RGB"))
    if mode in ("1", "L", "RGB") and key is None:
        return np.asarray(picture)
    if mode in ("1", "L", "RGB", "LA", "La", "PA", "RGBA", "RGBa"):
        # La has no direct way to RGBA in Pillow.
        return np.asarray((picture.convert("LA") if mode == "La" else picture).convert("RGBA"))
    if mode in ("RGBX", "CMYK", "YCbCr", "HSV"):
        return np.asarray(picture.convert("RGB"))
    raise ImageError(
        f"{source}: images of Pillow mode {mode!r} are not supported; convert the image to RGB or "
        "greyscale first"
    )


def _with_key(values: NDArray[Any], key: object) -> NDArray[Any]:
    """Turn PNG's transparent value, where one is declared, into an alpha channel of 0 and full."""
    if not isinstance(key, int | tuple):
        return values
    colour = values if values.ndim == 3 else values[:, :, np.newaxis]
    full = np.iinfo(values.dtype).max
    alpha = np.where((colour == np.asarray(key)).all(axis=2), 0, full).astype(values.dtype)
    colour = np.broadcast_to(colour[:, :, :3], (*values.shape[:2], 3))
    return np.concatenate([colour, alpha[:, :, np.newaxis]], axis=2)


def _deep_rawmode(picture: PIL.Image.Image, source: str) -> re.Match[str] | None:
    """The raw mode of a file with more than one channel of 16 bits, None for any other file."""
    rawmodes = raw_modes_of(picture)
    tags: Any = getattr(picture, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (8,))
    if len(bits) > 1 and max(bits) > 8 and tags.get(_PLANAR) == _SEPARATE_PLANES:
        # Pillow decodes such files without an error, to wrong values.
        raise ImageError(
            f"{source}: a TIFF of {max(bits)}-bit colour in separate planes cannot be read; save "
            "it with interleaved channels (planar configuration 1), or as 16-bit PNG"
        )
    deep = [
        rawmode
        for rawmode in rawmodes
        if isinstance(rawmode, str) and re.search(r"^(?!I;)\w+;16[LBN]?$", rawmode)
    ]
    if not deep:
        return None
    match = re.fullmatch(r"(RGB|RGBX|RGBA|LA);16([LBN])", deep[0])
    if match is None or len(set(rawmodes)) != 1:
        raise ImageError(
            f"{source}: 16-bit colour stored as {deep[0]!r} cannot be read without losing bits; "
            "save it as 16-bit RGB (interleaved, without premultiplied alpha) or as 8-bit PNG"
        )
    return match


def _read_deep(
    picture: PIL.Image.Image, rawmode: re.Match[str], stream: IO[bytes], source: str
) -> NDArray[np.uint16]:
    """Read 16-bit colour in two passes, since Pillow keeps one byte of each value a pass.

    Told that the bytes of a value stand in the other order, the same decoder delivers the lower
    byte where it otherwise delivers the upper one.
    """
    channels, order = rawmode.group(1), rawmode.group(2)
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    if channels == "LA":
        # Both bytes of both values fit the four channels of an ordinary RGBA image.
        set_raw_mode(picture, "RGBA")
        both = np.asarray(picture).astype(np.uint16)
        upper, lower = (0, 1) if order == "B" else (1, 0)
        pair = both[:, :, upper::2] * np.uint16(256) + both[:, :, lower::2]
        return np.concatenate([np.repeat(pair[:, :, :1], 3, axis=2), pair[:, :, 1:]], axis=2)
    other = _open(stream, source)
    _set_memory_aside(other)
    set_raw_mode(other, f"{channels};16{'B' if order == 'L' else 'L'}")
    low = np.asarray(other)
    # The first handle's decoder starts from its own offset, so the order of reading is free.
    high = np.asarray(picture)
    values = high.astype(np.uint16) * np.uint16(256) + low
    if channels == "RGBX":
        values = values[:, :, :3]
    key = picture.info.get("transparency")
    return _with_key(values, key) if channels == "RGB" else values


def upright(values: NDArray[Any], picture: PIL.Image.Image) -> NDArray[Any]:
    """Apply the EXIF orientation (EXIF 2.32, tag 0x0112); Pillow does so itself for TIFF.

    Args:
        values: (H, W) or (H, W, C) as stored.
        picture: what they were decoded from, after decoding.

    Returns:
        The same values, with sides exchanged where the orientation says so.
    """
    orientation = picture.getexif().get(_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values
