"""`textsam evaluate`: an adapter's figures on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textsam.cli.errors import errors_as_exit, usage_error
from textsam.cli.options import (
    Adapter,
    AuthorsFrame,
    Device,
    Model,
    Precision,
    Refine,
    RefineWith,
    SamCheckpoint,
    TextEncoderFolder,
)

__all__ = ["evaluate"]


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(help="Data root with manifest.json, or a folder with images/ and masks/."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the CSV and the summary.")],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="SET/SPLIT of the manifest, e.g. busi/fold1/test, or SET/SPLIT@LOW:HIGH for the "
            "images whose hash lies there; repeatable.",
        ),
    ] = None,
    concept: Annotated[
        str | None, typer.Option(help="For a plain folder: what its masks show.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="For a plain folder with train/, val/, test/ inside.")
    ] = None,
    modality: Annotated[str, typer.Option(help="For a plain folder.")] = "unknown",
    model: Model = "lite",
    adapter: Adapter = None,
    refine: Refine = None,
    refine_with: RefineWith = None,
    negatives: Annotated[
        int, typer.Option(min=0, help="Absent concepts of other modalities asked per image.")
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many images per set, evenly spread.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Chooses the absent concepts and random points.")
    ] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
    authors_frame: AuthorsFrame = False,
) -> None:
    """Measure an adapter: Dice, IoU, NSD per case, and how it answers for what is not there."""
    if bool(sets) == bool(concept):
        raise usage_error("give either --set SET/SPLIT (manifest) or --concept NAME (plain folder)")
    with errors_as_exit():
        from textsam.allocator import keep_freed_memory
        from textsam.api import load_model
        from textsam.data.folder import Selection, samples_from_folder, samples_from_manifest
        from textsam.evaluate import evaluate as run_evaluation

        keep_freed_memory()

        if sets:
            chosen = [_selection(text) for text in sets]
            selections = [
                Selection(set=name, split=split_name, part=part, limit=limit)
                for name, split_name, part in chosen
            ]
            samples = samples_from_manifest(data, selections)
        else:
            samples = samples_from_folder(data, str(concept), split=split, modality=modality)
            if limit is not None and limit < len(samples):
                samples = [samples[i * len(samples) // limit] for i in range(limit)]
        segmenter = load_model(
            model,
            adapter,
            device,
            precision,
            sam_checkpoint=sam_checkpoint,
            text_encoder=text_encoder,
            authors_frame=True if authors_frame else None,
        )
        summary = run_evaluation(
            segmenter,
            samples,
            out=out,
            refine=refine,
            refine_with=refine_with,
            negatives=negatives,
            seed=seed,
        )
    typer.echo(summary.table())


def _selection(text: str) -> tuple[str, str, tuple[float, float]]:
    """Set, split and part of `SET/SPLIT` or `SET/SPLIT@LOW:HIGH`."""
    where, _, part = text.partition("@")
    name, _, split = where.partition("/")
    try:
        low, high = (float(edge) for edge in part.split(":")) if part else (0.0, 1.0)
    except ValueError:
        split = ""
    if not name or not split or not 0 <= low < high <= 1:
        raise usage_error(
            f"--set {text}: write SET/SPLIT, e.g. busi/fold1/test, or SET/SPLIT@LOW:HIGH with "
            "0 <= LOW < HIGH <= 1"
        )
    return name, split, (low, high)
