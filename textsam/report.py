"""The record of a run: what was asked of which files with what, and what came out, as JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import textsam
from textsam.errors import TextSAMError
from textsam.io.atomic import save_text

if TYPE_CHECKING:
    from textsam.inference.segmenter import Segmenter
    from textsam.result import Segmentation

__all__ = ["RunReport", "done_entry", "failed_entry", "versions"]

_FORMAT = 1


def versions() -> dict[str, str | None]:
    """Versions of what answers depend on, without importing any of it; None: not installed.

    A library that is loaded tells its build too ("2.15.0+cu132").
    """
    found: dict[str, str | None] = {
        "textsam": textsam.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in ("torch", "numpy"):
        loaded = getattr(sys.modules.get(package), "__version__", None)
        try:
            found[package] = str(loaded) if loaded else version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def done_entry(
    path: str | Path,
    answers: Sequence[Segmentation],
    *,
    files: Sequence[str | Path] = (),
    seconds: float | None = None,
    sha256: str | None = None,
) -> dict[str, Any]:
    """One input that was answered, as JSON holds it: a line of a manifest, or part of a report.

    Args:
        path: of the input.
        answers: in any order; the slice, page or frame of each is its image's "index".
        files: that were written for it.
        seconds: it took.
        sha256: of the input file; None computes it, and stays null for a folder or what is no file.

    Raises:
        TextSAMError: the file cannot be read, or an answer holds what JSON cannot.
    """
    return {
        "path": str(path),
        "status": "done",
        "sha256": _sha256(Path(path)) if sha256 is None else sha256,
        "results": [answer.to_dict() for answer in answers],
        "files": [str(file) for file in files],
        "seconds": None if seconds is None else round(seconds, 4),
    }


def failed_entry(
    path: str | Path, error: BaseException | str, *, seconds: float | None = None
) -> dict[str, Any]:
    """One input that was not answered, and why."""
    return {
        "path": str(path),
        "status": "failed",
        "error": str(error),
        "kind": "" if isinstance(error, str) else type(error).__name__,
        "seconds": None if seconds is None else round(seconds, 4),
    }


class RunReport:
    """Collects the entries of one run and writes them with what they depend on.

    Args:
        adapter: name of the adapter.
        fingerprint: sha256 of the adapter's tensors.
        preset: name of the base model.
        base: registry name -> sha256 of its weights.
        prompts: that were asked.
        options: whatever else the answers depend on, as JSON holds it.
        device: where the model ran.
        identity: hash of all that answers depend on besides images, prompts and options; see
            `Segmenter.identity`.
        further: what else is to be said of the model, by key.
        started: when; None takes now.
    """

    def __init__(
        self,
        *,
        adapter: str,
        fingerprint: str,
        preset: str,
        base: Mapping[str, str],
        prompts: Sequence[str],
        options: Mapping[str, Any],
        device: str,
        identity: str = "",
        further: Mapping[str, Any] | None = None,
        started: datetime | None = None,
    ) -> None:
        self._head = {
            "format": _FORMAT,
            "versions": versions(),
            "adapter": {"name": adapter, "sha256": fingerprint or None},
            "model": {"preset": preset, "base": dict(base), "device": device, **(further or {})},
            "identity": identity or None,
            "prompts": list(prompts),
            "options": dict(options),
        }
        self._started = datetime.now(UTC) if started is None else started
        self._entries: list[Mapping[str, Any]] = []

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        prompts: Sequence[str],
        options: Mapping[str, Any],
        *,
        started: datetime | None = None,
    ) -> RunReport:
        """A report of a run of `segmenter`."""
        further: dict[str, Any] = {"precision": str(segmenter.precision).removeprefix("torch.")}
        if str(segmenter.views):
            further["views"] = str(segmenter.views)
        if segmenter.config.authors_frame:
            further["authors_frame"] = True
        if segmenter.own_weights:
            further["own_weights"] = segmenter.own_weights
        return cls(
            adapter=segmenter.adapter_name,
            fingerprint=segmenter.fingerprint,
            preset=segmenter.preset,
            base=segmenter.config.base,
            prompts=prompts,
            options=options,
            device=str(segmenter.device),
            identity=segmenter.identity,
            further=further,
            started=started,
        )

    def add(
        self,
        path: str | Path,
        answers: Sequence[Segmentation],
        *,
        files: Sequence[str | Path] = (),
        seconds: float | None = None,
        sha256: str | None = None,
    ) -> None:
        """Add an input that was answered; see `done_entry`."""
        self.append(done_entry(path, answers, files=files, seconds=seconds, sha256=sha256))

    def fail(
        self, path: str | Path, error: BaseException | str, *, seconds: float | None = None
    ) -> None:
        """Add an input that was not answered; see `failed_entry`."""
        self.append(failed_entry(path, error, seconds=seconds))

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry made before, such as a line of a manifest.

        Raises:
            TextSAMError: it is not of the form that `done_entry` and `failed_entry` give.
        """
        if not _is_entry(entry):
            raise TextSAMError(
                f"{str(entry)[:80]!r} is no entry of a report; make entries with done_entry and "
                "failed_entry"
            )
        self._entries.append(entry)

    def append_lines(self, lines: Iterable[str], source: str = "manifest") -> None:
        """Add entries from the lines of a JSON-lines manifest; the last entry of a path counts.

        Args:
            lines: one entry a line; empty lines are passed over.
            source: name for messages.

        Raises:
            TextSAMError: a line that is no entry, with its number.
        """
        latest: dict[str, Mapping[str, Any]] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise TextSAMError(
                    f"{source}, line {number}: not JSON ({error}); remove the line, or run again"
                ) from error
            if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                raise TextSAMError(
                    f"{source}, line {number}: not an entry of a report; remove the line, or run "
                    "again"
                )
            # A repeated path moves to the end, where its entry was written.
            latest.pop(entry["path"], None)
            latest[entry["path"]] = entry
        for entry in latest.values():
            self.append(entry)

    def to_dict(self, finished: datetime | None = None) -> dict[str, Any]:
        """The report so far.

        ========= ===============================================================================
        format    1
        versions  {"textsam", "python", "platform", "torch", "numpy"}
        adapter   {"name", "sha256"}
        model     {"preset", "base": {name: sha256 of the base weights}, "device"}; of a
                  segmenter also "precision", and, where there are any, "views",
                  "authors_frame" and "own_weights", a digest of base weights that the user gave
        identity  hash of all that answers depend on besides images, prompts and options
        prompts   [text, …]
        options   as given
        started   UTC, ISO 8601
        finished  UTC, ISO 8601
        counts    {"inputs", "done", "failed", "images", "results", "found"}
        inputs    entries that were answered: {"path", "status", "sha256", "results":
                  [`Segmentation.to_dict`, …], "files", "seconds"}
        failures  entries that were not: {"path", "status", "error", "kind", "seconds"}
        ========= ===============================================================================
        """
        done = [entry for entry in self._entries if entry["status"] == "done"]
        failed = [entry for entry in self._entries if entry["status"] == "failed"]
        results = [(entry, result) for entry in done for result in entry.get("results", ())]
        return {
            **self._head,
            "started": _iso(self._started),
            "finished": _iso(datetime.now(UTC) if finished is None else finished),
            "counts": {
                "inputs": len(self._entries),
                "done": len(done),
                "failed": len(failed),
                "images": len({(e["path"], r["image"]["index"]) for e, r in results}),
                "results": len(results),
                "found": sum(bool(result["found"]) for _, result in results),
            },
            "inputs": done,
            "failures": failed,
        }

    def write(self, path: str | Path) -> Path:
        """Write the report, complete or not at all, and return its path.

        Raises:
            TextSAMError: options or entries hold what JSON cannot, or the file cannot be written.
        """
        path = Path(path)
        try:
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TextSAMError(
                f"{path}: the report cannot be JSON ({error}); put text, numbers, lists and dicts "
                "into options and entries"
            ) from error
        return save_text(path, text + "\n")


def _is_entry(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has what `RunReport.to_dict` counts."""
    if not isinstance(entry.get("path"), str) or entry.get("status") not in ("done", "failed"):
        return False
    results = entry.get("results", ())
    return isinstance(results, list | tuple) and all(
        isinstance(one, Mapping)
        and "found" in one
        and isinstance(one.get("image"), Mapping)
        and isinstance(one["image"].get("index"), int)
        for one in results
    )


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _sha256(path: Path) -> str | None:
    from textsam.weights.checksum import sha256_of

    try:
        return sha256_of(path) if path.is_file() else None
    except OSError as error:
        raise TextSAMError(
            f"{path}: the file cannot be read ({error}); check its permissions"
        ) from error
