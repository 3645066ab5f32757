"""The samples that a configuration names, found and checked as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textsam.data.check import Checker, check_samples
from textsam.data.coco import CocoSelection, samples_from_coco
from textsam.data.folder import samples_from_folder
from textsam.data.problems import WARNINGS, DataReport, Problem, Problems
from textsam.data.sample import Sample, Target
from textsam.data.selection import Selection
from textsam.data.sets import samples_from_manifest
from textsam.data.settings import DataSettings, FolderSelection
from textsam.errors import ConfigError
from textsam.io.atomic import write_json

__all__ = [
    "PARTS",
    "STAMP_FILE",
    "CheckedData",
    "checked_data",
    "find_samples",
    "read_stamped",
    "samples_in",
    "samples_of",
    "stamp_of",
    "write_stamp",
]

PARTS = ("train", "val")
STAMP_FILE = "data-check.json"
_STAMP_FORMAT = 3  # one more whenever a check finds what it did not before


@dataclass(frozen=True)
class CheckedData:
    """Samples without a fault.

    Attributes:
        parts: name, such as "train" -> samples.
        report: of the check, with its warnings.
        stamp: digest of all files' paths, sizes and times, and of what they are taken for.
        contents: part -> digest of its images' and masks' pixels; empty where an earlier check
            that did not take it was believed.
    """

    parts: Mapping[str, list[Sample]]
    report: DataReport
    stamp: str
    contents: Mapping[str, str] = field(default_factory=dict)


def samples_of(data: DataSettings, part: str, problems: Problems | None = None) -> list[Sample]:
    """The samples of a configuration's "train" or "val" part.

    Args:
        data: of the configuration.
        part: which.
        problems: takes what is wrong, and the search goes on; None raises for the first.

    Raises:
        DataError: as the functions that find samples in a manifest, a folder, a COCO file; with
            `problems` never.
    """
    selections = data.train if part == "train" else data.val
    folders = data.train_folders if part == "train" else data.val_folders
    coco = data.train_coco if part == "train" else data.val_coco
    return samples_in(Path(data.root), selections, folders, coco, problems=problems)


def samples_in(
    root: Path,
    selections: Sequence[Selection] = (),
    folders: Sequence[FolderSelection] = (),
    coco: Sequence[CocoSelection] = (),
    *,
    problems: Problems | None = None,
) -> list[Sample]:
    """The samples of selections of a manifest, of plain folders and of COCO files, in this order.

    Args:
        root: that all of them are relative to.
        selections: of the root's manifest.
        folders: plain ones.
        coco: annotation files and their images.
        problems: takes what is wrong, and the search goes on; None raises for the first.

    Raises:
        DataError: as the functions that find samples in a manifest, a folder, a COCO file; with
            `problems` never.
    """

    def source(path: Path) -> AbstractContextManager[None]:
        return nullcontext() if problems is None else problems.source(path)

    samples: list[Sample] = []
    if selections:
        with source(root):
            samples += samples_from_manifest(root, selections, problems=problems)
    for item in folders:
        with source(root / item.folder):
            samples += samples_from_folder(
                root / item.folder,
                item.concept,
                split=item.split,
                modality=item.modality,
                weight=item.weight,
                problems=problems,
            )
    for entry in coco:
        with source(root / entry.annotations):
            samples += samples_from_coco(root, entry, problems=problems)
    return samples


def find_samples(data: DataSettings) -> tuple[dict[str, list[Sample]], list[Problem]]:
    """Both parts of a configuration and what is wrong with their files' names.

    Raises:
        ConfigError: the selections of both parts have files in common, or one part has none.
    """
    parts: dict[str, list[Sample]] = {}
    found: list[Problem] = []
    for part in PARTS:
        problems = Problems(part)
        parts[part] = samples_of(data, part, problems)
        found += problems.found
    first, second = ({s.image_path for s in parts[part]} for part in PARTS)
    if overlap := first & second:
        raise ConfigError(
            f"{len(overlap)} images are in training and validation, e.g. {min(overlap)}; "
            "give the selections disjoint splits or parts"
        )
    # Where something cannot be used that is told first: it may be why there is no image.
    sound = all(problem.kind in WARNINGS for problem in found)
    if sound and (empty := [part for part, samples in parts.items() if not samples]):
        raise ConfigError(
            f"data.{empty[0]} keeps no image; give its selections another prefix, other numbers or "
            "a wider part"
        )
    return parts, found


def checked_data(data: DataSettings, folder: Path | None = None) -> CheckedData:
    """Find the samples of a configuration and check every file of them.

    Args:
        data: of the configuration.
        folder: of a run. If it holds the stamp of an earlier check of the same files, unchanged,
            they are not read again. Nothing is written.

    Raises:
        DataCheckError: faults, all of them listed.
        ConfigError: the selections of both parts have files in common, or one part has none.
    """
    parts, found = find_samples(data)
    stamp = stamp_of(parts, data.allow)
    counts = {part: len(samples) for part, samples in parts.items()}
    sound = all(problem.kind in WARNINGS for problem in found)
    if sound and folder is not None:
        before = read_stamped(folder)
        if before.get("stamp") == stamp:
            report = DataReport(tuple(found), counts, frozenset(data.allow))
            return CheckedData(parts, report, stamp, before.get("contents", {}))
    checker = Checker(progress=True)
    report = check_samples(parts, found, allowed=frozenset(data.allow), checker=checker)
    report.raise_errors(
        "Nothing was written. `textsam data check CONFIG --json FILE` lists every file."
    )
    contents = {part: checker.contents(samples) for part, samples in parts.items()}
    return CheckedData(parts, report, stamp, contents)


def stamp_of(parts: Mapping[str, Sequence[Sample]], allowed: Sequence[str]) -> str:
    """A digest that changes when a file does, or what is expected of it.

    Args:
        parts: name -> samples, as they are checked.
        allowed: what else the outcome depends on: faults that are none here.
    """
    states: dict[Path, tuple[int, int]] = {}

    def state(path: Path) -> tuple[int, int]:
        if path not in states:
            try:
                status = path.stat()
            except OSError:
                states[path] = (-1, -1)
            else:
                states[path] = (status.st_size, status.st_mtime_ns)
        return states[path]

    digest = hashlib.sha256(f"{_STAMP_FORMAT} {sorted(allowed)}\n".encode())
    for part, samples in parts.items():
        for sample in samples:
            path = sample.image_path
            facts = f"{part} {sample.name} {path.absolute()} {state(path)}\n"
            # A file name need not be valid UTF-8.
            digest.update(facts.encode(errors="surrogatepass"))
            for target in sample.targets:
                if isinstance(target, Target):
                    mask = (target.mask_path.absolute(), state(target.mask_path))
                    digest.update(
                        f"{target.concept} {target.label} {target.labels} {mask}".encode()
                    )
                else:
                    digest.update(f"{target.concept} {target.size_px} {target.rles!r}".encode())
    return digest.hexdigest()


def write_stamp(checked: CheckedData, folder: Path) -> None:
    """Leave the report and the stamp of a check in a run's folder, unless they are there already.

    Raises:
        OutputError: the file cannot be written.
    """
    if read_stamped(folder).get("stamp") == checked.stamp:
        return
    content = {
        **checked.report.to_dict(),
        "stamp": checked.stamp,
        "contents": dict(checked.contents),
    }
    write_json(folder / STAMP_FILE, content)


def read_stamped(folder: Path) -> dict[str, Any]:
    """What `write_stamp` has left in a folder; empty where that is not there or damaged."""
    try:
        content = json.loads((folder / STAMP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
