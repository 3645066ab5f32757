"""SAM's mask decoder, asked for one mask per prompt, over many images or many prompts at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from torch import Tensor

__all__ = ["decode_masks", "per_token", "upscaled"]


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
    made. The two transposed convolutions of the upscaling, whose kernels do not overlap, are
    products per token, so that no layout changes until there is one number per pixel.

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
    filters = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
    logits = upscaled(decoder.output_upscaling, source, filters, height, width)
    return logits, decoder.iou_prediction_head(tokens[:, 0])[:, :1]


def per_token(convolution: Any) -> tuple[Tensor, Tensor]:
    """A transposed convolution of kernel and stride 2 as a linear layer to (dy, dx, channel).

    Returns:
        (4·out, in) weight and (4·out,) bias, through which the convolution's own learn.

    Raises:
        TypeError: kernels that overlap.
    """
    if convolution.kernel_size != (2, 2) or convolution.stride != (2, 2):
        raise TypeError(f"only kernels and strides of 2 do not overlap, got {convolution}")
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return weight, convolution.bias.repeat(4)


def upscaled(layers: Any, source: Tensor, filters: Tensor, height: int, width: int) -> Tensor:
    """(N, h·w, 256) tokens and (N, 32) filters -> (N, 1, 4h, 4w) logits."""
    first, norm, between, second, after = layers
    count = len(source)
    x = F.linear(source, *per_token(first)).view(count, 4 * height * width, -1)
    x = between(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = after(F.linear(x, *per_token(second))).view(count, 16 * height * width, -1)
    # (y, x, dy, dx, dy', dx') -> (y, dy, dy', x, dx, dx')
    grid: Tensor = (x @ filters[:, :, None]).view(count, height, width, 2, 2, 2, 2)
    return grid.permute(0, 1, 3, 5, 2, 4, 6).reshape(count, 1, 4 * height, 4 * width)
