"""What a result depends on, as JSON and as one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textsam.adapters import TENSORS_FILE, find_adapter
from textsam.config import TrainConfig, without_effect
from textsam.data.digests import FileDigests
from textsam.presets import preset
from textsam.weights import identity_of
from textsam.weights.checksum import sha256_of

__all__ = ["Facts", "base_facts", "digest_of", "training_facts"]

Facts = dict[str, Any]
"""JSON types; two results of equal facts are interchangeable."""


def base_facts(
    preset_name: str, sam_checkpoint: Path | None, text_encoder: Path | None, files: FileDigests
) -> Facts:
    """The base weights in use: the registry's identities, or digests of the user's own files."""
    info = preset(preset_name)
    return {
        info.image_weights: identity_of(info.image_weights, sam_checkpoint, files),
        info.text_weights: identity_of(info.text_weights, text_encoder, files),
    }


def training_facts(
    config: TrainConfig, calibrate: int | None, data: Mapping[str, str], base: Facts
) -> Facts:
    """All that an adapter depends on.

    Args:
        config: of the run; its name, place and device play no part.
        calibrate: passes of the calibration, or None.
        data: "train" and "val" -> digest of their samples.
        base: from `base_facts`.
    """
    left_out = {**without_effect(config), "name": True, "terms": True}
    settings = config.model_dump(mode="json", exclude=left_out)
    settings["data"].pop("root")
    facts: Facts = {**settings, "calibrate": calibrate, "contents": dict(data), "base": base}
    if config.init_adapter is not None:
        facts["init_adapter"] = sha256_of(find_adapter(config.init_adapter) / TENSORS_FILE)
    return facts


def digest_of(facts: Facts) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
