"""From a model with its adapter to a segmenter that answers, as fast as the device allows."""

from __future__ import annotations

from copy import deepcopy

import torch

from textsam.adapters import AdapterConfig
from textsam.errors import AdapterError, ConfigError
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views
from textsam.model.build import BuiltModel
from textsam.model.cpu_decoder import CpuMaskDecoder
from textsam.model.tuning import merge_for_inference

__all__ = ["at_side", "ready_segmenter"]


def ready_segmenter(
    built: BuiltModel,
    config: AdapterConfig,
    *,
    device: torch.device,
    precision: torch.dtype,
    views: Views = Views(),  # noqa: B008  # frozen
    plain: bool = False,
    fingerprint: str = "",
    own_weights: str = "",
) -> Segmenter:
    """Merge what was learned, move the model, and put a segmenter around it.

    Args:
        built: with its adapter loaded; it is changed for good, and learns no more.
        config: of the adapter.
        device: where it is to be.
        precision: of the image encoder.
        views: ways of looking at an image besides the plain one.
        plain: keep the modules as they are where a CPU would have them rearranged.
        fingerprint, own_weights: as of `Segmenter`.

    Raises:
        ConfigError: a view at the adapter's own side, or a side its model cannot work at.
        AdapterError: its kinds of image are told by embeddings of another width.
    """
    _check_kinds(built, config)
    merge_for_inference(built.model)
    built.model.to(device)
    own_px = built.preprocessor.side_px
    others = [side for sides in config.sides_for.values() for side in sides if side != own_px]
    further = [at_side(built, side_px) for side_px in dict.fromkeys((*views.sides_px, *others))]
    if device.type == "cpu" and not plain:
        for one in (built, *further):
            _rearrange(one, precision)
    return Segmenter(
        built,
        config,
        device=device,
        precision=precision,
        further=further,
        views=views,
        fingerprint=fingerprint,
        own_weights=own_weights,
    )


def at_side(built: BuiltModel, side_px: int) -> BuiltModel:
    """The same model at another side; all is shared but the encoders of images and of geometry.

    Args:
        built: merged, and not yet rearranged for a CPU; it is left as it is.
        side_px: of the square.

    Raises:
        ConfigError: its own side, or one the image encoder cannot work at.
    """
    if side_px == built.preprocessor.side_px:
        raise ConfigError(
            f"views or sides name {side_px} px, the side the adapter works at; leave it out"
        )
    model = built.model
    shared = (
        model.text_encoder,
        model.context,
        model.adapter,
        model.mask_decoder,
        model.learned_tokens,
    )
    twin = deepcopy(built, {id(part): part for part in shared})
    twin.set_side(side_px)
    return twin


def _check_kinds(built: BuiltModel, config: AdapterConfig) -> None:
    if config.kinds is None:
        return
    channels, wanted = built.model.prompt_encoder.embed_dim, len(config.kinds.weights[0])
    if channels != wanted:
        raise AdapterError(
            f"the adapter {config.name!r} tells kinds of image apart by {wanted} channels of an "
            f"embedding, and embeddings of {config.preset!r} have {channels}; finish the adapter "
            "again with `textsam calibrate --kinds 40`"
        )


def _rearrange(built: BuiltModel, dtype: torch.dtype) -> None:
    """Order a merged model's sums for a CPU; outputs agree to rounding."""
    model, backbone = built.model, built.backbone
    if backbone.cpu_encoder is not None:
        # In both places: the other would keep the old one, which nothing runs any more.
        model.image_encoder = backbone.image_encoder = backbone.cpu_encoder(
            model.image_encoder, dtype
        )
    model.fast_decoder = CpuMaskDecoder(model.mask_decoder, model.prompt_encoder.get_dense_pe())
