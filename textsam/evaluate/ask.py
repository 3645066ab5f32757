"""One image asked its questions, and the answers scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from textsam.data.sample import Sample, load_sample
from textsam.errors import DataError, TextSAMError
from textsam.evaluate.cases import Case, Kind
from textsam.evaluate.geometry import Draws, foreground_point, loose_box, shifted_box
from textsam.evaluate.plan import Protocol as PromptProtocol
from textsam.evaluate.plan import Question
from textsam.metrics import dice, hd95, iou, nsd, nsd_slab
from textsam.result import Segmentation

__all__ = [
    "TOLERANCE_PX",
    "Asked",
    "SegmentsByGeometry",
    "SegmentsByWord",
    "ask",
    "refuse_without_geometry",
]

TOLERANCE_PX = 3.0


class SegmentsByWord(Protocol):
    """What `evaluate` needs of a segmenter; `textsam.inference.segmenter.Segmenter` has it.

    Text attributes `fingerprint` and `identity`, if there are any, are compared before an
    evaluation is resumed, beside the adapter's name: they tell adapters of one name apart. So are
    `views`, the further views that are averaged.
    """

    @property
    def prompts(self) -> tuple[str, ...]:
        """The concepts the adapter was trained for."""

    @property
    def adapter_name(self) -> str:
        """Name of the adapter."""

    @property
    def preset(self) -> str:
        """Name of the preset."""

    def segment(
        self, image: NDArray[np.uint8], prompt: Sequence[str], *, refine: int | None = None
    ) -> list[Segmentation]:
        """One answer per prompt; `image` is (H, W, 3) in [0, 255]."""
        ...


class SegmentsByGeometry(Protocol):
    """What `evaluate` needs beside that where it gives points and boxes."""

    def segment(
        self,
        image: NDArray[np.uint8],
        prompt: Sequence[str | None],
        *,
        refine: int | None = None,
        points: Sequence[Any] | None = None,
        boxes: Sequence[Any] | None = None,
    ) -> list[Segmentation]:
        """One answer per prompt; None asks by geometry alone.

        Points are (x, y) or None, boxes (x_min, y_min, x_max, y_max) or None, in pixels, one per
        prompt.
        """
        ...


@dataclass(frozen=True)
class Asked:
    """One image, its cases, and what they were scored on.

    Attributes:
        pixels: (H, W, 3) in [0, 255].
        cases: in the order of the questions, each in all its variants.
        truths: (H, W), one per case.
        answers: (H, W), one per case; empty for a case that was not asked.
    """

    pixels: NDArray[np.uint8]
    cases: list[Case]
    truths: list[NDArray[np.bool_]]
    answers: list[NDArray[np.bool_]]


@dataclass(frozen=True)
class _Query:
    """One question in one variant, as the segmenter gets it."""

    question: Question
    truth: NDArray[np.bool_]
    box_shift: float | None
    point: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None


def ask(
    segmenter: SegmentsByWord,
    sample: Sample,
    questions: Sequence[Question],
    protocol: PromptProtocol,
    *,
    options: Mapping[str, Any],
    seed: int,
    slab_tolerance_px: float = TOLERANCE_PX,
) -> Asked:
    """Ask all questions of one image in one call.

    Args:
        segmenter: with `SegmentsByGeometry` as well, where the protocol gives geometry.
        sample: the image.
        questions: at least one.
        protocol: what the segmenter is given.
        options: of the segmenter: `refine`, passes, and what else it takes.
        seed: of points and boxes.
        slab_tolerance_px: of `nsd_slab`.

    Raises:
        DataError: files that cannot be used, or a concept both annotated with pixels and absent.
        TextSAMError: what the segmenter raises, or answers that do not fit the questions.
    """
    pixels, masks = load_sample(sample)
    queries = []
    for question in questions:
        truth = np.zeros(pixels.shape[:2], dtype=np.bool_)
        for concept in question.annotated:
            truth |= masks[concept]
        if question.declared and truth.any():
            raise DataError(
                f"{sample.name}: {question.concept!r} is annotated with pixels, and "
                f"{', '.join(map(repr, question.declared))} is declared absent; correct the data "
                "set's manifest"
            )
        queries += _queries(sample, question, truth, protocol, seed)
    # What is not there has no geometry to ask with.
    asks = [not protocol.geometric or bool(query.truth.any()) for query in queries]
    due = [query for query, is_due in zip(queries, asks, strict=True) if is_due]
    began = time.perf_counter()
    given = _call(segmenter, pixels, due, protocol, options) if due else []
    seconds = round(time.perf_counter() - began, 6)
    if len(given) != len(due):
        raise TextSAMError(
            f"{sample.name}: the segmenter gave {len(given)} answers to {len(due)} prompts"
        )
    answers = iter(given)
    asked = Asked(pixels, [], [], [])
    for query, is_due in zip(queries, asks, strict=True):
        answer = next(answers) if is_due else None
        if answer is not None and answer.mask.shape != query.truth.shape:
            raise TextSAMError(
                f"{sample.name}: the segmenter's mask is {answer.mask.shape}, the image "
                f"{query.truth.shape} (H, W)"
            )
        asked.cases.append(_case(sample, query, answer, seconds, slab_tolerance_px))
        asked.truths.append(query.truth)
        asked.answers.append(np.zeros_like(query.truth) if answer is None else answer.mask)
    return asked


def refuse_without_geometry(asked: Iterable[tuple[Sample, Sequence[Question]]]) -> None:
    """Refuse images of which not one shows what is asked: there would be nothing to point at.

    They are read up to the first one that does.

    Args:
        asked: each image with its questions.

    Raises:
        DataError: no mask has a pixel, or a file cannot be used.
    """
    empty = 0
    for sample, questions in asked:
        _, masks = load_sample(sample)
        for concept in (name for question in questions for name in question.annotated):
            if masks[concept].any():
                return
            empty += 1
    raise DataError(
        f"none of the {empty} masks has a pixel, so there is no point and no box to give; "
        "evaluate with text, or on images that show something"
    )


def _queries(
    sample: Sample,
    question: Question,
    truth: NDArray[np.bool_],
    protocol: PromptProtocol,
    seed: int,
) -> list[_Query]:
    if not protocol.geometric or not truth.any():
        return [_Query(question, truth, shift) for shift in protocol.variants]
    draws = Draws(seed, sample.dataset, sample.stem, question.concept)
    return [
        _Query(question, truth, None, foreground_point(truth, draws), loose_box(truth, draws))
        if shift is None
        else _Query(question, truth, shift, None, shifted_box(truth, shift, draws))
        for shift in protocol.variants
    ]


def _call(
    segmenter: SegmentsByWord,
    pixels: NDArray[np.uint8],
    queries: Sequence[_Query],
    protocol: PromptProtocol,
    options: Mapping[str, Any],
) -> list[Segmentation]:
    if not protocol.geometric:
        return segmenter.segment(pixels, [q.question.prompt for q in queries], **options)
    return cast(SegmentsByGeometry, segmenter).segment(
        pixels,
        [q.question.prompt if protocol.worded else None for q in queries],
        **options,
        points=[q.point for q in queries],
        boxes=[q.box for q in queries],
    )


def _case(
    sample: Sample,
    query: _Query,
    answer: Segmentation | None,
    seconds: float,
    slab_tolerance_px: float,
) -> Case:
    question, truth = query.question, query.truth
    present = bool(truth.any())
    kind: Kind = "not_asked" if answer is None else "present" if present else question.kind

    def measured(metric: Callable[..., float], *arguments: float) -> float | None:
        if answer is None or not present:
            return None
        return round(metric(answer.mask, truth, *arguments), 6)

    return Case(
        dataset=sample.dataset,
        stem=sample.stem,
        concept=question.concept,
        prompt=question.prompt,
        kind=kind,
        box_shift=query.box_shift,
        dice=measured(dice),
        iou=measured(iou),
        nsd_3px=measured(nsd, TOLERANCE_PX),
        nsd_slab=measured(nsd_slab, slab_tolerance_px),
        hd95_px=measured(hd95),
        score=0.0 if answer is None else round(answer.score, 6),
        found=answer is not None and answer.found,
        area_px=0 if answer is None else answer.area_px,
        truth_area_px=int(np.count_nonzero(truth)),
        seconds=0.0 if answer is None else seconds,
    )
