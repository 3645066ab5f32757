"""Several trainings side by side on one GPU, each as long as the time allows.

One training of a small model leaves most of a large GPU idle: it waits for kernels to be launched
and for images to be changed. Side by side they fill it. Each waits until all are set up, measures
how fast it goes at each image side while the others measure, too, and sets its number of epochs so
that it ends in time. The number is written down: the next command goes on with it, and with it in
the configuration the training can be done again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_back import bring_back
from gpu_files import PLACE

if TYPE_CHECKING:
    from textsam.train.run import Run

# Of what the measured rates promise; the rest is for validation, states and loaders begun anew.
_USED = 0.85
_WARM_STEPS = 3
_TIMED_S = 12.0  # of all sides together, so that all trainings measure at the same time
_SLICES = 8
UNFINISHED = 75


@dataclass(frozen=True)
class Work:
    """One training of those side by side.

    Attributes:
        name: of its folders; those of one group go for as many epochs as the slowest of them can.
        config: path of a configuration.
        settings: that replace others, `a.b=value`.
        fold: of the BUSI benchmark, whose configuration this is; None for another training.
    """

    name: str
    config: str
    settings: tuple[str, ...] = ()
    fold: int | None = None

    @property
    def group(self) -> str:
        """Of trainings that must be alike."""
        return self.config


def works_of(options: Sequence[str]) -> list[Work]:
    """Trainings from the command line: `configs/x.yaml`, with `,a.b=value` for each setting.

    `configs/busi.yaml` stands for the three folds of the benchmark.
    """
    works = []
    for option in options:
        config, *settings = option.split(",")
        if Path(config).stem == "busi":
            works += [Work(f"text-fold{k}", config, tuple(settings), k) for k in (1, 2, 3)]
        else:
            works.append(Work(Path(config).stem, config, tuple(settings)))
    names = [work.name for work in works]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SystemExit(
            f"{', '.join(twice)}: given more than once, and a training's folders have its name; "
            "give each a file of its own name"
        )
    return works


def side_by_side(
    script: Path, options: Sequence[str], minutes: float, out: Path, more_minutes: float = 0.0
) -> int:
    """Run all of them until the time is up; 0 where each is at its end, 75 where one is not.

    Args:
        script: that calls `one`.
        options: the trainings, as of `works_of`.
        minutes: that this command has.
        out: for what comes back.
        more_minutes: that the next command will have, for which trainings are planned, too.
    """
    deadline = time.time() + 60 * minutes
    works = works_of(options)
    shutil.rmtree(PLACE / "rates", ignore_errors=True)
    (PLACE / "rates").mkdir(parents=True)
    logs = {work.name: (PLACE / "rates" / f"{work.name}.log").open("w") for work in works}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(script), "one", "--out", str(out)]
    command += ["--more-minutes", str(more_minutes)]
    running = {
        work.name: subprocess.Popen(
            [*command, work.name, "--until", str(deadline), "--works", *options],
            env=environment,
            stdout=logs[work.name],
            stderr=subprocess.STDOUT,
        )
        for work in works
    }
    codes = {}
    for name, process in running.items():
        codes[name] = process.wait()
        logs[name].close()
        text = (PLACE / "rates" / f"{name}.log").read_text()
        print(f"--- {name}: exit {codes[name]}\n{text[-1500:]}", flush=True)
    failed = [code for code in codes.values() if code not in (0, UNFINISHED)]
    return failed[0] if failed else max(codes.values())


def one(
    name: str, options: Sequence[str], until: float, out: Path, more_minutes: float = 0.0
) -> int:
    """One of them, as a process of its own, until a time; arguments as of `side_by_side`."""
    import torch

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True  # shapes of a side stay the same
    works = works_of(options)
    work = next(w for w in works if w.name == name)
    kept = PLACE / "epochs" / f"{name}.json"
    if kept.exists():  # begun by a command before this one: how long it is has been decided
        facts = json.loads(kept.read_text())
        run = set_up(replace(work, settings=(*work.settings, f"epochs={facts['epochs']}")))
    else:
        run = set_up(work)
        facts = _decide(run, work, works, until + 60 * more_minutes)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(facts))
    print(f"{facts}: from step {run.state.step} to {run.total_steps}", flush=True)
    _fit_until(run, until)
    bring_back(run.folder, out / f"{name}.tar.gz", {**facts, "step": run.state.step})
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    print(f"step {run.state.step} of {run.total_steps}, best {run.state.best}, {peak:.1f} GiB")
    return 0 if run.state.step >= run.total_steps else UNFINISHED


def _decide(run: Run, work: Work, works: Sequence[Work], until: float) -> dict[str, Any]:
    """Rates by side, told to the others, and the number of epochs that time allows."""
    name = work.name
    (PLACE / "rates" / f"{name}.ready").touch()
    _wait_for(works, "ready")
    rates = _measured(run)
    told = {"rates": rates, "epoch": run.order.epoch_length, "ready": time.time()}
    part = PLACE / "rates" / f"{name}.part"
    part.write_text(json.dumps(told))
    part.replace(PLACE / "rates" / f"{name}.json")  # the others see it whole or not at all
    _wait_for(works, "json")
    epochs = _epochs_until(work, works, run, until)
    run.set_epochs(epochs)
    return {"epochs": epochs, "rates": rates}


def set_up(work: Work) -> Run:
    """The run of a training, on the packed data."""
    import torch
    from busi_arms import fold_config
    from gpu_files import packed_text

    from textsam.config import read_config
    from textsam.model.build import assemble, load_parts
    from textsam.train.run import architecture_from, setup

    settings, runs = [*work.settings, f"data.root={PLACE / 'data'}"], PLACE / "runs"
    if work.fold is None:
        config = read_config(work.config, [*settings, f"out={runs}"])
    else:
        config = fold_config(Path(work.config), work.fold, "text", runs, settings)
    torch.manual_seed(config.seed)
    text = PLACE / "text"
    packed = text.is_dir()
    backbone, encoder = load_parts(config.preset, text_encoder=text if packed else None)
    if packed:
        encoder = packed_text(encoder, text)
    return setup(config, assemble(backbone, encoder, architecture_from(config)))


def _measured(run: Run) -> dict[int, float]:
    """Images per second at each side of the schedule; nothing learns meanwhile."""
    import torch

    from textsam.train.run import batches_at

    sides = [*(part.side_px for part in run.config.progressive), run.side_px]
    rates = {}
    for side in dict.fromkeys(sides):
        batches = batches_at(run, side)
        for _ in range(_WARM_STEPS):
            step_without_learning(run, next(batches))
        _finish_kernels()
        steps, began, seconds = 0, time.perf_counter(), 0.0
        while seconds < _TIMED_S / len(set(sides)):
            step_without_learning(run, next(batches))
            _finish_kernels()
            steps, seconds = steps + 1, time.perf_counter() - began
        rates[side] = steps * run.config.batch_size / seconds
    run.built.set_side(run.side_px)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the largest side took is for all of them
    return rates


def step_without_learning(run: Run, batch: Sequence[tuple[Any, Any]]) -> None:
    """Forward and backward of a batch."""
    from textsam.train.run import batch_loss

    loss, _ = batch_loss(run, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimiser.zero_grad(set_to_none=True)


def _finish_kernels() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _wait_for(works: Sequence[Work], suffix: str, patience_s: float = 120.0) -> None:
    """Return when each has written its file, but those that a command before this one began."""
    began = time.monotonic()
    while time.monotonic() - began < patience_s:
        told = [
            [PLACE / "rates" / f"{work.name}.{suffix}", PLACE / "epochs" / f"{work.name}.json"]
            for work in works
        ]
        if all(any(path.exists() for path in paths) for paths in told):
            return
        time.sleep(0.2)
    print(f"not all of the others have written their .{suffix} file", flush=True)


def _epochs_until(work: Work, works: Sequence[Work], run: Run, until: float) -> float:
    """As many as the slowest of the group can do."""
    shares = {part.side_px: part.share for part in run.config.progressive}
    shares[run.side_px] = shares.get(run.side_px, 0.0) + 1 - sum(shares.values())
    paths = {other: PLACE / "rates" / f"{other.name}.json" for other in works}
    known = {other: json.loads(path.read_text()) for other, path in paths.items() if path.exists()}
    seconds = until - max(told["ready"] for told in known.values())
    epochs = []
    for other, told in known.items():
        if other.group != work.group:
            continue
        per_image = sum(share / told["rates"][str(side)] for side, share in shares.items())
        epochs.append(_USED * seconds / per_image / told["epoch"])
    fewest = min(epochs)
    return max(0.5, float(f"{fewest:.2g}") if fewest < 100 else round(fewest, -1))


def _fit_until(run: Run, until: float) -> None:
    from textsam.train.run import fit

    longest = -(-run.total_steps // _SLICES)
    steps = longest
    while run.state.step < run.total_steps and steps:
        began, done = time.time(), run.state.step
        fit(run, stop_after=done + steps, progress=False)
        now = time.time()
        # A slice that would end too late is cut; the weights are then those of a higher rate.
        steps = min(longest, int((until - now) * (run.state.step - done) / (now - began)))
