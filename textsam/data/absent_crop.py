"""A part of an image that shows none of its annotated objects: a negative nobody can argue with.

A breast scan with a tumor, cut beside the tumor, is a breast scan without one, by the same scanner
and in the same style. Learning from these keeps a model from answering the kind of image instead
of the thing asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textsam.frame import bounds

__all__ = ["absent_crop"]

# Of the object's own size: annotations are drawn tight, and shadows and halos lie around them.
_MARGIN = 0.15
# Smaller parts, or narrower ones, show too little to be taken for an image.
_MIN_SIDE = 0.3
_MIN_SIDE_PX = 48
_MAX_ASPECT = 2.5


def absent_crop(
    masks: Sequence[NDArray[np.bool_]], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Draw a rectangle beside everything annotated.

    The candidates are the four strips left, right, above and below the bounds of all masks
    together, widened by a margin; one is drawn by area, and a part of it at random.

    Args:
        masks: (H, W) each, at least one; every instance of a concept is expected to be in its mask.
        rng: decides everything.

    Returns:
        Rows and columns, with the rectangle's shorter side at least 0.3 of the image's shorter
        side and its aspect at most 2.5; None where there is no such rectangle, or no object.
    """
    union = np.logical_or.reduce(masks)
    if not union.any():
        return None
    height, width = union.shape
    rows, columns = bounds(union)
    top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
    dy, dx = round(_MARGIN * (bottom - top)), round(_MARGIN * (right - left))
    strips = [
        (0, top - dy, 0, width),
        (bottom + dy, height, 0, width),
        (0, height, 0, left - dx),
        (0, height, right + dx, width),
    ]
    shortest = max(_MIN_SIDE_PX, round(_MIN_SIDE * min(height, width)))
    fitting = [s for s in strips if min(s[1] - s[0], s[3] - s[2]) >= shortest]
    if not fitting:
        return None
    areas = np.array([(s[1] - s[0]) * (s[3] - s[2]) for s in fitting], dtype=np.float64)
    y0, y1, x0, x1 = fitting[int(rng.choice(len(fitting), p=areas / areas.sum()))]
    # Shorter side first: the longer one must not exceed it by more than the aspect.
    first = _side(rng, min(y1 - y0, x1 - x0), shortest)
    second = _side(rng, min(max(y1 - y0, x1 - x0), int(first * _MAX_ASPECT)), shortest)
    tall, wide = (first, second) if y1 - y0 <= x1 - x0 else (second, first)
    y = y0 + int(rng.integers(0, y1 - y0 - tall + 1))
    x = x0 + int(rng.integers(0, x1 - x0 - wide + 1))
    return slice(y, y + tall), slice(x, x + wide)


def _side(rng: np.random.Generator, longest: int, shortest: int) -> int:
    return int(rng.integers(max(shortest, round(0.7 * longest)), longest + 1))
