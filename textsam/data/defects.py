"""What can be wrong with a mask that is readable: holes, specks, outlines, rough edges, overlaps.

Pure functions on masks; nothing here reads files. Each finding says where it is, so that it can be
shown. A finding is a reason to look, not a proof: a lung may well lie along the border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from textsam.frame import bounds
from textsam.sections import Section

__all__ = ["DEFECTS", "Defect", "DefectKind", "QualitySettings", "mask_defects", "overlap_defect"]

Mask = NDArray[np.bool_]

DefectKind = Literal[
    "hole",
    "speck",
    "outline",
    "tiny",
    "full",
    "border",
    "jagged",
    "blocky",
    "soft-edge",
    "overlap",
    "instance-overlap",
]

DEFECTS: Mapping[DefectKind, str] = MappingProxyType(
    {
        "hole": "small holes in a region",
        "speck": "specks beside a much larger region",
        "outline": "a drawn line, closed or not, where a region should be",
        "tiny": "a mask of hardly any pixel",
        "full": "a mask of nearly the whole image",
        "border": "a mask along the image's border: cut off, or drawn too far",
        "jagged": "an edge that is rough for its size",
        "blocky": "an edge in steps of several pixels: enlarged from a smaller mask",
        "soft-edge": "values between 0 and 255: resized with interpolation, or stored as JPEG",
        "overlap": "pixels that two concepts claim",
        "instance-overlap": "pixels that two annotations of one concept claim",
    }
)
"""Kind of finding -> what it is, in words."""


class QualitySettings(Section):
    """From which size on something is a finding.

    Attributes:
        hole_percent: a hole of at most this part of the area of the region around it; the lumen of
            a ring is larger. 0 looks for none.
        speck_percent: a region of at most this part of the area of the mask's largest one. 0 looks
            for none.
        outline_width_px: a line is at most so thick. 0 looks for none.
        outline_gap_px: the ends of an unclosed line are at most so far apart.
        tiny_percent: area of a mask, as a part of the image.
        full_percent: area of a mask, as a part of the image.
        border_px: length along the image's border.
        jagged_ratio: length of the edge, divided by that of the same edge smoothed.
        jagged_sigma_px: of that smoothing, a Gaussian; regions narrower than four of it are not
            judged.
        blocky_px: smallest step of a blocky edge.
        soft_px: number of pixels between 0 and 255.
        overlap_px: number of pixels claimed twice.
    """

    hole_percent: float = Field(10.0, ge=0, le=100)
    speck_percent: float = Field(1.0, ge=0, le=100)
    outline_width_px: float = Field(4.0, ge=0)
    outline_gap_px: float = Field(6.0, ge=0)
    tiny_percent: float = Field(0.03, ge=0, le=100)
    full_percent: float = Field(95.0, ge=0, le=100)
    border_px: int = Field(5, ge=1)
    jagged_ratio: float = Field(1.25, gt=1)
    jagged_sigma_px: float = Field(2.0, gt=0)
    blocky_px: int = Field(3, ge=2, le=16)
    soft_px: int = Field(1, ge=1)
    overlap_px: int = Field(1, ge=1)


@dataclass(frozen=True, eq=False)
class Defect:
    """One finding in one mask.

    Attributes:
        kind: key of `DEFECTS`.
        value: how much of it there is.
        unit: of the value.
        message: in words.
        region: (H, W) bool, where.
    """

    kind: DefectKind
    value: float
    unit: str
    message: str
    region: Mask


def mask_defects(
    mask: Mask, settings: QualitySettings, *, raw: NDArray[np.integer] | None = None
) -> Iterator[Defect]:
    """What is wrong with one mask.

    Args:
        mask: (H, W) bool. One without a pixel has no defect: the thing is not there.
        settings: thresholds.
        raw: (H, W) values of a 0/255 mask as stored, for soft edges.
    """
    if raw is not None:
        yield from _soft(raw, settings)
    if not mask.any():
        return
    percent = 100 * float(mask.mean())
    if percent <= settings.tiny_percent:
        area = int(mask.sum())
        yield Defect("tiny", percent, "% of the image", f"{area} px in all", mask)
    if percent >= settings.full_percent:
        yield Defect("full", percent, "% of the image", f"{percent:.1f} % of the image", mask)
    yield from _border(mask, settings)
    # All else depends on the mask's surroundings alone; one pixel around it closes its holes.
    box = bounds(mask)
    own = np.pad(mask[box], 1)
    lines = _outline(own, settings)
    found: list[Callable[[Mask, QualitySettings], Iterator[Defect]]] = [_specks, _blocky]
    if lines is None:  # else the inside of the line is no hole, and its edge not rough
        found += [_holes, _jagged]
    else:
        yield _placed(lines, mask.shape, box)
    for look in found:
        for defect in look(own, settings):
            yield _placed(defect, mask.shape, box)


def overlap_defect(
    count: NDArray[np.integer], settings: QualitySettings, kind: DefectKind, names: str
) -> Defect | None:
    """Pixels claimed more than once.

    Args:
        count: (H, W), how many claim each pixel.
        settings: thresholds.
        kind: "overlap" or "instance-overlap".
        names: of those that claim, for the message.
    """
    region = np.asarray(count > 1)
    area = int(region.sum())
    if area < settings.overlap_px:
        return None
    return Defect(kind, area, "px", f"{area} px are claimed twice: {names}", region)


def _placed(defect: Defect, shape: tuple[int, ...], box: tuple[slice, slice]) -> Defect:
    """A finding in a mask's padded surroundings, in the frame of the image."""
    region = np.zeros(shape, dtype=np.bool_)
    region[box] = defect.region[1:-1, 1:-1]
    return Defect(defect.kind, defect.value, defect.unit, defect.message, region)


def _regions(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Labels of regions, corners joining, and their areas; area 0 is of what is outside."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, np.ones((3, 3), dtype=bool))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    return labels, areas


def _sizes(areas: NDArray[np.int64]) -> str:
    low, high = int(areas.min()), int(areas.max())
    return f"{low} px" if low == high else f"{low} to {high} px"


def _holes(mask: Mask, settings: QualitySettings) -> Iterator[Defect]:
    from scipy import ndimage

    outside, count = ndimage.label(~mask)  # corners do not join: they do for the mask
    if count < 2 or not settings.hole_percent:
        return
    around, areas = _regions(mask)
    small = []
    for number, place in enumerate(ndimage.find_objects(outside), start=1):
        if number == outside[0, 0]:
            continue
        rows, columns = (slice(side.start - 1, side.stop + 1) for side in place)
        hole = outside[rows, columns] == number
        rim = ndimage.binary_dilation(hole) & mask[rows, columns]
        owner = int(np.bincount(around[rows, columns][rim]).argmax())
        if hole.sum() * 100 <= settings.hole_percent * areas[owner]:
            small.append(number)
    if small:
        sizes = np.bincount(outside.ravel())[small]
        message = f"{len(small)} hole(s) of {_sizes(sizes)}"
        yield Defect("hole", len(small), "holes", message, np.isin(outside, small))


def _specks(mask: Mask, settings: QualitySettings) -> Iterator[Defect]:
    labels, areas = _regions(mask)
    small = np.flatnonzero((areas > 0) & (areas * 100 <= settings.speck_percent * areas.max()))
    if small.size:
        message = f"{small.size} speck(s) of {_sizes(areas[small])}"
        yield Defect("speck", int(small.size), "specks", message, np.isin(labels, small))


def _outline(mask: Mask, settings: QualitySettings) -> Defect | None:
    """A thin line that encloses more than twice its own area, perhaps after its gap is closed."""
    from scipy import ndimage

    width_px = 2 * float(ndimage.distance_transform_edt(mask).max()) - 1
    if width_px > settings.outline_width_px:
        return None
    gap = int(np.ceil(settings.outline_gap_px / 2))
    for closing in (0, gap):
        line = np.pad(mask, gap + 1)
        if closing:
            away = ndimage.distance_transform_edt(~line)
            line = away <= closing
        # What was added to close the gap is not enclosed.
        inside = ndimage.binary_fill_holes(line) & ~line
        if inside.sum() > 2 * mask.sum():
            how = "a gap in it" if closing else "no gap in it"
            message = f"a line {width_px:.0f} px thick with {how}, around {int(inside.sum())} px"
            return Defect("outline", width_px, "px thick", message, mask)
    return None


def _border(mask: Mask, settings: QualitySettings) -> Iterator[Defect]:
    frame = np.zeros_like(mask)
    frame[[0, -1]] = True
    frame[:, [0, -1]] = True
    region = mask & frame
    length = int(region.sum())
    if length >= settings.border_px:
        yield Defect("border", length, "px", f"{length} px along the border", region)


def _jagged(mask: Mask, settings: QualitySettings) -> Iterator[Defect]:
    from scipy import ndimage
    from skimage.measure import perimeter_crofton

    sigma = settings.jagged_sigma_px
    room = int(np.ceil(4 * sigma))
    own = np.pad(mask, room)
    if ndimage.distance_transform_edt(own).max() < 2 * sigma:
        return
    smooth = ndimage.gaussian_filter(own.astype(np.float32), sigma) > 0.5
    # Thin parts vanish when smoothed; what is left says nothing of their edge.
    if not 0.8 < smooth.sum() / own.sum() < 1.25:
        return
    rough, plain = (perimeter_crofton(m, directions=4) for m in (own, smooth))  # type: ignore[no-untyped-call]
    ratio = float(rough / plain)
    if ratio >= settings.jagged_ratio:
        cut = slice(room, -room)
        message = f"the edge is {ratio:.2f} times as long as the smoothed one"
        spikes = mask & ~smooth[cut, cut]
        yield Defect("jagged", ratio, "times", message, spikes if spikes.any() else mask)


def _blocky(mask: Mask, settings: QualitySettings) -> Iterator[Defect]:
    """All steps of the edge, along both axes, at multiples of one number of pixels."""
    steps = []
    for axis in (0, 1):
        places = np.flatnonzero((mask != np.roll(mask, 1, axis=axis)).any(axis=1 - axis))
        if places.size < 6:  # a rectangle has two
            return
        steps.append(int(np.gcd.reduce(places - places[0])))
    step = int(np.gcd.reduce(steps))
    if step >= settings.blocky_px:
        yield Defect("blocky", step, "px", f"the edge moves in steps of {step} px", mask)


def _soft(raw: NDArray[np.integer], settings: QualitySettings) -> Iterator[Defect]:
    region = np.asarray((raw > 0) & (raw < 255))
    count = int(region.sum())
    if count >= settings.soft_px and bool((raw > 127).any()):
        low, high = int(raw[region].min()), int(raw[region].max())
        yield Defect("soft-edge", count, "px", f"{count} px between {low} and {high}", region)
