"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textsam.cli.errors import usage_error
from textsam.errors import ConfigError
from textsam.inference.views import Views, sides_of, views_of
from textsam.io.limits import Limits

__all__ = [
    "Adapter",
    "AuthorsFrame",
    "Device",
    "JsonReport",
    "MaxInflatedBytes",
    "MaxPixels",
    "Model",
    "Precision",
    "Refine",
    "RefineWith",
    "SamCheckpoint",
    "Settle",
    "Strict",
    "TextEncoderFolder",
    "ViewsOption",
    "chosen_sides",
    "chosen_views",
    "given_limits",
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
        help="What refinement takes from a mask: none, point (one random), centroid, box, "
        "box+point, box+centroid, box+5points, mask (the logits) or box+mask; default: what the "
        "adapter asks for.",
    ),
]
Settle = Annotated[
    bool,
    typer.Option(
        "--settle",
        help="Refine until the mask changes by 2 px or less, ten times at most, instead of a "
        "number of passes.",
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
ViewsOption = Annotated[
    str | None,
    typer.Option(
        "--views",
        metavar="PX,PX,…,mirrored",
        help="Also look at each image at these sides of the model's square, and mirrored, and "
        "average; e.g. 112,168,mirrored. It takes as many times longer.",
    ),
]

Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse prompts the adapter was not trained for.")
]
JsonReport = Annotated[bool, typer.Option("--json", help="Print a JSON report.")]
MaxPixels = Annotated[int | None, typer.Option(min=1, help="Largest image accepted, in pixels.")]
MaxInflatedBytes = Annotated[
    int | None, typer.Option(min=1, help="Most memory to decode one image with, in bytes.")
]


def given_limits(**limits: int | None) -> Limits:
    """Limits by name, of which those not given have their defaults."""
    return Limits(**{name: limit for name, limit in limits.items() if limit is not None})


def chosen_sides(given: str | None) -> tuple[int, ...]:
    """What --sides says; other words are wrong usage."""
    try:
        return sides_of(given)
    except ConfigError as error:
        raise usage_error(f"--sides: {error}") from error


def chosen_views(given: str | None) -> Views:
    """What --views says; other words are wrong usage."""
    try:
        return views_of(given)
    except ConfigError as error:
        raise usage_error(f"--views: {error}") from error
