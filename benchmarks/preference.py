"""Few labels and a rater: what preference optimisation adds to training on the labelled part.

    python benchmarks/preference.py --data data --minutes 8

does what is left for eight minutes and exits with 75 while something is; give the command again
until it exits with 0. Stage one is trained once per labelled part; every row of stage two goes on
from it, for equally many optimiser steps, and is asked for the tumor in the test images of BUSI,
fold 1, by the word alone. Rows and settings: `configs/methods/preference-*.yaml` and `CELLS` here;
docs/methods/preference.md says what they mean. Figures are written to `--out` as they come, JSON
and Markdown.

    python benchmarks/preference.py --data data --only 20 --images 40      # a quick look
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textsam.ablate.finished import read_finished
from textsam.ablate.job import Steps, default_steps, is_finished, read_record, run_job
from textsam.ablate.plan import Plan, make_plan
from textsam.ablate.results import Row, groups_of
from textsam.ablate.spec import AblationConfig, CellSettings, EvaluationSettings
from textsam.allocator import keep_freed_memory
from textsam.config import TrainConfig, read_config
from textsam.data.selection import Selection
from textsam.data.sources import samples_of, write_stamp
from textsam.errors import TextSAMError
from textsam.io.atomic import atomic_path

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs" / "methods"
UNFINISHED = 75
STAGE_ONE = {"10": "05", "20": "10", "50": "10"}
"""Per cent of training images used in both stages -> per cent that has labels."""

FIRST = "stage1"
LONGER = "labelled"
ALL_LABELLED = "all-labelled"
STRATEGIES = ("best-only", "rating", "ranking")
NOISES = (5, 10, 20, 30)
TITLES = {
    FIRST: "labelled part alone: stage one",
    LONGER: "labelled part alone, as many steps as stage two",
    **{name: f"stage two, {name}" for name in STRATEGIES},
    "rated-once": "stage two, ranking, candidates of the frozen model",
    ALL_LABELLED: "all labels, as many steps (what a rater could at most replace)",
}


class _TimeIsUp(KeyboardInterrupt):
    """Ends a job as a kill would: what was begun is gone on with later."""


@dataclass(frozen=True)
class SlicedTrain:
    """Trains, or goes on, until the deadline.

    Attributes:
        deadline: of `time.monotonic`.
        slice_steps: between looks at the clock.
    """

    deadline: float
    slice_steps: int = 20

    def __call__(self, config: TrainConfig) -> Path:
        """The folder of the finished run."""
        from textsam.train.run import fit, setup

        run = setup(config)
        while run.state.step < run.total_steps:
            if time.monotonic() > self.deadline:
                raise _TimeIsUp
            stop_after = min(run.total_steps, run.state.step + self.slice_steps)
            run = fit(run, stop_after=stop_after, progress=False)
            print(f"{config.name}: step {run.state.step} of {run.total_steps}", flush=True)
        return run.folder


def main(arguments: Sequence[str] | None = None, steps: Steps | None = None) -> int:
    """Do what is left until the time is up; 0 when nothing is left, 75 while something is.

    Args:
        arguments: of the command line.
        steps: how to train and load; default: as the commands do, in slices.
    """
    options = parse(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    steps = steps or replace(default_steps(progress=False), train=SlicedTrain(deadline))
    try:
        finished = all(work(options, part, steps, deadline) for part in options.only)
    except TextSAMError as error:
        print(f"error: {error}")
        return 2
    return 0 if finished else UNFINISHED


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="data", help="folder with manifest.json and splits.json")
    parser.add_argument("--only", type=_parts, default=list(STAGE_ONE), help="such as 10,20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="at most so many test images; default: all")
    parser.add_argument("--set", action="append", default=[], help="a setting of all: a.b=value")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6, help="then stop, to be gone on with")
    parser.add_argument("--work", type=Path, default=Path("runs/preference"), help="states, cases")
    default_out = REPOSITORY / "benchmarks" / "results" / "methods" / "preference.json"
    parser.add_argument("--out", type=Path, default=default_out)
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="instead of configs/methods")
    return parser.parse_args(arguments)


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := sorted(set(parts) - set(STAGE_ONE)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {','.join(STAGE_ONE)}")
    return parts


def work(options: argparse.Namespace, part: str, steps: Steps, deadline: float) -> bool:
    """Train and evaluate what is missing of one part of the data; whether all is there.

    Raises:
        TextSAMError: data or settings cannot be used, or a job failed.
    """
    for plan in plans_of(options, part):
        for job in plan.jobs_for([c.name for c in plan.ablation.cells], plan.ablation.seeds):
            if all(map(is_finished, job.cells)):
                continue
            if time.monotonic() > deadline:
                return False
            try:
                outcomes = run_job(job, options.device, steps=steps, progress=False)
            except _TimeIsUp:
                return False
            if failed := [o for o in outcomes if o.state in ("failed", "busy")]:
                raise TextSAMError(f"{part} %, {failed[0].cell}: {failed[0].message}")
            report(options)
    return True


def plans_of(options: argparse.Namespace, part: str) -> Iterator[Plan]:
    """Stage one, and stage two where stage one is done, which it can be between the two.

    Raises:
        TextSAMError: data or settings cannot be used.
    """
    common = [*options.set, f"data.root={options.data}"]
    first = _plan(options, f"stage1-{STAGE_ONE[part]}", [CellSettings(name=FIRST)], common)
    yield first
    (job,) = first.jobs_for([FIRST], first.ablation.seeds)
    if not all(map(is_finished, job.cells)):
        return
    labelled = read_config(options.configs / f"preference-stage1-{STAGE_ONE[part]}.yaml", common)
    # Kept beside the adapter that made them.
    begin = [f"init_adapter={job.training / 'best'}", f"cache={options.work / 'embeddings'}"]
    base = read_config(options.configs / f"preference-{part}.yaml", [*common, *begin])
    yield _plan(options, part, cells_of(part, base, labelled), [*common, *begin])


def cells_of(part: str, base: TrainConfig, first: TrainConfig) -> list[CellSettings]:
    """The rows of stage two of one part of the data.

    Args:
        part: per cent of the training images.
        base: of stage two.
        first: of stage one, whose training images are the labelled ones.
    """
    steps = max(1, round(base.epochs * len(samples_of(base.data, "train")) / base.batch_size))
    epochs = steps * base.batch_size / len(samples_of(first.data, "train"))
    train = json.dumps([selection.model_dump(mode="json") for selection in first.data.train])
    alone = (f"data.train={train}", "preference.unlabelled=[]", f"epochs={epochs!r}")
    cells = [CellSettings(name=LONGER, set=alone)]
    cells += [CellSettings(name=n, set=(f"preference.strategy={n}",)) for n in STRATEGIES]
    if part == "20":
        cells += [
            CellSettings(name=f"noise-{noise}", set=(f"preference.noise={noise / 100}",))
            for noise in NOISES
        ]
        cells.append(CellSettings(name="rated-once", set=("preference.candidates=reference",)))
        cells.append(CellSettings(name=ALL_LABELLED, set=("preference.unlabelled=[]",)))
    return cells


def counts_of(options: argparse.Namespace, part: str) -> list[int]:
    """How many training images of a part have labels, and how many have none.

    Parts are of the hashes of names, so that they hold about as many per cent as they say.
    """
    common = [*options.set, f"data.root={options.data}"]
    with_labels, together = (
        len(samples_of(read_config(options.configs / f"{name}.yaml", common).data, "train"))
        for name in (f"preference-stage1-{STAGE_ONE[part]}", f"preference-{part}")
    )
    return [with_labels, together - with_labels]


def _plan(
    options: argparse.Namespace, name: str, cells: Sequence[CellSettings], common: Sequence[str]
) -> Plan:
    file = options.configs / f"preference-{name}.yaml"
    test = Selection(set="busi", split="fold1/test", limit=options.images)
    ablation = AblationConfig(
        name=name,
        title=name,
        base=file.name,
        seeds=(options.seed,),
        evaluate=EvaluationSettings(sets=(test,), refine=0),
        reference=LONGER if len(cells) > 1 else None,
        cells=tuple(cells),
    )
    plan = make_plan(ablation, file, options.work, common=common)
    write_stamp(plan.checked, plan.folder)  # or every call would read all images again
    return plan


def report(options: argparse.Namespace) -> None:
    """Write the figures of every finished row, JSON and the Markdown beside it."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    images: dict[str, list[int]] = {}
    dates, versions = set(), set()
    for part in STAGE_ONE:
        try:
            plans = list(plans_of(options, part))
        except TextSAMError:
            # Not asked for, and its data or stage one are not there.
            if part in options.only:
                raise
            continue
        images[part] = counts_of(options, part)
        for plan in plans:
            for group in groups_of(plan, read_finished(plan, plan.ablation.seeds)):
                for row in group.rows:
                    if row.figures:
                        rows.setdefault(part, {})[row.cell] = _figures(plan, row)
                for record in group.records:
                    dates.add(str(record["date"])[:10])
                    versions.add(str(record["versions"].get("torch", "")))
    if not rows:
        return
    content = {
        "command": command(options),
        "seed": options.seed,
        "test images": options.images or "all",
        "training images": images,
        "date": max(dates),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, {options.device}",
        "torch": ", ".join(sorted(versions)),
        "rows": rows,
    }
    with atomic_path(options.out) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with atomic_path(options.out.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(content), encoding="utf-8")


def _figures(plan: Plan, row: Row) -> dict[str, Any]:
    dice = row.figures["dice"]
    jobs = {cell.cell: job for job in plan.jobs for cell in job.cells}
    training = read_record(jobs[row.cell].training / "training.json") or {}
    return {
        "dice": round(100 * dice.mean, 2),
        "sd": round(100 * dice.std_cases, 2),
        "n": dice.n,
        "p": None if dice.p is None else float(f"{dice.p:.2g}"),
        "seconds": training.get("seconds"),
    }


def command(options: argparse.Namespace) -> str:
    """The command that makes the figures, without where this machine keeps its files."""
    parts = ["python benchmarks/preference.py --data data"]
    if options.images is not None:
        parts.append(f"--images {options.images}")
    if options.seed:
        parts.append(f"--seed {options.seed}")
    parts += [f"--set {shlex.quote(assignment)}" for assignment in options.set]
    return " ".join(parts)


def markdown(content: dict[str, Any]) -> str:
    """The tables of a report's content."""
    rows: dict[str, dict[str, dict[str, Any]]] = content["rows"]

    def cell(part: str, name: str) -> str:
        found = rows.get(part, {}).get(name)
        if found is None:
            return "–"
        p = "" if found["p"] is None else f" (p {found['p']:g})"
        return f"{found['dice']:.2f} ± {found['sd']:.1f}{p}"

    made = (
        f"`{content['command']}`; seed {content['seed']}, test images: {content['test images']}, "
        f"{content['date']}, {content['machine']}, torch {content['torch']}."
    )
    heads = []
    for part, first in STAGE_ONE.items():
        shares = f"{int(first)} % with, {int(part) - int(first)} % without labels"
        images = content["training images"].get(part)
        heads.append(f"{shares} ({images[0]} + {images[1]} images)" if images else shares)
    lines = [
        "# Preference optimisation on BUSI, fold 1",
        "",
        "Dice %, mean ± standard deviation over test images, by the word alone, at 112 px.",
        "p: two-tailed paired t-test over test images against the row of equally many steps on the",
        "labelled part alone. Per cent are about the parts of the fold's training images that are",
        "counted beside them; how the rows are trained: docs/methods/preference.md.",
        "",
        "| trained | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(heads),
    ]
    for name, title in TITLES.items():
        lines.append(f"| {title} | " + " | ".join(cell(part, name) for part in STAGE_ONE) + " |")
    lines += [
        "",
        "A rater who confuses two adjacent candidates (20 %, ranking):",
        "",
        "| confused | 0 % | " + " | ".join(f"{noise} %" for noise in NOISES) + " |",
        "|---|" + "---|" * (len(NOISES) + 1),
        "| Dice % | "
        + " | ".join(cell("20", n) for n in ("ranking", *(f"noise-{n}" for n in NOISES)))
        + " |",
        "",
        made,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
