"""Answers held for files that need all of an input's images at once: a volume, a segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsam.io.image import Image, Placement
from textsam.result import Segmentation

__all__ = ["HeldAnswers"]


@dataclass(frozen=True)
class _Held:
    """One answer with its mask in one bit per pixel, and without the image.

    probability: (H, W) uint8, 255 for 1; None where nobody will ask.
    """

    bits: NDArray[np.uint8]
    probability: NDArray[np.uint8] | None
    score: float
    found: bool
    prompt: str
    extra: Mapping[str, object]
    adapter: str
    model: str
    size_px: tuple[int, int]
    source: str
    spacing_mm: tuple[float, float] | None
    placement: Placement | None
    region_px: tuple[int, int, int, int] | None


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
        self._held[index] = tuple(self._packed(answer) for answer in answers)

    def masks(self, prompt: int) -> Mapping[int, NDArray[np.bool_]]:
        """Image number -> (H, W) bool mask of the prompt with that number, from 0."""
        return _Masks(self._held, prompt)

    def __getitem__(self, index: int) -> Sequence[Segmentation]:
        return [_unpacked(held) for held in self._held[index]]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._held))

    def __len__(self) -> int:
        return len(self._held)

    def _packed(self, answer: Segmentation) -> _Held:
        levels = None
        if self._fractional:
            levels = np.rint(answer.probability * 255).astype(np.uint8)
        return _Held(
            bits=np.packbits(answer.mask),
            probability=levels,
            score=answer.score,
            found=answer.found,
            prompt=answer.prompt,
            extra=answer.extra,
            adapter=answer.adapter,
            model=answer.model,
            size_px=answer.image.size_px,
            source=answer.image.source,
            spacing_mm=answer.image.spacing_mm,
            placement=answer.image.placement,
            region_px=answer.image.region_px,
        )


class _Masks(Mapping[int, NDArray[np.bool_]]):
    """Image number -> mask of one prompt, unpacked when it is asked for."""

    def __init__(self, held: Mapping[int, tuple[_Held, ...]], prompt: int) -> None:
        self._held, self._prompt = held, prompt

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        return _mask(self._held[index][self._prompt])

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._held))

    def __len__(self) -> int:
        return len(self._held)


def _mask(held: _Held) -> NDArray[np.bool_]:
    height, width = held.size_px
    return np.unpackbits(held.bits, count=height * width).reshape(held.size_px).view(np.bool_)


def _unpacked(held: _Held) -> Segmentation:
    height, width = held.size_px
    # One zero seen as a whole image takes no memory.
    pixels = np.broadcast_to(np.uint8(0), (height, width, 3))
    probability = np.broadcast_to(np.float32(0), held.size_px)
    if held.probability is not None:
        probability = held.probability.astype(np.float32) / np.float32(255)
    return Segmentation(
        mask=_mask(held),
        probability=probability,
        score=held.score,
        found=held.found,
        prompt=held.prompt,
        image=Image(pixels, held.source, held.spacing_mm, held.placement, held.region_px),
        adapter=held.adapter,
        model=held.model,
        extra=held.extra,
    )
