"""What a TIFF says of its samples, where Pillow does not heed it."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from textsam.errors import ImageError

__all__ = ["has_signed_bytes", "refuse_lost_channels", "single_channel"]

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_SAMPLES_PER_PIXEL = 277
_SAMPLE_FORMAT = 339
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2


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
