"""The TextSAM-EUS authors' variant of NSD: the mask as a slab of one slice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from textsam.metrics.arguments import check_masks, check_tolerance, joint_region
from textsam.metrics.contour import DEFAULT_TOLERANCE_PX, quiet_monai

__all__ = ["nsd_slab"]


def nsd_slab(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    tolerance_px: float = DEFAULT_TOLERANCE_PX,
) -> float:
    """What the TextSAM-EUS authors' code calls NSD: surface Dice of masks as slabs, 1 voxel thick.

    Their code hands `mask[..., None]` with a spacing of 1, 1, 1 to the surface Dice for volumes
    (Nikolov et al., arXiv:1809.04430). The flat faces of the slab then are surface, and most of it,
    so this behaves like an overlap score. Use it to compare with numbers made that way only, and
    `nsd` for contours: two discs of radius 80 px, 10 px apart, score 0.96 here and 0.22 there.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.
        tolerance_px: Euclidean distance in pixels up to which (inclusive) surfaces agree.

    Returns:
        In [0, 1]; 1.0 when both masks are empty, 0.0 when exactly one is.

    Raises:
        DataError: not two bool arrays of one (H, W) shape, or a tolerance that is negative or not
            finite.
    """
    check_masks(prediction, truth)
    tolerance = check_tolerance("tolerance_px", tolerance_px)
    empty = not prediction.any(), not truth.any()
    if any(empty):
        return 1.0 if all(empty) else 0.0

    import torch
    from scipy.ndimage import distance_transform_edt

    with quiet_monai():
        from monai.metrics.utils import get_mask_edges

        slabs = [
            np.pad(mask[..., None], ((0, 0), (0, 0), (1, 1)))
            for mask in joint_region(prediction, truth)
        ]
        # Which corners of the voxel grid are surface, and the area of surface at each; as
        # `compute_surface_dice` has it.
        found = get_mask_edges(*map(torch.from_numpy, slabs), crop=False, spacing=(1.0, 1.0, 1.0))
    surfaces = [part.numpy() for part in found[:2]]
    areas = [part.numpy() for part in found[2:]]
    near = total = 0.0
    for own, other in ((0, 1), (1, 0)):
        # Both layers of corners, below and above the slab, have surface at the same places, so the
        # nearest surface is in the own layer, and one transform in the plane gives its distance.
        distances = distance_transform_edt(~surfaces[other][..., 0])
        for layer in range(2):
            area = areas[own][..., layer][surfaces[own][..., layer]].astype(np.float64)
            within = distances[surfaces[own][..., layer]] <= tolerance
            near += float(area[within].sum())
            total += float(area.sum())
    return near / total
