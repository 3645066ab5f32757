"""`load_model` and `segment`: the two calls most users need."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from textsam import weights
from textsam.adapters import AdapterConfig, check_tensors, find_adapter, read_adapter_config
from textsam.checkpoint import architecture_of, load_learned
from textsam.device import choose_device, choose_precision
from textsam.errors import AdapterError
from textsam.model.build import BuiltModel, build_model
from textsam.model.cpu_decoder import CpuMaskDecoder
from textsam.model.tuning import merge_for_inference
from textsam.presets import Preset, preset
from textsam.segmenter import Segmenter
from textsam.weights.checksum import sha256_of, sha256_of_folder

if TYPE_CHECKING:
    from textsam.prepare import ImageLike
    from textsam.result import Segmentation

__all__ = ["load_model", "segment"]

_LOCK = threading.Lock()


def load_model(
    model: str = "lite",
    adapter: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    *,
    sam_checkpoint: str | Path | None = None,
    text_encoder: str | Path | None = None,
    authors_frame: bool | None = None,
    plain: bool = False,
) -> Segmenter:
    """Load a model with an adapter, ready to segment.

    Args:
        model: preset, "lite", "vit_b", "vit_l" or "vit_h".
        adapter: name of a shipped adapter or path of an adapter folder; None takes the preset's.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: of the image encoder, "auto", "float32" or "bfloat16".
        sam_checkpoint: file of image encoder weights to use instead of the registry's.
        text_encoder: folder of text encoder weights (a snapshot of the hub repository) to use
            instead of the registry's.
        authors_frame: leave refinement prompts in the image's frame as the authors' code does; None
            takes what the adapter says, which is False unless it was converted so.
        plain: keep the network's modules as they are where they would be rearranged for speed, on a
            CPU; the answers are the same to rounding. For looking inside, or for exporting.

    Raises:
        ConfigError: unknown preset.
        AdapterError: no adapter, an incomplete or damaged one, or one of another model or base
            weights.
        WeightsError: base weights missing, corrupt or unsafe.
        DeviceError: device or precision not available.
    """
    info = preset(model)
    name = adapter if adapter is not None else info.default_adapter
    if name is None:
        raise AdapterError(
            f"no adapter comes with {model!r}; give adapter=FOLDER, made by `textsam train` or "
            "`textsam convert`, or use the preset 'lite'"
        )
    folder = find_adapter(name)
    config = read_adapter_config(folder)
    if config.preset != info.name:
        raise AdapterError(
            f"the adapter {folder} belongs to {config.preset!r}, not {info.name!r}; load "
            f"{config.preset!r} with it"
        )
    _check_base(config, info, sam_checkpoint)
    fingerprint = check_tensors(folder, config)
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    built = build_model(
        info.name,
        architecture_of(config.architecture),
        sam_checkpoint=sam_checkpoint,
        text_encoder=text_encoder,
    )
    load_learned(folder, built)
    merge_for_inference(built.model)
    built.model.to(where)
    if where.type == "cpu" and not plain:
        _rearrange(built, dtype)
    if authors_frame is not None:
        config = config.model_copy(update={"authors_frame": authors_frame})
    return Segmenter(
        built,
        config,
        device=where,
        precision=dtype,
        fingerprint=fingerprint,
        own_weights=_own_weights(config, info, sam_checkpoint, text_encoder),
    )


def _rearrange(built: BuiltModel, dtype: torch.dtype) -> None:
    """Order a merged model's sums for a CPU; outputs agree to rounding."""
    model = built.model
    if built.backbone.cpu_encoder is not None:
        model.image_encoder = built.backbone.cpu_encoder(model.image_encoder, dtype)
    model.fast_decoder = CpuMaskDecoder(model.mask_decoder, model.prompt_encoder.get_dense_pe())


def _check_base(config: AdapterConfig, info: Preset, sam_checkpoint: str | Path | None) -> None:
    """Refuse an adapter on base weights it was not trained on: its masks would be noise."""
    wanted = config.base.get(info.image_weights)
    if wanted is None or wanted == "unknown":
        return
    if sam_checkpoint is None:
        given = weights.entry(info.image_weights).identity
    else:
        path = Path(sam_checkpoint)
        if not path.is_file():
            return  # loading it says so better
        given = sha256_of(path)
    if given != wanted:
        raise AdapterError(
            f"the adapter {config.name!r} was trained on {info.image_weights} with sha256 "
            f"{wanted[:16]}…, the weights at hand have {given[:16]}…; use the former"
        )


def _own_weights(
    config: AdapterConfig,
    info: Preset,
    sam_checkpoint: str | Path | None,
    text_encoder: str | Path | None,
) -> str:
    """Digest of base weights given instead of the registry's and not fixed by the adapter's record.

    Empty where there are none.
    """
    digests: dict[str, str] = {}
    recorded = config.base.get(info.image_weights, "unknown") != "unknown"
    if sam_checkpoint is not None and not recorded:
        digests[info.image_weights] = sha256_of(Path(sam_checkpoint))
    if text_encoder is not None:
        digests[info.text_weights] = sha256_of_folder(Path(text_encoder))
    if not digests:
        return ""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=2)
def _cached_model(model: str, adapter: str | Path | None, device: str, precision: str) -> Segmenter:
    return load_model(model, adapter, device, precision)


@overload
def segment(  # type: ignore[overload-overlap]  # a str is a Sequence[str]; it comes first
    image: ImageLike,
    prompt: str,
    *,
    model: str = ...,
    adapter: str | Path | None = ...,
    device: str = ...,
    precision: str = ...,
    refine: int | None = ...,
    points: Any = ...,
    boxes: Any = ...,
    strict: bool = ...,
) -> Segmentation: ...


@overload
def segment(
    image: ImageLike,
    prompt: Sequence[str],
    *,
    model: str = ...,
    adapter: str | Path | None = ...,
    device: str = ...,
    precision: str = ...,
    refine: int | None = ...,
    points: Any = ...,
    boxes: Any = ...,
    strict: bool = ...,
) -> list[Segmentation]: ...


def segment(
    image: ImageLike,
    prompt: str | Sequence[str],
    *,
    model: str = "lite",
    adapter: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    refine: int | None = None,
    points: Any = None,
    boxes: Any = None,
    strict: bool = False,
) -> Segmentation | list[Segmentation]:
    """Segment an image by words; the model is loaded at the first call and kept.

    Args:
        image: path, Pillow image, or array (H, W) or (H, W, 3).
        prompt: a word, or a list of words for a list of results.
        model, adapter, device, precision: as in `load_model`.
        refine, points, boxes, strict: as in `Segmenter.segment`.

    Raises:
        TextSAMError: as `load_model` and `Segmenter.segment`.

    Example:
        >>> seg = textsam.segment("scan.png", "tumor")
        >>> seg.found, seg.score, seg.area_px
    """
    with _LOCK:  # two threads must not load the model twice
        loaded = _cached_model(model, adapter, device, precision)
    return loaded.segment(image, prompt, refine=refine, points=points, boxes=boxes, strict=strict)
