"""SAM's ViT blocks as whole matrix products, which a graph can hold.

Our own blocks go through the scores in chunks that fit a CPU's cache. A graph has no loops: every
chunk would become nodes of its own, tens of thousands in ViT-B. ONNX Runtime has its own ways to
save time and memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from textsam.model.chunked_mlp import ChunkedMlp
from textsam.model.relpos_attention import RelativePositionAttention, by_distance

__all__ = ["plain_blocks"]


class _PlainAttention(nn.Module):
    """`RelativePositionAttention` with all scores at once."""

    def __init__(self, attention: RelativePositionAttention) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """Attend among (B, H, W, C) tokens."""
        batch, height, width, channels = x.shape
        n_tokens, heads = height * width, batch * self.num_heads
        qkv = self.qkv(x).reshape(batch, n_tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, heads, n_tokens, -1).unbind()
        grid = q.reshape(heads, height, width, -1)
        # (b, y, x, d) · (y, d, y'), and the same the other way round.
        rows = grid @ by_distance(self.rel_pos_h, height).transpose(1, 2)
        columns = grid.transpose(1, 2) @ by_distance(self.rel_pos_w, width).transpose(1, 2)
        columns = columns.transpose(1, 2)
        scores = ((q * self.scale) @ k.transpose(1, 2)).view(heads, height, width, height, width)
        scores = scores + rows[..., :, None] + columns[..., None, :]
        mixed = scores.reshape(heads, n_tokens, n_tokens).softmax(-1) @ v
        mixed = mixed.view(batch, self.num_heads, n_tokens, -1).transpose(1, 2)
        out: Tensor = self.proj(mixed.reshape(batch, height, width, channels))
        return out


@contextmanager
def plain_blocks(encoder: nn.Module) -> Iterator[None]:
    """While it lasts, `encoder` computes in whole matrix products, with its own parameters."""
    replaced: dict[str, nn.Module] = {}
    for name, module in list(encoder.named_modules()):
        if isinstance(module, RelativePositionAttention):
            replaced[name] = module
            encoder.set_submodule(name, _PlainAttention(module).eval())
        elif isinstance(module, ChunkedMlp):
            replaced[name] = module
            encoder.set_submodule(name, nn.Sequential(module.lin1, module.act, module.lin2).eval())
    try:
        yield
    finally:
        for name, module in replaced.items():
            encoder.set_submodule(name, module)
