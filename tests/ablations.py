"""Ablations of tiny models on made-up images, for the tests and for the processes they start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from runs import begin, run_config
from tiny import tiny_model, write_images_and_masks

from textsam.ablate.job import Steps
from textsam.adapters import read_adapter_config
from textsam.checkpoint import architecture_of, load_adapter
from textsam.config import TrainConfig
from textsam.inference.segmenter import Segmenter
from textsam.model.tuning import merge_for_inference
from textsam.train.run import fit

RANKS: list[dict[str, Any]] = [
    {"name": 1, "set": ["tuning.rank=1"]},
    {"name": 2, "set": ["tuning.rank=2"]},
]


@dataclass(frozen=True)
class TinyTrain:
    """Trains a tiny model and notes it; `stop_at` kills at a step, `fail_on` fails for a rank."""

    notes: Path
    stop_at: int | None = None
    fail_on: int | None = None

    def __call__(self, config: TrainConfig) -> Path:
        with self.notes.open("a", encoding="utf-8") as file:
            file.write(f"{config.name} {config.tuning.rank} {config.seed} {config.device}\n")
        if config.tuning.rank == self.fail_on:
            raise RuntimeError("out of memory, says the device")
        run = fit(begin(config), stop_after=self.stop_at, progress=False)
        if self.stop_at is not None and run.state.step == self.stop_at:
            raise KeyboardInterrupt
        return run.folder


def tiny_load(preset: str, adapter: Path, device: str, precision: str) -> Segmenter:
    record = read_adapter_config(adapter)
    built = tiny_model(architecture_of(record.architecture))
    load_adapter(adapter, built)
    merge_for_inference(built.model)
    return Segmenter(built, record, device=torch.device("cpu"), fingerprint=adapter.parent.name)


@dataclass
class Bench:
    """An ablation's file, its data, and what was trained."""

    root: Path

    def __post_init__(self) -> None:
        for seed, (part, count) in enumerate((("train", 4), ("val", 2), ("test", 3))):
            write_images_and_masks(self.root / "data" / part, count, seed=seed)
        self.file = self.write()

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def notes(self) -> Path:
        return self.root / "trained.txt"

    @property
    def trained(self) -> list[list[str]]:
        """Name, rank, seed and device of every training begun."""
        if not self.notes.exists():
            return []
        return [line.split() for line in self.notes.read_text(encoding="utf-8").splitlines()]

    def steps(self, **options: Any) -> Steps:
        return Steps(train=TinyTrain(self.notes, **options), load=tiny_load)

    def write(self, training: dict[str, Any] | None = None, **changes: Any) -> Path:
        """A base configuration of 4 steps of 2 images, and an ablation of LoRA's rank."""
        config = run_config(self.root / "data", save_every=2, **(training or {}))
        settings = config.model_dump(mode="json", exclude={"out"})
        (self.root / "base.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        ablation: dict[str, Any] = {
            "name": "ranks",
            "title": "Rank of LoRA",
            "column": "rank",
            "base": "base.yaml",
            "evaluate": {"folders": [{"folder": ".", "split": "test", "concept": "tumor"}]},
            "cells": RANKS,
        }
        file = self.root / "ranks.yaml"
        file.write_text(yaml.safe_dump({**ablation, **changes}), encoding="utf-8")
        return file
