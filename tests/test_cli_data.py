"""`textsam data`: options that would have no say are refused, not dropped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import run
from runs import run_config, write_data


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a plain folder, a data root and a configuration."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "plain", train=2, val=1)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "root/splits.json").write_text("{}", encoding="utf-8")
    settings = run_config(tmp_path / "plain").model_dump(mode="json")
    (tmp_path / "run.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return tmp_path


COCO = "--coco train=file.json,pictures"
NEW = "-o new --name zoo --terms CC0"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("check run.yaml --folder plain", "leave out --folder"),
        ("check run.yaml --concept tumor", "leave out --concept"),
        (f"check {COCO} --folder plain --set a/train", "leave out --set, --folder"),
        ("check root --concept tumor", "the manifest says what the masks show"),
        ("check root --set a/train --concept tumor", "leave out --concept"),
        ("check plain --concept tumor --concept lung", "give one name"),
        ("quality run.yaml -o new --concept tumor", "leave out --concept"),
        (f"quality {COCO} -o new --set a/train", "leave out --set"),
        ("quality root -o new --concept tumor", "leave out --concept"),
        ("quality plain -o new --concept tumor --concept lung", "give one name"),
        ("convert plain -o new --concept tumor --concept lung", "give one name"),
        ("convert plain -o new --concept tumor --name zoo --terms CC0", "out --name, --terms"),
        ("convert plain -o new --concept tumor --modality unknown", "leave out --modality"),
        ("convert root -o new --set a/train --allow same-image", "leave out --allow"),
        ("convert root -o new --set a/train --split train", "leave out --split"),
        (f"convert {COCO} {NEW} --set a/train --split train", "leave out --set, --split"),
        (f"convert {COCO} {NEW} --instances --polygons", "leave out --instances, --polygons"),
    ],
)
def test_options_without_a_say_are_refused(place: Path, call: str, words: str) -> None:
    done = run("data", *call.split())
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    "call",
    [
        "check run.yaml --set seed=1",
        "check plain --concept tumor",
        "check . --folder plain --concept tumor",
        "check root --folder ../plain --concept tumor",
        "quality plain -o new --concept tumor --pictures 0",
        "quality run.yaml -o new --set seed=1 --pictures 0",
        "convert plain -o new.json --concept tumor --split train",
    ],
)
def test_options_that_are_used_are_not(place: Path, call: str) -> None:
    done = run("data", *call.split())
    assert done.exit_code == 0, done.output
