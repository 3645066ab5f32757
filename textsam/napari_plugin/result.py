"""Answers as a labels image: one label per prompt, with names, colours and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.result import Segmentation

__all__ = ["COLOURS", "colours", "features", "join_masks"]

COLOURS: tuple[tuple[float, float, float], ...] = (
    (0.902, 0.624, 0.000),
    (0.337, 0.706, 0.914),
    (0.000, 0.620, 0.451),
    (0.941, 0.894, 0.259),
    (0.000, 0.447, 0.698),
    (0.835, 0.369, 0.000),
    (0.800, 0.475, 0.655),
)
"""Red, green, blue in [0, 1], told apart with any kind of colour vision (Okabe and Ito 2008)."""


def join_masks(answers: Sequence[Segmentation]) -> NDArray[np.uint16]:
    """One (H, W) label image: 0 where there is nothing, i + 1 for answer i.

    Where masks overlap, the pixel goes to the answer that is surer of it; the first of equals.
    """
    labels = np.zeros(answers[0].mask.shape, dtype=np.uint16)
    surest = np.zeros(answers[0].mask.shape, dtype=np.float32)
    for number, answer in enumerate(answers, start=1):
        won = answer.mask & ((labels == 0) | (answer.probability > surest))
        labels[won] = number
        surest[won] = answer.probability[won]
    return labels


def colours(count: int) -> dict[int | None, tuple[float, ...]]:
    """Label -> red, green, blue, opacity in [0, 1]; background and unknown labels are clear."""
    clear = (0.0, 0.0, 0.0, 0.0)
    table: dict[int | None, tuple[float, ...]] = {None: clear, 0: clear}
    for number in range(count):
        table[number + 1] = (*COLOURS[number % len(COLOURS)], 1.0)
    return table


def features(
    prompts: Sequence[str], answers: Sequence[Sequence[Segmentation]]
) -> dict[str, list[Any]]:
    """A column per fact, a row per prompt, over all planes.

    Args:
        prompts: C.
        answers: one list of C per plane.

    Returns:
        `index` (the label), `prompt`, `found` (in any plane), `score` (the best plane's, in
        [0, 1]), `planes` (number it was found in), `area_px` (all planes, overlaps included), and
        `area_mm2` where the spacing is known.
    """
    per_prompt = list(zip(*answers, strict=True))
    table: dict[str, list[Any]] = {
        "index": list(range(1, len(prompts) + 1)),
        "prompt": list(prompts),
        "found": [any(a.found for a in own) for own in per_prompt],
        "score": [round(max(a.score for a in own), 4) for own in per_prompt],
        "planes": [sum(a.found for a in own) for own in per_prompt],
        "area_px": [sum(a.area_px for a in own) for own in per_prompt],
    }
    areas = [[a.area_mm2 for a in own] for own in per_prompt]
    known = [[area for area in own if area is not None] for own in areas]
    if all(len(some) == len(own) for some, own in zip(known, areas, strict=True)):
        table["area_mm2"] = [round(sum(own), 3) for own in known]
    return table
