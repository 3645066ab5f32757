"""The table of an ablation, as Markdown to read and as CSV to compute with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textsam.ablate.absences import Absence, absences_markdown
from textsam.ablate.finished import HD95
from textsam.ablate.plan import Plan
from textsam.ablate.results import Figure, Group, Row, is_percent
from textsam.ablate.spec import CellSettings, EvaluationSettings
from textsam.evaluate.ask import TOLERANCE_PX
from textsam.evaluate.caption import how_asked
from textsam.evaluate.cases import column_title
from textsam.evaluate.tables import csv_text, markdown

__all__ = ["csv_table", "markdown_table", "metric_title"]

# Others are in the CSV alone.
_SHOWN = ("dice", "iou", "nsd_3px", "nsd_slab", HD95)


def metric_title(metric: str) -> str:
    """A column's head: "NSD 3 px %" for `nsd_3px`."""
    return column_title(metric, {"slab_tolerance_px": TOLERANCE_PX})


def _scale(metric: str) -> int:
    return 100 if is_percent(metric) else 1


def _spread(metric: str, figure: Figure | None) -> str:
    if figure is None:
        return "–"
    scale = _scale(metric)
    return f"{scale * figure.mean:.2f} ± {scale * figure.std_cases:.2f}"


def _over_seeds(dice: Figure | None) -> str:
    if dice is None or dice.std_seeds is None:
        return "–"
    return f"{100 * dice.mean:.2f} ± {100 * dice.std_seeds:.2f}"


def _p(figure: Figure | None) -> str:
    if figure is None or figure.p is None:
        return "–"
    return "< 0.0001" if figure.p < 1e-4 else f"{figure.p:.4f}"


def _line(
    cell: CellSettings, row: Row, shown: Sequence[str], *, seeds: bool, test: bool, paper: bool
) -> list[str]:
    dice = row.figures.get("dice")
    parameters = row.trainable_parameters
    line = [
        cell.title,
        "–" if parameters is None else f"{parameters:,}",
        "–" if dice is None else str(dice.n),
        f"{len(row.seeds)}/{len(row.seeds) + len(row.missing)}",
        *(_spread(metric, row.figures.get(metric)) for metric in shown),
    ]
    if HD95 in shown:
        line.append("–" if row.missed is None else str(row.missed))
    if seeds:
        line.append(_over_seeds(dice))
    if test:
        line.append(_p(dice))
    if paper:
        own = cell.paper
        line.append("–" if own is None else f"{own.dice:.2f} / {own.nsd:.2f}")
    return line


def _group_table(plan: Plan, group: Group) -> str:
    ablation = plan.ablation
    cells = {cell.name: cell for cell in ablation.cells}
    shown = [metric for metric in _SHOWN if metric in group.metrics] or ["dice", "nsd_3px"]
    options = {
        "seeds": any(len(row.seeds) > 1 for row in group.rows),
        "test": ablation.reference is not None,
        "paper": any(cell.paper for cell in ablation.cells),
    }
    head = [ablation.column, "trainable parameters", "n", "seeds", *map(metric_title, shown)]
    if HD95 in shown:
        # Whoever stays silent in hard cases has the better HD95.
        head.append("missed")
    if options["seeds"]:
        head.append("Dice % over seeds")
    if options["test"]:
        head.append(f"p (Dice, against {cells[str(ablation.reference)].title})")
    if options["paper"]:
        head.append("paper: Dice / NSD")
    lines = [_line(cells[row.cell], row, shown, **options) for row in group.rows]
    return markdown(head, lines, left=1)


def markdown_table(
    plan: Plan, groups: Sequence[Group], absences: Sequence[Absence], command: str = ""
) -> str:
    """The table, what is missing in it, what its columns mean, and where it was made.

    Args:
        plan: of the ablation.
        groups: from `groups_of`.
        absences: from `absences_of`.
        command: of this call, named for cells that do not know the command they were made by, and
            where there are none.
    """
    titles = {cell.name: cell.title for cell in plan.ablation.cells}
    parts = [f"# {plan.ablation.title}"]
    for group in groups:
        if group.dataset:
            parts.append(f"## {group.dataset}, {group.concept}")
        parts.append(_group_table(plan, group))
    if absences:
        parts.append(absences_markdown(plan, absences))
    missing = [
        f"- {titles[row.cell]}, seed {seed}: {why}"
        for row in groups[0].rows
        for seed, why in row.missing.items()
    ]
    unasked = [
        f"- {group.dataset}, {group.concept}: {titles[row.cell]}, "
        f"{'seed' if len(row.unasked) == 1 else 'seeds'} {', '.join(map(str, row.unasked))}"
        for group in groups
        for row in group.rows
        if row.unasked
    ]
    if unasked:
        parts.append(
            "**Not asked, as the adapter does not know the word, and in no figure:**\n\n"
            + "\n".join(unasked)
        )
    if missing:
        parts.append("**Not finished:**\n\n" + "\n".join(missing))
    parts.append(" ".join(_notes(plan, groups)))
    if commands := _commands(groups[0].records, command):
        parts.append(f"Made by {', '.join(f'`{each}`' for each in commands)}.")
    if made := _made(groups[0].records):
        parts.append(made)
    return "\n\n".join(parts) + "\n"


def _notes(plan: Plan, groups: Sequence[Group]) -> list[str]:
    ablation = plan.ablation
    notes = [
        "Mean ± standard deviation over test cases; n is the number of cases.",
        _evaluated(plan),
    ]
    if any(HD95 in group.metrics for group in groups):
        notes.append("HD95: over answers that are not empty; missed: empty ones, of all seeds.")
    if any(len(row.seeds) > 1 for group in groups for row in group.rows):
        notes.append("Over seeds: mean ± standard deviation of the seeds' means.")
    if ablation.reference is not None:
        notes.append(
            "p: two-tailed paired t-test over cases, each averaged over seeds, uncorrected for the "
            "number of tests; it says nothing of how another training would turn out."
        )
    if ablation.paper:
        notes.append(f"The paper's figures: {ablation.paper.rstrip('.')}.")
    if plan.seen_in_validation:
        notes.append(
            f"{plan.seen_in_validation} of the images evaluated on also chose the best adapter of "
            "each training."
        )
    return notes


def _evaluated(plan: Plan) -> str:
    """How cells were evaluated; those that differ from most are named."""
    evaluations = {name: cell.evaluation for (name, _), cell in plan.cells.items()}
    titles: dict[str, list[str]] = {}
    for cell in plan.ablation.cells:
        titles.setdefault(_how(evaluations[cell.name]), []).append(cell.title)
    usual, *others = sorted(titles, key=lambda how: -len(titles[how]))
    passes = plan.ablation.calibrate
    calibrated = "not calibrated" if passes is None else f"calibrated with up to {passes} passes"
    told = [f"{', '.join(titles[how])}: {how}" for how in others]
    return f"{calibrated.capitalize()}; evaluated with {'; '.join([usual, *told])}."


def _how(evaluation: EvaluationSettings) -> str:
    settle, shift = evaluation.settle, evaluation.box_shift
    geometric = evaluation.prompts != "text"
    # As `evaluate` does with geometry.
    refine = evaluation.refine or 0 if geometric else evaluation.refine
    asked = how_asked(
        {
            "protocol": evaluation.prompts,
            "box_shifts": [] if shift is None else [shift],
            "refine": refine if settle is None else settle.model_dump(),
            "refine_with": evaluation.refine_with,
            "seed": evaluation.seed,
        }
    )
    if not geometric:
        asked += f", negatives {evaluation.negatives}"
    return asked + ("" if evaluation.precision == "auto" else f", precision {evaluation.precision}")


def _commands(records: Sequence[Mapping[str, Any]], command: str) -> list[str]:
    """The commands that made the cells shown, each once; cells of before have none on record."""
    named = [str(record.get("command") or command) for record in records] or [command]
    return [each for each in dict.fromkeys(named) if each]


def _made(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return ""
    dates = sorted(str(record["date"])[:10] for record in records)
    machines = sorted(
        {f"{r['machine'].get('platform')}, {r['machine'].get('cpu_count')} cores" for r in records}
    )
    devices = sorted({str(record["device"]) for record in records})
    versions = sorted(
        {
            f"textsam {r['versions'].get('textsam')}, torch {r['versions'].get('torch')}"
            for r in records
        }
    )
    seeds = sorted({int(record["seed"]) for record in records})
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return (
        f"Seeds {', '.join(map(str, seeds))}; evaluated on {', '.join(devices)} of "
        f"{'; '.join(machines)}; {'; '.join(versions)}; {when}."
    )


def csv_table(plan: Plan, groups: Sequence[Group]) -> str:
    """One row per cell, set and concept, with all metrics; percentages where Markdown has them."""
    cells = {cell.name: cell for cell in plan.ablation.cells}
    metrics = list(dict.fromkeys(metric for group in groups for metric in group.metrics))
    head = ["cell", "label", "dataset", "concept", "trainable_parameters", "seeds", "missing_seeds"]
    head += ["unasked_seeds", "missed"]
    for metric in metrics:
        name = f"{metric}_percent" if is_percent(metric) else metric
        head += [f"{name}_{part}" for part in ("mean", "std_cases", "std_seeds")]
        head += [f"{metric}_n", f"{metric}_values", f"{metric}_p"]
    head += ["paper_dice_percent", "paper_nsd_percent"]
    rows: list[list[object]] = []
    for group in groups:
        for row in group.rows:
            cell = cells[row.cell]
            line: list[object] = [
                row.cell,
                cell.title,
                group.dataset,
                group.concept,
                row.trainable_parameters,
                " ".join(map(str, row.seeds)),
                " ".join(map(str, row.missing)),
                " ".join(map(str, row.unasked)),
                row.missed,
            ]
            for metric in metrics:
                line += _csv_cells(metric, row.figures.get(metric))
            line += [cell.paper.dice, cell.paper.nsd] if cell.paper else [None, None]
            rows.append(line)
    return csv_text([head, *rows])


def _csv_cells(metric: str, figure: Figure | None) -> list[object]:
    if figure is None:
        return [None] * 6
    scale = _scale(metric)
    std_seeds = None if figure.std_seeds is None else f"{scale * figure.std_seeds:.4f}"
    return [
        f"{scale * figure.mean:.4f}",
        f"{scale * figure.std_cases:.4f}",
        std_seeds,
        figure.n,
        figure.values,
        None if figure.p is None else f"{figure.p:.6g}",
    ]
