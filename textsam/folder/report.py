"""`report.json` of a run over many inputs: what it depended on, and all that came out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsam.folder.manifest import InputRecord
from textsam.folder.plan import Plan
from textsam.folder.stream import write_object
from textsam.io.atomic import atomic_path, told_as_output
from textsam.report import RunReport

if TYPE_CHECKING:
    from textsam.inference.segmenter import Segmenter

__all__ = ["write_report"]


def write_report(
    path: Path,
    segmenter: Segmenter,
    plan: Plan,
    records: Callable[[], Iterable[InputRecord]],
    started: datetime,
) -> Path:
    """Write the report of a run as `RunReport` describes it, without having it in memory.

    Beyond that description, "counts" has "no_picture", entries have the status "no picture" for
    DICOM files that hold none, and entries of a series have "sources", its files.

    Args:
        path: the file.
        segmenter: that answered.
        plan: of the run.
        records: gives the run's records; called several times.
        started: when the run began.

    Raises:
        OutputError: it cannot be written.
    """
    options = {**dataclasses.asdict(plan.options), "shard": list(plan.shard)}
    head = RunReport.of(segmenter, plan.prompts, options, started=started).to_dict()
    head["counts"] = _counts(records(), len(plan.prompts))
    del head["inputs"], head["failures"]
    lists = {
        "inputs": (_entry(r) for r in records() if r.status != "failed"),
        "failures": (_failed_entry(r) for r in records() if r.status == "failed"),
    }
    with (
        told_as_output(path),
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        write_object(file.write, head, lists)
    return path


def _counts(records: Iterable[InputRecord], prompts: int) -> dict[str, int]:
    names = ("inputs", "done", "failed", "no_picture", "images", "results", "found")
    counts = dict.fromkeys(names, 0)
    for record in records:
        counts["inputs"] += 1
        counts[record.status.replace(" ", "_")] += 1
        counts["images"] += len(record.results) // prompts
        counts["results"] += len(record.results)
        counts["found"] += sum(result["found"] for result in record.results)
    return counts


def _entry(record: InputRecord) -> dict[str, Any]:
    return {
        "path": record.input,
        "status": record.status,
        "sha256": record.files[0]["sha256"] if len(record.files) == 1 else None,
        **({"sources": record.files} if len(record.files) > 1 else {}),
        "results": record.results,
        "files": list(record.outputs),
        "seconds": round(record.seconds, 4),
    }


def _failed_entry(record: InputRecord) -> dict[str, Any]:
    """What failed, and what was answered all the same: an input may have many images."""
    errors = list(_errors(record))
    return {**_entry(record), "error": "; ".join(errors), "kind": ""}


def _errors(record: InputRecord) -> Iterator[str]:
    for failure in record.failures:
        place = "" if failure["frame"] is None else f"image {failure['frame']}: "
        yield place + failure["error"]
