"""A closer look at one object: the part of an image around it, as a tighter field of view shows it.

Scanners and archives crop as they please, and an object fills more of some images than of others. A
model that answers a second time, from a crop around what it found first, is asked about such images
too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["close_crop"]

# Narrower parts show too little to be taken for an image.
_MIN_SIDE_PX = 32
# Nearly the whole image is no closer look.
_LARGEST_PART = 0.85


def close_crop(
    masks: Sequence[NDArray[np.bool_]], factor: tuple[float, float], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Draw a square around one of the objects, cut at the image's edge.

    Args:
        masks: (H, W) each; one that is not empty is drawn.
        factor: bounds of the square's side as a multiple of the object's longer side, drawn
            log-uniformly; 1 or more, so that all of the object is inside.
        rng: decides everything.

    Returns:
        Rows and columns; None where no mask shows anything, or the square is not clearly smaller
        than the image's longer side.
    """
    shown = [mask for mask in masks if mask.any()]
    if not shown:
        return None
    mask = shown[int(rng.integers(len(shown)))]
    height, width = mask.shape
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    longer = max(bottom - top, right - left)
    drawn = math.exp(rng.uniform(math.log(factor[0]), math.log(factor[1])))
    side = max(_MIN_SIDE_PX, longer, round(drawn * longer))
    if side > _LARGEST_PART * max(height, width):
        return None
    rows = _place(top, bottom, side, height, rng)
    columns = _place(left, right, side, width, rng)
    return rows, columns


def _place(first: int, last: int, side: int, size: int, rng: np.random.Generator) -> slice:
    """`side` places that include first to last, anywhere that they do; the whole where too few."""
    if side >= size:
        return slice(0, size)
    begin = int(rng.integers(max(0, last - side), min(first, size - side) + 1))
    return slice(begin, begin + side)
