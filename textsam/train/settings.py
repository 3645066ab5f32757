"""The sections of a training configuration that say what learns, and how."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, model_validator

from textsam.inference.refinement import RefineWith
from textsam.sections import Section

__all__ = [
    "LEVELS",
    "AdapterSettings",
    "BoxShift",
    "ContextSettings",
    "DistillationSettings",
    "GeometrySettings",
    "LossSettings",
    "OptimSettings",
    "SelfPromptSettings",
    "SmallerSide",
    "TokenSettings",
    "TuningSettings",
]


class ContextSettings(Section):
    """b context tokens at depth t.

    Attributes:
        n_tokens: b.
        depth: t. A training configuration that does not give it takes all layers of its preset's
            text encoder, which are as many as here in the paper.
        text_dropout: the frozen text encoder's dropout stays on in training, as in the authors'
            code.
    """

    n_tokens: int = Field(4, ge=1)
    depth: int = Field(12, ge=1)
    text_dropout: bool = False


class AdapterSettings(Section):
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


class TuningSettings(Section):
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


class TokenSettings(Section):
    """Learned tokens beside every prompt (Funai et al.).

    Attributes:
        count: how many; 0 for none.
        width: dimensions they are learned in, before a linear layer lifts them to the decoder's.
    """

    count: int = Field(0, ge=0)
    width: int = Field(128, ge=1)


class LossSettings(Section):
    """Weights of the loss terms, and where the loss is computed.

    Attributes:
        bce: weight of binary cross-entropy.
        dice: weight of Dice loss.
        empty: weight, within the Dice term, of masks where there should be none.
        iou: weight of the squared error of the predicted IoU.
        resolution: "model" compares logits and masks in the model's frame; "image" resizes the
            logits to the image's own pixels, as in the paper.
    """

    bce: float = Field(1.0, ge=0)
    dice: float = Field(1.0, ge=0)
    iou: float = Field(0.0, ge=0)
    empty: float = Field(0.0, ge=0)
    resolution: Literal["model", "image"] = "model"

    @model_validator(mode="after")
    def _teaches(self) -> LossSettings:
        if self.bce + self.dice + self.iou == 0:
            raise ValueError("bce, dice and iou are all 0, so nothing would be learned")
        if self.empty > 0 and self.dice == 0:
            raise ValueError("empty is a weight within the Dice term, and dice is 0")
        return self


class BoxShift(Section):
    """A shift of a box's sides.

    Attributes:
        by: part of the box's width or height; each side moves by it, in or out by a coin toss.
        p: its chance among all shifts.
    """

    by: float = Field(ge=0, lt=0.5)
    p: float = Field(gt=0, le=1)


class GeometrySettings(Section):
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
        in_validation: give geometry in validation, too, as often.
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
        if self.in_validation and self.probability == 0:
            raise ValueError("geometry.in_validation gives none, as geometry.probability is 0")
        if self.shifts and abs(sum(one.p for one in self.shifts) - 1) > 1e-6:
            raise ValueError("the chances p of geometry.shifts do not add up to 1")
        return self


class DistillationSettings(Section):
    """The pull of earlier passes towards the last.

    Attributes:
        weight: of the term in the loss; 0 for none.
        temperature: T, by which the logits of both are divided.
    """

    weight: float = Field(0.0, ge=0)
    temperature: float = Field(1.0, gt=0)


class SelfPromptSettings(Section):
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


class OptimSettings(Section):
    """AdamW and its schedule.

    Attributes:
        lr: rate of everything without a rate of its own.
        lr_encoder: rate of the image encoder's parameters; default `lr`.
        lr_text: rate of context tokens and adapter; default `lr`.
        schedule: "cosine" to `lr_final_fraction`, or "constant".
        warmup_steps: linear rise at the start.
        restart: with `progressive`, warm-up and schedule begin anew at each side. Without, one
            cosine spans them all, and the last sides learn next to nothing.
        grad_clip: largest gradient norm, or None.
    """

    lr: float = Field(1e-3, gt=0)
    lr_encoder: float | None = Field(None, gt=0)
    lr_text: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    lr_final_fraction: float = Field(0.0, ge=0, le=1)
    warmup_steps: int = Field(0, ge=0)
    restart: bool = False
    grad_clip: float | None = Field(None, gt=0)


class SmallerSide(Section):
    """A part of the run at a smaller image side.

    Attributes:
        side_px: of the model's square input.
        share: part of all optimiser steps.
    """

    side_px: int = Field(ge=4)
    share: float = Field(gt=0, lt=1)
