"""The BUSI benchmark: four arms end to end on a miniature, and figures checked by hand."""

from __future__ import annotations

import csv
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from runs import ONLY_FLIPS
from tiny import (
    tiny_text_encoder,
    tiny_vit_backbone,
    write_images_and_masks,
)

from textsam.adapters import read_adapter_config
from textsam.config import TrainConfig
from textsam.errors import ConfigError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not in this copy of the project", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import busi  # noqa: E402
import busi_arms  # noqa: E402
import busi_views  # noqa: E402
from busi_arms import Job, fold_config  # noqa: E402
from busi_report import PUBLISHED  # noqa: E402
from busi_score import Case, append_case, fold_figures, over_folds, read_cases, score  # noqa: E402
from busi_unet import UNetSettings  # noqa: E402

STEMS = ("t0", "t1", "t2", "t3", "v0", "x0", "x1")


def write_miniature(root: Path) -> Path:
    """Two folds of the benchmark's layout: four images to train on, one to choose, two to test."""
    write_images_and_masks(root / "busi", len(STEMS))
    for folder, suffix in (("images", ".png"), ("masks", ".png")):
        for number, stem in enumerate(STEMS):
            place = root / "busi" / folder
            (place / f"{number:03d}{suffix}").rename(place / f"{stem}{suffix}")
    fold = {"train": ["t0", "v0", "t1", "t2", "t3"], "test": ["x1", "x0"]}
    entry = {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "made up"}
    (root / "manifest.json").write_text(json.dumps({"busi": entry}), encoding="utf-8")
    splits = {"busi/fold1": fold, "busi/fold2": fold}
    (root / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    settings: dict[str, Any] = {
        "name": "mini",
        "data": {
            "root": "elsewhere",
            "train": [{"set": "busi", "split": "fold1/train", "prefix": "t"}],
            "val": [{"set": "busi", "split": "fold1/train", "prefix": "v"}],
        },
        "prompts": {"max_positives": 1, "negatives": 1, "distractor_p": 1.0},
        "context": {"n_tokens": 2, "depth": 3},
        "tuning": {"rank": 2, "encoder": "full"},
        "augment": ONLY_FLIPS,
        "geometry": {"probability": 0.5},
        "loss": {"iou": 0.5},
        "epochs": 2,
        "batch_size": 2,
        "progressive": [{"side_px": 32, "share": 0.5}],
    }
    (root / "mini.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    further = {**settings, "epochs": 1, "progressive": [], "init_adapter": "runs/mini/best"}
    (root / "further.yaml").write_text(yaml.safe_dump(further), encoding="utf-8")
    return root


@dataclass(frozen=True)
class TinyUNet(UNetSettings):
    epochs: float = 1.0
    batch_size: int = 2
    channels: tuple[int, ...] = (4, 8)
    side_px: int = 64


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(busi, "UNetSettings", TinyUNet)
    monkeypatch.setattr(
        busi_arms, "load_parts", lambda _: (tiny_vit_backbone(64), tiny_text_encoder())
    )
    return write_miniature(tmp_path)


def run(root: Path, *more: str) -> int:
    arguments = ["--data", str(root), "--config", str(root / "mini.yaml"), "--device", "cpu"]
    arguments += ["--further", str(root / "further.yaml")]
    arguments += ["--work", str(root / "work"), "--out", str(root / "busi.json"), *more]
    return busi.main(arguments)


def result(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "busi.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.slow
def test_all_arms_run_end_to_end(root: Path) -> None:
    assert run(root, "--folds", "2") == 0
    content = result(root)
    assert set(content["arms"]) == set(busi_arms.ARMS)
    for arm, own in content["arms"].items():
        (row,) = own["folds"]
        assert (row["fold"], row["n"]) == (2, 2)
        # Derived again from the cases, in another way.
        path = root / "work" / f"{arm}-fold2" / "cases.csv"
        with path.open(newline="", encoding="utf-8") as file:
            cases = list(csv.DictReader(file))
        assert [case["stem"] for case in cases] == ["x1", "x0"]
        for name in ("dice_256", "iou_256", "dice_native", "nsd_3px"):
            mean = 100 * sum(float(case[name]) for case in cases) / 2
            assert row[name] == pytest.approx(mean, abs=1e-3)
            assert 0 <= row[name] <= 100
        assert own["dice_256_mean"] == row["dice_256"]
        assert own["dice_256_std"] is None, "one fold has no deviation"
    assert content["folds"] == content["arms"]["text"]["folds"]
    assert content["dice_256_mean"] == content["arms"]["text"]["dice_256_mean"]
    assert not (root / "work" / "averaged-fold2" / "best").exists(), "it has text's adapter"
    assert {"machine", "date", "seed", "command", "minutes"} <= set(content)
    assert str(root) not in json.dumps(content), "a result names no folder of this machine"
    table = (root / "busi.md").read_text(encoding="utf-8")
    assert all(f"| {name} (published) |" in table for name, *_ in PUBLISHED)
    assert "81.18 ± 3.05" in table
    assert "may have included BUSI images" in table
    trained = read_adapter_config(root / "work" / "text-fold2" / "best")
    assert (trained.prompts, trained.training["continued_from"]) == (("tumor",), None)
    assert trained.training["data"]["train"][0]["split"] == "fold2/train"
    on = read_adapter_config(root / "work" / "further-fold2" / "best")
    assert on.training["continued_from"] == "text-fold2, step 4"
    assert on.training["data"] == trained.training["data"]
    assert on.tensors_sha256 != trained.tensors_sha256
    # Nothing is left: nothing is done again.
    before = (root / "work" / "text-fold2" / "cases.csv").stat().st_mtime_ns
    assert run(root, "--folds", "2") == 0
    assert (root / "work" / "text-fold2" / "cases.csv").stat().st_mtime_ns == before


@pytest.fixture
def fake(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Left halves are true. On fold 1 they are found, on fold 2 the upper half is said."""
    half = np.zeros((48, 48), dtype=np.uint8)
    half[:, :24] = 255
    for stem in ("x0", "x1"):
        Image.fromarray(half).save(root / "busi" / "masks" / f"{stem}.png")
    calls: list[str] = []

    def predictor_of(job: Job, known: int | None) -> tuple[Any, int | None]:
        def predict(
            _: NDArray[np.uint8], truth: NDArray[np.bool_]
        ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            calls.append(job.config.name)
            mask = truth if job.fold == 1 else truth.T
            return mask.astype(np.float32), mask

        return predict, 1 if known is None else known

    monkeypatch.setattr(busi_arms, "train_arm", lambda *_: True)
    monkeypatch.setattr(busi_arms, "predictor_of", predictor_of)
    return calls


def test_figures_of_a_made_up_model(root: Path, fake: list[str]) -> None:
    assert run(root, "--only", "text", "--folds", "1,2", "--seed", "3") == 0
    content = result(root)
    first, second = content["folds"]
    assert [first[name] for name in ("dice_256", "iou_256", "dice_native", "nsd_3px")] == [100] * 4
    # Two half squares share a quarter: Dice 2·¼ / (½ + ½), IoU ¼ / ¾.
    assert (second["dice_256"], second["dice_native"]) == (50, 50)
    assert second["iou_256"] == pytest.approx(100 / 3, abs=1e-3)
    assert (content["dice_256_mean"], content["dice_256_std"]) == (75, 25)
    assert (content["seed"], first["refine"], first["missed"]) == (3, 1, 0)
    assert content["command"] == (
        "python benchmarks/busi.py --data data --config mini.yaml --folds 1,2 --only text --seed 3"
    )
    assert '| **TextSAM `lite`, asked "tumor"**, folds 1, 2 only | 75.00 ± 25.00 |' in (
        root / "busi.md"
    ).read_text(encoding="utf-8")


def test_slices_go_on_where_the_last_one_stopped(root: Path, fake: list[str]) -> None:
    codes = []
    while not codes or codes[-1] == 75:
        assert len(codes) < 12
        codes.append(run(root, "--only", "text,box", "--folds", "1", "--minutes", "0"))
    assert codes[-1] == 0
    assert len(codes) > 4
    assert fake == ["text-fold1"] * 2 + ["box-fold1"] * 2, "each image once"
    content = result(root)
    assert set(content["arms"]) == {"text", "box"}
    # One line per image, arm after arm, from which the figures can be had again.
    with (root / "busi-cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    keys = [(row["arm"], row["fold"], row["stem"]) for row in rows]
    assert keys == [(arm, "1", stem) for arm in ("text", "box") for stem in ("x1", "x0")]
    for name in ("dice_256", "iou_native", "nsd_3px"):
        mean = statistics.fmean(float(row[name]) for row in rows if row["arm"] == "box")
        assert content["arms"]["box"]["folds"][0][name] == pytest.approx(100 * mean, abs=1e-3)
    half = 256 * 128
    counts = ("overlap_256_px", "predicted_256_px", "truth_256_px")
    assert [{row[name] for name in counts} for row in rows] == [{str(half)}] * 4


def test_what_another_machine_did_is_kept_if_asked_for(root: Path, fake: list[str]) -> None:
    assert run(root, "--only", "text,box", "--folds", "1,2") == 0
    before = result(root)
    others = (root / "busi-cases.csv").read_text(encoding="utf-8")
    elsewhere = ("--work", str(root / "elsewhere"))
    assert run(root, "--only", "text,unet", "--folds", "1", "--keep", *elsewhere) == 0
    after = result(root)
    assert set(after["arms"]) == {"text", "box", "unet"}
    assert after["arms"]["box"] == before["arms"]["box"]
    assert after["folds"][1] == before["folds"][1], "fold 2 was not done here"
    assert (after["dice_256_mean"], after["dice_256_std"]) == (75, 25)
    assert " --only text,box,unet " in after["command"]
    lines = (root / "busi-cases.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:2] for line in lines[1::2]] == [
        ["text", "1"], ["text", "2"], ["box", "1"], ["box", "2"], ["unet", "1"],
    ]  # fmt: skip
    assert set(others.splitlines()[3:5]) <= set(lines)
    # Not asked for, it is replaced.
    assert run(root, "--only", "unet", "--folds", "1", *elsewhere) == 0
    assert [set(result(root)["arms"]), result(root)["folds"][0]["fold"]] == [{"text", "unet"}, 1]


@pytest.mark.parametrize("arm", ["averaged", "further"])
def test_arms_that_take_an_adapter_want_it_first(
    root: Path, fake: list[str], capsys: pytest.CaptureFixture[str], arm: str
) -> None:
    assert run(root, "--only", arm, "--folds", "1") == 2
    assert "the adapter of `text` is not done; add text to --only" in capsys.readouterr().out
    assert run(root, "--only", f"text,{arm}", "--folds", "1") == 0
    assert set(result(root)["arms"]) == {"text", arm}


@pytest.mark.parametrize("state", [None, "training"])
def test_views_are_compared_with_finished_adapters_only(
    root: Path, capsys: pytest.CaptureFixture[str], state: str | None
) -> None:
    work, out = root / "work", root / "views.md"
    if state is not None:
        config = fold_config(busi.DEFAULT_CONFIG, 1, "text", work, [f"data.root={root}"])
        job = Job("text", 1, config, UNetSettings())
        facts = {**busi.read_facts(job), "state": state}
        job.folder.mkdir(parents=True)
        (job.folder / "job.json").write_text(json.dumps(facts), encoding="utf-8")
    arguments = ["--data", str(root), "--work", str(work), "--out", str(out)]
    assert busi_views.main(arguments) == 2
    assert "`text` on fold 1 is not done" in capsys.readouterr().out
    assert not out.exists()


def test_training_on_begins_with_its_own_fold_whatever_the_file_says(root: Path) -> None:
    def job(override: str, fold: int = 1) -> Job:
        config = fold_config(root / "mini.yaml", fold, "text", root, [override])
        text = Job("text", fold, config, UNetSettings())
        config = fold_config(root / "further.yaml", fold, "further", root)
        return Job("further", fold, config, UNetSettings(), begins=text)

    assert job("seed=0", 2).config.init_adapter == str(root / "text-fold2" / "best")
    # Another beginning is another result, though the settings are the same.
    assert job("seed=0").fingerprint != job("seed=5").fingerprint
    # Nor does it matter where the beginning lies.
    moved = job("seed=0")
    moved.config = moved.config.model_copy(update={"init_adapter": "elsewhere"})
    assert moved.fingerprint == job("seed=0").fingerprint


def test_settings_of_the_first_training_are_not_those_of_the_second(root: Path) -> None:
    arguments = ["--config", str(root / "mini.yaml"), "--further", str(root / "further.yaml")]
    options = busi.parse([*arguments, "--data", str(root), "--seed", "4", "--set", "epochs=9"])
    text, further = (busi.make_job(options, arm, 1) for arm in ("text", "further"))
    assert [(job.config.epochs, job.config.seed) for job in (text, further)] == [(9, 4), (1, 4)]
    assert further.begins is not None
    assert further.begins.fingerprint == text.fingerprint


def test_work_with_other_settings_is_not_gone_on_with(
    root: Path, fake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "--only", "text", "--folds", "1") == 0
    assert run(root, "--only", "text", "--folds", "1", "--epochs", "3") == 2
    assert "begun with other settings" in capsys.readouterr().out


def test_figures_of_other_settings_are_not_mixed_in(
    root: Path, fake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "--only", "text", "--folds", "1", "--epochs", "3") == 0
    assert run(root, "--only", "text", "--folds", "2") == 0
    assert [row["fold"] for row in result(root)["folds"]] == [2]
    assert "left out of the report" in capsys.readouterr().out
    assert "--epochs" not in result(root)["command"]


def test_what_is_not_trained_does_not_depend_on_how_others_are(root: Path) -> None:
    def fingerprint(arm: str, *overrides: str, fold: int = 1) -> str:
        config = fold_config(root / "mini.yaml", fold, arm, root / "work", overrides)
        return busi_arms.Job(arm, fold, config, busi_arms.UNetSettings()).fingerprint

    assert fingerprint("box") == fingerprint("box", "epochs=3", "augment.blur_p=0.9")
    assert fingerprint("box") != fingerprint("box", fold=2)
    assert fingerprint("text") != fingerprint("text", "epochs=3")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("init_adapter=lite-generalist", "may have been trained on test images"),
        ("data.val=[{set: busi, split: fold1/test}]", "busi/fold2/test is no training part"),
        ("data.train=[{set: other, split: train}]", "other/train is no training part of the fold"),
        ("data.train_coco=[{images: a, annotations: b}]", "published splits alone"),
        ("data.val_coco=[{images: a, annotations: b}]", "published splits alone"),
    ],
)
def test_leaks_are_refused(root: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fold_config(root / "mini.yaml", 2, "text", root / "work", [override])


def test_the_recipe_of_the_repository_is_one_for_every_fold(tmp_path: Path) -> None:
    path = BENCHMARKS.parent / "configs" / "busi.yaml"
    for fold in (1, 2, 3):
        config = fold_config(path, fold, "no-text", tmp_path)
        parts = {one.split for one in (*config.data.train, *config.data.val)}
        assert parts == {f"fold{fold}/train"}
        assert (config.prompts.negatives, config.geometry.probability) == (0, 0)


def test_the_arms_without_a_word_are_models_that_take_none(tmp_path: Path) -> None:
    path = BENCHMARKS.parent / "configs" / "busi.yaml"
    takes = {arm: fold_config(path, 1, arm, tmp_path).text for arm in busi_arms.ARMS}
    without = {"box", "no-text"}
    assert takes == {arm: arm not in without for arm in busi_arms.ARMS}
    changed = fold_config(path, 1, "no-text", tmp_path)
    # What is changed is still a configuration that a file could hold.
    assert TrainConfig.model_validate(changed.model_dump()) == changed


def test_scores_by_hand() -> None:
    truth = np.zeros((4, 8), dtype=np.bool_)
    truth[:, :4] = True
    upper = np.zeros((4, 8), dtype=np.bool_)
    upper[:2] = True
    case = score("one", upper.astype(np.float32), upper, truth, 1.25)
    # Enlarged 64 and 32 times, a half stays a half; the edge of the upper one lies where the
    # probability passes 0.5, between the rows 127 and 128.
    assert (case.overlap_256_px, case.predicted_256_px, case.truth_256_px) == (
        128 * 128,
        128 * 256,
        128 * 256,
    )
    assert (case.dice_256, case.dice_native, case.seconds) == (0.5, 0.5, 1.25)
    assert case.iou_256 == case.iou_native == round(1 / 3, 6)


def made_case(stem: str, overlap: int, predicted: int, truth: int) -> Case:
    dice = 2 * overlap / (predicted + truth)
    values = {"dice_256": dice, "dice_native": dice, "iou_256": dice / (2 - dice)}
    return Case(
        stem=stem,
        **values,
        iou_native=0.5,
        nsd_3px=0.25,
        overlap_256_px=overlap,
        predicted_256_px=predicted,
        truth_256_px=truth,
        seconds=1.0,
    )


def test_pooling_counts_eight_images_as_one() -> None:
    cases = [made_case("big", 800, 1000, 1000)]
    cases += [made_case(f"small-{n}", 0, 10, 10) for n in range(7)]
    cases.append(made_case("ninth", 5, 10, 10))
    figures = fold_figures(cases)
    assert figures["dice_256"] == pytest.approx(100 * (0.8 + 0.5) / 9, abs=1e-4)
    pooled = 1600 / 2140
    assert figures["dice_256_pooled"] == pytest.approx(100 * (8 * pooled + 0.5) / 9, abs=1e-4)
    iou = 800 / 1340
    assert figures["iou_256_pooled"] == pytest.approx(100 * (8 * iou + 5 / 15) / 9, abs=1e-4)
    assert (figures["n"], figures["missed"], figures["nsd_3px"]) == (9, 0, 25)


def test_means_over_folds() -> None:
    names = ("dice_256", "iou_256", "dice_256_pooled", "iou_256_pooled", "dice_native")
    rows = [dict.fromkeys((*names, "iou_native", "nsd_3px"), value) for value in (80.0, 83.0, 86.0)]
    figures = over_folds(rows)
    assert figures["dice_256_mean"] == 83
    assert figures["nsd_3px_std"] == pytest.approx(statistics.pstdev([80, 83, 86]), abs=1e-4)
    assert over_folds([])["dice_256_mean"] is None


def test_a_case_cut_short_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    first, second = made_case("first", 5, 10, 10), made_case("second", 1, 2, 2)
    append_case(path, first)
    append_case(path, second)
    whole = path.read_text(encoding="utf-8")
    assert read_cases(path) == {"first": first, "second": second}
    path.write_text(whole[:-9], encoding="utf-8")
    assert read_cases(path) == {"first": first}
    append_case(path, second)
    assert path.read_text(encoding="utf-8") == whole
