"""What an image shows, whole and closer, as a narrower field of view would show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsam.data.close_crop import close_crop
from textsam.data.named import by_prompt
from textsam.data.sample import Sample, load_sample

__all__ = ["Looks", "looks_at"]

# A closer look: the side of what is shown, as a multiple of the object's longer side.
_CLOSE = (1.3, 1.9)

Look = tuple[NDArray[np.uint8], NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Looks:
    """A concept that is in an image.

    Attributes:
        concept: what is there.
        whole: (H, W, 3) pixels and (H, W) mask of the image.
        closer: the same of a part around the object; None where there is no room for one.
    """

    concept: str
    whole: Look
    closer: Look | None


def looks_at(sample: Sample, prompts: Sequence[str], seed: int) -> Iterator[Looks]:
    """All of these concepts that an image shows.

    Args:
        sample: the image and its masks.
        prompts: canonical names.
        seed: of the place of the closer look.
    """
    image, masks = load_sample(sample)
    for concept, mask in by_prompt(masks, prompts).items():
        if concept not in prompts or not mask.any():
            continue
        part = close_crop([mask], _CLOSE, np.random.default_rng(seed))
        closer = None if part is None else (np.ascontiguousarray(image[part]), mask[part])
        yield Looks(concept, (image, mask), closer)
