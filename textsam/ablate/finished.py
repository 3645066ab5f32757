"""What is on disk of an ablation's cells: the cases of those finished, and how far others are."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textsam.ablate.job import CELL_FILE, is_finished, read_record
from textsam.ablate.plan import CellJob, Job, Plan
from textsam.adapters import read_adapter_config
from textsam.errors import AdapterError, DataError
from textsam.evaluate.cases import CASES_FILE

__all__ = ["HD95", "CellCases", "Finished", "Values", "read_finished"]

HD95 = "hd95_px"
"""The metric that an empty answer has no value of."""

Values = dict[str, float]
"""Image -> value."""

_METRIC = re.compile(r"(dice|iou|nsd|hd95)($|_)")


@dataclass
class CellCases:
    """Of one finished cell.

    Attributes:
        metrics: columns, in their order.
        values: (set, concept) -> metric -> image -> value.
        missed: (set, concept) -> cases without an HD95.
        empty: (set, why a thing is absent: a `Kind`) -> whether its answer is empty, per question.
    """

    metrics: tuple[str, ...]
    values: dict[tuple[str, str], dict[str, Values]]
    missed: Counter[tuple[str, str]]
    empty: dict[tuple[str, str], list[bool]]


@dataclass(frozen=True)
class Finished:
    """Of all cells.

    Attributes:
        cases: cell -> seed -> cases.
        missing: cell -> expected seed that is not finished -> what is known of it.
        records: `cell.json` of what is finished.
        parameters: cell -> numbers in its adapter.
    """

    cases: Mapping[str, Mapping[int, CellCases]]
    missing: Mapping[str, Mapping[int, str]]
    records: tuple[Mapping[str, Any], ...]
    parameters: Mapping[str, int]


def _read(path: Path) -> CellCases:
    """The cases of a file; columns are found by name.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    values: dict[tuple[str, str], dict[str, Values]] = {}
    missed: Counter[tuple[str, str]] = Counter()
    empty: dict[tuple[str, str], list[bool]] = {}
    try:
        # A file name need not be valid UTF-8; its bytes are kept.
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            metrics = tuple(name for name in reader.fieldnames or () if _METRIC.match(name))
            for row in reader:
                if row["kind"] == "not_asked":
                    continue
                if row["kind"] != "present":
                    absence = row["dataset"], row["kind"]
                    empty.setdefault(absence, []).append(int(row["area_px"]) == 0)
                    continue
                key = row["dataset"], row["concept"]
                group = values.setdefault(key, {})
                for metric in metrics:
                    # Distances have no value where a mask is empty.
                    if row[metric] and math.isfinite(float(row[metric])):
                        group.setdefault(metric, {})[row["stem"]] = float(row[metric])
                    elif metric == HD95:
                        missed[key] += 1
    except (OSError, TypeError, ValueError, KeyError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as cases ({error}); delete its folder and start again"
        ) from error
    return CellCases(metrics, values, missed, empty)


def _what_is_missing(cell: CellJob, job: Job) -> str:
    record = read_record(cell.folder / CELL_FILE)
    if record is not None and record.get("identity") != cell.identity:
        return "made with other settings"
    if record is not None:
        return _failed(job.problem(cell)) or "evaluation not finished"
    if (job.training / "training.json").is_file():
        return "trained, not evaluated"
    if failed := _failed(job.problem()):
        return failed
    try:
        training = read_adapter_config(job.training / "last").training
    except AdapterError:
        return "training begun" if job.training.is_dir() else "not begun"
    step, total = training.get("step"), training.get("total_steps")
    return f"training begun, kept up to step {step} of {total}"


def _failed(problem: Path) -> str | None:
    """Why the last try failed, by the traceback it left; None if it left none."""
    try:
        lines = problem.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{problem} cannot be read ({error}); delete it") from error
    why = next((line.strip() for line in reversed(lines) if line.strip()), "no reason is known")
    return f"failed: {why} ({problem.parent.name}/{problem.name})"


def read_finished(plan: Plan, seeds: Sequence[int]) -> Finished:
    """Read the cells of an ablation.

    Args:
        plan: of the ablation.
        seeds: that are expected; further ones found on disk are taken in, cell by cell.

    Raises:
        DataError: the cases of a finished cell, or the traceback of one that failed, cannot be
            read.
    """
    jobs = {(cell.cell, cell.seed): job for job in plan.jobs for cell in job.cells}
    found: dict[str, dict[int, CellCases]] = {}
    missing: dict[str, dict[int, str]] = {}
    records: list[Mapping[str, Any]] = []
    parameters: dict[str, int] = {}
    for (name, seed), cell in plan.cells.items():
        if is_finished(cell):
            found.setdefault(name, {})[seed] = _read(cell.folder / CASES_FILE)
            record = read_record(cell.folder / CELL_FILE) or {}
            records.append(record)
            parameters[name] = int(record["trainable_parameters"])
        elif seed in seeds:
            missing.setdefault(name, {})[seed] = _what_is_missing(cell, jobs[name, seed])
    return Finished(found, missing, tuple(records), parameters)
