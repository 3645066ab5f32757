"""What a raw score is worth: a monotone map from it to the Dice to expect.

A decoder's opinion of its own mask is rarely the Dice the mask has. `textsam calibrate` measures
both on validation images and stores a piecewise-linear map in the adapter.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["MAX_KNOTS", "CheckedScoreMap", "ScoreMap", "answer_score", "check_score_map"]

ScoreMap = tuple[tuple[float, float], ...]
"""Knots (raw score, expected Dice); empty for the raw score itself."""

MAX_KNOTS = 64


def check_score_map(knots: ScoreMap) -> ScoreMap:
    """Return the knots as they are.

    Raises:
        ValueError: a single knot or more than `MAX_KNOTS`, a number outside [0, 1], raw scores that
            do not rise, or expected Dice that falls.
    """
    if len(knots) == 1 or len(knots) > MAX_KNOTS:
        raise ValueError(f"has {len(knots)} knots; give none, or 2 to {MAX_KNOTS}")
    for raw, expected in knots:
        if not (0 <= raw <= 1 and 0 <= expected <= 1):
            raise ValueError(f"the knot ({raw}, {expected}) is not in [0, 1] x [0, 1]")
    for (raw, expected), (next_raw, next_expected) in pairwise(knots):
        if not (raw < next_raw and expected <= next_expected):
            raise ValueError(
                f"from the knot ({raw}, {expected}) to ({next_raw}, {next_expected}) the raw score "
                "must rise and the expected Dice must not fall"
            )
    return knots


CheckedScoreMap = Annotated[ScoreMap, AfterValidator(check_score_map)]
"""The same where settings are read."""


def answer_score(raw: float, knots: Sequence[tuple[float, float]], *, empty: bool) -> float:
    """The score of an answer.

    Args:
        raw: predicted IoU or mean probability of the mask, in [0, 1].
        knots: the adapter's map, straight lines between its knots and level beyond them; empty
            leaves the raw score as it is.
        empty: whether the mask has no pixel. There is no Dice to expect of it: with a map its
            score is 0.

    Returns:
        In [0, 1].
    """
    if not knots or math.isnan(raw):
        return raw
    if empty:
        return 0.0
    place = bisect_right(knots, raw, key=lambda knot: knot[0])
    if place in (0, len(knots)):
        return knots[min(place, len(knots) - 1)][1]
    (x0, y0), (x1, y1) = knots[place - 1], knots[place]
    return y0 + (y1 - y0) * (raw - x0) / (x1 - x0)
