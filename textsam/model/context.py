"""Learnable context tokens (CoOp), shallow and deep."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textsam.errors import ConfigError

__all__ = ["ContextTokens"]


class ContextTokens(nn.Module):
    """The b context tokens that stand right after `[CLS]`, and fresh ones for deeper layers.

    At depth t the tokens of layers 1…t are learned: layer 1 gets `tokens`, layers 2…t get
    `deep[0]`…`deep[t-2]` in place of what the layer before made of them. Layers beyond t see the
    output of the layer before. (TextSAM-EUS, section on prompt learning; the authors' code stops
    one layer early.)

    Args:
        n_tokens: b, at least 1.
        depth: t, from 1 to `n_layers`.
        hidden_size: width of the text encoder.
        n_layers: layers of the text encoder.
        std: deviation of the normal initialisation.

    Raises:
        ConfigError: `n_tokens` or `depth` out of range.
    """

    def __init__(
        self, n_tokens: int, depth: int, hidden_size: int, n_layers: int, std: float = 0.02
    ) -> None:
        super().__init__()
        if n_tokens < 1:
            raise ConfigError(f"context.n_tokens is {n_tokens}; give at least 1")
        if not 1 <= depth <= n_layers:
            raise ConfigError(
                f"context.depth is {depth}; this text encoder has {n_layers} layers: "
                f"give 1 to {n_layers}"
            )
        self.tokens = nn.Parameter(torch.empty(n_tokens, hidden_size).normal_(std=std))
        self.deep = nn.ParameterList(
            nn.Parameter(torch.empty(n_tokens, hidden_size).normal_(std=std))
            for _ in range(depth - 1)
        )

    @property
    def n_tokens(self) -> int:
        """b, the number of context tokens."""
        return self.tokens.shape[0]

    @property
    def depth(self) -> int:
        """t, the last layer (counted from 1) with tokens of its own."""
        return len(self.deep) + 1

    def insert(self, embeddings: Tensor) -> Tensor:
        """Put the tokens of layer 1 behind `[CLS]`.

        Args:
            embeddings: (C, L, d) word embeddings of `[CLS] name . [SEP]`.

        Returns:
            (C, b + L, d).
        """
        tokens = self.tokens.expand(embeddings.shape[0], -1, -1)
        return torch.cat([embeddings[:, :1], tokens, embeddings[:, 1:]], dim=1)

    def replace(self, hidden: Tensor, layer: int) -> Tensor:
        """Replace the context positions at the input of `layer` (counted from 1) where it is deep.

        Args:
            hidden: (C, b + L, d) input of the layer.
            layer: from 2.

        Returns:
            (C, b + L, d).
        """
        if layer > self.depth:
            return hidden
        tokens = self.deep[layer - 2].expand(hidden.shape[0], -1, -1)
        return torch.cat([hidden[:, :1], tokens, hidden[:, 1 + self.n_tokens :]], dim=1)
