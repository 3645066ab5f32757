"""A training run's settings: every YAML in configs/ is one of these, checked when read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from textsam.data.ask import PromptConfig
from textsam.data.augment_config import AugmentConfig
from textsam.data.settings import DataSettings
from textsam.errors import ConfigError
from textsam.inference.refinement import RefineWith
from textsam.invalid import invalid_fields
from textsam.io.folder_name import folder_name_fault
from textsam.presets import PRESETS
from textsam.sections import Section, read_sections, yaml_value
from textsam.train.preference_config import PreferenceSettings
from textsam.train.settings import (
    AdapterSettings,
    ContextSettings,
    GeometrySettings,
    LossSettings,
    OptimSettings,
    SelfPromptSettings,
    SmallerSide,
    TokenSettings,
    TuningSettings,
)

__all__ = ["WITHOUT_EFFECT", "TrainConfig", "read_config", "unused_settings", "without_effect"]

WITHOUT_EFFECT = frozenset({"out", "device", "workers", "save_every", "cache"})
"""Settings of a `TrainConfig` that do not change what a run learns, only where and how it runs."""


# Settings that runs of before did not have, by section; "" is the top level.
_ADDED: Mapping[str, tuple[str, ...]] = {
    "": ("side_px", "text", "tokens", "self_prompt", "refine_with"),
    "prompts": ("kin_weight",),
    "augment": (
        *("extra", "no_up", "gain_p", "gain", "levels_p", "levels", "grain"),
        *("close_crop_p", "close_crop", "heal_p", "heal"),
    ),
    "loss": ("empty",),
    "optim": ("restart",),
    "tuning": ("prompt_embeddings",),
    "geometry": ("kinds", "shifts", "text_p", "earlier_p", "in_validation"),
}


class TrainConfig(Section):
    """One training run.

    Attributes:
        name: name of the adapter made, and of its folder in `out`: letters, digits, ., -, + and _.
        preset: "lite", "vit_b", "vit_l" or "vit_h".
        side_px: side of the square the model works on, in training and ever after; default the
            preset's own. A smaller one is faster, about as its square, and sees less. Only for
            backbones without a table of positions ("lite").
        out: folder of the run: best/ and last/ adapters, state, logs.
        seed: of initialisation, order, prompts and augmentation; 0 or more.
        epochs: passes over the (weighted) training set.
        batch_size: images per forward pass, of all processes together.
        accumulate: forward passes per optimiser step.
        precision: of image encoder and decoder; "bfloat16" uses autocast.
        progressive: smaller image sides the run begins with, in this order; what their shares leave
            is trained at `side_px`. A step costs about as the square of the side.
        val_every: optimiser steps between validations; default once per epoch.
        val_limit: at most this many validation images, evenly spread.
        select: what makes an adapter the best; with "last" it is that of the last validation.
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
    seed: int = Field(0, ge=0, lt=2**63)  # torch takes no larger one
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
    select: Literal["val_loss", "val_dice", "last"] = "val_loss"
    workers: int = Field(0, ge=0)
    cache: str | None = None
    init_adapter: str | None = None
    # Left out of what is recorded where it is off, so that runs begun before it existed go on.
    preference: PreferenceSettings | None = Field(None, exclude_if=lambda value: value is None)
    refine: int = Field(2, ge=0)
    refine_with: RefineWith | None = None
    terms: str = ""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if fault := folder_name_fault(name):
            raise ValueError(fault)
        return name

    @model_validator(mode="before")
    @classmethod
    def _all_text_layers(cls, settings: Any) -> Any:
        """Give `context.depth` its default, which depends on the preset."""
        if not isinstance(settings, Mapping):
            return settings
        name = settings.get("preset", cls.model_fields["preset"].default)
        context = settings.get("context", {})
        if isinstance(context, ContextSettings):
            context = context.model_dump(exclude_unset=True)
        if not (isinstance(name, str) and name in PRESETS and isinstance(context, Mapping)):
            return settings  # the fields themselves refuse it
        depth = PRESETS[name].text_layers
        return {**settings, "context": {"depth": depth, **context}}

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
        if sum(part.share for part in self.progressive) > 1 - 1e-9:  # 0.7 + 0.2 + 0.1 is below 1
            raise ValueError(
                "the shares of progressive add up to 1 or more; leave steps at the preset's side"
            )
        if self.preference is not None and self.init_adapter is None:
            raise ValueError(
                "preference needs init_adapter: the adapter of stage one, where stage two begins"
            )
        if self.preference is not None and self.preference.has_unlabelled:
            looking = self.augment.looks_at_masks()
            if looking:
                raise ValueError(
                    f"augment.{looking[0]} changes an image by what its masks show, and those of "
                    "unlabelled images are for the rater alone; leave it out, or set "
                    "augment.keep_fraction to 0 for affine_p and extra"
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
        unused = {
            name
            for name in names
            if getattr(part, name) == fields[name].get_default(call_default_factory=True)
        }
        if section:
            found[section] = unused
        else:
            found.update(dict.fromkeys(unused, True))
    return {name: what for name, what in found.items() if what}


def without_effect(config: TrainConfig) -> dict[str, Any]:
    """Settings a run is not recognised by, as `exclude` of pydantic's dumps.

    `WITHOUT_EFFECT` and `unused_settings`.
    """
    return {**dict.fromkeys(WITHOUT_EFFECT, True), **unused_settings(config)}


def _override(settings: dict[str, Any], assignment: str) -> None:
    path, separator, text = assignment.partition("=")
    if not separator or not path.strip():
        raise ConfigError(f"--set {assignment!r}: write it as a.b=value")
    try:
        value = yaml_value(text, lambda _: f"--set {assignment!r}")
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
        problems = invalid_fields(error, "configuration", model=TrainConfig)
        raise ConfigError(f"{path}: {problems}") from error
