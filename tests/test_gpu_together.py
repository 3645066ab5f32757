"""Trainings side by side on a borrowed GPU: how long each goes, and going on."""

from __future__ import annotations

import json
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import begin, run_config, write_data
from safetensors.torch import load_file

from textsam import weights
from textsam.adapters import check_tensors, read_adapter_config
from textsam.errors import ConfigError
from textsam.model.context import ContextTokens
from textsam.model.text_encoders import load_minilm
from textsam.train.run import Run, fit

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not in this copy of the project", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import gpu_back  # noqa: E402
import gpu_files  # noqa: E402
import gpu_together  # noqa: E402
from gpu_together import Work, works_of  # noqa: E402


def test_the_benchmark_s_configuration_stands_for_its_folds() -> None:
    works = works_of(["configs/busi.yaml,workers=2", "configs/generalist.yaml"])
    assert [(w.name, w.fold, w.settings) for w in works] == [
        ("text-fold1", 1, ("workers=2",)),
        ("text-fold2", 2, ("workers=2",)),
        ("text-fold3", 3, ("workers=2",)),
        ("generalist", None, ()),
    ]


def test_two_trainings_of_one_name_are_refused() -> None:
    with pytest.raises(SystemExit, match="x: given more than once"):
        works_of(["one/x.yaml,seed=1", "two/x.yaml", "one/y.yaml"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu_together, "PLACE", tmp_path)
    (tmp_path / "rates").mkdir()
    return tmp_path


def tiny_run(root: Path, epochs: float = 4.0) -> Run:
    return begin(run_config(root, epochs=epochs))


def test_a_group_goes_for_as_long_as_its_slowest_can(place: Path) -> None:
    part = SimpleNamespace(side_px=32, share=0.25)
    run: Any = SimpleNamespace(config=SimpleNamespace(progressive=(part,)), side_px=64)
    works = [Work("a", "x.yaml"), Work("b", "x.yaml"), Work("c", "y.yaml")]
    rates = {"a": (20, 8.0), "b": (10, 4.0), "c": (1, 1.0)}
    for ready, (name, (small, large)) in enumerate(rates.items()):
        told = {"rates": {"32": small, "64": large}, "epoch": 6, "ready": 1000.0 + ready}
        (place / "rates" / f"{name}.json").write_text(json.dumps(told))
    found = [gpu_together._epochs_until(work, works, run, 1102.0) for work in works]
    # 100 s from when the last was ready; an image of b takes 0.25/10 + 0.75/4 s on average.
    b = gpu_together._USED * 100 / (0.25 / 10 + 0.75 / 4) / 6
    c = gpu_together._USED * 100 / 1 / 6
    assert found[0] == found[1] == pytest.approx(b, rel=0.05)
    assert found[2] == pytest.approx(c, rel=0.05)


def test_one_begun_before_is_not_waited_for(place: Path) -> None:
    (place / "rates" / "new.json").write_text("{}")
    (place / "epochs").mkdir()
    (place / "epochs" / "begun.json").write_text("{}")
    began = time.monotonic()
    gpu_together._wait_for([Work("new", "x.yaml"), Work("begun", "x.yaml")], "json", patience_s=5.0)
    assert time.monotonic() - began < 2
    (place / "epochs" / "begun.json").unlink()
    began = time.monotonic()
    gpu_together._wait_for([Work("new", "x.yaml"), Work("begun", "x.yaml")], "json", patience_s=0.3)
    assert time.monotonic() - began >= 0.3


def test_a_training_cut_short_goes_on_to_the_same_end(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_data(place)
    seen: list[Run] = []

    def set_up(work: Work) -> Run:
        told = [float(s.split("=")[1]) for s in work.settings if s.startswith("epochs=")]
        seen.append(tiny_run(root, *told))
        return seen[-1]

    monkeypatch.setattr(gpu_together, "set_up", set_up)
    planned_for: list[float] = []

    def epochs(_work: Work, _works: Any, _run: Run, until: float) -> float:
        planned_for.append(until)
        return 3.0

    monkeypatch.setattr(gpu_together, "_epochs_until", epochs)
    monkeypatch.setattr(gpu_together, "_TIMED_S", 0.1)
    option, out = ["toy.yaml"], place / "out"
    until = time.time() - 1
    assert gpu_together.one("toy", option, until, out, 2.0) == gpu_together.UNFINISHED
    assert planned_for == [until + 120], "with the minutes of the next command"
    cut = seen[0].state.step
    assert 0 < cut < seen[0].total_steps == 9
    assert gpu_together.one("toy", option, time.time() + 1000, out) == 0
    assert seen[1].config.epochs == 3.0
    assert not (place / "rates" / "toy.part").exists()
    assert seen[1].state.step == 9
    record = read_adapter_config(seen[1].folder / "last")
    assert record.training["step"] == 9
    with tarfile.open(out / "toy.tar.gz") as tar:
        tar.extractall(place / "back", filter="data")
    check_tensors(place / "back", read_adapter_config(place / "back"))  # its digest is its own
    sent = load_file(place / "back" / "adapter.safetensors")
    kept = load_file(seen[1].folder / "best" / "adapter.safetensors")
    assert sent.keys() == kept.keys()
    assert all(torch.equal(sent[name], kept[name].half()) for name in kept)
    facts = json.loads((place / "back" / "facts.json").read_text())
    assert (facts["from"], facts["epochs"], facts["step"]) == ("best", 3.0, 9)
    assert (place / "back" / "log.csv").read_text() == (seen[1].folder / "log.csv").read_text()


def test_of_a_training_without_an_adapter_nothing_is_brought_back(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert gpu_back.bring_back(tmp_path / "run", tmp_path / "x.tar.gz", {}) is None
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_length_of_a_begun_run_stays(tmp_path: Path) -> None:
    run = tiny_run(write_data(tmp_path))
    run.set_epochs(2.0)
    assert run.total_steps == 6
    fit(run, stop_after=1, progress=False)
    with pytest.raises(ConfigError, match="at step 1"):
        run.set_epochs(5.0)
    again = tiny_run(tmp_path, 2.0)
    assert again.state.step == 1, "it is resumed as if it had been set up with that length"


def test_words_that_were_not_packed_mean_no_number(tmp_path: Path) -> None:
    gpu_files._pack_text(tmp_path / "text")
    packed = gpu_files.packed_text(load_minilm(tmp_path / "text"), tmp_path / "text")
    whole = load_minilm(weights.resolve("minilm"))
    assert packed.digest() == whole.digest(), "what is trained with it can be loaded elsewhere"
    torch.manual_seed(0)
    context = ContextTokens(4, 6, whole.hidden_size, whole.n_layers)
    with torch.no_grad():
        ours, theirs = packed(["tumor"], context), whole(["tumor"], context)
        torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0.02)
        assert packed(["xylophone"], context).isnan().any()
