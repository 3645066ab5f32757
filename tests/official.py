"""Checkpoints as the authors' code saves them, written from a model of ours."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from name_seeded import official_name
from tiny import randomise_lora, tiny_backbone, tiny_text_encoder
from torch import Tensor

from textsam.model.backbones import Backbone
from textsam.model.build import Architecture, BuiltModel, assemble
from textsam.model.text_encoders import TextEncoder
from textsam.model.tuning import Tuning, trainable_parameters, trainable_state

N_TOKENS = 4


@dataclass
class TinyOfficial:
    """Base weights, a model trained on them, and its checkpoint in the authors' naming."""

    backbone: Backbone
    text_encoder: TextEncoder
    built: BuiltModel
    state: dict[str, Tensor]

    def parts(self) -> tuple[Backbone, TextEncoder]:
        """Copies of the base weights, for another model."""
        return copy.deepcopy((self.backbone, self.text_encoder))


def tiny_official(
    classes: tuple[str, ...] = ("background", "tumor"), depth: int = 2
) -> TinyOfficial:
    """A trained model with 12 blocks, rank 2, and context tokens at `depth` of 3 layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone, encoder = tiny_backbone(depth=12), tiny_text_encoder(layers=3)
        built = assemble(
            *copy.deepcopy((backbone, encoder)),
            Architecture(context_tokens=N_TOKENS, context_depth=depth, tuning=Tuning(rank=2)),
        )
        for parameter in trainable_parameters(built.model).values():
            parameter.data += torch.randn_like(parameter) * 0.1
        randomise_lora(built.model)
        state = {
            **frozen_sam(backbone),
            **text_towers(encoder),
            **vision_towers(),
            **learned(built, depth),
            **class_embeddings(encoder, classes),
        }
    return TinyOfficial(backbone, encoder, built, state)


def frozen_sam(backbone: Backbone) -> dict[str, Tensor]:
    """What stays of SAM; the layers that LoRA wraps are one level further down."""
    state = {}
    parts = {
        "image_encoder": backbone.image_encoder,
        "prompt_encoder": backbone.prompt_encoder,
        "mask_decoder.transformer": backbone.mask_decoder.transformer,
    }
    for part, module in parts.items():
        for key, tensor in module.state_dict().items():
            name = key.replace(".attn.qkv.", ".attn.qkv.qkv.")
            for layer in ("q_proj.", "v_proj."):
                name = name.replace(layer, f"{layer}proj.")
            state[f"{part}.{name}"] = tensor
    return state


def text_towers(encoder: TextEncoder) -> dict[str, Tensor]:
    """The text tower, once as part of CLIP and once by itself."""
    state = {}
    for tower in ("prompt_encoder.clip_model.text_model", "prompt_encoder.text_encoder"):
        for key, tensor in encoder.bert.state_dict().items():
            state[f"{tower}.transformer.{key}"] = tensor
        for key, tensor in encoder.projection.state_dict().items():
            state[f"{tower}.proj.{key}"] = tensor
    return state


def vision_towers() -> dict[str, Tensor]:
    """CLIP's image side, which TextSAM does not use."""
    state = {}
    for tower in ("prompt_encoder.clip_model.vision_model", "prompt_encoder.image_encoder"):
        state[f"{tower}.trunk.blocks.0.attn.qkv.weight"] = torch.ones(6, 2)
        state[f"{tower}.head.proj.weight"] = torch.ones(2, 2)
    scale = torch.tensor(4.6)
    return {
        **state,
        "prompt_encoder.logit_scale": scale,
        "prompt_encoder.clip_model.logit_scale": scale,
    }


def learned(built: BuiltModel, depth: int) -> dict[str, Tensor]:
    """What was trained, and the last deep prompt, which their loop never reaches."""
    state = {official_name(n): t for n, t in trainable_state(built.model).items()}
    width = built.model.text_encoder.hidden_size
    state[f"prompt_encoder.prompt_learner.deep_prompts.{depth - 1}"] = torch.randn(N_TOKENS, width)
    return state


def class_embeddings(encoder: TextEncoder, classes: tuple[str, ...]) -> Mapping[str, Tensor]:
    """Word embeddings of "X X X X NAME." without the placeholders, padded."""
    tokenizer, table = encoder.tokenizer, encoder.bert.embeddings.word_embeddings.weight.detach()
    rows = []
    for name in classes:
        ids = tokenizer(f"{name}.")["input_ids"]
        padding = [tokenizer.pad_token_id] * (encoder.max_tokens - N_TOKENS - len(ids))
        rows.append(table[torch.tensor(ids + padding)])
    embeddings = torch.stack(rows)
    return {
        "prompt_encoder.prompt_learner.token_prefix": embeddings[:, :1],
        "prompt_encoder.prompt_learner.token_suffix": embeddings[:, 1:],
    }
