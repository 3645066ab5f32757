"""`textsam saliency`: boxes and points without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textsam.cli.errors import EXIT_FAILED, errors_as_exit
from textsam.cli.streams import say
from textsam.saliency.method import SaliencyMethod, load_saliency

__all__ = ["saliency"]


def saliency(
    folder: Annotated[Path, typer.Argument(help="Folder of images.")],
    text: Annotated[
        str, typer.Argument(help="What is wanted, such as 'tumor in a breast ultrasound image'.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")],
    method: Annotated[
        SaliencyMethod,
        typer.Option(
            help="boxes: the most object-like region by LiteMedSAM, whatever the text says."
        ),
    ] = SaliencyMethod.BIOMEDCLIP,
    seed: Annotated[int, typer.Option(help="Of the points.")] = 0,
) -> None:
    """Write a box and five points per image, from no label at all.

    Exit code 0: all done (where nothing is salient there is no box); 1: at least one image failed.
    """
    with errors_as_exit():
        from textsam.saliency.write import write_prompts

        found = write_prompts(folder, text, out, load_saliency(method), seed=seed)
    salient = sum(prompt is not None for prompt in found["images"].values())
    for failure in found["failures"]:
        say(f"error: {failure['error']}", err=True)
    failed = f", {len(found['failures'])} failed" if found["failures"] else ""
    total = len(found["images"]) + len(found["failures"])
    typer.echo(f"{out}: {salient} of {total} images{failed}")
    if failed:
        raise typer.Exit(EXIT_FAILED)
