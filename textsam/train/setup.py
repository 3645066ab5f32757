"""Everything a training run needs, built from its configuration or read back from its state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textsam import weights
from textsam.adapters import (
    TENSORS_FILE,
    AdapterConfig,
    check_base,
    find_adapter,
    read_adapter_config,
)
from textsam.checkpoint import load_adapter
from textsam.config import TrainConfig, without_effect
from textsam.data.ask import PromptSampler
from textsam.data.augment import Augment, by_kind
from textsam.data.dataset import TrainDataset
from textsam.data.named import named_by, words_of
from textsam.data.sample import Sample
from textsam.data.sources import checked_data, write_stamp
from textsam.errors import ConfigError
from textsam.io.out_folder import check_out_folder
from textsam.model.build import Architecture, BuiltModel, assemble, load_parts
from textsam.model.tuning import Tuning, trainable_parameters
from textsam.presets import preset
from textsam.train.cache import EmbeddingCache
from textsam.train.ingredients import ingredients
from textsam.train.order import Key, Order
from textsam.train.preference_step import (
    PreferenceForward,
    learns_in_stage_two,
    unlabelled_images,
)
from textsam.train.processes import Processes, join
from textsam.train.state import RunState, read_state, written_at
from textsam.train.step import Forward
from textsam.vocabulary import MODALITIES
from textsam.weights.checksum import sha256_of

__all__ = ["STATE_FILE", "Run", "architecture_from", "setup"]

STATE_FILE = "state.pt"


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
    authors_frame: bool
    continued_from: str | None
    processes: Processes
    data_warnings: str
    state_written: int | None
    memory_peak_mib: float = 0.0

    def side_at(self, step: int) -> tuple[int, int]:
        """Image side of an optimiser step, and the step before which it changes next."""
        side, _, end = self._part_at(step)
        return side, end

    def scheduled(self, step: int) -> tuple[int, int]:
        """Place of an optimiser step in the schedule of its rate, and that schedule's length."""
        if not self.config.optim.restart:
            return step, self.total_steps
        _, begin, end = self._part_at(step)
        return step - begin, end - begin

    def _part_at(self, step: int) -> tuple[int, int, int]:
        """Image side of a step, and the steps from and before which it is that."""
        edge, begin = 0.0, 0
        for part in self.config.progressive:
            edge += part.share
            end = round(edge * self.total_steps)
            if step < end:
                return part.side_px, begin, end
            begin = end
        return self.side_px, begin, self.total_steps

    def set_epochs(self, epochs: float) -> None:
        """Give a run another length before its first step, as if it had been set up with it.

        Raises:
            ConfigError: the run has begun, and its rates with it.
        """
        if self.state.step:
            raise ConfigError(
                f"{self.folder} is at step {self.state.step}; its epochs can be changed before the "
                "first step alone"
            )
        self.config = self.config.model_copy(update={"epochs": epochs})
        self.state.fingerprint = _fingerprint(self.config)
        self.state.settings = _settings(self.config)

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
        tuning=Tuning(**config.tuning.model_dump()),
        side_px=config.side_px,
        prompt_tokens=config.tokens.count,
        prompt_token_width=config.tokens.width,
        takes_text=config.text,
    )


def _fingerprint(config: TrainConfig) -> str:
    settings = config.model_dump_json(exclude=without_effect(config))
    return hashlib.sha256(settings.encode()).hexdigest()


def _settings(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=without_effect(config))


def _optimiser(built: BuiltModel, config: TrainConfig) -> torch.optim.Optimizer:
    optim = config.optim
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in trainable_parameters(built.model).items():
        if config.preference is not None and not learns_in_stage_two(name, config.preference):
            continue
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
    processes: Processes | None = None,
) -> Run:
    """Build everything a run needs, and read its state if it was begun before.

    Args:
        config: of the run.
        built: a model to train, for tests with tiny parts; default: the preset's, with the base
            weights of the registry.
        sam_checkpoint: file of image encoder weights to use instead of the registry's.
        text_encoder: folder of text encoder weights to use instead of the registry's.
        authors_frame: the adapter made will ask for the authors' coordinate frame.
        processes: that train together; default: as `accelerate launch` or `torchrun` started them,
            which is one alone where neither did.

    Raises:
        ConfigError: the run was begun with other settings, base weights or data, or another frame.
        OutputError: the run's folder, or that of the cache, can be neither made nor written into.
        DataCheckError: files of the data set are faulty; all of them are listed.
        TextSAMError: data, weights or settings are not usable. The run's folder is not made then.
    """
    folder = Path(config.out) / config.name
    check_out_folder(folder)
    if config.cache is not None:
        check_out_folder(config.cache)
    processes = processes or join(config.device)
    processes.check_batch(config.batch_size)
    device = processes.device
    checked = checked_data(config.data, folder)
    vocabulary = words_of(checked.parts["train"])
    parts = {part: named_by(samples, vocabulary) for part, samples in checked.parts.items()}
    train_samples, val_samples = parts["train"], parts["val"]
    _check_modalities("no_up", config.augment.no_up, train_samples)
    _check_modalities("heal", list(config.augment.heal), train_samples)
    if built is None:
        torch.manual_seed(config.seed)
        backbone, encoder = load_parts(
            config.preset, sam_checkpoint=sam_checkpoint, text_encoder=text_encoder
        )
        built = assemble(backbone, encoder, architecture_from(config))
    continued_from = init_digest = None
    info = preset(config.preset)
    image_id = weights.identity_of(info.image_weights, sam_checkpoint)
    base = {info.image_weights: image_id}
    if built.model.takes_text:
        base[info.text_weights] = built.model.text_encoder.digest()
    encoder_id = [image_id, config.precision]
    if config.init_adapter is not None:
        init_digest, continued_from = _load_init(config.init_adapter, config, built, base)
        if config.preference is not None:  # the encoder may be the adapter's, and rests from now on
            encoder_id.append(init_digest)
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
    if config.select == "val_dice":
        _check_shown(val_set, val_keys)
    unlabelled = None
    if config.preference is not None:
        unlabelled = unlabelled_images(config, train_samples)
    # Before a state is read: the reference of stage two is stage one's.
    forward = _forward(config, built, device, " ".join(encoder_id), unlabelled)
    optimiser = _optimiser(built, config)
    made_of = ingredients(
        base=image_id,
        text_encoder=weights.identity_of(info.text_weights, text_encoder),
        authors_frame=authors_frame,
        parts=parts,
        contents=checked.contents,
        init_adapter=init_digest,
        unlabelled=unlabelled,
    )
    state = RunState(
        step=0,
        best=None,
        fingerprint=_fingerprint(config),
        settings=_settings(config),
        made_of=made_of,
    )
    folder.mkdir(parents=True, exist_ok=True)
    state_written = written_at(folder / STATE_FILE)
    if state_written is not None:
        state = read_state(folder / STATE_FILE, state, built.model, optimiser)
    if processes.is_main:  # and nothing before all of this has been found good
        write_stamp(checked, folder)
    return Run(
        config=config,
        folder=folder,
        built=built,
        forward=forward,
        optimiser=optimiser,
        train_set=TrainDataset(
            train_samples,
            size_px=side,
            prompts=sampler,
            augment=Augment(config.augment),
            augment_for=by_kind(config.augment),
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
        processes=processes,
        data_warnings=checked.report.text(),
        state_written=state_written,
    )


def _load_init(
    adapter: str, config: TrainConfig, built: BuiltModel, base: Mapping[str, str]
) -> tuple[str, str]:
    """Load the adapter a run continues; the digest of its tensors, and its name and step."""
    folder = find_adapter(adapter)
    begun_from = read_adapter_config(folder)
    _check_same_model(begun_from, config, base)
    load_adapter(folder, built)
    _check_same_token(begun_from, config)
    step = begun_from.training.get("step", "unknown")
    return sha256_of(folder / TENSORS_FILE), f"{begun_from.name}, step {step}"


def _forward(
    config: TrainConfig,
    built: BuiltModel,
    device: torch.device,
    encoder_id: str,
    unlabelled: frozenset[Path] | None,
) -> Forward:
    """The forward pass of a run; `encoder_id` is of its cache, `unlabelled` of stage two."""
    forward = Forward(
        built,
        device=device,
        precision=config.precision,
        geometry=config.geometry,
        self_prompt=config.self_prompt,
        seed=config.seed,
        cache=None if config.cache is None else EmbeddingCache(config.cache, encoder_id),
        empty_weight=config.loss.empty,
    )
    if config.preference is None or unlabelled is None:
        return forward
    return PreferenceForward(forward, config.preference, unlabelled)


def _check_shown(dataset: TrainDataset, keys: Sequence[Key]) -> None:
    """Refuse to choose by a Dice that there will not be: the first adapter would stay the best."""
    if not any(bool(dataset[key].targets.any()) for key in keys):
        raise ConfigError(
            f"select is 'val_dice', and none of the {len(keys)} validation images shows anything "
            "to have a Dice; set select to val_loss or last, or give others to data.val"
        )


def _check_modalities(setting: str, names: Sequence[str], samples: Sequence[Sample]) -> None:
    """Refuse kinds of image that nobody knows, which would be a setting without effect."""
    shown = {sample.modality for sample in samples}
    if unknown := [name for name in names if name not in shown and name not in MODALITIES]:
        raise ConfigError(
            f"augment.{setting} names {', '.join(map(repr, unknown))}, of which no training image "
            f"is; these are of {', '.join(sorted(shown))}"
        )


def _check_same_model(adapter: AdapterConfig, config: TrainConfig, base: Mapping[str, str]) -> None:
    """Refuse to continue an adapter of another model, whose tensors may fit all the same.

    With a frozen encoder those of all SAMs have the same names and shapes.
    """
    if adapter.preset != config.preset:
        raise ConfigError(
            f"preset is {config.preset!r}, and the init_adapter {adapter.name!r} belongs to "
            f"{adapter.preset!r}; set preset to that, or continue another adapter"
        )
    for weights_name, digest in base.items():
        check_base(adapter, weights_name, digest)


def _check_same_token(adapter: AdapterConfig, config: TrainConfig) -> None:
    """Refuse to continue an adapter whose token is normalised or scaled in another way.

    All else of its shape that may differ shows in the names and shapes of its tensors.
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
