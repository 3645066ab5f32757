"""Which images of an evaluation an adapter says it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from textsam.data.problems import Problems
from textsam.data.sample import Sample
from textsam.data.selection import Selection
from textsam.data.sets import samples_from_manifest

__all__ = ["perhaps_trained_on", "trained_on"]


def trained_on(training: Mapping[str, Any], root: Path, samples: Sequence[Sample]) -> list[str]:
    """Names of the samples that a training's own selections hold, in order.

    What the adapters it went on from were trained on is not in its record. Selections that the
    manifest does not have tell nothing here, as the adapter may come from elsewhere.

    Args:
        training: of an adapter's configuration.
        root: folder with the manifest, from which the samples come.
        samples: to be evaluated.
    """
    sets = {sample.dataset for sample in samples}
    selections = []
    for entry in _recorded(training, "train"):
        try:
            selection = Selection.model_validate(entry)
        except ValidationError:  # of a version with other fields
            continue
        if selection.set in sets:
            selections.append(selection)
    if not selections:
        return []
    found = samples_from_manifest(root, selections, problems=Problems("training"))
    known = {sample.name for sample in found}
    return [sample.name for sample in samples if sample.name in known]


def perhaps_trained_on(
    training: Mapping[str, Any], sources: Mapping[str, Path], samples: Sequence[Sample]
) -> list[str]:
    """Names of the samples from a plain folder or COCO file that is called as a training's was.

    An adapter does not say where the root of its data lay, so that another folder may be meant. One
    that was the root itself has no name to be known by.

    Args:
        training: of an adapter's configuration.
        sources: set -> the folder with `images/`, or the COCO file, that its samples come from.
        samples: to be evaluated.
    """
    trained = []
    for part, field in (("train_folders", "folder"), ("train_coco", "annotations")):
        for entry in _recorded(training, part):
            if isinstance(entry, Mapping) and (name := _named(entry.get(field))):
                split = entry.get("split")
                trained.append(name if split is None else (*name, str(split)))
    ways = {dataset: path.resolve().parts for dataset, path in sources.items()}
    seen = {
        dataset
        for dataset, parts in ways.items()
        if any(parts[-len(name) :] == name for name in trained)
    }
    return [sample.name for sample in samples if sample.dataset in seen]


def _recorded(training: Mapping[str, Any], part: str) -> Sequence[Any]:
    data = training.get("data")
    entries = data.get(part) if isinstance(data, Mapping) else None
    return entries if isinstance(entries, Sequence) else ()


def _named(path: object) -> tuple[str, ...]:
    """The parts of a path relative to an unknown root; none for the root itself."""
    parts = PurePath(str(path or "")).parts
    # What lies beside the root is known by what follows.
    beside = [number for number, part in enumerate(parts) if part == ".."]
    return parts[beside[-1] + 1 :] if beside else parts
