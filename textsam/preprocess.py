"""From an image to the square tensor a model sees, and between the two coordinate frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

__all__ = [
    "Frame",
    "MinMaxPixels",
    "PixelNormaliser",
    "Preprocessor",
    "StandardPixels",
    "resize_pixels",
]

PixelNormaliser = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Frame:
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

    def to_image(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map (..., 2) points from the model's frame back to the image's."""
        (height, width), (valid_height, valid_width) = self.image_px, self.valid_px
        return np.asarray(points, dtype=np.float64) * (width / valid_width, height / valid_height)

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


class StandardPixels:
    """SAM's normalisation: subtract the mean and divide by the deviation, per channel."""

    def __init__(
        self,
        mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
        std: tuple[float, float, float] = (58.395, 57.12, 57.375),
    ) -> None:
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)

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
