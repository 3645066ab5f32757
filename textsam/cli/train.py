"""`textsam train` and `textsam convert`: make an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textsam.cli.errors import errors_as_exit
from textsam.cli.options import AuthorsFrame, SamCheckpoint, TextEncoderFolder

__all__ = ["convert", "train"]


def train(
    config: Annotated[Path, typer.Argument(help="Configuration, e.g. configs/busi.yaml.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a setting: a.b=value; may be given several times."),
    ] = None,
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
    authors_frame: AuthorsFrame = False,
) -> None:
    """Train an adapter, or go on with a run that was interrupted."""
    with errors_as_exit():
        from textsam.config import read_config
        from textsam.train.run import train as run_training

        settings = read_config(config, assignments or ())
        folder = run_training(
            settings,
            sam_checkpoint=sam_checkpoint,
            text_encoder=text_encoder,
            authors_frame=authors_frame,
        )
    typer.echo(f"adapters: {folder / 'best'} and {folder / 'last'}")


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
