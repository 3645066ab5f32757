"""A closer look at an object: all of it, in a square of the size asked for, inside the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from textsam.data.augment import Augment
from textsam.data.augment_config import AugmentConfig
from textsam.data.close_crop import close_crop

OFF = {name: 0.0 for name in AugmentConfig.model_fields if name.endswith("_p")}


def rectangle(height: int, width: int, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), dtype=bool)
    top, bottom, left, right = box
    mask[top:bottom, left:right] = True
    return mask


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_all_of_the_object_is_in_a_square_of_the_size_asked_for(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(40, 300)), data.draw(st.integers(40, 300))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom = data.draw(st.integers(top + 1, height))
    right = data.draw(st.integers(left + 1, width))
    low = data.draw(st.floats(1, 4))
    high = data.draw(st.floats(low, 5))
    mask = rectangle(height, width, (top, bottom, left, right))
    seed = data.draw(st.integers(0, 2**32 - 1))
    crop = close_crop([mask], (low, high), np.random.default_rng(seed))
    longer = max(bottom - top, right - left)
    if crop is None:
        assert max(32, high * longer + 1) > 0.85 * max(height, width)
        return
    assert mask[crop].sum() == mask.sum()
    sides = [part.stop - part.start for part in crop]
    assert mask[crop].shape == tuple(sides), "inside the image"
    for side, whole in zip(sides, (height, width), strict=True):
        assert side == whole or max(32, low * longer - 1) <= side <= max(32, high * longer + 1)
    assert max(sides) <= 0.85 * max(height, width)


def test_a_square_where_there_is_room() -> None:
    mask = rectangle(200, 300, (90, 110, 140, 150))
    for seed in range(20):
        rows, columns = close_crop([mask], (2.0, 2.0), np.random.default_rng(seed)) or (None, None)
        assert rows is not None
        assert columns is not None
        assert (rows.stop - rows.start, columns.stop - columns.start) == (40, 40)


def test_sides_are_drawn_by_their_factor_and_up_to_most_of_the_image() -> None:
    mask = rectangle(200, 400, (80, 120, 180, 220))
    rng = np.random.default_rng(0)
    crops = [close_crop([mask], (1.0, 4.0), rng) for _ in range(2000)]
    sides = [crop[1].stop - crop[1].start for crop in crops if crop]
    assert (min(sides), max(sides)) == pytest.approx((40, 160), abs=2)
    # As often less than twice the 40 px as more.
    assert np.median(sides) == pytest.approx(80, abs=5)
    # 1.5 x 51 px is 76.5, an even 76; 85 of 100 px is the most.
    for longer, factor, side in ((51, 1.5, 76), (34, 2.5, 85), (43, 2.0, None)):
        mask = rectangle(100, 100, (0, longer, 0, 9))
        crop = close_crop([mask], (factor, factor), np.random.default_rng(0))
        assert (crop and crop[1].stop - crop[1].start) == side
    assert (
        close_crop([rectangle(100, 100, (0, 87, 0, 9))], (1, 1), np.random.default_rng(0)) is None
    )


def test_each_object_has_its_turn_and_another_place_each_time() -> None:
    masks = [
        rectangle(200, 200, (10, 30, 10, 30)),
        np.zeros((200, 200), dtype=bool),
        rectangle(200, 200, (150, 190, 150, 190)),
    ]
    crops = [close_crop(masks, (1.5, 2.0), np.random.default_rng(seed)) for seed in range(60)]
    assert all(crop is not None for crop in crops)
    first = [crop for crop in crops if crop and masks[0][crop].any()]
    second = [crop for crop in crops if crop and masks[2][crop].any()]
    assert len(first) + len(second) == 60
    assert min(len(first), len(second)) >= 15
    assert len({str(crop) for crop in crops}) > 50


def test_none_without_an_object_or_where_the_object_fills_the_image() -> None:
    rng = np.random.default_rng(0)
    assert close_crop([], (1.3, 3.0), rng) is None
    assert close_crop([np.zeros((100, 100), dtype=bool)], (1.3, 3.0), rng) is None
    assert close_crop([rectangle(100, 100, (10, 90, 10, 90))], (1.3, 3.0), rng) is None


def test_augmentation_crops_image_and_mask_alike() -> None:
    mask = rectangle(160, 200, (40, 60, 100, 120))
    image = np.empty((160, 200, 3), dtype=np.uint8)
    image[...] = np.arange(200, dtype=np.uint8)[None, :, None]
    augment = Augment(AugmentConfig(**{**OFF, "close_crop_p": 1.0, "close_crop": (2.0, 2.0)}))
    changed, (kept,) = augment(image, [mask], np.random.default_rng(1))
    assert changed.shape == (40, 40, 3)
    assert kept.sum() == 400
    columns = changed[0, :, 0][kept.any(0)]
    assert columns.tolist() == list(range(100, 120)), "the mask lies where it lay in the image"


def test_where_there_is_room_for_no_absent_crop_a_close_one_may_be_drawn() -> None:
    mask = rectangle(60, 60, (25, 35, 25, 35))
    image = np.zeros((60, 60, 3), dtype=np.uint8)
    both = Augment(AugmentConfig(**{**OFF, "absent_crop_p": 1.0, "close_crop_p": 1.0}))
    _, (kept,) = both(image, [mask], np.random.default_rng(0))
    assert kept.sum() == 100
    assert max(kept.shape) < 60
    # Where there is room for one, it is that.
    mask = rectangle(160, 200, (25, 35, 25, 35))
    image = np.zeros((160, 200, 3), dtype=np.uint8)
    assert not both(image, [mask], np.random.default_rng(0))[1][0].any()


def test_less_than_the_object_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least the object itself"):
        AugmentConfig(close_crop=(0.8, 2.0))
