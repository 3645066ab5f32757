"""SAM's mask decoder for one prompt at a time on a CPU: the same sums in fewer, larger products.

Of the decoder's time on a CPU nearly all is spent on the 4096 tokens of the image, not on the dozen
of the prompt. Here every block projects them once for all three uses; what their positions add to
the projections is a constant of the model; heads are views, not copies; and the two transposed
convolutions, whose kernels do not overlap, are products per token, so that nothing changes its
memory layout until there is one number per pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn

from textsam.model.decode import upscaled

__all__ = ["CpuMaskDecoder"]


class CpuMaskDecoder(nn.Module):
    """A merged mask decoder, for inference alone; it shares the parameters it does not rearrange.

    Args:
        decoder: SAM's, LoRA merged.
        dense_pe: (1, 256, h, w) positional encoding of the image's tokens.
    """

    def __init__(self, decoder: MaskDecoder, dense_pe: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            positions = dense_pe[0].flatten(1).t().contiguous()
            transformer = decoder.transformer
            self.blocks = nn.ModuleList(_Block(layer, positions) for layer in transformer.layers)
            self.final = _TokensFromImage(transformer.final_attn_token_to_image)
            self.final_projections = _Projections([*self.final.from_image()], positions)
            self.final_norm = transformer.norm_final_attn
            self.upscaling = decoder.output_upscaling
            self.filters = decoder.output_hypernetworks_mlps[0]
            self.iou = decoder.iou_prediction_head
            own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
            self.register_buffer("own_tokens", own.detach().clone(), persistent=False)
        self.own_tokens: Tensor
        self.eval()

    def forward(
        self, image_embedding: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode one prompt on one image.

        Args:
            image_embedding: (1, 256, h, w).
            sparse: (1, m, 256) prompt tokens.
            dense: (1, 256, h, w).

        Returns:
            (1, 1, 4h, 4w) logits and (1, 1) predicted IoU, as `decode_masks`.
        """
        height, width = image_embedding.shape[-2:]
        image = (image_embedding + dense)[0].flatten(1).t().contiguous()
        prompt = torch.cat([self.own_tokens, sparse[0]])
        tokens = prompt
        for number, block in enumerate(self.blocks):
            tokens, image = block(tokens, prompt, image, first=number == 0)
        keys, values = self.final_projections(image)
        tokens = self.final_norm(tokens + self.final(tokens + prompt, keys, values))
        logits = upscaled(self.upscaling, image[None], self.filters(tokens[1:2]), height, width)
        return logits, self.iou(tokens[:1])[:, :1]


class _Projections(nn.Module):
    """Several projections of the image's tokens, some of them with their positions, in one product.

    Args:
        layers: (linear layer, whether positions are added to its input).
        positions: (n, C).
    """

    def __init__(self, layers: list[tuple[nn.Linear, bool]], positions: Tensor) -> None:
        super().__init__()
        weight = torch.cat([linear.weight for linear, _ in layers]).t().contiguous()
        constants = []
        for linear, placed in layers:
            constant = linear.bias.expand(len(positions), -1)
            constants.append(constant + positions @ linear.weight.t() if placed else constant)
        self.widths = [linear.out_features for linear, _ in layers]
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("constant", torch.cat(constants, dim=1), persistent=False)
        self.weight: Tensor
        self.constant: Tensor

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(n, C) tokens -> one (n, width) view per layer."""
        joined = torch.addmm(self.constant, image, self.weight)
        parts: tuple[Tensor, ...] = joined.split(self.widths, dim=1)  # type: ignore[no-untyped-call]
        return parts


def _heads(x: Tensor, count: int) -> Tensor:
    """(n, heads·d) -> (heads, n, d), a view."""
    return x.view(len(x), count, -1).transpose(0, 1)


class _CrossAttention(nn.Module):
    """The parameters of one of SAM's attentions, which it goes on to share."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj
        self.scale = (attention.internal_dim // attention.num_heads) ** -0.5


class _TokensFromImage(_CrossAttention):
    """The prompt's tokens ask the image's."""

    def from_image(self) -> tuple[tuple[nn.Linear, bool], tuple[nn.Linear, bool]]:
        """What of it is applied to the image: keys, with positions, and values, without."""
        return (self.k_proj, True), (self.v_proj, False)

    def forward(self, asking: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(t, C) tokens and (n, d) projections of the image -> (t, C)."""
        q = _heads(self.q_proj(asking) * self.scale, self.heads)
        share = torch.bmm(q, _heads(keys, self.heads).transpose(1, 2)).softmax(-1)
        mixed = torch.bmm(share, _heads(values, self.heads))
        out: Tensor = self.out_proj(mixed.transpose(0, 1).flatten(1))
        return out


class _ImageFromTokens(_CrossAttention):
    """The image's tokens ask the prompt's."""

    def forward(self, image: Tensor, asking: Tensor, placed: Tensor, tokens: Tensor) -> Tensor:
        """Tokens (n, C) of the image, their queries (n, d), the prompt's with and without places.

        Returns:
            `image` and what it learned, (n, C).
        """
        k = _heads(self.k_proj(placed) * self.scale, self.heads)
        # Scores with the long axis last: the softmax over a handful of tokens is then vectorised.
        share = torch.bmm(k, _heads(asking, self.heads).transpose(1, 2)).softmax(1)
        mixed = torch.bmm(share.transpose(1, 2), _heads(self.v_proj(tokens), self.heads))
        joined = mixed.transpose(0, 1).reshape(len(image), -1)
        return torch.addmm(image, joined, self.out_proj.weight.t()).add_(self.out_proj.bias)


class _Block(nn.Module):
    """One layer of SAM's two-way transformer."""

    def __init__(self, layer: Any, positions: Tensor) -> None:
        super().__init__()
        self.self_attn = layer.self_attn
        self.norm1, self.norm2 = layer.norm1, layer.norm2
        self.norm3, self.norm4 = layer.norm3, layer.norm4
        self.mlp = layer.mlp
        self.tokens_from_image = _TokensFromImage(layer.cross_attn_token_to_image)
        self.image_from_tokens = _ImageFromTokens(layer.cross_attn_image_to_token)
        uses = [*self.tokens_from_image.from_image(), (self.image_from_tokens.q_proj, True)]
        self.projections = _Projections(uses, positions)

    def forward(
        self, tokens: Tensor, prompt: Tensor, image: Tensor, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """(t, C) tokens, the prompt they began as, and (n, C) of the image -> tokens, image."""
        if first:  # the tokens are the prompt still, and SAM adds it to nothing
            tokens = self.self_attn(q=tokens[None], k=tokens[None], v=tokens[None])[0]
        else:
            placed = (tokens + prompt)[None]
            tokens = tokens + self.self_attn(q=placed, k=placed, v=tokens[None])[0]
        tokens = self.norm1(tokens)
        keys, values, asking = self.projections(image)
        tokens = self.norm2(tokens + self.tokens_from_image(tokens + prompt, keys, values))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.image_from_tokens(image, asking, tokens + prompt, tokens)
        return tokens, self.norm4(image)
