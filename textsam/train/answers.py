"""What a training step asks of an image, and what it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from textsam.train.simulate import Given

__all__ = ["Answers", "Posed"]


@dataclass(frozen=True)
class Answers:
    """What the passes over one image's n prompts gave.

    Attributes:
        logits: per pass (n, 1, h, w), over the valid part of the square, or in the image's own
            pixels where the item carries its masks in them.
        iou: per pass (n, 1), predicted.
        targets: (n, h, w), in the order of the answers.
        order: (n,) place of each answer's prompt in the item.
    """

    logits: list[Tensor]
    iou: list[Tensor]
    targets: Tensor
    order: list[int]


@dataclass(frozen=True)
class Posed:
    """What the first pass over an item's n prompts is asked.

    Attributes:
        order: (n,) place of each prompt in the item.
        tokens: (n, 256) in that order, or None for a model that takes no text.
        given: geometry of each, all of one kind, or None.
        worded: whether prompts with geometry get their words.
    """

    order: list[int]
    tokens: Tensor | None
    given: Sequence[Given | None]
    worded: bool = True
