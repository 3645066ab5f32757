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
from textsam.model.learned_tokens import LearnedTokens
from textsam.model.text_encoders import TextEncoder

__all__ = ["TextSAM"]


class TextSAM(nn.Module):
    """The network of TextSAM-EUS (Spiegler et al. 2025), composed of built parts.

    Args:
        image_encoder: (B, 3, S, S) normalised images -> (B, 256, h, h) embeddings; h is S/16 for
            SAM and S/4 for LiteMedSAM.
        prompt_encoder: SAM's, frozen.
        mask_decoder: SAM's.
        text_encoder: frozen BERT.
        context: learnable context tokens.
        adapter: text features -> decoder tokens.
        takes_text: whether words reach the decoder. A model that takes none is asked by geometry,
            or by nothing at all, which is decoding without a prompt.

    Attributes:
        learned_tokens: further tokens of every prompt; None at first.
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
        takes_text: bool,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.text_encoder = text_encoder
        self.context = context
        self.adapter = adapter
        self.learned_tokens: LearnedTokens | None = None
        self.takes_text = takes_text
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
            (B, 256, h, h) embeddings.
        """
        embedding: Tensor = self.image_encoder(images)
        return embedding

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Turn C prompts into (C, 256) decoder tokens.

        Raises:
            PromptError: a prompt has too many tokens.
        """
        token: Tensor = self.adapter(self.text_encoder(prompts, self.context))
        return token

    def prompt_tokens(
        self,
        text_tokens: Tensor | None,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        count: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Join text, geometry and learned tokens: `[text, points…, corner, corner, learned…]`.

        Args:
            text_tokens: (C, 256), or None for geometry alone, which is SAM's own prompt.
            points: (C, n, 2) coordinates (x, y) in the model's frame, in pixels, and (C, n)
                labels, 1 foreground, 0 background.
            boxes: (C, 4), (x_min, y_min, x_max, y_max) in the model's frame, in pixels.
            masks: (C, 1, 4h, 4h) logits of an earlier pass, as `decode` gives them: SAM's dense
                prompt.
            count: C where nothing at all is given, to a model that takes no text.

        Returns:
            (C, m, 256) sparse tokens and the (C or 1, 256, h, h) dense embedding, which says
            that there is no mask where none is given.

        Raises:
            PromptError: a word for a model that takes none, or nothing for one that takes words.
        """
        if text_tokens is not None and not self.takes_text:
            raise PromptError("this model was trained without words; ask it without")
        unasked = points is None and boxes is None and masks is None
        if text_tokens is None and unasked and self.takes_text:
            raise PromptError("there is neither text nor geometry; give at least one of them")
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=masks)
        if text_tokens is None:
            if unasked:
                sparse = sparse.new_zeros(count, 0, sparse.shape[-1])
            return self._with_learned(sparse), dense
        text = text_tokens[:, None]
        if points is None and boxes is None:
            return self._with_learned(text), dense
        return self._with_learned(torch.cat([text, sparse], dim=1)), dense

    def _with_learned(self, sparse: Tensor) -> Tensor:
        if self.learned_tokens is None:
            return sparse
        own: Tensor = self.learned_tokens()
        return torch.cat([sparse, own.to(sparse.dtype).expand(len(sparse), -1, -1)], dim=1)

    def decode(
        self, image_embedding: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts, on one image or on one image each.

        Args:
            image_embedding: (1, 256, h, h), or (N, 256, h, h).
            sparse: (N, m, 256) prompt tokens.
            dense: (N or 1, 256, h, h).

        Returns:
            (N, 1, 4h, 4h) logits over the model's square and (N, 1) predicted IoU.
        """
        if self.fast_decoder is not None and len(sparse) == len(image_embedding) == len(dense) == 1:
            logits, iou = self.fast_decoder(image_embedding, sparse, dense)
            return logits, iou
        pe = self.prompt_encoder.get_dense_pe()
        return decode_masks(self.mask_decoder, image_embedding, pe, sparse, dense)

    def forward(self, image_embedding: Tensor, text_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`decode` of (C, 256) text tokens alone, on one image."""
        sparse, dense = self.prompt_tokens(text_tokens)
        return self.decode(image_embedding, sparse, dense)
