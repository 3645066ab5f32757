"""`report.json` of a run over many inputs: what it depended on, and all that came out."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import textsam
from textsam.folder.manifest import InputRecord
from textsam.folder.plan import Plan
from textsam.folder.stream import write_object
from textsam.io.atomic import atomic_path, told_as_output

if TYPE_CHECKING:
    from textsam.inference.segmenter import Segmenter

__all__ = ["write_report"]

_FORMAT = 1


def write_report(
    path: Path,
    segmenter: Segmenter,
    plan: Plan,
    records: Callable[[], Iterable[InputRecord]],
    started: datetime,
) -> Path:
    """Write the report of a run, without having it in memory; docs/outputs.md has the keys.

    Args:
        path: the file.
        segmenter: that answered.
        plan: of the run.
        records: gives the run's records; called several times.
        started: when the run began.

    Raises:
        OutputError: it cannot be written.
    """
    head = {
        "format": _FORMAT,
        "versions": _versions(),
        "adapter": {"name": segmenter.adapter_name, "sha256": segmenter.fingerprint or None},
        "model": _model(segmenter),
        "identity": segmenter.identity,
        "prompts": list(plan.prompts),
        "options": {**dataclasses.asdict(plan.options), "shard": list(plan.shard)},
        "started": _iso(started),
        "finished": _iso(datetime.now(UTC)),
        "counts": _counts(records(), len(plan.prompts)),
    }
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


def _versions() -> dict[str, str]:
    """Versions of what answers depend on, builds included ("2.15.0+cu132")."""
    import numpy
    import torch

    return {
        "textsam": textsam.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def _model(segmenter: Segmenter) -> dict[str, Any]:
    model: dict[str, Any] = {
        "preset": segmenter.preset,
        "base": dict(segmenter.config.base),
        "device": str(segmenter.device),
        "precision": str(segmenter.precision).removeprefix("torch."),
    }
    if str(segmenter.views):
        model["views"] = str(segmenter.views)
    if segmenter.config.authors_frame:
        model["authors_frame"] = True
    if segmenter.own_weights:
        model["own_weights"] = segmenter.own_weights
    return model


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


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
    return {**_entry(record), "error": "; ".join(_errors(record))}


def _errors(record: InputRecord) -> Iterator[str]:
    for failure in record.failures:
        place = "" if failure["frame"] is None else f"image {failure['frame']}: "
        yield place + failure["error"]
