"""Three levels of fine-tuning: what each costs in memory and time, and what it gives.

    python benchmarks/levels.py --data data

`textsam ablate configs/methods/levels.yaml` with every training in a process of its own, so that
peaks of memory are its own, and two columns more, read from the logs of the trainings. What is
finished is skipped; after a kill give the command again.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsam.ablate.job import Steps

ABLATION = Path("configs/methods/levels.yaml")


@dataclass(frozen=True)
class Level:
    """One training and its evaluation.

    Attributes:
        level: name of the cell.
        seed: of the training.
        trainable_parameters: numbers in the adapter.
        memory_peak_mib: most that the training process has needed; of main memory, libraries
            included, or on a GPU of its memory.
        seconds_per_step: median over the optimiser steps, loading of images included.
        steps: optimiser steps.
        training_minutes: all of them, without validation.
        dice_percent, iou_percent: mean over the test images.
        cases: test images.
    """

    level: str
    seed: int
    trainable_parameters: int
    memory_peak_mib: float
    seconds_per_step: float
    steps: int
    training_minutes: float
    dice_percent: float
    iou_percent: float
    cases: int


def measured(out: Path, cell: Path) -> Level | None:
    """What a finished cell has cost and given; None while it is not finished.

    Args:
        out: folder of all ablations.
        cell: folder of the cell and seed.
    """
    path = cell / "cell.json"
    record: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if record.get("state") != "finished":
        return None
    training = out / record["training"]
    config = json.loads((training / "best" / "adapter.json").read_text("utf-8"))["training"]
    settings = config["config"]
    columns: dict[str, list[float]] = {"images_per_s": [], "memory_peak_mib": []}
    with (training / "log.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["name"] in columns:
                columns[row["name"]].append(float(row["value"]))
    images = settings["batch_size"] * settings["accumulate"]
    seconds = [images / rate for rate in columns["images_per_s"]]
    with (cell / "cases.csv").open(newline="", encoding="utf-8") as file:
        cases = [row for row in csv.DictReader(file) if row["kind"] == "present"]
    return Level(
        level=record["cell"],
        seed=record["seed"],
        trainable_parameters=record["trainable_parameters"],
        memory_peak_mib=round(max(columns["memory_peak_mib"]), 1),
        seconds_per_step=round(statistics.median(seconds), 4),
        steps=len(seconds),
        training_minutes=round(sum(seconds) / 60, 2),
        dice_percent=round(100 * statistics.fmean(float(c["dice"]) for c in cases), 2),
        iou_percent=round(100 * statistics.fmean(float(c["iou"]) for c in cases), 2),
        cases=len(cases),
    )


def table(levels: Sequence[Level], labels: dict[str, str]) -> str:
    """Markdown, one row per level and seed."""
    from textsam.evaluate.tables import markdown

    head = (
        "what learns", "seed", "trainable parameters", "memory peak MiB", "s per step", "steps",
        "training min", "n", "Dice %", "IoU %",
    )  # fmt: skip
    rows = [
        (
            labels[one.level], one.seed, f"{one.trainable_parameters:,}",
            f"{one.memory_peak_mib:.0f}", f"{one.seconds_per_step:.2f}", one.steps,
            f"{one.training_minutes:.1f}", one.cases, f"{one.dice_percent:.2f}",
            f"{one.iou_percent:.2f}",
        )
        for one in levels
    ]  # fmt: skip
    return markdown(head, rows, left=1)


def main(arguments: Sequence[str] | None = None, steps: Steps | None = None) -> int:
    """Run what is missing and write the tables; `steps` are other ways to train, for tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--ablation", type=Path, default=ABLATION)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", default=None, help="such as 0,1; default: the file's")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/methods"))
    chosen = parser.parse_args(arguments)

    from textsam.ablate.engines import Processes
    from textsam.ablate.run import ablate
    from textsam.ablate.spec import read_ablation
    from textsam.io.atomic import atomic_path

    # Without where this machine keeps its files.
    command = f"python benchmarks/levels.py --data data --device {chosen.device}"
    command += f" --seeds {chosen.seeds}" if chosen.seeds else ""
    ablation = read_ablation(chosen.ablation)
    seeds = [int(s) for s in chosen.seeds.split(",")] if chosen.seeds else list(ablation.seeds)
    result = ablate(
        chosen.ablation,
        out=chosen.out,
        seeds=seeds,
        overrides=[f"data.root={chosen.data}"],
        engine=Processes((chosen.device,)),
        steps=steps,
        command=command,
        report=lambda outcome: print(outcome, file=sys.stderr),
    )
    found = [
        measured(chosen.out, result.folder / "cells" / cell.name / f"seed-{seed}")
        for cell in ablation.cells
        for seed in seeds
    ]
    levels = [one for one in found if one is not None]
    labels = {cell.name: cell.title for cell in ablation.cells}
    notes = (
        "Each training is a process of its own on one device. Memory peak: the most that the "
        "process has needed, libraries included (on a GPU: its tensors). s per step: median over "
        "the optimiser steps, images loaded and changed in the same process."
    )
    text = f"{result.table}\n## Cost\n\n{table(levels, labels)}\n\n{notes}\n"
    content = {"command": command, "device": chosen.device, "levels": [asdict(o) for o in levels]}
    written = {
        ".md": text,
        ".csv": (result.folder / f"{ablation.name}.csv").read_text(encoding="utf-8"),
        ".json": json.dumps(content, indent=2) + "\n",
    }
    for suffix, contents in written.items():
        with atomic_path(chosen.results / f"levels{suffix}") as temporary:
            temporary.write_text(contents, encoding="utf-8")
    print(table(levels, labels))
    return 0 if result.complete else 1


if __name__ == "__main__":
    sys.exit(main())
