"""Turn the values of any numeric image array into the 0 to 255 range the model is trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError, LimitError

__all__ = ["MIN_SIDE_PX", "check_dtype", "check_shape", "check_size", "stretched", "to_rgb"]

MIN_SIDE_PX = 8
"""Shortest side accepted, in pixels: below it there is nothing a segmentation could show."""

# Rows are scaled in blocks of about this many values, so that double precision never costs more
# than a few dozen MB however large the image is.
_BLOCK_VALUES = 1 << 21


def check_dtype(array: NDArray[Any], source: str) -> None:
    """Raise ImageError unless `array` holds bool, integer or real numbers of at most 64 bits."""
    kind, dtype = array.dtype.kind, array.dtype
    if kind in "bui" or (kind == "f" and dtype.itemsize <= 8):
        return
    if kind == "c":
        remedy = "pass its magnitude, numpy.abs(image)"
    elif kind == "O":
        remedy = (
            "pass one regular array of numbers, for example numpy.stack(rows).astype('float32'); "
            "an object array usually comes from rows of different lengths"
        )
    else:
        remedy = "convert it, for example with image.astype('float32')"
    raise ImageError(
        f"{source}: an array of dtype {dtype} is not an image; {remedy}. "
        "Accepted: bool, integers, and float16, float32 or float64."
    )


def check_size(height: int, width: int, source: str, max_pixels: int) -> None:
    """Raise ImageError for an empty or too small image, LimitError for a too large one.

    The dimensions alone are looked at.
    """
    if height <= 0 or width <= 0:
        raise ImageError(
            f"{source}: the image is empty ({height} rows, {width} columns); pass an image of at "
            f"least {MIN_SIDE_PX} x {MIN_SIDE_PX} pixels"
        )
    if min(height, width) < MIN_SIDE_PX:
        raise ImageError(
            f"{source}: the image has {height} rows and {width} columns; at least {MIN_SIDE_PX} "
            "pixels a side are needed. Pass the full image, not a thumbnail or a single pixel"
        )
    if height * width > max_pixels:
        raise LimitError(
            f"{source}: the image has {height} rows x {width} columns = {height * width:,} pixels, "
            f"more than the limit of {max_pixels:,}; crop or shrink it, or raise the limit with "
            "max_pixels=... (--max-pixels) or, where that is not given, with the environment "
            "variable TEXTSAM_MAX_PIXELS"
        )


def check_shape(shape: tuple[int, ...], source: str) -> None:
    """Raise ImageError unless `shape` is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        return
    accepted = "accepted shapes are (H, W), (H, W, 1), (H, W, 3) and (H, W, 4)"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        remedy = (
            "it looks channels-first, (C, H, W): pass numpy.moveaxis(image, 0, -1), or image[0] "
            "for one channel"
        )
    elif len(shape) == 3 and shape[2] == 2:
        remedy = "two channels have no agreed meaning: pass the one to segment, image[..., 0]"
    elif len(shape) == 3:
        remedy = "it looks like a volume: pass one slice at a time"
    elif len(shape) == 4:
        remedy = "it looks like a batch or a volume: pass one image at a time"
    else:
        remedy = "pass one two-dimensional image"
    raise ImageError(f"{source}: an array of shape {shape} is not an image; {remedy} ({accepted})")


def to_rgb(array: NDArray[Any], source: str) -> NDArray[Any]:
    """Scale values to [0, 255], composite alpha over black and repeat grey to three channels.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) numbers; shape, dtype and size have been
            checked before with the functions above.
        source: how the input is called in messages.

    Returns:
        (H, W, 3) in its own memory: uint8 for uint8 and bool input, float32 in [0, 255] otherwise.

    Values:
        * uint8 is kept as it is; bool becomes 0 and 255.
        * float images whose values all lie in [0, 1] are multiplied by 255.
        * everything else is stretched linearly so that the smallest value of the whole image, all
          colour channels together, becomes 0 and the largest 255. A constant image becomes 0.
        * alpha of an image that is opaque throughout is dropped; otherwise the scaled colours are
          multiplied by it, which is compositing over black.

    Raises:
        ImageError: NaN or infinite values, or an alpha channel whose range has no agreed meaning.
    """
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    colour, alpha = array[:, :, :3], array[:, :, 3] if array.shape[2] == 4 else None
    opacity = None if alpha is None else _opacity(alpha, source)
    if array.dtype == np.uint8:
        scaled = colour
    elif array.dtype.kind == "b":
        scaled = colour.astype(np.uint8) * np.uint8(255)
    else:
        scaled = _stretch(colour, source)
    if opacity is not None:
        scaled = _over_black(scaled, opacity)
    rgb = np.empty((*array.shape[:2], 3), dtype=scaled.dtype)
    rgb[...] = scaled
    return rgb


def _limits(values: NDArray[Any], source: str) -> tuple[float, float]:
    # min and max carry NaN through, so finiteness needs no second array the size of the image.
    with np.errstate(invalid="ignore"):
        low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise ImageError(
            f"{source}: {bad:,} of {values.size:,} values are NaN or infinite; replace them "
            "first, for example with numpy.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)"
        )
    return float(low), float(high)


def _stretch(values: NDArray[Any], source: str) -> NDArray[np.float32]:
    low, high = _limits(values, source)
    if values.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    return stretched(values, low, high)


def stretched(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """`low` to 0, `high` to 255, linear between and cut off beyond; all is 0 where they are equal.

    Args:
        values: (H, W) or (H, W, C); NaN stays NaN.
        low, high: finite.
    """
    out = np.zeros(values.shape, dtype=np.float32)
    if low == high:
        return out
    # Halving keeps the difference of two huge float64 values from overflowing.
    half = 1.0 if np.isfinite(high - low) else 0.5
    low, span = low * half, high * half - low * half
    rows = max(1, _BLOCK_VALUES // values[0].size)
    with np.errstate(over="ignore", invalid="ignore"):
        for top in range(0, values.shape[0], rows):
            block = values[top : top + rows].astype(np.float64)
            block *= half
            block -= low
            block /= span
            block *= 255.0
            out[top : top + rows] = np.clip(block, 0.0, 255.0, out=block)
    return out


def _opacity(alpha: NDArray[Any], source: str) -> NDArray[np.float32] | None:
    """Alpha as float32 in [0, 1], or None where the image is opaque throughout."""
    low, high = _limits(alpha, source)
    if alpha.dtype.kind in "bu":
        top = 1.0 if alpha.dtype.kind == "b" else float(np.iinfo(alpha.dtype).max)
    elif alpha.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        top = 1.0
    else:
        raise ImageError(
            f"{source}: the fourth channel holds values from {low:g} to {high:g} in "
            f"{alpha.dtype}, which is no alpha channel (floats must lie in [0, 1], integers must "
            "be unsigned); pass the three colour channels, image[..., :3]"
        )
    if low == top:
        return None
    return np.asarray(alpha / top, dtype=np.float32)


def _over_black(colour: NDArray[Any], opacity: NDArray[np.float32]) -> NDArray[Any]:
    shown: NDArray[np.float32] = np.multiply(colour, opacity[:, :, np.newaxis], dtype=np.float32)
    return np.rint(shown).astype(np.uint8) if colour.dtype == np.uint8 else shown
