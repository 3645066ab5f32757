"""`load_model` and `segment`: the two calls most users need."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from textsam import weights
from textsam.adapters import (
    AdapterConfig,
    Written,
    as_written,
    check_base,
    check_tensors,
    find_adapter,
    read_adapter_config,
)
from textsam.checkpoint import architecture_of, load_learned
from textsam.device import choose_device, choose_precision
from textsam.errors import AdapterError
from textsam.inference.forked import do_without_lost_threads
from textsam.inference.ready import ready_segmenter
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views, views_of
from textsam.model.build import build_model
from textsam.presets import Preset, preset

if TYPE_CHECKING:
    from textsam.inference.passes import Refine
    from textsam.inference.prepare import ImageLike
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
    views: str | Views | None = None,
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
        views: how images are also looked at, such as "mirrored" or "112,168,mirrored": further
            sides of the model's square in pixels, and left and right exchanged. Probabilities of
            all views are averaged; it takes as many times longer (docs/views.md). None: one view.
        plain: keep the network's modules as they are where they would be rearranged for speed, on a
            CPU; the answers are the same to rounding. For looking inside, or for exporting.

    Raises:
        ConfigError: unknown preset, or views that are none or that the model cannot have.
        AdapterError: no adapter, an incomplete or damaged one, or one of another model or base
            weights.
        WeightsError: base weights missing, corrupt or unsafe.
        DeviceError: device or precision not available.
    """
    info, looks = preset(model), views_of(views)
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
    do_without_lost_threads()
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
    if info.text_weights in config.base:
        check_base(config, info.text_weights, built.model.text_encoder.digest())
    load_learned(folder, built)
    if authors_frame is not None:
        config = config.model_copy(update={"authors_frame": authors_frame})
    return ready_segmenter(
        built,
        config,
        device=where,
        precision=dtype,
        views=looks,
        plain=plain,
        fingerprint=fingerprint,
        own_weights=_own_weights(config, info, sam_checkpoint, text_encoder),
    )


def _check_base(config: AdapterConfig, info: Preset, sam_checkpoint: str | Path | None) -> None:
    """Refuse an adapter on base weights it was not trained on, before they are loaded."""
    if config.base.get(info.image_weights, "unknown") == "unknown":
        return  # nothing to compare a digest with
    if sam_checkpoint is not None and not Path(sam_checkpoint).is_file():
        return  # loading it says so better
    given = weights.identity_of(info.image_weights, sam_checkpoint)
    check_base(config, info.image_weights, given)


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
        digests[info.image_weights] = weights.identity_of(info.image_weights, sam_checkpoint)
    if text_encoder is not None:
        digests[info.text_weights] = weights.identity_of(info.text_weights, text_encoder)
    if not digests:
        return ""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=2)
def _cached_model(
    model: str,
    adapter: Path,
    device: str,
    precision: str,
    views: Views,
    _written: Written,
) -> Segmenter:
    return load_model(model, adapter, device, precision, views=views)


def _kept(
    model: str, adapter: str | Path | None, device: str, precision: str, views: Views
) -> Segmenter:
    """The model as loaded before, unless its adapter's folder has been written again since."""
    name = adapter if adapter is not None else preset(model).default_adapter
    if name is None:
        return load_model(model, adapter, device, precision, views=views)  # says what is missing
    folder, written = as_written(name)
    if written is None:
        return load_model(model, folder, device, precision, views=views)  # says what is missing
    return _cached_model(model, folder, device, precision, views, written)


@overload
def segment(  # type: ignore[overload-overlap]  # a str is a Sequence[str]; it comes first
    image: ImageLike,
    prompt: str,
    *,
    model: str = ...,
    adapter: str | Path | None = ...,
    device: str = ...,
    precision: str = ...,
    views: str | Views | None = ...,
    refine: Refine | None = ...,
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
    views: str | Views | None = ...,
    refine: Refine | None = ...,
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
    views: str | Views | None = None,
    refine: Refine | None = None,
    points: Any = None,
    boxes: Any = None,
    strict: bool = False,
) -> Segmentation | list[Segmentation]:
    """Segment an image by words; the model is loaded at the first call and kept.

    The two used last are kept. One is loaded again when the files of its adapter have changed.

    Args:
        image: path, Pillow image, or array (H, W) or (H, W, 3).
        prompt: a word, or a list of words for a list of results.
        model, adapter, device, precision, views: as in `load_model`.
        refine, points, boxes, strict: as in `Segmenter.segment`.

    Raises:
        TextSAMError: as `load_model` and `Segmenter.segment`.

    Example:
        >>> seg = textsam.segment("scan.png", "tumor")
        >>> seg.found, seg.score, seg.area_px
    """
    with _LOCK:  # two threads must not load the model twice
        loaded = _kept(model, adapter, device, precision, views_of(views))
    return loaded.segment(image, prompt, refine=refine, points=points, boxes=boxes, strict=strict)
