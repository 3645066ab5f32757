"""`textsam segment`: a file or a folder in, masks and a report out."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textsam.cli.errors import EXIT_FAILED, errors_as_exit, usage_error
from textsam.cli.options import (
    Adapter,
    AuthorsFrame,
    Device,
    Model,
    Precision,
    Refine,
    SamCheckpoint,
    TextEncoderFolder,
)

if TYPE_CHECKING:
    from textsam.segmenter import Segmenter

__all__ = ["segment"]

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
REPORT_FORMAT = 1


def segment(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="An image or a folder of images.")
    ],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT…", help="What to segment.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder, or the mask's file for one image and prompt."),
    ],
    model: Model = "lite",
    adapter: Adapter = None,
    refine: Refine = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also draw the mask over the image.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON report.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse prompts the adapter was not trained for.")
    ] = False,
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
    authors_frame: AuthorsFrame = False,
) -> None:
    """Segment what PROMPT names in an image, or in every image of a folder.

    Writes STEM_PROMPT.png into the output folder, 0 outside and 255 inside; with --overlay also
    STEM_PROMPT_overlay.png. Exit code 0: all done (an absent object is done: its mask is empty);
    1: at least one image failed; 2: wrong usage.
    """
    files = _inputs(source)
    slugs = _slugs(prompts)
    single_file = out.suffix.lower() in _MASK_SUFFIXES
    if single_file and (len(files) > 1 or source.is_dir() or len(prompts) > 1):
        raise usage_error(
            f"-o {out} is a file, and there is more than one mask to write; give a folder"
        )
    with errors_as_exit():
        from textsam.api import load_model

        segmenter = load_model(
            model,
            adapter,
            device,
            precision,
            sam_checkpoint=sam_checkpoint,
            text_encoder=text_encoder,
            authors_frame=True if authors_frame else None,
        )
        from textsam.prompts import normalise

        for prompt in prompts:
            normalise(prompt)  # a bad prompt is one error, not one per image
    results, failures = _run(
        segmenter, files, prompts, slugs, out, refine, overlay, strict, single_file, quiet=as_json
    )
    if as_json:
        from textsam import __version__

        report = {
            "format": REPORT_FORMAT,
            "textsam": __version__,
            "model": segmenter.preset,
            "adapter": segmenter.adapter_name,
            "results": results,
            "failures": failures,
        }
        typer.echo(json.dumps(report, indent=2))
    if failures:
        raise typer.Exit(EXIT_FAILED)


def _inputs(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    files = sorted(
        path
        for path in source.iterdir()
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise usage_error(
            f"{source} holds no image; read are {', '.join(sorted(_SUFFIXES))} directly inside it"
        )
    return files


def _slugs(prompts: Sequence[str]) -> list[str]:
    """File-name parts for prompts, distinct even where the letters are not Latin."""
    slugs: list[str] = []
    for number, prompt in enumerate(prompts, start=1):
        slug = re.sub(r"[^\w]+", "-", prompt.strip().lower()).strip("-")[:60] or f"prompt-{number}"
        slugs.append(slug if slug not in slugs else f"{slug}-{number}")
    return slugs


def _run(
    segmenter: Segmenter,
    files: Sequence[Path],
    prompts: Sequence[str],
    slugs: Sequence[str],
    out: Path,
    refine: int | None,
    overlay: bool,
    strict: bool,
    single_file: bool,
    *,
    quiet: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    from rich.console import Console
    from rich.progress import track

    from textsam.errors import TextSAMError
    from textsam.io.raster import write_picture

    stems = [path.stem for path in files]
    results: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    console = Console(stderr=True)
    for path in track(files, console=console, disable=len(files) == 1, description="segmenting"):
        # Two files that differ in their suffix alone must not overwrite each other's masks.
        base = path.stem if stems.count(path.stem) == 1 else path.name.replace(".", "_")
        try:
            began = time.perf_counter()
            answers = segmenter.segment(path, prompts, refine=refine, strict=strict)
            seconds = time.perf_counter() - began
            for slug, answer in zip(slugs, answers, strict=True):
                target = out if single_file else out / f"{base}_{slug}.png"
                written = {"mask": str(answer.save(target))}
                if overlay:
                    picture = target.with_name(f"{target.stem}_overlay.png")
                    written["overlay"] = str(write_picture(answer.overlay(), picture))
                results.append({**answer.to_dict(), "files": written, "seconds": round(seconds, 4)})
                if not quiet:
                    typer.echo(_line(path, answer, written["mask"]))
        except TextSAMError as error:
            failures.append({"input": str(path), "error": str(error)})
            typer.echo(f"error: {path}: {error}", err=True)
    return results, failures


def _line(path: Path, answer: Any, mask: str) -> str:
    if not answer.found:
        return f"{path.name}: {answer.prompt}: not found (score {answer.score:.3f}) -> {mask}"
    return f"{path.name}: {answer.prompt}: {answer.area_px} px, score {answer.score:.3f} -> {mask}"
