"""SAM's attention with decomposed relative positions, without ever holding all of its scores.

SAM's ViT adds to every score a row term and a column term that depend on the query (Li et al. 2022,
"MViTv2"; segment-anything `modeling/image_encoder.py`). Written plainly, a global layer at 1024 px
makes four tensors of heads x 4096 x 4096 numbers: 0.8 GB each for ViT-B in float32. Here

* on a CPU the scores of some rows of one head are made, used and dropped while they are in the
  cache; the gradient makes them again, so that training keeps none of them either;
* elsewhere the two terms become further dimensions of query and key, so that PyTorch's fused
  attention, which takes no such terms, computes the same sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

__all__ = ["RelativePositionAttention", "attend_by_chunks", "attend_fused", "by_distance"]

# Scores held at once: 8 MB in float32, a share of a core's part of the last cache level.
_CHUNK_SCORES = 1 << 21
_CHUNK_TOKENS = 1024


class RelativePositionAttention(nn.Module):
    """The attention of SAM's ViT blocks, under the same parameter names.

    Args:
        attention: SAM's own, whose parameters are taken over.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.scale = attention.scale
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.rel_pos_h = attention.rel_pos_h
        self.rel_pos_w = attention.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """Attend among the tokens of a window or an image.

        Args:
            x: (B, H, W, C).

        Returns:
            (B, H, W, C).
        """
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            # A few windows at a time stay in the cache, and large allocations are slow.
            few = max(1, _CHUNK_TOKENS // (x.shape[1] * x.shape[2]))
            if few < len(x):
                parts = range(0, len(x), few)
                return torch.cat([self._attend(x[first : first + few]) for first in parts])
        return self._attend(x)

    def _attend(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).view(batch, height, width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).flatten(1, 2).unbind()
        rows = torch.einsum("bhwc,hkc->bhwk", q, by_distance(self.rel_pos_h, height).to(q.dtype))
        columns = torch.einsum("bhwc,wkc->bhwk", q, by_distance(self.rel_pos_w, width).to(q.dtype))
        rows, columns = rows.contiguous(), columns.contiguous()
        q, k, v = (q * self.scale).flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)
        attend = attend_by_chunks if x.device.type == "cpu" else attend_fused
        mixed = attend(q, k, v, rows, columns)
        heads = mixed.view(batch, self.num_heads, height, width, -1)
        out: Tensor = self.proj(heads.permute(0, 2, 3, 1, 4).flatten(3))
        return out


def by_distance(relative: Tensor, size: int) -> Tensor:
    """(2·size - 1, d) embeddings of distances -> (size, size, d) of query and key positions."""
    positions = torch.arange(size, device=relative.device)
    return relative[positions[:, None] - positions[None, :] + size - 1]


def attend_fused(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`attend_by_chunks` by PyTorch's fused attention.

    q · k + rows[y'] + columns[x'] is one product of [q, rows, columns] with [k, onehot(y'),
    onehot(x')], where (y', x') is the key's position.
    """
    height, width, depth = rows.shape[-1], columns.shape[-1], v.shape[-1]
    row = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, dim=0)
    column = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
    place = torch.cat([row, column], dim=1)
    longer_q = torch.cat([q, rows.flatten(1, 2), columns.flatten(1, 2)], dim=-1)
    longer_k = torch.cat([k, place.expand(len(k), -1, -1)], dim=-1)
    # The fused kernels want heads of one width; theirs must be a multiple of 8.
    spare = -longer_q.shape[-1] % 8
    longer_q, longer_k = F.pad(longer_q, (0, spare)), F.pad(longer_k, (0, spare))
    longer_v = F.pad(v, (0, longer_q.shape[-1] - depth))
    mixed = F.scaled_dot_product_attention(longer_q, longer_k, longer_v, scale=1.0)
    return mixed[..., :depth]


def attend_by_chunks(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """softmax(q · k + row term + column term) · v, a few scores at a time.

    Args:
        q, k, v: (B, H·W, d), q scaled already.
        rows: (B, H, W, H), what a query (y, x) adds for keys of row y'.
        columns: (B, H, W, W), what it adds for keys of column x'.

    Returns:
        (B, H·W, d).
    """
    mixed: Tensor = _ByChunks.apply(q, k, v, rows, columns)
    return mixed


def _chunks(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of (batch·heads, image rows) whose scores fit the budget."""
    batch, height, width, _ = rows.shape
    keys = height * width
    heads = max(1, _CHUNK_SCORES // (keys * keys))
    lines = max(1, min(height, _CHUNK_SCORES // (width * keys)))
    for first in range(0, batch, heads):
        for top in range(0, height, lines):
            yield slice(first, min(first + heads, batch)), slice(top, min(top + lines, height))


def _probabilities(q: Tensor, keys: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(b, n, N) softmax of the scores of the queries of some image rows.

    Args:
        q: (b, n, d). keys: (b, d, N). rows: (b, lines, W, H). columns: (b, lines, W, W).
    """
    height, width = rows.shape[-1], columns.shape[-1]
    terms = (rows[..., :, None] + columns[..., None, :]).view(len(q), -1, height * width)
    return torch.baddbmm(terms, q, keys, out=terms).softmax(-1)


class _ByChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        width = rows.shape[2]
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        keys = k.transpose(1, 2)
        with torch.autocast("cpu", enabled=False):
            for some, lines in _chunks(rows):
                tokens = slice(lines.start * width, lines.stop * width)
                share = _probabilities(
                    q[some, tokens], keys[some], rows[some, lines], columns[some, lines]
                )
                out[some, tokens] = share @ v[some]
        ctx.save_for_backward(q, k, v, rows, columns, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        q, k, v, rows, columns, out = ctx.saved_tensors
        d_out = gradients[0].to(out.dtype)
        _, height, width, _ = rows.shape
        keys, values = k.transpose(1, 2), v.transpose(1, 2)
        d_q, d_rows, d_columns = (
            torch.empty_like(q),
            torch.empty_like(rows),
            torch.empty_like(columns),
        )
        # Sums over many chunks, so in full precision.
        total = torch.promote_types(k.dtype, torch.float32)
        # Transposed: a product then never needs the scores the other way round, which costs a copy.
        d_keys = torch.zeros_like(keys, dtype=total, memory_format=torch.contiguous_format)
        d_values = torch.zeros_like(d_keys)
        with torch.autocast("cpu", enabled=False):
            # What the softmax's gradient subtracts: sum over keys of p · dp, which is out · d_out.
            inner = (out * d_out).sum(-1, keepdim=True)
            for some, lines in _chunks(rows):
                tokens = slice(lines.start * width, lines.stop * width)
                asked, wanted = q[some, tokens], d_out[some, tokens]
                share = _probabilities(asked, keys[some], rows[some, lines], columns[some, lines])
                d_values[some] += wanted.transpose(1, 2) @ share
                d_score = (wanted @ values[some]).sub_(inner[some, tokens]).mul_(share)
                d_q[some, tokens] = d_score @ k[some]
                d_keys[some] += asked.transpose(1, 2) @ d_score
                grid = d_score.view(-1, lines.stop - lines.start, width, height, width)
                d_rows[some, lines] = grid.sum(-1)
                d_columns[some, lines] = grid.sum(-2)
        d_k, d_v = (summed.transpose(1, 2).to(k.dtype) for summed in (d_keys, d_values))
        return d_q, d_k, d_v, d_rows, d_columns
