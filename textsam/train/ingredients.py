"""What a run is made of beside its settings: base weights, frame and data.

A run resumed with others would end as a mixture that no record tells of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textsam.data.digests import facts
from textsam.data.sample import Sample

__all__ = ["Ingredients", "differences", "ingredients"]

Ingredients = dict[str, str]
"""Part, such as "text_encoder" -> digest, or a word."""

_WITH, _WITHOUT = "yes", "no"

# Part -> how a run with another one is described, and the way back.
_PARTS: Mapping[str, tuple[str, str]] = {
    "base": (
        "other base weights of the image encoder",
        "give the --sam-checkpoint it began with, or none if it began with the registry's",
    ),
    "text_encoder": (
        "another text encoder",
        "give the --text-encoder it began with, or none if it began with the registry's",
    ),
    "init_adapter": (
        "an init_adapter of other tensors",
        "put the adapter it began from back",
    ),
    "train": (
        "other training samples",
        "put back which there were, their names, order, weights and concepts",
    ),
    "val": (
        "other validation samples",
        "put back which there were, their names, order, weights and concepts",
    ),
    "train_contents": ("other pixels in training images or masks", "put the files back"),
    "val_contents": ("other pixels in validation images or masks", "put the files back"),
    "unlabelled": ("other unlabelled images", "put the selection back"),
}


def ingredients(
    *,
    base: str,
    text_encoder: str,
    authors_frame: bool,
    parts: Mapping[str, Sequence[Sample]],
    contents: Mapping[str, str],
    init_adapter: str | None = None,
    unlabelled: Iterable[Path] | None = None,
) -> Ingredients:
    """What a run is made of.

    Args:
        base: digest of the image encoder's weights.
        text_encoder: digest of the text encoder's.
        authors_frame: whether the adapter asks for the authors' coordinate frame.
        parts: "train" and "val" -> samples.
        contents: of the same parts, from the check of the data: digests of their pixels. A part
            whose digest is not known is not compared.
        init_adapter: digest of its tensors.
        unlabelled: image files of stage two that have no label.
    """
    found = {
        "base": base,
        "text_encoder": text_encoder,
        "authors_frame": _WITH if authors_frame else _WITHOUT,
        **{part: _listing(samples) for part, samples in parts.items()},
        **{f"{part}_contents": digest for part, digest in contents.items()},
    }
    if init_adapter is not None:
        found["init_adapter"] = init_adapter
    if unlabelled is not None:
        found["unlabelled"] = _digest(sorted(path.name for path in unlabelled))
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What a run was begun with and is not there now, each with the way back; empty if all is.

    Parts that one of the two does not know are not compared: states of before have none.
    """
    told = []
    for part in before.keys() & now.keys():
        if before[part] == now[part]:
            continue
        if part == "authors_frame":
            was = before[part] == _WITH
            what = f"begun {'with' if was else 'without'} --authors-frame"
            remedy = "give it again" if was else "leave it out"
        else:
            other, remedy = _PARTS[part]
            what = f"with {other}"
        told.append(f"{what} ({remedy})")
    return ", ".join(sorted(told))


def _listing(samples: Sequence[Sample]) -> str:
    """Digest of what is known of samples without opening a file, in their order."""
    return _digest(
        [
            [s.dataset, s.modality, s.stem, s.weight, list(s.absent), list(map(facts, s.targets))]
            for s in samples
        ]
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
