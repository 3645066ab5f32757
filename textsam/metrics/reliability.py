"""Is a score the Dice to expect? Answers in bins of score, and the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textsam.errors import DataError

__all__ = ["BINS", "Reliability", "ReliabilityBin", "reliability"]

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Answers whose score lies in one range.

    Attributes:
        low: of the range, inclusive.
        high: of the range, exclusive, but for the last bin.
        n: answers.
        weight: their share of all weight.
        mean_score: in [0, 1]; None without answers.
        mean_dice: in [0, 1]; None without answers.
    """

    low: float
    high: float
    n: int
    weight: float
    mean_score: float | None
    mean_dice: float | None


@dataclass(frozen=True)
class Reliability:
    """Scores against true Dice.

    Attributes:
        n: answers.
        ece: expected calibration error: the mean over bins, by their weight, of the distance
            between mean score and mean Dice; in [0, 1], 0 being best.
        bins: `BINS` of equal width over [0, 1].
    """

    n: int
    ece: float
    bins: tuple[ReliabilityBin, ...]


def reliability(
    scores: Sequence[float], dice: Sequence[float], weights: Sequence[float] | None = None
) -> Reliability | None:
    """Compare scores with the Dice their masks have.

    Args:
        scores: (N,) in [0, 1].
        dice: (N,) in [0, 1]; 0 for a thing that is not in the image.
        weights: (N,), positive; default: all alike.

    Returns:
        None without answers.

    Raises:
        DataError: numbers of other lengths or outside [0, 1].
    """
    try:
        score, truth = np.asarray(scores, dtype=np.float64), np.asarray(dice, dtype=np.float64)
        weight = np.ones_like(score) if weights is None else np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as wrong:
        raise DataError(f"scores, Dice or weights are no numbers ({wrong}); give rows") from wrong
    if not score.shape == truth.shape == weight.shape or score.ndim != 1:
        raise DataError(
            f"scores, Dice and weights have the shapes {score.shape}, {truth.shape} and "
            f"{weight.shape}; give three rows of one length"
        )
    if not len(score):
        return None
    both = np.concatenate([score, truth])
    if not (np.isfinite(both).all() and both.min() >= 0 and both.max() <= 1):
        raise DataError("a score or a Dice lies outside [0, 1]; give both as parts of 1")
    if not ((weight > 0) & np.isfinite(weight)).all():
        raise DataError("a weight is not above 0 and finite; leave such answers out")
    weight = weight / weight.sum()
    # Not by division: 0.3 * 10 rounds to a whole number from below.
    edges = np.arange(1, BINS) / BINS
    place = np.searchsorted(edges, score, side="right")
    bins, error = [], 0.0
    for index in range(BINS):
        inside = place == index
        share = float(weight[inside].sum())
        mean_score = mean_dice = None
        if inside.any():
            mean_score = float(np.average(score[inside], weights=weight[inside]))
            mean_dice = float(np.average(truth[inside], weights=weight[inside]))
            error += share * abs(mean_score - mean_dice)
        bins.append(
            ReliabilityBin(
                low=index / BINS,
                high=(index + 1) / BINS,
                n=int(inside.sum()),
                weight=share,
                mean_score=mean_score,
                mean_dice=mean_dice,
            )
        )
    return Reliability(n=len(score), ece=error, bins=tuple(bins))
