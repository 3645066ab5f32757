"""`textsam train`, `average`, `calibrate` and `convert`: make an adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from textsam.cli.errors import check_out, errors_as_exit
from textsam.cli.options import (
    AuthorsFrame,
    Device,
    Precision,
    SamCheckpoint,
    TextEncoderFolder,
    chosen_sides,
)
from textsam.inference.views import Views

__all__ = ["average", "calibrate", "convert", "train"]


def train(
    config: Annotated[Path, typer.Argument(help="Configuration, e.g. configs/busi.yaml.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a setting: a.b=value; may be given several times."),
    ] = None,
    stop_after: Annotated[
        int | None,
        typer.Option(min=1, help="Stop at this optimiser step; the same call goes on later."),
    ] = None,
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
    authors_frame: AuthorsFrame = False,
) -> None:
    """Train an adapter, or go on with a run that was interrupted."""
    with errors_as_exit(goes_on=True):
        from textsam.allocator import keep_freed_memory
        from textsam.config import read_config
        from textsam.train.run import train as run_training

        keep_freed_memory()

        settings = read_config(config, assignments or ())
        folder = run_training(
            settings,
            sam_checkpoint=sam_checkpoint,
            text_encoder=text_encoder,
            authors_frame=authors_frame,
            stop_after=stop_after,
        )
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        best, last = folder / "best", folder / "last"
        if best.is_dir():
            typer.echo(f"adapters: {best} and {last}")
        else:  # stopped before it was validated
            typer.echo(f"adapter: {last}; {best} comes with the first validation")


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="An authors' checkpoint (.pth).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Adapter folder to write.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the adapter; default: the folder's.")
    ] = None,
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
    authors_frame: AuthorsFrame = False,
) -> None:
    """Turn a checkpoint of the authors' code into an adapter folder."""
    check_out(out)
    with errors_as_exit():
        from textsam.convert import convert_checkpoint

        config = convert_checkpoint(
            checkpoint,
            out,
            name=name,
            sam_checkpoint=sam_checkpoint,
            text_encoder=text_encoder,
            authors_frame=authors_frame,
        )
    typer.echo(
        f"{out}: {config.preset}, rank {config.architecture.rank}, "
        f"{config.architecture.context_tokens} context tokens at depth "
        f"{config.architecture.context_depth}, prompts: {', '.join(config.prompts)}"
    )


# Adapters are named as text: a `Path` drops the "./" that tells a folder here from a shipped one.
def average(
    first: Annotated[
        str, typer.Argument(help="Adapter folder, or a name, that the other goes on from.")
    ],
    second: Annotated[str, typer.Argument(help="Adapter folder, e.g. RUN/best.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Adapter folder to write.")],
    weight: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the second in every number.")
    ] = 0.5,
) -> None:
    """Average an adapter with the one it goes on from; calibrate the result."""
    check_out(out)
    with errors_as_exit():
        from textsam.average import average_adapters

        config = average_adapters(first, second, out, weight=weight)
    typer.echo(f"{out}: {config.name}, not calibrated")


def calibrate(
    adapter: Annotated[str, typer.Argument(help="Adapter folder, e.g. RUN/best, or a name.")],
    config: Annotated[Path, typer.Argument(help="Configuration whose validation images to use.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Adapter folder to write.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a setting: a.b=value; may be given several times."),
    ] = None,
    passes: Annotated[int, typer.Option(min=0, help="Most refinements tried.")] = 2,
    empty_modality: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share to come back empty of what the kind of image cannot show."
        ),
    ] = 0.95,
    empty_annotated: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share to come back empty of what the data say is not in the image."
        ),
    ] = 0.85,
    empty_beside: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share to come back empty of what an image shows, asked of two parts beside it. "
            "These are not asked where no share is given.",
        ),
    ] = None,
    kinds: Annotated[
        int,
        typer.Option(
            min=0,
            help="Training images of each modality that teach the adapter to tell kinds of image "
            "apart; with 0 it tells apart what it did before, if anything. Not for images unlike "
            "all of training.",
        ),
    ] = 0,
    kinds_covered: Annotated[
        float,
        typer.Option(
            min=0.5,
            max=1,
            help="Share of these images that count as familiar; all that lies farther is called "
            "unfamiliar, and nothing is ruled out there.",
        ),
    ] = 1.0,
    sides: Annotated[
        str | None,
        typer.Option(
            help="Sides of the model's square to try, in pixels and parted by commas, such as "
            "112,448, each alone and averaged with the adapter's own; a concept keeps what is "
            "clearly best."
        ),
    ] = None,
    cut: Annotated[
        bool,
        typer.Option(
            "--cut",
            help="Cut masks where the Dice to expect is largest, image by image, if that is better "
            "and loses nothing on whole images; not asked for, that stays as the adapter has it.",
        ),
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
) -> None:
    """Finish an adapter: choose refinement, score map and threshold, store it in half precision.

    All are chosen on the validation images of the configuration; test images play no part. With
    --kinds it also learns, from training images, what cannot be in a kind of image.
    """
    check_out(out)
    tried = chosen_sides(sides)
    with errors_as_exit():
        from textsam.adapters import find_adapter, read_adapter_config
        from textsam.allocator import keep_freed_memory
        from textsam.api import load_model
        from textsam.calibrate import finish_adapter, fit_kinds
        from textsam.cli.calibrate_report import print_calibration
        from textsam.config import read_config
        from textsam.data.sources import samples_of

        keep_freed_memory()

        settings = read_config(config, assignments or ())
        folder = find_adapter(adapter)
        record = read_adapter_config(folder)
        segmenter = load_model(
            record.preset,
            folder,
            device,
            precision,
            sam_checkpoint=sam_checkpoint,
            text_encoder=text_encoder,
            views=Views(tried),  # so that there are models at these sides
        )
        samples = samples_of(settings.data, "val")
        told = None
        if kinds:
            seen = samples_of(settings.data, "train")
            told = fit_kinds(
                segmenter,
                seen,
                per_modality=kinds,
                covered=kinds_covered,
                augment=settings.augment,
                seed=settings.seed,
            )
        result = finish_adapter(
            segmenter,
            folder,
            samples,
            out,
            kinds=told,
            sides_px=tried,
            cut=cut,
            passes=passes,
            empty_modality=empty_modality,
            empty_annotated=empty_annotated,
            empty_beside=empty_beside,
            heal=settings.augment.heal,
            seed=settings.seed,
        )
        finished = read_adapter_config(out)
    wanted = {
        "of what the kind of image cannot show": (result.empty_modality, empty_modality),
        "of what the data say is absent": (result.empty_annotated, empty_annotated),
    }
    if empty_beside is not None:
        wanted["of what lies beside"] = (result.empty_beside, empty_beside)
    print_calibration(
        out,
        record,
        finished,
        result,
        wanted,
        cut_tried=cut,
        kinds_tried=kinds > 0,
        kinds_fitted=told is not None,
    )
