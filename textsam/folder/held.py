"""Answers held for files that need all of an input's images at once: a volume, a segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from textsam.result import Segmentation

__all__ = ["HeldAnswers"]


@dataclass(frozen=True, eq=False)
class _Held:
    """One answer, with its mask in one bit per pixel.

    bare: all else of it; its mask, probability and pixels are zeros that take no memory.
    probability: (H, W) uint8, 255 for 1; None where nobody will ask.
    """

    bare: Segmentation
    bits: NDArray[np.uint8]
    probability: NDArray[np.uint8] | None

    @classmethod
    def of(cls, answer: Segmentation, *, fractional: bool) -> _Held:
        size = answer.image.size_px
        # One zero seen as a whole image.
        bare = replace(
            answer,
            mask=np.broadcast_to(np.bool_(False), size),
            probability=np.broadcast_to(np.float32(0), size),
            image=replace(answer.image, pixels=np.broadcast_to(np.uint8(0), (*size, 3))),
        )
        levels = np.rint(answer.probability * 255).astype(np.uint8) if fractional else None
        return cls(bare, np.packbits(answer.mask), levels)

    def mask(self) -> NDArray[np.bool_]:
        height, width = self.bare.image.size_px
        pixels = np.unpackbits(self.bits, count=height * width)
        return pixels.reshape(height, width).view(np.bool_)

    def answer(self) -> Segmentation:
        probability = self.bare.probability
        if self.probability is not None:
            probability = self.probability.astype(np.float32) / np.float32(255)
        return replace(self.bare, mask=self.mask(), probability=probability)


class HeldAnswers(Mapping[int, Sequence[Segmentation]]):
    """Image number -> its answers, one per prompt, in an eighth of a byte per pixel and prompt.

    Answers come back equal but for the image, whose pixels are all 0, and the probability: with
    `fractional` it is rounded to 1/255, without it is 0.

    Args:
        fractional: keep the probabilities, in one byte more per pixel and prompt.
    """

    def __init__(self, *, fractional: bool = False) -> None:
        self._fractional = fractional
        self._held: dict[int, tuple[_Held, ...]] = {}

    def hold(self, index: int, answers: Sequence[Segmentation]) -> None:
        """Keep the answers about image `index`."""
        self._held[index] = tuple(
            _Held.of(answer, fractional=self._fractional) for answer in answers
        )

    def masks(self, prompt: int) -> Mapping[int, NDArray[np.bool_]]:
        """Image number -> (H, W) bool mask of the prompt with that number, from 0."""
        return _Masks(self._held, prompt)

    def __getitem__(self, index: int) -> Sequence[Segmentation]:
        return [held.answer() for held in self._held[index]]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._held))

    def __len__(self) -> int:
        return len(self._held)


class _Masks(Mapping[int, NDArray[np.bool_]]):
    """Image number -> mask of one prompt, unpacked when it is asked for."""

    def __init__(self, held: Mapping[int, tuple[_Held, ...]], prompt: int) -> None:
        self._held, self._prompt = held, prompt

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        return self._held[index][self._prompt].mask()

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._held))

    def __len__(self) -> int:
        return len(self._held)
