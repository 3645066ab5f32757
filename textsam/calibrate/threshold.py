"""The score below which an answer counts as "not there", chosen on answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FULL_SAY", "Demand", "choose_threshold", "group_weights"]

# Answers from which a pair of concept and kind of image has its full say. Two images should not
# decide as much as fifty.
FULL_SAY = 10


@dataclass(frozen=True)
class Demand:
    """Absent things, and how many of them must come back empty.

    Attributes:
        scores: (N,), -1 for an empty mask.
        weights: (N,), of any positive sum.
        rate: share of the weight that must fall below the threshold.
    """

    scores: Sequence[float]
    weights: Sequence[float]
    rate: float


def group_weights(groups: Sequence[object]) -> NDArray[np.float64]:
    """(N,) weights that sum to 1. Every group has the same share, and its members alike in it.

    A group of fewer than `FULL_SAY` members has a share in proportion to them.
    """
    sizes = Counter(groups)
    shares = {group: min(size, FULL_SAY) / size for group, size in sizes.items()}
    weights = np.array([shares[group] for group in groups], dtype=np.float64)
    weights /= weights.sum()
    return weights


def choose_threshold(present: Sequence[float], demands: Iterable[Demand]) -> float:
    """The lowest score threshold at which every demand is met.

    Lowest, because every step up loses things that are there.

    Args:
        present: scores of answers whose concept is there, -1 for an empty mask.
        demands: what must come back empty. One without scores is met.

    Returns:
        0 when masks alone suffice, else the middle between two neighbouring scores. Never above
        the highest score of a present thing: a model that finds nothing is of no use.
    """
    asked = [
        (np.asarray(d.scores), np.asarray(d.weights) / np.sum(d.weights), d.rate)
        for d in demands
        if len(d.scores)
    ]
    highest = max([0.0, *present])
    edges = np.unique(np.concatenate([present, *(scores for scores, _, _ in asked)]))
    for threshold in (0.0, *((edges[:-1] + edges[1:]) / 2)):
        # Sums of weights round; the share asked for must not be missed by that.
        if all(weights[scores < threshold].sum() >= rate - 1e-9 for scores, weights, rate in asked):
            return float(min(threshold, highest))
    return float(highest)
