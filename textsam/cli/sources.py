"""Which options of `textsam data` have a say, by what is given as data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from textsam.cli.errors import refuse_without_use, usage_error

if TYPE_CHECKING:
    from textsam.data.coco import CocoSelection

__all__ = ["check_one_concept", "check_sources", "coco_selections", "is_configuration"]


def is_configuration(data: Path) -> bool:
    """Whether what is given as data is a training configuration, by its name."""
    return data.suffix.lower() in (".yaml", ".yml")


def check_sources(
    context: typer.Context,
    data: Path | None,
    coco: list[str] | None,
    sets: list[str] | None,
    concept: list[str] | None,
    *,
    plain: bool = False,
) -> None:
    """Refuse options that the data given have no use for; exit code 2.

    Args:
        context: of the call.
        data: a configuration, a data root or a plain folder.
        coco: COCO files, in place of it.
        sets: splits of the manifest, or settings.
        concept: of the plain folders.
        plain: folders inside of `data` are named.
    """
    from textsam.data.manifest import MANIFEST_NAME

    if (data is None) == (coco is None):
        raise usage_error("give a data root, a folder or a configuration, or --coco")
    if data is None:
        refuse_without_use(context, "--coco says what is read", "folder", "sets")
    elif is_configuration(data):
        refuse_without_use(context, f"{data} says what is read", "folder", "concept")
    elif not plain and (sets or (data / MANIFEST_NAME).is_file()):
        refuse_without_use(context, "the manifest says what the masks show", "concept")
    else:
        check_one_concept(concept)


def check_one_concept(concept: list[str] | None) -> None:
    """Refuse several concepts for the masks of plain folders; exit code 2."""
    if concept is not None and len(concept) > 1:
        raise usage_error(
            f"--concept {' --concept '.join(concept)}: the masks of a plain folder show one "
            "thing; give one name"
        )


def coco_selections(
    files: Sequence[str] | None,
    concepts: Sequence[str] | None,
    modality: str,
    *,
    exhaustive: bool = True,
    crowd: Literal["union", "unknown"] = "union",
) -> dict[str, CocoSelection]:
    """The COCO files that `--coco NAME=FILE.json,FOLDER` names, paths relative to where we are.

    Args:
        files: values of `--coco`.
        concepts: values of `--concept`, `CATEGORY=CONCEPT`, for all files; None takes every
            category by its name.
        modality, exhaustive, crowd: of all files, see `CocoSelection`.

    Raises:
        typer.Exit: an option is not written so, or a concept cannot be asked for; exit code 2.
    """
    from textsam.data.coco import CocoSelection
    from textsam.data.named import unaskable

    names: dict[str, str] = {}
    for text in concepts or ():
        category, separator, meant = text.partition("=")
        if not separator or not category or not meant:
            raise usage_error(f"--concept {text}: write CATEGORY=CONCEPT")
        if fault := unaskable(meant):
            raise usage_error(f"--concept {text}: {fault}")
        names[category] = meant
    found: dict[str, CocoSelection] = {}
    for text in files or ():
        name, separator, rest = text.partition("=")
        file, comma, folder = rest.rpartition(",")
        if not separator or not comma or not name or not file or not folder or name in found:
            raise usage_error(f"--coco {text}: write NAME=FILE.json,FOLDER, each name once")
        found[name] = CocoSelection(
            images=folder,
            annotations=file,
            concepts=names or None,
            modality=modality,
            exhaustive=exhaustive,
            crowd=crowd,
        )
    return found
