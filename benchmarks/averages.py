"""Averages of an adapter and the one it goes on from, on the validation images of a configuration.

    python benchmarks/averages.py configs/generalist.yaml weights/generalist-stage9 \\
        runs/generalist/best --data data -o averages.md

How much of the second is best, and at which side the model had better work, are choices like any
other, so validation images make them. They are asked by the word alone, as at the end of a
training; nothing is trained.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from textsam.average import average_adapters
from textsam.config import TrainConfig, read_config
from textsam.evaluate.tables import markdown
from textsam.io.atomic import atomic_path
from textsam.model.build import assemble, load_parts
from textsam.train.run import architecture_from, setup
from textsam.train.validate import Validation, validate


def validated(config: TrainConfig, sides_px: Sequence[int] = ()) -> dict[int, Validation]:
    """What a training of this configuration would find in validation before its first step.

    Args:
        config: with the adapter to validate as `init_adapter`.
        sides_px: of the square the model works on; default the configuration's.

    Returns:
        Side -> what was found.
    """
    backbone, encoder = load_parts(config.preset)
    run = setup(config, assemble(backbone, encoder, architecture_from(config)))
    found = {}
    for side_px in sides_px or (run.side_px,):
        run.built.set_side(side_px)
        run.val_set.size_px = side_px
        found[side_px] = validate(
            run.forward, run.val_set, run.val_keys, config.loss, run.processes
        )
    return found


def _told(path: Path) -> str:
    """A path as given, or its name: where folders lie on a machine is nobody's business."""
    return path.name if path.is_absolute() else path.as_posix()


def _name(adapter: Path) -> str:
    """Of a training's adapter, such as runs/NAME/best, that of the training."""
    return adapter.parent.name if adapter.name in ("best", "last", "averaged") else adapter.name


def main(arguments: Sequence[str] | None = None) -> int:
    """Average, validate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="0,0.5,0.7,1", help="shares of the second adapter")
    parser.add_argument("--sides", help="sides in px, such as 168,224; default: the model's own")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    sides_px = [int(side) for side in options.sides.split(",")] if options.sides else []
    found: dict[tuple[float, int], Validation] = {}
    for weight in map(float, options.weights.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            mean = Path(scratch) / "mean"
            average_adapters(options.first, options.second, mean, weight=weight)
            changes = [f"data.root={options.data}", f"out={scratch}", f"init_adapter={mean}"]
            config = read_config(options.config, changes)
            for side_px, one in validated(config, sides_px).items():
                found[weight, side_px] = one
                sys.stderr.write(f"{weight} at {side_px} px: {one.line()}\n")
    groups = sorted({group for one in found.values() for group in one.dice_by_group})
    rows = [
        (
            f"{weight:g}",
            f"{side_px}",
            f"{one.loss:.4f}",
            *("–" if v is None else f"{100 * v:.1f}" for v in (one.dice, one.false_positive_rate)),
            *(f"{100 * one.dice_by_group[group]:.1f}" for group in groups),
        )
        for (weight, side_px), one in found.items()
    ]
    head = ("share of the second", "side, px", "loss", "Dice %", "absent, answered %", *groups)
    paths = " ".join(map(_told, (options.config, options.first, options.second)))
    command = f"python benchmarks/averages.py {paths} --weights {options.weights}"
    if options.sides:
        command += f" --sides {options.sides}"
    text = (
        f"# Averages of {_name(options.first)} and {_name(options.second)}\n\n"
        f"{markdown(head, rows, 2)}\n\nValidation images, Dice at the model's side by the word "
        f"alone; the mean is over the columns to its right. Made by `{command}` on "
        f"{platform.platform()}, {os.cpu_count()} cores; torch {torch.__version__}; "
        f"{datetime.now(UTC).date()}. Nothing is drawn at random.\n"
    )
    with atomic_path(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
