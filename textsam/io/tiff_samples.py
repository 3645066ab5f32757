"""What a TIFF says of its samples, where Pillow does not heed it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from textsam.errors import ImageError

__all__ = [
    "has_signed_bytes",
    "refuse_depth",
    "refuse_lost_channels",
    "refuse_lost_slices",
    "refuse_split_alpha",
    "single_channel",
]

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_IMAGE_DESCRIPTION = 270
_STRIP_OFFSETS = 273
_SAMPLES_PER_PIXEL = 277
_PLANAR = 284
_SAMPLE_FORMAT = 339
_IMAGE_DEPTH = 32997
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2
_SEPARATE_PLANES = 2


def refuse_lost_channels(picture: PIL.Image.Image, source: str) -> None:
    """Refuse a TIFF of which Pillow drops channels, without a word, that it has no meaning for.

    Raises:
        ImageError: it has more channels than are shown.
    """
    tags: Any = getattr(picture, "tag_v2", {})
    stored, shown = int(tags.get(_SAMPLES_PER_PIXEL, 1)), len(picture.getbands())
    # A fourth channel of no stated meaning beside red, green and blue is padding, as a rule.
    if stored > shown and (stored, shown) != (4, 3):
        raise ImageError(
            f"{source}: the TIFF has {stored} channels and no agreed meaning for "
            f"{stored - shown} of them; save the channel to segment, or red, green and blue, alone"
        )


def refuse_split_alpha(picture: PIL.Image.Image, source: str) -> None:
    """Refuse a TIFF of grey and alpha in separate planes, of which Pillow loses the alpha.

    Raises:
        ImageError: it is one.
    """
    tags: Any = getattr(picture, "tag_v2", {})
    if tags.get(_PLANAR) == _SEPARATE_PLANES and picture.mode in ("LA", "La"):
        raise ImageError(
            f"{source}: a TIFF of grey and alpha in separate planes cannot be read; save it with "
            "interleaved channels (planar configuration 1), or as PNG"
        )


def refuse_depth(picture: PIL.Image.Image, source: str) -> None:
    """Refuse a page that is a volume (tag ImageDepth), of which Pillow reads some slice or other.

    Raises:
        ImageError: it is one.
    """
    tags: Any = getattr(picture, "tag_v2", {})
    slices = tags.get(_IMAGE_DEPTH, 1)
    if slices != 1:
        raise ImageError(
            f"{source}: a TIFF page that is a volume of {slices} slices; save it with a page for "
            "each, for example with tifffile.imwrite(new_path, tifffile.imread(path), "
            'photometric="minisblack")'
        )


def refuse_lost_slices(picture: PIL.Image.Image, size_bytes: int, source: str) -> None:
    """Refuse a stack of which only the first slice is listed as a page.

    ImageJ writes stacks of more than 4 GB so: the slices follow each other without directories, and
    the description says how many there are.

    Args:
        picture: the one page of a file.
        size_bytes: of the file.
        source: the name for messages.

    Raises:
        ImageError: it is the first slice of such a stack.
    """
    tags: Any = getattr(picture, "tag_v2", {})
    described = str(tags.get(_IMAGE_DESCRIPTION, ""))
    count = re.search(r"^images=(\d+)", described, re.MULTILINE)
    if count is None or not described.startswith("ImageJ=") or _STRIP_OFFSETS not in tags:
        return
    slices = int(count[1])
    slice_bytes = picture.width * picture.height * sum(tags.get(_BITS_PER_SAMPLE, (1,))) // 8
    # The description alone may have come along when one slice was cut out of a stack.
    if slices > 1 and tags[_STRIP_OFFSETS][0] + slices * slice_bytes <= size_bytes:
        raise ImageError(
            f"{source}: an ImageJ stack of {slices} slices of which one alone is listed as a page; "
            "save it with a page for each, for example with tifffile.imwrite(new_path, "
            'tifffile.imread(path), photometric="minisblack")'
        )


def has_signed_bytes(picture: PIL.Image.Image) -> bool:
    """Whether it is a TIFF of signed bytes, which Pillow opens in grey alone, as unsigned ones."""
    tags: Any = getattr(picture, "tag_v2", {})
    bits, formats = tags.get(_BITS_PER_SAMPLE, (1,)), tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))
    return picture.mode == "L" and bits[0] == 8 and formats[0] == _SIGNED


def single_channel(picture: PIL.Image.Image, source: str) -> NDArray[Any]:
    """(H, W) values of an image of more than 8 bits, unsigned and black-is-zero where they are.

    Raises:
        ImageError: white-is-zero of signed or floating-point values.
    """
    values = np.asarray(picture)
    tags: Any = getattr(picture, "tag_v2", None)
    if tags is None:
        return values
    if picture.mode == "I" and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED:
        # Pillow has no unsigned 32-bit mode and lets large values wrap to negative ones.
        values = values.view(np.uint32)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        if values.dtype.kind != "u":
            raise ImageError(
                f"{source}: a white-is-zero TIFF with signed or floating-point values has no "
                "defined white; invert the values and save it as black-is-zero"
            )
        # Pillow inverts white-is-zero for 8 bits but not for more.
        bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
        values = values.dtype.type(2**bits - 1) - values
    return values
