"""Overlap of two masks: Dice and IoU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from textsam.metrics.arguments import check_masks

__all__ = ["dice", "iou"]


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
    check_masks(prediction, truth)
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
    check_masks(prediction, truth)
    union = int(np.count_nonzero(prediction | truth))
    return int(np.count_nonzero(prediction & truth)) / union if union else 1.0
