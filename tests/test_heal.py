"""Covering an object: what lies elsewhere takes its place, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage

from textsam.data.augment import Augment, by_kind
from textsam.data.augment_config import AugmentConfig
from textsam.data.heal import HealWay, decoy, healed

OFF = {name: 0.0 for name in AugmentConfig.model_fields if name.endswith("_p")}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def disc(shape: tuple[int, int], y: float, x: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.indices(shape)
    return np.hypot(rows - y, columns - x) < radius


def head(turn_deg: float = 0.0, shift: float = 0.0) -> NDArray[np.uint8]:
    """Two halves alike: a skull, and blobs at mirrored places."""
    half = ndimage.gaussian_filter(rng(3).normal(size=(160, 80)), 4)
    both = np.concatenate([half[:, ::-1], half], axis=1)
    picture = np.where(disc((160, 160), 79.5, 79.5, 66), 110 + 400 * both, 0.0)
    picture[disc((160, 160), 79.5, 79.5, 66) & ~disc((160, 160), 79.5, 79.5, 60)] = 230
    picture = ndimage.shift(ndimage.rotate(picture, turn_deg, reshape=False, order=1), (0, shift))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("turn_deg", "shift"), [(0, 0), (5, 4), (-4, -6)])
@pytest.mark.parametrize("colour", [False, True])
def test_the_mirrored_place_covers_the_object(turn_deg: float, shift: float, colour: bool) -> None:
    clean = head(turn_deg, shift)
    mask = disc(clean.shape, 70, 48 + shift, 9)
    image = clean.copy()
    image[mask] = 255
    if colour:
        image, clean = (np.stack([p, p // 2, p // 3], axis=2) for p in (image, clean))
    out = healed(image, [mask], "mirrored", rng())
    assert out is not None
    assert out.dtype == np.uint8
    assert out.shape == image.shape
    there = np.abs(out[mask].astype(float) - clean[mask]).mean()
    before = np.abs(image[mask].astype(float) - clean[mask]).mean()
    assert there < 0.15 * before
    far = ~disc(mask.shape, 70, 48 + shift, 40)
    assert np.array_equal(out[far], image[far])
    assert not np.array_equal(out, image)


def test_halves_that_are_not_alike_cover_nothing() -> None:
    noise = np.clip(128 + 300 * ndimage.gaussian_filter(rng(1).normal(size=(160, 160)), 4), 0, 255)
    mask = disc((160, 160), 70, 40, 9)
    assert healed(noise.astype(np.uint8), [mask], "mirrored", rng()) is None
    assert healed(np.full((160, 160), 7, np.uint8), [mask], "mirrored", rng()) is None
    # A line has none.
    line = np.arange(200, dtype=np.uint8)[None]
    for thin in (line, line.T, line[:, :40]):
        assert healed(thin, [thin == 30], "mirrored", rng()) is None


def test_what_would_be_covered_by_itself_is_left() -> None:
    clean = head()
    middle = disc(clean.shape, 80, 79.5, 12)
    assert healed(clean, [middle], "mirrored", rng()) is None
    # Nor by another object, at the mirrored place.
    one, other = disc(clean.shape, 80, 50, 8), disc(clean.shape, 80, 109, 8)
    assert healed(clean, [one], "mirrored", rng()) is not None
    assert healed(clean, [one, other], "mirrored", rng()) is None
    # Nor by what lies beyond the image, which is cut off there.
    off = clean[:, :112]
    assert healed(off, [disc(off.shape, 80, 62, 5)], "mirrored", rng()) is not None
    assert healed(off, [disc(off.shape, 80, 32, 5)], "mirrored", rng()) is None


def layers(width: int = 240) -> NDArray[np.uint8]:
    """Rows that are the same all along: tissue below a probe."""
    rows = 90 + 60 * np.sin(np.arange(120) / 7.0)
    return np.repeat(rows[:, None], width, axis=1).astype(np.uint8)


def test_columns_of_the_same_depth_cover_the_object_and_its_shadow() -> None:
    clean = layers()
    mask = disc(clean.shape, 50, 60, 12)
    image = clean.copy()
    image[mask] = 0
    image[50:, 50:70] //= 2  # its shadow
    out = healed(image, [mask], "beside", rng())
    assert out is not None
    assert np.abs(out.astype(int) - clean)[:, 45:75].max() <= 12
    assert np.abs(out.astype(int) - clean).mean() < 0.2
    # What lies above stays, and so does what is far aside.
    assert np.array_equal(out[:10], image[:10])
    assert np.array_equal(out[:, 130:], image[:, 130:])


def test_a_cover_of_another_brightness_has_no_seams() -> None:
    # From left to right it grows brighter, by less than one from column to column.
    image = (layers() * 0.5 + np.linspace(0, 150, 240)).astype(np.uint8)
    mask = disc(image.shape, 50, 60, 12)
    for seed in range(4):
        out = healed(image, [mask], "beside", rng(seed))
        assert out is not None
        assert np.abs(out[mask].astype(int) - image[mask]).mean() > 10
        assert np.abs(np.diff(out.astype(int), axis=1)).max() <= 8


def test_columns_that_show_the_object_cover_nothing() -> None:
    wide = np.zeros((120, 240), dtype=bool)
    wide[40:60, 60:180] = True
    assert healed(layers(), [wide], "beside", rng()) is None
    # Nor do those that show another one.
    left, right = disc((120, 240), 50, 30, 10), disc((120, 240), 50, 205, 10)
    picture = layers()
    picture[left | right] = 0
    for seed in range(10):
        out = healed(picture, [left, right], "beside", rng(seed))
        assert out is None or (np.abs(out.astype(int) - layers())[left | right] < 30).all()


@pytest.mark.parametrize("way", ["mirrored", "beside"])
def test_a_decoy_covers_another_place_and_keeps_the_object(way: HealWay) -> None:
    image = head() if way == "mirrored" else layers()
    # Unlike at every place, so that a cover shows.
    image = np.clip(image + rng(9).integers(0, 9, image.shape), 0, 255).astype(np.uint8)
    mask = disc(image.shape, 70, 50, 8)
    image[mask] = 255
    places = set()
    for seed in range(60):
        out = decoy(image, [mask], way, rng(seed))
        if out is None:
            continue
        assert np.array_equal(out[mask], image[mask])
        changed = np.argwhere(out != image)
        assert len(changed)
        places.add(tuple(changed.mean(axis=0).round().astype(int)))
        # Nothing of the object is copied.
        assert (out[~mask] == 255).sum() <= (image[~mask] == 255).sum() + 20
    assert len(places) > 5


def test_without_an_object_there_is_nothing_to_cover() -> None:
    image, none = head(), np.zeros((160, 160), dtype=bool)
    for cover in (healed, decoy):
        assert cover(image, [none], "mirrored", rng()) is None
        assert cover(image, [], "beside", rng()) is None


def test_the_generator_decides() -> None:
    image = np.clip(layers() + rng(9).integers(0, 40, (120, 240)), 0, 255).astype(np.uint8)
    mask = disc(image.shape, 50, 60, 12)
    outs = [healed(image, [mask], "beside", rng(seed)) for seed in (4, 4, 5, 6)]
    assert all(out is not None for out in outs)
    assert np.array_equal(outs[0], outs[1])  # type: ignore[arg-type]
    assert any(not np.array_equal(outs[0], out) for out in outs[2:])  # type: ignore[arg-type]


def test_training_images_are_covered_as_often_as_decoys_are_made() -> None:
    config = AugmentConfig(**{**OFF, "heal_p": 0.3, "heal": {"breast ultrasound": "beside"}})
    (change,) = by_kind(config).values()
    grey = np.clip(layers() + rng(9).integers(0, 40, (120, 240)), 0, 255).astype(np.uint8)
    image = np.repeat(grey[..., None], 3, axis=2)
    mask = disc(grey.shape, 50, 60, 12)
    image[mask] = 0
    covered = other = same = 0
    for seed in range(400):
        out, (moved,) = change(image, [mask], rng(seed))
        if not moved.any():
            covered += 1
            assert not np.array_equal(out, image)
            assert np.array_equal(out[..., 0], out[..., 2])
        else:
            assert np.array_equal(moved, mask)
            same += bool(np.array_equal(out, image))
            other += not np.array_equal(out, image)
    assert 95 < covered < 145
    # A decoy finds no room now and then.
    assert 30 < other < 145
    assert covered + other + same == 400


def test_all_masks_are_emptied_and_decoys_tried_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textsam.data.augment.healed", lambda image, *_: image + np.uint8(1))
    monkeypatch.setattr("textsam.data.augment.decoy", lambda image, *_: image + np.uint8(2))
    config = AugmentConfig(**{**OFF, "heal_p": 0.3, "heal": {"breast ultrasound": "beside"}})
    (change,) = by_kind(config).values()
    image, mask = np.zeros((9, 9, 3), np.uint8), np.ones((9, 9), dtype=bool)
    kinds = []
    for seed in range(400):
        out, masks = change(image, [mask, mask], rng(seed))
        kinds.append(int(out.max()))
        assert [m.all() for m in masks] == [m.any() for m in masks] == [kinds[-1] != 1] * 2
    assert 95 < kinds.count(1) < 145
    assert 95 < kinds.count(2) < 145


def test_only_the_kinds_named_are_covered() -> None:
    config = AugmentConfig(
        **{**OFF, "heal_p": 1.0, "heal": {"brain MRI": "mirrored"}, "no_up": ("microscopy",)}
    )
    image = np.repeat(head()[..., None], 3, axis=2)
    mask = disc(image.shape[:2], 70, 50, 8)
    ways = by_kind(config)
    assert set(ways) == {"brain MRI", "microscopy"}
    assert not ways["brain MRI"](image, [mask], rng())[1][0].any()
    assert ways["microscopy"](image, [mask], rng())[1][0].any()
    out, (kept,) = Augment(config)(image, [mask], rng())
    assert np.array_equal(out, image)
    assert np.array_equal(kept, mask)


def test_a_probability_without_kinds_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"heal_p needs heal: kinds of image"):
        AugmentConfig(heal_p=0.1)
    with pytest.raises(ValidationError, match="'mirrored' or 'beside'"):
        AugmentConfig(heal={"brain MRI": "sideways"})  # type: ignore[dict-item]
    config = AugmentConfig(**{**OFF, "heal_p": 0.1, "heal": {"brain MRI": "mirrored"}})
    assert not config.only_flips()
    assert "heal_p" in config.looks_at_masks()
