"""A closer look at one object: the part of an image around it, as a tighter field of view shows it.

Scanners and archives crop as they please, and an object fills more of some images than of others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textsam.data.draws import log_uniform
from textsam.frame import bounds

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
    rows, columns = bounds(mask)
    longer = max(rows.stop - rows.start, columns.stop - columns.start)
    side = max(_MIN_SIDE_PX, longer, round(log_uniform(rng, factor) * longer))
    if side > _LARGEST_PART * max(height, width):
        return None
    return _around(rows, side, height, rng), _around(columns, side, width, rng)


def _around(part: slice, side: int, size: int, rng: np.random.Generator) -> slice:
    """`side` of `size` places, anywhere that they include the part; all where there are no more."""
    if side >= size:
        return slice(0, size)
    begin = int(rng.integers(max(0, part.stop - side), min(part.start, size - side) + 1))
    return slice(begin, begin + side)
