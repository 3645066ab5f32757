"""How often the cells of an ablation find nothing where there is nothing, as Markdown and CSV."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from textsam.ablate.finished import Finished
from textsam.ablate.plan import Plan
from textsam.evaluate.tables import csv_text, markdown

__all__ = ["Absence", "Emptiness", "absences_csv", "absences_markdown", "absences_of"]


@dataclass(frozen=True)
class Emptiness:
    """One cell's answers to questions after things of one absence.

    Attributes:
        cell: its name.
        seeds: finished.
        unasked: those of them that were asked nothing of the kind; they are in no figure.
        missing: seeds that are not finished.
        questions: of all seeds.
        empty: those answered with an empty mask.
        std_seeds: of the seeds' shares of empty answers, divided by one less than the seeds; None
            for one seed.
    """

    cell: str
    seeds: tuple[int, ...]
    unasked: tuple[int, ...]
    missing: tuple[int, ...]
    questions: int
    empty: int
    std_seeds: float | None

    @property
    def percent(self) -> float | None:
        """Of the questions answered with an empty mask; None if there were none."""
        return 100 * self.empty / self.questions if self.questions else None


@dataclass(frozen=True)
class Absence:
    """What is absent from the images of one set for one reason.

    Attributes:
        dataset: name of the set.
        kind: the reason, as `textsam.evaluate.cases.Kind` has it.
        rows: as the ablation's cells.
    """

    dataset: str
    kind: str
    rows: tuple[Emptiness, ...]


def absences_of(plan: Plan, finished: Finished) -> list[Absence]:
    """What all finished cells answered, by set and reason; none if nothing absent was asked."""
    every = [cases for by_seed in finished.cases.values() for cases in by_seed.values()]
    keys = sorted({key for cases in every for key in cases.empty})
    return [
        Absence(*key, tuple(_emptiness(cell.name, key, finished) for cell in plan.ablation.cells))
        for key in keys
    ]


def _emptiness(cell: str, key: tuple[str, str], finished: Finished) -> Emptiness:
    done = finished.cases.get(cell, {})
    asked = [cases.empty[key] for cases in done.values() if key in cases.empty]
    return Emptiness(
        cell=cell,
        seeds=tuple(sorted(done)),
        unasked=tuple(sorted(seed for seed, cases in done.items() if key not in cases.empty)),
        missing=tuple(sorted(finished.missing.get(cell, {}))),
        questions=sum(map(len, asked)),
        empty=sum(map(sum, asked)),
        std_seeds=statistics.stdev(map(statistics.fmean, asked)) if len(asked) > 1 else None,
    )


def absences_markdown(plan: Plan, absences: Sequence[Absence]) -> str:
    """A section with a row per cell and a column per set and reason."""
    head = [plan.ablation.column, *(f"{each.dataset}, {each.kind}" for each in absences)]
    lines = [
        [cell.title, *(_entry(each.rows[place]) for each in absences)]
        for place, cell in enumerate(plan.ablation.cells)
    ]
    note = "Questions answered with an empty mask, in percent; in brackets questions of all seeds."
    if any(row.std_seeds is not None for each in absences for row in each.rows):
        note += " ±: standard deviation of the seeds' percentages."
    return "\n\n".join(("## What is not in the images", markdown(head, lines, left=1), note))


def _entry(row: Emptiness) -> str:
    if row.percent is None:
        return "–"
    spread = "" if row.std_seeds is None else f" ± {100 * row.std_seeds:.2f}"
    return f"{row.percent:.2f}{spread} ({row.questions})"


def absences_csv(plan: Plan, absences: Sequence[Absence]) -> str:
    """One row per cell, set and reason."""
    titles = {cell.name: cell.title for cell in plan.ablation.cells}
    head = ["cell", "label", "dataset", "kind", "seeds", "missing_seeds", "unasked_seeds"]
    head += ["questions", "empty", "empty_percent", "empty_percent_std_seeds"]
    rows: list[list[object]] = []
    for each in absences:
        for row in each.rows:
            line: list[object] = [row.cell, titles[row.cell], each.dataset, each.kind]
            line += [" ".join(map(str, own)) for own in (row.seeds, row.missing, row.unasked)]
            if row.percent is None:
                line += [None] * 3
            else:
                line += [row.questions, row.empty, f"{row.percent:.4f}"]
            line.append(None if row.std_seeds is None else f"{100 * row.std_seeds:.4f}")
            rows.append(line)
    return csv_text([head, *rows])
