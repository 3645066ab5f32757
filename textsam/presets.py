"""The presets by name, without importing torch: what each is made of and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from textsam.errors import ConfigError

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """A named combination of image encoder and text encoder.

    Attributes:
        name: what users write.
        image_encoder: in words.
        text_encoder: in words.
        side_px: side of the model's square input.
        text_layers: depth of the text encoder, the most a context depth can be.
        image_weights: name in the weights registry.
        text_weights: name in the weights registry.
        default_adapter: adapter that comes with the package, if any.
    """

    name: str
    image_encoder: str
    text_encoder: str
    side_px: int
    text_layers: int
    image_weights: str
    text_weights: str
    default_adapter: str | None = None


def _sam(name: str, title: str) -> Preset:
    return Preset(
        name=name,
        image_encoder=f"SAM {title}, 1024×1024",
        text_encoder="BiomedCLIP (PubMedBERT, 12 layers)",
        side_px=1024,
        text_layers=12,
        image_weights=f"sam_{name}",
        text_weights="biomedclip",
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="lite",
                image_encoder="LiteMedSAM TinyViT, 256×256",
                text_encoder="all-MiniLM-L6-v2 (BERT, 6 layers)",
                side_px=256,
                text_layers=6,
                image_weights="litemedsam",
                text_weights="minilm",
                default_adapter="generalist",
            ),
            _sam("vit_b", "ViT-B"),
            _sam("vit_l", "ViT-L"),
            _sam("vit_h", "ViT-H"),
        )
    }
)


def preset(name: str) -> Preset:
    """Look a preset up.

    Raises:
        ConfigError: no such preset.
    """
    try:
        return PRESETS[name]
    except (KeyError, TypeError):
        raise ConfigError(f"no preset {name!r}; choose one of {', '.join(PRESETS)}") from None
