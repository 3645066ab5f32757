"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Adapter",
    "AuthorsFrame",
    "Device",
    "Model",
    "Precision",
    "Refine",
    "RefineWith",
    "SamCheckpoint",
    "TextEncoderFolder",
]

Model = Annotated[str, typer.Option(help="Preset: lite, vit_b, vit_l or vit_h.")]
Adapter = Annotated[
    str | None,
    typer.Option(help="Name of a shipped adapter, or an adapter folder; default: the preset's."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option(help="Of the image encoder: auto, float32 or bfloat16.")]
Refine = Annotated[
    int | None,
    typer.Option(min=0, help="Refinement passes; default: what the adapter asks for."),
]
RefineWith = Annotated[
    str | None,
    typer.Option(
        help="What refinement takes from a mask: none, point (one random), box, box+point, "
        "box+centroid (the default) or box+5points.",
    ),
]
SamCheckpoint = Annotated[
    Path | None,
    typer.Option(help="File of image encoder weights, instead of the registry's."),
]
TextEncoderFolder = Annotated[
    Path | None,
    typer.Option(
        "--text-encoder", help="Folder of text encoder weights, instead of the registry's."
    ),
]
AuthorsFrame = Annotated[
    bool,
    typer.Option(
        "--authors-frame",
        help="Leave refinement prompts in the image's frame, as the authors' code does.",
    ),
]
