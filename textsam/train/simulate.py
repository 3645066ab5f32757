"""Prompts that training makes up: from the truth as people would give it, or from own output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from textsam.frame import box_and_centroid
from textsam.inference.refinement import RefineWith, points_and_box
from textsam.train.settings import GeometrySettings

__all__ = ["Given", "given_by_truth", "simulated_geometry", "weighted_choice"]


@dataclass(frozen=True)
class Given:
    """Geometric prompts of one object, in the model's frame.

    Attributes:
        points: (k, 2) of (x, y) in pixels, all meant for the object; a centroid that was moved may
            lie beside it.
        box: (4,) of (x_min, y_min, x_max, y_max) in pixels, or None.
        mask: (1, 4h, 4h) logits of an earlier pass over the model's square, without a gradient, or
            None.
    """

    points: NDArray[np.float64]
    box: NDArray[np.float64] | None
    mask: Tensor | None = None


def weighted_choice(weights: Mapping[RefineWith, float], rng: np.random.Generator) -> RefineWith:
    """One of the kinds, by weight. Where there is one alone, nothing is drawn."""
    kinds = [kind for kind, weight in weights.items() if weight > 0]
    if len(kinds) == 1:
        return kinds[0]
    shares = np.array([weights[kind] for kind in kinds])
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def simulated_geometry(
    mask: NDArray[np.bool_], jitter: float, rng: np.random.Generator, shift: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centroid and box of a mask, the box's sides and the point shifted at random.

    Args:
        mask: (h, w), not empty, in the model's frame.
        jitter: largest shift as a fraction of the box's width and height.
        rng: of this item.
        shift: fraction of the box's width or height by which each side moves before that, inwards
            or outwards by a coin toss per side; without one no coin is tossed.

    Returns:
        (2,) point (x, y) and (4,) box, inside the mask's array.
    """
    found = box_and_centroid(mask)
    if found is None:
        raise ValueError("an empty mask has no geometry")
    box, centroid = found
    size = np.array([box[2] - box[0], box[3] - box[1]]) + 1.0
    limit = np.array([mask.shape[1], mask.shape[0]]) - 1.0
    if shift:
        box = box + rng.choice([-1.0, 1.0], 4) * shift * np.tile(size, 2)
    moved = box + rng.uniform(-jitter, jitter, 4) * np.tile(size, 2)
    moved = np.clip(moved, 0, np.tile(limit, 2))
    box = np.concatenate([np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])])
    point = np.clip(centroid + rng.uniform(-jitter, jitter, 2) * size / 2, 0, limit)
    return point, box


def given_by_truth(
    mask: NDArray[np.bool_],
    kind: RefineWith,
    settings: GeometrySettings,
    rng: np.random.Generator,
) -> Given:
    """What a person who is not quite exact would give for an object.

    Args:
        mask: (h, w), not empty, in the model's frame.
        kind: without an earlier mask, which the truth does not have.
        settings: of jitter and shifts.
        rng: of this item.

    Returns:
        The box, moved, and points: the centroid, moved, or pixels of the mask.
    """
    shift = 0.0
    if settings.shifts:
        chances = np.array([one.p for one in settings.shifts])
        drawn = int(rng.choice(len(chances), p=chances / chances.sum()))
        shift = settings.shifts[drawn].by
    centroid, box = simulated_geometry(mask, settings.jitter, rng, shift)
    points = np.zeros((0, 2))
    if kind in (RefineWith.CENTROID, RefineWith.BOX_CENTROID):
        points = centroid[None]
    elif kind.random_points:
        found = points_and_box(mask, kind, rng)
        assert found is not None, "simulated_geometry refuses an empty mask"
        points = found[0]
    return Given(points, box if kind.has_box else None)
