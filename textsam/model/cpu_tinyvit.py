"""TinyViT for inference on a CPU: the same sums, ordered so that they stay in the cache.

Written module by module, TinyViT at 256 px passes tensors of up to 67 MB from one operation to the
next, and a CPU spends more time moving than computing. Most of the network is local: a convolution
needs a row more on each side, attention looks inside windows, a multilayer perceptron at one token.
So the image goes through strip by strip, small enough for the cache, and activations are changed in
place. Windows at the edge are padded as TinyViT pads them, but what a padding token contributes is
a constant, computed once.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CpuTinyViT"]

_STEM_ROWS = 64
# Even, for the stem's stride of 2; three 3 x 3 convolutions spoil three rows at a cut.
_STEM_HALO = 4
_MLP_TOKENS = 1024


class CpuTinyViT(nn.Module):
    """A merged TinyViT with folded batch norms, for inference alone.

    Args:
        encoder: LiteMedSAM's TinyViT, in eval mode; its modules are left as they are.
        dtype: of weights and activations, float32 or bfloat16.
    """

    def __init__(self, encoder: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.patch_embed = _convolutions(encoder.patch_embed, dtype)
        stem = encoder.layers[0]
        self.stem = nn.ModuleList(_MBConv(block, dtype) for block in stem.blocks)
        self.stem_merging = _three(stem.downsample, dtype)
        self.layers = nn.ModuleList(_Layer(layer, dtype) for layer in encoder.layers[1:])
        self.neck = _neck(encoder.neck, dtype)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, one after the other.

        Args:
            images: (B, 3, S, S), normalised; S is the side its attentions were made for.

        Returns:
            (B, 256, S/4, S/4) of `dtype`.
        """
        # Everything is of one type already; autocast would turn norms back to float32.
        with torch.autocast("cpu", enabled=False):
            return torch.cat([self._embed(image[None]) for image in images])

    def _embed(self, image: Tensor) -> Tensor:
        x = image.to(self.dtype, memory_format=torch.channels_last)
        x = self._stem(self.patch_embed(x))
        for layer in self.layers:
            x = layer(x)
        embedding: Tensor = self.neck(x)
        return embedding

    def _stem(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        strips = []
        for first in range(0, height, _STEM_ROWS):
            top = max(0, first - _STEM_HALO)
            bottom = min(height, first + _STEM_ROWS + _STEM_HALO)
            # A copy, as the blocks change it in place.
            strip = x[:, :, top:bottom].clone(memory_format=torch.channels_last)
            for block in self.stem:
                strip = block(strip)
            strip = self.stem_merging(strip)
            skipped = (first - top) // 2
            strips.append(strip[:, :, skipped : skipped + _STEM_ROWS // 2])
        return torch.cat(strips, dim=2).contiguous(memory_format=torch.channels_last)


class _Gelu(nn.Module):
    """GELU in place. Channels-last memory is handed over as the plain array it is."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
        torch.ops.aten.gelu_(flat)
        return x


def _convolution(source: nn.Module, dtype: torch.dtype) -> nn.Conv2d:
    if not isinstance(source, nn.Conv2d):
        raise TypeError(f"fold batch norms first: got {type(source).__name__}")
    conv = nn.Conv2d(
        source.in_channels,
        source.out_channels,
        source.kernel_size,  # type: ignore[arg-type]
        source.stride,  # type: ignore[arg-type]
        source.padding,  # type: ignore[arg-type]
        groups=source.groups,
        bias=source.bias is not None,
    )
    conv.load_state_dict(source.state_dict())
    return conv.to(dtype, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload, no-any-return]


def _convolutions(module: nn.Module, dtype: torch.dtype) -> nn.Sequential:
    """The convolutions inside `module` in order, with a GELU between each two."""
    found = [_convolution(part, dtype) for part in module.modules() if isinstance(part, nn.Conv2d)]
    parts: list[nn.Module] = []
    for conv in found:
        parts += [conv, _Gelu()]
    return nn.Sequential(*parts[:-1])


def _three(part: Any, dtype: torch.dtype) -> nn.Sequential:
    """The convolutions of a block or of a patch merging."""
    return _convolutions(nn.ModuleList([part.conv1, part.conv2, part.conv3]), dtype)


class _MBConv(nn.Module):
    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.convolutions = _three(block, dtype)
        self.act = _Gelu()

    def forward(self, x: Tensor) -> Tensor:
        x = x.add_(self.convolutions(x))
        out: Tensor = self.act(x)
        return out


def _linear(source: nn.Linear, dtype: torch.dtype, rows: Tensor | None = None) -> nn.Linear:
    """A copy in `dtype`; its outputs times `rows`, where given."""
    linear = nn.Linear(source.in_features, source.out_features)
    linear.load_state_dict(source.state_dict())
    if rows is not None:
        with torch.no_grad():
            linear.weight.mul_(rows[:, None])
            linear.bias.mul_(rows)
    return linear.to(dtype).requires_grad_(False)


def _norm(source: nn.LayerNorm, dtype: torch.dtype) -> nn.LayerNorm:
    norm = nn.LayerNorm(source.normalized_shape, source.eps)
    norm.load_state_dict(source.state_dict())
    return norm.to(dtype).requires_grad_(False)


class _Attention(nn.Module):
    """Attention inside the windows of one row of windows; adds its result to the tokens."""

    def __init__(self, attention: Any, window: int, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.window = window
        self.heads: int = attention.num_heads
        self.depth: int = attention.key_dim
        self.n_windows = -(-columns // window)
        self.norm = _norm(attention.norm, dtype)
        # The scale goes into the rows of the queries; qkv lies head by head.
        scale = torch.ones(self.heads, 3, self.depth)
        scale[:, 0] = attention.scale
        self.qkv = _linear(attention.qkv, dtype, scale.flatten())
        self.proj = _linear(attention.proj, dtype)
        biases = attention.attention_biases.detach()[:, attention.attention_bias_idxs]
        repeated = biases.to(dtype).repeat(self.n_windows, 1, 1)
        self.register_buffer("biases", repeated, persistent=False)
        self.biases: Tensor
        with torch.no_grad():  # TinyViT pads before the norm, so a padding token is norm(0)
            nothing = torch.zeros(1, attention.norm.normalized_shape[0], dtype=dtype)
            padding = self.qkv(self.norm(nothing))
        grid = padding.expand(window, self.n_windows * window, -1).clone()
        self.register_buffer("grid", grid, persistent=False)
        self.grid: Tensor

    def forward(self, tokens: Tensor) -> None:
        """Change (rows, W, C) tokens, at most `window` rows, in place."""
        rows, width, channels = tokens.shape
        window, count = self.window, self.n_windows
        flat = tokens.view(-1, channels)
        grid = self.grid.clone()
        grid[:rows, :width] = self.qkv(self.norm(flat)).view(rows, width, -1)
        parts = grid.view(window, count, window, self.heads, 3, self.depth)
        q, k, v = parts.permute(4, 1, 3, 0, 2, 5).reshape(
            3, count * self.heads, window * window, self.depth
        )
        scores = torch.bmm(q, k.transpose(1, 2)).add_(self.biases)
        mixed = torch.bmm(scores.softmax(-1), v)
        mixed = mixed.view(count, self.heads, window, window, self.depth).permute(2, 0, 3, 1, 4)
        mixed = mixed.reshape(window, count * window, channels)[:rows, :width]
        flat += self.proj(mixed.reshape(-1, channels))


class _Mlp(nn.Module):
    def __init__(self, mlp: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = _norm(mlp.norm, dtype)
        self.fc1 = _linear(mlp.fc1, dtype)
        self.fc2 = _linear(mlp.fc2, dtype)
        self.act = _Gelu()

    def forward(self, tokens: Tensor) -> None:
        """Change (n, C) tokens in place."""
        for some in tokens.split(_MLP_TOKENS):  # type: ignore[no-untyped-call]
            some.add_(self.fc2(self.act(self.fc1(self.norm(some)))))


class _Layer(nn.Module):
    """A stage of TinyViT: blocks of attention, 3 x 3 convolution and MLP, then a merging."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            _Attention(block.attn, block.window_size, layer.input_resolution[1], dtype)
            for block in layer.blocks
        )
        self.convolutions = nn.ModuleList(
            _convolution(block.local_conv, dtype) for block in layer.blocks
        )
        self.mlps = nn.ModuleList(_Mlp(block.mlp, dtype) for block in layer.blocks)
        merging = layer.downsample
        self.merging = None if merging is None else _three(merging, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (1, C, H, W), channels last, to the next stage's; `x` is changed."""
        for attention, convolution, mlp in zip(
            self.attentions, self.convolutions, self.mlps, strict=True
        ):
            tokens = x.permute(0, 2, 3, 1)[0]
            for rows in tokens.split(attention.window):  # type: ignore[no-untyped-call]
                attention(rows)
            x = convolution(x)
            mlp(x.permute(0, 2, 3, 1).flatten(0, 2))
        return x if self.merging is None else self.merging(x)


def _neck(source: nn.Module, dtype: torch.dtype) -> nn.Sequential:
    """A copy of TinyViT's neck: convolution, norm, convolution, norm."""
    neck = deepcopy(source).to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    neck.requires_grad_(False)
    return neck  # type: ignore[no-any-return]
