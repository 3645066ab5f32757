"""Deterministic weights for parity checks: every tensor is a function of its name.

The rule is that of the parity data: the CRC-32 of the name seeds NumPy's generator; matrices are
scaled by their fan-in, weights of norms lie around 1, biases around 0.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from textsam.model.backbones import Backbone, build_sam
from textsam.model.build import Architecture, BuiltModel, assemble
from textsam.model.state import load_exactly
from textsam.model.text_encoders import TextEncoder, build_biomedclip_text
from textsam.model.tuning import load_trainable, trainable_parameters

LORA_SCALE = 0.3


def seeded(name: str, shape: Iterable[int]) -> Tensor:
    """The tensor that belongs to a name."""
    size = tuple(shape)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = torch.from_numpy(rng.standard_normal(size, dtype=np.float32))
    if values.ndim > 1:
        return values / math.sqrt(math.prod(size[1:]))
    return 1 + 0.1 * values if name.endswith("weight") else 0.05 * values


def official_name(ours: str) -> str:
    """What the authors' checkpoint calls one of our trainable tensors."""
    rules = (
        (r"context\.tokens", r"prompt_encoder.prompt_learner.ctx"),
        (r"context\.deep\.(\d+)", r"prompt_encoder.prompt_learner.deep_prompts.\1"),
        (r"adapter\.fc1\.(.+)", r"prompt_encoder.text_head.0.\1"),
        (r"adapter\.fc2\.(.+)", r"prompt_encoder.text_head.2.\1"),
        (r"(image_encoder.+)\.([qv])\.lora_A\.weight", r"\1.linear_a_\2.weight"),
        (r"(image_encoder.+)\.([qv])\.lora_B\.weight", r"\1.linear_b_\2.weight"),
        (r"(mask_decoder.+)\.lora_A\.weight", r"\1.w_a.weight"),
        (r"(mask_decoder.+)\.lora_B\.weight", r"\1.w_b.weight"),
    )
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, ours):
            return match.expand(replacement)
    return ours


def seeded_backbone(backbone: Backbone) -> Backbone:
    """Fill a backbone by SAM's own checkpoint names."""
    parts = {
        "image_encoder": backbone.image_encoder,
        "prompt_encoder": backbone.prompt_encoder,
        "mask_decoder": backbone.mask_decoder,
    }
    state = {
        f"{part}.{name}": seeded(f"{part}.{name}", tensor.shape)
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    backbone.load(state, source="names")
    return backbone


def seeded_text_encoder(encoder: TextEncoder) -> TextEncoder:
    """Fill BiomedCLIP's text tower by open_clip's names."""

    def source(name: str) -> str:
        name = re.sub(r"^bert\.", "text.transformer.", name)
        return re.sub(r"^projection\.", "text.proj.", name)

    state = {n: seeded(source(n), t.shape) for n, t in encoder.state_dict().items()}
    load_exactly(encoder, state, source="names")
    return encoder


def seeded_learned(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trainable tensors, by the authors' names."""
    state = {}
    for name, tensor in own.items():
        values = seeded("textsam." + official_name(name), tensor.shape)
        state[name] = values * LORA_SCALE if ".lora_" in name else values
    return state


def seeded_vit_b(tokenizer: object, *, context_depth: int = 11) -> BuiltModel:
    """The `vit_b` whose every weight is a function of its name; rank 16, four context tokens."""
    encoder = build_biomedclip_text(tokenizer)  # type: ignore[arg-type]
    built = assemble(
        seeded_backbone(build_sam("vit_b")),
        seeded_text_encoder(encoder),
        Architecture(context_depth=context_depth),
    )
    own = {name: p.detach() for name, p in trainable_parameters(built.model).items()}
    load_trainable(built.model, seeded_learned(own), source="names")
    return built
