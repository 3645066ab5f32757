"""Transforms of MONAI in training: repeatable, masks on their objects and binary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from runs import ONLY_FLIPS

from textsam.data.augment import Augment
from textsam.data.augment_config import AugmentConfig
from textsam.data.monai_transforms import INTENSITY, SPATIAL
from textsam.errors import ConfigError

SIDE = 64
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Rand2DElastic": {"spacing": [16, 16], "magnitude_range": [3, 4]},
    "RandAffine": {"rotate_range": 0.5, "scale_range": 0.2},
    "RandGridDistortion": {"num_cells": 4, "distort_limit": 0.2},
    "RandScaleIntensity": {"factors": [0.3, 0.4]},
    "RandShiftIntensity": {"offsets": [0.1, 0.2]},
    "RandCoarseDropout": {"holes": 3, "spatial_size": 9, "fill_value": 0.0},
}
NAMES = [*SPATIAL, *INTENSITY]


def disc() -> NDArray[np.bool_]:
    ys, xs = np.mgrid[:SIDE, :SIDE]
    return np.asarray((xs - 30) ** 2 + (ys - 34) ** 2 < 18**2)


def picture(colour: bool) -> NDArray[np.uint8]:
    """A bright disc on a dark ground, with a slope so that every tone is there."""
    slope = np.linspace(0, 40, SIDE)
    base = 30 + slope[None] + 140 * disc()
    gains = (1.0, 0.9, 0.8) if colour else (1.0, 1.0, 1.0)
    return np.stack([base * gain for gain in gains], axis=2).astype(np.uint8)


def augment(*extra: dict[str, Any], **changes: Any) -> Augment:
    off = {**ONLY_FLIPS, "flip_horizontal_p": 0.0, "flip_vertical_p": 0.0, **changes}
    return Augment(AugmentConfig.model_validate({**off, "extra": extra}))


def entry(name: str, prob: float = 1.0) -> dict[str, Any]:
    return {"name": name, "args": {"prob": prob, **ARGUMENTS.get(name, {})}}


@pytest.mark.parametrize("name", NAMES)
def test_each_is_repeatable_and_keeps_masks_on_their_object(name: str) -> None:
    change = augment(entry(name))
    image = picture(colour=False)
    one, (mask,) = change(image, [disc()], np.random.default_rng(5))
    change(image, [disc()], np.random.default_rng(6))  # leaves nothing behind
    two, (again,) = change(image, [disc()], np.random.default_rng(5))
    fresh, _ = augment(entry(name))(image, [disc()], np.random.default_rng(5))
    assert np.array_equal(one, two)
    assert np.array_equal(one, fresh)
    assert np.array_equal(mask, again)
    assert one.dtype == np.uint8
    assert mask.dtype == np.bool_
    assert one.shape == image.shape
    assert (one[..., 0] == one[..., 1]).all(), "a grey image stays grey"
    assert not np.array_equal(one, image)
    if name in SPATIAL:
        assert not np.array_equal(mask, disc())
        # The disc is at least 100 brighter than its ground: the mask lies on what is bright.
        bright = one[..., 0] > 120
        assert (bright & mask).sum() / (bright | mask).sum() > 0.95
    else:
        assert np.array_equal(mask, disc())


def test_another_generator_gives_another_change_and_inputs_are_left_alone() -> None:
    change = augment(entry("Rand2DElastic"), entry("RandGaussianNoise"))
    image, mask = picture(colour=True), disc()
    before = image.copy()
    results = [change(image, [mask, ~mask], np.random.default_rng(seed)) for seed in (1, 2)]
    assert not np.array_equal(results[0][0], results[1][0])
    assert not np.array_equal(results[0][1][0], results[1][1][0])
    assert np.array_equal(image, before)
    assert np.array_equal(mask, disc())
    # Colour channels keep their own values: red is brighter than blue.
    assert results[0][0][..., 0].mean() > results[0][0][..., 2].mean() + 10


def test_an_object_is_not_pushed_out() -> None:
    away = {"name": "RandAffine", "args": {"prob": 1.0, "translate_range": [[60, 60], [0, 0]]}}
    image, (mask,) = augment(away)(picture(False), [disc()], np.random.default_rng(0))
    assert np.array_equal(mask, disc())
    assert np.array_equal(image, picture(False))
    _, (gone,) = augment(away, keep_fraction=0.0)(
        picture(False), [disc()], np.random.default_rng(0)
    )
    assert not gone.any()


def test_no_masks_and_no_transforms() -> None:
    image, masks = augment(entry("RandGridDistortion"))(picture(True), [], np.random.default_rng(0))
    assert masks == []
    assert image.shape == (SIDE, SIDE, 3)
    assert augment().extra is None
    assert augment().config.only_flips()
    assert not augment(entry("RandGaussianNoise")).config.only_flips()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"name": "RandFlip"}, "'RandFlip' is none of Rand2DElastic"),
        ({"name": "LoadImage"}, "is none of"),
        ({"name": "RandAffine", "args": {"mode": "nearest"}}, "mode cannot be set"),
        ({"name": "RandAffine", "arguments": {}}, "arguments"),
    ],
)
def test_what_is_not_allowed_is_refused_when_read(extra: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AugmentConfig.model_validate({"extra": [extra]})


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("RandAffine", {"rotate_range": "x"}),
        ("RandGaussianNoise", {"std": "a", "prob": 0.001}),
        ("Rand2DElastic", {"spacing": [2, 2, 2], "magnitude_range": [0, 1]}),
        ("RandCoarseDropout", {"holes": 1, "spatial_size": [5, 5, 5]}),
        ("RandGridDistortion", {"num_cells": 0}),
    ],
)
def test_arguments_that_fail_in_use_are_refused_before(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"augment\.extra, {name} with "):
        augment({"name": name, "args": args})


def test_arguments_that_do_not_exist_are_named() -> None:
    with pytest.raises(ConfigError, match=r"augment\.extra, RandGaussianNoise with .*strength"):
        augment({"name": "RandGaussianNoise", "args": {"strength": 2}})
