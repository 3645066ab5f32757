"""`Stack`: the images of one source, in order, each decoded when it is asked for."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

from textsam.io.image import Image

__all__ = ["SourceFormat", "Stack"]

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
