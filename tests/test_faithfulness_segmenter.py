"""A real segmenter under `measure_faithfulness`, tiny and untrained."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import run, use_tiny_model
from tiny import tiny_model, tiny_segmenter, write_images_and_masks

from textsam import api
from textsam.adapters import AdapterConfig
from textsam.data.folder import samples_from_folder
from textsam.evaluate.faithfulness import SegmenterTexts, measure_faithfulness
from textsam.inference.refinement import RefineWith
from textsam.inference.segmenter import Segmenter


def test_a_segmenter_is_asked_past_its_lexicon(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, count=2)
    samples = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    segmenter = tiny_segmenter(found_threshold=0.1, refine=0, refine_for={"tumor": 1})
    model = SegmenterTexts(segmenter)
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    name, raw, other = model.answers(
        image, [("tumor", "tumor"), ("mass", "tumor"), ("tumor", None)]
    )
    asked = segmenter.segment(image, "mass")  # the lexicon makes it a tumor
    assert np.array_equal(name.probability, asked.probability)
    assert not np.array_equal(raw.probability, name.probability)
    assert [answer.extra["refine"] for answer in (name, raw, other)] == [1, 1, 0]
    summary = measure_faithfulness(model, samples, out=tmp_path / "out", progress=False)
    assert {t.product_lost for t in summary.texts} == {0.0}
    assert summary.settings["config"]["found_threshold"] == 0.1
    assert summary.settings["identity"] == segmenter.identity
    assert {rate.kind for rate in summary.empty} == {"absent_modality", "distractor"}
    assert summary.score.present is not None
    assert summary.score.present.n == 2


def test_random_points_an_adapter_asks_for_have_the_seed() -> None:
    segmenter = tiny_segmenter(refine=1, refine_with=RefineWith.BOX_5POINTS)
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for seed in (0, 4):
        (answer,) = SegmenterTexts(segmenter, seed=seed).answers(image, [("tumor", "tumor")])
        asked = segmenter.segment(image, "tumor", seed=seed)
        assert np.array_equal(answer.probability, asked.probability)
    assert not np.array_equal(asked.probability, segmenter.segment(image, "tumor").probability)


def test_the_command_gives_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = AdapterConfig(
        name="tiny", preset="lite", prompts=("tumor",), refine=1, refine_with=RefineWith.BOX_5POINTS
    )
    segmenter = Segmenter(tiny_model(), config, device=torch.device("cpu"))
    monkeypatch.setattr(api, "load_model", lambda *_, **__: segmenter)
    write_images_and_masks(tmp_path / "data", count=1)
    found = []
    for seed in (0, 4):
        out = tmp_path / str(seed)
        call = ("evaluate", tmp_path / "data", "--concept", "tumor", "--faithfulness")
        done = run(*call, "--seed", str(seed), "-o", out)
        assert done.exit_code == 0, done.output
        with (out / "faithfulness.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] == "present"]
        found.append([(row["text"], row["score"], row["area_px"]) for row in rows])
    assert found[0] != found[1]


def test_the_command_prints_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_model(monkeypatch)
    write_images_and_masks(tmp_path / "data", count=2)
    done = run(
        "evaluate", tmp_path / "data", "--concept", "tumor", "--modality", "brain MRI",
        "--faithfulness", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "### Wording: Dice points lost" in done.stdout
    assert "| another kind of image | all sets | 2 |" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "faithfulness.csv",
        "faithfulness-run.json",
        "faithfulness.json",
        "reliability.png",
    }
