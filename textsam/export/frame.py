"""Preprocessing and postprocessing in numpy: what `textsam.preprocess` does in PyTorch.

The two agree value by value before the model and to rounding after it; tests/test_export.py
compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from textsam.export.record import Normalisation

__all__ = ["SquareFrame", "box_and_centroid", "model_input", "normalised", "resized", "sigmoid"]


@dataclass(frozen=True)
class SquareFrame:
    """How one image lies inside the model's square input, as `textsam.preprocess.Frame`.

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

    def to_model(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map (..., 2) points (x, y) in pixels from the image's frame to the model's."""
        (height, width), (valid_height, valid_width) = self.image_px, self.valid_px
        return points * (valid_width / width, valid_height / height)

    def logits_to_image(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring (h, w) logits over the whole square to (H, W) at the image's resolution."""
        square = _interpolate(logits, (self.side_px, self.side_px))
        valid_height, valid_width = self.valid_px
        return _interpolate(square[:valid_height, :valid_width], self.image_px)


def _interpolate(values: NDArray[np.float32], size_px: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear without antialiasing, pixel areas aligned: torch's with `align_corners=False`."""
    rows, next_rows, down = _taps(values.shape[0], size_px[0])
    columns, next_columns, right = _taps(values.shape[1], size_px[1])
    one = np.float32(1)
    wide = values[:, columns] * (one - right) + values[:, next_columns] * right
    tall: NDArray[np.float32] = wide[rows] * (one - down)[:, None]
    tall += wide[next_rows] * down[:, None]
    return tall


def _taps(size: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Per output sample, the two input samples around it and the share of the second."""
    # In float32 throughout, as torch computes them for float32 values.
    scale = np.float32(size) / np.float32(wanted)
    place = scale * (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    place = np.maximum(place, np.float32(0))
    first = np.minimum(place.astype(np.intp), size - 1)
    share = np.clip(place - first.astype(np.float32), np.float32(0), np.float32(1))
    return first, np.minimum(first + 1, size - 1), share


def resized(pixels: NDArray[np.generic], size_px: tuple[int, int]) -> NDArray[np.generic]:
    """Resize (H, W, 3) uint8 or float32 pixels with Pillow's bilinear filter, dtype kept."""
    if pixels.shape[:2] == size_px:
        return pixels
    size = (size_px[1], size_px[0])
    bilinear = PIL.Image.Resampling.BILINEAR
    if pixels.dtype == np.uint8:
        picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
        return np.array(picture.resize(size, bilinear))
    channels = [
        PIL.Image.fromarray(np.ascontiguousarray(pixels[..., i], dtype=np.float32))
        for i in range(pixels.shape[-1])
    ]
    return np.stack([np.array(channel.resize(size, bilinear)) for channel in channels], axis=-1)


def normalised(pixels: NDArray[np.float32], rule: Normalisation) -> NDArray[np.float32]:
    """Normalise (3, h, w) values in [0, 255]."""
    if rule.kind == "standard":
        mean, std = np.array(rule.mean, np.float32), np.array(rule.std, np.float32)
        return (pixels - mean[:, None, None]) / std[:, None, None]
    low, high = pixels.min(), pixels.max()
    scaled: NDArray[np.float32] = (pixels - low) / np.maximum(high - low, np.float32(1e-8))
    return scaled


def model_input(
    pixels: NDArray[np.generic], side_px: int, rule: Normalisation
) -> tuple[NDArray[np.float32], SquareFrame]:
    """Prepare one image for the exported encoder.

    Args:
        pixels: (H, W, 3), uint8 or float32 in [0, 255].
        side_px: side of the encoder's square input.
        rule: pixel normalisation.

    Returns:
        (1, 3, side, side) float32, zeros right of and below the image, and the image's frame.
    """
    frame = SquareFrame((int(pixels.shape[0]), int(pixels.shape[1])), side_px)
    height, width = frame.valid_px
    channels_first = resized(pixels, (height, width)).astype(np.float32).transpose(2, 0, 1)
    square = np.zeros((1, 3, side_px, side_px), dtype=np.float32)
    square[0, :, :height, :width] = normalised(channels_first, rule)
    return square, frame


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits to probabilities in [0, 1]; logits of any size, without overflow."""
    half = np.float32(0.5)
    probability: NDArray[np.float32] = half * (np.tanh(half * logits) + np.float32(1))
    return probability


def box_and_centroid(
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Inclusive bounds (x_min, y_min, x_max, y_max) and centre of mass (x, y) of an (H, W) mask.

    Returns:
        (4,) and (2,), in pixels, or None for an empty mask.
    """
    per_row, per_column = mask.sum(1, dtype=np.float64), mask.sum(0, dtype=np.float64)
    ys, xs = np.flatnonzero(per_row), np.flatnonzero(per_column)
    if not xs.size:
        return None
    total = per_row.sum()
    x = (per_column * np.arange(per_column.size)).sum() / total
    y = (per_row * np.arange(per_row.size)).sum() / total
    return np.array([xs[0], ys[0], xs[-1], ys[-1]], dtype=np.float64), np.array([x, y])
