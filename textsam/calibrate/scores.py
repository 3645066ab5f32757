"""Fit maps from raw score to expected Dice on answers whose Dice is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import isotonic_regression

from textsam.inference.score import ScoreMap

__all__ = ["FITTED_KNOTS", "MIN_ANSWERS", "fit_own_maps", "fit_score_map"]

# With the fixed knot (0, 0) and one at 1 there are at most two more.
FITTED_KNOTS = 10
# Fewer say too little: the raw score then stays as it is.
MIN_ANSWERS = 20
# A concept has a map of its own from so many answers on, and so many masks of what is there.
_MIN_OWN = 3
_MIN_OWN_RIGHT = 2
# All answers together count in it like so many of its own: a few odd ones do not bend it.
_PRIOR_ANSWERS = 15


def fit_score_map(
    raw: Sequence[float], dice: Sequence[float], weights: Sequence[float]
) -> ScoreMap:
    """A monotone piecewise-linear map by isotonic regression.

    The answers are sorted by raw score and put into `FITTED_KNOTS` groups of about equal weight,
    which keeps a few odd answers from bending the map. Isotonic regression makes the groups' mean
    Dice rise with their mean raw score; groups that come out alike become one. Each is a knot,
    beside (0, 0), so that the lowest scores keep their order, and a level end at raw score 1.

    Args:
        raw: (N,) in [0, 1], of masks that are not empty.
        dice: (N,) of the masks, 0 where the thing is not in the image.
        weights: (N,), positive.

    Returns:
        2 to `FITTED_KNOTS` + 2 knots, or none with fewer than `MIN_ANSWERS` answers or nothing but
        masks of Dice 0.
    """
    if len(raw) < MIN_ANSWERS:
        return ()
    order = np.argsort(np.asarray(raw), kind="stable")
    x, y, w = (np.asarray(values, dtype=np.float64)[order] for values in (raw, dice, weights))
    # Answers of one raw score stay together, whatever their weight.
    middle = (np.cumsum(w) - w / 2) / w.sum()
    first = np.searchsorted(x, x, side="left")
    group = (middle[first] * FITTED_KNOTS).astype(int)
    groups = [group == index for index in np.unique(group)]
    total = np.array([w[inside].sum() for inside in groups])
    centre = np.array([np.average(x[inside], weights=w[inside]) for inside in groups])
    mean = np.array([np.average(y[inside], weights=w[inside]) for inside in groups])
    # Blocks are runs of groups with one value.
    fitted = isotonic_regression(mean, weights=total)
    starts = fitted.blocks
    knots: dict[float, float] = {0.0: 0.0}
    for begin, end in pairwise(starts):
        where = float(np.average(centre[begin:end], weights=total[begin:end]))
        value = float(fitted.x[begin])
        if round(where, 4) > 0:
            knots[round(where, 4)] = round(value, 4)
    knots.setdefault(1.0, max(knots.values()))
    if not max(knots.values()):
        return ()
    return tuple(sorted(knots.items()))


def fit_own_maps(
    concepts: Sequence[str],
    raw: Sequence[float],
    dice: Sequence[float],
    weights: Sequence[float],
) -> dict[str, ScoreMap]:
    """Maps of single concepts, for those with answers enough.

    What a decoder is sure of differs between things: the mask of a thin nerve never scores as that
    of a lung does, and may be as good as such masks get. A concept's own answers have their
    weights; all answers together have that of `_PRIOR_ANSWERS` of them beside.

    Args:
        concepts: (N,) what each answer was asked for.
        raw: (N,) in [0, 1], of masks that are not empty.
        dice: (N,) of the masks, 0 where the thing is not in the image.
        weights: (N,), positive.

    Returns:
        Concept -> map as of `fit_score_map`; without concepts of fewer than 3 answers, or fewer
        than 2 that overlap what is there.
    """
    names, right = np.asarray(concepts), np.asarray(dice) > 0
    weight = np.asarray(weights, dtype=np.float64)
    maps = {}
    for concept in sorted(set(concepts)):
        own = names == concept
        if own.sum() < _MIN_OWN or np.count_nonzero(right[own]) < _MIN_OWN_RIGHT:
            continue
        prior = weight[own].mean() * _PRIOR_ANSWERS * weight / weight.sum()
        if fitted := fit_score_map(raw, dice, list(own * weight + prior)):
            maps[concept] = fitted
    return maps
