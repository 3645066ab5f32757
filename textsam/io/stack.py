"""`Stack`: the images of one source, in order, each decoded when it is asked for."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.image import Image

__all__ = ["SourceFormat", "Stack", "check_masks"]

SourceFormat = Literal["raster", "nifti", "dicom"]


class Stack(Sequence[Image], ABC):
    """The two-dimensional images of a source: one picture, pages, frames, slices or a series.

    Headers are read and checked when a stack is made; pixels when an image is asked for, and they
    are not kept. So a stack of any length costs little memory, and a damaged slice is an
    `ImageError` of that slice alone.

    Attributes:
        source: what was opened, a path as text.
        format: "raster", "nifti" or "dicom".
    """

    source: str
    format: SourceFormat

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image:
        """Decode image `index`, from 0 to len - 1; `placement.index` of the result is `index`.

        Raises:
            ImageError: the image is damaged or over a limit.
        """

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]  # no slices
        number = operator.index(index)  # a TypeError for slices, too
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"{self.source} has {len(self)} images, there is no number {index}")
        return self.read(number)

    def __iter__(self) -> Iterator[Image]:
        return (self.read(index) for index in range(len(self)))


def check_masks(
    stack: Stack, masks: Mapping[int, NDArray[np.bool_]], size_px: tuple[int, int]
) -> None:
    """Raise ImageError unless all masks are bool, of `size_px`, and of images of the stack."""
    for index, mask in masks.items():
        if not 0 <= index < len(stack):
            raise ImageError(
                f"{stack.source}: there is no image {index} to put a mask into; there are "
                f"{len(stack)}, counted from 0"
            )
        if mask.dtype != np.bool_ or mask.shape != size_px:
            raise ImageError(
                f"{stack.source}: the mask of image {index} is {mask.dtype} {mask.shape}; it must "
                f"be bool {size_px}"
            )
