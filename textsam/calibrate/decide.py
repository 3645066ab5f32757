"""From answers on validation images to passes, score maps and a threshold."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from textsam.calibrate.ask import EMPTY, Answer, Kind
from textsam.calibrate.calibration import Calibration
from textsam.calibrate.scores import fit_own_maps, fit_score_map
from textsam.calibrate.threshold import Demand, choose_threshold, group_weights
from textsam.errors import DataError
from textsam.inference.score import ScoreMap, answer_score
from textsam.metrics.reliability import reliability

__all__ = ["choose_refinements", "decide"]

# A further pass must earn its cost: differences below this are noise on a validation set, and a box
# and a point make the network surer of things that are not there, too.
MIN_GAIN = 0.01
# Below this mean Dice an adapter does not know a concept, and must not say that it does.
MIN_DICE = 0.25
# A score is the Dice to expect, once it is mapped: below this an answer is no help to anyone, even
# where all that is absent stays empty without a threshold.
MIN_SCORE = 0.05


def choose_refinements(answers: Iterable[Answer]) -> dict[str, tuple[int, tuple[float, ...]]]:
    """Concept -> the fewest passes within `MIN_GAIN` of the best mean Dice, and all the means."""
    by_concept: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for answer in answers:
        if answer.kind == "present":
            by_concept[answer.concept].append(answer.dice)
    chosen = {}
    for concept, rows in by_concept.items():
        means = np.asarray(rows).mean(axis=0)
        passes = int(np.flatnonzero(means >= means.max() - MIN_GAIN)[0])
        chosen[concept] = (passes, tuple(round(float(m), 4) for m in means))
    return chosen


@dataclass(frozen=True)
class _Final:
    """One answer after the passes chosen for its concept; score -1 for an empty mask."""

    concept: str
    modality: str
    kind: Kind
    dice: float
    score: float

    @property
    def group(self) -> tuple[str, str]:
        return self.modality, self.concept


def _weights(answers: Sequence[_Final]) -> NDArray[np.float64]:
    """Present things weigh as much as all absent ones; the kinds of absence share that alike."""
    kinds = {answer.kind for answer in answers}  # "present" is always among them
    weights: NDArray[np.float64] = np.zeros(len(answers))
    for kind in kinds:
        inside = [i for i, answer in enumerate(answers) if answer.kind == kind]
        share = 1.0 if kind == "present" else 1 / (len(kinds) - 1)
        weights[inside] = share * group_weights([answers[i].group for i in inside])
    return weights


def _ece(answers: Sequence[_Final]) -> float:
    scores = [max(a.score, 0.0) for a in answers]
    found = reliability(scores, [a.dice for a in answers], list(_weights(answers)))
    return 0.0 if found is None else found.ece


def _fitted(answers: Sequence[_Final]) -> tuple[ScoreMap, dict[str, ScoreMap]]:
    """The maps of the answers with a mask: an empty one scores 0 whatever a map says."""
    rows = [
        (answer.concept, answer.score, answer.dice, float(weight))
        for answer, weight in zip(answers, _weights(answers), strict=True)
        if answer.score != EMPTY
    ]
    if not rows:
        return (), {}
    concepts, raw, overlaps, weights = (list(column) for column in zip(*rows, strict=True))
    common = fit_score_map(raw, overlaps, weights)
    return common, fit_own_maps(concepts, raw, overlaps, weights) if common else {}


def decide(
    answers: Sequence[Answer], prompts: Sequence[str], rates: Mapping[Kind, float]
) -> Calibration:
    """What the answers say about passes, scores and the threshold, in this order.

    Args:
        answers: with raw scores and without a threshold.
        prompts: concepts the adapter was trained on.
        rates: kind of absence -> share of its answers that must come back empty, in [0, 1].

    Raises:
        DataError: nothing the adapter knows is in the images, or nothing of it is found.
    """
    chosen = choose_refinements(answers)
    known = tuple(
        concept
        for concept in prompts
        if concept not in chosen or max(chosen[concept][1]) >= MIN_DICE
    )
    if not chosen:
        raise DataError(
            f"the adapter knows {', '.join(prompts)}, and the calibration images show none of "
            "these; give others"
        )
    if not chosen.keys() & set(known):
        reached = ", ".join(f"{c} {max(means):.2f}" for c, (_, means) in chosen.items())
        raise DataError(
            "what the calibration images show the adapter has not learned: its mean Dice is "
            f"{reached}, and {MIN_DICE} is the least to offer a word; train longer, or give other "
            "images"
        )
    counts = [count for concept, (count, _) in chosen.items() if concept in known]
    refine = max(sorted(set(counts)), key=counts.count)
    passes_for = {c: chosen[c][0] if c in chosen else refine for c in known}
    raw = [
        _Final(a.concept, a.modality, a.kind, a.dice[place], a.score[place])
        for a in answers
        if (place := passes_for.get(a.concept)) is not None
    ]
    score_map, own_maps = _fitted(raw)
    final = [
        a
        if a.score == EMPTY
        else replace(
            a, score=answer_score(a.score, own_maps.get(a.concept, score_map), empty=False)
        )
        for a in raw
    ]
    by_kind: dict[Kind, list[_Final]] = defaultdict(list)
    for answer in final:
        by_kind[answer.kind].append(answer)
    present = by_kind["present"]
    threshold = choose_threshold(
        [a.score for a in present],
        [
            Demand(
                [a.score for a in by_kind[kind]],
                list(group_weights([a.group for a in by_kind[kind]])),
                rate,
            )
            for kind, rate in rates.items()
        ],
    )
    if score_map:
        threshold = max(threshold, min(MIN_SCORE, max(a.score for a in present)))
    # Rounded down, so that what is found with the exact threshold still is.
    threshold = math.floor(threshold * 1e5) / 1e5

    def empty(kind: Kind) -> float | None:
        group = by_kind[kind]
        if not group:
            return None
        weights = group_weights([a.group for a in group])
        # Sums of weights round, and a share above 1 would be odd to read.
        return round(float(weights @ [a.score < threshold for a in group]), 6)

    weights = group_weights([a.group for a in present])
    found = np.array([a.score >= threshold for a in present])
    overlap = np.array([a.dice for a in present])
    absent = [a for a in final if a.kind != "present"]
    return Calibration(
        prompts=known,
        refine=refine,
        refine_for={concept: count for concept, count in passes_for.items() if count != refine},
        score_map=score_map,
        score_map_for=own_maps,
        found_threshold=threshold,
        dice_by_passes={concept: means for concept, (_, means) in sorted(chosen.items())},
        found_rate=float(found.mean()),
        empty_rate=float(np.mean([a.score < threshold for a in absent])) if absent else 1.0,
        empty_modality=empty("absent_modality"),
        empty_annotated=empty("absent_annotated"),
        empty_beside=empty("absent_beside"),
        lost_rate=round(float(weights @ [0 <= a.score < threshold for a in present]), 6),
        found_by_concept={
            concept: float(np.mean([a.score >= threshold for a in present if a.concept == concept]))
            for concept in sorted({a.concept for a in present})
        },
        dice_without_threshold=round(float(weights @ overlap), 6),
        dice_with_threshold=round(float(weights @ (overlap * found)), 6),
        ece_before=round(_ece(raw), 6),
        ece_after=round(_ece(final), 6),
        n_present=len(present),
        n_absent=len(absent),
    )
