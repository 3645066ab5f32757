"""Two evaluations of the same cases compared: differences, intervals and paired tests."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import textsam
from textsam.errors import DataError
from textsam.evaluate.caption import captions_of_two
from textsam.evaluate.cases import (
    METRICS,
    Case,
    ImageKey,
    column_title,
    read_cases,
    read_header,
    slab_tolerance_px,
)
from textsam.evaluate.tables import markdown
from textsam.io.atomic import save_text, write_json
from textsam.metrics.statistics import RESAMPLES, PairedComparison, TestResult, compare_paired

__all__ = [
    "COMPARISON_FILE",
    "COMPARISON_TABLE",
    "EvaluationComparison",
    "MetricComparison",
    "compare_evaluations",
]

COMPARISON_FILE = "comparison.json"
COMPARISON_TABLE = "comparison.md"

CaseKey = tuple[str, str, str, float | None]  # data set, stem, concept, box shift
Group = tuple[str | None, str | None, float | None]

_NAMED = 10


@dataclass(frozen=True)
class MetricComparison:
    """One metric of one group of cases in both evaluations.

    Attributes:
        dataset: name of the set; None for all sets and concepts together.
        concept: what the set calls it; None for all sets and concepts together.
        box_shift: part of its size that the truth's box was moved by; None without a shift.
        metric: column of the cases.
        left_out: pairs left out, since one of the two has no distance: an empty answer (HD95 only).
        paired: the comparison; None if there are fewer than two pairs.
    """

    dataset: str | None
    concept: str | None
    box_shift: float | None
    metric: str
    left_out: int
    paired: PairedComparison | None


@dataclass(frozen=True)
class EvaluationComparison:
    """What a comparison found.

    Attributes:
        folders: of the first and the second evaluation, as given.
        settings: of both.
        seed: of the bootstrap.
        confidence: of the intervals.
        resamples: of the bootstrap.
        rows: by set, concept, box shift and metric; at the end, if there are several sets or
            concepts, all of them together.
        other_files: images compared that had another file, or another mask, in the second; None if
            an evaluation does not say what its files held.
    """

    folders: tuple[str, str]
    settings: tuple[Mapping[str, Any], Mapping[str, Any]]
    seed: int
    confidence: float
    resamples: int
    rows: tuple[MetricComparison, ...]
    other_files: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON types; an infinite statistic is null."""

        def test(result: TestResult) -> dict[str, float | None]:
            finite = math.isfinite(result.statistic)
            return {
                "statistic": result.statistic if finite else None,
                "p_value": result.p_value,
            }

        def row(own: MetricComparison) -> dict[str, Any]:
            content = asdict(own)
            if own.paired is not None:
                content["paired"]["t_test"] = test(own.paired.t_test)
                content["paired"]["wilcoxon"] = test(own.paired.wilcoxon)
            return content

        return {
            "format": 1,
            "textsam": textsam.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "first": {"folder": self.folders[0], "settings": dict(self.settings[0])},
            "second": {"folder": self.folders[1], "settings": dict(self.settings[1])},
            "seed": self.seed,
            "confidence": self.confidence,
            "resamples": self.resamples,
            "other_files": self.other_files,
            "rows": [row(own) for own in self.rows],
        }

    def table(self) -> str:
        """Markdown. Metrics are times 100 but for HD95; differences are B minus A."""
        shifted = any(row.box_shift is not None for row in self.rows)
        level = f"{100 * self.confidence:g}"
        head = (
            "set",
            "concept",
            "metric",
            *(("box shift %",) if shifted else ()),
            "n",
            "A",
            "B",
            "B − A",
            f"{level} % interval",
            "p (t-test)",
            "p (Wilcoxon)",
        )
        lines = []
        for row in self.rows:
            shift = "" if row.box_shift is None else f"{100 * row.box_shift:g}"
            lines.append(
                (
                    row.dataset or "all sets",
                    row.concept or "all concepts",
                    column_title(row.metric, self.settings[0]),
                    *((shift,) if shifted else ()),
                    *_figures(row),
                )
            )
        parts = [
            "\n".join(
                f"- {letter}: {folder}, {caption}"
                for letter, folder, caption in zip(
                    "AB", self.folders, captions_of_two(*self.settings), strict=True
                )
            ),
            markdown(head, lines, left=3),
        ]
        parts.append(
            f"Paired cases; bootstrap of the mean difference, {self.resamples} resamples, seed "
            f"{self.seed}; two-tailed tests, not corrected for their number."
        )
        if self.other_files:
            parts.append(
                f"Not the same files: of {self.other_files} images the image itself or a mask is "
                "another in B than in A; differences may come from that."
            )
        left_out = [row for row in self.rows if row.left_out]
        if left_out:
            names = ", ".join(
                f"{row.dataset or 'all sets'}/{row.concept or 'all concepts'}"
                + ("" if row.box_shift is None else f" at shift {100 * row.box_shift:g} %")
                + f" ({row.left_out})"
                for row in left_out
            )
            parts.append(f"Left out of HD95, as an answer is empty: {names}.")
        return "\n\n".join(parts) + "\n"

    def write(self, out: str | Path) -> tuple[Path, Path]:
        """Write `comparison.json` and `comparison.md` into a folder, which is made if need be.

        Raises:
            DataError: `out` is a file.
            OutputError: it cannot be written into.
        """
        out = Path(out)
        if out.exists() and not out.is_dir():
            raise DataError(f"{out} is a file; give a folder for the comparison")
        figures, table = out / COMPARISON_FILE, out / COMPARISON_TABLE
        write_json(figures, self.to_dict())
        save_text(table, self.table())
        return figures, table


def compare_evaluations(
    first: str | Path,
    second: str | Path,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> EvaluationComparison:
    """Compare two finished evaluations, case by case where the concept is present.

    Cases are paired by data set, stem, concept and box shift. Metrics that only one of the two has
    are left out: an evaluation of version 0.1 has no slab NSD and no HD95.

    Args:
        first: folder of an evaluation.
        second: another one, of the same cases.
        seed: of the bootstrap.
        confidence: of its intervals, in (0, 1).
        resamples: of the bootstrap.

    Raises:
        DataError: a folder without a finished evaluation, cases that only one of the two has, or
            cases whose truths differ in area, or that were scored with other tolerances.
    """
    first, second = Path(first), Path(second)
    (one, columns), (other, other_columns) = _present(first), _present(second)
    _check_matched(first, one, second, other)
    (own_settings, contents), (other_settings, other_contents) = map(read_header, (first, second))
    settings = own_settings, other_settings
    metrics = [name for name in METRICS if name in columns and name in other_columns]
    tolerances = {"NSD": [own.get("tolerance_px") for own in settings]}
    if "nsd_slab" in metrics:
        tolerances["slab NSD"] = [slab_tolerance_px(own) for own in settings]
    for name, (own, others) in tolerances.items():
        if own != others:
            raise DataError(
                f"{name}: {first} was evaluated with a tolerance of {own} px and {second} with "
                f"{others} px; evaluate both with one"
            )
    groups: dict[Group, list[CaseKey]] = defaultdict(list)
    # In one order whatever the files' is, so that the bootstrap draws the same.
    for key in sorted(one, key=lambda k: (k[0], k[2], -1.0 if k[3] is None else k[3], k[1])):
        groups[key[0], key[2], key[3]].append(key)
    for shift in dict.fromkeys(group[2] for group in list(groups)):
        parts = [keys for group, keys in groups.items() if group[2] == shift]
        if len(parts) > 1:
            groups[None, None, shift] = [key for keys in parts for key in keys]
    rows = []
    for (dataset, concept, shift), keys in groups.items():
        for metric in metrics:
            pairs = [(_value(one[k], metric), _value(other[k], metric)) for k in keys]
            finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
            paired = (
                compare_paired(
                    [a for a, _ in finite],
                    [b for _, b in finite],
                    seed=seed,
                    confidence=confidence,
                    resamples=resamples,
                )
                if len(finite) > 1
                else None
            )
            left_out = len(pairs) - len(finite)
            rows.append(MetricComparison(dataset, concept, shift, metric, left_out, paired))
    return EvaluationComparison(
        folders=(str(first), str(second)),
        settings=settings,
        seed=seed,
        confidence=confidence,
        resamples=resamples,
        rows=tuple(rows),
        other_files=_other_files(contents, other_contents, {key[:2] for key in one}),
    )


def _other_files(
    ours: Mapping[ImageKey, str], theirs: Mapping[ImageKey, str], images: Iterable[ImageKey]
) -> int | None:
    if not ours or not theirs:
        return None
    return sum(ours.get(image) != theirs.get(image) for image in images)


def _present(folder: Path) -> tuple[dict[CaseKey, Case], tuple[str, ...]]:
    """The cases of present concepts, and the columns of the file."""
    cases: dict[CaseKey, Case] = {}
    listed, columns = read_cases(folder)
    for case in listed:
        if case.kind != "present":
            continue
        key = case.dataset, case.stem, case.concept, case.box_shift
        if key in cases:
            raise DataError(f"{folder} has the case {_name(key)} twice; evaluate again")
        cases[key] = case
    if not cases:
        raise DataError(f"{folder} has no case of something present; there is nothing to compare")
    return cases, columns


def _check_matched(
    first: Path, one: Mapping[CaseKey, Case], second: Path, other: Mapping[CaseKey, Case]
) -> None:
    unmatched = [
        f"only in {folder}: {_some([key for key in own if key not in rest])}"
        for folder, own, rest in ((first, one, other), (second, other, one))
        if own.keys() - rest.keys()
    ]
    if unmatched:
        raise DataError(
            f"the two evaluations are not of the same cases; {'; '.join(unmatched)}. Evaluate both "
            "on the same sets and concepts, with the same box shifts"
        )
    differing = [key for key in one if one[key].truth_area_px != other[key].truth_area_px]
    if differing:
        key = differing[0]
        raise DataError(
            f"the truths of {len(differing)} cases differ: {_name(key)} has "
            f"{one[key].truth_area_px} px in {first} and {other[key].truth_area_px} px in "
            f"{second}. Evaluate both on the same images and masks"
        )


def _value(case: Case, metric: str) -> float:
    value = getattr(case, metric)
    if value is None:
        raise DataError(
            f"{case.dataset}/{case.stem}, {case.concept}: there is no {metric}; the file of cases "
            "is damaged, evaluate again"
        )
    return float(value)


def _name(key: CaseKey) -> str:
    dataset, stem, concept, shift = key
    return f"{dataset}/{stem} {concept}" + ("" if shift is None else f" at shift {shift:g}")


def _some(keys: Sequence[CaseKey]) -> str:
    names = ", ".join(map(_name, keys[:_NAMED]))
    return names + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else "")


def _figures(row: MetricComparison) -> tuple[str, ...]:
    paired = row.paired
    if paired is None:
        return ("< 2", *("–",) * 6)
    factor = 1 if row.metric == "hd95_px" else 100

    def number(value: float, sign: str = "") -> str:
        return f"{factor * value:{sign}.2f}"

    low, high = paired.interval.low, paired.interval.high
    return (
        str(paired.n),
        number(paired.mean_first),
        number(paired.mean_second),
        number(paired.mean_difference, "+"),
        f"{number(low, '+')} to {number(high, '+')}",
        _p(paired.t_test.p_value),
        _p(paired.wilcoxon.p_value),
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}" if value else "0"
