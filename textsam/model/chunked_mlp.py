"""The perceptron of SAM's ViT blocks, a few tokens at a time where nothing has to be remembered."""

from __future__ import annotations

import torch
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

__all__ = ["ChunkedMlp"]

_CHUNK_TOKENS = 1024


class ChunkedMlp(nn.Module):
    """`MLPBlock` under the same parameter names.

    On a CPU without gradients the hidden layer of all tokens of an image (50 MB for ViT-B) never
    exists at once: each chunk's stays in the cache.

    Args:
        block: SAM's own, whose layers are taken over.
    """

    def __init__(self, block: MLPBlock) -> None:
        super().__init__()
        self.lin1 = block.lin1
        self.lin2 = block.lin2
        self.act = block.act

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) tokens to (..., C)."""
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return self._map(x)
        chunks = x.flatten(0, -2).split(_CHUNK_TOKENS)  # type: ignore[no-untyped-call]
        return torch.cat([self._map(tokens) for tokens in chunks]).view(x.shape)

    def _map(self, x: Tensor) -> Tensor:
        mapped: Tensor = self.lin2(self.act(self.lin1(x)))
        return mapped
