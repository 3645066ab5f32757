"""Work for a borrowed GPU: what is packed, and a session that goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import write_images_and_masks

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
    assert float(done[0][done[0].index("--minutes") + 1]) == pytest.approx(9, abs=0.1)
    assert "--minutes" not in done[3], "finishing is not cut short"
    assert gpu.session(options) == 0
    assert len(done) == 5, "nothing is done twice"
    options.ablate.append("c.yaml")
    options.minutes = 0.5
    assert gpu.session(options) == 75
    assert len(done) == 5, "too little time to begin"


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
