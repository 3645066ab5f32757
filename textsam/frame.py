"""An image inside the model's square, its resizing, and the geometry of masks: without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

__all__ = ["SquareGeometry", "bounds", "box_and_centroid", "resize_pixels"]


@dataclass(frozen=True)
class SquareGeometry:
    """How one image lies inside the model's square input.

    The image's longer side is resized to `side_px`; the rest of the square, to the right and
    below, is padding. Points are (x, y), x to the right and y down, in pixels.

    Attributes:
        image_px: (height, width) of the image.
        side_px: side of the model's square input.
    """

    image_px: tuple[int, int]
    side_px: int

    @property
    def valid_px(self) -> tuple[int, int]:
        """(height, width) of the resized image inside the square, at least 1 each."""
        height, width = self.image_px
        scale = self.side_px / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def to_model(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map (..., 2) points from the image's frame to the model's.

        The scaling is SAM's own (`ResizeLongestSide`): coordinates are multiplied by the ratio of
        the resized to the original side, per axis; SAM's prompt encoder adds the half pixel.
        """
        (height, width), (valid_height, valid_width) = self.image_px, self.valid_px
        return np.asarray(points, dtype=np.float64) * (valid_width / width, valid_height / height)


def resize_pixels(pixels: NDArray[np.generic], size_px: tuple[int, int]) -> NDArray[np.generic]:
    """Resize as SAM was trained: Pillow's bilinear filter, which averages when it shrinks.

    Args:
        pixels: (H, W, 3), uint8 or float32.
        size_px: (height, width) wanted.

    Returns:
        (height, width, 3) of the same type; uint8 stays rounded to uint8, as in SAM.
    """
    if pixels.shape[:2] == size_px:
        return pixels
    size = (size_px[1], size_px[0])
    if pixels.dtype == np.uint8:
        image = PILImage.fromarray(np.ascontiguousarray(pixels))
        return np.array(image.resize(size, PILImage.Resampling.BILINEAR))
    channels = [
        PILImage.fromarray(np.ascontiguousarray(pixels[..., i], dtype=np.float32))
        for i in range(pixels.shape[-1])
    ]
    resized = [np.array(c.resize(size, PILImage.Resampling.BILINEAR)) for c in channels]
    return np.stack(resized, axis=-1)


def bounds(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around a mask (H, W) that has a pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def box_and_centroid(
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Inclusive bounds (x_min, y_min, x_max, y_max) and centre of mass (x, y) of a mask.

    Returns:
        (4,) and (2,), in pixels, or None for an empty mask.
    """
    columns, rows = mask.any(0), mask.any(1)
    if not columns.any():
        return None
    xs, ys = np.flatnonzero(columns), np.flatnonzero(rows)
    per_row, per_column = mask.sum(1, dtype=np.float64), mask.sum(0, dtype=np.float64)
    total = per_row.sum()
    centroid = np.array(
        [
            (per_column * np.arange(mask.shape[1])).sum() / total,
            (per_row * np.arange(mask.shape[0])).sum() / total,
        ]
    )
    return np.array([xs[0], ys[0], xs[-1], ys[-1]], dtype=np.float64), centroid
