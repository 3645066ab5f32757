"""The ready configurations of methods, and the scripts that make their tables, in miniature."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ablations import TinyTrain, tiny_load
from PIL import Image
from runs import ONLY_FLIPS

from textsam.ablate.job import Steps
from textsam.ablate.plan import _cell_config
from textsam.ablate.run import ablate
from textsam.ablate.spec import AblationConfig, EvaluationChanges, read_ablation
from textsam.config import TrainConfig
from textsam.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))
METHODS = ROOT / "configs" / "methods"
OURS = ("prompt-tokens", "self-prompting", "prompt-sampling")
SPECS = sorted(p for p in METHODS.glob("*.yaml") if p.name.startswith(OURS))


def cells_of(path: Path) -> dict[str, tuple[TrainConfig, Any]]:
    ablation = read_ablation(path)
    base = path.parent / ablation.base
    return {
        cell.name: (_cell_config(base, cell, (), str(path)), ablation.evaluation_of(cell))
        for cell in ablation.cells
    }


def test_there_are_six_tables() -> None:
    assert len(SPECS) == 6


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_cell_is_a_run_and_no_two_are_the_same(path: Path) -> None:
    assert read_ablation(path).name == path.stem
    cells = cells_of(path)
    everything = [f"{config} {evaluation}" for config, evaluation in cells.values()]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("name", ["isbi", "vnc", "epfl"])
def test_the_prompt_token_arms_are_the_paper_s(name: str) -> None:
    import prompt_tokens

    cells = cells_of(METHODS / f"prompt-tokens-{name}.yaml")
    assert set(cells) == {f"{arm}-{s}" for arm in prompt_tokens.ARMS for s in prompt_tokens.SHIFTS}
    assert len({str(config) for config, _ in cells.values()}) == 3, "trainings"
    for cell, (config, evaluation) in cells.items():
        arm, shift = cell.rsplit("-", 1)
        assert evaluation.box_shift == pytest.approx(int(shift) / 100)
        assert evaluation.prompts == "geometry"
        assert (config.text, config.tuning.encoder, config.tuning.decoder) == (
            False, "frozen", "full",
        )  # fmt: skip
        assert [(s.by, s.p) for s in config.geometry.shifts] == [(0, 0.6), (0.1, 0.2), (0.2, 0.2)]
        assert config.tokens.count == (4 if arm in ("tokens", "settle", "unguarded") else 0)
        assert config.tokens.width == 128
        assert config.tuning.prompt_embeddings == (arm == "embedding")
        rule = evaluation.settle
        assert (rule is not None) == (arm in ("settle", "unguarded"))
        if rule is not None:
            assert (rule.tolerance_px, rule.falls) == (2, 2 if arm == "settle" else None)


@pytest.mark.parametrize("name", ["busi", "polyp"])
def test_the_self_prompting_table_is_a_grid_of_six_trainings(name: str) -> None:
    cells = cells_of(METHODS / f"self-prompting-{name}.yaml")
    trained = {
        (c.text, c.self_prompt.passes, c.self_prompt.distillation.weight) for c, _ in cells.values()
    }
    assert trained == {(t, *r) for t in (True, False) for r in ((1, 0.0), (2, 0.0), (2, 1.0))}
    for config, _ in cells.values():
        if config.self_prompt.passes > 1:
            assert config.inference == (1, "box")


def test_evaluations_that_contradict_themselves_are_refused() -> None:
    def check(**evaluate: Any) -> None:
        content = {
            "name": "a",
            "title": "a",
            "base": "b.yaml",
            "evaluate": {"folders": [{"folder": ".", "concept": "cell"}], **evaluate},
            "cells": [{"name": "one"}],
        }
        ablation = AblationConfig.model_validate(content)
        ablation.evaluation_of(ablation.cells[0])

    check(prompts="geometry", box_shift=0.1, settle={})
    with pytest.raises(ConfigError, match="needs a box"):
        check(box_shift=0.1)
    with pytest.raises(ConfigError, match="give one of them"):
        check(refine=1, settle={})
    old = {"refine", "refine_with", "negatives", "precision", "seed"}
    assert set(EvaluationChanges().facts()) == old, "cells of before are still finished"


def write_cells(root: Path, known: str, count: int) -> None:
    """A set of a manifest: dark lines between bright squares, and the lines' mask."""
    for part in ("images", "masks"):
        (root / known / part).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((64, 64), dtype=np.uint8)
        mask[8 + number :: 16] = mask[:, 8 + number :: 16] = 255
        pixels = 200 - mask // 2 - np.uint8(number)
        Image.fromarray(pixels).save(root / known / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / known / "masks" / f"{number}.png")


def test_the_prompt_token_script_makes_its_table_and_skips_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prompt_tokens

    data = tmp_path / "data"
    write_cells(data, "isbi2012", 3)
    manifest = {
        "isbi2012": {
            "modality": "electron microscopy", "classes": {"255": "cell membrane"}, "terms": "none",
        }
    }  # fmt: skip
    (data / "manifest.json").write_text(json.dumps(manifest))
    split = {"isbi2012": {"train": ["0"], "val": ["1"], "test": ["2"]}}
    (data / "splits.json").write_text(json.dumps(split))
    notes = tmp_path / "notes"
    notes.touch()

    def tiny(path: Path, **options: Any) -> Any:
        only = ["tokens-0", "tokens-40", "settle-40"]
        return ablate(path, steps=Steps(TinyTrain(notes), tiny_load), only=only, **options)

    monkeypatch.setattr(prompt_tokens, "ablate", tiny)
    out, work = tmp_path / "out", tmp_path / "work"
    flips = [f"augment={json.dumps(ONLY_FLIPS)}"]
    changes = ["side_px=null", "epochs=0.5", "context.depth=3", "precision=float32", *flips]
    arguments = ["--data", str(data), "--work", str(work), "--out", str(out), "--sets", "isbi"]
    arguments += [part for change in changes for part in ("--set", change)]
    for _ in range(2):
        # Not all cells were asked for, so it says that it is not complete only by the table.
        assert prompt_tokens.main(arguments) == 0
    assert len(notes.read_text().splitlines()) == 1, "trained once"
    counts = {
        p: len(list((work / "data/objects-isbi" / p / "masks").iterdir()))
        for p in ("train", "test")
    }
    assert counts == {"train": 16, "test": 16}, "four squares in each of four tiles"
    content = json.loads((out / "prompt-tokens.json").read_text())
    arms = content["sets"]["isbi"]["arms"]
    assert set(arms) == {"tokens", "settle"}
    assert set(arms["tokens"]) == {"0", "40"}
    cases = work / "ablations/prompt-tokens-isbi/cells/tokens-40/seed-0/cases.csv"
    with cases.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == arms["tokens"]["40"]["objects"] == 16
    assert {row["box_shift"] for row in rows} == {"0.4"}
    mean = sum(float(row["iou"]) for row in rows) / 16
    assert arms["tokens"]["40"]["miou"] == pytest.approx(mean)
    table = (out / "prompt-tokens.md").read_text()
    assert f"| + new tokens | {arms['tokens']['0']['miou']:.3f} | – | – | – | {mean:.3f} |" in table
    assert "| + new tokens (paper) | 0.830 | 0.820 | 0.785 | 0.714 | 0.622 |" in table
    # Of other settings, another seed is another table.
    assert prompt_tokens.main([*arguments, "--seeds", "1", "--set", "epochs=0.75"]) == 0
    again = json.loads((out / "prompt-tokens.json").read_text())["sets"]["isbi"]["arms"]
    cases = work / "ablations/prompt-tokens-isbi/cells/tokens-40/seed-1/cases.csv"
    with cases.open(newline="", encoding="utf-8") as file:
        other = sum(float(row["iou"]) for row in csv.DictReader(file)) / 16
    assert again["tokens"]["40"]["seeds"] == 1
    assert again["tokens"]["40"]["miou"] == pytest.approx(other)
    # What a command for other sets finishes stands beside it.
    ablations = work / "ablations"
    shutil.copytree(ablations / "prompt-tokens-isbi", ablations / "prompt-tokens-epfl")
    made = ablations / "prompt-tokens-epfl"
    for suffix in (".md", ".csv"):
        (made / f"prompt-tokens-isbi{suffix}").rename(made / f"prompt-tokens-epfl{suffix}")
    prompt_tokens.write_results(out, work, " --seeds 0")
    content = json.loads((out / "prompt-tokens.json").read_text())
    assert list(content["sets"]) == ["isbi", "epfl"]
    assert content["command"].endswith("--sets isbi,epfl --epfl FOLDER --seeds 0")
