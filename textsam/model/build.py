"""Build a TextSAM for a preset: parts first, base weights next, then what learns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from textsam import weights
from textsam.errors import ConfigError
from textsam.model.adapter import TextAdapter
from textsam.model.backbones import Backbone, build_litemedsam, build_sam, load_backbone
from textsam.model.context import ContextTokens
from textsam.model.learned_tokens import LearnedTokens
from textsam.model.text_encoders import TextEncoder, load_biomedclip, load_minilm
from textsam.model.textsam import TextSAM
from textsam.model.tuning import Tuning, apply_tuning
from textsam.preprocess import Preprocessor
from textsam.presets import preset

__all__ = ["Architecture", "BuiltModel", "assemble", "build_model", "load_parts"]

# [CLS], a word of one token, the full stop, [SEP].
_SHORTEST_PROMPT_TOKENS = 4


@dataclass(frozen=True)
class Architecture:
    """The trainable shape of a TextSAM: what an adapter must agree on with its model.

    Attributes:
        context_tokens: b.
        context_depth: t.
        normalise: L2-normalise the adapter's output.
        token_scale: factor on the adapter's output.
        tuning: what learns.
        side_px: side of the model's square input; None is the backbone's own.
        prompt_tokens: learned tokens beside every prompt.
        prompt_token_width: dimensions they are learned in.
        takes_text: whether words reach the decoder.
    """

    context_tokens: int = 4
    context_depth: int = 12
    normalise: bool = True
    token_scale: float = 1.0
    tuning: Tuning = field(default_factory=Tuning)
    side_px: int | None = None
    prompt_tokens: int = 0
    prompt_token_width: int = 128
    takes_text: bool = True


@dataclass
class BuiltModel:
    """A model with the preprocessing that belongs to it."""

    model: TextSAM
    backbone: Backbone
    preprocessor: Preprocessor

    def set_side(self, side_px: int) -> None:
        """Work on squares of another side, in place; see `Backbone.set_side`.

        Raises:
            ConfigError: the backbone cannot.
        """
        self.backbone.set_side(side_px)
        self.preprocessor = replace(self.preprocessor, side_px=side_px)


def assemble(
    backbone: Backbone, text_encoder: TextEncoder, architecture: Architecture
) -> BuiltModel:
    """Compose loaded parts and apply the tuning. The model is in eval mode.

    Raises:
        ConfigError: the context depth exceeds the text encoder's layers, its tokens leave no room
            for a word, the backbone cannot work at the side wanted, or another bad value.
    """
    most = text_encoder.max_tokens - _SHORTEST_PROMPT_TOKENS
    if architecture.context_tokens > most:
        raise ConfigError(
            f"context.n_tokens is {architecture.context_tokens}; this text encoder takes "
            f"{text_encoder.max_tokens} tokens, the word's among them: give at most {most}"
        )
    model = TextSAM(
        image_encoder=backbone.image_encoder,
        prompt_encoder=backbone.prompt_encoder,
        mask_decoder=backbone.mask_decoder,
        text_encoder=text_encoder,
        context=ContextTokens(
            architecture.context_tokens,
            architecture.context_depth,
            text_encoder.hidden_size,
            text_encoder.n_layers,
        ),
        adapter=TextAdapter(
            text_encoder.out_features,
            normalise=architecture.normalise,
            scale=architecture.token_scale,
        ),
        takes_text=architecture.takes_text,
    )
    if architecture.prompt_tokens:
        # Drawn aside, so that the rest begins as it would without them.
        with torch.random.fork_rng(devices=[]):
            model.learned_tokens = LearnedTokens(
                architecture.prompt_tokens, architecture.prompt_token_width
            )
    apply_tuning(model, backbone, architecture.tuning)
    model.eval()
    built = BuiltModel(model, backbone, Preprocessor(backbone.side_px, backbone.normalise))
    if architecture.side_px is not None:
        built.set_side(architecture.side_px)
    return built


def load_parts(
    preset_name: str,
    *,
    sam_checkpoint: str | Path | None = None,
    text_encoder: str | Path | None = None,
) -> tuple[Backbone, TextEncoder]:
    """Load a preset's frozen parts, from the registry or from the given paths.

    Args:
        preset_name: "lite", "vit_b", "vit_l" or "vit_h".
        sam_checkpoint: file of image encoder weights to use instead of the registry's.
        text_encoder: folder of text encoder weights to use instead of the registry's.

    Raises:
        ConfigError: unknown preset.
        WeightsError: weights missing, corrupt, unsafe, or of another model.
    """
    info = preset(preset_name)
    image_path, text_path = (
        weights.resolve(name) if given is None else Path(given)
        for name, given in ((info.image_weights, sam_checkpoint), (info.text_weights, text_encoder))
    )
    match info.name:
        case "lite":
            return load_backbone(build_litemedsam, image_path), load_minilm(text_path)
        case "vit_b" | "vit_l" | "vit_h" as variant:
            return load_backbone(partial(build_sam, variant), image_path), load_biomedclip(
                text_path
            )
        case other:
            raise ConfigError(f"preset {other!r} has no builder")


def build_model(
    preset_name: str,
    architecture: Architecture,
    *,
    sam_checkpoint: str | Path | None = None,
    text_encoder: str | Path | None = None,
) -> BuiltModel:
    """`load_parts` and `assemble` in one."""
    backbone, encoder = load_parts(
        preset_name, sam_checkpoint=sam_checkpoint, text_encoder=text_encoder
    )
    return assemble(backbone, encoder, architecture)
