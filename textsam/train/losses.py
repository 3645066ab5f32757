"""Dice + binary cross-entropy on masks, a regression of the predicted IoU, and distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "LossParts",
    "batch_losses",
    "dice_loss",
    "distillation_loss",
    "emptiness_loss",
    "iou_of_logits",
    "mask_losses",
    "mixed",
]

# Share of the image at which a mask that should be empty costs half.
_HALF_SHARE = 0.01
# Keeps an empty pair finite; small, so that it does not blur small objects.
_SMOOTH = 1e-5


@dataclass
class LossParts:
    """The terms of one image's loss, each a scalar tensor.

    Attributes:
        bce, dice, iou: of the masks.
        distillation: pull of earlier passes towards the last; None without.
        distillation_weight: of it in the total.
    """

    bce: Tensor
    dice: Tensor
    iou: Tensor
    distillation: Tensor | None = None
    distillation_weight: float = 0.0

    def total(self, bce_weight: float, dice_weight: float, iou_weight: float) -> Tensor:
        """Weighted sum."""
        total = bce_weight * self.bce + dice_weight * self.dice + iou_weight * self.iou
        if self.distillation is None:
            return total
        return total + self.distillation_weight * self.distillation

    def logged(self) -> dict[str, Tensor | float]:
        """Name -> number, for the log; what is a tensor is still on its device."""
        terms: dict[str, Tensor | float] = {"bce": self.bce, "dice": self.dice, "iou": self.iou}
        if self.distillation is not None:
            terms["distillation"] = self.distillation
        return terms


def mixed(passes: Sequence[LossParts], weights: Sequence[float] = ()) -> LossParts:
    """The terms of several passes over one image as one.

    Args:
        passes: at least one.
        weights: of each; empty: all the same, adding up to 1.
    """
    if len(passes) == 1 and not weights:
        return passes[0]
    shares = list(weights) or [1 / len(passes)] * len(passes)

    def sum_of(terms: Sequence[Tensor]) -> Tensor:
        return torch.stack([w * term for w, term in zip(shares, terms, strict=True)]).sum()

    return LossParts(
        bce=sum_of([one.bce for one in passes]),
        dice=sum_of([one.dice for one in passes]),
        iou=sum_of([one.iou for one in passes]),
    )


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """How far one pass is from what a later one makes of the same question.

    T² · KL(σ(teacher / T) ‖ σ(student / T)), mean over pixels and prompts: 0 where both agree. The
    teacher gets no gradient. T² keeps the gradient's size the same for all T (Hinton et al. 2015).

    Args:
        student: (n, 1, h, w) logits.
        teacher: (n, 1, h, w) logits.
        temperature: T; above 1 it softens both, so that unsure pixels count for more.

    Returns:
        A scalar.
    """
    fixed = teacher.detach() / temperature
    soft = fixed.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(fixed, soft)
    cross = F.binary_cross_entropy_with_logits(student / temperature, soft)
    return temperature**2 * (cross - entropy)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus soft Dice with squared denominators, per mask.

    Args:
        logits: (n, h, w).
        targets: (n, h, w) in {0, 1}.

    Returns:
        (n,) losses in [0, 1].
    """
    probability = logits.sigmoid().flatten(1)
    truth = targets.flatten(1)
    overlap = (probability * truth).sum(1)
    sizes = probability.square().sum(1) + truth.square().sum(1)
    return 1 - (2 * overlap + _SMOOTH) / (sizes + _SMOOTH)


def emptiness_loss(logits: Tensor) -> Tensor:
    """How much mask there is where there should be none, per mask.

    A / (A + 1 % of the pixels) with A the sum of squared probabilities, so that a small false mask
    costs nearly as much as a large one. Cross-entropy counts it by its pixels and hardly sees it.

    Args:
        logits: (n, h, w).

    Returns:
        (n,) losses in [0, 1).
    """
    area = logits.sigmoid().flatten(1).square().mean(1)
    return area / (area + _HALF_SHARE)


def iou_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Intersection over union of the thresholded logits, per mask; 0 where the target is empty.

    An empty target gets 0 even for an empty mask: the predicted IoU then says "not there".

    Args:
        logits: (n, h, w).
        targets: (n, h, w) in {0, 1}.

    Returns:
        (n,) in [0, 1].
    """
    mask, truth = (logits > 0).flatten(1), (targets > 0.5).flatten(1)
    union = (mask | truth).sum(1)
    return (mask & truth).sum(1) / union.clamp_min(1)


def mask_losses(
    logits: Tensor, predicted_iou: Tensor, targets: Tensor, *, empty_weight: float = 0.0
) -> LossParts:
    """The losses of n prompts on one image.

    Args:
        logits: (n, 1, H, W), fitted to the targets already.
        predicted_iou: (n, 1) from the decoder's IoU head.
        targets: (n, H, W) in {0, 1} over the image alone, at the model's resolution or any other.
        empty_weight: of `emptiness_loss`, a mean over the empty targets that is added to Dice.

    Returns:
        Means over the prompts. Dice is a mean over the non-empty targets alone: for an empty
        target it is 1 whatever is predicted and says nothing. Cross-entropy teaches emptiness, and
        with `empty_weight` the emptiness loss.
    """
    flat = logits[:, 0]
    targets = targets.to(flat.dtype)
    bce = F.binary_cross_entropy_with_logits(flat, targets, reduction="none").flatten(1).mean(1)
    present = targets.flatten(1).any(1)
    dice = dice_loss(flat, targets)
    dice_mean = (dice * present).sum() / present.sum().clamp_min(1)
    if empty_weight and not bool(present.all()):
        dice_mean = dice_mean + empty_weight * emptiness_loss(flat[~present]).mean()
    with torch.no_grad():
        true_iou = iou_of_logits(flat, targets)
    iou = F.mse_loss(predicted_iou[:, 0], true_iou)
    return LossParts(bce=bce.mean(), dice=dice_mean, iou=iou)


def batch_losses(
    logits: Tensor,
    predicted_iou: Tensor,
    targets: Tensor,
    *,
    sizes_px: Sequence[tuple[int, int]],
    counts: Sequence[int],
    empty_weight: float = 0.0,
) -> list[LossParts]:
    """`mask_losses` of several images in one computation, to rounding.

    Args:
        logits: (N, 1, S, S) of all images' prompts, image after image.
        predicted_iou: (N, 1).
        targets: (N, S, S) in {0, 1}, 0 in the padding.
        sizes_px: (height, width) of each image within its square; what is beyond does not count.
        counts: how many of the N prompts are of each image, at least one.
        empty_weight: as of `mask_losses`.

    Returns:
        The parts of each image.
    """
    device, side = logits.device, logits.shape[-1]
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device)
    inside = torch.zeros(len(counts), side, side)
    for place, (height, width) in zip(inside, sizes_px, strict=True):
        place[:height, :width] = 1
    areas = torch.tensor([float(h * w) for h, w in sizes_px]).to(device)[owner]
    valid = inside.to(device)[owner]
    flat, truth = logits[:, 0], targets.to(logits.dtype)

    def mean_of(values: Tensor, chosen: Tensor | None = None) -> Tensor:
        """(B,) means over each image's prompts, or over the chosen ones; 0 where there is none."""
        which = torch.ones_like(values) if chosen is None else chosen.to(values.dtype)
        sums, ones = values.new_zeros(2, len(counts)).unbind()
        return sums.index_add(0, owner, values * which) / ones.index_add(0, owner, which).clamp_min(
            1
        )

    cross = F.binary_cross_entropy_with_logits(flat, truth, reduction="none")
    bce = mean_of((cross * valid).sum((1, 2)) / areas)
    present = targets.bool().flatten(1).any(1)  # of bytes, `any` would be a byte
    # Outside nothing is claimed: a probability of 0 adds to no sum.
    probability = flat.sigmoid() * valid
    squares = probability.square().sum((1, 2))
    overlap = (probability * truth).sum((1, 2))
    sizes = squares + truth.square().sum((1, 2))
    dice = mean_of(1 - (2 * overlap + _SMOOTH) / (sizes + _SMOOTH), present)
    if empty_weight:
        area = squares / areas
        dice = dice + empty_weight * mean_of(area / (area + _HALF_SHARE), ~present)
    with torch.no_grad():
        true_iou = iou_of_logits(flat * valid, targets)
    iou = mean_of((predicted_iou[:, 0] - true_iou).square())
    return [LossParts(*terms) for terms in zip(bce, dice, iou, strict=True)]
