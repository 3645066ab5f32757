"""From a saliency map to one region, and from the region to a box and points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsam.errors import PromptError
from textsam.inference.refinement import RefineWith, points_and_box

__all__ = ["SalientPrompt", "prompt_of_region", "salient_region"]

_WORK_PX = 128
# How hard an edge stops the walker: scikit-image's own default for images in [0, 1].
_EDGE_WEIGHT = 130.0
# Share of the upper part that is not surely inside: maps are wider than what they mark.
_SURE = 0.75
# Part of its largest value up to which a map's range is rounding.
_FLAT = 1e-12


@dataclass(frozen=True)
class SalientPrompt:
    """A box and points, to be given together.

    Attributes:
        box: (4,) of (x_min, y_min, x_max, y_max) in pixels of the image, inclusive.
        points: (n, 2) of (x, y) in pixels of the image, all inside the region.
    """

    box: NDArray[np.float64]
    points: NDArray[np.float64]


def salient_region(
    saliency: NDArray[np.floating], pixels: NDArray[np.uint8]
) -> NDArray[np.bool_] | None:
    """The largest region that saliency marks and the image's edges bound.

    In place of the conditional random field of Konwer et al. (2025), whose usual implementation is
    no longer kept: Otsu's threshold divides the map; the highest quarter of the upper part is
    surely inside, what is below the mean of the lower part surely outside, and scikit-image's
    random walker (Grady 2006) decides the rest by the image's edges. The work is done on at most
    128 px, far above the resolution of any saliency map.

    Args:
        saliency: (H, W), higher is likelier; any range.
        pixels: (H, W, 3) of the image in [0, 255].

    Returns:
        (H, W), or None where the map is the same everywhere.

    Raises:
        PromptError: map and image differ in size, or the map has values that are no numbers.
    """
    if saliency.shape != pixels.shape[:2]:
        raise PromptError(
            f"the saliency map is {saliency.shape}, the image {pixels.shape[:2]}; give a map of "
            "the image's height and width"
        )
    if not np.isfinite(saliency).all():
        raise PromptError("the saliency map has values that are no numbers")
    from skimage.filters import threshold_otsu
    from skimage.measure import label
    from skimage.segmentation import random_walker
    from skimage.transform import resize

    low, high = float(saliency.min()), float(saliency.max())
    if high - low <= _FLAT * max(abs(low), abs(high)):
        return None
    scaled = (saliency.astype(np.float64) - low) / (high - low)
    factor = min(1.0, _WORK_PX / max(saliency.shape))
    size = tuple(max(1, round(length * factor)) for length in saliency.shape)
    heat = resize(scaled, size, order=1, anti_aliasing=factor < 1)  # type: ignore[no-untyped-call]
    if heat.max() - heat.min() < 1e-9:
        return None
    border = threshold_otsu(heat)  # type: ignore[no-untyped-call]
    upper = heat > border
    seeds = np.zeros(size, dtype=np.int32)
    seeds[upper & (heat >= np.quantile(heat[upper], _SURE))] = 1
    seeds[~upper & (heat <= heat[~upper].mean())] = 2
    if (seeds == 0).any():
        grey = resize(pixels.mean(-1) / 255, size, order=1, anti_aliasing=factor < 1)  # type: ignore[no-untyped-call]
        # One channel that is the same everywhere would be divided by its own range, 0.
        if np.ptp(grey) > 0:
            # Solved directly: conjugate gradients may stop short of probabilities.
            seeds = random_walker(grey, seeds, beta=_EDGE_WEIGHT, mode="bf")
        else:
            seeds = np.where(upper, 1, 2)
    parts = label(seeds == 1, connectivity=2)  # type: ignore[no-untyped-call]
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    rows = np.arange(saliency.shape[0]) * size[0] // saliency.shape[0]
    columns = np.arange(saliency.shape[1]) * size[1] // saliency.shape[1]
    region: NDArray[np.bool_] = largest[np.ix_(rows, columns)]
    return region


def prompt_of_region(region: NDArray[np.bool_], generator: np.random.Generator) -> SalientPrompt:
    """Box and five random points of a region.

    Args:
        region: (H, W), not empty.
        generator: draws the points.

    Raises:
        PromptError: the region is empty.
    """
    found = points_and_box(region, RefineWith.BOX_5POINTS, generator)
    if found is None or found[1] is None:
        raise PromptError("the salient region is empty; there is no box of it")
    return SalientPrompt(box=found[1], points=found[0])
