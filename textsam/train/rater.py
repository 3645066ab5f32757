"""A virtual rater: sees the truth, rates candidate masks, and gives nothing else away."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsam.train.preference_config import Strategy

__all__ = ["candidate_masks", "candidate_weights", "flip_adjacent", "iou_of", "ratings_of"]

# Konwer et al. (2025): IoU at which the rating rises from 1 to 2, 3, 4.
_RATING_EDGES = (0.4, 0.55, 0.7)


def candidate_masks(probability: Tensor, cuts: tuple[float, ...]) -> Tensor:
    """Cut a probability map at several heights.

    Args:
        probability: (h, w) in [0, 1].
        cuts: k of them; a pixel belongs where its probability is above.

    Returns:
        (k, h, w) bool.
    """
    return torch.stack([probability > cut for cut in cuts])


def iou_of(candidates: Tensor, truth: Tensor) -> NDArray[np.float64]:
    """Intersection over union of k masks with the truth; 1 where both are empty.

    Args:
        candidates: (k, h, w) bool.
        truth: (h, w) bool.

    Returns:
        (k,) in [0, 1].
    """
    both = (candidates & truth).flatten(1).sum(1).double()
    either = (candidates | truth).flatten(1).sum(1).double()
    iou: NDArray[np.float64] = (
        torch.where(either > 0, both / either.clamp_min(1), 1.0).cpu().numpy()
    )
    return iou


def ratings_of(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 below an IoU of 0.4, 2 below 0.55, 3 up to 0.7, 4 above (Konwer et al. 2025)."""
    low, middle, high = _RATING_EDGES
    rating = 1.0 + (iou >= low) + (iou >= middle) + (iou > high)
    return np.asarray(rating, dtype=np.float64)


def flip_adjacent(
    scores: NDArray[np.float64], noise: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Confuse two candidates that are next to each other in the order, in a share of the cases.

    Args:
        scores: (k,), higher is better.
        noise: probability of a confusion.
        rng: of this case. It is drawn from alike whatever `noise` is, so that the cases confused at
            a low noise are confused at a higher one, too.

    Returns:
        (k,) scores, two different neighbours exchanged or all as they were. Ties are no order that
        could be confused: where all tie, nothing changes.
    """
    happens, which = rng.random(2)
    order = np.argsort(scores, kind="stable")
    borders = np.flatnonzero(np.diff(scores[order]) > 0)
    if happens >= noise or not len(borders):
        return scores
    place = borders[int(which * len(borders))]
    flipped = scores.copy()
    one, other = order[place], order[place + 1]
    flipped[one], flipped[other] = scores[other], scores[one]
    return flipped


def candidate_weights(
    iou: NDArray[np.float64],
    strategy: Strategy,
    *,
    beta_outer: float,
    beta_inner: float,
    noise: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """What each candidate's log-ratio counts in the loss: the whole of what a rating tells.

    In order, best first, candidates weigh β1, β2, 0 …, −β2, −β1 (with four of them, the loss of
    Konwer et al.); with "best-only" the first and the last alone do. Candidates that tie share the
    mean of their places' weights, so that nothing prefers one of them; where all tie, all weights
    are 0 and the case is skipped.

    Args:
        iou: (k,) with the truth.
        strategy: what the order is by.
        beta_outer, beta_inner: β1 and β2.
        noise: see `flip_adjacent`.
        rng: of this case.

    Returns:
        (k,), adding up to 0.
    """
    count = len(iou)
    scores = flip_adjacent(ratings_of(iou) if strategy == "rating" else iou, noise, rng)
    by_place = np.zeros(count)
    by_place[0], by_place[-1] = beta_outer, -beta_outer
    if strategy != "best-only" and count >= 4:
        by_place[1], by_place[-2] = beta_inner, -beta_inner
    order = np.argsort(-scores, kind="stable")
    weights = np.zeros(count)
    weights[order] = by_place
    for score in np.unique(scores):
        tied = scores == score
        # Of the places, not one after the other: 0 must come out as 0 where all tie.
        weights[tied] = weights[tied].mean() if not tied.all() else 0.0
    return weights
