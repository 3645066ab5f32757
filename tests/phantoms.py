"""Drawn medical images with their truth: none is anybody's, all are alike at every call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["brain_mri", "breast_ultrasound", "chest_x_ray", "electron_micrograph", "skin"]

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def _uint8(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(values, 0, 255).astype(np.uint8)


def _ellipse(
    shape: tuple[int, int], x: float, y: float, a: float, b: float, turn_deg: float = 0.0
) -> Mask:
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    angle = np.deg2rad(turn_deg)
    u = (xs - x) * np.cos(angle) + (ys - y) * np.sin(angle)
    v = (ys - y) * np.cos(angle) - (xs - x) * np.sin(angle)
    return np.asarray((u / a) ** 2 + (v / b) ** 2 < 1)


def breast_ultrasound(tumor: bool = True, seed: int = 0) -> tuple[Grey, Mask]:
    """Layers of tissue in speckle, and an ellipse nearly without echoes, brighter behind it."""
    rng = np.random.default_rng(seed)
    shape = (420, 520)
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    waves = 12 * np.sin(xs / 45 + seed) + 8 * np.sin(xs / 21)
    depth = ys + waves
    tissue = np.select(
        [depth < 26, depth < 110, depth < 260, depth < 280], [190.0, 85.0, 125.0, 185.0], 70.0
    )
    tissue += ndimage.gaussian_filter(rng.normal(0, 1, shape), 9) * 160
    truth = _ellipse(shape, 270, 190, 72, 48, 8) if tumor else np.zeros(shape, dtype=np.bool_)
    tissue = np.where(truth, 22.0, tissue)
    if tumor:
        shadow = np.zeros(shape)
        shadow[230:330, 215:325] = 40
        tissue += ndimage.gaussian_filter(shadow, 12)
    tissue = ndimage.gaussian_filter(tissue, 2.0)
    speckle = ndimage.gaussian_filter(rng.rayleigh(1.0, shape), (0.9, 1.6))
    return _uint8(tissue * speckle / speckle.mean()), truth


def chest_x_ray(seed: int = 0) -> tuple[Grey, Mask]:
    """A bright trunk with two dark lungs, ribs across them, a heart between."""
    rng = np.random.default_rng(seed)
    shape = (480, 460)
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    trunk = _ellipse(shape, 230, 270, 215, 300)
    left, right = _ellipse(shape, 140, 235, 68, 150, 6), _ellipse(shape, 322, 235, 66, 148, -6)
    heart = _ellipse(shape, 262, 300, 72, 80, 20)
    truth = (left | right) & ~heart
    image = np.where(trunk, 165.0, 12.0)
    image = np.where(truth, 62.0, image)
    ribs = (np.sin((ys + 0.0016 * (xs - 230) ** 2) / 8.5) > 0.55) & trunk
    image += 16 * ribs
    image += 45 * (np.abs(xs - 230) < 20)
    image = ndimage.gaussian_filter(image, 3.0) + rng.normal(0, 3, shape)
    return _uint8(image), truth


def electron_micrograph(seed: int = 0) -> tuple[Grey, Mask]:
    """Light cells of every shape, and the dark, thin membranes between them."""
    rng = np.random.default_rng(seed)
    side = 400
    centres = rng.uniform(0, side, (90, 2))
    ys, xs = np.mgrid[:side, :side]
    warp = [ndimage.gaussian_filter(rng.normal(0, 1, (side, side)), 8) * 90 for _ in range(2)]
    squared = [(ys + warp[0] - cy) ** 2 + (xs + warp[1] - cx) ** 2 for cy, cx in centres]
    nearest = np.argmin(np.stack(squared), axis=0)
    edge = ndimage.morphological_gradient(nearest, size=(2, 2)) > 0
    truth = ndimage.binary_dilation(edge, iterations=2)
    image = 170 + ndimage.gaussian_filter(rng.normal(0, 1, (side, side)), 2) * 60
    image = np.where(truth, 55, image)
    image = ndimage.gaussian_filter(image, 1.0) + rng.normal(0, 12, (side, side))
    return _uint8(image), truth


def brain_mri(tumor: bool = True, seed: int = 0) -> tuple[Grey, Mask]:
    """A head in axial section: bright rim, grey brain, dark ventricles, a bright mass."""
    rng = np.random.default_rng(seed)
    shape = (400, 360)
    head, inner = _ellipse(shape, 180, 200, 150, 182), _ellipse(shape, 180, 200, 136, 168)
    image = np.where(head, 120.0, 4.0)
    image = np.where(inner & ~_ellipse(shape, 180, 200, 130, 162), 18.0, image)
    image = np.where(_ellipse(shape, 180, 200, 130, 162), 82.0, image)
    folds = ndimage.gaussian_filter(rng.normal(0, 1, shape), 5) * 130
    image += np.where(_ellipse(shape, 180, 200, 128, 160), folds, 0)
    for x, turn in ((164, 10), (196, -10)):
        image = np.where(_ellipse(shape, x, 190, 9, 42, turn), 25.0, image)
    truth = _ellipse(shape, 246, 262, 34, 29, 20) if tumor else np.zeros(shape, dtype=np.bool_)
    image = np.where(truth, 190.0, image)
    return _uint8(ndimage.gaussian_filter(image, 1.4) + rng.normal(0, 4, shape)), truth


def skin(lesion: bool = True, seed: int = 0) -> tuple[NDArray[np.uint8], Mask]:
    """Skin under a dermatoscope, (H, W, 3), with a brown spot of uneven border."""
    rng = np.random.default_rng(seed)
    shape = (360, 480)
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    angle = np.arctan2(ys - 175, xs - 245)
    radius = 82 + 9 * np.sin(3 * angle) + 5 * np.sin(7 * angle + 1)
    truth = np.hypot(ys - 175, (xs - 245) / 1.2) < radius
    if not lesion:
        truth = np.zeros(shape, dtype=np.bool_)
    cover = ndimage.gaussian_filter(truth.astype(float), 4)[..., None]
    pattern = ndimage.gaussian_filter(rng.normal(0, 1, shape), 3)[..., None] * 45
    image = (
        np.array([222.0, 178, 160]) * (1 - cover) + (np.array([105.0, 66, 50]) + pattern) * cover
    )
    return _uint8(image + rng.normal(0, 3, (*shape, 3))), truth
