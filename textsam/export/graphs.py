"""The decoder as one graph: text token and geometry in, logits out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from textsam.model.decode import decode_masks
from textsam.model.textsam import TextSAM

__all__ = ["DecoderGraph"]


class DecoderGraph(nn.Module):
    """SAM's prompt encoder for points and boxes, and its mask decoder, without branches.

    Points and box corners are one list with labels, as in the authors' own ONNX export of SAM
    (segment-anything, `utils/onnx.py`): 1 inside, 0 outside, 2 and 3 a box's first and last corner,
    -1 the padding that SAM adds to points without a box. An empty list asks by text alone. So one
    graph does what `TextSAM.prompt_tokens` and `TextSAM.decode` do for every kind of prompt.

    Args:
        model: in eval mode, its adapter loaded and merged.
        side_px: side of the model's square input.
    """

    position: Tensor
    kinds: Tensor
    image_pe: Tensor
    no_mask: Tensor
    further: Tensor

    def __init__(self, model: TextSAM, side_px: int) -> None:
        super().__init__()
        prompts = model.prompt_encoder
        self.decoder = model.mask_decoder
        self.side_px = side_px
        with torch.no_grad():
            position = prompts.pe_layer.positional_encoding_gaussian_matrix
            kinds = [prompts.not_a_point_embed, *prompts.point_embeddings]
            no_mask = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
            self.register_buffer("position", position.clone())
            self.register_buffer("kinds", torch.cat([kind.weight for kind in kinds]))
            self.register_buffer("image_pe", prompts.get_dense_pe().clone())
            self.register_buffer("no_mask", no_mask.clone())
            learned = model.learned_tokens
            further = no_mask.new_zeros(0, no_mask.shape[1]) if learned is None else learned()
            self.register_buffer("further", further.clone())

    def forward(
        self, embedding: Tensor, text_tokens: Tensor, points: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts with n points each on one image.

        Args:
            embedding: (1, 256, h, w) of the image.
            text_tokens: (P, 256).
            points: (P, n, 2) of (x, y) in pixels of the model's frame; n may be 0.
            labels: (P, n) int64, -1 … 3.

        Returns:
            (P, 1, 4h, 4w) logits over the model's square and (P, 1) predicted IoU.
        """
        # SAM's coordinates lie on pixel corners: half a pixel is added (`PromptEncoder`).
        unit = 2 * ((points + 0.5) / self.side_px) - 1
        phase = 2 * math.pi * (unit @ self.position)
        place = torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)
        place = place * (labels >= 0)[..., None]
        geometry = place + self.kinds[labels + 1]
        tokens = torch.cat([text_tokens[:, None], geometry], dim=1)
        if len(self.further):  # of the model, so that there is no branch in the graph
            further = self.further.expand(len(tokens), -1, -1)
            tokens = torch.cat([tokens, further], dim=1)
        return decode_masks(self.decoder, embedding, self.image_pe, tokens, self.no_mask)
