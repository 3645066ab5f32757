"""The settings of a training run: every YAML in configs/ is one of these, checked when read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from textsam.data.ask import PromptConfig
from textsam.data.augment import AugmentConfig
from textsam.data.coco import CocoSelection
from textsam.data.folder import Selection
from textsam.errors import ConfigError
from textsam.invalid import invalid_fields
from textsam.presets import PRESETS
from textsam.refinement import RefineWith
from textsam.sections import read_sections
from textsam.train.preference_config import PreferenceSettings

__all__ = [
    "LEVELS",
    "WITHOUT_EFFECT",
    "AdapterSettings",
    "BoxShift",
    "ContextSettings",
    "DataSettings",
    "DistillationSettings",
    "FolderSelection",
    "GeometrySettings",
    "LossSettings",
    "OptimSettings",
    "SelfPromptSettings",
    "SmallerSide",
    "TokenSettings",
    "TrainConfig",
    "TuningSettings",
    "read_config",
    "unused_settings",
]


WITHOUT_EFFECT = frozenset({"out", "device", "workers", "save_every", "cache"})
"""Settings of a `TrainConfig` that do not change what a run learns, only where and how it runs."""


# Settings that runs of before did not have, by section; "" is the top level.
_ADDED: Mapping[str, tuple[str, ...]] = {
    "": ("side_px", "text", "tokens", "self_prompt", "refine_with"),
    "augment": ("extra",),
    "tuning": ("prompt_embeddings",),
    "geometry": ("kinds", "shifts", "text_p", "earlier_p", "in_validation"),
}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FolderSelection(_Settings):
    """A plain `images/` + `masks/` folder whose masks show one concept.

    Attributes:
        folder: relative to the data root.
        concept: what the masks show.
        split: "train", "val" or "test" when the folder has these inside.
        modality: as in the vocabulary, so that absent concepts can be asked for.
        weight: how often each of its samples is seen per epoch.
    """

    folder: str
    concept: str
    split: str | None = None
    modality: str = "unknown"
    weight: float = Field(1.0, gt=0)


class DataSettings(_Settings):
    """Where the images are.

    Attributes:
        root: folder with `manifest.json` and `splits.json`, or holding the plain folders.
        train: what is trained on, from the manifest.
        val: what chooses the best adapter, from the manifest.
        train_folders: plain folders to train on.
        val_folders: plain folders to validate on.
        train_coco: COCO files to train on.
        val_coco: COCO files to validate on.
        allow: what the check of the data finds and a run may have all the same: "empty-class",
            "same-image".
    """

    root: str
    train: tuple[Selection, ...] = ()
    val: tuple[Selection, ...] = ()
    train_folders: tuple[FolderSelection, ...] = ()
    val_folders: tuple[FolderSelection, ...] = ()
    train_coco: tuple[CocoSelection, ...] = ()
    val_coco: tuple[CocoSelection, ...] = ()
    allow: tuple[Literal["empty-class", "same-image"], ...] = ()

    @model_validator(mode="after")
    def _something_to_train_on(self) -> DataSettings:
        if not (self.train or self.train_folders or self.train_coco):
            raise ValueError("data.train, data.train_folders and data.train_coco are all empty")
        if not (self.val or self.val_folders or self.val_coco):
            raise ValueError("data.val, data.val_folders and data.val_coco are all empty")
        return self


class ContextSettings(_Settings):
    """b context tokens at depth t.

    Attributes:
        n_tokens: b.
        depth: t.
        text_dropout: the frozen text encoder's dropout stays on in training, as in the authors'
            code.
    """

    n_tokens: int = Field(4, ge=1)
    depth: int = Field(12, ge=1)
    text_dropout: bool = False


class AdapterSettings(_Settings):
    """Output of the text adapter: L2-normalised or not, and its scale."""

    normalise: bool = True
    scale: float = Field(1.0, gt=0)


LEVELS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "decoder": {"encoder": "frozen", "decoder": "full"},
        "lora": {"encoder": "lora", "decoder": "lora"},
        "full": {"encoder": "full", "decoder": "full"},
    }
)
"""Level of fine-tuning -> what it means for encoder and decoder."""


class TuningSettings(_Settings):
    """What learns; see `textsam.model.tuning.Tuning`.

    Attributes:
        level: a short way to say `encoder` and `decoder`, by `LEVELS`. Those two are what is kept,
            in adapters and elsewhere; this is not written anywhere.
    """

    level: Literal["decoder", "lora", "full"] | None = Field(None, exclude=True)
    rank: int = Field(16, ge=1)
    encoder: Literal["lora", "full", "frozen"] = "lora"
    encoder_targets: tuple[str, ...] = ("qkv.q", "qkv.v")
    decoder: Literal["lora", "heads", "full"] = "lora"
    prompt_embeddings: bool = False

    @model_validator(mode="before")
    @classmethod
    def _level_decides(cls, settings: Any) -> Any:
        level = settings.get("level") if isinstance(settings, Mapping) else None
        if not isinstance(level, str) or level not in LEVELS:
            return settings  # no level, or one that the field itself refuses
        meant = LEVELS[level]
        for name, value in meant.items():
            if settings.get(name, value) != value:
                raise ValueError(
                    f"level is {level!r}, which means {name}: {value}, and {name} is "
                    f"{settings[name]!r}; leave one of the two out"
                )
        return {**settings, **meant}


class TokenSettings(_Settings):
    """Learned tokens beside every prompt (Funai et al.).

    Attributes:
        count: how many; 0 for none.
        width: dimensions they are learned in, before a linear layer lifts them to the decoder's.
    """

    count: int = Field(0, ge=0)
    width: int = Field(128, ge=1)


class LossSettings(_Settings):
    """Weights of the loss terms, and where the loss is computed.

    Attributes:
        bce: weight of binary cross-entropy.
        dice: weight of Dice loss.
        iou: weight of the squared error of the predicted IoU.
        resolution: "model" compares logits and masks in the model's frame; "image" resizes the
            logits to the image's own pixels, as in the paper.
    """

    bce: float = Field(1.0, ge=0)
    dice: float = Field(1.0, ge=0)
    iou: float = Field(0.0, ge=0)
    resolution: Literal["model", "image"] = "model"


class BoxShift(_Settings):
    """A shift of a box's sides.

    Attributes:
        by: part of the box's width or height; each side moves by it, in or out by a coin toss.
        p: its chance among all shifts.
    """

    by: float = Field(ge=0, lt=0.5)
    p: float = Field(gt=0, le=1)


class GeometrySettings(_Settings):
    """Geometric prompts in training: how often, which, and how exact.

    Attributes:
        probability: chance that an image's present concepts are asked for with geometry. 0 in the
            paper.
        jitter: largest shift of each box side, as a fraction of the box's side.
        kinds: what is given, name -> weight; drawn once per image. The names are those of
            refinement. "mask" and "box+mask" are of an earlier output.
        shifts: of the box's sides, one of them drawn per object, before the jitter. The chances add
            up to 1.
        text_p: chance that the word is given as well, where geometry is.
        earlier_p: chance that geometry is taken from what the model answers before, to the word or,
            without one, to a box of the truth, instead of from the truth. Where it answers nothing,
            there is no geometry.
        in_validation: give geometry in validation, too.
    """

    probability: float = Field(0.0, ge=0, le=1)
    jitter: float = Field(0.1, ge=0, le=1)
    kinds: Mapping[RefineWith, float] = Field(default={RefineWith.BOX_CENTROID: 1.0})
    shifts: tuple[BoxShift, ...] = ()
    text_p: float = Field(1.0, ge=0, le=1)
    earlier_p: float = Field(0.0, ge=0, le=1)
    in_validation: bool = False

    @model_validator(mode="after")
    def _usable(self) -> GeometrySettings:
        if RefineWith.NONE in self.kinds:
            raise ValueError("geometry.kinds has 'none'; say how rare geometry is with probability")
        if min(self.kinds.values(), default=0.0) < 0 or sum(self.kinds.values()) <= 0:
            raise ValueError("geometry.kinds needs weights of at least 0, and one above 0")
        if self.shifts and abs(sum(one.p for one in self.shifts) - 1) > 1e-6:
            raise ValueError("the chances p of geometry.shifts do not add up to 1")
        return self


class DistillationSettings(_Settings):
    """The pull of earlier passes towards the last.

    Attributes:
        weight: of the term in the loss; 0 for none.
        temperature: T, by which the logits of both are divided.
    """

    weight: float = Field(0.0, ge=0)
    temperature: float = Field(1.0, gt=0)


class SelfPromptSettings(_Settings):
    """Own output as the next pass's prompt, in training as at inference (SAM-SP).

    Attributes:
        passes: over each image; 1 is training without self-prompting.
        gives: what a pass takes from the mask before it.
        weights: of the passes' losses; empty: the same for all, adding up to 1.
        distillation: of earlier passes from the last.
    """

    passes: int = Field(1, ge=1)
    gives: RefineWith = RefineWith.BOX
    weights: tuple[float, ...] = ()
    distillation: DistillationSettings = DistillationSettings()

    @model_validator(mode="after")
    def _usable(self) -> SelfPromptSettings:
        if self.gives is RefineWith.NONE:
            raise ValueError("self_prompt.gives is 'none'; set self_prompt.passes to 1 instead")
        if self.weights and len(self.weights) != self.passes:
            raise ValueError(
                f"self_prompt.weights are {len(self.weights)} for {self.passes} passes; give one "
                "for each, or none"
            )
        if self.weights and (min(self.weights) < 0 or max(self.weights) <= 0):
            raise ValueError("self_prompt.weights must be at least 0, and one above 0")
        if self.distillation.weight and self.passes == 1:
            raise ValueError("self_prompt.distillation needs self_prompt.passes of 2 at least")
        return self


class OptimSettings(_Settings):
    """AdamW and its schedule.

    Attributes:
        lr: rate of everything without a rate of its own.
        lr_encoder: rate of the image encoder's parameters; default `lr`.
        lr_text: rate of context tokens and adapter; default `lr`.
        schedule: "cosine" to `lr_final_fraction`, or "constant".
        warmup_steps: linear rise at the start.
        grad_clip: largest gradient norm, or None.
    """

    lr: float = Field(1e-3, gt=0)
    lr_encoder: float | None = Field(None, gt=0)
    lr_text: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    lr_final_fraction: float = Field(0.0, ge=0, le=1)
    warmup_steps: int = Field(0, ge=0)
    grad_clip: float | None = Field(None, gt=0)


class SmallerSide(_Settings):
    """A part of the run at a smaller image side.

    Attributes:
        side_px: of the model's square input.
        share: part of all optimiser steps.
    """

    side_px: int = Field(ge=4)
    share: float = Field(gt=0, lt=1)


class TrainConfig(_Settings):
    """One training run.

    Attributes:
        name: name of the adapter made.
        preset: "lite", "vit_b", "vit_l" or "vit_h".
        side_px: side of the square the model works on, in training and ever after; default the
            preset's own. A smaller one is faster, about as its square, and sees less. Only for
            backbones without a table of positions ("lite").
        out: folder of the run: best/ and last/ adapters, state, logs.
        seed: of initialisation, order, prompts and augmentation.
        epochs: passes over the (weighted) training set.
        batch_size: images per forward pass, of all processes together.
        accumulate: forward passes per optimiser step.
        precision: of the image encoder; "bfloat16" uses autocast.
        progressive: smaller image sides the run begins with, in this order; what their shares leave
            is trained at `side_px`. A step costs about as the square of the side.
        val_every: optimiser steps between validations; default once per epoch.
        val_limit: at most this many validation images, evenly spread.
        select: what makes an adapter the best.
        workers: processes that load images.
        cache: folder for image embeddings; needs a frozen encoder and no augmentation but flips.
        init_adapter: adapter folder to continue from.
        preference: makes the run stage two of preference optimisation, from `init_adapter`.
        text: words reach the decoder. Without, an image is asked by geometry or by nothing, and
            context tokens and text adapter do not learn.
        refine: refinement steps the adapter asks for at inference. With self-prompting it is one
            less than its passes instead.
        refine_with: what they take from a mask; default: what self-prompting does, and box and
            centroid without.
        terms: terms of the training data, for the adapter's card.
    """

    name: str
    preset: str = "lite"
    side_px: int | None = Field(None, ge=4)
    out: str = "runs"
    seed: int = 0
    data: DataSettings
    prompts: PromptConfig = PromptConfig()
    context: ContextSettings = ContextSettings()
    adapter: AdapterSettings = AdapterSettings()
    text: bool = True
    tokens: TokenSettings = TokenSettings()
    tuning: TuningSettings = TuningSettings()
    augment: AugmentConfig = AugmentConfig()
    loss: LossSettings = LossSettings()
    geometry: GeometrySettings = GeometrySettings()
    self_prompt: SelfPromptSettings = SelfPromptSettings()
    optim: OptimSettings = OptimSettings()
    epochs: float = Field(5, gt=0)
    batch_size: int = Field(1, ge=1)
    accumulate: int = Field(1, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    progressive: tuple[SmallerSide, ...] = ()
    device: str = "auto"
    val_every: int | None = Field(None, ge=1)
    val_limit: int | None = Field(None, ge=1)
    save_every: int = Field(100, ge=1)
    select: Literal["val_loss", "val_dice"] = "val_loss"
    workers: int = Field(0, ge=0)
    cache: str | None = None
    init_adapter: str | None = None
    # Left out of what is recorded where it is off, so that runs begun before it existed go on.
    preference: PreferenceSettings | None = Field(None, exclude_if=lambda value: value is None)
    refine: int = Field(2, ge=0)
    refine_with: RefineWith | None = None
    terms: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; choose one of {', '.join(PRESETS)}")
        if not self.text and self.prompts.negatives:
            raise ValueError(
                f"text is false and prompts.negatives is {self.prompts.negatives}; without a word "
                "nothing absent can be asked for: set prompts.negatives to 0"
            )
        layers = PRESETS[self.preset].text_layers
        if self.context.depth > layers:
            raise ValueError(
                f"context.depth is {self.context.depth}; the text encoder of {self.preset!r} has "
                f"{layers} layers"
            )
        if sum(part.share for part in self.progressive) >= 1:
            raise ValueError(
                "the shares of progressive add up to 1 or more; leave steps at the preset's side"
            )
        if self.preference is not None and self.init_adapter is None:
            raise ValueError(
                "preference needs init_adapter: the adapter of stage one, where stage two begins"
            )
        if self.cache is not None:
            if self.tuning.encoder != "frozen" and self.preference is None:
                raise ValueError(
                    f"cache needs tuning.encoder: frozen, not {self.tuning.encoder!r}: embeddings "
                    "of an encoder that learns go stale"
                )
            if not self.augment.only_flips():
                raise ValueError(
                    "cache needs an augment section with flips only: each embedding is computed "
                    "once per flip"
                )
        return self

    @property
    def inference(self) -> tuple[int, RefineWith]:
        """Refinement passes at inference, and what they take from a mask: as in training."""
        own = self.self_prompt
        if own.passes > 1:
            return own.passes - 1, self.refine_with or own.gives
        return self.refine, self.refine_with or RefineWith.BOX_CENTROID


def unused_settings(config: TrainConfig) -> dict[str, Any]:
    """Settings that came later and are at their defaults, as `exclude` of pydantic's dumps.

    What a run is recognised by leaves them out: one begun before they existed is the same run.
    """
    found: dict[str, Any] = {}
    for section, names in _ADDED.items():
        part: BaseModel = getattr(config, section) if section else config
        fields = type(part).model_fields
        unused = {name for name in names if getattr(part, name) == fields[name].get_default()}
        if section:
            found[section] = unused
        else:
            found.update(dict.fromkeys(unused, True))
    return {name: what for name, what in found.items() if what}


def _override(settings: dict[str, Any], assignment: str) -> None:
    path, separator, text = assignment.partition("=")
    if not separator or not path.strip():
        raise ConfigError(f"--set {assignment!r}: write it as a.b=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment!r}: the value is not YAML ({error})") from error
    *parents, last = path.strip().split(".")
    place = settings
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {assignment!r}: {parent!r} is a value, not a section")
    place[last] = value


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read and check a training configuration.

    Args:
        path: YAML file.
        overrides: assignments `a.b=value` that replace what the file says; values are YAML.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not describe a run; every wrong
            field is named.
    """
    path = Path(path)
    missing = f"no configuration at {path}; the ready ones are in configs/"
    settings = read_sections(path, missing)
    for assignment in overrides:
        _override(settings, assignment)
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        problems = invalid_fields(error, "configuration")
        raise ConfigError(f"{path}: {problems}") from error
