"""What `textsam segment` says while it runs, and its JSON report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from textsam import __version__
from textsam.cli.streams import say
from textsam.folder.manifest import InputRecord
from textsam.folder.plan import Input, Plan
from textsam.folder.process import Listener
from textsam.folder.stream import write_object

if TYPE_CHECKING:
    from textsam.inference.segmenter import Segmenter

__all__ = ["REPORT_FORMAT", "Console", "print_report", "print_unopened"]

REPORT_FORMAT = 1


class Console(Listener):
    """One line per mask on standard output, errors and progress on standard error.

    Args:
        plan: of the run.
        quiet: no lines about masks.
    """

    def __init__(self, plan: Plan, *, quiet: bool) -> None:
        self.counts = {"done": 0, "failed": 0, "skipped": 0, "no picture": 0}
        self._plan = plan
        self._quiet = quiet
        terminal = Terminal(stderr=True)
        self._progress = Progress(
            TextColumn("segmenting"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[images]} images"),
            console=terminal,
            disable=len(plan.inputs) < 2 and not (plan.inputs and terminal.is_terminal),
            # Lines may share the terminal with the bar; into a file or a pipe they go as they are.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        self._task = self._progress.add_task("", total=len(plan.inputs), images=0)
        self._images = 0

    @property
    def counts_text(self) -> str:
        """Inputs done, failed and skipped, in words."""
        return ", ".join(f"{count} {name}" for name, count in self.counts.items())

    def __enter__(self) -> Console:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def skipped(self, record: InputRecord) -> None:  # noqa: ARG002 - the listener's interface
        """Count it."""
        self.counts["skipped"] += 1
        self._progress.advance(self._task)

    def answered(self, item: Input, result: dict[str, Any]) -> None:
        """Say what was found."""
        if result["prompt"] == self._plan.prompts[0]:
            self._images += 1
            self._progress.update(self._task, images=self._images)
        if self._quiet:
            return
        where = item.name
        if result["frame"] is not None:
            where += f" [{result['frame']}]"
        mask = result["files"].get("mask")
        written = f" -> {self._plan.out / mask}" if mask else ""
        score = f"score {result['score']:.3f}"
        found = f"{result['area_px']} px, {score}" if result["found"] else f"not found ({score})"
        remark = _remark(result["extra"])
        say(f"{where}: {result['prompt']}: {found}{remark}{written}")

    def failed(self, item: Input, frame: int | None, error: str) -> None:
        """Say why."""
        where = str(item.path) if frame is None else f"{item.path} [{frame}]"
        named = str(item.path) in error
        say(f"error: {error}" if named else f"error: {where}: {error}", err=True)

    def finished(self, record: InputRecord) -> None:
        """Count it."""
        self.counts[record.status] += 1
        self._progress.advance(self._task)


def _remark(extra: dict[str, Any]) -> str:
    """What the kind of image has to do with an answer, if anything."""
    if "not_in" in extra:
        return f", taken for {extra['not_in']}"
    return ", unlike the images this adapter knows" if extra.get("unfamiliar") else ""


def print_report(
    segmenter: Segmenter,
    plan: Plan,
    records: Callable[[], Iterable[InputRecord]],
    counts: dict[str, int],
    warned: Sequence[str],
) -> None:
    """Print the report, holding the entries of one input at a time."""
    paths = {item.name: str(item.path) for item in plan.inputs}
    _print(
        (segmenter.preset, segmenter.adapter_name),
        counts,
        warned,
        _results(plan.out, records()),
        _failures(paths, records()),
    )


def print_unopened(
    model: str, adapter: str | None, item: Input, error: str, warned: Sequence[str]
) -> None:
    """Print the report on a single input that could not be opened.

    Args:
        model, adapter: as asked for, as none was loaded.
        item: the input.
        error: why.
        warned: warnings so far.
    """
    failure = {"input": str(item.path), "frame": None, "error": error}
    counts = {"done": 0, "failed": 1, "skipped": 0, "no picture": 0}
    _print((model, adapter), counts, warned, iter(()), iter([failure]))


def _print(
    names: tuple[str, str | None],
    counts: dict[str, int],
    warned: Sequence[str],
    results: Iterator[dict[str, Any]],
    failures: Iterator[dict[str, Any]],
) -> None:
    head = {
        "format": REPORT_FORMAT,
        "textsam": __version__,
        "model": names[0],
        "adapter": names[1],
        "inputs": counts,
        "warnings": list(warned),
    }
    lists = {"results": results, "failures": failures}
    write_object(partial(typer.echo, nl=False), head, lists)


def _results(out: Path, records: Iterable[InputRecord]) -> Iterator[dict[str, Any]]:
    for record in records:
        for result in record.results:
            files = {kind: str(out / path) for kind, path in result["files"].items()}
            yield {**result, "files": files}


def _failures(paths: dict[str, str], records: Iterable[InputRecord]) -> Iterator[dict[str, Any]]:
    for record in records:
        for failure in record.failures if record.status == "failed" else ():
            yield {"input": paths[record.input], **failure}
