"""Which images of an evaluation an adapter says it was, or may have been, trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from textsam.data.listing import PARTS
from textsam.data.manifest import MANIFEST_NAME, read_manifest
from textsam.data.problems import Problems
from textsam.data.sample import Sample
from textsam.data.selection import Selection
from textsam.data.sets import samples_from_manifest
from textsam.errors import DataError

__all__ = ["Seen", "seen_in_training"]


@dataclass(frozen=True)
class Seen:
    """Names of samples, in order.

    Attributes:
        surely: those that the training's own selections hold in the manifest they lie beside.
        perhaps: those from a folder or COCO file that is called as one of the training's was, of
            which no manifest tells more.
    """

    surely: list[str]
    perhaps: list[str]


def seen_in_training(
    training: Mapping[str, Any],
    samples: Sequence[Sample],
    *,
    root: Path | None = None,
    files: Mapping[str, Path] | None = None,
) -> Seen:
    """Look for samples among what a training has on record.

    What the adapters it went on from were trained on is not in its record, nor where the root of
    its data lay: a folder of that name may be another one. Selections that a manifest does not
    have tell nothing here, as the adapter may come from elsewhere.

    Args:
        training: of an adapter's configuration.
        samples: to be evaluated, from a manifest, plain folders or COCO files.
        root: folder with the manifest that they come from; None looks for one above their images.
        files: set -> the COCO file that its samples come from.
    """
    selections = list(_selections(training))
    names = _names(training)
    known: dict[Path, frozenset[Path] | None] = {}  # images/ -> images trained on, if that is known
    surely, perhaps = [], []
    for sample in samples:
        folder = sample.image_path.parent
        if folder not in known:
            known[folder] = _trained_beside(folder, root, selections)
        trained = known[folder]
        if trained is None:
            origin = (files or {}).get(sample.dataset, folder.parent).resolve().parts
            if any(origin[-len(name) :] == name for name in names):
                perhaps.append(sample.name)
        elif sample.image_path.resolve() in trained:
            surely.append(sample.name)
    return Seen(surely, perhaps)


def _selections(training: Mapping[str, Any]) -> Iterator[Selection]:
    for entry in _recorded(training, "train"):
        try:
            yield Selection.model_validate(entry)
        except ValidationError:  # of a version with other fields
            continue


def _trained_beside(
    images: Path, root: Path | None, selections: Sequence[Selection]
) -> frozenset[Path] | None:
    """What of a manifest's set was trained on; None if no manifest tells that of these images.

    images: SET/images or SET/{train,val,test}/images of the root.
    """
    for place in _sets(images):
        of_set = [selection for selection in selections if selection.set == place.name]
        above = place.parent if root is None else root
        if of_set and _has_set(above, place.name):
            found = samples_from_manifest(above, of_set, problems=Problems("training"))
            if found:  # else its splits are others
                return frozenset(sample.image_path.resolve() for sample in found)
    return None


def _sets(images: Path) -> Iterator[Path]:
    """What may be the set that a folder of images belongs to, as it is named and linked."""
    for base in dict.fromkeys((images.parent.absolute(), images.resolve().parent)):
        yield base
        if base.name in PARTS:
            yield base.parent


def _has_set(root: Path, name: str) -> bool:
    if not (root / MANIFEST_NAME).is_file():
        return False
    try:
        return name in read_manifest(root)
    except DataError:  # a file of that name that is none, or that is not ours to read
        return False


def _names(training: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The last parts of the paths of all that was trained on.

    What was the root of the data itself has no name to be known by.
    """
    names = []
    for part, field in (
        ("train", "set"),
        ("train_folders", "folder"),
        ("train_coco", "annotations"),
    ):
        for entry in _recorded(training, part):
            if isinstance(entry, Mapping) and (name := _named(entry.get(field))):
                split = entry.get("split") if part == "train_folders" else None
                names.append(name if split is None else (*name, str(split)))
                if part == "train":
                    names += [(*name, inner) for inner in PARTS]
    return names


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
