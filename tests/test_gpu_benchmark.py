"""Work for a borrowed GPU: what is packed, and a session that goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import begin, run_config, write_data
from safetensors.torch import load_file
from tiny import write_images_and_masks

from textsam.train.run import fit

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not in this copy of the project", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import gpu  # noqa: E402
import gpu_files  # noqa: E402


@pytest.mark.parametrize("native", [[], ["toy"]])
def test_a_native_set_is_packed_as_it_is(tmp_path: Path, native: list[str]) -> None:
    root, target = tmp_path / "data", tmp_path / "packed"
    target.mkdir()
    write_images_and_masks(root / "toy", 3)
    entry = {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "made up"}
    (root / "manifest.json").write_text(json.dumps({"toy": entry}), encoding="utf-8")
    splits = {"toy": {"train": ["000"], "val": ["001"], "test": ["002"]}}
    (root / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    config = root / "toy.yaml"
    selections = {part: [{"set": "toy", "split": part}] for part in ("train", "val")}
    settings = {"name": "x", "context": {"depth": 6}, "data": {"root": "x", **selections}}
    config.write_text(json.dumps(settings), encoding="utf-8")
    options = argparse.Namespace(
        data=root, config=[str(config)], side=24, native=native, without_test=True
    )
    gpu_files._pack_data(options, target)
    assert not list(target.rglob("002.*")), "the test part stays here"
    (image,) = (target / "toy" / "images").glob("000.*")
    with Image.open(target / "toy" / "masks" / "tumor" / "000.png") as file:
        mask = np.asarray(file)
    if native:
        assert image.read_bytes() == (root / "toy" / "images" / "000.png").read_bytes()
        with Image.open(root / "toy" / "masks" / "000.png") as file:
            assert np.array_equal(mask, np.asarray(file))
    else:
        assert (image.suffix, mask.shape) == (".jpg", (24, 24))


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    common = {"name": "x", "context": {"depth": 6}}
    folders = {part: [{"folder": "mine", "concept": "tumor"}] for part in ("train_folders",)}
    sets = {part: [{"set": "busi", "split": part}] for part in ("train", "val")}
    val = {"val_folders": [{"folder": "mine", "concept": "tumor", "split": "val"}]}
    for name, data in (("folders", {**folders, **val}), ("sets", sets)):
        content = {**common, "data": {"root": "x", **data}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(content), encoding="utf-8")

    def pack(name: str, native: list[str]) -> None:
        config = [str(tmp_path / f"{name}.yaml")]
        gpu_files._pack_data(
            argparse.Namespace(data=tmp_path, config=config, side=24, native=native), tmp_path
        )

    with pytest.raises(SystemExit, match=r"folders.yaml takes images from folders or COCO"):
        pack("folders", [])
    with pytest.raises(SystemExit, match=r"--native bussi: .* they take busi"):
        pack("sets", ["busi", "bussi"])


def works_done(folder: Path, monkeypatch: pytest.MonkeyPatch, codes: list[int]) -> list[list[str]]:
    """The works that sessions start, in a folder of their own; each ends with the next code."""
    done: list[list[str]] = []
    left = iter(codes)

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        done.append(command[2:])
        return subprocess.CompletedProcess(command, next(left))

    monkeypatch.setattr(gpu, "PLACE", folder)
    monkeypatch.setattr(gpu.subprocess, "run", run)
    return done


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git")
def test_the_checkout_is_what_is_there_and_not_ignored(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("gpu_pack/\n")  # 10 bytes
    (tmp_path / "gpu_pack").mkdir()
    (tmp_path / "gpu_pack" / "part").write_bytes(b"x" * 1000)
    (tmp_path / "kept.py").write_bytes(b"x" * 300)
    (tmp_path / "left out.bin").write_bytes(b"x" * 5000)
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    (tmp_path / "left out.bin").unlink()
    (tmp_path / "nëw.py").write_bytes(b"x" * 7)
    assert gpu_files.checkout_bytes(tmp_path) == 10 + 300 + 7


def test_a_session_goes_on_where_the_last_one_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = works_done(tmp_path, monkeypatch, [0, 75, 0, 0, 0])
    options = argparse.Namespace(
        minutes=9.0,
        out="OUT",
        without_busi=False,
        train=["configs/a.yaml"],
        ablate=["b.yaml"],
        methods=[],
    )
    assert gpu.session(options) == 75
    assert [command[0] for command in done] == ["busi", "train"]
    assert gpu.session(options) == 0
    assert [command[0] for command in done[2:]] == ["train", "finish", "ablate"]
    assert done[0][:3] == ["busi", "--out", "OUT"]
    assert done[1][done[1].index("--out") + 1] == "OUT", "what was learned comes back each time"
    assert float(done[0][done[0].index("--minutes") + 1]) == pytest.approx(9, abs=0.1)
    assert "--minutes" not in done[3], "finishing is not cut short"
    assert gpu.session(options) == 0
    assert len(done) == 5, "nothing is done twice"
    options.ablate.append("c.yaml")
    options.minutes = 0.5
    assert gpu.session(options) == 75
    assert len(done) == 5, "too little time to begin"


def test_a_work_that_fails_does_not_keep_the_others_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = works_done(tmp_path, monkeypatch, [3, -9, 0, 0, 0, 1, 0, 0, 75])
    options = argparse.Namespace(
        minutes=9.0,
        out="OUT",
        without_busi=False,
        train=["a.yaml", "b.yaml"],
        ablate=["c.yaml"],
        methods=[],
    )
    assert gpu.session(options) == 3
    assert [command[:2] for command in done] == [
        ["busi", "--out"],
        ["train", "a.yaml"],  # and nothing to finish
        ["train", "b.yaml"],
        ["finish", "b.yaml"],
        ["ablate", "c.yaml"],
    ]
    told = capsys.readouterr().out.splitlines()
    assert "left: finish a.yaml, as its training failed" in told
    assert told[-1] == "failed: busi (3), train a.yaml (-9)"
    # The next session tries again what failed, and does nothing else.
    assert gpu.session(options) == 1
    assert [command[:2] for command in done[5:]] == [
        ["busi", "--out"],
        ["train", "a.yaml"],
        ["finish", "a.yaml"],
    ]
    assert capsys.readouterr().out.splitlines()[-1] == "failed: busi (1)"
    assert gpu.session(options) == 75, "what was left is no failure"


def test_a_session_tells_works_of_one_file_name_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = works_done(tmp_path, monkeypatch, [0] * 6)
    options = argparse.Namespace(
        minutes=9.0,
        out="OUT",
        without_busi=True,
        train=["one/a.yaml", "two/a.yaml"],
        ablate=["one/a.yaml", "two/a.yaml"],
        methods=[],
    )
    assert gpu.session(options) == 0
    assert [command[:2] for command in done] == [
        ["train", "one/a.yaml"],
        ["finish", "one/a.yaml"],
        ["train", "two/a.yaml"],
        ["finish", "two/a.yaml"],
        ["ablate", "one/a.yaml"],
        ["ablate", "two/a.yaml"],
    ]


def test_a_training_brings_its_adapter_back_in_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(run_config(write_data(tmp_path)))
    monkeypatch.setattr("textsam.train.run.setup", lambda _: run)
    monkeypatch.setattr(gpu, "_config", lambda _: run.config)
    out = tmp_path / "out"
    options = argparse.Namespace(minutes=5.0, slice=4, out=str(out))
    assert gpu.train(options) == 0
    (sent,) = out.iterdir()
    with tarfile.open(sent) as tar:
        tar.extractall(tmp_path / "back", filter="data")
    assert sent.name == "toy.tar.gz"
    tensors = load_file(tmp_path / "back" / "adapter.safetensors")
    kept = load_file(run.folder / "best" / "adapter.safetensors")
    assert all(torch.equal(tensors[name], kept[name].half()) for name in kept)
    facts = json.loads((tmp_path / "back" / "facts.json").read_text(encoding="utf-8"))
    assert facts == {"from": "best", "step": 6, "total_steps": 6}


def test_the_minutes_of_a_training_begin_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(run_config(write_data(tmp_path)))

    def slow_setup(_: Any) -> Any:
        time.sleep(0.3)
        return run

    monkeypatch.setattr("textsam.train.run.setup", slow_setup)
    monkeypatch.setattr(gpu, "_config", lambda _: run.config)
    options = argparse.Namespace(minutes=0.25 / 60, slice=4, out=None)
    assert gpu.train(options) == gpu.UNFINISHED
    assert run.state.step == 0


def test_all_that_a_session_sends_is_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(run_config(write_data(tmp_path)))
    config = run.config.model_copy(update={"name": "other"})

    def work(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if "calibrate" in command:
            finished = Path(command[command.index("-o") + 1])
            finished.mkdir(parents=True)
            for name in ("adapter.json", "adapter.safetensors"):
                (finished / name).write_text(name, encoding="utf-8")
            return subprocess.CompletedProcess(command, 0)
        fit(run, progress=False)
        for fold in (1, 2, 3):
            folder = tmp_path / "busi" / "work" / f"text-fold{fold}"
            shutil.copytree(run.folder, folder)
            for name in ("job.json", "cases.csv"):
                (folder / name).write_text(name, encoding="utf-8")
        for name in ("busi.json", "busi.md", "busi-cases.csv"):
            (tmp_path / "busi" / name).write_text(name, encoding="utf-8")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(gpu, "PLACE", tmp_path)
    monkeypatch.setattr(gpu.subprocess, "run", work)
    monkeypatch.setattr(gpu, "_config", lambda _: config)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "log.csv").write_text("step,name,value", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    assert gpu.busi(argparse.Namespace(minutes=1.0, workers=0, more=[], out=str(out))) == 0
    assert gpu.finish(argparse.Namespace(config="x.yaml", set=[], out=str(out))) == 0
    folds = [f"text-fold{fold}.tar.gz" for fold in (1, 2, 3)]
    assert sorted(path.name for path in out.iterdir()) == ["busi.tar.gz", "other.tar.gz", *folds]
    with tarfile.open(out / "busi.tar.gz") as tar:
        names = set(tar.getnames())
    assert {"busi.json", "busi.md", "busi-cases.csv", "work/text-fold3/cases.csv"} <= names
    assert "work/text-fold3/job.json" in names
    with tarfile.open(out / "other.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["adapter.json", "adapter.safetensors", "log.csv"]


def test_a_table_that_time_cuts_short_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if len(asked) == 1:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(gpu, "PLACE", tmp_path)
    monkeypatch.setattr(gpu.subprocess, "run", run)
    options = argparse.Namespace(
        name="levels", minutes=2.0, out=str(tmp_path), more=["--seeds", "1"]
    )
    assert gpu.methods(options) == 75
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "levels.md").write_text("a table", encoding="utf-8")
    assert gpu.methods(options) == 0
    assert asked[0][1].endswith("benchmarks/levels.py")
    assert asked[0][-4:] == ["--device", "cuda", "--seeds", "1"]
    with tarfile.open(tmp_path / "methods.tar.gz") as tar:
        assert tar.getnames() == ["levels.md"]


@pytest.mark.parametrize("name", sorted(gpu.METHODS))
def test_every_table_s_script_takes_the_options_it_is_given(name: str) -> None:
    script = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    for option in gpu.METHODS[name][::2]:
        assert f'"{option}"' in script
