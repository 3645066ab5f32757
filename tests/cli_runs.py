"""Call the command line in this process, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from tiny import tiny_model
from typer.testing import CliRunner

from textsam import api
from textsam.adapters import AdapterConfig
from textsam.cli import app
from textsam.inference.segmenter import Segmenter


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def use_tiny_model(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Make `load_model` give a tiny segmenter; what it is asked for goes into the result."""
    calls: list[dict[str, Any]] = []

    def load_model(
        model: str, adapter: str | None, device: str, precision: str, **others: Any
    ) -> Segmenter:
        calls.append(
            {"model": model, "adapter": adapter, "device": device, "precision": precision, **others}
        )
        config = AdapterConfig(name="tiny", preset="lite", prompts=("tumor", "lung"), refine=1)
        return Segmenter(tiny_model(), config, device=torch.device("cpu"))

    monkeypatch.setattr(api, "load_model", load_model)
    return calls


def write_image(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
