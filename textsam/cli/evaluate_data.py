"""The samples that `textsam evaluate` is about: found, and checked before anything is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from textsam.cli.errors import usage_error
from textsam.errors import ConfigError

if TYPE_CHECKING:
    from textsam.adapters import AdapterConfig
    from textsam.data.coco import CocoSelection
    from textsam.data.problems import Problems
    from textsam.data.sample import Sample

__all__ = [
    "check_files",
    "samples_in_coco",
    "samples_in_folder",
    "samples_in_manifest",
    "say_trained_on",
    "say_unknown_modalities",
]


def samples_in_manifest(
    root: Path, sets: Sequence[str], limit: int | None, problems: Problems
) -> list[Sample]:
    """The samples of splits of a manifest; what is wrong goes to `problems`."""
    from textsam.data.selection import selection_of
    from textsam.data.sets import samples_from_manifest

    try:
        selections = [selection_of(text, limit) for text in sets]
    except ConfigError as error:
        raise usage_error(f"--set {error}") from None
    with problems.source(root):
        return samples_from_manifest(root, selections, problems=problems)
    return []


def samples_in_folder(
    folder: Path,
    concept: str,
    split: str | None,
    modality: str,
    limit: int | None,
    problems: Problems,
) -> list[Sample]:
    """The samples of a plain folder; what is wrong goes to `problems`."""
    from textsam.data.folder import samples_from_folder
    from textsam.data.selection import spread

    with problems.source(folder):
        samples = samples_from_folder(
            folder, concept, split=split, modality=modality, problems=problems
        )
        return spread(samples, limit)
    return []


def samples_in_coco(
    files: Mapping[str, CocoSelection], limit: int | None, problems: Problems
) -> list[Sample]:
    """The samples of COCO files, under their names; what is wrong goes to `problems`."""
    from textsam.data.coco import samples_from_coco
    from textsam.data.selection import spread

    samples: list[Sample] = []
    for name, selection in files.items():
        with problems.source(selection.annotations):
            found = samples_from_coco(".", selection, dataset=name, problems=problems)
            samples += spread(found, limit)
    return samples


def check_files(samples: Sequence[Sample], problems: Problems) -> None:
    """Read every image and mask to its end, as training does before it starts.

    Warnings go to standard error. A class without a pixel is one of them: images of healthy
    people are evaluated, too.

    Raises:
        DataCheckError: faults, all of them listed.
    """
    from textsam.data.check import Checker, check_samples

    report = check_samples(
        {problems.part: samples},
        problems.found,
        allowed=frozenset({"empty-class"}),
        checker=Checker(progress=True),
    )
    report.raise_errors("Nothing was asked. `textsam data check` with --json lists every file.")
    # Of unknown kinds of image it is told where it matters, with those that are called "unknown".
    told = [problem for problem in report.problems if problem.kind != "unknown-modality"]
    if told:
        text = replace(report, problems=tuple(told)).text()
        typer.echo(f"warning: the data can be used, but\n{text}", err=True)


def say_unknown_modalities(samples: Sequence[Sample], named_by: str) -> None:
    """Why nothing that cannot be in an image is asked of some of them, and what names the kind."""
    from textsam.data.check import unknown_modality
    from textsam.prompts import MODALITIES

    images = Counter(sample.modality for sample in samples if sample.modality not in MODALITIES)
    for modality, count in images.items():
        why = unknown_modality(modality, count)
        typer.echo(f"warning: {why}; {named_by} names the kind", err=True)


def say_trained_on(
    adapter: AdapterConfig,
    samples: Sequence[Sample],
    *,
    root: Path | None = None,
    files: Mapping[str, Path] | None = None,
) -> None:
    """Warn of images to evaluate on that the adapter was, or may have been, trained on.

    Args:
        adapter: to be evaluated.
        samples: to be evaluated.
        root: of the manifest that they come from, if they do.
        files: set -> the COCO file that its samples come from.
    """
    from textsam.evaluate.seen import seen_in_training

    seen = seen_in_training(adapter.training, samples, root=root, files=files)
    by_name = " (by the name of their folder or COCO file)"
    for names, was, why in (
        (seen.surely, "was", ""),
        (seen.perhaps, "may have been", by_name),
    ):
        if names:
            typer.echo(
                f"warning: {adapter.name!r} {was} trained on {len(names)} of these {len(samples)} "
                f"images, e.g. {names[0]}{why}; what it does on them says nothing about others",
                err=True,
            )
