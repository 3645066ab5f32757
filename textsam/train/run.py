"""A training run: setup → fit → validate, resumable at any step."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from textsam.adapters import CONFIG_FILE, AdapterConfig
from textsam.checkpoint import record_of, save_adapter
from textsam.config import WITHOUT_EFFECT, TrainConfig
from textsam.data.dataset import TrainItem
from textsam.errors import ConfigError, TextSAMError
from textsam.io.atomic import told_as_output
from textsam.io.lock import locked
from textsam.model.tuning import trainable_parameters, trainable_state
from textsam.train.loading import loaded, readers_told
from textsam.train.log import RunLog
from textsam.train.losses import LossParts
from textsam.train.memory import peak_memory_mib
from textsam.train.order import Key
from textsam.train.processes import Processes
from textsam.train.schedule import rate_factor
from textsam.train.setup import STATE_FILE, Run, architecture_from, setup
from textsam.train.state import write_state, written_at
from textsam.train.validate import Validation, validate

__all__ = ["Run", "architecture_from", "batch_loss", "batches_at", "fit", "setup", "train"]

_LOCK_FILE = ".train.lock"


def _adapter_config(run: Run, step: int) -> AdapterConfig:
    config = run.config
    refine, refine_with = config.inference
    return AdapterConfig(
        name=config.name,
        preset=config.preset,
        architecture=record_of(architecture_from(config)),
        prompts=run.vocabulary,
        refine=refine,
        refine_with=refine_with,
        score="iou_head" if config.loss.iou > 0 else "mask_probability",
        authors_frame=run.authors_frame,
        base=run.base,
        terms=config.terms,
        training={
            "step": step,
            "total_steps": run.total_steps,
            # By name: a path says where it lay on the machine that trained.
            "continued_from": run.continued_from,
            "config": config.model_dump(
                mode="json", exclude={*WITHOUT_EFFECT, "data", "init_adapter"}
            ),
            "data": config.data.model_dump(mode="json", exclude={"root"}),
        },
    )


def _save(run: Run, name: str) -> None:
    tensors = trainable_state(run.built.model)
    save_adapter(run.folder / name, _adapter_config(run, run.state.step), tensors)


def _validate(run: Run, log: RunLog | None) -> Validation:
    trained_at = run.built.preprocessor.side_px
    run.built.set_side(run.side_px)  # as it will be used
    result = validate(run.forward, run.val_set, run.val_keys, run.config.loss, run.processes)
    run.built.set_side(trained_at)
    if log is not None:
        log.write(run.state.step, result.summary())
    if not math.isfinite(result.loss):
        # It would be the best for ever, as nothing is below it, and the state written next is its.
        raise TextSAMError(
            f"step {run.state.step}: the validation loss is {result.loss}; lower optim.lr or set "
            f"optim.grad_clip, and {_way_on(run)}"
        )
    value = result.loss
    if run.config.select == "val_dice" and result.dice is not None:  # `setup` has seen to it
        value = -result.dice
    if run.config.select == "last" or run.state.best is None or value < run.state.best:
        run.state.best = value
        if log is not None:
            _save(run, "best")
    return result


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Hold the run's folder: of two trainings in one, each would write over the other's best."""
    with ExitStack() as held:
        if run.processes.is_main:
            busy = ConfigError(
                f"another process is training in {run.folder}; wait until it is done, or choose "
                "another `out` (or name)"
            )
            path = run.folder / _LOCK_FILE
            with told_as_output(path):
                held.enter_context(locked(path, busy, stays=False))
                if written_at(run.folder / STATE_FILE) != run.state_written:
                    raise ConfigError(
                        f"another process trained in {run.folder} while this training was set up; "
                        "start again to go on from there"
                    )
        yield


def _log_of(run: Run) -> AbstractContextManager[RunLog | None]:
    """The log of the main process; the others have none."""
    return RunLog(run.folder, run.state.step) if run.processes.is_main else nullcontext()


def fit(run: Run, *, stop_after: int | None = None, progress: bool = True) -> Run:
    """Train to the end of the schedule, validating and saving on the way.

    Of several processes the main one writes and speaks; all return when it has written the last.

    Args:
        run: from `setup`.
        stop_after: stop at this optimiser step, as a kill would (for tests and time slices); the
            state is saved there. The same in all processes.
        progress: show a bar.

    Raises:
        ConfigError: several processes that do not see the same state of the run, or another run in
            its folder.
        OutputError: a file cannot be written; what was saved before stays.
        TextSAMError: a loss that is no number, of a step or of a validation; a process that loads
            images has ended.
    """
    config, state, processes = run.config, run.state, run.processes
    _begin_together(run)
    if progress and processes.is_main and run.data_warnings:
        told = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
        told.print(f"warning: the data can be used, but\n{run.data_warnings}")
    total = run.total_steps
    last = min(total, total if stop_after is None else stop_after)
    val_every = config.val_every or max(
        1, run.order.epoch_length // (config.batch_size * config.accumulate)
    )
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(stderr=True),
        disable=not (progress and processes.is_main),
    )
    with _alone(run), bar, readers_told(config.workers), _log_of(run) as log:
        task = bar.add_task(config.name, total=total, completed=state.step, status="")
        side_until = state.step
        while state.step < last:
            if state.step >= side_until:
                side, side_until = run.side_at(state.step)
                batches = batches_at(run, side)
            began = time.perf_counter()
            values = _of_all(processes, _optimiser_step(run, batches))
            images = config.batch_size * config.accumulate
            values["images_per_s"] = images / (time.perf_counter() - began)
            state.step += 1
            if log is not None:
                log.write(state.step, values)
            bar.update(task, advance=1, status=f"loss {values['loss']:.3f}")
            if state.step % val_every == 0 or state.step == total:
                result = _validate(run, log)
                if log is not None:
                    bar.console.print(f"step {state.step}: {result.line()}")
            due = state.step % config.save_every == 0 or state.step == last
            if due and log is not None:
                # The state last: a run that is killed in between makes its adapters again.
                _save(run, "last")
                path = run.folder / STATE_FILE
                with told_as_output(path, RuntimeError):  # torch's own, where a disk is full
                    write_state(path, state, run.built.model, run.optimiser)
                    run.state_written = written_at(path)
    processes.wait()
    return run


def _begin_together(run: Run) -> None:
    """Make sure that all processes begin with the same numbers."""
    steps = run.processes.gather([run.state.step])
    if len(set(steps)) > 1:
        raise ConfigError(
            f"the processes found {run.folder / STATE_FILE} at the steps {steps}; `out` must be a "
            "folder that all of them share"
        )
    run.processes.copy_from_main(trainable_parameters(run.built.model).values())


def _of_all(processes: Processes, measured: dict[str, list[float]]) -> dict[str, float]:
    """What a step has measured, over all processes: means, but of memory the most.

    Images say what their losses are made of, and need not all say the same: of each name the mean
    is over what there is in all processes, not over theirs.
    """
    together: dict[str, list[float]] = {}
    for row in processes.gather([measured]):
        for name, values in row.items():
            together.setdefault(name, []).extend(values)
    return {
        name: max(values) if name == "memory_peak_mib" else statistics.fmean(values)
        for name, values in together.items()
    }


def batches_at(run: Run, side_px: int) -> Iterator[list[tuple[Key, TrainItem]]]:
    """Training batches at a side from the current step on; the model is set to that side."""
    config = run.config
    run.built.set_side(side_px)
    run.train_set.size_px = side_px
    whole = run.order.batches(config.batch_size, run.state.step * config.accumulate)
    # A slice of the same keys whatever the number of processes: so are prompts and changes.
    own = (list(run.processes.share_of(batch)) for batch in whole)
    return loaded(run.train_set, own, workers=config.workers)


def batch_loss(
    run: Run, batch: Sequence[tuple[Key, TrainItem]]
) -> tuple[torch.Tensor, list[LossParts]]:
    """The loss of a batch, a mean over its images, and the parts of each image's."""
    keys, items = zip(*batch, strict=True)
    parts = run.forward.losses(keys, items)
    weights = run.config.loss
    totals = [p.total(weights.bce, weights.dice, weights.iou) for p in parts]
    return torch.stack(totals).mean(), parts


def _optimiser_step(
    run: Run, batches: Iterator[list[tuple[Key, TrainItem]]]
) -> dict[str, list[float]]:
    """Take one step; what this process has measured, of each image what its loss is made of."""
    config = run.config
    factor = rate_factor(
        *run.scheduled(run.state.step),
        warmup_steps=config.optim.warmup_steps,
        schedule=config.optim.schedule,
        final_fraction=config.optim.lr_final_fraction,
    )
    for group in run.optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    run.optimiser.zero_grad(set_to_none=True)
    means: list[torch.Tensor] = []
    names: list[str] = []  # of the images of each batch
    parts: list[LossParts] = []
    for _ in range(config.accumulate):
        batch = next(batches)
        mean, of_batch = batch_loss(run, batch)
        (mean / config.accumulate).backward()  # type: ignore[no-untyped-call]
        means.append(mean.detach())
        names.append(", ".join(item.sample.name for _, item in batch))
        parts += of_batch
    parameters = [p for group in run.optimiser.param_groups for p in group["params"]]
    # Each process has the mean over its slice; slices are equal, so the mean of means is the mean.
    run.processes.average_gradients(parameters)
    clip = config.optim.grad_clip
    norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip)
    measured, reached = _measured([*means, norm], parts)
    losses, length = reached[:-1], reached[-1]
    for loss, images in zip(losses, names, strict=True):
        if not math.isfinite(loss):  # going on would write a state of NaNs over the last good one
            raise TextSAMError(
                f"step {run.state.step + 1}: the loss is {loss} for {images}; "
                f"lower optim.lr or set optim.grad_clip, and {_way_on(run)}"
            )
    if not math.isfinite(length):  # a finite loss can have such a gradient
        raise TextSAMError(
            f"step {run.state.step + 1}: the gradient's norm is {length}, so the step was not "
            f"taken; lower optim.lr, and {_way_on(run)}"
        )
    measured["loss"] = [statistics.fmean(losses)]
    if clip is not None:
        measured["grad_norm"] = [length]
    run.optimiser.step()
    measured["lr_factor"] = [factor]
    peak = peak_memory_mib(run.processes.device)
    if peak is not None:
        # Linux counts pages in batches per core: what it calls the peak can be a little less later.
        run.memory_peak_mib = max(run.memory_peak_mib, peak)
        measured["memory_peak_mib"] = [run.memory_peak_mib]
    return measured


def _measured(
    scalars: Sequence[torch.Tensor], parts: Sequence[LossParts]
) -> tuple[dict[str, list[float]], list[float]]:
    """The terms of images' losses by name, and other scalars, as numbers.

    All leave the device at once: a GPU has nothing to do while one of them is waited for.
    """
    told = [item for part in parts for item in part.logged().items()]
    there = [value for _, value in told if isinstance(value, torch.Tensor)]
    numbers = torch.stack([one.detach().float() for one in [*scalars, *there]]).tolist()
    left = iter(numbers[len(scalars) :])
    measured: dict[str, list[float]] = {}
    for name, value in told:
        number = next(left) if isinstance(value, torch.Tensor) else value
        measured.setdefault(name, []).append(number)
    return measured, numbers[: len(scalars)]


def _way_on(run: Run) -> str:
    """What can be done with a run whose numbers have run away."""
    last = run.folder / "last"
    if (last / CONFIG_FILE).is_file():
        return f"go on under another name with init_adapter: {last}"
    return "start again: nothing was saved yet"


def train(
    config: TrainConfig,
    *,
    sam_checkpoint: str | Path | None = None,
    text_encoder: str | Path | None = None,
    authors_frame: bool = False,
    stop_after: int | None = None,
    progress: bool = True,
) -> Path:
    """Set a run up, or resume it, and train it to the end; arguments as in `setup` and `fit`.

    Returns:
        The folder of the run, with `best/` and `last/` adapters.
    """
    run = setup(
        config,
        sam_checkpoint=sam_checkpoint,
        text_encoder=text_encoder,
        authors_frame=authors_frame,
    )
    return fit(run, stop_after=stop_after, progress=progress).folder
