"""Points and boxes of the truth, as people would give them: off by an amount drawn by hash.

Every draw is a hash of seed, data set, stem, concept and purpose. It does not depend on the order
of the images, on which of them were done before, nor on the version of a random generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsam.draws import drawn_by
from textsam.frame import box_and_centroid

__all__ = [
    "LOOSE_BOX_PX",
    "Draws",
    "foreground_point",
    "loose_box",
    "shifted_box",
]

LOOSE_BOX_PX = (10.0, 15.0)
"""How far outside of the tight box each side of a loose box lies, in pixels of the image."""

_DRAWS = 4  # of 8 bytes each, what one sha256 holds


@dataclass(frozen=True)
class Draws:
    """Uniform draws in [0, 1) that belong to one concept in one image.

    Attributes:
        seed: of the evaluation.
        dataset: name of the set.
        stem: of the image.
        concept: what the set calls it.
    """

    seed: int
    dataset: str
    stem: str
    concept: str

    def __call__(self, purpose: str) -> NDArray[np.float64]:
        """(4,) draws for one purpose; always the same."""
        digest = drawn_by(self.seed, self.dataset, self.stem, self.concept, purpose)
        # 53 bits, as many as a float holds exactly, so that 1 is never reached.
        whole = [int.from_bytes(digest[8 * i : 8 * i + 8]) >> 11 for i in range(_DRAWS)]
        return np.array(whole, dtype=np.float64) / 2**53


def foreground_point(truth: NDArray[np.bool_], draws: Draws) -> tuple[float, float]:
    """One pixel of the mask, all alike likely: the point prompt of TextSAM-EUS's comparisons.

    Args:
        truth: (H, W), not empty.
        draws: of this concept in this image.

    Returns:
        (x, y) of the pixel's centre.
    """
    places = np.flatnonzero(truth)
    row, column = divmod(int(places[int(draws("point")[0] * len(places))]), truth.shape[1])
    return float(column), float(row)


def loose_box(truth: NDArray[np.bool_], draws: Draws) -> tuple[float, float, float, float]:
    """The mask's tight box with each side moved outwards by 10 to 15 px, cut at the image's border.

    The box prompt of TextSAM-EUS's comparisons. The paper does not say which way the sides move;
    outwards is what MedSAM's training does, and inwards there would be nothing left of small
    objects.

    Args:
        truth: (H, W), not empty.
        draws: of this concept in this image.

    Returns:
        (x_min, y_min, x_max, y_max) in pixels, pixel centres being whole numbers.
    """
    low, high = LOOSE_BOX_PX
    outwards = low + (high - low) * draws("loose box")
    return _inside(_tight(truth) + outwards * (-1, -1, 1, 1), truth.shape)


def shifted_box(
    truth: NDArray[np.bool_], fraction: float, draws: Draws
) -> tuple[float, float, float, float]:
    """The mask's tight box, each side moved by exactly this part of the box's size, in or out.

    Left and right side move by `fraction` of the box's width, top and bottom by `fraction` of its
    height; inwards or outwards is a coin toss per side, the same for all fractions. So boxes come
    out too large, too small and beside the object, as in Funai et al., whose boxes are "shifted in
    size". Cut at the image's border.

    Args:
        truth: (H, W), not empty.
        fraction: in [0, 0.5).
        draws: of this concept in this image.

    Returns:
        (x_min, y_min, x_max, y_max) in pixels, pixel centres being whole numbers.
    """
    tight = _tight(truth)
    size = np.tile(tight[2:] - tight[:2] + 1, 2)
    toss = np.where(draws("box shift") < 0.5, -1.0, 1.0)
    moved = tight + toss * fraction * size
    # An object of one or two pixels has a box whose sides can pass each other.
    corners = np.concatenate([np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])])
    return _inside(corners, truth.shape)


def _tight(truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    found = box_and_centroid(truth)
    if found is None:
        raise ValueError("an empty mask has no box")
    return found[0]


def _inside(box: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    height, width = shape
    x_min, y_min, x_max, y_max = np.clip(box, 0, np.tile((width - 1, height - 1), 2)).tolist()
    return x_min, y_min, x_max, y_max
