"""Metrics against values derived by hand and against a brute-force surface Dice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from textsam.errors import DataError
from textsam.metrics import dice, iou, nsd

Mask = NDArray[np.bool_]
ROOT2 = math.sqrt(2)

some_masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
)
# The first call imports MONAI, which takes seconds.
fewer = settings(max_examples=40, deadline=None)


def square(side: int, top: int, left: int, shape: tuple[int, int] = (60, 60)) -> Mask:
    mask = np.zeros(shape, dtype=np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def disc(radius: float, x: float, y: float, shape: tuple[int, int] = (200, 220)) -> Mask:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def contour(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Contour points on the grid of pixel corners, and the length at each, written out longhand."""
    padded = np.pad(mask, 1)
    points, lengths = [], []
    for row in range(padded.shape[0] - 1):
        for column in range(padded.shape[1] - 1):
            (a, b), (c, d) = padded[row : row + 2, column : column + 2].tolist()
            inside = a + b + c + d
            if inside in (1, 3):
                length = ROOT2 / 2
            elif inside == 2:
                length = ROOT2 if a == d else 1.0
            else:
                continue
            points.append((row, column))
            lengths.append(length)
    return np.array(points), np.array(lengths)


def brute_force_nsd(first: Mask, second: Mask, tolerance_px: float) -> float:
    (p, p_length), (t, t_length) = contour(first), contour(second)
    distances = np.sqrt(((p[:, None] - t[None]) ** 2).sum(axis=2))
    near = p_length[distances.min(axis=1) <= tolerance_px].sum()
    near += t_length[distances.min(axis=0) <= tolerance_px].sum()
    return float(near / (p_length.sum() + t_length.sum()))


def shifted_square_nsd(side: int, shift: int, tolerance: int) -> float:
    """Two squares, one moved by `shift` > `tolerance` along x, by geometry.

    A square's contour is 4 corners of √2/2 and 4·(side − 1) points of 1. Too far from the other
    square are: the whole side that moved away (2 corners, side − 1 points), on the two sides
    beside it the points that stick out by more than the tolerance (shift − tolerance − 1 each),
    and of the side that lies inside the other square all points further than the tolerance from
    both its ends (side − 1 − 2·tolerance).
    """
    length = 4 * (side - 1) + 2 * ROOT2
    wrong = ROOT2 + (side - 1) + 2 * (shift - tolerance - 1) + (side - 1 - 2 * tolerance)
    return 1 - wrong / length


@pytest.mark.parametrize("shift", [0, 1, 5, 10, 20, 25])
def test_overlap_of_shifted_squares(shift: int) -> None:
    first, second = square(20, 10, 5), square(20, 10, 5 + shift)
    both = 20 * max(0, 20 - shift)
    assert dice(first, second) == pytest.approx(both / 400, abs=1e-12)
    assert iou(first, second) == pytest.approx(both / (800 - both), abs=1e-12)


@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize(
    ("side", "shift", "tolerance"), [(20, 1, 0), (20, 5, 3), (20, 6, 2), (12, 4, 3)]
)
def test_nsd_of_shifted_squares(side: int, shift: int, tolerance: int, along: str) -> None:
    first, second = square(side, 10, 10), square(side, 10, 10 + shift)
    if along == "y":
        first, second = first.T, second.T
    expected = shifted_square_nsd(side, shift, tolerance)
    assert 0.3 < expected < 0.7
    assert nsd(first, second, tolerance) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_nsd_forgives_up_to_and_including_the_tolerance(shift: int) -> None:
    assert nsd(square(20, 10, 10), square(20, 10, 10 + shift)) == 1.0
    assert nsd(square(20, 10, 10), square(20, 10, 14)) < 0.7


def test_nsd_is_zero_for_distant_objects() -> None:
    assert nsd(square(10, 2, 2), square(10, 40, 40)) == 0.0


def test_nested_discs() -> None:
    inner = disc(30, 100, 100)
    assert nsd(inner, disc(32, 100, 100)) == 1.0
    assert nsd(inner, disc(36, 100, 100)) == 0.0
    assert nsd(inner, disc(36, 100, 100), tolerance_px=8) == 1.0
    overlap = dice(inner, disc(36, 100, 100))
    assert overlap == pytest.approx(2 * 30**2 / (30**2 + 36**2), abs=0.01)


def test_a_hole_has_a_contour() -> None:
    whole = square(30, 10, 10)
    ring = whole & ~square(10, 20, 20)
    outer, hole = 4 * 29 + 2 * ROOT2, 4 * 9 + 2 * ROOT2
    assert nsd(ring, whole) == pytest.approx(2 * outer / (2 * outer + hole), abs=1e-6)


def test_discs_where_slab_and_contour_differ() -> None:
    """Radius 80, 10 px apart: a score of 0.96 as a slab; the contours agree over a fifth.

    On ideal circles the gap is 10·|cos θ| across, within 3 px for 2·asin(0.3)/π = 0.19 of the way;
    pixels round it up.
    """
    first, second = disc(80, 100, 100), disc(80, 110, 100)
    assert nsd(first, second) == pytest.approx(0.2263, abs=0.0005)
    assert nsd(first, second) == pytest.approx(brute_force_nsd(first, second, 3.0), abs=1e-6)
    assert dice(first, second) == pytest.approx(0.9207, abs=0.0005)


@pytest.mark.parametrize("corner", [(0, 0), (0, 40), (40, 0), (40, 40), (0, 17)])
def test_objects_at_the_border_score_as_away_from_it(corner: tuple[int, int]) -> None:
    top, left = corner
    truth = square(20, top, left)
    smaller = square(12, top + 4, left + 4)
    away = np.pad(smaller, 30), np.pad(truth, 30)
    assert nsd(smaller, truth, 4) == pytest.approx(nsd(*away, 4), abs=1e-6)
    assert nsd(smaller, truth, 4) == pytest.approx(brute_force_nsd(smaller, truth, 4), abs=1e-6)
    assert 0 < nsd(smaller, truth, 4) < 1


def test_a_mask_of_the_whole_image() -> None:
    full = np.ones((20, 20), dtype=np.bool_)
    assert dice(full, full) == iou(full, full) == nsd(full, full) == 1.0
    half = full.copy()
    half[:, 10:] = False
    assert nsd(half, full, 0) == pytest.approx(brute_force_nsd(half, full, 0), abs=1e-6)


@pytest.mark.parametrize("metric", [dice, iou, nsd])
def test_empty_masks(metric: Any) -> None:
    empty, full = np.zeros((30, 30), dtype=np.bool_), square(20, 5, 5, (30, 30))
    assert metric(empty, empty) == 1.0
    assert metric(empty, full) == 0.0
    assert metric(full, empty) == 0.0


def test_one_pixel() -> None:
    one = np.ones((1, 1), dtype=np.bool_)
    assert nsd(one, one, 0) == dice(one, one) == 1.0


@pytest.mark.parametrize("metric", [dice, iou, nsd])
def test_arguments_that_cannot_be_used(metric: Any) -> None:
    good = np.ones((4, 5), dtype=np.bool_)
    with pytest.raises(DataError, match=r"prediction is \(4, 5\) and the truth \(5, 4\)"):
        metric(good, good.T)
    with pytest.raises(DataError, match="prediction holds uint8"):
        metric(good.astype(np.uint8), good)
    with pytest.raises(DataError, match="truth holds float32"):
        metric(good, good.astype(np.float32))
    with pytest.raises(DataError, match=r"truth has the shape \(1, 4, 5\)"):
        metric(good, good[None])
    with pytest.raises(DataError, match=r"prediction has the shape \(0, 5\)"):
        metric(good[:0], good[:0])
    with pytest.raises(DataError, match="prediction is a list"):
        metric(good.tolist(), good)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_that_cannot_be_used(tolerance: float) -> None:
    with pytest.raises(DataError, match="tolerance_px is"):
        nsd(square(5, 0, 0), square(5, 0, 0), tolerance)


@settings(deadline=None)
@given(some_masks)
def test_overlap_properties(masks: tuple[Mask, Mask]) -> None:
    first, second = masks
    overlap, jaccard = dice(first, second), iou(first, second)
    assert 0.0 <= jaccard <= overlap <= 1.0
    assert overlap == dice(second, first)
    assert jaccard == iou(second, first)
    assert overlap == pytest.approx(2 * jaccard / (1 + jaccard))
    assert (overlap == 1.0) == bool((first == second).all())


@fewer
@given(some_masks, st.sampled_from([0.0, 1.0, 1.5, 3.0]))
def test_nsd_properties(masks: tuple[Mask, Mask], tolerance_px: float) -> None:
    first, second = masks
    score = nsd(first, second, tolerance_px)
    assert 0.0 <= score <= 1.0
    assert score == pytest.approx(nsd(second, first, tolerance_px), abs=1e-6)
    assert score <= nsd(first, second, tolerance_px + 1) + 1e-6
    assert nsd(first, first, 0.0) == 1.0
    if first.any() and second.any():
        assert score == pytest.approx(brute_force_nsd(first, second, tolerance_px), abs=1e-6)
