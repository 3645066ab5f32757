"""What an evaluation found: means per set and concept, false positives, time, what ran where."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import textsam
from textsam.evaluate.caption import who_and_how
from textsam.evaluate.cases import METRICS, Case, ImageKey, Kind, column_title
from textsam.evaluate.tables import markdown, not_asked
from textsam.metrics.statistics import mean_std

__all__ = ["AbsenceResult", "ConceptResult", "EvaluationSummary", "Spread", "summarise"]


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (divided by n, not n − 1) and median."""

    mean: float
    std: float
    median: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(*(round(value, 6) for value in (*mean_std(values), statistics.median(values))))


@dataclass(frozen=True)
class ConceptResult:
    """One concept of one set, over the images it is present in.

    Attributes:
        box_shift: part of its size that the truth's box was moved by; None without a shift.
        n: images.
        dice: in [0, 1].
        iou: in [0, 1].
        nsd_3px: in [0, 1], contour, tolerance 3 px.
        nsd_slab: in [0, 1], the authors' variant, with the tolerance that the settings record.
        hd95_px: in pixels, over the n − missed images with an answer; None if there is none.
        missed: images answered with an empty mask; they count as 0 in all but `hd95_px`.
    """

    dataset: str
    concept: str
    box_shift: float | None
    n: int
    dice: Spread
    iou: Spread
    nsd_3px: Spread
    nsd_slab: Spread
    hd95_px: Spread | None
    missed: int


@dataclass(frozen=True)
class AbsenceResult:
    """Questions after things that are not in the image.

    Attributes:
        dataset: name of the set, None for all sets together.
        kind: why the thing is known to be absent.
        n: questions.
        false_positives: those answered with a mask that is not empty.
    """

    dataset: str | None
    kind: Kind
    n: int
    false_positives: int

    @property
    def false_positive_rate(self) -> float:
        """In [0, 1]."""
        return self.false_positives / self.n


@dataclass(frozen=True)
class EvaluationSummary:
    """An evaluation's results.

    Attributes:
        settings: adapter, preset, refine and what else the results depend on.
        images: how many were evaluated.
        concepts: by set, concept and box shift, where the concept is present.
        absences: by set and kind.
        all_absences: by kind over all sets.
        skipped: "set/concept" -> images in which it is annotated or declared absent and was not
            asked, because the adapter does not know it.
        unasked_images: images of which nothing could be asked, because the adapter does not know it
            or there is nothing to take geometry from; they are not among `images`.
        seconds_per_image: of the segmenter's one call per image. The first call of a process is
            often slower; the median does not mind.
        versions: package -> version.
        machine: platform and number of processors.
        date: of the end, UTC, ISO 8601.
    """

    settings: Mapping[str, Any]
    images: int
    concepts: tuple[ConceptResult, ...]
    absences: tuple[AbsenceResult, ...]
    all_absences: tuple[AbsenceResult, ...]
    skipped: Mapping[str, int]
    unasked_images: int
    seconds_per_image: Spread
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    date: str

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON types, with the false-positive rates added."""

        def absence(result: AbsenceResult) -> dict[str, Any]:
            rate = round(result.false_positive_rate, 6)
            return {**asdict(result), "false_positive_rate": rate}

        content = asdict(self)
        content["concepts"] = [asdict(result) for result in self.concepts]
        content["absences"] = [absence(result) for result in self.absences]
        content["all_absences"] = [absence(result) for result in self.all_absences]
        return content

    def table(self) -> str:
        """Markdown: a table of present concepts, one of absent ones, and a line on the run.

        Metrics are times 100, mean ± standard deviation; HD95 is in pixels.
        """
        parts = []
        if self.concepts:
            shifted = any(r.box_shift is not None for r in self.concepts)
            rows = [
                (
                    r.dataset,
                    r.concept,
                    *((f"{100 * (r.box_shift or 0):g}",) if shifted else ()),
                    r.n,
                    *map(_percent, (r.dice, r.iou, r.nsd_3px, r.nsd_slab)),
                    "–" if r.hd95_px is None else f"{r.hd95_px.mean:.1f} ± {r.hd95_px.std:.1f}",
                    f"{100 * r.dice.median:.2f}",
                    r.missed,
                )
                for r in self.concepts
            ]
            head = (
                "set",
                "concept",
                *(("box shift %",) if shifted else ()),
                "n",
                *(column_title(metric, self.settings) for metric in METRICS),
                "median Dice %",
                "missed",
            )
            parts.append(markdown(head, rows, left=2))
        if self.absences:
            lines = [
                (r.dataset or "all sets", r.kind, r.n, r.false_positives, _rate(r))
                for r in (*self.absences, *self.all_absences)
            ]
            columns = ("set", "absent because", "n", "false positives", "rate %")
            parts.append(markdown(columns, lines, left=2))
        seconds = self.seconds_per_image
        parts.append(
            f"{who_and_how(self.settings)}; {self.images} images, {seconds.mean:.3g} s per "
            f"image (median {seconds.median:.3g} s)"
        )
        if self.skipped:
            parts.append(not_asked(self.skipped))
        return "\n\n".join(parts) + "\n"


def summarise(
    cases: Sequence[Case],
    settings: Mapping[str, Any],
    *,
    skipped: Mapping[str, int],
    unasked_images: int,
) -> EvaluationSummary:
    """Summarise cases; their order does not matter.

    Args:
        cases: of an evaluation, of at least one image that was asked something.
        settings: what the cases depend on.
        skipped: "set/concept" -> images in which it was not asked.
        unasked_images: images that have no case.
    """
    present: dict[tuple[str, str, float], list[Case]] = defaultdict(list)
    absent: dict[tuple[str, Kind], list[Case]] = defaultdict(list)
    seconds: dict[ImageKey, float] = {}
    for case in cases:
        if case.kind == "not_asked":
            continue
        seconds[case.image] = case.seconds
        if case.kind == "present":
            shift = -1.0 if case.box_shift is None else case.box_shift
            present[case.dataset, case.concept, shift].append(case)
        else:
            absent[case.dataset, case.kind].append(case)
    kinds: dict[Kind, list[Case]] = defaultdict(list)
    for (_, kind), group in sorted(absent.items()):
        kinds[kind] += group
    return EvaluationSummary(
        settings=dict(settings),
        images=len(seconds),
        concepts=tuple(_concept(group) for _, group in sorted(present.items())),
        absences=tuple(_absence(*key, group) for key, group in sorted(absent.items())),
        all_absences=tuple(_absence(None, *item) for item in sorted(kinds.items())),
        skipped=dict(sorted(skipped.items())),
        unasked_images=unasked_images + len({c.image for c in cases} - seconds.keys()),
        seconds_per_image=Spread.of(list(seconds.values())),
        versions={
            "textsam": textsam.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "monai", "numpy")},
        },
        machine={"platform": platform.platform(), "cpu_count": os.cpu_count()},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _concept(cases: Sequence[Case]) -> ConceptResult:
    def values(name: str) -> list[float]:
        return [getattr(case, name) for case in cases]

    answered = [value for value in values("hd95_px") if math.isfinite(value)]
    return ConceptResult(
        dataset=cases[0].dataset,
        concept=cases[0].concept,
        box_shift=cases[0].box_shift,
        n=len(cases),
        dice=Spread.of(values("dice")),
        iou=Spread.of(values("iou")),
        nsd_3px=Spread.of(values("nsd_3px")),
        nsd_slab=Spread.of(values("nsd_slab")),
        hd95_px=Spread.of(answered) if answered else None,
        missed=sum(case.area_px == 0 for case in cases),
    )


def _absence(dataset: str | None, kind: Kind, cases: Sequence[Case]) -> AbsenceResult:
    return AbsenceResult(dataset, kind, len(cases), sum(case.area_px > 0 for case in cases))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _percent(spread: Spread) -> str:
    return f"{100 * spread.mean:.2f} ± {100 * spread.std:.2f}"


def _rate(result: AbsenceResult) -> str:
    return f"{100 * result.false_positive_rate:.1f}"
