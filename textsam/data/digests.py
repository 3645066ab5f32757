"""Digests of samples: whether the files behind a result are still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textsam.data.sample import CocoTarget, Sample, Target
from textsam.errors import DataError
from textsam.weights.checksum import sha256_of

__all__ = ["FileDigests", "facts"]


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
                *self._shown(sample),
            ]
            digest.update(json.dumps(known).encode())
        return digest.hexdigest()

    def of_sample(self, sample: Sample) -> str:
        """A digest of what can be asked of one sample and what the answer is compared with.

        Its names play no part, nor how often training sees it.

        Returns:
            64 hexadecimal digits.

        Raises:
            DataError: a file cannot be read.
        """
        known = [sample.modality, *self._shown(sample)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _shown(self, sample: Sample) -> list[Any]:
        targets = [self._of_target(target) for target in sample.targets]
        return [list(sample.absent), self(sample.image_path), targets]

    def _of_target(self, target: Target | CocoTarget) -> list[Any]:
        files = [] if isinstance(target, CocoTarget) else [self(target.mask_path)]
        return [*facts(target), *files]


def facts(target: Target | CocoTarget) -> list[Any]:
    """What is known of a target without opening a file."""
    if isinstance(target, CocoTarget):
        # Of its file only what this image has counts.
        return [target.concept, list(target.size_px), [rle.hex() for rle in target.rles]]
    return [target.concept, target.label, list(target.labels)]
