"""How far an adapter's probabilities are to be believed when its masks are cut, by validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsam.calibrate.looks import looks_at
from textsam.calibrate.threshold import FULL_SAY, group_weights
from textsam.data.sample import Sample
from textsam.inference.cut import Cut
from textsam.inference.decoded import Decoded, cut_out
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views
from textsam.metrics import dice
from textsam.progress import with_bar

__all__ = ["SHARPNESSES", "ChosenCut", "CutAt", "choose_cut", "fit_cut"]

# The higher, the nearer to a fixed threshold.
SHARPNESSES = (1.0, 1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class CutAt:
    """A concept that is in an image, its mask cut in several ways.

    Attributes:
        group: kind of image and concept.
        whole: sharpness -> Dice on the whole image; None is the fixed threshold.
        closer: the same on a part around the object, or empty where there is no room for one.
    """

    group: tuple[str, str]
    whole: Mapping[float | None, float]
    closer: Mapping[float | None, float]


@dataclass(frozen=True)
class ChosenCut:
    """What was chosen, and on what.

    Attributes:
        cut: None where the fixed threshold is best.
        dice: sharpness, or "fixed" -> mean Dice on whole images and on closer looks, None where
            there were none; every pair of concept and kind of image has the same say.
    """

    cut: Cut | None
    dice: dict[str, tuple[float, float | None]]


def choose_cut(seen: Sequence[CutAt]) -> ChosenCut:
    """The sharpness of the best mean of both looks, of those that lose nothing on whole images.

    Of fewer than `FULL_SAY` things the best is an accident: the threshold stays fixed.
    """
    means: dict[float | None, tuple[float, float | None]] = {}
    for way in (None, *SHARPNESSES):
        closer = [(one.group, one.closer[way]) for one in seen if one.closer]
        means[way] = (
            _mean([(one.group, one.whole[way]) for one in seen]),
            _mean(closer) if closer else None,
        )

    def both(way: float | None) -> float:
        return float(np.mean([value for value in means[way] if value is not None]))

    enough = len(seen) >= FULL_SAY
    allowed = [way for way in means if way is None or (enough and means[way][0] >= means[None][0])]
    best = max(allowed, key=both)  # of alike ones the first, and that is the fixed one
    return ChosenCut(
        None if best is None else Cut(sharpness=best),
        {"fixed" if way is None else f"{way:g}": value for way, value in means.items()},
    )


def _mean(values: Sequence[tuple[object, float]]) -> float:
    weights = group_weights([group for group, _ in values])
    return round(float(weights @ [value for _, value in values]), 4)


def fit_cut(segmenter: Segmenter, samples: Sequence[Sample], *, progress: bool = True) -> ChosenCut:
    """Look for what is in validation images, without refinement, and cut what comes in all ways.

    Each object is looked for in the whole image and, where there is room, in a part around it, as a
    scanner with a narrower field of view would show it.

    Args:
        segmenter: its own cut, its views, kinds of image and threshold are set aside.
        samples: validation images, not those reported on.
        progress: show a bar.
    """
    config = segmenter.config
    changes = {"found_threshold": 0.0, "kinds": None, "cut": None}
    plain = segmenter.with_config(config.model_copy(update=changes), views=Views())

    def overlaps(
        pixels: NDArray[np.uint8], concept: str, truth: NDArray[np.bool_]
    ) -> dict[float | None, float]:
        answer = plain.segment(pixels, concept, refine=0)
        known = Decoded(answer.probability, answer.mask, answer.score)
        return {
            way: dice(
                cut_out(
                    known, None if way is None else Cut(sharpness=way), config.mask_threshold
                ).mask,
                truth,
            )
            for way in (None, *SHARPNESSES)
        }

    seen = []
    for number, sample in enumerate(with_bar(samples, "cutting masks", shown=progress)):
        for shown in looks_at(sample, config.prompts, number):
            whole, closer = (
                overlaps(look[0], shown.concept, look[1]) if look else {}
                for look in (shown.whole, shown.closer)
            )
            seen.append(CutAt((sample.modality, shown.concept), whole, closer))
    return choose_cut(seen)
