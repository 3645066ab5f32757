"""Which sides of the model's square each concept wants, chosen on validation images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsam.calibrate.looks import looks_at
from textsam.data.sample import Sample
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views
from textsam.metrics import dice
from textsam.progress import with_bar

__all__ = ["AtSides", "ChosenSides", "choose_sides", "fit_sides"]

# More time must be earned, and less must be no accident.
MIN_GAIN = 0.01
# Standard errors of the mean difference, image by image, that a gain must have.
SURE = 2.0

Sides = tuple[int, ...]


@dataclass(frozen=True)
class AtSides:
    """A concept that is in an image, looked for at several sides.

    Attributes:
        concept: asked for.
        dice: sides in pixels, of which answers are averaged -> Dice, the mean of all looks.
        whole: the same of the whole image alone.
    """

    concept: str
    dice: Mapping[Sides, float]
    whole: Mapping[Sides, float]


@dataclass(frozen=True)
class ChosenSides:
    """What was chosen, and on what.

    Attributes:
        sides_for: concepts that want other sides than the adapter's own alone.
        dice_by_sides: concept -> sides, such as "224+112" -> mean Dice, of every concept that was
            seen.
    """

    sides_for: dict[str, Sides]
    dice_by_sides: dict[str, dict[str, float]]


def choose_sides(seen: Iterable[AtSides], own_px: int) -> ChosenSides:
    """Give each concept the sides at which its Dice is best, where that is better beyond doubt.

    Of those whose mean Dice exceeds that at the adapter's own by `MIN_GAIN` and by `SURE` standard
    errors of the difference, and that lose nothing on whole images, they are the ones that take
    least time within `MIN_GAIN` of the best. A concept in a single image keeps the adapter's own.

    Args:
        seen: all at the same sides, `(own_px,)` among them.
        own_px: the adapter's own side.
    """
    by_concept: dict[str, list[AtSides]] = defaultdict(list)
    for one in seen:
        by_concept[one.concept].append(one)
    sides_for: dict[str, Sides] = {}
    means: dict[str, dict[str, float]] = {}
    for concept, rows in sorted(by_concept.items()):
        gains = {}
        for sides in rows[0].dice:
            differences = np.array([row.dice[sides] - row.dice[own_px,] for row in rows])
            gain = float(differences.mean())
            on_whole = float(np.mean([row.whole[sides] - row.whole[own_px,] for row in rows]))
            if len(rows) > 1 and gain >= MIN_GAIN and on_whole >= 0:
                error = float(differences.std(ddof=1)) / math.sqrt(len(rows))
                if gain >= SURE * error:
                    gains[sides] = gain
        if gains:
            best = max(gains.values())
            near = [sides for sides, gain in gains.items() if gain > best - MIN_GAIN]
            # A look takes as long as its square is large.
            sides_for[concept] = min(near, key=lambda sides: sum(side**2 for side in sides))
        means[concept] = {
            "+".join(map(str, sides)): round(float(np.mean([row.dice[sides] for row in rows])), 4)
            for sides in rows[0].dice
        }
    return ChosenSides(sides_for, means)


def fit_sides(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    sides_px: Sequence[int],
    *,
    progress: bool = True,
) -> ChosenSides:
    """Look for what is in validation images at several sides, without refinement, and choose.

    Each side is tried alone, and averaged with the adapter's own. Each object is looked for in the
    whole image and, where there is room, in a part around it, as a scanner with a narrower field of
    view would show it; the mean of both counts.

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
    changes = {"found_threshold": 0.0, "kinds": None}
    alone = {
        side: segmenter.with_config(
            config.model_copy(
                update={"sides_for": dict.fromkeys(config.prompts, (side,)), **changes}
            ),
            views=Views(),
        )
        for side in dict.fromkeys((own_px, *sides_px))
    }
    ways: list[Sides] = [(side,) for side in alone]
    ways += [(own_px, side) for side in alone if side != own_px]

    def overlaps(pixels: NDArray[np.uint8], concept: str, truth: NDArray[np.bool_]) -> list[float]:
        maps = {
            side: one.segment(pixels, concept, refine=0).probability for side, one in alone.items()
        }
        return [
            dice(np.mean([maps[side] for side in way], axis=0) > config.mask_threshold, truth)
            for way in ways
        ]

    seen = []
    for number, sample in enumerate(with_bar(samples, "comparing sides", shown=progress)):
        for shown in looks_at(sample, config.prompts, number):
            found = [
                overlaps(pixels, shown.concept, truth)
                for pixels, truth in (shown.whole, *([shown.closer] if shown.closer else []))
            ]
            both, whole = (
                dict(zip(ways, values, strict=True))
                for values in (np.mean(found, axis=0), found[0])
            )
            seen.append(AtSides(shown.concept, both, whole))
    return choose_sides(seen, own_px)
