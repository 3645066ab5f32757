"""TextSAM: a word becomes a token of SAM's mask decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn

from textsam.errors import PromptError
from textsam.model.adapter import TextAdapter
from textsam.model.context import ContextTokens
from textsam.model.decode import decode_masks
from textsam.model.text_encoders import TextEncoder

__all__ = ["TextSAM"]


class TextSAM(nn.Module):
    """The network of TextSAM-EUS (Spiegler et al. 2025), composed of built parts.

    Args:
        image_encoder: (B, 3, S, S) normalised images -> (B, 256, 64, 64) embeddings.
        prompt_encoder: SAM's, frozen.
        mask_decoder: SAM's.
        text_encoder: frozen BERT.
        context: learnable context tokens.
        adapter: text features -> decoder tokens.
    """

    def __init__(
        self,
        *,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        text_encoder: TextEncoder,
        context: ContextTokens,
        adapter: TextAdapter,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.text_encoder = text_encoder
        self.context = context
        self.adapter = adapter
        # Set where a merged model is only to answer, on a CPU; see `CpuMaskDecoder`.
        self.fast_decoder: nn.Module | None = None

    def train(self, mode: bool = True) -> TextSAM:
        """Switch to training mode; the text encoder and batch norms stay as at inference.

        Batch norms keep their running statistics: one image per step says nothing about them.
        """
        super().train(mode)
        for module in self.image_encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def encode_image(self, images: Tensor) -> Tensor:
        """Embed images, once each.

        Args:
            images: (B, 3, S, S), normalised and padded.

        Returns:
            (B, 256, 64, 64) embeddings.
        """
        embedding: Tensor = self.image_encoder(images)
        return embedding

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Turn C prompts into (C, 256) decoder tokens."""
        token: Tensor = self.adapter(self.text_encoder(prompts, self.context))
        return token

    def prompt_tokens(
        self,
        text_tokens: Tensor | None,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Join text and geometry: `[text, points…, box corner, box corner]`.

        Args:
            text_tokens: (C, 256), or None for geometry alone, which is SAM's own prompt.
            points: (C, n, 2) coordinates (x, y) in the model's frame, in pixels, and (C, n)
                labels, 1 foreground, 0 background.
            boxes: (C, 4), (x_min, y_min, x_max, y_max) in the model's frame, in pixels.

        Returns:
            (C, m, 256) sparse tokens and the (C or 1, 256, 64, 64) no-mask dense embedding.

        Raises:
            PromptError: neither text nor geometry.
        """
        if text_tokens is None and points is None and boxes is None:
            raise PromptError("there is neither text nor geometry; give at least one of them")
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=None)
        if text_tokens is None:
            return sparse, dense
        text = text_tokens[:, None]
        if points is None and boxes is None:
            return text, dense
        return torch.cat([text, sparse], dim=1), dense

    def decode(
        self, image_embedding: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts, on one image or on one image each.

        Args:
            image_embedding: (1, 256, 64, 64), or (N, 256, 64, 64).
            sparse: (N, m, 256) prompt tokens.
            dense: (N or 1, 256, 64, 64).

        Returns:
            (N, 1, 256, 256) logits over the model's square and (N, 1) predicted IoU.
        """
        if self.fast_decoder is not None and len(sparse) == len(image_embedding) == len(dense) == 1:
            logits, iou = self.fast_decoder(image_embedding, sparse, dense)
            return logits, iou
        pe = self.prompt_encoder.get_dense_pe()
        return decode_masks(self.mask_decoder, image_embedding, pe, sparse, dense)

    def forward(self, image_embedding: Tensor, text_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Text-only pass: `prompt_tokens` then `decode`."""
        sparse, dense = self.prompt_tokens(text_tokens)
        return self.decode(image_embedding, sparse, dense)
