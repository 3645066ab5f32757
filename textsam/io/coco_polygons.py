"""Masks as COCO polygons that are drawn back to the very same pixels, where that is possible."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from textsam.io.coco_shapes import decode_union, rles_of

__all__ = ["exact_polygons", "pixel_outlines"]

Point = tuple[int, int]


def pixel_outlines(mask: NDArray[np.bool_]) -> list[list[Point]]:
    """The closed lines along the sides of a mask's pixels, corners alone.

    Args:
        mask: (H, W) bool.

    Returns:
        Rings of points (x, y), the origin at the corner of the image, the last not repeating the
        first: clockwise as seen around regions, the other way around holes. Regions that meet at a
        corner have a ring each.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    leaving: defaultdict[Point, list[Point]] = defaultdict(list)
    # A side belongs to a pixel inside whose neighbour there is outside: from where, to where.
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for neighbour, (x0, y0), (x1, y1) in sides:
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            leaving[x + x0, y + y0].append((x + x1, y + y1))
    rings = []
    while leaving:
        start = next(iter(leaving))
        ring = [start]
        step = (0, 0)
        while True:
            here = ring[-1]
            ways = leaving[here]
            # Where two pixels meet at a corner, stay with the pixel one came along: turn right.
            right = (here[0] - step[1], here[1] + step[0])
            following = right if right in ways else ways[0]
            ways.remove(following)
            if not ways:
                del leaving[here]
            step = (following[0] - here[0], following[1] - here[1])
            if following == start:
                break
            ring.append(following)
        rings.append(_corners(ring))
    return rings


def _corners(ring: list[Point]) -> list[Point]:
    """The points of a ring at which it turns."""
    closed = [ring[-1], *ring, ring[0]]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(closed)]
    return [point for point, (one, two) in zip(ring, pairwise(steps), strict=True) if one != two]


def exact_polygons(mask: NDArray[np.bool_]) -> list[list[float]] | None:
    """A mask as polygons x, y, x, y, … that pycocotools draws to the same pixels.

    Args:
        mask: (H, W) bool with a pixel.

    Returns:
        None where there are none, as with holes, which COCO polygons cannot have.

    Raises:
        DataError: pycocotools is not installed.
    """
    rings = [[float(value) for point in ring for value in point] for ring in pixel_outlines(mask)]
    size_px = (mask.shape[0], mask.shape[1])
    drawn = decode_union(rles_of(rings, size_px), size_px)
    return rings if np.array_equal(drawn, mask) else None
