"""Masks cut from low-resolution logits, no earlier than they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from textsam.preprocess import Frame

__all__ = ["Masks"]


class Masks(Sequence[NDArray[np.bool_]]):
    """C masks of (H, W) bool, each at its image's resolution.

    Each is made when it is first asked for: logits of a large image take long to enlarge, and only
    what is refined needs its mask here.

    Args:
        logits: (C, 1, 4h, 4h), low resolution, over the model's square.
        frames: (C,) of the images.
        threshold_logit: logit above which a pixel belongs to a mask.
    """

    def __init__(self, logits: Tensor, frames: Sequence[Frame], threshold_logit: float) -> None:
        self._logits = logits
        self._frames = frames
        self._threshold_logit = threshold_logit
        self._made: dict[int, NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.bool_]: ...

    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.bool_]]: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.bool_] | list[NDArray[np.bool_]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index not in self._made:
            # Every mask is made alone: images differ in size.
            full = self._frames[index].logits_to_image(self._logits[index][None].float())[0, 0]
            self._made[index] = (full > self._threshold_logit).cpu().numpy()
        return self._made[index]

    def replaced(self, logits: Tensor, by: Masks, rows: Mapping[int, int]) -> Masks:
        """These with some of other masks instead; what is made of either stays made.

        Args:
            logits: (C, 1, 4h, 4h) of all that is returned.
            by: the other masks.
            rows: which of these -> which of the others.
        """
        new = Masks(logits, self._frames, self._threshold_logit)
        new._made = {index: mask for index, mask in self._made.items() if index not in rows}
        new._made |= {index: by._made[row] for index, row in rows.items() if row in by._made}
        return new

    def forget(self) -> None:
        """Let go of what is made; it is made again where it is asked for again."""
        self._made.clear()
