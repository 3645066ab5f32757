"""Cutting a true negative out of an image: beside every object, and like an image in shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from textsam.data.absent_crop import absent_crop
from textsam.data.augment import Augment
from textsam.data.augment_config import AugmentConfig

OFF = {name: 0.0 for name in AugmentConfig.model_fields if name.endswith("_p")}


def disc(height: int, width: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    ys, xs = np.mgrid[:height, :width]
    return np.asarray((xs - x) ** 2 + (ys - y) ** 2 <= radius**2)


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(60, 300),
    width=st.integers(60, 300),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    radius=st.floats(1, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_crop_shows_nothing_annotated_and_looks_like_an_image(
    height: int, width: int, place: tuple[float, float], radius: float, seed: int
) -> None:
    x, y = place[0] * (width - 1), place[1] * (height - 1)
    first, second = disc(height, width, x, y, radius), disc(height, width, x / 2, y / 2, 2)
    crop = absent_crop([first, second], np.random.default_rng(seed))
    if crop is None:
        return
    assert not first[crop].any()
    assert not second[crop].any()
    rows, columns = (part.stop - part.start for part in crop)
    assert first[crop].shape == (rows, columns), "inside the image"
    assert min(rows, columns) >= max(48, round(0.3 * min(height, width)))
    assert max(rows, columns) <= 2.5 * min(rows, columns)


def test_there_is_one_wherever_there_is_room() -> None:
    corner = disc(200, 200, 20, 20, 15)
    crops = [absent_crop([corner], np.random.default_rng(seed)) for seed in range(50)]
    assert all(crop is not None for crop in crops)
    assert len({str(crop) for crop in crops}) > 40, "a place of its own each time"


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_sizes_and_places_by_hand(flipped: bool, turned: bool) -> None:
    # An object along one edge, 10 px deep: its margin is 2 px, and 88 of 100 px are left.
    mask = np.zeros((100, 400), dtype=bool)
    mask[-10:] = flipped
    mask[:10] = not flipped
    mask = mask.T if turned else mask
    rng = np.random.default_rng(0)
    crops = [absent_crop([mask], rng) for _ in range(2500)]
    found = [crop[::-1] if turned else crop for crop in crops if crop is not None]
    assert len(found) == 2500
    low, high = (0, 88) if flipped else (12, 100)
    sides = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in found]
    assert {rows for rows, _ in sides} == set(range(62, 89)), "from 0.7 of what is left"
    assert min(rows.start for rows, _ in found) == low
    assert max(rows.stop for rows, _ in found) == high
    assert min(columns.start for _, columns in found) == 0
    assert max(columns.stop for _, columns in found) == 400
    aspects = [columns / rows for rows, columns in sides]
    assert 2.48 < max(aspects) <= 2.5
    assert 1.72 < min(aspects) < 1.76


@pytest.mark.parametrize(
    ("shape", "deep", "left"),
    [
        # 0.15 of the depth is margin; at least 0.3 of the shorter side and 48 px must be left.
        ((300, 600), 183, 90),
        ((300, 600), 184, None),
        ((100, 400), 45, 48),
        ((100, 400), 46, None),
    ],
)
def test_the_least_room_by_hand(shape: tuple[int, int], deep: int, left: int | None) -> None:
    mask = np.zeros(shape, dtype=bool)
    mask[:deep] = True
    crop = absent_crop([mask], np.random.default_rng(0))
    assert (crop and crop[0].stop - crop[0].start) == left


@pytest.mark.parametrize("turned", [False, True])
def test_a_strip_is_drawn_by_its_area(turned: bool) -> None:
    # 100 px are left on one side of the object and its margin of 3 px, and 300 px on the other.
    mask = np.zeros((200, 426), dtype=bool)
    mask[:, 103:123] = True
    rng = np.random.default_rng(0)
    crops = [absent_crop([mask.T if turned else mask], rng) for _ in range(1000)]
    begins = [crop[0 if turned else 1].start for crop in crops if crop]
    assert sum(begin >= 126 for begin in begins) == pytest.approx(750, abs=50)


def test_none_without_room_or_without_an_object() -> None:
    rng = np.random.default_rng(0)
    assert absent_crop([np.ones((100, 100), dtype=bool)], rng) is None
    assert absent_crop([disc(100, 100, 50, 50, 40)], rng) is None
    assert absent_crop([np.zeros((100, 100), dtype=bool)], rng) is None
    assert absent_crop([], rng) is None


def test_augmentation_crops_image_and_masks_alike() -> None:
    mask = disc(160, 200, 50, 60, 20)
    image = np.empty((160, 200, 3), dtype=np.uint8)
    image[...] = np.arange(200, dtype=np.uint8)[None, :, None]
    augment = Augment(AugmentConfig(**{**OFF, "absent_crop_p": 1.0}))
    other = disc(160, 200, 185, 80, 5)
    for seed in range(10):
        assert not any(
            m.any() for m in augment(image, [mask, other], np.random.default_rng(seed))[1]
        )
    changed, (empty,) = augment(image, [mask], np.random.default_rng(1))
    assert not empty.any()
    assert changed.shape[:2] == empty.shape != mask.shape
    assert (np.diff(changed[0, :, 0].astype(int)) == 1).all(), "a part of the image, not resampled"
    full = np.ones((160, 200), dtype=bool)
    same, (kept,) = augment(image, [full], np.random.default_rng(1))
    assert np.array_equal(same, image)
    assert kept.all(), "no room: the image stays whole"
