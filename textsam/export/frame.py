"""Preprocessing and postprocessing in numpy: what `textsam.preprocess` does in PyTorch.

The two agree value by value before the model and to rounding after it; tests/test_export.py
compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsam.export.record import Normalisation
from textsam.frame import SquareGeometry, resize_pixels

__all__ = ["SquareFrame", "model_input", "normalised", "sigmoid"]


@dataclass(frozen=True)
class SquareFrame(SquareGeometry):
    """How one image lies inside the model's square input, with logits as arrays."""

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
    channels_first = resize_pixels(pixels, (height, width)).astype(np.float32).transpose(2, 0, 1)
    square = np.zeros((1, 3, side_px, side_px), dtype=np.float32)
    square[0, :, :height, :width] = normalised(channels_first, rule)
    return square, frame


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits to probabilities in [0, 1]; logits of any size, without overflow."""
    half = np.float32(0.5)
    probability: NDArray[np.float32] = half * (np.tanh(half * logits) + np.float32(1))
    return probability
