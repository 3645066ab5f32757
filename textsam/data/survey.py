"""Check data sets as they lie on disk, without a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from textsam.data.check import Checker, check_samples
from textsam.data.coco import CocoSelection, samples_from_coco
from textsam.data.folder import samples_from_folder
from textsam.data.listing import PARTS
from textsam.data.manifest import split_names
from textsam.data.problems import DataReport, Kind, Problem, Problems
from textsam.data.sample import Sample
from textsam.data.selection import Selection
from textsam.data.sets import samples_from_manifest
from textsam.data.settings import DataSettings
from textsam.data.sources import find_samples

__all__ = [
    "check_coco",
    "check_folder",
    "check_folders",
    "check_root",
    "check_settings",
    "samples_in_folder",
    "samples_in_root",
]


def check_settings(data: DataSettings, *, checker: Checker | None = None) -> DataReport:
    """Check what a configuration trains and validates on, whatever an earlier run has checked.

    Raises:
        ConfigError: the selections of both parts have files in common, or one part has none.
    """
    parts, found = find_samples(data)
    return check_samples(parts, found, allowed=frozenset(data.allow), checker=checker)


def check_root(
    root: str | Path, splits: Sequence[str] = (), *, checker: Checker | None = None
) -> DataReport:
    """Check sets of a data root with a manifest.

    Args:
        root: holds `manifest.json` and `splits.json`.
        splits: "SET/SPLIT" or "SET/FOLD/SPLIT"; empty takes all of them. The splits of one set or
            fold must not share an image; different sets and folds may.
        checker: of the files; default: a new one.

    Raises:
        DataError: no usable manifest or splits.
    """
    checker = checker or Checker()
    groups: dict[str, list[str]] = {}
    for name in splits or split_names(root):
        groups.setdefault(name.rpartition("/")[0], []).append(name)
    reports = []
    for names in groups.values():
        parts: dict[str, list[Sample]] = {}
        found: list[Problem] = []
        for name in names:
            problems = Problems(name)
            set_name, _, split = name.partition("/")
            chosen = [Selection(set=set_name, split=split)]
            with problems.source(root):
                parts[name] = samples_from_manifest(root, chosen, problems=problems)
            found += problems.found
        reports.append(check_samples(parts, found, checker=checker))
    return _joined(reports, checker)


def check_folder(
    folder: str | Path, concept: str = "object", *, checker: Checker | None = None
) -> DataReport:
    """Check a plain folder: `images/` and `masks/`, or `train/`, `val/`, `test/` with these.

    Args:
        folder: of the set.
        concept: what its masks show, for messages.
        checker: of the files; default: a new one.
    """
    return check_folders({"": folder}, concept, checker=checker)


def check_folders(
    folders: Mapping[str, str | Path], concept: str = "object", *, checker: Checker | None = None
) -> DataReport:
    """Check plain folders as one data set, in no two of which, nor their splits, an image may be.

    Args:
        folders: name -> folder, each as for `check_folder`. The parts of the report are called
            "NAME/train", or "NAME" where a folder is not divided; an empty name is left out.
        concept: what the masks show, for messages.
        checker: of the files; default: a new one.
    """
    parts: dict[str, list[Sample]] = {}
    found: list[Problem] = []
    for name, folder in folders.items():
        for split in _splits_in(folder):
            part = "/".join(text for text in (name, split) if text)
            problems = Problems(part)
            with problems.source(Path(folder) / (split or "")):
                parts[part] = samples_from_folder(folder, concept, split=split, problems=problems)
            found += problems.found
    return check_samples(parts, found, checker=checker)


def samples_in_root(root: str | Path, splits: Sequence[str] = ()) -> list[Sample]:
    """The samples of a data root's splits, each image once however many folds it is in.

    Args:
        root: holds `manifest.json` and `splits.json`.
        splits: "SET/SPLIT" or "SET/FOLD/SPLIT"; empty takes all of them.

    Raises:
        DataError: as `samples_from_manifest`.
    """
    found: dict[Path, Sample] = {}
    for name in splits or split_names(root):
        set_name, _, split = name.partition("/")
        for sample in samples_from_manifest(root, [Selection(set=set_name, split=split)]):
            found.setdefault(sample.image_path, sample)
    return list(found.values())


def samples_in_folder(folder: str | Path, concept: str = "object") -> list[Sample]:
    """The samples of a plain folder, or of the `train/`, `val/` and `test/` inside it.

    Raises:
        DataError: as `samples_from_folder`.
    """
    return [
        sample
        for split in _splits_in(folder)
        for sample in samples_from_folder(folder, concept, split=split)
    ]


def _splits_in(folder: str | Path) -> list[str | None]:
    """The parts that a plain folder has inside; None alone where it is not divided."""
    return [part for part in PARTS if (Path(folder) / part).is_dir()] or [None]


def check_coco(
    parts: Mapping[str, CocoSelection], root: str | Path = ".", *, checker: Checker | None = None
) -> DataReport:
    """Check COCO files.

    Args:
        parts: name, such as "train" -> file and folder of its images.
        root: what their paths are relative to.
        checker: of the files; default: a new one.
    """
    samples: dict[str, list[Sample]] = {}
    found: list[Problem] = []
    for part, selection in parts.items():
        problems = Problems(part)
        with problems.source(Path(root) / selection.annotations):
            samples[part] = samples_from_coco(root, selection, problems=problems)
        found += problems.found
    return check_samples(samples, found, checker=checker)


def _joined(reports: Sequence[DataReport], checker: Checker) -> DataReport:
    """One report; a file that is in several folds is told of once."""
    kept: dict[tuple[Kind, str, str], Problem] = {}
    for report in reports:
        for problem in report.problems:
            kept.setdefault((problem.kind, problem.path, problem.message), problem)
    samples = {part: count for report in reports for part, count in report.samples.items()}
    joined = DataReport(tuple(kept.values()), samples)
    return replace(joined, files=checker.files, seconds=checker.seconds)
