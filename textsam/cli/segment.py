"""`textsam segment`: a file or a folder in, masks and a report out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from textsam.cli.errors import EXIT_FAILED, check_out, errors_as_exit, usage_error
from textsam.cli.options import (
    Adapter,
    AuthorsFrame,
    Device,
    JsonReport,
    MaxInflatedBytes,
    MaxPixels,
    Model,
    Precision,
    Refine,
    SamCheckpoint,
    Settle,
    Strict,
    TextEncoderFolder,
    ViewsOption,
    chosen_views,
    given_limits,
)
from textsam.cli.segment_input import open_single, refuse_for_file

if TYPE_CHECKING:
    from textsam.folder.options import Format
    from textsam.folder.plan import Plan
    from textsam.inference.segmenter import Segmenter

__all__ = ["segment"]

_MASK_SUFFIXES = {".png": "png", ".tif": "tiff", ".tiff": "tiff"}
# Names of files, of outputs and inputs, that would otherwise become folders of that name.
_NOT_FOR_MASKS = (
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".webp",
    ".dcm",
    ".dicom",
    ".ima",
    ".nii",
    ".nii.gz",
    ".json",
    ".jsonl",
    ".csv",
)


def segment(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="An image, a volume, or a folder of these.")
    ],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT…", help="What to segment.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder, or the mask's file for one image and prompt."),
    ],
    model: Model = "lite",
    adapter: Adapter = None,
    refine: Refine = None,
    settle: Settle = False,
    device: Device = "auto",
    precision: Precision = "auto",
    views: ViewsOption = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="png (default), tiff, nifti, seg or coco; repeatable."),
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also draw the mask over the image.")
    ] = False,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Also draw contact sheets of all answers.")
    ] = False,
    fractional: Annotated[
        bool, typer.Option("--fractional", help="With --format seg: probabilities, not 0 and 1.")
    ] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also the folders inside the folder.")
    ] = False,
    series: Annotated[
        bool,
        typer.Option("--series", help="DICOM files of one folder and series are one input."),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do the I-th of N parts of the folder, from 1."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out what an earlier run in -o has done.")
    ] = False,
    frame: Annotated[
        int | None,
        typer.Option(min=0, help="One page, slice or frame, from 0; default: all of them."),
    ] = None,
    axis: Annotated[
        int | None, typer.Option(min=0, max=2, help="Of NIfTI volumes, the axis to slice across.")
    ] = None,
    window: Annotated[
        int,
        typer.Option(min=-1, help="Of DICOM files, which window of grey values, from 0; -1: all."),
    ] = 0,
    no_crop: Annotated[
        bool, typer.Option("--no-crop", help="Show the model all of a DICOM ultrasound image.")
    ] = False,
    as_json: JsonReport = False,
    strict: Strict = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images encoded at once; default: by the device.")
    ] = None,
    max_pixels: MaxPixels = None,
    max_images: Annotated[
        int | None, typer.Option(min=1, help="Most pages, slices or frames of one input.")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=1, help="Largest file accepted, in bytes.")
    ] = None,
    max_inflated_bytes: MaxInflatedBytes = None,
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
    authors_frame: AuthorsFrame = False,
) -> None:
    """Segment what PROMPT names in an image or volume, or in all of a folder.

    Writes STEM_PROMPT.png into the output folder, 0 outside and 255 inside; of a volume or another
    file with several images STEM_PROMPT_0000.png and so on. A folder also gets a manifest, which
    --resume goes on from, summary.csv and report.json. Exit code 0: all done (an absent object is
    done: its mask is empty); 1: at least one image failed; 2: wrong usage.
    """
    named_mask = out.suffix.lower() in _MASK_SUFFIXES and not out.is_dir()
    mask_file = out if named_mask else None
    _check_out(out, mask_file, source, prompts, formats)
    if settle and refine is not None:
        raise usage_error("--settle refines until the mask settles; give it without --refine")
    looks = chosen_views(views)
    if shard is not None and not source.is_dir():
        raise usage_error(f"--shard divides the inputs of a folder, and {source} is none")
    chosen = tuple(formats or ())
    if mask_file is not None:
        chosen = (_MASK_SUFFIXES[mask_file.suffix.lower()],)
    with errors_as_exit() as warned:
        refuse_for_file(context, source)
        from textsam.errors import ConfigError
        from textsam.folder.options import Options
        from textsam.folder.plan import make_plan
        from textsam.folder.run import check_fresh

        limits = given_limits(
            max_pixels=max_pixels,
            max_images=max_images,
            max_bytes=max_bytes,
            max_inflated_bytes=max_inflated_bytes,
        )
        try:
            options = Options(
                formats=cast("tuple[Format, ...]", chosen or ("png",)),
                frame=frame,
                axis=axis,
                window=window,
                crop=not no_crop,
                overlay=overlay,
                sheet=sheet,
                fractional=fractional,
                refine="settle" if settle else refine,
                strict=strict,
                limits=limits,
            )
            plan = make_plan(
                source,
                prompts,
                out.parent if mask_file is not None else out,
                options,
                recursive=recursive,
                series=series,
                shard=_shard(shard),
                mask_file=mask_file,
            )
            records = source.is_dir() or resume or sheet
            if records:
                check_fresh(plan, resume=resume)
            if not plan.inputs:
                typer.echo(f"no input falls in this shard ({shard} of {source})", err=True)
        except ConfigError as error:
            raise usage_error(str(error)) from error
        if not source.is_dir():
            open_single(plan, model, adapter, as_json=as_json, warned=warned)
        from textsam.allocator import keep_freed_memory
        from textsam.api import load_model

        keep_freed_memory()
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
        failed = _run(
            segmenter,
            plan,
            records=records,
            resume=resume,
            batch_size=batch_size,
            as_json=as_json,
            warned=warned,
        )
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _check_out(
    out: Path,
    mask_file: Path | None,
    source: Path,
    prompts: list[str],
    formats: list[str] | None,
) -> None:
    """What can be said of -o before anything is read."""
    if out.name.lower().endswith(_NOT_FOR_MASKS) and not out.is_dir():
        raise usage_error(
            f"-o {out}: only a mask as {', '.join(_MASK_SUFFIXES)} can be named so; give such a "
            "name, or a folder, in which --format names the files"
        )
    check_out(out if mask_file is None else out.parent)
    if mask_file is None:
        return
    if source.is_dir() or len(prompts) > 1:
        raise usage_error(
            f"-o {out} is a file, and there is more than one mask to write; give a folder"
        )
    if formats:
        raise usage_error(f"-o {out} says the format; leave out --format, or give a folder")


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    parts = re.fullmatch(r"(\d+)/(\d+)", text)
    if parts is None:
        raise usage_error(f"--shard {text}: give I/N, such as 2/8 for the second of eight parts")
    return int(parts[1]), int(parts[2])


def _run(
    segmenter: Segmenter,
    plan: Plan,
    *,
    records: bool,
    resume: bool,
    batch_size: int | None,
    as_json: bool,
    warned: Sequence[str],
) -> bool:
    """Do it; tell whether anything failed."""
    from textsam.cli.segment_report import Console, print_report
    from textsam.folder.coco import write_run_coco
    from textsam.folder.process import process
    from textsam.folder.run import run_plan

    with Console(plan, quiet=as_json) as console:
        if records:
            summary = run_plan(
                segmenter, plan, resume=resume, batch_size=batch_size, listener=console
            )
            lines = summary.records
        else:
            made = []
            for record in process(segmenter, plan, plan.inputs, console, batch_size=batch_size):
                console.finished(record)
                made.append(record)
            lines = made.__iter__
            if "coco" in plan.options.formats:
                path = plan.out / f"{plan.about_all('coco')}.json"
                write_run_coco(path, plan.prompts, lines)
    if as_json:
        print_report(segmenter, plan, lines, console.counts, warned)
    if records:
        typer.echo(f"{console.counts_text}; {summary.summary}", err=True)
    return console.counts["failed"] > 0
