"""How well a mask matches the truth: overlap (Dice, IoU) and contour agreement (NSD).

All three take two bool arrays (H, W), are symmetric, and return a float in [0, 1], 1 being best.

Empty masks: when both are empty the answer is right and scores 1.0; when exactly one is empty it
scores 0.0. Dice and IoU are 0/0 in the first case, so this is a convention; see docs/metrics.md.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from textsam.errors import DataError

__all__ = ["dice", "iou", "nsd"]


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Dice similarity coefficient (DSC), 2·|P ∩ T| / (|P| + |T|).

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        In [0, 1]; 1.0 when both masks are empty, 0.0 when exactly one is.

    Raises:
        DataError: not two bool arrays of one (H, W) shape.
    """
    _check(prediction, truth)
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(prediction & truth)) / total if total else 1.0


def iou(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union (Jaccard index), |P ∩ T| / (|P| + |T| - |P ∩ T|).

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        In [0, 1]; 1.0 when both masks are empty, 0.0 when exactly one is.

    Raises:
        DataError: not two bool arrays of one (H, W) shape.
    """
    _check(prediction, truth)
    union = int(np.count_nonzero(prediction | truth))
    return int(np.count_nonzero(prediction & truth)) / union if union else 1.0


def nsd(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance_px: float = 3.0
) -> float:
    """Normalised surface Dice of the two 2-D contours.

    The share of both contours' length that lies within `tolerance_px` of the other contour
    (Nikolov et al., arXiv:1809.04430), computed by MONAI's `compute_surface_dice` with subvoxels:
    contours run between pixel centres on the grid of pixel corners, and each piece counts by its
    length. An object cut off by the image's border has a contour there. Holes have one too.

    This is not the number that the TextSAM-EUS authors' code calls NSD, which treats the mask as
    a slab of one slice; see docs/metrics.md.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.
        tolerance_px: Euclidean distance in pixels up to which (inclusive) contours agree.

    Returns:
        In [0, 1]; 1.0 when both masks are empty, 0.0 when exactly one is.

    Raises:
        DataError: not two bool arrays of one (H, W) shape, or a tolerance that is negative or not
            finite.
    """
    _check(prediction, truth)
    if not (math.isfinite(tolerance_px) and tolerance_px >= 0):
        raise DataError(f"tolerance_px is {tolerance_px}; give a finite number, 0 or more")
    empty = not prediction.any(), not truth.any()
    if any(empty):
        return 1.0 if all(empty) else 0.0

    import torch

    with warnings.catch_warnings():
        # Optional parts of MONAI complain when imported; nothing here uses them.
        warnings.simplefilter("ignore")
        from monai.metrics.surface_dice import compute_surface_dice

    # The frame of background makes the image's border a contour whatever MONAI's own cropping does.
    one_hot = [torch.from_numpy(np.pad(mask, 1))[None, None] for mask in (prediction, truth)]
    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 call one of their own functions in a way they deprecate.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        score = compute_surface_dice(
            one_hot[0],
            one_hot[1],
            class_thresholds=[float(tolerance_px)],
            include_background=True,  # the only channel is the object
            use_subvoxels=True,
        )
    return min(1.0, max(0.0, float(score[0, 0])))


def _check(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if not isinstance(mask, np.ndarray):
            raise DataError(
                f"the {name} is a {type(mask).__name__}; give a numpy array of bool, (H, W)"
            )
        if mask.dtype != np.bool_:
            raise DataError(
                f"the {name} holds {mask.dtype}; give bool, such as `mask > 127` of a 0/255 image "
                "or `probability > 0.5`"
            )
        if mask.ndim != 2 or mask.size == 0:
            raise DataError(
                f"the {name} has the shape {mask.shape}; give one mask (H, W) of at least one pixel"
            )
    if prediction.shape != truth.shape:
        raise DataError(
            f"the prediction is {prediction.shape} and the truth {truth.shape} (H, W); compare "
            "masks of one size, such as both in the image's own pixels"
        )
