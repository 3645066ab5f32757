"""Evaluate a segmenter: ask for what is in an image and for what is not, and score the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from textsam.data.sample import Sample
from textsam.evaluate.ask import (
    TOLERANCE_PX,
    Asked,
    SegmentsByWord,
    ask,
    refuse_without_geometry,
)
from textsam.evaluate.cases import SUMMARY_FILE, Case, CaseFile, ImageKey
from textsam.evaluate.options import shifts_of, tolerance_of, whole_number
from textsam.evaluate.plan import Plan, Prompts, Protocol, make_plan
from textsam.evaluate.row_file import digests_of
from textsam.evaluate.summary import EvaluationSummary, summarise
from textsam.evaluate.worst import WORST_FILE, WorstCases, cases_per_group
from textsam.inference.refinement import RefineWith, refine_with_of
from textsam.inference.settle import Settle
from textsam.io.atomic import write_json

__all__ = ["evaluate"]


def evaluate(
    segmenter: SegmentsByWord,
    samples: Sequence[Sample],
    *,
    out: str | Path | None,
    prompts: Prompts = "text",
    box_shifts: Sequence[float] = (),
    refine: int | Settle | None = None,
    refine_with: str | None = None,
    negatives: int = 1,
    seed: int = 0,
    worst: int = 8,
    slab_tolerance_px: float = TOLERANCE_PX,
    progress: bool = True,
    resume: bool = True,
) -> EvaluationSummary:
    """Ask a segmenter for everything that is known of the samples, and score its answers.

    With text, an image is asked for its annotated concepts and its `absent` ones, as far as the
    adapter knows them, and for some that its modality cannot show. With geometry it is asked for
    the annotated ones that have pixels, since what is not there has no point and no box. All is one
    call. docs/metrics.md says what is counted how, and what the files hold.

    Args:
        segmenter: with its adapter; for geometry one that has `SegmentsByGeometry` too.
        samples: what to evaluate on.
        out: folder for `cases.csv`, `evaluation.json`, `summary.json` and `worst.png`; None writes
            nothing.
        prompts: what is given: "text", "text+geometry" or "geometry".
        box_shifts: parts of its size by which the truth's box is moved, given without a point and
            once for each; in [0, 0.5). Needs geometry. Empty: a point and a loose box.
        refine: refinement passes; None takes what the adapter asks for with text, and none with
            geometry, which then has the place of refinement's. A rule refines until masks settle;
            the segmenter must take it then.
        refine_with: what refinement takes from a mask, see `RefineWith` in
            `textsam.inference.refinement`; None is the default of the segmenter, which must take
            `refine_with` and `seed` otherwise. Random points that an adapter asks for are drawn by
            `seed`, too.
        negatives: how many prompts that the modality cannot show are asked per image, at most; none
            with geometry.
        seed: of the choice of those prompts, of points and boxes, and of random refinement points.
        worst: cases per set and concept on the contact sheet `worst.png`; 0 draws none, and removes
            that of an earlier run.
        slab_tolerance_px: tolerance of `nsd_slab` in pixels of the image; `nsd_3px` keeps its 3.
        progress: show a bar.
        resume: go on where an earlier, killed evaluation into `out` stopped; False starts anew.

    Raises:
        ConfigError: `negatives`, `worst` or `seed` that is no whole number or below 0, a tolerance
            that is no finite number or below 0, or prompts or shifts that do not exist.
        DataError: no samples, two of the same set and stem, nothing in them that the adapter knows,
            no pixel in any mask where geometry is given, a concept both annotated with pixels and
            absent, a file that cannot be used, earlier results in `out` that belong to another
            evaluation or to other files, or another process that is writing into `out`.
        PromptError: an unknown `refine_with`.
        OutputError: results cannot be written.
        TextSAMError: what the segmenter raises.
    """
    negatives, worst = whole_number("negatives", negatives), whole_number("worst", worst)
    seed = whole_number("seed", seed)
    slab_tolerance_px = tolerance_of("slab_tolerance_px", slab_tolerance_px)
    protocol = Protocol(prompts, shifts_of(box_shifts))
    if protocol.geometric:
        negatives = 0
        refine = refine or 0
    options: dict[str, Any] = {"refine": refine}
    if refine_with is None:
        refine_with = _random_of(segmenter)
    if refine_with is not None:
        refine_with = refine_with_of(refine_with).value
        options.update(refine_with=refine_with, seed=seed)
    plan = make_plan(samples, segmenter.prompts, protocol, negatives, seed)
    if protocol.geometric:
        refuse_without_geometry(plan.images.values())
    settings = _settings(segmenter, protocol, refine, refine_with, negatives, seed)
    settings["slab_tolerance_px"] = slab_tolerance_px
    shown_as = segmenter.adapter_name if progress else None

    def asked_of(image: ImageKey) -> Asked:
        sample, questions = plan.images[image]
        return ask(
            segmenter,
            sample,
            questions,
            protocol,
            options=options,
            seed=seed,
            slab_tolerance_px=slab_tolerance_px,
        )

    def summary_of(cases: Sequence[Case]) -> EvaluationSummary:
        unasked = len(samples) - len(plan.images)
        return summarise(cases, settings, skipped=plan.skipped, unasked_images=unasked)

    if out is None:
        return summary_of(_cases(plan, asked_of, None, WorstCases(0), shown_as))
    out = Path(out)
    contents = digests_of(sample for sample, _ in plan.images.values())
    with CaseFile(out, settings, plan.expected(protocol), contents, resume=resume) as file:
        # A summary of fewer or other cases must not survive a kill of this run.
        (out / SUMMARY_FILE).unlink(missing_ok=True)
        # Nor must a sheet of other cases.
        sheet_path = out / WORST_FILE
        if len(file.finished) < len(plan.images) or cases_per_group(sheet_path) != worst:
            sheet_path.unlink(missing_ok=True)
        sheet = WorstCases(worst)
        cases = _cases(plan, asked_of, file, sheet, shown_as)
        summary = summary_of(cases)
        if not sheet_path.exists():
            # Of images done by an earlier run there are figures and no pictures: ask once more.
            for image in sheet.missing(cases):
                sheet.add(asked_of(image), keep=True)
            sheet.write(sheet_path, cases)
        write_json(out / SUMMARY_FILE, summary.to_dict())
    return summary


def _cases(
    plan: Plan,
    asked_of: Callable[[ImageKey], Asked],
    file: CaseFile | None,
    sheet: WorstCases,
    shown_as: str | None,
) -> list[Case]:
    """All cases in the order of the plan; those that the file lacks are asked for and added.

    shown_as: beside a bar; None shows none.
    """
    by_image = {} if file is None else dict(file.finished)
    with _bar(shown_as is not None) as bar:
        task = bar.add_task(shown_as or "", total=len(plan.images), completed=len(by_image))
        for image in plan.images:
            if image in by_image:
                continue
            asked = asked_of(image)
            by_image[image] = asked.cases
            sheet.add(asked)
            if file is not None:
                file.append(asked.cases)
            bar.advance(task)
    return [case for image in plan.images for case in by_image[image]]


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


def _random_of(segmenter: SegmentsByWord) -> RefineWith | None:
    """What the adapter itself asks refinement to take, where that draws points by a seed."""
    own = getattr(getattr(segmenter, "config", None), "refine_with", None)
    return own if isinstance(own, RefineWith) and own.random_points else None


def _settings(
    segmenter: SegmentsByWord,
    protocol: Protocol,
    refine: int | Settle | None,
    refine_with: str | None,
    negatives: int,
    seed: int,
) -> dict[str, Any]:
    views = str(getattr(segmenter, "views", ""))
    return {
        "format": 2,
        "adapter": segmenter.adapter_name,
        "fingerprint": getattr(segmenter, "fingerprint", None),
        # Its tensors tell neither a newly calibrated adapter from the one before, nor the text
        # encoder.
        "identity": getattr(segmenter, "identity", None),
        "preset": segmenter.preset,
        "prompts": list(segmenter.prompts),
        "protocol": protocol.prompts,
        "box_shifts": list(protocol.box_shifts),
        "refine": refine.model_dump() if isinstance(refine, Settle) else refine,
        "refine_with": refine_with,
        "negatives": negatives,
        "seed": seed,
        "tolerance_px": TOLERANCE_PX,
        **({"views": views} if views else {}),
    }
