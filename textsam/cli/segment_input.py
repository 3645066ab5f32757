"""What `textsam segment` can say of a single file as INPUT before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from textsam.cli.errors import EXIT_FAILED, refuse_without_use, usage_error
from textsam.errors import ImageError

if TYPE_CHECKING:
    from textsam.folder.plan import Plan

__all__ = ["open_single", "refuse_for_file"]


def refuse_for_file(context: typer.Context, source: Path) -> None:
    """Refuse options that have no say on a file of its kind; exit code 2.

    A folder may hold files of every kind, so nothing is refused there.

    Raises:
        ImageError: the file cannot be read.
    """
    from textsam.io.file_kind import kind_of_file

    if source.is_dir():
        return
    refuse_without_use(context, f"{source} is no folder", "recursive", "series")
    kind = kind_of_file(source) if source.is_file() else None
    if kind is None:
        return  # nothing there, or nothing that is read: opening it says so
    if kind not in ("nifti", "gzip"):
        refuse_without_use(context, f"{source} is no NIfTI volume", "axis")
    if kind != "dicom":
        refuse_without_use(context, f"{source} is no DICOM file", "window", "no_crop")
    if kind in ("png", "jpeg", "bmp"):
        refuse_without_use(context, f"{source} holds one image", "frame")


def open_single(
    plan: Plan, model: str, adapter: str | None, *, as_json: bool, warned: Sequence[str]
) -> None:
    """Read the headers of a plan's one input.

    Args:
        plan: of a file.
        model, adapter: as asked for, for the report.
        as_json: print a report where it cannot be used.
        warned: warnings so far.

    Raises:
        typer.Exit: it cannot be used, exit code 1; or it holds several images and there is one
            file for a mask, exit code 2.
    """
    from textsam.cli.segment_report import Console, print_unopened
    from textsam.folder.opened import check_input
    from textsam.presets import preset

    (item,) = plan.inputs
    try:
        count = check_input(item, plan.options)
    except ImageError as error:
        console = Console(plan, quiet=as_json)
        console.failed(item, None, str(error))
        if as_json:
            name = adapter if adapter is not None else preset(model).default_adapter
            print_unopened(model, name, item, str(error), warned)
        raise typer.Exit(EXIT_FAILED) from error
    if plan.mask_file is not None and count > 1:
        raise usage_error(
            f"-o {plan.mask_file} is a file, and {item.path} holds {count} images: there is more "
            "than one mask to write; give a folder, or --frame"
        )
