"""What a result depends on, as JSON and as one digest; and what differs between two of these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from textsam.adapters import TENSORS_FILE, find_adapter
from textsam.config import TrainConfig, without_effect
from textsam.data.sample import CocoTarget, Sample, Target
from textsam.errors import DataError
from textsam.presets import preset
from textsam.weights import entry
from textsam.weights.checksum import sha256_of, sha256_of_folder

__all__ = ["Facts", "FileDigests", "base_facts", "changes_between", "digest_of", "training_facts"]

Facts = dict[str, Any]
"""JSON types; two results of equal facts are interchangeable."""


class FileDigests:
    """SHA-256 of files, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def __call__(self, path: Path) -> str:
        """The digest of a file.

        Raises:
            DataError: it cannot be read.
        """
        if path not in self._known:
            try:
                self._known[path] = sha256_of(path)
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
        return self._known[path]

    def of_samples(self, samples: Sequence[Sample]) -> str:
        """One digest of samples: what is known of each, in order, and the contents of its files.

        Where the files lie plays no part: data may move.
        """
        digest = hashlib.sha256()
        for sample in samples:
            known = [
                sample.dataset,
                sample.modality,
                sample.stem,
                sample.weight,
                list(sample.absent),
                self(sample.image_path),
                [self._of_target(target) for target in sample.targets],
            ]
            digest.update(json.dumps(known).encode())
        return digest.hexdigest()

    def _of_target(self, target: Target | CocoTarget) -> list[Any]:
        if isinstance(target, CocoTarget):
            # Of its file only what this image has counts.
            return [target.concept, list(target.size_px), [rle.hex() for rle in target.rles]]
        return [target.concept, target.label, list(target.labels), self(target.mask_path)]


def base_facts(
    preset_name: str, sam_checkpoint: Path | None, text_encoder: Path | None, files: FileDigests
) -> Facts:
    """The base weights in use: the registry's identities, or digests of the user's own files."""
    info = preset(preset_name)
    image, text = entry(info.image_weights).identity, entry(info.text_weights).identity
    if sam_checkpoint is not None:
        image = files(sam_checkpoint)
    if text_encoder is not None:
        text = sha256_of_folder(text_encoder, files)
    return {info.image_weights: image, info.text_weights: text}


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


def _leaves(facts: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(facts, dict):
        for name, value in facts.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    else:
        yield path, facts


def changes_between(before: Facts, now: Facts, most: int = 4) -> str:
    """What differs, in words: "tuning.rank was 4 and is 8; …"."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    nothing = object()
    names = [n for n in {**old, **new} if old.get(n, nothing) != new.get(n, nothing)]
    told = [_change(name, old, new) for name in names[:most]]
    if len(names) > most:
        told.append(f"and {len(names) - most} more")
    return "; ".join(told)


def _change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if name not in old:
        return f"{name} is {new[name]!r} and was not there"
    if name not in new:
        return f"{name} was {old[name]!r} and is no longer there"
    if isinstance(old[name], str) and len(old[name]) == 64:
        return f"{name}: the files are others"
    return f"{name} was {old[name]!r} and is {new[name]!r}"
