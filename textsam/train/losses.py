"""Dice + binary cross-entropy on masks, and a regression of the decoder's predicted IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LossParts", "dice_loss", "iou_of_logits", "mask_losses"]


@dataclass
class LossParts:
    """The terms of one image's loss, each a scalar tensor."""

    bce: Tensor
    dice: Tensor
    iou: Tensor

    def total(self, bce_weight: float, dice_weight: float, iou_weight: float) -> Tensor:
        """Weighted sum."""
        return bce_weight * self.bce + dice_weight * self.dice + iou_weight * self.iou

    def logged(self) -> dict[str, float]:
        """Name -> number, for the log."""
        return {name: float(getattr(self, name).detach()) for name in ("bce", "dice", "iou")}


def dice_loss(logits: Tensor, targets: Tensor, smooth: float = 1e-5) -> Tensor:
    """One minus soft Dice with squared denominators, per mask.

    Args:
        logits: (n, h, w).
        targets: (n, h, w) in {0, 1}.
        smooth: keeps an empty pair finite; small, so that it does not blur small objects.

    Returns:
        (n,) losses in [0, 1].
    """
    probability = logits.sigmoid().flatten(1)
    truth = targets.flatten(1)
    overlap = (probability * truth).sum(1)
    sizes = probability.square().sum(1) + truth.square().sum(1)
    return 1 - (2 * overlap + smooth) / (sizes + smooth)


def iou_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Intersection over union of the thresholded logits, per mask; 0 where the target is empty.

    An empty target gets 0 even for an empty mask: the predicted IoU then says "not there".
    """
    mask, truth = (logits > 0).flatten(1), (targets > 0.5).flatten(1)
    union = (mask | truth).sum(1)
    return (mask & truth).sum(1) / union.clamp_min(1)


def mask_losses(logits: Tensor, predicted_iou: Tensor, targets: Tensor) -> LossParts:
    """The losses of n prompts on one image.

    Args:
        logits: (n, 1, h, w) decoder logits over the model's square.
        predicted_iou: (n, 1) from the decoder's IoU head.
        targets: (n, H, W) in {0, 1} over the valid part of the square, at the model's resolution
            or any other; logits are resized to it before the loss.

    Returns:
        Means over the prompts. Dice is a mean over the non-empty targets alone: for an empty
        target it is 1 whatever is predicted and says nothing; cross-entropy teaches emptiness.
    """
    flat = logits[:, 0]
    targets = targets.to(flat.dtype)
    bce = F.binary_cross_entropy_with_logits(flat, targets, reduction="none").flatten(1).mean(1)
    present = targets.flatten(1).any(1)
    dice = dice_loss(flat, targets)
    dice_mean = (dice * present).sum() / present.sum().clamp_min(1)
    with torch.no_grad():
        true_iou = iou_of_logits(flat, targets)
    iou = F.mse_loss(predicted_iou[:, 0], true_iou)
    return LossParts(bce=bce.mean(), dice=dice_mean, iou=iou)
