"""Which parameters learn: LoRA, heads, context and adapter; everything else stays frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from textsam.errors import AdapterError, ConfigError
from textsam.model.backbones import Backbone
from textsam.model.lora import inject_lora, merge_lora, split_fused_qkv
from textsam.model.state import differences
from textsam.model.textsam import TextSAM

__all__ = [
    "Tuning",
    "apply_tuning",
    "fold_batch_norms",
    "load_trainable",
    "merge_for_inference",
    "trainable_parameters",
    "trainable_state",
]


@dataclass(frozen=True)
class Tuning:
    """What of a TextSAM is trained. The defaults are the paper's.

    Attributes:
        rank: LoRA rank r of encoder and decoder.
        encoder: "lora" adapts `encoder_targets`; "full" trains the encoder itself but for the
            backbone's fixed parts; "frozen" leaves it.
        encoder_targets: layer names inside the encoder; `qkv.q` and `qkv.v` of every attention.
        decoder: "lora" adapts q and v of every attention of the two-way transformer and trains the
            decoder's heads; "heads" trains the heads alone; "full" trains all of the decoder.
        prompt_embeddings: train SAM's own embeddings of points and box corners, too.
    """

    rank: int = 16
    encoder: Literal["lora", "full", "frozen"] = "lora"
    encoder_targets: tuple[str, ...] = ("qkv.q", "qkv.v")
    decoder: Literal["lora", "heads", "full"] = "lora"
    prompt_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"LoRA rank is {self.rank}; give at least 1")


def apply_tuning(model: TextSAM, backbone: Backbone, tuning: Tuning) -> None:
    """Freeze the model, inject LoRA and mark what learns, in place.

    Learns: LoRA matrices, the decoder outside its transformer (tokens, upscaling, hyper-networks,
    IoU head) or all of it, the context tokens, the adapter and the learned prompt tokens, where
    there are any.
    """
    model.requires_grad_(False)
    if tuning.encoder == "lora":
        split_fused_qkv(model.image_encoder, backbone.qkv_layout)
        inject_lora(model.image_encoder, tuning.encoder_targets, tuning.rank)
    elif tuning.encoder == "full":
        for name, parameter in model.image_encoder.named_parameters():
            fixed = any(name.startswith(part + ".") for part in backbone.fixed_parts)
            parameter.requires_grad_(not fixed)
        for part in backbone.fixed_parts:
            fold_batch_norms(model.image_encoder.get_submodule(part))
    if tuning.decoder == "lora":
        inject_lora(model.mask_decoder.transformer, ("q_proj", "v_proj"), tuning.rank)
    for name, parameter in model.mask_decoder.named_parameters():
        if tuning.decoder == "full" or not name.startswith("transformer."):
            parameter.requires_grad_(True)
    if tuning.prompt_embeddings:
        # What is added to the position of a point (Funai et al.: "learned embedding").
        model.prompt_encoder.point_embeddings.requires_grad_(True)
        model.prompt_encoder.not_a_point_embed.requires_grad_(True)
    model.context.requires_grad_(model.takes_text)
    model.adapter.requires_grad_(model.takes_text)
    if model.learned_tokens is not None:
        model.learned_tokens.requires_grad_(True)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that learns, under the names an adapter file uses."""
    return {
        name.replace(".default.weight", ".weight"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Name -> detached copy of everything that learns: the contents of an adapter."""
    return {name: p.detach().clone() for name, p in trainable_parameters(model).items()}


def load_trainable(model: TextSAM, state: dict[str, Tensor], *, source: str) -> None:
    """Load an adapter's tensors into a tuned model, exactly.

    Raises:
        AdapterError: names, shapes or kinds of number differ, or numbers are not finite; nothing is
            loaded then.
    """
    own = trainable_parameters(model)
    if problems := differences(own, state):
        raise AdapterError(f"{source} does not fit this model: " + "; ".join(problems))
    for name, parameter in own.items():
        parameter.data.copy_(state[name])
    # TinyViT caches its attention bias on entering eval mode: renew it.
    model.train(model.training)


def merge_for_inference(model: TextSAM) -> None:
    """Merge LoRA into the weights, fold batch norms into convolutions and freeze, in place.

    Outputs agree with the unmerged model to rounding (1e-4 in float32).
    """
    model.eval()
    merge_lora(model.image_encoder)
    merge_lora(model.mask_decoder)
    fold_batch_norms(model.image_encoder)
    model.requires_grad_(False)
    model.eval()


def fold_batch_norms(module: nn.Module) -> None:
    """Replace every pair of convolution and batch norm by the one convolution it amounts to."""
    for name, part in list(module.named_modules()):
        # TinyViT's pair knows how to become one convolution.
        if type(part).__name__ == "Conv2d_BN":
            module.set_submodule(name, part.fuse().requires_grad_(False))
