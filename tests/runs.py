"""Small training runs on made-up images: a bright disc is the tumor."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_model, write_images_and_masks
from torch import Tensor

from textsam.config import TrainConfig
from textsam.model.tuning import trainable_state
from textsam.train.run import Run, architecture_from, fit, setup

ONLY_FLIPS: dict[str, Any] = {
    "flip_horizontal_p": 0.5,
    "flip_vertical_p": 0.5,
    **{
        f"{name}_p": 0.0
        for name in ("rot90", "affine", "gamma", "brightness", "contrast", "channel", "grey")
    },
    **{f"{name}_p": 0.0 for name in ("invert", "blur", "noise", "speckle", "low_resolution")},
    "marks_p": 0.0,
}


def write_data(folder: Path, train: int = 6, val: int = 3) -> Path:
    """`train/` and `val/` folders of discs."""
    write_images_and_masks(folder / "train", train)
    write_images_and_masks(folder / "val", val, seed=1)
    return folder


def run_config(root: Path, **changes: Any) -> TrainConfig:
    """A run of 6 steps of 2 images for `tiny_model`; `changes` replace whole sections."""
    settings: dict[str, Any] = {
        "name": "toy",
        "out": str(root / "runs"),
        "data": {
            "root": str(root),
            "train_folders": [{"folder": ".", "split": "train", "concept": "tumor"}],
            "val_folders": [{"folder": ".", "split": "val", "concept": "tumor"}],
        },
        "context": {"n_tokens": 4, "depth": 3},
        "tuning": {"rank": 2},
        "augment": ONLY_FLIPS,
        "optim": {"lr": 1e-3},
        "epochs": 2,
        "batch_size": 2,
        "device": "cpu",
        "save_every": 3,
    }
    return TrainConfig.model_validate({**settings, **changes})


def begin(config: TrainConfig, seed: int = 0) -> Run:
    """`setup` with a fresh tiny model, as a new process would."""
    return setup(config, tiny_model(architecture_from(config), seed))


def train(config: TrainConfig, stop_after: int | None = None) -> Run:
    """Begin or resume a run."""
    return fit(begin(config), stop_after=stop_after, progress=False)


def learned(run: Run) -> dict[str, Tensor]:
    """What the run has trained."""
    return trainable_state(run.built.model)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def log_rows(run: Run) -> list[list[str]]:
    """The lines of the log but for times and memory."""
    with (run.folder / "log.csv").open(newline="", encoding="utf-8") as file:
        return [
            row for row in csv.reader(file) if row[1] not in ("images_per_s", "memory_peak_mib")
        ]


def logged(run: Run, name: str) -> dict[int, float]:
    """Step -> value of one logged name."""
    return {int(row[0]): float(row[2]) for row in log_rows(run)[1:] if row[1] == name}
