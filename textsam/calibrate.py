"""Choose, on validation images, how often to refine each concept, what a score is worth, and when
to say "not there".
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from textsam.calibration_ask import EMPTY, Answer, Kind, ask
from textsam.data.sample import Sample
from textsam.errors import ConfigError, DataError
from textsam.progress import with_bar
from textsam.reliability import reliability
from textsam.score import ScoreMap, answer_score
from textsam.score_fit import fit_own_maps, fit_score_map
from textsam.segmenter import Segmenter

__all__ = [
    "EMPTY_ANNOTATED",
    "EMPTY_MODALITY",
    "Calibration",
    "Demand",
    "calibrate",
    "choose_refinements",
    "choose_threshold",
    "group_weights",
]

# A further pass must earn its cost: differences below this are noise on a validation set, and a box
# and a point make the network surer of things that are not there, too.
MIN_GAIN = 0.01
# Below this mean Dice an adapter does not know a concept, and must not say that it does.
MIN_DICE = 0.25
# Shares of absent things that must come back empty: of those that the kind of image cannot show,
# and of those that the data say are not in this very image.
EMPTY_MODALITY = 0.95
EMPTY_ANNOTATED = 0.85
# A score is the Dice to expect, once it is mapped: below this an answer is no help to anyone, even
# where all that is absent stays empty without a threshold.
MIN_SCORE = 0.05
# Answers from which a pair of concept and kind of image has its full say. Two images should not
# decide as much as fifty.
FULL_SAY = 10
# Parts of each image, beside what it shows, where such are asked.
_BESIDE = 2


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and what it does on the images it was chosen on.

    Rates and means marked "weighted" give every pair of concept and kind of image the same say,
    however many images it has; those of fewer than `FULL_SAY` answers have less.

    Attributes:
        prompts: concepts the adapter knows: those trained whose mean Dice is not below `MIN_DICE`.
        refine: passes that are best for most concepts.
        refine_for: concepts that want another number.
        score_map: knots from raw score to expected Dice; see `textsam.score`.
        score_map_for: concepts with knots of their own.
        found_threshold: score, after the map, below which an answer counts as "not there"; where
            there is a map, at least `MIN_SCORE`.
        dice_by_passes: concept -> mean Dice after 0, 1, … refinements.
        found_rate: share of present concepts that are found.
        empty_rate: share of absent concepts that come back empty.
        empty_modality: that share for what the kind of image cannot show, weighted; None if nothing
            of the kind was asked.
        empty_annotated: that share for what the data say is absent, weighted; or None.
        empty_beside: that share for parts of images beside what they show, weighted; or None.
        lost_rate: share of present concepts whose mask the threshold takes away, weighted.
        found_by_concept: concept -> share found where it is present.
        dice_without_threshold: mean Dice where present, weighted, if every mask counts.
        dice_with_threshold: the same with the threshold.
        ece_before: expected calibration error of the raw score, weighted, absent things half.
        ece_after: of the mapped score.
        n_present: answers behind `found_rate`.
        n_absent: answers behind `empty_rate`.
    """

    prompts: tuple[str, ...]
    refine: int
    refine_for: dict[str, int]
    score_map: ScoreMap
    score_map_for: dict[str, ScoreMap]
    found_threshold: float
    dice_by_passes: dict[str, tuple[float, ...]]
    found_rate: float
    empty_rate: float
    empty_modality: float | None
    empty_annotated: float | None
    empty_beside: float | None
    lost_rate: float
    found_by_concept: dict[str, float]
    dice_without_threshold: float
    dice_with_threshold: float
    ece_before: float
    ece_after: float
    n_present: int
    n_absent: int


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
    highest = max(0.0, *present) if present else 0.0
    every = np.concatenate([[0.0], np.asarray(present), *(scores for scores, _, _ in asked)])
    edges = np.unique(every[every >= 0])
    for threshold in (0.0, *((edges[:-1] + edges[1:]) / 2)):
        # Sums of weights round; the share asked for must not be missed by that.
        if all(weights[scores < threshold].sum() >= rate - 1e-9 for scores, weights, rate in asked):
            return float(min(threshold, highest))
    return float(highest)


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
    """Present things have half of all weight, each kind of absence half of the rest."""
    kinds = sorted({answer.kind for answer in answers})
    absences = len([kind for kind in kinds if kind != "present"])
    weights: NDArray[np.float64] = np.zeros(len(answers))
    for kind in kinds:
        inside = [i for i, answer in enumerate(answers) if answer.kind == kind]
        share = 1.0 if len(kinds) == 1 else 0.5 if kind == "present" else 0.5 / absences
        weights[inside] = share * group_weights([answers[i].group for i in inside])
    weights /= weights.sum()
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


def calibrate(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    *,
    passes: int = 2,
    empty_modality: float = EMPTY_MODALITY,
    empty_annotated: float = EMPTY_ANNOTATED,
    empty_beside: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    """Decide refinement, the score map and the found threshold on validation images.

    Every pair of concept and kind of image has the same weight in the map and in the shares that
    must come back empty, so that a large set does not hide a small one; a pair of fewer than
    `FULL_SAY` answers has less.

    Args:
        segmenter: its own score maps and found threshold are set aside.
        samples: validation images, not those reported on.
        passes: most refinements tried.
        empty_modality: share of the concepts that the kind of image cannot show that must come back
            empty, in [0, 1].
        empty_annotated: the same for concepts that the data say are not in the image.
        empty_beside: the same for what an image shows, asked of parts beside it: the same kind of
            image without the thing, of which there are many more than of images known not to show
            it. None: these are not asked.
        seed: of these parts.
        progress: show a bar.

    Raises:
        ConfigError: a share outside [0, 1].
        DataError: the samples hold nothing the adapter knows.
    """
    rates: Mapping[Kind, float] = {
        "absent_modality": empty_modality,
        "absent_annotated": empty_annotated,
    }
    if empty_beside is not None:
        rates = {**rates, "absent_beside": empty_beside}
    for kind, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ConfigError(f"the share of {kind} answers to come back empty is {rate}; give 0…1")
    config = segmenter.config.model_copy(
        update={"found_threshold": 0.0, "score_map": (), "score_map_for": {}}
    )
    open_minded = segmenter.with_config(config)
    answers: list[Answer] = []
    beside = 0 if empty_beside is None else _BESIDE
    with torch.inference_mode():
        for number, sample in enumerate(with_bar(samples, "calibrating", shown=progress)):
            rng = np.random.default_rng((seed, number))
            answers += ask(open_minded, sample, passes, beside=beside, rng=rng)
    chosen = choose_refinements(answers)
    known = tuple(
        concept
        for concept in config.prompts
        if concept not in chosen or max(chosen[concept][1]) >= MIN_DICE
    )
    if not chosen.keys() & set(known):
        raise DataError(
            "the calibration images show nothing the adapter knows: of "
            f"{', '.join(segmenter.prompts)} they show {', '.join(chosen) or 'nothing'}, none with "
            f"a mean Dice of {MIN_DICE} or more; give other images, or train longer"
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
        threshold = max(threshold, min(MIN_SCORE, max((a.score for a in present), default=0.0)))
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
