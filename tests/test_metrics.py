"""Overlap and NSD against values derived by hand and against a brute-force surface Dice."""

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
from textsam.metrics import dice, hd95, iou, nsd, nsd_slab

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


def test_nsd_in_mm_by_hand() -> None:
    """Two squares of 20 px, 5 px apart along x; a column is 0.5 mm wide, a row 2 mm high.

    Along x the shift is 2.5 mm. Within 1 mm, that is 2 columns, the sums of
    `shifted_square_nsd` hold with tolerance 2 for the horizontal sides, 0.5 mm a piece; the two
    vertical sides have pieces of 2 mm, and corners half of the diagonal. A point of the side that
    lies inside the other square is near its horizontal sides where it is at most 1 mm, less than
    one row, away from them: at its ends alone.
    """
    corner = math.hypot(0.5, 2) / 2
    length = 4 * corner + 2 * 19 * 0.5 + 2 * 19 * 2
    # Gone: the far side with its corners; 2 more points (5 − 2 − 1) on the top and the bottom. Of
    # the side inside, the 19 points between the corners, which lie on the other's contour.
    wrong = (2 * corner + 19 * 2) + 2 * 2 * 0.5 + 19 * 2
    first, second = square(20, 10, 10), square(20, 10, 15)
    score = nsd(first, second, tolerance_mm=1.0, spacing_mm=(2.0, 0.5))
    assert score == pytest.approx(1 - wrong / length, abs=1e-6)
    turned = nsd(first.T, second.T, tolerance_mm=1.0, spacing_mm=(0.5, 2.0))
    assert turned == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("factor", [0.1, 0.35, 7.0])
def test_equal_spacing_only_scales(factor: float) -> None:
    first, second = disc(30, 60, 60), disc(33, 65, 62)
    pixels = nsd(first, second, 3.5)
    assert 0.2 < pixels < 0.9
    in_mm = nsd(first, second, tolerance_mm=3.5 * factor, spacing_mm=(factor, factor))
    assert in_mm == pytest.approx(pixels, abs=1e-6)
    distance = hd95(first, second, spacing_mm=(factor, factor))
    assert distance == pytest.approx(factor * hd95(first, second), rel=1e-6)


@pytest.mark.parametrize(("side", "shift", "tolerance"), [(20, 10, 3), (20, 6, 2), (12, 4, 0)])
def test_nsd_slab_of_shifted_squares(side: int, shift: int, tolerance: int) -> None:
    """The slab has (side + 1)² corners below and above: 4 of area √3/8, 4·(side − 1) on the edges
    of √2/2, the rest of 1. Too far away are the columns further out than the tolerance.
    """
    corner, edge, face = math.sqrt(3) / 8, ROOT2 / 2, 1.0
    area = 4 * corner + 4 * (side - 1) * edge + (side - 1) ** 2 * face
    columns = shift - tolerance
    wrong = 2 * corner + (side - 1) * edge + (columns - 1) * (2 * edge + (side - 1) * face)
    score = nsd_slab(square(side, 10, 10), square(side, 10, 10 + shift), tolerance)
    assert score == pytest.approx(1 - wrong / area, abs=1e-6)


def test_nsd_slab_at_its_ends() -> None:
    one = square(20, 10, 10)
    assert nsd_slab(one, one, 0) == 1.0
    assert nsd_slab(one, square(20, 13, 10)) == 1.0
    assert nsd_slab(square(10, 2, 2), square(10, 40, 40)) == 0.0


@pytest.mark.parametrize("shift", [0, 3, 7])
def test_hd95_of_shifted_squares(shift: int) -> None:
    """All points of one vertical side, over 5 % of the boundary, are `shift` columns away."""
    first, second = square(20, 10, 10), square(20, 10, 10 + shift)
    assert hd95(first, second) == shift
    assert hd95(first.T, second.T) == shift
    assert hd95(first, second, spacing_mm=(9.0, 0.5)) == pytest.approx(0.5 * shift)
    assert hd95(first.T, second.T, spacing_mm=(0.5, 9.0)) == pytest.approx(0.5 * shift)


def test_hd95_leaves_out_the_worst_twentieth() -> None:
    """A square of 20 px has 76 boundary pixels at distance 0, the strip beside it is 30 px away.

    The percentile lies at position 0.95 · (n - 1) of the n sorted distances, counted from 0. With
    1 pixel more that is 72.2, before the last 0; with 4 more 75.05, a twentieth of the way from
    the last 0 to the first 30; with 8 more 78.85, among the 30.
    """
    whole, marked = square(20, 10, 10), square(20, 10, 10)
    marked[20, 59] = True
    assert hd95(marked, whole) == 0.0
    marked[18:22, 59] = True
    assert hd95(marked, whole) == pytest.approx(0.05 * 30, abs=1e-3)
    marked[16:24, 59] = True
    assert hd95(marked, whole) == pytest.approx(30)


def test_hd95_at_the_border_is_as_away_from_it() -> None:
    truth, smaller = square(20, 0, 40), square(12, 4, 44)
    away = hd95(np.pad(smaller, 30), np.pad(truth, 30))
    assert hd95(smaller, truth) == away > 0
    full = np.ones((20, 20), dtype=np.bool_)
    assert hd95(full, full) == 0.0


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
    assert nsd_slab(first, second) == pytest.approx(0.96, abs=0.005)
    # Drawn without the pixels that lie on the circle itself.
    first, second = disc(79.99, 100, 100), disc(79.99, 110, 100)
    assert nsd(first, second) == pytest.approx(0.22, abs=0.005)
    assert nsd_slab(first, second) == pytest.approx(0.96, abs=0.005)


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


@pytest.mark.parametrize("metric", [dice, iou, nsd, nsd_slab])
def test_empty_masks(metric: Any) -> None:
    empty, full = np.zeros((30, 30), dtype=np.bool_), square(20, 5, 5, (30, 30))
    assert metric(empty, empty) == 1.0
    assert metric(empty, full) == 0.0
    assert metric(full, empty) == 0.0


def test_one_pixel() -> None:
    one = np.ones((1, 1), dtype=np.bool_)
    assert nsd(one, one, 0) == dice(one, one) == 1.0


def test_hd95_of_empty_masks() -> None:
    empty, full = np.zeros((30, 30), dtype=np.bool_), square(20, 5, 5, (30, 30))
    assert hd95(empty, empty) == 0.0
    assert hd95(empty, full) == hd95(full, empty) == math.inf


@pytest.mark.parametrize("metric", [dice, iou, nsd, nsd_slab, hd95])
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


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf, "3"])
def test_a_tolerance_that_cannot_be_used(tolerance: Any) -> None:
    one = square(5, 0, 0)
    with pytest.raises(DataError, match="tolerance_px is"):
        nsd(one, one, tolerance)
    with pytest.raises(DataError, match="tolerance_px is"):
        nsd_slab(one, one, tolerance)
    with pytest.raises(DataError, match="tolerance_mm is"):
        nsd(one, one, tolerance_mm=tolerance, spacing_mm=(1, 1))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (math.nan, 1.0), (1, 1, 1), 0.5, "ab"])
def test_a_spacing_that_cannot_be_used(spacing: Any) -> None:
    one = square(5, 0, 0)
    with pytest.raises(DataError, match="spacing_mm is"):
        nsd(one, one, tolerance_mm=1.0, spacing_mm=spacing)
    with pytest.raises(DataError, match="spacing_mm is"):
        hd95(one, one, spacing_mm=spacing)


def test_pixels_and_mm_are_not_mixed() -> None:
    one = square(5, 0, 0)
    with pytest.raises(DataError, match=r"tolerance_mm is None and spacing_mm \(1, 1\); give both"):
        nsd(one, one, spacing_mm=(1, 1))
    with pytest.raises(DataError, match=r"tolerance_mm is 1.0 and spacing_mm None; give both"):
        nsd(one, one, tolerance_mm=1.0)
    with pytest.raises(DataError, match=r"tolerance_px is 3.0 and tolerance_mm 1.0; give one"):
        nsd(one, one, 3.0, tolerance_mm=1.0, spacing_mm=(1, 1))


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


def test_masked_pixels_are_neither_in_nor_out() -> None:
    mask = np.eye(4, dtype=np.bool_)
    hidden = np.ma.array(mask, mask=mask)
    for metric in (dice, iou):
        with pytest.raises(DataError, match="masked pixels; fill them"):
            metric(hidden, mask)
    assert dice(hidden.filled(False), mask) == 0
