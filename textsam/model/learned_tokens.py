"""Learned prompt tokens: further sparse tokens that every question brings along."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textsam.errors import ConfigError

__all__ = ["LearnedTokens"]


class LearnedTokens(nn.Module):
    """k tokens learned in few dimensions and lifted to the decoder's (Funai et al., section 3.1).

    They stand beside the tokens of a prompt, whatever it is made of, and say what training found
    worth saying with every prompt: for a box that is off, that boxes are off.

    Args:
        count: k, at least 1.
        width: dimensions they are learned in; 128 in the paper.
        out_features: width of the decoder's tokens (256 for SAM).

    Raises:
        ConfigError: no token, or no dimension.
    """

    def __init__(self, count: int, width: int = 128, out_features: int = 256) -> None:
        super().__init__()
        if count < 1 or width < 1:
            raise ConfigError(
                f"tokens.count is {count} and tokens.width {width}; give at least 1 of each, or no "
                "tokens"
            )
        # Drawn as SAM draws its own prompt embeddings, from N(0, 1).
        self.embedding = nn.Parameter(torch.randn(count, width))
        self.lift = nn.Linear(width, out_features)

    def forward(self) -> Tensor:
        """(k, out_features) tokens."""
        tokens: Tensor = self.lift(self.embedding)
        return tokens
