"""A finding as a small picture: the part of the image where it is, mask and defect outlined."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray

from textsam.data.defects import Defect
from textsam.folder.sheet import TILE_PX, captioned_tile
from textsam.overlay import DEFAULT_COLOUR, outlines

__all__ = ["DEFECT_COLOUR", "draw_defect"]

DEFECT_COLOUR = (0, 229, 255)
"""Cyan, beside the orange of masks."""

_LEAST_SIDE_PX = 48
_MARGIN = 0.35
_RING_PX = 3.0


def draw_defect(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], defect: Defect, name: str
) -> PIL.Image.Image:
    """A tile of a contact sheet.

    Args:
        pixels: (H, W, 3) image in [0, 255].
        mask: (H, W) bool, outlined in orange.
        defect: in it, outlined in cyan; what is too small to see gets a ring around it.
        name: of the image and the concept.
    """
    left, top, width, height = _window(defect.region)
    cut = (slice(top, top + height), slice(left, left + width))
    scale = TILE_PX / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resample = PIL.Image.Resampling.NEAREST if scale > 1 else PIL.Image.Resampling.BOX
    picture = PIL.Image.fromarray(pixels[cut]).resize(size, resample)
    draw = PIL.ImageDraw.Draw(picture)
    for region, colour in ((mask[cut], DEFAULT_COLOUR), (_grown(defect.region[cut], scale), None)):
        for line in outlines(region):
            points = [(float(x), float(y)) for x, y in (line + 0.5) * scale - 0.5]
            draw.line(points, fill=colour or DEFECT_COLOUR, width=1 if colour else 2)
    return captioned_tile(picture, name, defect.message)


def _window(region: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, width and height of the part to show: the defect and what is around it."""
    ys, xs = np.nonzero(region)
    sides = []
    for places, length in ((xs, region.shape[1]), (ys, region.shape[0])):
        low, high = int(places.min()), int(places.max()) + 1
        extent = max(_LEAST_SIDE_PX, math.ceil((high - low) * (1 + 2 * _MARGIN)))
        extent = min(extent, length)
        start = min(max(0, (low + high - extent) // 2), length - extent)
        sides.append((start, extent))
    (left, width), (top, height) = sides
    return left, top, width, height


def _grown(region: NDArray[np.bool_], scale: float) -> NDArray[np.bool_]:
    """The region with a ring of some pixels of the tile around it."""
    from scipy import ndimage

    away = ndimage.distance_transform_edt(~region)
    return np.asarray(away * scale <= _RING_PX)
