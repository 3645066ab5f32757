"""A training run: setup → fit → validate, resumable at any step."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from textsam import weights
from textsam.adapters import AdapterConfig, find_adapter
from textsam.checkpoint import load_adapter, record_of, save_adapter
from textsam.config import WITHOUT_EFFECT, TrainConfig
from textsam.data.ask import PromptSampler
from textsam.data.augment import Augment
from textsam.data.dataset import TrainDataset, TrainItem
from textsam.data.sources import checked_data, samples_of, write_stamp
from textsam.device import choose_device
from textsam.errors import ConfigError, TextSAMError
from textsam.model.build import Architecture, BuiltModel, assemble, load_parts
from textsam.model.tuning import Tuning, trainable_parameters, trainable_state
from textsam.presets import preset
from textsam.train.cache import EmbeddingCache
from textsam.train.log import RunLog
from textsam.train.order import Key, Order
from textsam.train.schedule import rate_factor
from textsam.train.state import RunState, read_state, write_state
from textsam.train.step import Forward
from textsam.train.validate import Validation, validate
from textsam.weights.checksum import sha256_of

__all__ = ["Run", "architecture_from", "fit", "samples_of", "setup", "train"]

STATE_FILE = "state.pt"


class _Keyed(Dataset[tuple[Key, TrainItem]]):
    """Items with their keys, which seed what the training step draws."""

    def __init__(self, items: TrainDataset) -> None:
        self.items = items

    def __getitem__(self, key: Key) -> tuple[Key, TrainItem]:
        return key, self.items[key]


def _as_is(batch: list[tuple[Key, TrainItem]]) -> list[tuple[Key, TrainItem]]:
    return batch


@dataclass
class Run:
    """Everything `fit` needs; made by `setup`."""

    config: TrainConfig
    folder: Path
    built: BuiltModel
    forward: Forward
    optimiser: torch.optim.Optimizer
    train_set: TrainDataset
    val_set: TrainDataset
    val_keys: Sequence[Key]
    order: Order
    vocabulary: tuple[str, ...]
    state: RunState
    base: dict[str, str]
    side_px: int
    authors_frame: bool = False
    continued_from: str | None = None

    def side_at(self, step: int) -> tuple[int, int]:
        """Image side of an optimiser step, and the step before which it changes next."""
        edge = 0.0
        for part in self.config.progressive:
            edge += part.share
            end = round(edge * self.total_steps)
            if step < end:
                return part.side_px, end
        return self.side_px, self.total_steps

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        per_step = self.config.batch_size * self.config.accumulate
        return max(1, round(self.config.epochs * self.order.epoch_length / per_step))


def architecture_from(config: TrainConfig) -> Architecture:
    """The trainable shape a configuration asks for."""
    return Architecture(
        context_tokens=config.context.n_tokens,
        context_depth=config.context.depth,
        normalise=config.adapter.normalise,
        token_scale=config.adapter.scale,
        tuning=Tuning(
            rank=config.tuning.rank,
            encoder=config.tuning.encoder,
            encoder_targets=config.tuning.encoder_targets,
            decoder=config.tuning.decoder,
        ),
    )


def _fingerprint(config: TrainConfig) -> str:
    return hashlib.sha256(config.model_dump_json(exclude=set(WITHOUT_EFFECT)).encode()).hexdigest()


def _optimiser(built: BuiltModel, config: TrainConfig) -> torch.optim.Optimizer:
    optim = config.optim
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in trainable_parameters(built.model).items():
        if name.startswith("image_encoder."):
            rate = optim.lr_encoder or optim.lr
        elif name.startswith(("context.", "adapter.")):
            rate = optim.lr_text or optim.lr
        else:
            rate = optim.lr
        groups.setdefault(rate, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "lr": rate, "base_lr": rate} for rate, params in groups.items()],
        lr=optim.lr,
        weight_decay=optim.weight_decay,
    )


def setup(
    config: TrainConfig,
    built: BuiltModel | None = None,
    *,
    sam_checkpoint: str | Path | None = None,
    text_encoder: str | Path | None = None,
    authors_frame: bool = False,
) -> Run:
    """Build everything a run needs, and read its state if it was begun before.

    Args:
        config: of the run.
        built: a model to train, for tests with tiny parts; default: the preset's, with the base
            weights of the registry.
        sam_checkpoint: file of image encoder weights to use instead of the registry's.
        text_encoder: folder of text encoder weights to use instead of the registry's.
        authors_frame: the adapter made will ask for the authors' coordinate frame.

    Raises:
        DataCheckError: files of the data set are faulty; all of them are listed.
        TextSAMError: data, weights or settings are not usable. The run's folder is not made then.
    """
    folder = Path(config.out) / config.name
    device = choose_device(config.device)
    checked = checked_data(config.data, folder)
    train_samples, val_samples = checked.parts["train"], checked.parts["val"]
    vocabulary = tuple(
        dict.fromkeys(target.concept for sample in train_samples for target in sample.targets)
    )
    if built is None:
        torch.manual_seed(config.seed)
        backbone, encoder = load_parts(
            config.preset, sam_checkpoint=sam_checkpoint, text_encoder=text_encoder
        )
        built = assemble(backbone, encoder, architecture_from(config))
    continued_from = None
    if config.init_adapter is not None:
        begun_from = load_adapter(find_adapter(config.init_adapter), built)
        _check_same_token(begun_from, config)
        continued_from = f"{begun_from.name}, step {begun_from.training.get('step', 'unknown')}"
    side = built.preprocessor.side_px
    for part in config.progressive:  # refused here rather than in the middle of the run
        built.set_side(part.side_px)
    built.set_side(side)
    # Convolutions are faster in this layout, on CPUs as on GPUs; values are the same.
    built.model.image_encoder.to(memory_format=torch.channels_last)
    built.model.to(device)
    built.model.text_encoder.trains_with_dropout = config.context.text_dropout
    built.model.train()
    native = config.loss.resolution == "image"
    sampler = PromptSampler(vocabulary, config.prompts)
    plain = PromptSampler(vocabulary, config.prompts.model_copy(update={"synonym_p": 0.0}))
    val_set = TrainDataset(
        val_samples, size_px=side, prompts=plain, seed=config.seed, native_targets=native
    )
    val_count = min(len(val_samples), config.val_limit or len(val_samples))
    val_keys = [(0, i * len(val_samples) // val_count, 0) for i in range(val_count)]
    base = _base_identities(config.preset, sam_checkpoint)
    cache = None
    if config.cache is not None:
        cache = EmbeddingCache(config.cache, " ".join([*base.values(), config.precision]))
    optimiser = _optimiser(built, config)
    fingerprint = _fingerprint(config)
    state = RunState(step=0, best=None, fingerprint=fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / STATE_FILE).is_file():
        state = read_state(folder / STATE_FILE, fingerprint, built.model, optimiser)
    # Nothing is written before all of this has been found good.
    write_stamp(checked, folder)
    return Run(
        config=config,
        folder=folder,
        built=built,
        forward=Forward(
            built,
            device=device,
            precision=config.precision,
            geometry=config.geometry,
            seed=config.seed,
            cache=cache,
        ),
        optimiser=optimiser,
        train_set=TrainDataset(
            train_samples,
            size_px=side,
            prompts=sampler,
            augment=Augment(config.augment),
            seed=config.seed,
            native_targets=native,
        ),
        val_set=val_set,
        val_keys=val_keys,
        order=Order(train_samples, config.seed),
        vocabulary=vocabulary,
        state=state,
        base=base,
        side_px=side,
        authors_frame=authors_frame,
        continued_from=continued_from,
    )


def _check_same_token(adapter: AdapterConfig, config: TrainConfig) -> None:
    """Refuse to continue an adapter whose token is normalised or scaled in another way.

    All else that may differ shows in the names and shapes of its tensors.
    """
    record = adapter.architecture
    for name, theirs, ours in (
        ("normalise", record.normalise, config.adapter.normalise),
        ("scale", record.token_scale, config.adapter.scale),
    ):
        if theirs != ours:
            raise ConfigError(
                f"adapter.{name} is {ours}, and the init_adapter {adapter.name!r} was trained with "
                f"{theirs}; set adapter.{name} to that"
            )


def _base_identities(preset_name: str, sam_checkpoint: str | Path | None) -> dict[str, str]:
    """Registry name -> digest of the base weights in use; own text encoders have none on record."""
    info = preset(preset_name)
    image = weights.entry(info.image_weights).identity
    if sam_checkpoint is not None:
        image = sha256_of(Path(sam_checkpoint))
    return {info.image_weights: image}


def _adapter_config(run: Run, step: int) -> AdapterConfig:
    config = run.config
    return AdapterConfig(
        name=config.name,
        preset=config.preset,
        architecture=record_of(architecture_from(config)),
        prompts=run.vocabulary,
        refine=config.refine,
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
                mode="json", exclude={"out", "device", "data", "cache", "init_adapter"}
            ),
            "data": config.data.model_dump(mode="json", exclude={"root"}),
        },
    )


def _save(run: Run, name: str) -> None:
    tensors = trainable_state(run.built.model)
    save_adapter(run.folder / name, _adapter_config(run, run.state.step), tensors)


def _validate(run: Run, log: RunLog) -> Validation:
    trained_at = run.built.preprocessor.side_px
    run.built.set_side(run.side_px)  # as it will be used
    result = validate(run.forward, run.val_set, run.val_keys, run.config.loss)
    run.built.set_side(trained_at)
    log.write(run.state.step, result.summary())
    value = result.loss if run.config.select == "val_loss" else -result.dice
    if run.state.best is None or value < run.state.best:
        run.state.best = value
        _save(run, "best")
    return result


def fit(run: Run, *, stop_after: int | None = None, progress: bool = True) -> Run:
    """Train to the end of the schedule, validating and saving on the way.

    Args:
        run: from `setup`.
        stop_after: stop at this optimiser step, as a kill would (for tests and time slices); the
            state is saved there.
        progress: show a bar.
    """
    config, state = run.config, run.state
    total = run.total_steps
    last = min(total, stop_after or total)
    val_every = config.val_every or max(
        1, run.order.epoch_length // (config.batch_size * config.accumulate)
    )
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        disable=not progress,
    )
    with bar, RunLog(run.folder, state.step) as log:
        task = bar.add_task(config.name, total=total, completed=state.step, status="")
        side_until = state.step
        while state.step < last:
            if state.step >= side_until:
                side, side_until = run.side_at(state.step)
                batches = _batches(run, side)
            began = time.perf_counter()
            values = _optimiser_step(run, batches)
            images = config.batch_size * config.accumulate
            values["images_per_s"] = images / (time.perf_counter() - began)
            state.step += 1
            log.write(state.step, values)
            bar.update(task, advance=1, status=f"loss {values['loss']:.3f}")
            if state.step % val_every == 0 or state.step == total:
                result = _validate(run, log)
                bar.console.print(
                    f"step {state.step}: val loss {result.loss:.4f}, Dice {result.dice:.4f}, "
                    f"false positives {result.false_positive_rate:.3f}"
                )
            if state.step % config.save_every == 0 or state.step == last:
                write_state(run.folder / STATE_FILE, state, run.built.model, run.optimiser)
                _save(run, "last")
    return run


def _batches(run: Run, side_px: int) -> Iterator[list[tuple[Key, TrainItem]]]:
    """Training batches at a side from the current step on; the model is set to that side."""
    config = run.config
    run.built.set_side(side_px)
    run.train_set.size_px = side_px
    loader = DataLoader(
        _Keyed(run.train_set),
        batch_sampler=run.order.batches(config.batch_size, run.state.step * config.accumulate),
        num_workers=config.workers,
        collate_fn=_as_is,
    )
    return iter(loader)


def _optimiser_step(run: Run, batches: Iterator[list[tuple[Key, TrainItem]]]) -> dict[str, float]:
    config = run.config
    weights_of = config.loss
    factor = rate_factor(
        run.state.step,
        run.total_steps,
        warmup_steps=config.optim.warmup_steps,
        schedule=config.optim.schedule,
        final_fraction=config.optim.lr_final_fraction,
    )
    for group in run.optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    run.optimiser.zero_grad(set_to_none=True)
    sums = {"loss": 0.0, "bce": 0.0, "dice": 0.0, "iou": 0.0}
    for _ in range(config.accumulate):
        keys, items = zip(*next(batches), strict=True)
        parts = run.forward.losses(keys, items)
        totals = [p.total(weights_of.bce, weights_of.dice, weights_of.iou) for p in parts]
        loss = torch.stack(totals).mean() / config.accumulate
        if not bool(torch.isfinite(loss)):
            # Going on would write a state of NaNs over the last good one.
            names = ", ".join(item.sample.name for item in items)
            raise TextSAMError(
                f"step {run.state.step + 1}: the loss is {float(loss.detach())} for {names}; "
                "lower optim.lr or set optim.grad_clip, and go on under another name with "
                f"init_adapter: {run.folder / 'last'}"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        share = config.accumulate * len(parts)
        sums["loss"] += float(loss.detach())
        for part in parts:
            sums["bce"] += float(part.bce.detach()) / share
            sums["dice"] += float(part.dice.detach()) / share
            sums["iou"] += float(part.iou.detach()) / share
    if config.optim.grad_clip is not None:
        parameters = [p for group in run.optimiser.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.optim.grad_clip)
        sums["grad_norm"] = float(norm)
    run.optimiser.step()
    return {**sums, "lr_factor": factor}


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
