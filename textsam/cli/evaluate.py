"""`textsam evaluate`: an adapter's figures on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from textsam.cli.errors import check_out, errors_as_exit, refuse_without_use, usage_error
from textsam.cli.evaluate_data import (
    check_files,
    samples_in_coco,
    samples_in_folder,
    samples_in_manifest,
    say_trained_on,
    say_unknown_modalities,
)
from textsam.cli.options import (
    Adapter,
    AuthorsFrame,
    Device,
    Model,
    Precision,
    Refine,
    RefineWith,
    SamCheckpoint,
    Settle,
    TextEncoderFolder,
    ViewsOption,
    chosen_views,
)
from textsam.cli.sources import check_one_concept, coco_selections
from textsam.errors import ConfigError

if TYPE_CHECKING:
    from textsam.evaluate.plan import Protocol

__all__ = ["evaluate"]


def evaluate(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(help="Data root with manifest.json, or a folder with images/ and masks/."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the CSV, the summary and the contact sheet."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B",
            help="Instead of evaluating, compare two finished evaluations (their folders) case by "
            "case: mean difference, bootstrap interval, paired t-test and Wilcoxon.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="SET/SPLIT of the manifest, e.g. busi/fold1/test, or SET/SPLIT@LOW:HIGH for the "
            "images whose hash lies there; repeatable.",
        ),
    ] = None,
    coco: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of DATA: NAME=FILE.json,FOLDER, a COCO file and its images, by their "
            "name in the results; repeatable.",
        ),
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option(
            help="For a plain folder what its masks show; for COCO CATEGORY=CONCEPT, repeatable.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="For a plain folder with train/, val/, test/ inside.")
    ] = None,
    modality: Annotated[
        str,
        typer.Option(help="For a plain folder and COCO: the kind of image, as breast ultrasound."),
    ] = "unknown",
    not_exhaustive: Annotated[
        bool,
        typer.Option(
            "--not-exhaustive",
            help="For COCO: an image without an annotation of a category says nothing about it.",
        ),
    ] = False,
    crowd: Annotated[
        str,
        typer.Option(help="For COCO: union, or unknown to ask nothing where a crowd is."),
    ] = "union",
    prompts: Annotated[
        str,
        typer.Option(
            help="What is given: text, text+geometry or geometry (a point in the truth and a box "
            "10 to 15 px too large).",
        ),
    ] = "text",
    box_shift: Annotated[
        str | None,
        typer.Option(
            metavar="F,F,…",
            help="With geometry: the truth's box alone, its sides moved by these parts of its "
            "size, such as 0,0.1,0.2,0.3,0.4.",
        ),
    ] = None,
    model: Model = "lite",
    adapter: Adapter = None,
    refine: Refine = None,
    refine_with: RefineWith = None,
    settle: Settle = False,
    negatives: Annotated[
        int, typer.Option(min=0, help="Absent concepts of other modalities asked per image.")
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many images per set, evenly spread.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Of absent concepts, points, boxes, random refinement points, bootstrap."
        ),
    ] = 0,
    worst: Annotated[
        int, typer.Option(min=0, help="Cases per set and concept in worst.png; 0 for none.")
    ] = 8,
    slab_tolerance_px: Annotated[
        float,
        typer.Option(
            min=0,
            help="Tolerance of the slab NSD; that of the TextSAM-EUS authors' script is 2. The "
            "other NSD keeps 3 px.",
        ),
    ] = 3.0,
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness",
            help="Measure instead whether the word decides: wordings, absent things, neighbouring "
            "classes, calibration of the score.",
        ),
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    views: ViewsOption = None,
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
    authors_frame: AuthorsFrame = False,
) -> None:
    """Measure an adapter: Dice, IoU, NSD, HD95 per case, and how it answers for what is absent."""
    if compare is not None:
        others = {str(one.name) for one in context.command.params} - {"compare", "out", "seed"}
        refuse_without_use(context, "--compare reads two folders of results", *others)
        _compare(compare, out, seed)
        return
    if (data is None) == (coco is None) or out is None:
        raise usage_error(
            "give the data to evaluate on, a folder or --coco, and -o FOLDER for the results"
        )
    check_out(out)
    if settle and refine is not None:
        raise usage_error("--settle refines until the mask settles; give it without --refine")
    if settle and faithfulness:
        raise usage_error("--faithfulness refines a number of times; give it without --settle")
    if faithfulness:
        refuse_without_use(
            context,
            "--faithfulness asks by words alone, for all that is absent, and draws no worst cases",
            *("prompts", "box_shift", "refine_with", "negatives", "worst", "slab_tolerance_px"),
        )
    looks = chosen_views(views)
    protocol = _protocol(prompts, _shifts(box_shift))
    _check_source(context, data, sets, concept)
    if crowd not in ("union", "unknown"):
        raise usage_error(f"--crowd {crowd}: choose union or unknown")
    files = coco_selections(
        coco,
        concept if coco else None,
        modality,
        exhaustive=not not_exhaustive,
        crowd=cast(Any, crowd),
    )
    with errors_as_exit(goes_on=True):
        from textsam.allocator import keep_freed_memory
        from textsam.api import load_model
        from textsam.data.problems import Problems
        from textsam.evaluate import evaluate as run_evaluation
        from textsam.inference.settle import Settle as Rule

        keep_freed_memory()

        problems = Problems("evaluation")
        if data is None:
            samples = samples_in_coco(files, limit, problems)
        elif sets:
            samples = samples_in_manifest(data, sets, limit, problems)
        else:
            shown = (concept or [""])[0]
            samples = samples_in_folder(data, shown, split, modality, limit, problems)
        check_files(samples, problems)
        if negatives and (faithfulness or not protocol.geometric):
            say_unknown_modalities(samples, "modality in the manifest" if sets else "--modality")
        segmenter = load_model(
            model,
            adapter,
            device,
            precision,
            sam_checkpoint=sam_checkpoint,
            text_encoder=text_encoder,
            authors_frame=authors_frame or None,
            views=looks,
        )
        say_trained_on(
            segmenter.config,
            samples,
            root=data if sets else None,
            files={name: Path(file.annotations) for name, file in files.items()},
        )
        if refine is None:
            own = segmenter.config
            refines = not protocol.geometric and bool(own.refine or any(own.refine_for.values()))
        else:
            refines = refine > 0
        if not (refines or settle or refine_with == "none"):
            reason = "nothing is refined, so that --refine-with is without effect: add --refine 1"
            refuse_without_use(context, f"{reason} or more", "refine_with")
        if faithfulness:
            from textsam.evaluate.faithfulness import SegmenterTexts, measure_faithfulness
            from textsam.evaluate.faithfulness_table import faithfulness_table

            texts = SegmenterTexts(segmenter, refine, seed=seed)
            typer.echo(faithfulness_table(measure_faithfulness(texts, samples, out=out, seed=seed)))
            return
        summary = run_evaluation(
            segmenter,
            samples,
            out=out,
            prompts=protocol.prompts,
            box_shifts=protocol.box_shifts,
            refine=Rule() if settle else refine,
            refine_with=refine_with,
            negatives=negatives,
            seed=seed,
            worst=worst,
            slab_tolerance_px=slab_tolerance_px,
        )
    typer.echo(summary.table())


def _check_source(
    context: typer.Context, data: Path | None, sets: list[str] | None, concept: list[str] | None
) -> None:
    """Refuse options that do not go with the data given."""
    if data is None:
        reason = "--coco says what is read"
        refuse_without_use(context, reason, "sets", "split")
        return
    refuse_without_use(context, "without --coco there is no COCO file", "not_exhaustive", "crowd")
    if bool(sets) == bool(concept):
        raise usage_error("give either --set SET/SPLIT (manifest) or --concept NAME (plain folder)")
    if sets:
        reason = "--set names split and kind of image with the set"
        refuse_without_use(context, reason, "split", "modality")
    else:
        check_one_concept(concept)


def _compare(folders: tuple[Path, Path], out: Path | None, seed: int) -> None:
    if out is not None:
        check_out(out)
    with errors_as_exit():
        from textsam.evaluate.compare import compare_evaluations

        comparison = compare_evaluations(*folders, seed=seed)
        if out is not None:
            comparison.write(out)
    typer.echo(comparison.table())


def _protocol(prompts: str, box_shifts: tuple[float, ...]) -> Protocol:
    from textsam.evaluate.plan import Protocol

    try:
        return Protocol(cast(Any, prompts), box_shifts)
    except ConfigError as error:
        raise usage_error(f"--prompts {prompts}, --box-shift: {error}") from None


def _shifts(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        raise usage_error(
            f"--box-shift {text}: write parts of the box's size with commas, as 0,0.1,0.2,0.3,0.4"
        ) from None
