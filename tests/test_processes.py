"""Several processes learn what one does; each step says its speed and the memory it took."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import begin, run_config, train, write_data
from test_progressive import begin as begin_vit
from test_progressive import progressive_run
from tiny import tiny_model

from textsam.config import TrainConfig
from textsam.errors import ConfigError
from textsam.model.tuning import trainable_parameters
from textsam.train import processes as processes_module
from textsam.train.losses import LossParts
from textsam.train.memory import peak_memory_mib
from textsam.train.preference import PreferenceParts
from textsam.train.processes import Processes, join
from textsam.train.run import architecture_from, fit, setup

HERE = Path(__file__).resolve().parent
# All that could differ between processes at once: order, prompts, changes, geometry, accumulation.
BUSY: dict[str, Any] = {
    "augment": {},
    "geometry": {"probability": 0.5, "jitter": 0.2},
    "loss": {"iou": 0.5},
    "optim": {"lr": 2e-3, "warmup_steps": 2, "grad_clip": 1.0},
    "accumulate": 2,
    "batch_size": 2,
    "epochs": 4,
    "val_every": 3,
}


def curve(config: TrainConfig, name: str = "loss") -> dict[int, float]:
    with (Path(config.out) / config.name / "log.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    values = {int(step): float(value) for step, what, value in rows if what == name}
    assert len(values) == sum(what == name for _, what, _ in rows), "each step is logged once"
    return values


@dataclass
class Together:
    """One-process runs by name, and the configurations of the same with two processes."""

    alone: dict[str, TrainConfig]
    two: dict[str, TrainConfig]
    seen: list[dict[str, list[list[list[int]]]]]
    root: Path


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """One group of two processes, started by torchrun, does every run."""
    root = write_data(tmp_path_factory.mktemp("together"))
    alone = {
        "plain": run_config(root, **BUSY, name="plain", out=str(root / "alone")),
        "growing": progressive_run(root, name="growing", out=str(root / "alone")),
    }
    two = {
        "plain": run_config(root, **BUSY, name="plain", out=str(root / "two")),
        "growing": progressive_run(root, name="growing", out=str(root / "two")),
        "begun-by-one": run_config(root, **BUSY, name="begun-by-one"),
        "begun-by-two": run_config(root, **BUSY, name="begun-by-two"),
    }
    train(two["begun-by-one"], stop_after=3)
    jobs = [
        {
            "config": config.model_dump(mode="json"),
            "vit": name == "growing",
            "stop_after": 3 if name == "begun-by-two" else None,
        }
        for name, config in two.items()
    ]
    (root / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "--local-addr", "127.0.0.1"]
    command += [str(HERE / "train_together.py"), str(root / "jobs.json")]
    paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True, timeout=1100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    train(alone["plain"])
    fit(begin_vit(alone["growing"]), progress=False)
    seen = [json.loads((root / f"seen-{index}.json").read_text()) for index in (0, 1)]
    return Together(alone, two, seen, root)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("plain", 6), ("growing", 10)])
def test_two_processes_have_the_loss_curve_of_one(
    together: Together, name: str, steps: int
) -> None:
    one, two = curve(together.alone[name]), curve(together.two[name])
    assert list(two) == list(one) == list(range(1, steps + 1))
    assert two == pytest.approx(one, abs=1e-4, rel=0)
    assert max(one.values()) - min(one.values()) > 0.05, "or the curve says nothing"
    for what in ("val_loss", "val_dice", "bce", "dice", "iou"):
        wanted = curve(together.alone[name], what)
        assert wanted
        assert curve(together.two[name], what) == pytest.approx(wanted, abs=2e-4, rel=0)


@pytest.mark.slow
def test_each_process_takes_its_slice_of_every_batch(together: Together) -> None:
    run = begin(together.alone["plain"])
    wanted = run.order.batches(2)
    first, second = (seen["plain"] for seen in together.seen)
    assert len(first) == len(second) == 12  # 6 steps of 2 forward passes
    for left, right, batch in zip(first, second, wanted, strict=False):
        assert (len(left), len(right)) == (1, 1)
        assert [tuple(key) for key in left + right] == batch


@pytest.mark.slow
def test_one_process_writes(together: Together) -> None:
    folder = together.root / "two" / "plain"
    assert len(list((folder / "tensorboard").iterdir())) == 1
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["best", "data-check.json", "last", "log.csv", "state.pt", "tensorboard"]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(together: Together) -> None:
    wanted = curve(together.alone["plain"])
    assert curve(together.two["begun-by-one"]) == pytest.approx(wanted, abs=1e-4, rel=0)
    config = together.two["begun-by-two"]
    assert list(curve(config)) == [1, 2, 3]
    assert train(config).state.step == 6
    assert curve(config) == pytest.approx(wanted, abs=1e-4, rel=0)


@pytest.mark.slow
def test_each_step_says_speed_and_memory(together: Together) -> None:
    for config in (together.alone["plain"], together.two["plain"]):
        assert list(curve(config, "images_per_s")) == list(range(1, 7))
        peaks = list(curve(config, "memory_peak_mib").values())
        assert len(peaks) == 6
        assert peaks == sorted(peaks), "a peak never falls"
        assert 50 < peaks[0] < 20_000


def test_images_per_s_counts_the_global_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsam.train import run as run_module

    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr(run_module.time, "perf_counter", lambda: next(ticks))
    config = run_config(write_data(tmp_path), accumulate=3, batch_size=2)
    train(config, stop_after=1)
    assert curve(config, "images_per_s") == {1: 3.0}  # 6 in 2 s


def test_the_peak_told_never_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textsam.train import run as run_module

    told = iter([864.0, 875.938, 875.812])  # as Linux did
    monkeypatch.setattr(run_module, "peak_memory_mib", lambda _: next(told))
    config = run_config(write_data(tmp_path))
    train(config, stop_after=3)
    assert curve(config, "memory_peak_mib") == {1: 864.0, 2: 875.938, 3: 875.938}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux")
def test_the_peak_is_what_the_system_says() -> None:
    before = peak_memory_mib(torch.device("cpu"))
    (line,) = [t for t in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in t]
    assert before == pytest.approx(int(line.split()[1]) / 1024, rel=0.01)


def test_memory_on_a_cpu_is_asked_without_torch() -> None:
    # A reader of files with a limit on memory asks, too, and is not to hold PyTorch.
    code = (
        "import sys; from textsam.train.memory import resident_peak_mib; resident_peak_mib(); "
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    config = run_config(write_data(tmp_path), batch_size=3)
    built = tiny_model(architecture_from(config))
    with pytest.raises(ConfigError, match=r"batch_size is 3 and 2 processes .* multiple of 2"):
        setup(config, built, processes=Processes(count=2))
    assert not (tmp_path / "runs").exists()


def test_slices_are_the_batch() -> None:
    parts = [Processes(index=index, count=3).share_of("abcdef") for index in range(3)]
    assert parts == ["ab", "cd", "ef"]


def test_alone_nothing_is_exchanged() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    alone = Processes()
    alone.average_gradients([parameter])
    alone.copy_from_main([parameter])
    alone.wait()
    assert alone.gather([1]) == [1]
    assert (parameter.tolist(), parameter.grad.tolist()) == ([1, 1], [1, 2])


def test_one_process_needs_no_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(processes_module, "find_spec", lambda _: None)
    assert join("cpu").count == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"accelerate is not installed; .*textsam\[train\]"):
        join("cpu")


def test_processes_do_not_share_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="device is 'cuda:1' and 2 processes"):
        join("cuda:1")


def test_losses_that_some_images_have_are_means_over_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in preference optimisation: one labelled image of four here, three of four there.
    rows: list[Any] = []

    def gather(_: Processes, values: list[Any]) -> list[Any]:
        if not isinstance(values[0], dict):
            return values
        rows.extend(values)
        return rows

    monkeypatch.setattr(Processes, "gather", gather)
    root = write_data(tmp_path)
    for name, labelled, bce in (("one", 1, 1.0), ("other", 3, 5.0)):
        config = run_config(root, name=name, batch_size=4)
        run = begin(config)
        nothing = sum(p.sum() * 0 for p in trainable_parameters(run.built.model).values())
        own = LossParts(nothing + bce, nothing, nothing)
        rated = PreferenceParts(
            bce=nothing,
            dice=nothing,
            iou=nothing,
            preference=nothing + bce,
            weight=1.0,
            correct=None,
            skipped=0.0,
        )
        parts = [own] * labelled + [rated] * (4 - labelled)
        monkeypatch.setattr(run.forward, "losses", lambda *_, parts=parts: parts)
        fit(run, stop_after=1, progress=False)
    assert curve(config) == {1: 3.0}
    assert curve(config, "bce") == {1: (1 + 3 * 5) / 4}
    assert curve(config, "preference") == {1: (3 * 1 + 5) / 4}
