"""Evaluate a segmenter: ask for what is in an image and for what is not, and score the answers."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from textsam.data.sample import Sample, load_sample
from textsam.errors import ConfigError, DataError, TextSAMError
from textsam.evaluate.cases import Case, CaseFile, ImageKey, Kind
from textsam.evaluate.summary import EvaluationSummary, summarise
from textsam.io.atomic import atomic_path
from textsam.metrics import dice, iou, nsd
from textsam.prompts import canonical, certainly_absent
from textsam.refinement import refine_with_of
from textsam.result import Segmentation

__all__ = ["SUMMARY_FILE", "TOLERANCE_PX", "SegmentsByWord", "evaluate"]

SUMMARY_FILE = "summary.json"
TOLERANCE_PX = 3.0


class SegmentsByWord(Protocol):
    """What `evaluate` needs of a segmenter; `textsam.segmenter.Segmenter` has it.

    A text attribute `fingerprint`, if there is one, is compared before an evaluation is resumed,
    beside the adapter's name: it tells adapters of one name apart.
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


@dataclass(frozen=True)
class _Question:
    """One prompt for one image, and the data set's concepts it stands for.

    annotated: concepts with a mask file, whose masks are united; empty for what is known to be
        absent without one.
    kind: the answer if the truth has no pixel.
    """

    prompt: str
    annotated: tuple[str, ...]
    declared: tuple[str, ...]
    kind: Kind

    @property
    def concept(self) -> str:
        return " + ".join(self.annotated or self.declared)


def evaluate(
    segmenter: SegmentsByWord,
    samples: Sequence[Sample],
    *,
    out: Path | None,
    refine: int | None = None,
    refine_with: str | None = None,
    negatives: int = 1,
    seed: int = 0,
    progress: bool = True,
    resume: bool = True,
) -> EvaluationSummary:
    """Ask a segmenter for everything that is known of the samples, and score its answers.

    An image is asked for its annotated concepts and its `absent` ones, as far as the adapter knows
    them, and for some that its modality cannot show, all in one call. docs/metrics.md says what is
    counted how, and what the files hold.

    Args:
        segmenter: with its adapter.
        samples: what to evaluate on.
        out: folder for `cases.csv`, `evaluation.json` and `summary.json`; None writes nothing.
        refine: refinement passes; None takes what the adapter asks for.
        refine_with: what refinement takes from a mask, see `textsam.refinement.RefineWith`; None
            is the default of the segmenter, which must take `refine_with` and `seed` otherwise.
        negatives: how many prompts that the modality cannot show are asked per image, at most.
        seed: of the choice of those prompts, together with the stem, and of random refinement
            points.
        progress: show a bar.
        resume: go on where an earlier, killed evaluation into `out` stopped; False starts anew.

    Raises:
        ConfigError: `negatives` is below 0.
        DataError: no samples, two of the same set and stem, nothing in them that the adapter knows,
            a concept both annotated with pixels and absent, a file that cannot be used, or earlier
            results in `out` that belong to another evaluation.
        PromptError: an unknown `refine_with`.
        TextSAMError: what the segmenter raises.
    """
    if negatives < 0:
        raise ConfigError(f"negatives is {negatives}; give 0 or more prompts per image")
    if refine_with is not None:
        refine_with = refine_with_of(refine_with).value
    plan, skipped = _plan(samples, segmenter.prompts, negatives, seed)
    settings = _settings(segmenter, refine, refine_with, negatives, seed)
    options: dict[str, Any] = {"refine": refine}
    if refine_with is not None:
        options.update(refine_with=refine_with, seed=seed)
    by_image: dict[ImageKey, list[Case]] = {}
    file: CaseFile | None = None
    if out is not None:
        expected = {image: [q.prompt for q in asked] for image, (_, asked) in plan.items()}
        file = CaseFile(out, settings, expected, resume=resume)
        by_image.update(file.finished)
        # A summary of fewer or other cases must not survive a kill of this run.
        (out / SUMMARY_FILE).unlink(missing_ok=True)

    with _bar(progress) as bar:
        task = bar.add_task(settings["adapter"], total=len(plan), completed=len(by_image))
        for image, (sample, questions) in plan.items():
            if image in by_image:
                continue
            by_image[image] = _ask(segmenter, sample, questions, options)
            if file is not None:
                file.append(by_image[image])
            bar.advance(task)
    summary = summarise(
        [case for image in plan for case in by_image[image]],
        settings,
        skipped=skipped,
        unasked_images=len(samples) - len(plan),
    )
    if out is not None:
        with atomic_path(out / SUMMARY_FILE) as temporary:
            text = json.dumps(summary.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    return summary


def _bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        # Standard output belongs to the results.
        console=Console(stderr=True),
        disable=not shown,
    )


def _settings(
    segmenter: SegmentsByWord,
    refine: int | None,
    refine_with: str | None,
    negatives: int,
    seed: int,
) -> dict[str, Any]:
    return {
        "format": 1,
        "adapter": segmenter.adapter_name,
        "fingerprint": getattr(segmenter, "fingerprint", None),
        "preset": segmenter.preset,
        "prompts": list(segmenter.prompts),
        "refine": refine,
        "refine_with": refine_with,
        "negatives": negatives,
        "seed": seed,
        "tolerance_px": TOLERANCE_PX,
    }


def _plan(
    samples: Sequence[Sample], prompts: Sequence[str], negatives: int, seed: int
) -> tuple[dict[ImageKey, tuple[Sample, list[_Question]]], Counter[str]]:
    """What is asked of each image, without reading one, and what is skipped."""
    if not samples:
        raise DataError("there are no samples to evaluate on")
    plan: dict[ImageKey, tuple[Sample, list[_Question]]] = {}
    skipped: Counter[str] = Counter()
    seen: dict[ImageKey, Path] = {}
    for sample in samples:
        image = sample.dataset, sample.stem
        if image in seen:
            raise DataError(
                f"{sample.name} is among the samples twice: {seen[image]} and {sample.image_path}; "
                "give the sets different names, or the sample once"
            )
        seen[image] = sample.image_path
        questions, unknown = _questions(sample, prompts, negatives, seed)
        skipped.update(f"{sample.dataset}/{concept}" for concept in unknown)
        if questions:
            plan[image] = sample, questions
    if not plan:
        raise DataError(
            f"nothing can be asked of the {len(samples)} samples: the adapter knows "
            f"{', '.join(prompts)}, the samples are about {', '.join(skipped) or 'nothing'}"
        )
    return plan, skipped


def _questions(
    sample: Sample, prompts: Sequence[str], negatives: int, seed: int
) -> tuple[list[_Question], list[str]]:
    annotated: dict[str, list[str]] = {}
    declared: dict[str, list[str]] = {}
    unknown: list[str] = []
    for concepts, meant in (
        ([target.concept for target in sample.targets], annotated),
        (sample.absent, declared),
    ):
        for concept in dict.fromkeys(concepts):
            prompt = canonical(concept, prompts)
            if prompt is None:
                unknown.append(concept)
            else:
                meant.setdefault(prompt, []).append(concept)
    questions = [
        _Question(
            prompt,
            tuple(annotated.get(prompt, ())),
            tuple(declared.get(prompt, ())),
            "absent_annotated",
        )
        for prompt in dict.fromkeys((*annotated, *declared))
    ]
    impossible = [
        prompt
        for prompt in dict.fromkeys(prompts)
        if prompt not in annotated
        and prompt not in declared
        and certainly_absent(prompt, sample.modality)
    ]

    # By hash, not by a generator: the same everywhere, in any order of prompts and images, and a
    # larger number of negatives contains a smaller one.
    def place(prompt: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{sample.stem}\n{prompt}".encode()).digest()

    drawn = sorted(impossible, key=place)[:negatives]
    questions += [_Question(prompt, (), (prompt,), "absent_modality") for prompt in drawn]
    return questions, list(dict.fromkeys(unknown))


def _ask(
    segmenter: SegmentsByWord,
    sample: Sample,
    questions: Sequence[_Question],
    options: Mapping[str, Any],
) -> list[Case]:
    pixels, masks = load_sample(sample)
    began = time.perf_counter()
    answers = segmenter.segment(pixels, [q.prompt for q in questions], **options)
    seconds = round(time.perf_counter() - began, 6)
    if len(answers) != len(questions):
        raise TextSAMError(
            f"{sample.name}: the segmenter gave {len(answers)} answers to {len(questions)} prompts"
        )
    cases = []
    for question, answer in zip(questions, answers, strict=True):
        truth = np.zeros(pixels.shape[:2], dtype=np.bool_)
        for concept in question.annotated:
            truth |= masks[concept]
        present = bool(truth.any())
        if present and question.declared:
            raise DataError(
                f"{sample.name}: {question.concept!r} is annotated with pixels, and "
                f"{', '.join(map(repr, question.declared))} is declared absent; correct the data "
                "set's manifest"
            )
        if answer.mask.shape != truth.shape:
            raise TextSAMError(
                f"{sample.name}: the segmenter's mask is {answer.mask.shape}, the image "
                f"{truth.shape} (H, W)"
            )
        cases.append(
            Case(
                dataset=sample.dataset,
                stem=sample.stem,
                concept=question.concept,
                prompt=question.prompt,
                kind="present" if present else question.kind,
                dice=round(dice(answer.mask, truth), 6) if present else None,
                iou=round(iou(answer.mask, truth), 6) if present else None,
                nsd_3px=round(nsd(answer.mask, truth, TOLERANCE_PX), 6) if present else None,
                score=round(answer.score, 6),
                found=answer.found,
                area_px=answer.area_px,
                truth_area_px=int(np.count_nonzero(truth)),
                seconds=seconds,
            )
        )
    return cases
