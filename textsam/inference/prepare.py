"""One image on its way through the model: read, cut to what it shows, resized; and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from textsam.errors import ImageError, ReaderError, TextSAMError
from textsam.inference.refine import Geometry
from textsam.io.image import Image
from textsam.io.raster import read_image
from textsam.preprocess import Frame, Preprocessor

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["ImageLike", "Prepared", "called", "prepare"]

ImageLike: TypeAlias = "str | Path | PIL.Image.Image | NDArray[Any] | Image | Callable[[], Image]"
"""What can be segmented; a callable is called, where the image is needed, and returns it."""


_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image ready to be encoded.

    Attributes:
        image: the whole image.
        key: tells images apart by what the model sees.
        pixels: (3, side, side) normalised and padded; of the region, where the image has one.
        frame: between the region and the model's square.
        offset_px: (x, y) of the region's first pixel in the image.
    """

    image: Image
    key: str
    pixels: Tensor
    frame: Frame
    offset_px: tuple[int, int]

    def to_region(self, geometry: Geometry | None) -> Geometry | None:
        """Geometry in the image's frame, as seen from the region."""
        if geometry is None or self.offset_px == (0, 0):
            return geometry
        box = geometry.box
        return replace(
            geometry,
            points=geometry.points - self.offset_px,
            box=None if box is None else box - np.tile(self.offset_px, 2),
        )

    def to_image(self, region: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """An (h, w) array of the region laid into (H, W) zeros of the image's size."""
        if region.shape == self.image.size_px:
            return region
        whole = np.zeros(self.image.size_px, dtype=region.dtype)
        x, y = self.offset_px
        whole[y : y + region.shape[0], x : x + region.shape[1]] = region
        return whole


def prepare(image: ImageLike, preprocessor: Preprocessor) -> Prepared:
    """Read an image and make it the model's input. Safe to call from several threads.

    Raises:
        ImageError: the image cannot be used.
        ReaderError: a callable raised something that is none of ours.
    """
    picture = called(image) if callable(image) else read_image(image)
    pixels, offset = picture.pixels, (0, 0)
    if picture.region_px is not None:
        x_min, y_min, x_max, y_max = picture.region_px
        pixels, offset = pixels[y_min : y_max + 1, x_min : x_max + 1], (x_min, y_min)
    tensor, frame = preprocessor(pixels)
    key = f"{picture.sha256()} {picture.region_px}"
    return Prepared(picture, key, tensor, frame, offset)


def called(read: Callable[[], Image], who: str = "the callable that reads the image") -> Image:
    """What a callable gives.

    Args:
        read: whatever it raises that is none of our errors becomes one.
        who: it is, in messages.

    Raises:
        ImageError: it gives no `Image`.
        ReaderError: it raises something that is none of our errors.
    """
    try:
        image = read()
    except TextSAMError:
        raise
    except Exception as error:
        raise ReaderError(
            f"{who} raised {type(error).__name__} ({error}); correct the callable or what it reads"
        ) from error
    if not isinstance(image, Image):
        raise ImageError(
            f"{who} returned {type(image).__name__}; return what textsam.io.raster.read_image gives"
        )
    return image
