"""Metrics of MONAI, of DeepMind's surface-distance, and by hand with scipy: they must agree.

`surface-distance` is what the TextSAM-EUS authors' code computes NSD with. It has not been kept: it
asks scipy and NumPy for names they have dropped. Here it gets them; the product does without it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from textsam.metrics import hd95, nsd, nsd_slab

Mask = NDArray[np.bool_]

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
some_masks = shapes.flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
)
# Multiples of 1/4 and squares that floats hold exactly, so that "inclusive" means the same to all.
spacings = st.tuples(*[st.sampled_from([0.25, 0.5, 1.0, 1.75, 2.0])] * 2)
tolerances = st.sampled_from([0.0, 0.8, 1.3, 3.0])
fewer = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def deepmind() -> Any:
    """The library, with `scipy.ndimage.filters`, `.morphology` and `np.Inf` as it knew them."""
    import surface_distance

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surface_distance.metrics, "ndimage", Dropped(), raising=True)
        patch.setattr(np, "Inf", math.inf, raising=False)
        yield surface_distance


class Dropped:
    """`scipy.ndimage` by the names it had in 2018."""

    filters = scipy.ndimage
    morphology = scipy.ndimage


def deepmind_dice(library: Any, masks: tuple[Mask, Mask], spacing: Any, tolerance: float) -> float:
    found = library.compute_surface_distances(*masks, spacing)
    return float(library.compute_surface_dice_at_tolerance(found, tolerance))


@fewer
@given(masks=some_masks, spacing=spacings, tolerance=tolerances)
def test_nsd_in_mm_is_deepminds(
    deepmind: Any, masks: tuple[Mask, Mask], spacing: tuple[float, float], tolerance: float
) -> None:
    assume(masks[0].any() and masks[1].any())
    expected = deepmind_dice(deepmind, masks, spacing, tolerance)
    found = nsd(*masks, tolerance_mm=tolerance, spacing_mm=spacing)
    assert found == pytest.approx(expected, abs=1e-6)


@fewer
@given(masks=some_masks, tolerance=tolerances)
def test_nsd_slab_is_what_the_authors_compute(
    deepmind: Any, masks: tuple[Mask, Mask], tolerance: float
) -> None:
    assume(masks[0].any() and masks[1].any())
    slabs = masks[0][..., None], masks[1][..., None]
    expected = deepmind_dice(deepmind, slabs, (1, 1, 1), tolerance)
    assert nsd_slab(*masks, tolerance) == pytest.approx(expected, abs=1e-6)


@fewer
@given(masks=some_masks, tolerance=tolerances)
def test_nsd_slab_is_monais(masks: tuple[Mask, Mask], tolerance: float) -> None:
    """MONAI's own surface Dice of the slab, searched in three dimensions; here it is in two."""
    assume(masks[0].any() and masks[1].any())
    import torch

    from textsam.metrics.contour import quiet_monai

    slabs = [torch.from_numpy(np.pad(mask[..., None], 1))[None, None] for mask in masks]
    with quiet_monai():
        from monai.metrics.surface_dice import compute_surface_dice

        expected = compute_surface_dice(
            *slabs, [tolerance], include_background=True, use_subvoxels=True, spacing=(1, 1, 1)
        )
    assert nsd_slab(*masks, tolerance) == pytest.approx(float(expected), abs=1e-6)


def boundary(mask: Mask) -> Mask:
    """Pixels of the mask with one of their four neighbours, or nothing, outside."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


@fewer
@given(masks=some_masks, spacing=spacings)
def test_hd95_by_distance_transforms(
    masks: tuple[Mask, Mask], spacing: tuple[float, float]
) -> None:
    assume(masks[0].any() and masks[1].any())
    edges = [boundary(mask) for mask in masks]
    far = []
    for own, other in (edges, edges[::-1]):
        distances = scipy.ndimage.distance_transform_edt(~other, sampling=spacing)[own]
        far.append(np.percentile(distances, 95))
    assert hd95(*masks, spacing_mm=spacing) == pytest.approx(max(far), abs=1e-3)


@fewer
@given(masks=some_masks)
def test_properties_of_the_new_metrics(masks: tuple[Mask, Mask]) -> None:
    first, second = masks
    score, distance = nsd_slab(first, second), hd95(first, second)
    assert 0.0 <= score <= 1.0
    assert score == pytest.approx(nsd_slab(second, first), abs=1e-9)
    assert distance == hd95(second, first) >= 0.0
    assert math.isinf(distance) == (first.any() != second.any())
    assert hd95(first, first) == 0.0
    assert nsd_slab(first, first, 0.0) == 1.0
    if first.any() and second.any():
        diagonal = math.hypot(*first.shape)
        assert distance < diagonal
        assert nsd_slab(first, second, diagonal) == 1.0
