"""The text adapter: from the text encoder's features to a token the mask decoder reads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TextAdapter"]


class TextAdapter(nn.Module):
    """`W2·GELU(W1·z + b1) + b2`, then L2 normalisation (TextSAM-EUS; the norm is in the code only).

    Args:
        in_features: width of the text features (512 for BiomedCLIP, 384 for MiniLM).
        hidden_features: width between the two layers.
        out_features: width of the decoder's tokens (256 for SAM).
        normalise: divide the output by its Euclidean norm.
        scale: factor on the output; 1 in the paper. SAM's own prompt tokens have a norm near 16,
            so a model trained by us may use a larger factor to be heard beside them.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int = 256,
        out_features: int = 256,
        *,
        normalise: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, out_features)
        self.normalise = normalise
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Map (C, in_features) text features to (C, out_features) tokens."""
        token: Tensor = self.fc2(F.gelu(self.fc1(features)))
        if self.normalise:
            token = F.normalize(token, dim=-1)
        return token * self.scale
