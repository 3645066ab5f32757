"""What a faithfulness run found: points lost per wording, empty rates, confusion, calibration."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from textsam.evaluate.faithfulness_rows import AnswerRow, Kind, Wording
from textsam.metrics.reliability import Reliability, reliability

__all__ = [
    "ConfusionCell",
    "ConfusionRow",
    "EmptyRate",
    "FaithfulnessSummary",
    "ScoreReliability",
    "TextLoss",
    "Threshold",
    "WordingLoss",
    "summarise_faithfulness",
]


@dataclass(frozen=True)
class TextLoss:
    """One text against the concept's name, over the images of one set that show the concept.

    Attributes:
        n: images.
        name_dice: mean Dice of the concept's name.
        network_lost: Dice points (hundredths) lost when the text goes to the network as it is;
            negative if the text does better.
        product_lost: the same when it is asked as users do.
    """

    dataset: str
    concept: str
    wording: Wording
    text: str
    n: int
    name_dice: float
    network_lost: float
    product_lost: float


@dataclass(frozen=True)
class WordingLoss:
    """All texts of one kind, or of all kinds: mean and worst over set, concept and text.

    Attributes:
        wording: None for all.
        texts: how many set–concept–text triples.
        worst_text: where `network_worst` was, "set: text".
    """

    wording: Wording | None
    texts: int
    network_mean: float
    network_worst: float
    product_mean: float
    product_worst: float
    worst_text: str


@dataclass(frozen=True)
class EmptyRate:
    """Things that are not there.

    Attributes:
        kind: how that is known.
        dataset: None for all sets.
        n: questions.
        rate: share answered with an empty mask.
        mask_alone: that share if every mask counted, whatever its score.
        group_mean: mean of the rates of the pairs of set and concept, each with the same say.
        worst: the lowest of these rates, and "set: concept" where it was.
        worst_group: see `worst`.
    """

    kind: Kind
    dataset: str | None
    n: int
    rate: float
    mask_alone: float
    group_mean: float
    worst: float
    worst_group: str


@dataclass(frozen=True)
class ConfusionCell:
    """How an answer lies on one annotated class.

    Attributes:
        n: images that show both.
        dice: mean Dice of the answer with the class's mask.
        share: mean share of the answer's area in that mask, over answers that are not empty; None
            if all are.
    """

    annotated: str
    n: int
    dice: float
    share: float | None


@dataclass(frozen=True)
class ConfusionRow:
    """One asked class of one set, in images that show several classes."""

    dataset: str
    asked: str
    cells: tuple[ConfusionCell, ...]


@dataclass(frozen=True)
class ScoreReliability:
    """Score against true Dice of the proposed mask; an absent thing's is 0.

    Attributes:
        present: things that are there, every answer alike.
        pooled: all answers to names and distractors, every answer alike.
        balanced: the same with weights: present things have half of all weight, each kind of
            absence the same part of the other half, each pair of set and concept within a kind the
            same part of that.
        found: answers with a mask.
    """

    present: Reliability | None
    pooled: Reliability | None
    balanced: Reliability | None
    found: Reliability | None


@dataclass(frozen=True)
class Threshold:
    """What the found threshold does to things that are there; means over set and concept.

    Attributes:
        found_rate: share that is found.
        mask_rate: share with a mask before the threshold.
        dice: mean Dice with the threshold.
        dice_without: mean Dice if every mask counted.
    """

    n: int
    found_rate: float
    mask_rate: float
    dice: float
    dice_without: float


@dataclass(frozen=True)
class FaithfulnessSummary:
    """The results, in the order of the table.

    Attributes:
        skipped: "set/concept" -> images in which it is annotated or declared absent and was not
            asked, because the adapter does not know it.
    """

    settings: Mapping[str, Any]
    images: int
    found_threshold: float
    wordings: tuple[WordingLoss, ...]
    texts: tuple[TextLoss, ...]
    empty: tuple[EmptyRate, ...]
    confusion: tuple[ConfusionRow, ...]
    score: ScoreReliability
    threshold: Threshold | None
    skipped: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON types."""
        return asdict(self)


def summarise_faithfulness(
    rows: Sequence[AnswerRow], settings: Mapping[str, Any], *, skipped: Mapping[str, int]
) -> FaithfulnessSummary:
    """Summarise the answers of a run; their order does not matter.

    Args:
        rows: complete for each image.
        settings: what the answers depend on, with "found_threshold".
        skipped: "set/concept" -> images in which it was not asked.
    """
    rows = sorted(rows, key=lambda row: (row.dataset, row.stem, row.concept, row.text))
    texts = _texts(rows)
    names = [row for row in rows if row.wording == "name"]
    return FaithfulnessSummary(
        settings=dict(settings),
        images=len({row.image for row in rows}),
        found_threshold=float(settings["found_threshold"]),
        wordings=_wordings(texts),
        texts=texts,
        empty=_empty([row for row in names if row.kind != "present"]),
        confusion=_confusion(names),
        score=_score(names),
        threshold=_threshold([row for row in names if row.kind == "present"]),
        skipped=dict(sorted(skipped.items())),
    )


def _known(value: float | None) -> float:
    # Rows of present things have every metric.
    assert value is not None
    return value


def _texts(rows: Sequence[AnswerRow]) -> tuple[TextLoss, ...]:
    present = [row for row in rows if row.kind == "present"]
    name = {(r.image, r.concept): _known(r.dice) for r in present if r.wording == "name"}
    groups: dict[tuple[str, str, str], list[AnswerRow]] = defaultdict(list)
    for row in present:
        if row.wording != "name":
            groups[row.dataset, row.concept, row.text].append(row)
    found = []
    for (dataset, concept, text), own in sorted(groups.items()):
        of_name = [name[row.image, concept] for row in own]
        mean = statistics.fmean(of_name)
        found.append(
            TextLoss(
                dataset=dataset,
                concept=concept,
                wording=own[0].wording,
                text=text,
                n=len(own),
                name_dice=round(mean, 6),
                network_lost=_points(mean - statistics.fmean(_known(r.dice) for r in own)),
                product_lost=_points(mean - statistics.fmean(_known(r.product_dice) for r in own)),
            )
        )
    return tuple(found)


def _points(difference: float) -> float:
    return round(100 * difference, 4) + 0.0  # no -0.0


def _wordings(texts: Sequence[TextLoss]) -> tuple[WordingLoss, ...]:
    order: tuple[Wording, ...] = ("synonym", "British", "plural", "upper case", "article")
    groups: list[tuple[Wording | None, list[TextLoss]]] = [
        (wording, [t for t in texts if t.wording == wording]) for wording in order
    ]
    groups.append((None, list(texts)))
    found = []
    for wording, own in groups:
        if own:
            worst = max(own, key=lambda text: text.network_lost)
            found.append(
                WordingLoss(
                    wording=wording,
                    texts=len(own),
                    network_mean=round(statistics.fmean(t.network_lost for t in own), 4),
                    network_worst=worst.network_lost,
                    product_mean=round(statistics.fmean(t.product_lost for t in own), 4),
                    product_worst=max(t.product_lost for t in own),
                    worst_text=f"{worst.dataset}: {worst.text}",
                )
            )
    return tuple(found)


def _empty(rows: Sequence[AnswerRow]) -> tuple[EmptyRate, ...]:
    kinds: tuple[Kind, ...] = ("absent_modality", "absent_annotated", "distractor")
    found = []
    for kind in kinds:
        own = [row for row in rows if row.kind == kind]
        if own:
            found.append(_rate(kind, None, own))
            for dataset in sorted({row.dataset for row in own}):
                found.append(  # noqa: PERF401
                    _rate(kind, dataset, [row for row in own if row.dataset == dataset])
                )
    return tuple(found)


def _rate(kind: Kind, dataset: str | None, rows: Sequence[AnswerRow]) -> EmptyRate:
    groups = {
        f"{group[0]}: {group[1]}": statistics.fmean(row.area_px == 0 for row in own)
        for group, own in _by_group(rows).items()
    }
    worst = min(groups, key=lambda group: groups[group])
    return EmptyRate(
        kind=kind,
        dataset=dataset,
        n=len(rows),
        rate=round(statistics.fmean(row.area_px == 0 for row in rows), 6),
        mask_alone=round(statistics.fmean(row.proposed_area_px == 0 for row in rows), 6),
        group_mean=round(statistics.fmean(groups.values()), 6),
        worst=round(groups[worst], 6),
        worst_group=worst,
    )


def _by_group(rows: Iterable[AnswerRow]) -> dict[tuple[str, str], list[AnswerRow]]:
    groups: dict[tuple[str, str], list[AnswerRow]] = defaultdict(list)
    for row in rows:
        groups[row.dataset, row.concept].append(row)
    return groups


def _confusion(rows: Sequence[AnswerRow]) -> tuple[ConfusionRow, ...]:
    found = []
    for (dataset, asked), own in sorted(_by_group(r for r in rows if r.lies_in).items()):
        cells = []
        for annotated in sorted({name for row in own for name in row.lies_in}):
            both = [row.lies_in[annotated] for row in own if annotated in row.lies_in]
            shares = [share for _, share in both if share is not None]
            cells.append(
                ConfusionCell(
                    annotated=annotated,
                    n=len(both),
                    dice=round(statistics.fmean(overlap for overlap, _ in both), 6),
                    share=round(statistics.fmean(shares), 6) if shares else None,
                )
            )
        found.append(ConfusionRow(dataset, asked, tuple(cells)))
    return tuple(found)


def _score(rows: Sequence[AnswerRow]) -> ScoreReliability:
    def of(chosen: Sequence[AnswerRow], weights: Sequence[float] | None = None) -> Any:
        scores = [row.score for row in chosen]
        return reliability(scores, [row.proposed_dice or 0.0 for row in chosen], weights)

    groups: dict[Kind, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        groups[row.kind][row.dataset, row.concept] += 1
    absences = sum(kind != "present" for kind in groups)

    def weight(row: AnswerRow) -> float:
        # Weights are relative: it does not matter if one of the halves is empty.
        part = 0.5 if row.kind == "present" else 0.5 / absences
        own = groups[row.kind]
        return part / len(own) / own[row.dataset, row.concept]

    return ScoreReliability(
        present=of([row for row in rows if row.kind == "present"]),
        pooled=of(rows),
        balanced=of(rows, [weight(row) for row in rows]),
        found=of([row for row in rows if row.found]),
    )


def _threshold(present: Sequence[AnswerRow]) -> Threshold | None:
    if not present:
        return None
    groups = _by_group(present).values()

    def mean(value: Callable[[AnswerRow], float]) -> float:
        return round(
            statistics.fmean(statistics.fmean(value(row) for row in own) for own in groups), 6
        )

    return Threshold(
        n=len(present),
        found_rate=mean(lambda row: row.found),
        mask_rate=mean(lambda row: row.proposed_area_px > 0),
        dice=mean(lambda row: _known(row.dice)),
        dice_without=mean(lambda row: _known(row.proposed_dice)),
    )
