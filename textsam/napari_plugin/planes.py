"""Which two-dimensional planes of a layer's data are segmented, and where they lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.image import Image
from textsam.io.raster import read_image

__all__ = ["Plane", "Planes", "choose_planes"]


@dataclass(frozen=True, eq=False)
class Plane:
    """One plane of an array, read when it is asked for.

    Attributes:
        data: (…) or, with `rgb`, (…, 3 or 4); anything that can be indexed like an array.
        index: position along every axis; along `rows` and `columns` it does not count.
        rows: axis that runs down the plane.
        columns: axis that runs right.
        rgb: whether one more axis, the last, holds colours.
        source: what the image is called in messages.
        spacing_mm: between rows and between columns, or None.
        contrast: (low, high) values that become black and white, or None for the library's rule.
    """

    data: Any
    index: tuple[int, ...]
    rows: int
    columns: int
    rgb: bool
    source: str
    spacing_mm: tuple[float, float] | None = None
    contrast: tuple[float, float] | None = None

    def read(self) -> Image:
        """Read the plane as an image, (H, W, 3).

        Raises:
            ImageError: values that are no image, such as NaN, or a side under 8 pixels.
        """
        where: list[int | slice] = list(self.index)
        where[self.rows] = where[self.columns] = slice(None)
        pixels = np.asarray(self.data[tuple(where)])
        if self.rows > self.columns:
            pixels = np.swapaxes(pixels, 0, 1)
        if self.contrast is not None and not self.rgb:
            low, high = self.contrast
            pixels = np.clip((pixels.astype(np.float64) - low) / max(high - low, 1e-12), 0.0, 1.0)
        try:
            image = read_image(pixels)
        except ImageError as error:
            # Of many slices, the user must know which.
            raise ImageError(f"{self.source}: {str(error).removeprefix('array: ')}") from error
        return replace(image, source=self.source, spacing_mm=self.spacing_mm)


@dataclass(frozen=True, eq=False)
class Planes:
    """The planes to segment and the block of the layer's data that they fill.

    Attributes:
        planes: in order along `axis`.
        axis: along which there are several, or None for one plane.
        shape: of the block; 1 along the axes that are not covered.
        offset: of the block's first element in the layer's data.
    """

    planes: tuple[Plane, ...]
    axis: int | None
    shape: tuple[int, ...]
    offset: tuple[int, ...]

    def put(self, block: NDArray[Any], number: int, values: NDArray[Any]) -> None:
        """Write the (H, W) `values` of plane `number` into a block of `shape`."""
        plane = self.planes[number]
        where: list[int | slice] = [0] * len(self.shape)
        where[plane.rows] = where[plane.columns] = slice(None)
        if self.axis is not None:
            where[self.axis] = number
        block[tuple(where)] = values if plane.rows < plane.columns else values.T


def choose_planes(
    data: Any,
    *,
    rgb: bool,
    point: Sequence[float],
    displayed: tuple[int, int],
    every: bool,
    source: str,
    spacing_mm: tuple[float, float] | None = None,
    contrast: tuple[float, float] | None = None,
) -> Planes:
    """The plane on the screen, or all that are parallel to it.

    Args:
        data: n axes, and with `rgb` one more for colours.
        rgb: whether the last axis holds colours.
        point: n coordinates in the data's frame, the current step along every axis.
        displayed: axes that run down and right.
        every: all planes along the first axis that is not displayed, instead of the current one.
        source, spacing_mm, contrast: of each plane.

    Raises:
        ImageError: the point is outside the data.
    """
    size = tuple(int(n) for n in (data.shape[:-1] if rgb else data.shape))
    rows, columns = displayed
    others = [axis for axis in range(len(size)) if axis not in displayed]
    axis = others[0] if every and others else None
    index = [0] * len(size)
    for other in others:
        if other == axis:
            continue
        index[other] = int(np.floor(point[other] + 0.5))
        if not 0 <= index[other] < size[other]:
            raise ImageError(
                f"{source}: the current slice, {index[other]} along axis {other}, is outside the "
                f"image, which has {size[other]}; move the slider to a slice that shows the image"
            )
    steps = range(1) if axis is None else range(size[axis])
    planes = []
    for step in steps:
        here = list(index)
        if axis is not None:
            here[axis] = step
        name = f"{source} {here}" if others else source
        planes.append(Plane(data, tuple(here), rows, columns, rgb, name, spacing_mm, contrast))
    shape = tuple(n if a in displayed or a == axis else 1 for a, n in enumerate(size))
    return Planes(tuple(planes), axis, shape, tuple(index))
