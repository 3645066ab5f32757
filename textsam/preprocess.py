"""From an image to the square tensor a model sees, and between the two coordinate frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from textsam.frame import SquareGeometry, resize_pixels

__all__ = ["Frame", "MinMaxPixels", "PixelNormaliser", "Preprocessor", "StandardPixels"]

PixelNormaliser = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Frame(SquareGeometry):
    """How one image lies inside the model's square input, with logits as tensors."""

    def logits_to_image(self, logits: Tensor) -> Tensor:
        """Bring decoder logits to the image's own resolution: enlarge, cut the padding, resize.

        Args:
            logits: (N, 1, h, w) low-resolution logits over the whole square.

        Returns:
            (N, 1, H, W) logits. Thresholding comes after, never before.
        """
        square = F.interpolate(
            logits, (self.side_px, self.side_px), mode="bilinear", align_corners=False
        )
        valid_height, valid_width = self.valid_px
        return F.interpolate(
            square[..., :valid_height, :valid_width],
            self.image_px,
            mode="bilinear",
            align_corners=False,
        )


class StandardPixels:
    """SAM's normalisation: subtract the mean and divide by the deviation, per channel."""

    def __init__(self) -> None:
        self.mean = torch.tensor((123.675, 116.28, 103.53)).view(3, 1, 1)
        self.std = torch.tensor((58.395, 57.12, 57.375)).view(3, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise (3, h, w) values in [0, 255]."""
        return (pixels - self.mean.to(pixels.device)) / self.std.to(pixels.device)


class MinMaxPixels:
    """LiteMedSAM's normalisation: the image's smallest value becomes 0, its largest 1."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise (3, h, w) values in [0, 255]; a constant image becomes 0."""
        low, high = pixels.amin(), pixels.amax()
        return (pixels - low) / (high - low).clamp_min(1e-8)


@dataclass(frozen=True)
class Preprocessor:
    """Image -> normalised, padded (3, side, side) tensor and its `Frame`.

    Attributes:
        side_px: side of the model's square input.
        normalise: applied to the resized image, before padding with zeros.
    """

    side_px: int
    normalise: PixelNormaliser

    def __call__(self, pixels: NDArray[np.generic]) -> tuple[Tensor, Frame]:
        """Prepare one image.

        Args:
            pixels: (H, W, 3), uint8 or float32 in [0, 255].

        Returns:
            (3, side, side) float32 tensor and the frame that maps coordinates.
        """
        frame = Frame((int(pixels.shape[0]), int(pixels.shape[1])), self.side_px)
        resized = resize_pixels(pixels, frame.valid_px).astype(np.float32)
        return self.normalise_and_pad(torch.from_numpy(resized).permute(2, 0, 1)), frame

    def normalise_and_pad(self, image: Tensor) -> Tensor:
        """Normalise a resized (3, h, w) image in [0, 255] and pad it to the square."""
        height, width = image.shape[-2:]
        return F.pad(self.normalise(image), (0, self.side_px - width, 0, self.side_px - height))
