"""What every metric asks of its arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textsam.errors import DataError
from textsam.frame import bounds

__all__ = ["check_masks", "check_spacing", "check_tolerance", "joint_region"]


def check_masks(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
    """Refuse what is not two masks of one size.

    Raises:
        DataError: not two bool arrays of one (H, W) shape, of at least one pixel.
    """
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if not isinstance(mask, np.ndarray):
            raise DataError(
                f"the {name} is a {type(mask).__name__}; give a numpy array of bool, (H, W)"
            )
        if np.ma.is_masked(mask):
            raise DataError(
                f"the {name} has masked pixels; fill them first, such as with mask.filled(False)"
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


def check_tolerance(name: str, tolerance: float) -> float:
    """The tolerance as a float; the message calls it `name`.

    Raises:
        DataError: no number, negative or not finite.
    """
    try:
        good = math.isfinite(tolerance) and tolerance >= 0
    except TypeError:
        good = False
    if not good:
        raise DataError(f"{name} is {tolerance!r}; give a finite number, 0 or more")
    return float(tolerance)


def check_spacing(spacing_mm: Sequence[float]) -> tuple[float, float]:
    """(row, column) spacing as floats.

    Raises:
        DataError: not two finite numbers above 0.
    """
    try:
        row_mm, column_mm = (float(value) for value in spacing_mm)
        good = all(math.isfinite(value) and value > 0 for value in (row_mm, column_mm))
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise DataError(
            f"spacing_mm is {spacing_mm!r}; give (row, column), the distance in mm from one row to "
            "the next and from one column to the next, both above 0"
        )
    return row_mm, column_mm


def joint_region(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks cut to the box around both and framed by one pixel of background.

    Distances between contours need nothing outside of it, and the frame makes the image's border
    a contour of what it cuts off, whatever a library does there. At least one mask must have a
    pixel.
    """
    either = prediction | truth
    box = bounds(either)
    return np.pad(prediction[box], 1), np.pad(truth[box], 1)
