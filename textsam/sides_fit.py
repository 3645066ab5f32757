"""Which side of the model's square each concept wants, chosen on validation images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textsam.data.sample import Sample, load_sample
from textsam.metrics import dice
from textsam.progress import with_bar
from textsam.segmenter import Segmenter
from textsam.views import Views

__all__ = ["AtSides", "ChosenSides", "choose_sides", "fit_sides"]

# A larger side must earn its time, and a smaller one be no accident.
MIN_GAIN = 0.01
# Standard errors of the mean difference, image by image, that a gain must have.
SURE = 2.0


@dataclass(frozen=True)
class AtSides:
    """A concept that is in an image, looked for at several sides.

    Attributes:
        concept: asked for.
        dice: side in pixels -> Dice of the answer.
    """

    concept: str
    dice: Mapping[int, float]


@dataclass(frozen=True)
class ChosenSides:
    """What was chosen, and on what.

    Attributes:
        side_for: concepts that want another side than the adapter's own.
        dice_by_side: concept -> side in pixels -> mean Dice, of every concept that was seen.
    """

    side_for: dict[str, int]
    dice_by_side: dict[str, dict[int, float]]


def choose_sides(seen: Iterable[AtSides], own_px: int) -> ChosenSides:
    """Give each concept the side at which its Dice is best, where that is better beyond doubt.

    Of the sides whose mean Dice exceeds that at the adapter's own by `MIN_GAIN` and by `SURE`
    standard errors of the difference, it is the smallest within `MIN_GAIN` of the best. A concept
    in a single image keeps the adapter's own.

    Args:
        seen: all at the same sides, `own_px` among them.
        own_px: the adapter's own side.
    """
    by_concept: dict[str, list[Mapping[int, float]]] = defaultdict(list)
    for one in seen:
        by_concept[one.concept].append(one.dice)
    side_for: dict[str, int] = {}
    means: dict[str, dict[int, float]] = {}
    for concept, rows in sorted(by_concept.items()):
        gains = {}
        for side in rows[0]:
            differences = np.array([row[side] - row[own_px] for row in rows])
            gain = float(differences.mean())
            if len(rows) > 1 and gain >= MIN_GAIN:
                error = float(differences.std(ddof=1)) / math.sqrt(len(rows))
                if gain >= SURE * error:
                    gains[side] = gain
        if gains:
            best = max(gains.values())
            side_for[concept] = min(s for s, gain in gains.items() if gain > best - MIN_GAIN)
        means[concept] = {
            side: round(float(np.mean([row[side] for row in rows])), 4) for side in rows[0]
        }
    return ChosenSides(side_for, means)


def fit_sides(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    sides_px: Sequence[int],
    *,
    progress: bool = True,
) -> ChosenSides:
    """Look for what is in validation images at several sides, without refinement, and choose.

    Args:
        segmenter: with models at these sides; its views, kinds of image and threshold are set
            aside.
        samples: validation images, not those reported on.
        sides_px: to compare with the adapter's own.
        progress: show a bar.

    Raises:
        ConfigError: the segmenter has no model at a side.
    """
    own_px = segmenter.own_side_px
    config = segmenter.config
    at = {
        side: segmenter.with_config(
            config.model_copy(
                update={
                    "side_for": dict.fromkeys(config.prompts, side),
                    "found_threshold": 0.0,
                    "kinds": None,
                }
            ),
            views=Views(),
        )
        for side in dict.fromkeys((own_px, *sides_px))
    }
    seen = []
    for sample in with_bar(samples, "comparing sides", shown=progress):
        image, masks = load_sample(sample)
        present = [c for c, mask in masks.items() if c in config.prompts and mask.any()]
        if not present:
            continue
        by_side = {side: one.segment(image, present, refine=0) for side, one in at.items()}
        for place, concept in enumerate(present):
            overlaps = {
                side: dice(answers[place].mask, masks[concept]) for side, answers in by_side.items()
            }
            seen.append(AtSides(concept, overlaps))
    return choose_sides(seen, own_px)
