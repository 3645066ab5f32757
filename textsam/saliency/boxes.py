"""A stand-in without a vision-language model: what the base model itself takes for an object."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from textsam.model.build import BuiltModel

__all__ = ["BoxSaliency", "contrast_of", "grid_boxes", "stability_of"]

# Part of the image's sides that a box has, and how many of these stand in a row.
_SCALES = ((0.9, 1), (0.5, 3), (0.3, 5))
# Parts of the image that are no object: most of it, or a speck.
_MOST, _LEAST = 0.5, 0.003


def grid_boxes(size_px: tuple[int, int]) -> Tensor:
    """Boxes of three sizes, evenly spread.

    Args:
        size_px: (height, width) of the part of the square that is image.

    Returns:
        (35, 4) of (x_min, y_min, x_max, y_max) in the model's frame, in pixels.
    """
    height, width = size_px
    boxes = []
    for part, count in _SCALES:
        starts = np.linspace(0, 1 - part, count) if count > 1 else [(1 - part) / 2]
        boxes += [
            (x * (width - 1), y * (height - 1), (x + part) * (width - 1), (y + part) * (height - 1))
            for y in starts
            for x in starts
        ]
    return torch.tensor(boxes, dtype=torch.float32)


def stability_of(logits: Tensor) -> Tensor:
    """IoU of each mask cut one logit higher with itself cut one lower, as SAM ranks its masks.

    Args:
        logits: (n, h, w).

    Returns:
        (n,) in [0, 1]; 0 where both are empty.
    """
    high, low = ((logits > cut).flatten(1).sum(1) for cut in (1, -1))
    return high / low.clamp_min(1)


def contrast_of(masks: Tensor, grey: Tensor, ring_px: int) -> Tensor:
    """How much a mask's brightness differs from that of the ring around it.

    Args:
        masks: (n, h, w) bool.
        grey: (h, w).
        ring_px: width of the ring.

    Returns:
        (n,), the difference of means in standard deviations of the image; 0 where mask or ring has
        no pixel.
    """
    grown = F.max_pool2d(masks[:, None].float(), 2 * ring_px + 1, 1, ring_px)[:, 0] > 0
    rings = grown & ~masks

    def mean(where: Tensor) -> Tensor:
        return (grey * where).flatten(1).sum(1) / where.flatten(1).sum(1).clamp_min(1)

    both = masks.flatten(1).any(1) & rings.flatten(1).any(1)
    difference = (mean(masks) - mean(rings)).abs() / grey.std().clamp_min(1e-6)
    return torch.where(both, difference, 0.0)


class BoxSaliency:
    """The likeliest object of an image: it is asked for boxes everywhere and ranks the answers.

    It knows nothing of the text. An answer's score is the predicted IoU times its stability times
    its contrast c / (1 + c); masks of more than half or less than 0.3 % of the image do not count.
    That is a prior (an object of its own brightness, most of it inside a box), not recognition.

    Args:
        built: a model that answers boxes: base weights, no adapter, in eval mode.
    """

    name = "boxes"

    def __init__(self, built: BuiltModel) -> None:
        self.built = built

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8], text: str = "") -> NDArray[np.float32]:  # noqa: ARG002
        """The probability map of the best answer.

        Args:
            pixels: (H, W, 3) in [0, 255].
            text: for the same call as `ClipSaliency`; not used.

        Returns:
            (H, W) in [0, 1]; all 0 where no answer counts.
        """
        model = self.built.model
        square, frame = self.built.preprocessor(pixels)
        embedding = model.encode_image(square[None])
        boxes = grid_boxes(frame.valid_px)
        logits, predicted = model.decode(embedding, *model.prompt_tokens(None, boxes=boxes))
        side = self.built.preprocessor.side_px
        height, width = frame.valid_px
        large = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        inside = large[:, 0, :height, :width]
        masks = inside > 0
        contrast = contrast_of(masks, square[:, :height, :width].mean(0), max(1, side // 16))
        score = predicted[:, 0].clamp(0, 1) * stability_of(inside) * contrast / (1 + contrast)
        part = masks.flatten(1).float().mean(1)
        score = torch.where((part <= _MOST) & (part >= _LEAST), score, 0.0)
        best = int(score.argmax())
        if score[best] <= 0:
            return np.zeros(pixels.shape[:2], dtype=np.float32)
        answer = frame.logits_to_image(logits[best : best + 1])[0, 0].sigmoid()
        return np.asarray(answer.numpy(), dtype=np.float32)
