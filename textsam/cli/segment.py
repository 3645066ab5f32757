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
    single_file = out.suffix.lower() in _MASK_SUFFIXES
    if out.suffix.lower() in _SUFFIXES - _MASK_SUFFIXES and not out.is_dir():
        raise usage_error(
            f"-o {out}: masks are written as {', '.join(sorted(_MASK_SUFFIXES))}; give such a "
            "name, or a folder"
        )
    if single_file and (len(files) > 1 or source.is_dir() or len(prompts) > 1):
        raise usage_error(
            f"-o {out} is a file, and there is more than one mask to write; give a folder"
        )
    targets = [[out]] if single_file else _targets(files, prompts, out)
    _keep_inputs(files, targets, overlay)
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
        segmenter, files, prompts, targets, refine, overlay, strict, quiet=as_json
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
        # Without underscores, the last one in a mask's name separates image and prompt.
        slug = re.sub(r"[\W_]+", "-", prompt.strip().lower()).strip("-")[:60]
        slugs.append(slug or f"prompt-{number}")
    return _distinct(slugs)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that was there before."""
    taken: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.append(candidate)
    return taken


def _targets(files: Sequence[Path], prompts: Sequence[str], out: Path) -> list[list[Path]]:
    """Per image and prompt, the mask's file; no two are the same."""
    stems = [path.stem for path in files]
    bases = _distinct(
        [p.stem if stems.count(p.stem) == 1 else p.name.replace(".", "_") for p in files]
    )
    slugs = _slugs(prompts)
    return [[out / f"{base}_{slug}.png" for slug in slugs] for base in bases]


def _overlay_of(mask: Path) -> Path:
    return mask.with_name(f"{mask.stem}_overlay.png")


def _keep_inputs(files: Sequence[Path], targets: Sequence[Sequence[Path]], overlay: bool) -> None:
    """Refuse to write a mask or an overlay over an image that is to be read."""
    inputs = {path.resolve() for path in files}
    for target in (target for row in targets for target in row):
        for written in (target, _overlay_of(target)) if overlay else (target,):
            if written.resolve() in inputs:
                raise usage_error(f"{written} would overwrite an input image; give another -o")


def _run(
    segmenter: Segmenter,
    files: Sequence[Path],
    prompts: Sequence[str],
    targets: Sequence[Sequence[Path]],
    refine: int | None,
    overlay: bool,
    strict: bool,
    *,
    quiet: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    from rich.console import Console
    from rich.progress import track

    from textsam.errors import TextSAMError
    from textsam.io.raster import write_picture

    results: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    console = Console(stderr=True)
    work = list(zip(files, targets, strict=True))
    for path, masks in track(
        work, console=console, disable=len(files) == 1, description="segmenting"
    ):
        try:
            began = time.perf_counter()
            answers = segmenter.segment(path, prompts, refine=refine, strict=strict)
            seconds = time.perf_counter() - began
            for target, answer in zip(masks, answers, strict=True):
                written = {"mask": str(answer.save(target))}
                if overlay:
                    picture = write_picture(answer.overlay(), _overlay_of(target))
                    written["overlay"] = str(picture)
                results.append({**answer.to_dict(), "files": written, "seconds": round(seconds, 4)})
                if not quiet:
                    typer.echo(_line(path, answer, written["mask"]))
        except TextSAMError as error:
            failures.append({"input": str(path), "error": str(error)})
            named = str(path) in str(error)
            typer.echo(f"error: {error}" if named else f"error: {path}: {error}", err=True)
    return results, failures


def _line(path: Path, answer: Any, mask: str) -> str:
    if not answer.found:
        return f"{path.name}: {answer.prompt}: not found (score {answer.score:.3f}) -> {mask}"
    return f"{path.name}: {answer.prompt}: {answer.area_px} px, score {answer.score:.3f} -> {mask}"
