"""The loss of preference optimisation: better candidates become likelier than worse ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from textsam.train.losses import LossParts

__all__ = [
    "AnchorParts",
    "PreferenceParts",
    "disagreement",
    "log_likelihood",
    "preference_margin",
]


def disagreement(candidates: Tensor, dilate_px: int) -> Tensor:
    """Where candidates differ, and `dilate_px` around, in a square neighbourhood.

    Args:
        candidates: (k, h, w) bool.
        dilate_px: 0 leaves the region as it is.

    Returns:
        (h, w) bool; empty where all candidates are alike.
    """
    differ = candidates.any(0) & ~candidates.all(0)
    if dilate_px == 0:
        return differ
    side = 2 * dilate_px + 1
    grown = F.max_pool2d(differ[None, None].float(), side, stride=1, padding=dilate_px)
    return grown[0, 0] > 0


def log_likelihood(logits: Tensor, candidates: Tensor, region: Tensor) -> Tensor:
    """log π(Y): mean log-likelihood of each candidate's pixels over a region.

    Args:
        logits: (h, w).
        candidates: (k, h, w) bool.
        region: (h, w) bool, not empty.

    Returns:
        (k,), at most 0.
    """
    inside = logits[region].expand(len(candidates), -1)
    wanted = candidates[:, region].to(logits.dtype)
    return -F.binary_cross_entropy_with_logits(inside, wanted, reduction="none").mean(1)


def preference_margin(
    logits: Tensor, reference: Tensor, candidates: Tensor, weights: Tensor, dilate_px: int
) -> Tensor:
    """Σ w_i r_i with r_i = log π(Y_i) − log π_ref(Y_i); the loss is −log σ of it.

    With the weights β1, β2, −β2, −β1 of `candidate_weights` that is the loss of Konwer et al.
    (2025). The region is where the candidates that weigh anything disagree. Pixels on which they
    agree cancel, as weights add up to 0; dilation therefore changes the mean's denominator alone.

    Args:
        logits: (h, w) of the model.
        reference: (h, w) of the frozen model.
        candidates: (k, h, w) bool.
        weights: (k,), adding up to 0, two or more of them not 0 and on candidates that differ.
        dilate_px: see `disagreement`.

    Returns:
        Scalar; 0 where the model is its reference.
    """
    compared = candidates[weights != 0]
    region = disagreement(compared, dilate_px)
    ratio = log_likelihood(logits, compared, region) - log_likelihood(reference, compared, region)
    return (weights[weights != 0].to(ratio.dtype) * ratio).sum()


@dataclass(kw_only=True)
class PreferenceParts(LossParts):
    """The loss of one unlabelled image; its supervised terms are 0.

    Attributes:
        preference: mean of −log σ(margin) over the image's prompts, ties counted as 0.
        weight: of it.
        correct: share of the prompts that were compared whose margin is above 0; None without any.
        skipped: share of the prompts whose candidates tie.
    """

    preference: Tensor
    weight: float
    correct: float | None
    skipped: float

    def total(
        self,
        bce_weight: float,  # noqa: ARG002
        dice_weight: float,  # noqa: ARG002
        iou_weight: float,  # noqa: ARG002
    ) -> Tensor:
        """Weighted preference loss; the weights of the supervised terms do not matter."""
        return self.weight * self.preference

    def logged(self) -> dict[str, Tensor | float]:
        """Name -> number, for the log; what is a tensor is still on its device."""
        told: dict[str, Tensor | float] = {"preference": self.preference, "ties": self.skipped}
        if self.correct is not None:
            told["preferred"] = self.correct
        return told


class AnchorParts(LossParts):
    """The supervised loss of one labelled image, weighted as an anchor.

    Args:
        inner: whatever supervised training would make of the image.
        weight: of it.
    """

    def __init__(self, inner: LossParts, weight: float) -> None:
        super().__init__(inner.bce, inner.dice, inner.iou)
        self.inner = inner
        self.weight = weight

    def total(self, bce_weight: float, dice_weight: float, iou_weight: float) -> Tensor:
        """Weighted sum, weighted once more."""
        return self.weight * self.inner.total(bce_weight, dice_weight, iou_weight)

    def logged(self) -> dict[str, Tensor | float]:
        """As of supervised training, before the anchor's weight."""
        return self.inner.logged()
