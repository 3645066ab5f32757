"""Single objects to ask for by box: tiles of an image, and one mask per object in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from textsam.data.staging import staged_folder
from textsam.draws import number_of
from textsam.errors import DataError

__all__ = ["ObjectSettings", "Slice", "objects_of", "tiles_of", "write_objects"]

Slice = tuple[str, NDArray[np.uint8], NDArray[np.bool_]]
"""Stem, (H, W, 3) pixels and (H, W) mask of all objects together."""


@dataclass(frozen=True)
class ObjectSettings:
    """How objects are cut out.

    Attributes:
        grid: (rows, columns) of tiles that an image is cut into.
        min_area_px: smaller objects are left out, in pixels of the image.
        most: objects per tile and part ("train", "val", "test"); more are drawn by seed.
        seed: of that.
    """

    grid: tuple[int, int] = (2, 2)
    min_area_px: int = 100
    most: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if min(*self.grid, self.min_area_px, self.most) < 1:
            raise DataError(
                f"grid {self.grid}, min_area_px {self.min_area_px} and most {self.most} must be 1 "
                "or more"
            )


def tiles_of(size_px: tuple[int, int], grid: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and columns of the tiles of an image, row by row; together they cover it once.

    Args:
        size_px: (H, W) of the image.
        grid: (rows, columns) of tiles.
    """
    edges = [
        [round(i * side / parts) for i in range(parts + 1)]
        for side, parts in zip(size_px, grid, strict=True)
    ]
    return [
        (slice(top, bottom), slice(left, right))
        for top, bottom in zip(edges[0], edges[0][1:], strict=False)
        for left, right in zip(edges[1], edges[1][1:], strict=False)
    ]


def objects_of(mask: NDArray[np.bool_], min_area_px: int) -> list[NDArray[np.bool_]]:
    """The connected components of a mask (by edges, not corners), as masks of their own.

    Args:
        mask: (H, W).
        min_area_px: smaller ones are left out.

    Returns:
        (H, W) each, from top to bottom.
    """
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    return [labels == number for number in range(1, count + 1) if areas[number] >= min_area_px]


def write_objects(
    parts: Iterable[tuple[str, Iterable[Slice]]], target: str | Path, settings: ObjectSettings
) -> dict[str, int]:
    """Write `PART/images/` and `PART/masks/`, a plain folder in which each mask is one object.

    A tile's image is there once per object. An object that a tile's border cuts is what is left of
    it. Tiles of one image stay in its part.

    Args:
        parts: "train", "val" or "test", and the images of each.
        target: to write; must not exist. It appears complete or not at all.
        settings: of tiles and objects.

    Returns:
        Part -> objects.

    Raises:
        DataError: a part without an object, or `target` exists.
    """
    counts: dict[str, int] = {}
    with staged_folder(target) as staged:
        for part, slices in parts:
            counts[part] = 0
            for kind in ("images", "masks"):
                (staged / part / kind).mkdir(parents=True)
            for name, pixels, mask in _objects(slices, settings):
                PILImage.fromarray(pixels).save(staged / part / "images" / f"{name}.png")
                grey = mask.astype(np.uint8) * 255
                PILImage.fromarray(grey).save(staged / part / "masks" / f"{name}.png")
                counts[part] += 1
            if not counts[part]:
                raise DataError(
                    f"the part {part!r} has no object of {settings.min_area_px} px or more; lower "
                    "min_area_px"
                )
    return counts


def _objects(slices: Iterable[Slice], settings: ObjectSettings) -> Iterator[Slice]:
    for stem, pixels, mask in slices:
        for number, (rows, columns) in enumerate(tiles_of(mask.shape, settings.grid)):
            found = objects_of(mask[rows, columns], settings.min_area_px)
            # By the stem, so that what is drawn does not depend on what else is there.
            rng = np.random.default_rng((settings.seed, number_of(stem), number))
            drawn = list(range(len(found)))
            if len(found) > settings.most:
                picks = rng.choice(len(found), settings.most, replace=False).tolist()
                drawn = sorted(picks)
            for index in drawn:
                yield f"{stem}_{number}_{index:03d}", pixels[rows, columns], found[index]
