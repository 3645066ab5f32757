"""One job: train once, then evaluate the cells that share the adapter; safe to kill and repeat."""

from __future__ import annotations

import json
import math
import platform
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from safetensors import safe_open

import textsam
from textsam.ablate.data import evaluation_samples
from textsam.ablate.plan import CellJob, Job
from textsam.adapters import TENSORS_FILE
from textsam.changes import changes_between
from textsam.config import TrainConfig
from textsam.errors import ConfigError, TextSAMError
from textsam.evaluate import evaluate
from textsam.inference.segmenter import Segmenter
from textsam.io.atomic import save_text, told_as_output, write_json

__all__ = [
    "CELL_FILE",
    "Outcome",
    "Steps",
    "default_steps",
    "died",
    "is_finished",
    "read_record",
    "run_job",
]

CELL_FILE = "cell.json"
TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class Steps:
    """The two costly things a job does. Both can be sent to another process.

    Attributes:
        train: trains, or goes on with, a run; returns its folder, with the adapter `best/`.
        load: the segmenter of preset, adapter folder, device and precision.
    """

    train: Callable[[TrainConfig], Path]
    load: Callable[[str, Path, str, str], Segmenter]


@dataclass(frozen=True)
class Outcome:
    """What became of one cell.

    Attributes:
        cell: its name.
        seed: of the training.
        state: "finished" now, "skipped" as it was finished before, "failed", or "busy": another
            process is at it.
        message: why, where it failed.
    """

    cell: str
    seed: int
    state: Literal["finished", "skipped", "failed", "busy"]
    message: str = ""


def default_steps(
    *,
    sam_checkpoint: Path | None = None,
    text_encoder: Path | None = None,
    progress: bool = True,
) -> Steps:
    """Train and load as `textsam train` and `textsam.load_model` do."""
    from textsam.api import load_model
    from textsam.train.run import train

    return Steps(
        train=partial(
            train, sam_checkpoint=sam_checkpoint, text_encoder=text_encoder, progress=progress
        ),
        load=partial(load_model, sam_checkpoint=sam_checkpoint, text_encoder=text_encoder),
    )


def read_record(path: Path) -> dict[str, Any] | None:
    """A JSON object written by a job, or None if there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_finished(cell: CellJob) -> bool:
    """Whether the cell's folder holds its results, made with the very settings asked for."""
    record = read_record(cell.folder / CELL_FILE) or {}
    return record.get("identity") == cell.identity and record.get("state") == "finished"


def run_job(
    job: Job,
    device: str | None = None,
    threads: int | None = None,
    *,
    steps: Steps,
    progress: bool = True,
    command: str = "",
) -> list[Outcome]:
    """Do what of a job is not done yet.

    A training that was killed goes on from its last state, an evaluation from its last image. A
    cell that fails does not stop the others.

    Args:
        job: what to do.
        device: instead of the configuration's.
        threads: processor threads for torch, where several jobs share a CPU.
        steps: how to train and load.
        progress: show a bar for evaluations.
        command: that asked for it, for the record of each cell.

    Returns:
        One outcome per cell of the job, in its order.
    """
    if all(map(is_finished, job.cells)):
        return [Outcome(cell.cell, cell.seed, "skipped") for cell in job.cells]
    lock = FileLock(job.root / "locks" / f"{job.key}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock.acquire(timeout=0):
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            return _run(job, device, steps, progress, command)
    except Timeout:
        why = f"another process is at the training {job.key}; start again when it is done"
        return [
            Outcome(c.cell, c.seed, "skipped")
            if is_finished(c)
            else Outcome(c.cell, c.seed, "busy", why)
            for c in job.cells
        ]


def died(job: Job, why: str) -> list[Outcome]:
    """What is left of a job whose process ended before it could say anything.

    The reason goes where the table looks for it: to the evaluation that had begun, or to the
    training.

    Args:
        job: that was being done.
        why: for people, in one line.

    Returns:
        One outcome per cell of the job, in its order.

    Raises:
        OutputError: the reason cannot be written.
    """
    left = [cell for cell in job.cells if not is_finished(cell)]
    trained = (read_record(job.training / TRAINING_FILE) or {}).get("identity") == job.identity
    # What failed before it in the same job has left its own reason.
    begun = next(
        (
            cell
            for cell in left
            if trained and (cell.folder / CELL_FILE).is_file() and not job.problem(cell).is_file()
        ),
        None,
    )
    if left:
        save_text(job.problem(begun), f"{why}\n")
    return [
        Outcome(c.cell, c.seed, "failed", why) if c in left else Outcome(c.cell, c.seed, "finished")
        for c in job.cells
    ]


def _run(job: Job, device: str | None, steps: Steps, progress: bool, command: str) -> list[Outcome]:
    config = job.config
    if device is not None:
        config = config.model_copy(update={"device": device})
    loaded: dict[str, Segmenter] = {}

    def load(adapter: Path, precision: str) -> Segmenter:
        if precision not in loaded:
            loaded[precision] = steps.load(config.preset, adapter, config.device, precision)
        return loaded[precision]

    try:
        _forget(job.problem())
        training = _train(job, config, steps)
    except Exception as error:  # noqa: BLE001  # a bug in one cell must not cost the others
        why = _failure(job.problem(), error)
        return [
            Outcome(c.cell, c.seed, "skipped")
            if is_finished(c)
            else Outcome(c.cell, c.seed, "failed", why)
            for c in job.cells
        ]
    outcomes = []
    for cell in job.cells:
        if is_finished(cell):
            outcomes.append(Outcome(cell.cell, cell.seed, "skipped"))
            continue
        try:
            _forget(job.problem(cell))
            _evaluate(cell, training, load, job, progress, command)
        except Exception as error:  # noqa: BLE001
            why = _failure(job.problem(cell), error)
            outcomes.append(Outcome(cell.cell, cell.seed, "failed", why))
        else:
            outcomes.append(Outcome(cell.cell, cell.seed, "finished"))
    return outcomes


def _failure(path: Path, error: Exception) -> str:
    """The message of an error; the traceback goes to a file, whose last line is for tables."""
    kind = "" if isinstance(error, TextSAMError) else f"{type(error).__name__}: "
    message = f"{kind}{error}"
    # Messages of CUDA have several lines, of which the last says nothing.
    first = next(iter(message.strip().splitlines()), "")
    save_text(path, f"{''.join(traceback.format_exception(error))}\n{first}\n")
    return f"{message} (traceback in {path})"


def _forget(problem: Path) -> None:
    """Remove the traceback of an earlier try: what a kill leaves now has not failed."""
    with told_as_output(problem):
        problem.unlink(missing_ok=True)


def _train(job: Job, config: TrainConfig, steps: Steps) -> dict[str, Any]:
    """The record of the finished training, which is done now if need be."""
    path = job.training / TRAINING_FILE
    record = read_record(path)
    if record is not None and record.get("identity") == job.identity:
        return record
    began = time.perf_counter()
    adapter = steps.train(config) / "best"
    if job.calibrate is not None:
        from textsam.calibrate import finish_adapter
        from textsam.data.sources import samples_of

        finished = job.training / "calibrated"
        finish_adapter(
            steps.load(config.preset, adapter, config.device, "auto"),
            adapter,
            samples_of(config.data, "val"),
            finished,
            passes=job.calibrate,
        )
        adapter = finished
    record = {
        "format": 1,
        "identity": job.identity,
        "adapter": adapter.relative_to(job.root).as_posix(),
        "trainable_parameters": _parameters(adapter / TENSORS_FILE),
        "seconds": round(time.perf_counter() - began, 1),
        "device": config.device,
        "machine": platform.platform(),
        "textsam": textsam.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": job.facts,
    }
    write_json(path, record)
    return record


def _parameters(tensors: Path) -> int:
    """Numbers in an adapter: it holds what was trained and nothing else."""
    with safe_open(tensors, "np") as file:
        names = file.keys()
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def _evaluate(
    cell: CellJob,
    training: dict[str, Any],
    load: Callable[[Path, str], Segmenter],
    job: Job,
    progress: bool,
    command: str,
) -> None:
    path = cell.folder / CELL_FILE
    there = read_record(path)
    if there is not None and there.get("identity") != cell.identity:
        # Not there when this call began: another one with other settings has made them since.
        raise ConfigError(
            f"{cell.folder} has meanwhile got results of other settings "
            f"({changes_between(there.get('settings', {}), cell.facts)}); give one of the two "
            "commands another --out, or --replace to do the cell again"
        )
    asked = cell.evaluation
    content = {
        "format": 1,
        "state": "begun",
        "cell": cell.cell,
        "seed": cell.seed,
        "identity": cell.identity,
        "training": f"trainings/{job.key}",
        "adapter": training["adapter"],
        "trainable_parameters": training["trainable_parameters"],
        "settings": cell.facts,
        **({"command": command} if command else {}),
    }
    # First, so that what an interruption leaves behind says what it belongs to.
    write_json(path, content)
    segmenter = load(job.root / str(training["adapter"]), asked.precision)
    summary = evaluate(
        segmenter,
        evaluation_samples(asked),
        out=cell.folder,
        prompts=asked.prompts,
        box_shifts=() if asked.box_shift is None else (asked.box_shift,),
        refine=asked.refine if asked.settle is None else asked.settle,
        refine_with=asked.refine_with,
        negatives=asked.negatives,
        seed=asked.seed,
        worst=0,  # a sheet per cell would ask images of a killed run again
        progress=progress,
    )
    content.update(
        state="finished",
        images=summary.images,
        seconds_per_image=summary.seconds_per_image.median,
        device=str(segmenter.device),
        machine=dict(summary.machine),
        versions=dict(summary.versions),
        date=summary.date,
    )
    write_json(path, content)
