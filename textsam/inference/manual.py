"""Points and boxes as users give them, checked and turned into `Geometry`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import PromptError
from textsam.inference.refine import Geometry

__all__ = ["manual_geometry", "per_prompt"]


def per_prompt(name: str, values: Any, count: int) -> list[Any]:
    """`values` as a list with one entry per prompt.

    Raises:
        PromptError: not a list, or of another length; the message calls it `name`.
    """
    if values is None:
        return [None] * count
    single = isinstance(values, np.ndarray) and values.ndim == 0
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str) or single:
        raise PromptError(f"{name} is {values!r}; give a list with one entry (or None) per prompt")
    if len(values) != count:
        raise PromptError(
            f"{name} has {len(values)} entries for {count} prompts; give one per prompt, or None "
            "for a prompt without"
        )
    return list(values)


def manual_geometry(
    points: Sequence[Any],
    boxes: Sequence[Any],
    size_px: tuple[int, int],
    region_px: tuple[int, int, int, int] | None = None,
) -> list[Geometry | None]:
    """Points and a box for each of C prompts, as `Segmenter.segment` takes them.

    Args:
        points: C of (x, y), (x, y, label), a list of these, or None.
        boxes: C of (x_min, y_min, x_max, y_max) or None.
        size_px: (height, width) of the image.
        region_px: (x_min, y_min, x_max, y_max) of the part of the image that the model sees, last
            pixels included; None: all of it. A box that reaches beyond it means what lies inside.

    Returns:
        Geometry in the image's frame.

    Raises:
        PromptError: numbers that are no point or box, or lie outside the image or the region.
    """
    geometries: list[Geometry | None] = []
    for given_points, given_box in zip(points, boxes, strict=True):
        if given_points is None and given_box is None:
            geometries.append(None)
            continue
        coordinates, labels = _read_points(given_points, size_px)
        box = _read_box(given_box, size_px)
        if region_px is not None:
            _check_region(coordinates, region_px)
            box = None if box is None else _within(box, region_px)
        geometries.append(Geometry(coordinates, labels, box))
    return geometries


def _read_points(
    given: Any, size_px: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if given is None:
        return np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
    try:
        array = np.atleast_2d(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        array = np.zeros((0, 0))
    shaped = array.ndim == 2 and array.shape[1] in (2, 3) and len(array)
    if np.ma.is_masked(given) or not shaped or not np.isfinite(array).all():
        raise PromptError(f"points are {given!r}; give (x, y) or (x, y, label), or a list of these")
    labels = np.ones(len(array), dtype=np.int64)
    if array.shape[1] == 3:
        if not np.isin(array[:, 2], (0, 1)).all():
            raise PromptError(f"point labels are {array[:, 2].tolist()}; give 1 inside, 0 outside")
        labels = array[:, 2].astype(np.int64)
    _check_inside("point", array[:, :2], size_px)
    return array[:, :2].copy(), labels


def _read_box(given: Any, size_px: tuple[int, int]) -> NDArray[np.float64] | None:
    if given is None:
        return None
    try:
        box = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        box = np.zeros(0)
    if np.ma.is_masked(given) or box.shape != (4,) or not np.isfinite(box).all():
        raise PromptError(f"the box is {given!r}; give (x_min, y_min, x_max, y_max)")
    if box[0] > box[2] or box[1] > box[3]:
        raise PromptError(
            f"the box {given!r} has its corners swapped; give (x_min, y_min, x_max, y_max)"
        )
    _check_inside("box corner", box.reshape(2, 2), size_px)
    return box


def _check_inside(what: str, points: NDArray[np.float64], size_px: tuple[int, int]) -> None:
    height, width = size_px
    for x, y in points:
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise PromptError(
                f"the {what} ({x:g}, {y:g}) is outside the image of {width}×{height} px "
                "(width × height); coordinates are (x, y) in pixels, from 0"
            )


def _check_region(points: NDArray[np.float64], region_px: tuple[int, int, int, int]) -> None:
    x_min, y_min, x_max, y_max = region_px
    for x, y in points:
        if not (x_min - 0.5 <= x <= x_max + 0.5 and y_min - 0.5 <= y <= y_max + 0.5):
            raise _outside(f"the point ({x:g}, {y:g})", region_px)


def _within(box: NDArray[np.float64], region_px: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """The part of a box that lies in the region."""
    low, high = np.array(region_px[:2]) - 0.5, np.array(region_px[2:]) + 0.5
    if (box[2:] < low).any() or (box[:2] > high).any():
        raise _outside(f"the box {box.tolist()}", region_px)
    return np.concatenate([np.clip(box[:2], low, high), np.clip(box[2:], low, high)])


def _outside(what: str, region_px: tuple[int, int, int, int]) -> PromptError:
    x_min, y_min, x_max, y_max = region_px
    return PromptError(
        f"{what} is outside the part of the image that is looked at, x {x_min} to {x_max} and y "
        f"{y_min} to {y_max} px; give one inside, or have the whole image looked at (--no-crop, or "
        "an Image without region_px)"
    )
