"""SAM's mask decoder, asked for one mask per prompt, over many images or many prompts at once."""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor

__all__ = ["decode_masks"]


def decode_masks(
    decoder: MaskDecoder,
    image_embedding: Tensor,
    image_pe: Tensor,
    sparse: Tensor,
    dense: Tensor,
) -> tuple[Tensor, Tensor]:
    """What `MaskDecoder.forward(multimask_output=False)` computes, without what it throws away.

    SAM's own forward takes one image, copies its embedding for every prompt before the first
    layer, and makes four masks of which it returns one. Here the copies are made by broadcasting
    where a prompt first changes them, the prompts may be of different images, and one mask is
    made.

    Args:
        decoder: SAM's.
        image_embedding: (1, 256, h, w) of the image all prompts are about, or (N, 256, h, w).
        image_pe: (1, 256, h, w) positional encoding.
        sparse: (N, m, 256) prompt tokens.
        dense: (1 or N, 256, h, w).

    Returns:
        (N, 1, 4h, 4w) logits and (N, 1) predicted IoU.
    """
    count = sparse.shape[0]
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(count, -1, -1), sparse], dim=1)
    source = image_embedding + dense
    height, width = source.shape[-2:]
    tokens, source = decoder.transformer(source, image_pe, tokens)
    grid = source.transpose(1, 2).reshape(count, -1, height, width)
    upscaled = decoder.output_upscaling(grid)
    filters = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
    logits = (filters[:, None] @ upscaled.flatten(2)).view(count, 1, *upscaled.shape[-2:])
    return logits, decoder.iou_prediction_head(tokens[:, 0])[:, :1]
