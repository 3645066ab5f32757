"""Augmentation: the mask follows the image, the generator decides everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from textsam.data.augment import Augment, _draw_marks, by_kind
from textsam.data.augment_config import AugmentConfig
from textsam.errors import DataError

OFF: dict[str, Any] = {n: 0.0 for n in AugmentConfig.model_fields if n.endswith("_p")}
EVERYTHING = AugmentConfig.model_validate(
    {**dict.fromkeys(OFF, 1.0), "heal": {"brain MRI": "mirrored"}}
)


def only(**settings: Any) -> Augment:
    """An Augment of which nothing but the given settings happens."""
    return Augment(AugmentConfig(**{**OFF, **settings}))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scene(
    height: int = 96, width: int = 128, colour: bool = False
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """A bright, off-centre rectangle on a dim ramp, its mask, and the mask of a second one."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[...] = np.linspace(20, 70, width).astype(np.uint8)[None, :, None]
    first = np.zeros((height, width), dtype=bool)
    first[20:50, 30:70] = True
    second = np.zeros_like(first)
    second[60:80, 80:110] = True
    image[first] = (230, 200, 180) if colour else 220
    image[second] = (90, 120, 150) if colour else 130
    return image, [first, second]


@pytest.mark.parametrize("colour", [False, True])
def test_the_same_generator_gives_the_same_result_and_another_does_not(colour: bool) -> None:
    image, masks = scene(colour=colour)
    everything = Augment(EVERYTHING)
    first, first_masks = everything(image, masks, rng(7))
    again, again_masks = everything(image, masks, rng(7))
    other, _ = everything(image, masks, rng(8))
    np.testing.assert_array_equal(first, again)
    for a, b in zip(first_masks, again_masks, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.shape != other.shape or (first != other).mean() > 0.5


def test_input_is_not_touched_and_output_is_new_and_writable() -> None:
    image, masks = scene(colour=True)
    kept, kept_masks = image.copy(), [m.copy() for m in masks]
    for augment in (only(), Augment(EVERYTHING)):
        out, out_masks = augment(image, masks, rng())
        out[...] = 0
        for mask in out_masks:
            assert mask.dtype == np.bool_
            np.logical_not(mask, out=mask)
    np.testing.assert_array_equal(image, kept)
    for mask, before in zip(masks, kept_masks, strict=True):
        np.testing.assert_array_equal(mask, before)


def test_nothing_switched_on_changes_nothing() -> None:
    for colour in (False, True):
        image, masks = scene(colour=colour)
        out, out_masks = only()(image, masks, rng())
        np.testing.assert_array_equal(out, image)
        for a, b in zip(out_masks, masks, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("setting", "axis"), [("flip_horizontal_p", 1), ("flip_vertical_p", 0)])
def test_flips_mirror_image_and_masks(setting: str, axis: int) -> None:
    image, masks = scene()
    out, out_masks = only(**{setting: 1.0})(image, masks, rng())
    np.testing.assert_array_equal(out, np.flip(image, axis))
    for a, b in zip(out_masks, masks, strict=True):
        np.testing.assert_array_equal(a, np.flip(b, axis))


def test_quarter_turns_turn_image_and_masks_alike() -> None:
    image, masks = scene(colour=True)
    turns_seen = set()
    for seed in range(20):
        out, out_masks = only(rot90_p=1.0)(image, masks, rng(seed))
        turns = [k for k in (1, 2, 3) if np.array_equal(out, np.rot90(image, k))]
        assert len(turns) == 1
        np.testing.assert_array_equal(out_masks[1], np.rot90(masks[1], turns[0]))
        turns_seen.add(turns[0])
    assert turns_seen == {1, 2, 3}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("colour", [False, True])
def test_masks_stay_on_their_object_through_the_affine_change(seed: int, colour: bool) -> None:
    image, masks = scene(192, 256)
    image[masks[0]], image[masks[1]] = 220, 130
    if colour:
        image[..., 2] = image[..., 2] // 2
    augment = only(affine_p=1.0, flip_horizontal_p=0.5, rot90_p=0.5)
    out, (first, second) = augment(image, masks, rng(seed))
    red = out[..., 0].astype(int)
    # Outside of a one-pixel seam of mixed values, the brightness says which region a pixel is in.
    bright, middle = red > 175, (red > 110) & (red < 150)
    assert (bright & first).sum() / (bright | first).sum() > 0.93
    assert red[first].mean() > 205
    assert abs(np.median(red[second]) - 130) <= 1
    assert (middle & second).sum() / second.sum() > 0.9


def test_a_pure_scale_has_the_expected_size_and_place() -> None:
    image, masks = scene(100, 100)
    masks = [np.zeros((100, 100), dtype=bool)]
    masks[0][45:52, 40:45] = True  # edges at 45..52 and 40..45, the middle is at 50
    zoom = only(affine_p=1.0, scale=(3.0, 3.0), translate=0.0, rotate_deg=0.0)
    _, (out,) = zoom(image, masks, rng())
    expected = np.zeros((100, 100), dtype=bool)
    expected[35:56, 20:35] = True  # 50 + 3 * (edge - 50)
    np.testing.assert_array_equal(out, expected)


def test_a_pure_shift_moves_by_the_same_whole_in_image_and_mask() -> None:
    image, masks = scene(100, 100)
    shift = only(affine_p=1.0, scale=(1.0, 1.0), translate=0.2, rotate_deg=0.0)
    _, (first, _) = shift(image, masks, rng(3))
    rows, columns = np.nonzero(first)
    before = np.nonzero(masks[0])
    moved = np.array([rows.mean() - before[0].mean(), columns.mean() - before[1].mean()])
    assert np.abs(moved).max() <= 20.5
    assert np.abs(moved).max() > 1
    assert first.sum() == masks[0].sum()


def moved_disc(x: float, y: float, radius: float, augment: Augment, seed: int) -> tuple[float, ...]:
    """Area and offset (x, y) of a disc given by its offset from the middle of 240 x 160 pixels."""
    ys, xs = np.mgrid[:160, :240]
    disc = (xs - 119.5 - x) ** 2 + (ys - 79.5 - y) ** 2 <= radius**2
    _, (out,) = augment(np.zeros((160, 240, 3), dtype=np.uint8), [disc], rng(seed))
    rows, columns = np.nonzero(out)
    return float(out.sum()), float(columns.mean() - 119.5), float(rows.mean() - 79.5)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_shifts_reach_the_same_share_of_either_side(scale: float) -> None:
    shift = only(affine_p=1.0, scale=(scale, scale), translate=0.2, rotate_deg=0.0)
    offsets = np.array([moved_disc(0, 0, 8, shift, seed)[1:] for seed in range(60)])
    for along, side in zip(offsets.T, (240, 160), strict=True):
        assert 0.17 * side < along.max() <= 0.2 * side + 0.5
        assert 0.17 * side < -along.min() <= 0.2 * side + 0.5


def test_a_turn_is_about_the_middle_and_keeps_shapes() -> None:
    turn = only(affine_p=1.0, scale=(1.5, 1.5), translate=0.0, rotate_deg=40.0)
    angles = []
    for seed in range(60):
        area, x, y = moved_disc(30, 0, 10, turn, seed)
        assert area == pytest.approx(np.pi * 15**2, rel=0.03)
        assert np.hypot(x, y) == pytest.approx(1.5 * 30, abs=0.7)
        angles.append(np.degrees(np.arctan2(y, x)))
    assert 35 < max(angles) < 41
    assert 35 < -min(angles) < 41


def test_pixels_are_interpolated_between_their_centres() -> None:
    image = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], 20, axis=0).repeat(3, 2)
    zoom = only(affine_p=1.0, scale=(2.0, 2.0), translate=0.0, rotate_deg=0.0)
    # The middle, at 95, stays; columns are half as far apart as before.
    np.testing.assert_allclose(
        zoom(image, [], rng())[0][0, :, 0], 95 + 5 * np.arange(-9.5, 10), atol=0.5
    )


def test_zooming_out_leaves_black_where_there_is_no_image() -> None:
    image = np.full((100, 100, 3), 200, dtype=np.uint8)
    out, _ = only(affine_p=1.0, scale=(0.5, 0.5), translate=0.0, rotate_deg=0.0)(image, [], rng())
    assert (out[:24] == 0).all()
    assert (out[27:73, 27:73] == 200).all()


def test_an_object_is_not_pushed_out_of_the_image() -> None:
    image, _ = scene(100, 100)
    corner = np.zeros((100, 100), dtype=bool)
    corner[:12, :12] = True
    shift: dict[str, Any] = {"affine_p": 1.0, "scale": (1.3, 1.3), "translate": 0.4}
    kept = [only(**shift)(image, [corner], rng(s))[1][0].sum() for s in range(40)]
    # Either a quarter of the scaled area, or the change was left out: all 144 px.
    assert min(kept) >= 0.25 * 1.69 * 144
    # What one draw does not achieve, one of three may: they fail together as chance has it.
    fails = [
        np.mean([(one(image, [corner], rng(s))[0] == image).all() for s in range(200)])
        for one in (only(**shift, affine_draws=1), only(**shift))
    ]
    assert 0.5 < fails[0] < 0.9
    assert fails[1] == pytest.approx(fails[0] ** 3, abs=0.1)
    lost = only(**shift, keep_fraction=0.0)
    assert min(lost(image, [corner], rng(s))[1][0].sum() for s in range(40)) == 0


@pytest.mark.parametrize("colour", [False, True])
def test_tone_changes_have_their_formula(colour: bool) -> None:
    image, masks = scene(colour=colour)
    values = image / 255.0
    cases = [
        (only(gamma_p=1.0, gamma=(2.0, 2.0)), values**2),
        (only(brightness_p=1.0, brightness=(0.1, 0.1)), values + 0.1),
        (only(contrast_p=1.0, contrast=(1.4, 1.4)), (values - 0.5) * 1.4 + 0.5),
        (only(invert_p=1.0), 1 - values),
        (only(gamma_p=1.0, gamma=(2.0, 2.0), invert_p=1.0), 1 - values**2),
        # What is clipped by one stays so for the next.
        (
            only(contrast_p=1.0, contrast=(3, 3), brightness_p=1.0, brightness=(0.2, 0.2)),
            np.clip((values - 0.5) * 3 + 0.5, 0, 1) + 0.2,
        ),
    ]
    for augment, expected in cases:
        out, out_masks = augment(image, masks, rng())
        assert np.abs(out - np.clip(expected, 0, 1) * 255).max() <= 0.51
        np.testing.assert_array_equal(out_masks[0], masks[0])


def test_channel_gains_change_colour_images_only() -> None:
    gains = only(channel_p=1.0, channel_gain=(0.5, 0.9))
    image, masks = scene(colour=True)
    out, _ = gains(image, masks, rng(1))
    ratio = out[masks[0]][0] / image[masks[0]][0]
    assert ratio.min() > 0.49
    assert ratio.max() < 0.91
    assert np.ptp(ratio) > 0.02
    grey, masks = scene()
    np.testing.assert_array_equal(gains(grey, masks, rng(1))[0], grey)


def test_colour_can_be_dropped() -> None:
    image, masks = scene(colour=True)
    out, _ = only(grey_p=1.0)(image, masks, rng())
    assert (out[..., :1] == out).all()
    # ITU-R BT.601 luma of (230, 200, 180).
    assert abs(int(out[30, 40, 0]) - (0.299 * 230 + 0.587 * 200 + 0.114 * 180)) <= 1


@pytest.mark.parametrize("colour", [False, True])
def test_noise_has_the_standard_deviation_asked_for(colour: bool) -> None:
    image = np.full((200, 200, 3), 120, dtype=np.uint8)
    if colour:
        image[..., 1] = 110
    # Blur and low resolution come first and leave it as it is.
    augment = only(noise_p=1.0, noise_sd=(0.04, 0.04), blur_p=1.0, low_resolution_p=1.0)
    noisy = augment(image, [], rng())[0].astype(float)
    for channel in range(3):
        assert noisy[..., channel].std() == pytest.approx(0.04 * 255, rel=0.02)
        assert noisy[..., channel].mean() == pytest.approx(image[0, 0, channel], abs=0.3)
    same = np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]
    assert abs(same) < 0.05 if colour else same == pytest.approx(1.0)


def test_speckle_grows_with_the_signal() -> None:
    image = np.full((200, 200, 3), 50, dtype=np.uint8)
    image[:, 100:] = 150
    out = only(speckle_p=1.0, speckle_sd=(0.1, 0.1))(image, [], rng())[0].astype(float)
    assert out[:, :100].std() == pytest.approx(5.0, rel=0.05)
    assert out[:, 100:].std() == pytest.approx(15.0, rel=0.05)
    black = np.zeros((50, 50, 3), dtype=np.uint8)
    assert only(speckle_p=1.0)(black, [], rng())[0].max() == 0
    # All channels of a coloured image have the same.
    image = np.full((200, 200, 3), (50, 100, 150), dtype=np.uint8)
    speckle: dict[str, Any] = {"speckle_p": 1.0, "speckle_sd": (0.1, 0.1)}
    out = only(**speckle)(image, [], rng())[0].astype(float)
    assert np.abs(out * (3, 1.5, 1) - out[..., 2:]).max() <= 2
    # Noise beside it is independent of it.
    both = only(**speckle, noise_p=1.0, noise_sd=(0.04, 0.04))(image, [], rng())[0]
    assert both.std(axis=(0, 1)) == pytest.approx(np.hypot((5, 10, 15), 10.2), rel=0.05)


@pytest.mark.parametrize("blue", [120, 90])
def test_grains_are_as_large_as_asked_and_as_strong(blue: int) -> None:
    image = np.full((120, 520, 3), 120, dtype=np.uint8)
    image[..., 2] = blue
    fine = only(noise_p=1.0, noise_sd=(0.04, 0.04))(image, [], rng())[0].astype(float)
    coarse = only(noise_p=1.0, noise_sd=(0.04, 0.04), grain=(4, 4))(image, [], rng())[0]
    coarse = coarse.astype(float)
    assert coarse.std(axis=(0, 1)) == pytest.approx(fine.std(axis=(0, 1)), rel=0.03)

    def alike(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])

    assert abs(alike(fine[:, 1:, 0], fine[:, :-1, 0])) < 0.05
    assert alike(coarse[:, 1:, 0], coarse[:, :-1, 0]) > 0.8
    assert alike(coarse[1:, :, 0], coarse[:-1, :, 0]) > 0.8
    assert abs(alike(coarse[:, 9:, 0], coarse[:, :-9, 0])) < 0.1
    any_size = only(noise_p=1.0, grain=(1, 6))
    grains = [any_size(image, [], rng(seed))[0].astype(float)[..., 0] for seed in range(20)]
    neighbours = [alike(one[:, 1:], one[:, :-1]) for one in grains]
    assert min(neighbours) < 0.4
    assert max(neighbours) > 0.85
    # Each channel of a coloured image has its own.
    for noise in (fine, coarse):
        assert abs(alike(noise[..., 0], noise[..., 2]) - (blue == 120)) < 0.1


def test_gain_is_smooth_and_within_its_bounds() -> None:
    image = np.full((120, 160, 3), 100, dtype=np.uint8)
    out = only(gain_p=1.0, gain=(0.5, 2.0))(image, [], rng())[0][..., 0].astype(float)
    assert out.max() - out.min() > 20
    assert 50 <= out.min() < out.max() <= 200
    assert max(np.abs(np.diff(out, axis=0)).max(), np.abs(np.diff(out, axis=1)).max()) <= 6
    even = only(gain_p=1.0, gain=(0.8, 0.8))(image, [], rng())[0]
    assert (even == 80).all()


def test_levels_clip_both_ends_and_stretch_the_rest() -> None:
    # All values from 0 to 199, alike often.
    image = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 50, axis=0).repeat(3, axis=2)
    out = only(levels_p=1.0, levels=(0.1, 0.1))(image, [], rng())[0][0, :, 0]
    assert (out[:21] == 0).all()
    assert (out[180:] == 255).all()
    between = (np.arange(20, 180) - 20) / (179 - 20) * 255
    assert np.abs(out[20:180] - between).max() <= 0.51
    # Each end has its own fraction.
    ends = only(levels_p=1.0, levels=(0.0, 0.2))
    outs = [ends(image, [], rng(seed))[0] for seed in range(100)]
    dark, bright = ([(one == end).mean() for one in outs] for end in (0, 255))
    for fractions in (dark, bright):
        assert min(fractions) < 0.02
        assert 0.18 < max(fractions) <= 0.21
    assert abs(np.corrcoef(dark, bright)[0, 1]) < 0.3
    flat = np.full((20, 20, 3), 70, dtype=np.uint8)
    assert (only(levels_p=1.0)(flat, [], rng())[0] == 70).all()


def test_levels_are_those_of_the_picture_not_of_what_lies_beside_it() -> None:
    image = np.repeat(np.arange(1, 200, dtype=np.uint8)[None, :, None], 50, axis=0).repeat(3, 2)
    framed = np.pad(image, ((20, 0), (0, 0), (0, 0)))  # black
    framed[:3, :60] = 255  # burnt-in text
    plain, other = (
        only(levels_p=1.0, levels=(0.1, 0.1))(one, [], rng())[0] for one in (image, framed)
    )
    shown = other[20:]
    # A tenth of the picture at either end is clipped, with and without what was added.
    for picture in (plain, shown):
        assert (picture == 0).mean() == pytest.approx(0.1, abs=0.011)
        assert (picture == 255).mean() == pytest.approx(0.1, abs=0.011)
    assert (other[:3, :60] == 255).all()
    assert (other[5:20] == 0).all()
    two = np.where(np.arange(20)[:, None, None] < 9, 3, 250).repeat(20, 1).repeat(3, 2)
    kept = two.astype(np.uint8)
    assert np.array_equal(only(levels_p=1.0)(kept, [], rng())[0], kept)
    # One value between black and white leaves nothing to stretch.
    kept[5:9] = 100
    assert np.array_equal(only(levels_p=1.0)(kept, [], rng())[0], kept)


def test_images_without_an_up_are_turned() -> None:
    config = AugmentConfig(**{**OFF, "no_up": ("dermoscopy",)})
    image, masks = scene(96, 96)
    turned = by_kind(config)["dermoscopy"]
    outs = [turned(image, masks, rng(seed))[0] for seed in range(200)]
    pictures = {out.tobytes() for out in outs}
    # Four quarters, mirrored or not.
    assert len(pictures) == 8
    assert not config.only_flips()


def test_blur_and_low_resolution_lose_detail_and_keep_the_mean() -> None:
    checks = (np.indices((128, 128)).sum(0) % 2 * 100 + 50).astype(np.uint8)
    image = np.repeat(checks[..., None], 3, axis=2)
    for augment in (
        only(blur_p=1.0, blur_sigma_px=(1.5, 1.5)),
        only(low_resolution_p=1.0, low_resolution=(0.5, 0.5)),
    ):
        out = augment(image, [], rng())[0].astype(float)
        assert out.shape == image.shape
        assert out.std() < 5 < image.std()
        assert out.mean() == pytest.approx(100, abs=1)


def test_a_low_resolution_by_hand() -> None:
    # Means of pairs are 50 and 150, and a quarter of the neighbour's is in each half of a pair.
    row = np.tile(np.array([40, 60, 140, 160], dtype=np.uint8), 30)
    image = np.repeat(row[None, :, None], 40, axis=0).repeat(3, axis=2)
    out = only(low_resolution_p=1.0, low_resolution=(0.5, 0.5))(image, [], rng())[0]
    assert out.shape == image.shape
    assert (out[:, 2:-2, 0] == np.tile([125, 125, 75, 75], 29)).all()
    some = only(low_resolution_p=1.0, low_resolution=(0.3, 0.9))
    assert len({some(image, [], rng(seed))[0].tobytes() for seed in range(30)}) > 10


FLAT = np.full((64, 80, 3), 90, dtype=np.uint8)
LINE = np.zeros((64, 80, 3), dtype=np.uint8)
LINE[:, 40] = 255


def power(shown: NDArray[np.float64], _: NDArray[np.bool_]) -> float:
    return float(np.log(shown.mean() / 255) / np.log(90 / 255))


def factor(shown: NDArray[np.float64], _: NDArray[np.bool_]) -> float:
    return float((shown.mean() / 255 - 0.5) / (90 / 255 - 0.5))


def added(shown: NDArray[np.float64], _: NDArray[np.bool_]) -> float:
    return float((shown.mean() - 90) / 255)


def noise_sd(shown: NDArray[np.float64], _: NDArray[np.bool_]) -> float:
    return float(shown.std() / 255)


def speckle_sd(shown: NDArray[np.float64], _: NDArray[np.bool_]) -> float:
    return float(shown.std() / 90)


def width(shown: NDArray[np.float64], _: NDArray[np.bool_]) -> float:
    return float(np.sqrt(np.average((np.arange(80) - 40) ** 2, weights=shown[32])))


def size(_: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    return float(np.sqrt(mask.sum() / 400))


@pytest.mark.parametrize(
    ("probability", "name", "ends", "middle", "image", "measured"),
    [
        # Factors and powers as often below the geometric mean of their ends as above it.
        ("affine_p", "scale", (0.5, 2.0), 1.0, FLAT, size),
        ("gamma_p", "gamma", (0.5, 4.0), 2**0.5, FLAT, power),
        ("contrast_p", "contrast", (0.25, 3.0), 0.75**0.5, FLAT, factor),
        ("brightness_p", "brightness", (-0.1, 0.3), 0.1, FLAT, added),
        ("noise_p", "noise_sd", (0.02, 0.1), 0.06, FLAT, noise_sd),
        ("speckle_p", "speckle_sd", (0.05, 0.3), 0.175, FLAT, speckle_sd),
        ("blur_p", "blur_sigma_px", (1.0, 3.0), 2.0, LINE, width),
    ],
)
def test_numbers_are_drawn_from_all_of_their_range(
    probability: str,
    name: str,
    ends: tuple[float, float],
    middle: float,
    image: NDArray[np.uint8],
    measured: Callable[[NDArray[np.float64], NDArray[np.bool_]], float],
) -> None:
    change = only(**{probability: 1.0, name: ends, "translate": 0.0, "rotate_deg": 0.0})
    mask = np.zeros((64, 80), dtype=bool)
    mask[22:42, 30:50] = True
    numbers = []
    for seed in range(200):
        out, (moved,) = change(image, [mask], rng(seed))
        numbers.append(measured(out[..., 0].astype(float), moved))
    near = 0.06 * (ends[1] - ends[0])
    assert (min(numbers), max(numbers)) == pytest.approx(ends, abs=near)
    assert np.median(numbers) == pytest.approx(middle, abs=2 * near)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_p": 1.0},
        {"speckle_p": 1.0},
        {"gain_p": 1.0, "gain": (2.0, 2.0)},
        {"channel_p": 1.0, "channel_gain": (1.5, 1.5)},
        {"brightness_p": 1.0, "brightness": (0.2, 0.2)},
    ],
)
def test_what_is_brighter_than_white_is_white(settings: dict[str, Any]) -> None:
    image = np.full((50, 60, 3), (255, 255, 254), dtype=np.uint8)
    out = only(**settings)(image, [], rng())[0]
    assert out.min() > 100
    assert (out == 255).mean() > 0.45


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (60, 90)])
@pytest.mark.parametrize("colour", [False, True])
def test_images_of_any_shape_are_changed_with_their_masks(
    shape: tuple[int, int], colour: bool
) -> None:
    settings = {**EVERYTHING.model_dump(), "grey_p": 0.0, "grain": (3, 5), "marks_count": 20}
    image = rng().integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = image if colour else image[..., :1].repeat(3, axis=2)
    for seed in range(10):
        out, (mask,) = Augment(AugmentConfig(**settings))(image, [image[..., 0] > 99], rng(seed))
        assert out.dtype == np.uint8
        assert out.shape == (*mask.shape, 3)
        assert colour or (out == out[..., :1]).all()


def test_the_number_of_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def counted(work: NDArray[np.uint8], count: int, _: np.random.Generator) -> Any:
        counts.append(count)
        return work

    monkeypatch.setattr("textsam.data.augment._draw_marks", counted)
    for seed in range(40):
        only(marks_p=1.0, marks_count=3)(FLAT, [], rng(seed))
    assert set(counts) == {1, 2, 3}


class Fixed:
    """Draws what is written here: a dotted line from (50, 20) to (150, 80) in 201 x 101 pixels."""

    def random(self) -> float:
        return 0.0

    def integers(self, low: int, high: int) -> int:
        return 160 if low == 160 else 7

    def uniform(self, low: float, high: float, size: object = None) -> Any:
        return high if size is None else np.array([[0.25, 0.2], [0.75, 0.8]])


@pytest.mark.parametrize("colour", [False, True])
def test_a_dotted_line_by_hand(colour: bool) -> None:
    work = np.zeros((101, 201, 3) if colour else (101, 201), dtype=np.uint8)
    out = _draw_marks(work, 1, Fixed())  # type: ignore[arg-type]
    drawn = out == ((160, 160, 7) if colour else 160)
    drawn = drawn.all(axis=2) if colour else drawn
    for x, y in ((50, 20), (150, 80)):
        assert drawn[y, x - 2 : x + 3].all()
        assert drawn[y - 2 : y + 3, x].all()
    # 116.6 px are room for 19 dots, of which the ends are in the crosses.
    assert drawn[50, 100]
    assert drawn.sum() == pytest.approx(2 * 9 + 17, abs=4)


def test_marks_are_bright_few_and_do_not_depend_on_the_mask() -> None:
    image = np.full((96, 512, 3), 30, dtype=np.uint8)
    here, there = np.zeros((2, 96, 512), dtype=bool)
    here[:40, :200] = True
    there[60:, 300:] = True
    # A single one, so that it is missed where it lies beside the image.
    marks = only(marks_p=1.0, marks_count=1)
    for seed in range(10):
        out, (same,) = marks(image, [here], rng(seed))
        np.testing.assert_array_equal(same, here)
        np.testing.assert_array_equal(out, marks(image, [there], rng(seed))[0])
        changed = (out != image).any(axis=2)
        assert 0 < changed.mean() < 0.1
        assert (out[changed] >= 30).all()


@pytest.mark.parametrize("name", sorted(OFF.keys() - {"heal_p"}))
def test_probabilities_are_kept(name: str) -> None:
    image = rng().integers(0, 256, (100, 100, 3), dtype=np.uint8)
    mask = np.zeros((100, 100), dtype=bool)
    mask[5:25, 5:25] = True
    change = only(**{name: 0.3})
    outs = [change(image, [mask], rng(seed))[0] for seed in range(400)]
    assert 90 < sum(not np.array_equal(out, image) for out in outs) < 150


def test_wrong_input_is_refused() -> None:
    image, masks = scene()
    with pytest.raises(DataError, match=r"uint8 image, got .* float32"):
        only()(image.astype(np.float32), masks, rng())
    with pytest.raises(DataError, match="uint8 image"):
        only()(image[..., 0], masks, rng())
    with pytest.raises(DataError, match=r"got \(96, 128, 4\)"):
        only()(np.dstack([image, image[..., 0]]), masks, rng())
    with pytest.raises(DataError, match="bool masks of the image's size"):
        only()(image, [masks[0][:-1]], rng())
    with pytest.raises(DataError, match="uint8"):
        only()(image, [masks[0].astype(np.uint8)], rng())


@pytest.mark.parametrize(
    "settings",
    [
        {"flip_p": 0.5},
        {"flip_horizontal_p": 1.5},
        {"scale": (1.3, 0.7)},
        {"scale": (0.0, 1.0)},
        {"noise_sd": (-0.1, 0.1)},
        {"low_resolution": (0.5, 1.2)},
        {"affine_draws": 0},
    ],
)
def test_a_wrong_config_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AugmentConfig(**settings)


@pytest.mark.parametrize("colour", [False, True])
def test_in_place_nothing_moves_and_all_else_changes(colour: bool) -> None:
    image, masks = scene(colour=colour)
    config = EVERYTHING.model_copy(update={"no_up": ("brain MRI",), "invert_p": 0.0})
    kept = config.in_place()
    off = {name for name in OFF if getattr(config, name) and not getattr(kept, name)}
    moving = {"flip_horizontal_p", "flip_vertical_p", "rot90_p", "affine_p"}
    assert off == {*moving, "absent_crop_p", "close_crop_p", "heal_p"}
    assert (kept.no_up, kept.heal) == ((), {})
    assert config.heal, "the configuration itself stays"
    changed, same = Augment(kept)(image, masks, rng())
    assert all(np.array_equal(one, other) for one, other in zip(same, masks, strict=True))
    inside, around = changed[masks[0]].mean(), changed[~masks[0] & ~masks[1]].mean()
    assert not np.array_equal(changed, image)
    assert inside > around, "the bright object stays where it is"


def test_only_flips_says_whether_more_can_happen() -> None:
    assert AugmentConfig(**{**OFF, "flip_horizontal_p": 0.5, "flip_vertical_p": 1.0}).only_flips()
    assert not AugmentConfig(**{**OFF, "marks_p": 0.01}).only_flips()
    assert not AugmentConfig().only_flips()
