"""Two contours compared: the share within a tolerance (NSD), and how far apart they are (HD95)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from textsam.errors import DataError
from textsam.metrics.arguments import (
    check_masks,
    check_spacing,
    check_tolerance,
    joint_region,
)
from textsam.quiet import quiet

__all__ = ["hd95", "nsd", "quiet_monai"]

DEFAULT_TOLERANCE_PX = 3.0


def nsd(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    tolerance_px: float | None = None,
    *,
    tolerance_mm: float | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> float:
    """Normalised surface Dice of the two 2-D contours.

    The share of both contours' length that lies within the tolerance of the other contour
    (Nikolov et al., arXiv:1809.04430), computed by MONAI's `compute_surface_dice` with subvoxels:
    contours run between pixel centres on the grid of pixel corners, and each piece counts by its
    length. An object cut off by the image's border has a contour there. Holes have one too.

    The tolerance is in pixels, or in mm if the spacing is given; lengths are then in mm as well.
    This is not the number that the TextSAM-EUS authors' code calls NSD; that is `nsd_slab`.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.
        tolerance_px: Euclidean distance in pixels up to which (inclusive) contours agree; 3 where
            no tolerance is given.
        tolerance_mm: the same in mm, in place of `tolerance_px`; needs `spacing_mm`.
        spacing_mm: (row, column), mm from one row to the next and from one column to the next.

    Returns:
        In [0, 1]; 1.0 when both masks are empty, 0.0 when exactly one is.

    Raises:
        DataError: not two bool arrays of one (H, W) shape; a tolerance that is negative or not
            finite; a spacing that is not two numbers above 0; a tolerance in mm without a spacing
            or the other way round, or tolerances in both units.
    """
    check_masks(prediction, truth)
    if (tolerance_mm is None) != (spacing_mm is None):
        raise DataError(
            f"tolerance_mm is {tolerance_mm} and spacing_mm {spacing_mm}; give both to measure in "
            "mm, or neither to measure in pixels"
        )
    if tolerance_mm is not None and spacing_mm is not None:
        if tolerance_px is not None:
            raise DataError(
                f"tolerance_px is {tolerance_px} and tolerance_mm {tolerance_mm}; give one of them"
            )
        spacing = check_spacing(spacing_mm)
        tolerance = check_tolerance("tolerance_mm", tolerance_mm)
    else:
        spacing = (1.0, 1.0)
        given = DEFAULT_TOLERANCE_PX if tolerance_px is None else tolerance_px
        tolerance = check_tolerance("tolerance_px", given)
    empty = not prediction.any(), not truth.any()
    if any(empty):
        return 1.0 if all(empty) else 0.0

    import torch

    with quiet_monai():
        from monai.metrics.surface_dice import compute_surface_dice

        first, second = map(torch.from_numpy, joint_region(prediction, truth))
        score = compute_surface_dice(
            first[None, None],
            second[None, None],
            class_thresholds=[tolerance],
            include_background=True,  # the only channel is the object
            spacing=spacing,
            use_subvoxels=True,
        )
    return min(1.0, max(0.0, float(score[0, 0])))


def hd95(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    spacing_mm: Sequence[float] | None = None,
) -> float:
    """95 % Hausdorff distance: how far apart the contours are, but for the worst 5 %.

    For each boundary pixel of one mask the Euclidean distance to the nearest boundary pixel of the
    other; the 95th percentile of these, interpolated linearly; the larger of the two directions.
    Computed by MONAI's `compute_hausdorff_distance`. A boundary pixel belongs to its mask and has
    one of its four neighbours, or the image's border, outside; distances run between centres.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.
        spacing_mm: (row, column), mm from one row to the next and from one column to the next.

    Returns:
        In pixels, or in mm if `spacing_mm` is given. 0.0 when both masks are empty; `math.inf` when
        exactly one is: there is no distance to a contour that is not there.

    Raises:
        DataError: not two bool arrays of one (H, W) shape, or a spacing that is not two numbers
            above 0.
    """
    check_masks(prediction, truth)
    spacing = (1.0, 1.0) if spacing_mm is None else check_spacing(spacing_mm)
    empty = not prediction.any(), not truth.any()
    if any(empty):
        return 0.0 if all(empty) else math.inf

    import torch

    with quiet_monai():
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance

        first, second = map(torch.from_numpy, joint_region(prediction, truth))
        distance = compute_hausdorff_distance(
            first[None, None],
            second[None, None],
            include_background=True,
            percentile=95,
            spacing=spacing,
        )
    return float(distance[0, 0])


@contextmanager
def quiet_monai() -> Iterator[None]:
    """Keep what MONAI warns about itself from the caller; no results hang on it."""
    # Optional parts complain when MONAI is first imported; nothing here uses them.
    optional = {"module": r"monai(\.|$)"}
    # MONAI 1.5 and 1.6 call one of their own functions in a way they deprecate.
    deprecated = {"message": ".*always_return_as_numpy", "category": FutureWarning}
    with quiet(optional, deprecated):
        yield
