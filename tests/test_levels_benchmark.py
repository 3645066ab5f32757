"""The benchmark of the three levels: each in a process of its own, and its columns by hand."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ablations import Bench

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not in this copy of the project", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

from levels import ABLATION, Level, main, measured, table  # noqa: E402

ROOT = BENCHMARKS.parent


def test_a_level_that_is_trained_has_all_its_columns(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    cells = [{"name": "decoder", "label": "mask decoder", "set": ["tuning.level=decoder"]}]
    training: dict[str, Any] = {"tuning": {"rank": 2}, "epochs": 1}
    bench.write(training, name="levels", cells=cells)
    base = (tmp_path / "base.yaml").read_text(encoding="utf-8")
    plain = [
        line for line in base.splitlines() if line.strip() not in ("encoder: lora", "decoder: lora")
    ]
    (tmp_path / "base.yaml").write_text("\n".join(plain), encoding="utf-8")
    asked = [
        "--data", str(tmp_path / "data"), "--ablation", str(bench.file),
        "--out", str(bench.out), "--results", str(tmp_path / "results"),
    ]  # fmt: skip
    assert main(asked, bench.steps()) == 0
    assert main(asked, bench.steps()) == 0
    assert len(bench.trained) == 1, "what is finished is skipped"
    content = json.loads((tmp_path / "results" / "levels.json").read_text(encoding="utf-8"))
    (row,) = content["levels"]
    assert (row["level"], row["seed"], row["steps"], row["cases"]) == ("decoder", 0, 2, 3)
    with (bench.out / "levels/cells/decoder/seed-0/cases.csv").open(encoding="utf-8") as file:
        dice = [float(case["dice"]) for case in csv.DictReader(file)]
    assert row["dice_percent"] == pytest.approx(100 * sum(dice) / 3, abs=0.01)
    # The process of the training alone: less than this one would be if it had trained everything.
    assert row["memory_peak_mib"] > 100
    text = (tmp_path / "results" / "levels.md").read_text(encoding="utf-8")
    assert "| mask decoder | 0 |" in text
    assert "IoU %" in text
    assert (tmp_path / "results" / "levels.csv").is_file()


def test_columns_come_from_log_and_cases(tmp_path: Path) -> None:
    training, cell = tmp_path / "trainings" / "t", tmp_path / "levels" / "cells" / "full" / "seed-4"
    (training / "best").mkdir(parents=True)
    cell.mkdir(parents=True)
    record = {"state": "finished", "cell": "full", "seed": 4, "training": "trainings/t"}
    (cell / "cell.json").write_text(json.dumps({**record, "trainable_parameters": 7}), "utf-8")
    settings = {"training": {"config": {"batch_size": 3, "accumulate": 2}}}
    (training / "best" / "adapter.json").write_text(json.dumps(settings), "utf-8")
    log = "step,name,value\n" + "".join(
        f"{step},images_per_s,{rate}\n{step},loss,9\n{step},memory_peak_mib,{peak}\n"
        for step, rate, peak in ((1, 1.0, 50.0), (2, 6.0, 80.5), (3, 3.0, 80.5))
    )
    (training / "log.csv").write_text(log, "utf-8")
    cases = "kind,dice,iou\npresent,0.5,0.25\npresent,1.0,0.75\nabsent_modality,,\n"
    (cell / "cases.csv").write_text(cases, "utf-8")
    # 6 images a step: 6 s, 1 s and 2 s.
    expected = Level("full", 4, 7, 80.5, 2.0, 3, 0.15, 75.0, 50.0, 2)
    assert measured(tmp_path, cell) == expected
    row = table([expected], {"full": "everything"}).splitlines()[-1]
    assert row == "| everything | 4 | 7 | 80 | 2.00 | 3 | 0.1 | 2 | 75.00 | 50.00 |"
    (cell / "cell.json").write_text(json.dumps({**record, "state": "begun"}), "utf-8")
    assert measured(tmp_path, cell) is None


def test_the_ready_file_has_the_three_levels() -> None:
    from textsam.ablate.plan import _cell_config
    from textsam.ablate.spec import read_ablation
    from textsam.train.settings import LEVELS

    path = ROOT / ABLATION
    ablation = read_ablation(path)
    base = path.parent / ablation.base
    for cell in ablation.cells:
        tuning = _cell_config(base, cell, (), str(path)).tuning
        assert {"encoder": tuning.encoder, "decoder": tuning.decoder} == LEVELS[cell.name]
    assert [cell.name for cell in ablation.cells] == list(LEVELS)
