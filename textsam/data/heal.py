"""An image without its object: what stands in its place is taken from elsewhere in the image.

Sets of images in which something is always there teach a network that it always is. A part cut out
beside the object (`textsam.data.absent_crop`) is a true negative, but no whole image. Here the
whole stays: of images whose halves are alike, a head in a scanner, the object is covered by what
lies at the mirrored place of the other half; in others, such as layers of tissue below a probe, by
columns of the same depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from textsam.frame import bounds

__all__ = ["HealWay", "decoy", "healed"]

HealWay = Literal["mirrored", "beside"]

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Around the object, as a share of its longer side: what it presses aside or throws a shadow on.
_MARGIN = 0.25
_MARGIN_PX = 3
# Halves count as alike from this correlation on: heads seen from above or the front have 0.85 and
# more, from the side about 0.7.
_ALIKE = 0.85
# The axis is looked for in images of this side, by turning them so far.
_SMALL_PX = 96
_TURNS_DEG = np.arange(-16.0, 17.0, 2.0)
# Columns are taken from the best of so many places.
_PLACES = 8


def healed(
    image: Image, masks: Sequence[Mask], way: HealWay, rng: np.random.Generator
) -> Image | None:
    """The image with everything annotated covered.

    Args:
        image: (H, W) or (H, W, 3).
        masks: (H, W) each, at least one.
        way: where the cover is from: the "mirrored" place, or columns "beside".
        rng: decides where columns are from.

    Returns:
        An image of the same shape; None where there is no object, the halves are not alike, or
        what would cover the object shows a part of it or lies beyond the image.
    """
    union = np.logical_or.reduce(masks)
    if not union.any():
        return None
    return _covered(image, union, _region(union, way), union, way, rng)


def decoy(
    image: Image, masks: Sequence[Mask], way: HealWay, rng: np.random.Generator
) -> Image | None:
    """The image with a place covered where nothing is annotated, as large as what is.

    Where covering leaves traces, these must not tell that nothing is there.

    Args:
        image, masks, way, rng: as of `healed`; rng also decides the place.

    Returns:
        An image of the same shape; None where there is no object or no such place.
    """
    union = np.logical_or.reduce(masks)
    if not union.any():
        return None
    rows, columns = bounds(union)
    shape = union[rows, columns]
    tall, wide = shape.shape
    y = int(rng.integers(0, union.shape[0] - tall + 1))
    x = int(rng.integers(0, union.shape[1] - wide + 1))
    place = np.zeros_like(union)
    place[y : y + tall, x : x + wide] = shape
    region = _region(place, way)
    # Blending reaches so far beyond it.
    if (ndimage.distance_transform_edt(~region) <= 2 * _margin(place))[union].any():
        return None
    return _covered(image, place, region, union, way, rng)


def _covered(
    image: Image, place: Mask, region: Mask, shown: Mask, way: HealWay, rng: np.random.Generator
) -> Image | None:
    """Cover a region, which is that of a place, without copying anything shown."""
    pixels = image.astype(np.float32)
    if way == "mirrored":
        cover = _mirrored(pixels, place, region, shown)
    else:
        cover = _beside(pixels, place, region, shown, rng)
    return None if cover is None else _blended(image, cover, region, _margin(place))


def _margin(mask: Mask) -> int:
    rows, columns = bounds(mask)
    longer = int(max(rows.stop - rows.start, columns.stop - columns.start))
    return round(_MARGIN * longer) + _MARGIN_PX


def _region(place: Mask, way: HealWay) -> Mask:
    """What is covered of an image: the place and a margin, or its columns from its top down."""
    margin = _margin(place)
    if way == "mirrored":
        around: Mask = ndimage.distance_transform_edt(~place) < margin
        return around
    rows, columns = bounds(place)
    left, top = max(0, columns.start - margin), max(0, rows.start - margin)
    below = np.zeros_like(place)
    below[top:, left : columns.stop + margin] = True
    return below


def _mirrored(
    image: NDArray[np.float32], place: Mask, region: Mask, shown: Mask
) -> NDArray[np.float32] | None:
    """The image mirrored at its own axis, where that covers the region with nothing shown."""
    axis = _axis(image, place | shown)
    if axis is None:
        return None
    # What is shown may be a pixel or two beside where the axis says.
    near = ndimage.distance_transform_edt(~shown) <= _MARGIN_PX
    # Beyond the image there is nothing that could cover.
    fit = _reflected((~near).astype(np.float32), axis, order=1) > 0.99
    if not fit[region].all():
        return None
    cover = _reflected(image, axis, order=1)
    ring = ndimage.binary_dilation(region, iterations=_margin(place)) & ~region & ~near
    if not ring.any():
        return None
    # Coils see the nearer half brighter.
    gain = float(np.clip((image[ring].mean() + 1) / (cover[ring].mean() + 1), 0.6, 1.6))
    return cover * np.float32(gain)


def _axis(image: NDArray[np.float32], without: Mask) -> tuple[float, float, float] | None:
    """Turn in degrees and shift (rows, columns) that lay the mirrored image on itself.

    None where the best of them is no good: the halves are not alike.
    """
    grey = image if image.ndim == 2 else image.mean(axis=2)
    factor = min(1.0, _SMALL_PX / max(grey.shape))
    small = ndimage.zoom(ndimage.gaussian_filter(grey, 0.5 / factor), factor, order=1)
    if not small.size:  # a line has no halves
        return None
    free = ndimage.zoom(without.astype(np.float32), factor, order=1) < 0.1
    size = (2 * small.shape[0], 2 * small.shape[1])
    centred = np.fft.rfft2(small - small.mean(), size)
    best, found = _ALIKE, None
    for turn in _TURNS_DEG:
        other = ndimage.rotate(small[:, ::-1], turn, reshape=False, order=1)
        product = np.fft.irfft2(centred * np.conj(np.fft.rfft2(other - other.mean(), size)), size)
        peak = np.unravel_index(int(product.argmax()), size)
        shift = [p if p < n // 2 else p - n for p, n in zip(peak, size, strict=True)]
        axis = (float(turn), float(shift[0]), float(shift[1]))
        both = free & (_reflected(free.astype(np.float32), axis, order=0) > 0.5)
        if both.mean() < 0.4:  # so far aside that little is left to compare
            continue
        laid = _reflected(small, axis, order=1)[both]
        if laid.std() == 0 or small[both].std() == 0:
            continue
        alike = float(np.corrcoef(small[both], laid)[0, 1])
        if alike >= best:
            best, found = alike, (axis[0], axis[1] / factor, axis[2] / factor)
    return found


def _reflected(
    image: NDArray[np.float32], axis: tuple[float, float, float], *, order: int
) -> NDArray[np.float32]:
    turn, down, right = axis
    turned = ndimage.rotate(image[:, ::-1], turn, axes=(1, 0), reshape=False, order=order)
    shift = (down, right, 0)[: image.ndim]
    moved: NDArray[np.float32] = ndimage.shift(turned, shift, order=order)
    return moved


def _beside(
    image: NDArray[np.float32], place: Mask, region: Mask, shown: Mask, rng: np.random.Generator
) -> NDArray[np.float32] | None:
    """The image with columns from beside the place over the region and what blends with it."""
    margin = _margin(place)
    columns, top = bounds(place)[1], bounds(region)[0].start
    # As much again at either side, where the two are blended.
    left = max(0, columns.start - 2 * margin)
    right = min(image.shape[1], columns.stop + 2 * margin)
    wide = right - left
    taken = shown[top:].any(axis=0) | place.any(axis=0)
    begins = np.flatnonzero(np.convolve(taken, np.ones(wide, int), mode="valid") == 0)
    if not len(begins):
        return None
    best, cover = np.inf, None
    for begin in rng.choice(begins, size=_PLACES):
        strip = image[:, begin : begin + wide]
        if rng.random() < 0.5:
            strip = strip[:, ::-1]
        # What is blended at the edges had better be alike.
        change = np.abs(strip[top:] - image[top:, left:right]).reshape(-1, wide, strip[0, 0].size)
        seams = float(np.concatenate([change[:, :margin], change[:, -margin:]], axis=1).mean())
        if seams < best:
            best, cover = seams, strip
    assert cover is not None
    whole = image.copy()
    whole[:, left:right] = cover
    return whole


def _blended(image: Image, cover: NDArray[np.float32], region: Mask, border_px: int) -> Image:
    """The cover where the region is; the coarser what is blended, the wider the border."""
    base = image.astype(np.float32)
    inside = region.astype(np.float32) if image.ndim == 2 else region[..., None].astype(np.float32)
    change = cover - base
    soft, smooth = _blurred(change, border_px / 8), _blurred(change, border_px / 2)
    out = base
    for band, part in ((change - soft, 16), (soft - smooth, 8), (smooth, 2)):
        out = out + _blurred(inside, border_px / part) * band
    blended: Image = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return blended


def _blurred(image: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    sigma = (sigma_px, sigma_px, 0)[: image.ndim]
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(image, sigma)
    return blurred
