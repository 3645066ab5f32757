"""Tiny models with random weights and the real classes, for fast tests of behaviour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from textsam.adapters import AdapterConfig
from textsam.checkpoint import record_of
from textsam.inference.segmenter import Segmenter
from textsam.model.backbones import Backbone, use_fast_blocks
from textsam.model.build import Architecture, BuiltModel, assemble
from textsam.model.text_encoders import TextEncoder
from textsam.model.tinyvit import set_tinyvit_side, tinyvit_class
from textsam.model.tuning import Tuning, merge_for_inference
from textsam.preprocess import MinMaxPixels

WORDS = ("tumor", "cell", "nucleus", "lung", "nerve", "vessel", "membrane", "polyp", "dog", "car")
SIDE_PX = 64


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over a handful of words and all letters, so that any text has tokens."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS, *letters]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *("##" + x for x in letters)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
    )


def tiny_text_encoder(layers: int = 3) -> TextEncoder:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
    )
    return TextEncoder(
        BertModel(config, add_pooling_layer=False),
        tokenizer,
        nn.Linear(16, 12, bias=False),
        pooling="cls",
        out_features=12,
        max_tokens=32,
    )


def tiny_backbone(depth: int = 2) -> Backbone:
    """SAM's own classes: a ViT of width 32 at 64×64 px, and its decoder at full width."""
    encoder = ImageEncoderViT(
        img_size=SIDE_PX,
        patch_size=8,
        embed_dim=32,
        depth=depth,
        num_heads=2,
        mlp_ratio=2.0,
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1,),
    )
    # Relative positions start at zero, which would hide a mistake in their use.
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or name == "pos_embed":
            nn.init.normal_(parameter, std=0.1)
    use_fast_blocks(encoder)
    return Backbone(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=256,
            image_embedding_size=(8, 8),
            input_image_size=(SIDE_PX, SIDE_PX),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=64, num_heads=8),
            transformer_dim=256,
        ),
        side_px=SIDE_PX,
        normalise=MinMaxPixels(),
        qkv_layout="blocks",
    )


def tiny_vit_backbone(side_px: int = 256) -> Backbone:
    """LiteMedSAM's own TinyViT with few channels, no weight or statistic at a trivial value."""
    encoder = tiny_vit(side_px)
    randomise_vit(encoder)
    return Backbone(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=256,
            image_embedding_size=(side_px // 4, side_px // 4),
            input_image_size=(side_px, side_px),
            mask_in_chans=16,
        ),
        mask_decoder=tiny_backbone().mask_decoder,
        side_px=side_px,
        normalise=MinMaxPixels(),
        qkv_layout="per_head",
        fixed_parts=("patch_embed", "layers.0"),
        resize_encoder=set_tinyvit_side,
    )


def tiny_vit(side_px: int = 256, kind: type[nn.Module] | None = None) -> nn.Module:
    """LiteMedSAM's TinyViT with few channels; `kind`: another class than ours."""
    return (kind or tinyvit_class())(
        img_size=side_px,
        embed_dims=[4, 8, 8, 320],  # 320 is what keeps its last stage at the size of the one before
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )


def randomise_vit(encoder: nn.Module, seed: int = 2) -> None:
    """Give batch norms a past, attention biases values and linear layers a say."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(normal(module.running_mean) * 0.3)
                module.running_var.copy_(normal(module.running_var).abs() + 0.5)
                module.weight.copy_(normal(module.weight).abs() + 0.3)
                module.bias.copy_(normal(module.bias) * 0.3)
            elif isinstance(module, nn.Linear):
                module.weight.copy_(normal(module.weight) * 1.5 / module.in_features**0.5)
                module.bias.copy_(normal(module.bias) * 0.1)
        for name, parameter in encoder.named_parameters():
            if name.endswith("attention_biases"):
                parameter.copy_(normal(parameter))
    encoder.eval()


def tiny_model(architecture: Architecture | None = None, seed: int = 0) -> BuiltModel:
    """A TextSAM that differs between seeds and not between calls."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return assemble(
            tiny_backbone(), tiny_text_encoder(), architecture or Architecture(context_depth=3)
        )


def randomise_lora(model: nn.Module, seed: int = 1) -> None:
    """Give B random values, so that LoRA changes something."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2


LOUD = Architecture(context_depth=3, token_scale=16.0, tuning=Tuning(rank=4))


def loud_model(architecture: Architecture = LOUD, seed: int = 7) -> BuiltModel:
    """A tiny model with LoRA that does something, whose masks differ from word to word.

    With the usual initialisation every word has nearly the same features and every logit and
    predicted IoU is nearly zero.
    """
    return louder(tiny_model(architecture, seed=seed))


def louder(built: BuiltModel) -> BuiltModel:
    """Words, masks and LoRA of a model as it is initialised made to differ, in place."""
    for parameter in built.model.text_encoder.parameters():
        if parameter.ndim == 2:
            parameter.data *= 12
    for mlp in built.model.mask_decoder.output_hypernetworks_mlps:
        for parameter in mlp.layers[-1].parameters():
            parameter.data *= 30
    built.model.mask_decoder.iou_prediction_head.layers[-1].bias.data.fill_(0.5)
    randomise_lora(built.model)
    return built


def tiny_config(architecture: Architecture = LOUD, **changes: Any) -> AdapterConfig:
    """The configuration of a `loud_model`'s adapter, with the given fields changed."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "preset": "lite",
        "architecture": record_of(architecture),
        "prompts": ("tumor", "lung", "cell nucleus"),
        "refine": 1,
    }
    return AdapterConfig(**{**fields, **changes})


def tiny_segmenter(
    *, precision: torch.dtype = torch.float32, merge: bool = True, **changes: Any
) -> Segmenter:
    """A `Segmenter` on a `loud_model`, alike at every call; `changes` go to its configuration."""
    built = loud_model()
    if merge:
        merge_for_inference(built.model)
    return Segmenter(built, tiny_config(**changes), device=torch.device("cpu"), precision=precision)


def write_images_and_masks(folder: Path, count: int = 6, side: int = 48, seed: int = 0) -> None:
    """`images/` and `masks/`: a bright disc on a dark, noisy ground; its mask is 0/255."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:side, :side]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        x, y = rng.uniform(side * 0.3, side * 0.7, 2)
        mask = (xs - x) ** 2 + (ys - y) ** 2 < (side * 0.18) ** 2
        image = rng.normal(60, 15, (side, side)) + 120 * mask
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:03d}.png")
        Image.fromarray((mask * 255).astype(np.uint8)).save(folder / "masks" / f"{number:03d}.png")
