"""LoRA on query and value projections: split the fused qkv, let PEFT adapt q and v, merge back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from textsam.errors import ConfigError

__all__ = ["SplitQKV", "inject_lora", "merge_lora", "split_fused_qkv"]

Layout = Literal["blocks", "per_head"]


class SplitQKV(nn.Module):
    """A fused qkv projection as three linear layers with the same output.

    PEFT on the fused layer would change k as well; split, it reaches q and v alone.

    Args:
        fused: linear layer of width 3·d.
        n_heads: attention heads.
        layout: order of the fused output. "blocks" is `[q | k | v]` (SAM's ViT), "per_head" is
            `[q k v]` of head 1, then of head 2, … (TinyViT).
    """

    def __init__(self, fused: nn.Linear, n_heads: int, layout: Layout) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.layout: Layout = layout
        width = fused.out_features // 3
        for name, rows in zip("qkv", self._rows(fused.out_features), strict=True):
            part = nn.Linear(
                fused.in_features,
                width,
                bias=fused.bias is not None,
                device=fused.weight.device,
                dtype=fused.weight.dtype,
            )
            part.weight = nn.Parameter(fused.weight.detach()[rows].clone())
            if fused.bias is not None:
                part.bias = nn.Parameter(fused.bias.detach()[rows].clone())
            self.add_module(name, part)

    def _rows(self, out_features: int) -> tuple[Tensor, Tensor, Tensor]:
        order = torch.arange(out_features)
        if self.layout == "blocks":
            q, k, v = order.view(3, -1)
        else:
            q, k, v = order.view(self.n_heads, 3, -1).permute(1, 0, 2).reshape(3, -1)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to (..., 3·d) in the layout of the fused layer."""
        parts = [self.get_submodule(name)(x) for name in "qkv"]
        if self.layout == "blocks":
            return torch.cat(parts, dim=-1)
        heads = [part.unflatten(-1, (self.n_heads, -1)) for part in parts]
        return torch.cat(heads, dim=-1).flatten(-2)

    def fuse(self) -> nn.Linear:
        """The one linear layer that computes the same."""
        parts = [self.get_submodule(name) for name in "qkv"]
        if not all(type(part) is nn.Linear for part in parts):
            raise TypeError("merge LoRA before fusing q, k and v")
        q, k, v = (part for part in parts if isinstance(part, nn.Linear))
        has_bias = q.bias is not None
        fused = nn.Linear(
            q.in_features,
            3 * q.out_features,
            bias=has_bias,
            device=q.weight.device,
            dtype=q.weight.dtype,
        )
        with torch.no_grad():
            for part, rows in zip((q, k, v), self._rows(fused.out_features), strict=True):
                fused.weight[rows] = part.weight
                if has_bias:
                    fused.bias[rows] = part.bias
        return fused


def split_fused_qkv(module: nn.Module, layout: Layout) -> list[str]:
    """Split every attention's `qkv` inside `module`, in place.

    Returns:
        The names of the attention modules changed.
    """
    changed = []
    for name, attention in list(module.named_modules()):
        fused = getattr(attention, "qkv", None)
        if isinstance(fused, nn.Linear):
            attention.qkv = SplitQKV(fused, attention.num_heads, layout)
            changed.append(name)
    return changed


def inject_lora(module: nn.Module, targets: Iterable[str], rank: int) -> None:
    """Put `W + B·A` of the given rank on every linear layer whose name ends in one of `targets`.

    alpha equals the rank, so that B·A is added unscaled as in the authors' code. A is
    Kaiming-uniform, B zero: the model starts as it was. Everything else in `module` is frozen.

    Raises:
        ConfigError: no target, one that no layer has, or one of a layer that is not linear.
    """
    names = list(targets)
    if not names:
        raise ConfigError("LoRA has no target; name layers, such as qkv.q and qkv.v")
    for target in names:
        _check_target(module, target)
    config = LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules=names
    )
    inject_adapter_in_model(config, module)


def _check_target(module: nn.Module, target: str) -> None:
    layers = dict(module.named_modules())
    named = {n: one for n, one in layers.items() if n == target or n.endswith(f".{target}")}
    others = [name for name, one in named.items() if not isinstance(one, nn.Linear)]
    if others:
        raise ConfigError(
            f"the LoRA target {target!r} is also {others[0]}, a {type(named[others[0]]).__name__} "
            f"and no linear layer; name linear layers, with more of their path: attn.{target}"
        )
    if not named:
        linear = (name for name, one in layers.items() if isinstance(one, nn.Linear))
        ends = sorted({".".join(name.split(".")[-2:]) for name in linear})
        raise ConfigError(
            f"no layer has the LoRA target {target!r}; the linear ones end in {', '.join(ends)}"
        )


def merge_lora(module: nn.Module) -> None:
    """Add every B·A to its weight, drop the LoRA layers and fuse q, k, v again, in place.

    The module computes the same afterwards (to rounding) at the cost of the base model.
    """
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLinear):
            layer.merge()
            module.set_submodule(name, layer.get_base_layer())
    for name, layer in list(module.named_modules()):
        if isinstance(layer, SplitQKV):
            module.set_submodule(name, layer.fuse())
