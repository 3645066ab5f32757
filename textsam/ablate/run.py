"""Run an ablation: train and evaluate what is missing, and write the table after each job."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from textsam.ablate.absences import absences_csv, absences_of
from textsam.ablate.engines import Engine, InProcess
from textsam.ablate.finished import read_finished
from textsam.ablate.job import (
    CELL_FILE,
    Outcome,
    Steps,
    default_steps,
    is_finished,
    read_record,
    run_job,
)
from textsam.ablate.plan import CellJob, Job, Plan, make_plan
from textsam.ablate.plot import draw_plot
from textsam.ablate.results import groups_of
from textsam.ablate.spec import read_ablation
from textsam.ablate.table import csv_table, markdown_table
from textsam.changes import changes_between
from textsam.data.sources import write_stamp
from textsam.errors import ConfigError
from textsam.evaluate.cases import CASES_FILE, HEADER_FILE, SUMMARY_FILE
from textsam.io.atomic import atomic_path, save_text, told_as_output

__all__ = ["AblationResult", "ablate", "write_tables"]


@dataclass(frozen=True)
class AblationResult:
    """What a call did.

    Attributes:
        folder: of table and cells.
        table: the Markdown, as written.
        outcomes: one per cell and seed asked for; empty after a dry run.
        to_do: cells and seeds asked for that were not finished before the call, in words.
    """

    folder: Path
    table: str
    outcomes: tuple[Outcome, ...]
    to_do: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything asked for is done."""
        return all(outcome.state in ("finished", "skipped") for outcome in self.outcomes)


def write_tables(plan: Plan, seeds: Sequence[int], command: str = "") -> str:
    """Write `NAME.md`, `NAME.csv` and a plot from what is finished; returns the Markdown.

    With several sets or concepts each has a plot of its own, `NAME-1.png` and so on. Where things
    were asked that are not in the images, there is `NAME-absent.csv`. Files that an earlier table
    had and this one has not are removed.

    Args:
        plan: of the ablation.
        seeds: that are expected.
        command: to be named in the table where cells do not know theirs.

    Raises:
        DataError: the cases of a finished cell, or the traceback of one that failed, cannot be
            read.
        OutputError: a file cannot be written.
    """
    finished = read_finished(plan, seeds)
    groups, absences = groups_of(plan, finished), absences_of(plan, finished)
    name = plan.ablation.name
    text = markdown_table(plan, groups, absences, command)
    for suffix, content in ((".md", text), (".csv", csv_table(plan, groups))):
        save_text(plan.folder / f"{name}{suffix}", content)
    absent = plan.folder / f"{name}-absent.csv"
    if absences:
        save_text(absent, absences_csv(plan, absences))
    else:
        absent.unlink(missing_ok=True)
    several = len(groups) > 1
    plots = [
        f"{name}-{number}.png" if several else f"{name}.png" for number in range(1, 1 + len(groups))
    ]
    for file, group in zip(plots, groups, strict=True):
        plot, drawn = plan.folder / file, draw_plot(plan, group)
        with told_as_output(plot), atomic_path(plot, ".png") as temporary:
            drawn.save(temporary)
    # While nothing is finished there is one plot, whatever there will be in the end.
    for path in plan.folder.glob("*.png"):
        if path.name not in plots and re.fullmatch(rf"{re.escape(name)}(-\d+)?\.png", path.name):
            path.unlink(missing_ok=True)
    return text


def _changed(jobs: Sequence[Job]) -> list[tuple[CellJob, str]]:
    """Cells with results of other settings, and what differs."""
    found = []
    for cell in (cell for job in jobs for cell in job.cells):
        record = read_record(cell.folder / CELL_FILE)
        if record is not None and record.get("identity") != cell.identity:
            found.append((cell, changes_between(record.get("settings", {}), cell.facts)))
    return found


def _remove(cell: CellJob) -> None:
    # The record last: until then the rest is known to be of other settings.
    for name in (CASES_FILE, HEADER_FILE, SUMMARY_FILE, CELL_FILE):
        (cell.folder / name).unlink(missing_ok=True)


def ablate(
    path: str | Path,
    *,
    out: str | Path = "runs/ablations",
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    engine: Engine | None = None,
    steps: Steps | None = None,
    replace: bool = False,
    dry_run: bool = False,
    progress: bool = True,
    command: str = "",
    sam_checkpoint: Path | None = None,
    text_encoder: Path | None = None,
    report: Callable[[Outcome], None] | None = None,
) -> AblationResult:
    """Train and evaluate the cells of an ablation that are not finished, and write its table.

    All cells are resolved and checked, and all data found, before the first training starts. Cells
    of equal training settings share one training, also with other ablations in the same `out`.

    Args:
        path: the ablation's file.
        out: folder of all ablations: `trainings/`, and a folder per ablation.
        seeds: instead of the file's.
        only: names of cells to do; default: all. The table always has all.
        overrides: assignments `a.b=value` to the base configuration, for every cell.
        engine: where jobs run; default: one after another, here.
        steps: how to train and load; default: as the commands do.
        replace: do cells again that were made with other settings, which is refused otherwise.
        dry_run: check everything and write the table of what is there, but do nothing.
        progress: show bars.
        command: this call as a command, kept with the cells it makes and named in the table.
        sam_checkpoint, text_encoder: base weights instead of the registry's.
        report: called with each outcome as it comes.

    Raises:
        ConfigError: the file, a cell or an assignment is wrong, or there are results of other
            settings and `replace` is False; nothing was trained then.
        DataCheckError: files that cannot be trained, validated or evaluated on; all are listed.
        DataError: data are missing or cannot be used.
    """
    path, root = Path(path), Path(out)
    ablation = read_ablation(path, None if seeds is None else {"seeds": list(seeds)})
    names = [cell.name for cell in ablation.cells]
    if unknown := [name for name in only if name not in names]:
        raise ConfigError(
            f"{path} has no cell {', '.join(map(repr, unknown))}; its cells are {', '.join(names)}"
        )
    plan = make_plan(
        ablation,
        path,
        root,
        common=overrides,
        sam_checkpoint=sam_checkpoint,
        text_encoder=text_encoder,
    )
    jobs = plan.jobs_for(only or names, ablation.seeds)
    changed = _changed(jobs)
    if changed and not (replace or dry_run):
        told = "; ".join(f"{cell.title}: {what}" for cell, what in changed[:3])
        raise ConfigError(
            f"{plan.folder} has results of {len(changed)} cells made with other settings ({told}). "
            "Set them back, give another --out, or --replace to do these cells again"
        )
    write_stamp(plan.checked, plan.folder)
    to_do = tuple(cell.title for job in jobs for cell in job.cells if not is_finished(cell))
    outcomes: list[Outcome] = []
    if not dry_run:
        for cell, _ in changed:
            _remove(cell)
        # Now already, so that a kill leaves a table that says what is missing.
        write_tables(plan, ablation.seeds, command)
        work = partial(
            run_job,
            steps=steps
            or default_steps(
                sam_checkpoint=sam_checkpoint, text_encoder=text_encoder, progress=progress
            ),
            progress=progress,
            command=command,
        )
        for done in (engine or InProcess())(jobs, work):
            outcomes += done
            for outcome in done:
                if report is not None:
                    report(outcome)
            write_tables(plan, ablation.seeds, command)
    table = write_tables(plan, ablation.seeds, command)
    return AblationResult(plan.folder, table, tuple(outcomes), to_do)
