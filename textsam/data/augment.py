"""Random changes of an image and its masks for training; the same changes for the same generator.

Geometry is one affine resampling of image and masks. Everything else changes only the image: the
tone curve is a lookup table, the rest imitates what scanners do (blur, noise, speckle, low
resolution, burnt-in marks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFilter, ImageFont

from textsam.data.absent_crop import absent_crop
from textsam.data.augment_config import AugmentConfig
from textsam.data.close_crop import close_crop
from textsam.data.draws import log_uniform
from textsam.data.heal import HealWay, decoy, healed
from textsam.data.monai_transforms import MonaiTransforms
from textsam.errors import DataError

__all__ = ["Augment", "by_kind"]


class Augment:
    """Apply `AugmentConfig` at random. Holds no state: the generator decides everything.

    Args:
        config: what to change.
        heal: how objects of these images are covered; None: they are not.

    Raises:
        ConfigError: an extra transform does not take its arguments.
    """

    def __init__(self, config: AugmentConfig | None = None, *, heal: HealWay | None = None) -> None:
        self.config = config or AugmentConfig()
        self.heal = heal
        self.extra: MonaiTransforms | None = None
        if self.config.extra:
            self.extra = MonaiTransforms(self.config.extra, self.config.keep_fraction)

    def __call__(
        self,
        image: NDArray[np.uint8],
        masks: Sequence[NDArray[np.bool_]],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
        """The changed image (H, W, 3) in [0, 255] and masks (H, W), as new arrays.

        A rotation by 90° exchanges height and width. A grey image (three equal channels) stays
        grey. Raises DataError for another type or shape.
        """
        _check(image, masks)
        config = self.config
        # Grey images are worked on in one channel: a third of the time.
        first = image[..., 0]
        grey = np.array_equal(first, image[..., 1]) and np.array_equal(first, image[..., 2])
        work = first if grey else image
        if self.heal is not None and config.heal_p:
            work, masks = self._cover(work, masks, self.heal, rng)
        # No draw where it is off, so that what was random before stays as it was.
        crop = None
        if config.absent_crop_p and rng.random() < config.absent_crop_p:
            crop = absent_crop(masks, rng)
        if crop is None and config.close_crop_p and rng.random() < config.close_crop_p:
            crop = close_crop(masks, config.close_crop, rng)
        if crop is not None:
            work, masks = work[crop], [m[crop] for m in masks]
        if not grey and rng.random() < config.grey_p:
            work, grey = np.asarray(PILImage.fromarray(work).convert("L")), True
        work, moved = self._geometry(work, list(masks), rng)
        work = self._tone(work, rng)
        # No draws where they are off, so that what was random before stays as it was.
        if config.gain_p and rng.random() < config.gain_p:
            work = _smooth_gain(work, config.gain, rng)
        if config.levels_p and rng.random() < config.levels_p:
            work = _clip_levels(work, rng.uniform(*config.levels), rng.uniform(*config.levels))
        work = self._optics(work, rng)
        work = self._noise(work, rng)
        if rng.random() < config.marks_p:
            work = _draw_marks(work, int(rng.integers(1, config.marks_count + 1)), rng)
        if self.extra is not None:
            work, moved = self.extra(work, moved, rng)
        if grey:
            stacked = np.empty((*work.shape, 3), dtype=np.uint8)
            for channel in range(3):
                stacked[..., channel] = work
            return stacked, moved
        return work.copy(), moved

    def _cover(
        self,
        image: NDArray[np.uint8],
        masks: Sequence[NDArray[np.bool_]],
        way: HealWay,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8], Sequence[NDArray[np.bool_]]]:
        """Cover what is annotated, or as often another place, or nothing."""
        draw = rng.random()
        if draw < self.config.heal_p:
            without = healed(image, masks, way, rng)
            if without is not None:
                return without, [np.zeros_like(mask) for mask in masks]
        elif draw < 2 * self.config.heal_p:
            other = decoy(image, masks, way, rng)
            if other is not None:
                return other, masks
        return image, masks

    def _geometry(
        self, image: NDArray[np.uint8], masks: list[NDArray[np.bool_]], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
        config = self.config
        if rng.random() < config.flip_horizontal_p:
            image, masks = image[:, ::-1], [m[:, ::-1] for m in masks]
        if rng.random() < config.flip_vertical_p:
            image, masks = image[::-1], [m[::-1] for m in masks]
        if rng.random() < config.rot90_p:
            turns = int(rng.integers(1, 4))
            image, masks = np.rot90(image, turns), [np.rot90(m, turns) for m in masks]
        image, masks = np.ascontiguousarray(image), [m.copy() for m in masks]
        if rng.random() >= config.affine_p:
            return image, masks
        pictures = [PILImage.fromarray(m.astype(np.uint8)) for m in masks]
        areas = [int(np.count_nonzero(m)) for m in masks]
        for _ in range(config.affine_draws):
            scale, coefficients = self._affine(image.shape[0], image.shape[1], rng)
            moved = [np.asarray(_warp(p, coefficients, nearest=True)) > 0 for p in pictures]
            needed = config.keep_fraction * scale * scale
            kept = [int(np.count_nonzero(m)) for m in moved]
            if all(now >= needed * before for now, before in zip(kept, areas, strict=True)):
                warped = _warp(PILImage.fromarray(image), coefficients, nearest=False)
                return np.asarray(warped), moved
        return image, masks

    def _affine(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[float, tuple[float, ...]]:
        config = self.config
        scale = log_uniform(rng, config.scale)
        angle = math.radians(rng.uniform(-config.rotate_deg, config.rotate_deg))
        dx = rng.uniform(-config.translate, config.translate) * width
        dy = rng.uniform(-config.translate, config.translate) * height
        # PIL maps output to input, in the frame whose origin is the corner of the first pixel;
        # rotation and scale are about the image's middle.
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        cx, cy = width / 2, height / 2
        ox, oy = cx + dx, cy + dy
        return scale, (cos, sin, cx - cos * ox - sin * oy, -sin, cos, cy + sin * ox - cos * oy)

    def _tone(self, work: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        config = self.config
        curve = np.linspace(0.0, 1.0, 256)
        changed = False
        steps: tuple[tuple[float, Callable[[NDArray[np.float64]], NDArray[np.float64]]], ...] = (
            (config.gamma_p, lambda c: c ** log_uniform(rng, config.gamma)),
            (config.contrast_p, lambda c: (c - 0.5) * log_uniform(rng, config.contrast) + 0.5),
            (config.brightness_p, lambda c: c + rng.uniform(*config.brightness)),
            (config.invert_p, lambda c: 1.0 - c),
        )
        for probability, step in steps:
            if rng.random() < probability:
                curve, changed = np.clip(step(curve), 0.0, 1.0), True
        gains = np.ones(1)
        if work.ndim == 3 and rng.random() < config.channel_p:
            gains, changed = rng.uniform(*config.channel_gain, size=3), True
        if not changed:
            return work
        table = np.rint(np.clip(curve * gains[:, None], 0.0, 1.0) * 255).astype(np.uint8)
        if len(table) == 1:
            return np.asarray(table[0].take(work))
        return np.stack([table[c].take(work[..., c]) for c in range(3)], axis=2)

    def _optics(self, work: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        config = self.config
        if rng.random() < config.low_resolution_p:
            factor = rng.uniform(*config.low_resolution)
            height, width = work.shape[:2]
            small = (max(1, round(width * factor)), max(1, round(height * factor)))
            picture = PILImage.fromarray(work).resize(small, PILImage.Resampling.BOX)
            work = np.asarray(picture.resize((width, height), PILImage.Resampling.BILINEAR))
        if rng.random() < config.blur_p:
            sigma = rng.uniform(*config.blur_sigma_px)
            work = np.asarray(PILImage.fromarray(work).filter(ImageFilter.GaussianBlur(sigma)))
        return work

    def _noise(self, work: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        config = self.config
        speckle = rng.random() < config.speckle_p
        noise = rng.random() < config.noise_p
        if not (speckle or noise):
            return work
        values = work.astype(np.float32)
        if speckle:
            # Speckle is interference of the sound field: the same in all colour channels.
            field = self._grains(rng, work.shape[:2])
            field *= np.float32(rng.uniform(*config.speckle_sd))
            field += np.float32(1.0)
            values *= field if work.ndim == 2 else field[..., None]
        if noise:
            field = self._grains(rng, work.shape)
            field *= np.float32(rng.uniform(*config.noise_sd) * 255)
            values += field
        np.clip(values, 0, 255, out=values)
        values += np.float32(0.5)
        return values.astype(np.uint8)

    def _grains(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Noise of unit variance whose grains are as large as the settings say."""
        if self.config.grain == (1.0, 1.0):
            return _standard_normal(rng, shape)
        size = log_uniform(rng, self.config.grain)
        height, width = shape[:2]
        small = (max(1, round(height / size)), max(1, round(width / size)), *shape[2:])
        coarse = _standard_normal(rng, small)
        if len(shape) == 2:
            field = _enlarged(coarse, height, width)
        else:
            planes = [_enlarged(coarse[..., c], height, width) for c in range(shape[2])]
            field = np.stack(planes, axis=2)
        # Between the coarse points a mean of several is less than each.
        spread = float(field.std())
        return field / np.float32(spread) if spread else field


def by_kind(config: AugmentConfig) -> dict[str, Augment]:
    """Modality -> what changes its images, for those that are not changed as others are."""
    kinds = dict.fromkeys((*config.no_up, *config.heal))
    return {k: Augment(config.of_kind(k), heal=config.heal.get(k)) for k in kinds}


def _enlarged(field: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    picture = PILImage.fromarray(np.ascontiguousarray(field))
    return np.array(picture.resize((width, height), PILImage.Resampling.BILINEAR))


def _smooth_gain(
    work: NDArray[np.uint8], bounds: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Multiply by a field between the bounds, drawn at 3 x 3 places and smooth between them."""
    low, high = math.log(bounds[0]), math.log(bounds[1])
    places = rng.uniform(low, high, size=(3, 3)).astype(np.float32)
    picture = PILImage.fromarray(places)
    size = (work.shape[1], work.shape[0])
    smooth = np.asarray(picture.resize(size, PILImage.Resampling.BICUBIC))
    field = np.exp(np.clip(smooth, low, high))  # cubics swing beyond what they go through
    values = work * (field if work.ndim == 2 else field[..., None])
    changed: NDArray[np.uint8] = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    return changed


def _clip_levels(work: NDArray[np.uint8], dark: float, bright: float) -> NDArray[np.uint8]:
    """Clip these fractions of the values at either end and stretch the rest to [0, 255].

    Fractions are of the values between the smallest and the largest: black beside the picture and
    burnt-in white, often more than is to be clipped, would keep the ends where they are.
    """
    histogram = np.bincount(work.ravel(), minlength=256)
    ends = np.flatnonzero(histogram)[[0, -1]]
    histogram[ends] = 0
    inside = int(histogram.sum())
    if not inside:
        return work
    counts = np.cumsum(histogram) / inside
    low = int(np.searchsorted(counts, dark, side="right"))
    high = int(np.searchsorted(counts, 1 - bright, side="left"))
    if high <= low:
        return work
    table = np.clip((np.arange(256) - low) / (high - low), 0, 1)
    return np.asarray(np.rint(table * 255).astype(np.uint8).take(work))


def _check(image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(
            f"Augmentation needs an (H, W, 3) uint8 image, got {image.shape} {image.dtype}."
        )
    for mask in masks:
        if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
            raise DataError(
                f"Augmentation needs bool masks of the image's size {image.shape[:2]}, got "
                f"{mask.shape} {mask.dtype}."
            )


def _warp(
    picture: PILImage.Image, coefficients: tuple[float, ...], *, nearest: bool
) -> PILImage.Image:
    resample = PILImage.Resampling.NEAREST if nearest else PILImage.Resampling.BILINEAR
    return picture.transform(
        picture.size, PILImage.Transform.AFFINE, coefficients, resample=resample, fillcolor=0
    )


@lru_cache(maxsize=1)
def _normal_table() -> NDArray[np.float32]:
    # The 4096 equally likely quantiles of the normal distribution, rescaled to unit variance.
    quantile = NormalDist().inv_cdf
    table = np.array([quantile((i + 0.5) / 4096) for i in range(4096)])
    return np.asarray(table / table.std(), dtype=np.float32)


def _standard_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    # Drawing from a table of quantiles is several times faster than the generator's own normals
    # and cannot be told apart after rounding to 8 bits.
    count = math.prod(shape)
    indices = np.frombuffer(rng.bytes(2 * count), dtype="<u2") & 4095
    return np.asarray(_normal_table().take(indices).reshape(shape))


@lru_cache(maxsize=8)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _draw_marks(work: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Crosses, dotted lines between two crosses and short texts, as scanners burn them in.

    Places are independent of the masks: a mark must not tell where the object is.
    """
    picture = PILImage.fromarray(work)
    draw = ImageDraw.Draw(picture)
    height, width = work.shape[:2]
    side = min(height, width)
    for _ in range(count):
        value = int(rng.integers(160, 256))
        colour: int | tuple[int, int, int]
        colour = value if work.ndim == 2 else (value, value, int(rng.integers(0, value + 1)))
        ends = rng.uniform(0, 1, size=(2, 2)) * (width - 1, height - 1)
        if rng.random() < 0.5:
            arm = max(2.0, side * rng.uniform(0.008, 0.02))
            for x, y in ends:
                draw.line([(x - arm, y), (x + arm, y)], fill=colour)
                draw.line([(x, y - arm), (x, y + arm)], fill=colour)
            if rng.random() < 0.5:
                steps = np.linspace(0, 1, max(2, int(np.hypot(*(ends[1] - ends[0])) / 6)))
                dots = ends[0] + steps[:, None] * (ends[1] - ends[0])
                draw.point([(float(x), float(y)) for x, y in dots], fill=colour)
        else:
            letters = "ABCDEHLMRT0123456789 .+"
            text = "".join(letters[i] for i in rng.integers(0, len(letters), rng.integers(2, 9)))
            size_px = max(8, 2 * int(side * rng.uniform(0.02, 0.045) / 2))
            draw.text(
                (float(ends[0, 0]), float(ends[0, 1])), text, fill=colour, font=_font(size_px)
            )
    return np.asarray(picture)
