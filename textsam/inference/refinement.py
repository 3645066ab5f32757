"""What a mask tells the next pass: centroid, box, random points, or itself."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from textsam.draws import drawn_by
from textsam.errors import PromptError
from textsam.frame import box_and_centroid

__all__ = ["RefineWith", "generator_for", "points_and_box", "refine_with_of"]


class RefineWith(StrEnum):
    """Prompts that refinement makes from the mask before (TextSAM-EUS, refinement ablation).

    "point" is one random pixel of the mask and "5points" are five; "mask" is the logits of the pass
    before as they are, SAM's dense prompt; `NONE` does not refine. The paper's own, and everybody's
    default, is `BOX_CENTROID`.
    """

    NONE = "none"
    POINT = "point"
    CENTROID = "centroid"
    BOX = "box"
    BOX_POINT = "box+point"
    BOX_CENTROID = "box+centroid"
    BOX_5POINTS = "box+5points"
    MASK = "mask"
    BOX_MASK = "box+mask"

    @property
    def random_points(self) -> int:
        """How many pixels of the mask are drawn."""
        return {"point": 1, "box+point": 1, "box+5points": 5}.get(self.value, 0)

    @property
    def has_box(self) -> bool:
        """Whether the box of the mask is given."""
        return self.value.startswith("box")

    @property
    def has_mask(self) -> bool:
        """Whether the logits of the pass before are given."""
        return self.value.endswith("mask")


def refine_with_of(name: str) -> RefineWith:
    """The kind of a name.

    Raises:
        PromptError: no such kind.
    """
    try:
        return RefineWith(name)
    except ValueError:
        raise PromptError(
            f"refine_with is {name!r}; choose one of {', '.join(RefineWith)}"
        ) from None


def generator_for(seed: int, image: str, prompt: str, number: int) -> np.random.Generator:
    """The generator of one prompt's points on one image.

    It depends on nothing else: not on what was asked before, nor on what is asked beside it.

    Args:
        seed: chosen by the caller.
        image: tells images apart by content.
        prompt: the text.
        number: of the refinement pass, from 1.
    """
    return np.random.default_rng(int.from_bytes(drawn_by(seed, image, number, prompt)[:16], "big"))


def points_and_box(
    mask: NDArray[np.bool_],
    gives: RefineWith = RefineWith.BOX_CENTROID,
    generator: np.random.Generator | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None] | None:
    """Foreground points and box that a mask gives; of "mask" neither.

    Args:
        mask: (H, W).
        gives: which.
        generator: draws the random points; needed by the kinds that have some.

    Returns:
        (n, 2) points (x, y) and a (4,) box (x_min, y_min, x_max, y_max) or None, in pixels of the
        mask; None for an empty mask, and for `RefineWith.NONE`. A mask of fewer pixels than are
        wanted gives some of them twice, so that every mask gives as many points.

    Raises:
        ValueError: a kind with random points and no generator.
    """
    found = box_and_centroid(mask) if gives is not RefineWith.NONE else None
    if found is None:
        return None
    box, centroid = found
    points = np.zeros((0, 2))
    if gives in (RefineWith.CENTROID, RefineWith.BOX_CENTROID):
        points = centroid[None]
    elif gives.random_points:
        if generator is None:
            raise ValueError(f"{gives.value!r} draws points and needs a generator")
        ys, xs = np.nonzero(mask)
        few = len(xs) < gives.random_points
        drawn = generator.choice(len(xs), size=gives.random_points, replace=few)
        points = np.stack([xs[drawn], ys[drawn]], axis=1).astype(np.float64)
    return points, box if gives.has_box else None
