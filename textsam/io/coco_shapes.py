"""COCO segmentations in: polygons and run-length codes, checked before anything is drawn.

pycocotools turns polygons into pixels as every other user of the format does. It believes what it
is given: a damaged code makes it read beyond its memory, and a coordinate of a billion makes it ask
for as many. So nothing reaches it that has not been checked here. Run lengths are few enough to be
undone in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from textsam.errors import DataError
from textsam.io.coco import encode_runs
from textsam.io.limits import max_pixels_limit

__all__ = [
    "ShapeError",
    "cover_counts",
    "covers_a_pixel",
    "decode_union",
    "exceeds_limit",
    "is_closed",
    "merged",
    "rles_of",
]

TOLERANCE_PX = 1.0
"""How far a polygon may reach beyond its image: tools round to either side of its edge."""

_MOST_PIXELS = 2**32 - 1  # pycocotools counts in 32 bits

ShapeKind = Literal["degenerate-polygon", "bad-rle", "size-mismatch", "unclosed-polygon"]


class ShapeError(DataError):
    """A segmentation that cannot be drawn.

    Attributes:
        kind: of `textsam.data.problems.KINDS`.
    """

    def __init__(self, kind: ShapeKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def is_closed(ring: Sequence[float]) -> bool:
    """Whether a ring of x, y, x, y, … ends with the point it begins with."""
    return len(ring) >= 4 and list(ring[:2]) == list(ring[-2:])


def exceeds_limit(size_px: tuple[int, int]) -> str:
    """What to say of an image (H, W) of more pixels than are read; empty for any other.

    Raises:
        ConfigError: the environment variable TEXTSAM_MAX_PIXELS is no positive whole number.
    """
    height, width = size_px
    limit = min(max_pixels_limit(), _MOST_PIXELS)
    if height * width <= limit:
        return ""
    return (
        f"is said to have {_short(width)}x{_short(height)} px (width x height), more than the "
        f"limit of {limit:,} pixels; correct the size, or raise TEXTSAM_MAX_PIXELS"
    )


def _short(number: int) -> str:
    """A whole number from a file, that may have a thousand digits."""
    return str(number) if number < 10**12 else f"1e{len(str(number)) - 1} or more"


def rles_of(segmentation: Any, size_px: tuple[int, int]) -> tuple[bytes, ...]:
    """A COCO segmentation as compressed run lengths, whose union is its mask.

    Args:
        segmentation: a list of polygons, each x, y, x, y, … in pixels, where the last point may
            repeat the first or not; or {"size": [H, W], "counts": text or list}.
        size_px: (H, W) of the image.

    Raises:
        ShapeError: of kind "unclosed-polygon" for a ring that ends within a point;
            "degenerate-polygon" for fewer than three distinct points, an area of zero, and
            points that are no numbers or lie more than `TOLERANCE_PX` outside the image;
            "size-mismatch" for a code of another size, and for an image of more pixels than
            `textsam.io.limits.max_pixels_limit` allows; "bad-rle" for one that is damaged or
            does not fill its size.
        DataError: pycocotools is not installed (polygons alone need it).
    """
    if too_large := exceeds_limit(size_px):
        raise ShapeError("size-mismatch", f"the image {too_large}")
    if isinstance(segmentation, dict):
        return (_checked_code(segmentation, size_px),)
    if segmentation is None or segmentation == []:
        raise ShapeError(
            "degenerate-polygon", "there is no segmentation; a box alone does not outline anything"
        )
    if not isinstance(segmentation, list):
        raise ShapeError(
            "degenerate-polygon",
            "the segmentation is neither a list of polygons nor a run-length code",
        )
    rings = [_checked_ring(ring, size_px) for ring in segmentation]
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise DataError(
            'COCO polygons need pycocotools; install it with pip install "textsam[train]"'
        ) from error
    drawn = coco_mask.frPyObjects(rings, *size_px)
    return tuple(code["counts"] for code in drawn)


def merged(rles: Sequence[bytes], size_px: tuple[int, int]) -> bytes:
    """One code of what any of the codes covers; they are from `rles_of`."""
    if len(rles) == 1:
        return rles[0]
    from pycocotools import mask as coco_mask  # several codes come of polygons, which needed it

    codes = [{"size": list(size_px), "counts": rle} for rle in rles]
    union: bytes = coco_mask.merge(codes)["counts"]
    return union


def covers_a_pixel(rles: Sequence[bytes]) -> bool:
    """Whether one of the codes has a run inside that is not empty; they are from `rles_of`."""
    return any(_runs(rle)[1::2].any() for rle in rles)


def decode_union(rles: Sequence[bytes], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """The (H, W) mask of all pixels that one of the codes covers; they are from `rles_of`."""
    height, width = size_px
    inside: NDArray[np.bool_]
    if len(rles) == 1:  # a quarter of the memory, where images are large
        runs = _runs(rles[0])
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    else:
        inside = _counts(rles, height * width) > 0
    return inside.reshape(width, height).T.copy()


def cover_counts(rles: Sequence[bytes], size_px: tuple[int, int]) -> NDArray[np.int32]:
    """How many of the codes cover each pixel, (H, W); they are from `rles_of`."""
    height, width = size_px
    return _counts(rles, height * width).reshape(width, height).T.copy()


def _counts(rles: Sequence[bytes], pixels: int) -> NDArray[np.int32]:
    """How many of the codes cover each pixel, column by column.

    The time hardly depends on how many codes there are: histology has thousands in an image.
    """
    change = np.zeros(pixels + 1, dtype=np.int32)
    for rle in rles:
        edges = np.cumsum(_runs(rle))
        # A run outside ends where one inside begins; runs may be empty, so places may repeat.
        np.add.at(change, edges[: len(edges) // 2 * 2 : 2], 1)
        np.add.at(change, edges[1::2], -1)
    counts: NDArray[np.int32] = np.cumsum(change, out=change)[:-1]
    return counts


def _checked_ring(ring: Any, size_px: tuple[int, int]) -> list[float]:
    numbers = isinstance(ring, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in ring
    )
    if not numbers:
        raise ShapeError("degenerate-polygon", "a polygon is no list of numbers x, y, x, y, …")
    if len(ring) % 2:
        raise ShapeError(
            "unclosed-polygon", f"a polygon of {len(ring)} numbers ends within a point"
        )
    if not all(_finite(value) for value in ring):
        raise ShapeError(
            "degenerate-polygon", "a polygon has a coordinate that is no number, or beyond measure"
        )
    xs, ys = np.asarray(ring[::2], dtype=np.float64), np.asarray(ring[1::2], dtype=np.float64)
    distinct = len(set(zip(ring[::2], ring[1::2], strict=True)))
    if distinct < 3:
        raise ShapeError(
            "degenerate-polygon", f"a polygon of {distinct} distinct points encloses nothing"
        )
    height, width = size_px
    for values, limit, axis in ((xs, width, "x"), (ys, height, "y")):
        low, high = float(values.min()), float(values.max())
        if low < -TOLERANCE_PX or high > limit + TOLERANCE_PX:
            raise ShapeError(
                "degenerate-polygon",
                f"a polygon reaches from {axis} = {low:g} to {high:g} in an image of "
                f"{width}x{height} px (width x height)",
            )
    flat = max(np.ptp(xs), np.ptp(ys)) * 1e-9
    if np.linalg.matrix_rank(np.stack([xs - xs[0], ys - ys[0]]), tol=flat) < 2:
        raise ShapeError("degenerate-polygon", "all points of a polygon lie on one line")
    return [float(value) for value in ring]


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _checked_code(code: dict[str, Any], size_px: tuple[int, int]) -> bytes:
    size, counts = code.get("size"), code.get("counts")
    if size != list(size_px):
        raise ShapeError(
            "size-mismatch",
            f"the run-length code is for {size} ([height, width]), the image is {list(size_px)}",
        )
    if isinstance(counts, str) and counts.isascii():
        text = counts.encode()
        runs = _runs(text)
    elif isinstance(counts, list) and all(type(value) is int for value in counts):
        if any(not 0 <= value <= size_px[0] * size_px[1] for value in counts):
            raise ShapeError("bad-rle", "the run-length code has a run of an impossible length")
        # Judged as it will be read: a code has fewer bits to a run than a list.
        text = encode_runs(counts).encode()
        runs = _runs(text)
    else:
        raise ShapeError("bad-rle", "'counts' is neither text nor a list of whole numbers")
    total = int(runs.sum())
    if (runs < 0).any() or total != size_px[0] * size_px[1]:
        raise ShapeError(
            "bad-rle",
            f"the run-length code covers {total} pixels, the image has {size_px[0] * size_px[1]}",
        )
    return text


def _runs(text: bytes) -> NDArray[np.int64]:
    """Run lengths of a compressed code, as `textsam.io.coco.encode_rle` describes it."""
    groups = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    more = (groups & 0x20) != 0
    if not groups.size or (groups < 0).any() or (groups > 63).any() or more[-1]:
        raise ShapeError("bad-rle", "the text of the run-length code is damaged or cut off")
    ends = np.flatnonzero(~more)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits, more than any image has pixels
        raise ShapeError("bad-rle", "the run-length code has a run of an impossible length")
    places = np.arange(groups.size) - np.repeat(starts, lengths)
    runs: NDArray[np.int64] = np.add.reduceat((groups & 0x1F) << (5 * places), starts)
    runs = np.where(groups[ends] & 0x10, runs - (1 << (5 * lengths)), runs)
    # From the fourth on each is a difference to the last but one before.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
