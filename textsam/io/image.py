"""`Image`: pixels ready for the model, and where they lie in their file and in the patient."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError

__all__ = ["Image", "Placement"]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a two-dimensional image lies in the file it came from, and in the patient.

    Attributes:
        index: number of the slice, page or frame in its source, from 0.
        frame: number of the frame in its own file, from 0, where the source is a series of files;
            None where `index` says that.
        affine_mm: (4, 4) float64 that maps (x, y, 0, 1), the column and the row of a pixel centre,
            to patient coordinates (x, y, z, 1) in mm: to the patient's left, back and head (LPS,
            as in DICOM PS3.3 C.7.6.2). None where the source does not say.

    Raises:
        ImageError: a number that is not whole and at least 0, or an affine that is not
            (4, 4), not finite, or flattens the image to a line.
    """

    index: int = 0
    affine_mm: NDArray[np.float64] | None = None
    frame: int | None = None

    def __post_init__(self) -> None:
        numbers = {"index": self.index}
        if self.frame is not None:
            numbers["frame"] = self.frame
        for name, number in numbers.items():
            if not isinstance(number, int | np.integer) or number < 0:
                raise ImageError(
                    f"Placement.{name} is {number!r}; slices are counted from 0, in whole numbers"
                )
            object.__setattr__(self, name, int(number))
        if self.affine_mm is None:
            return
        try:
            affine = np.array(self.affine_mm, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ImageError(
                f"Placement.affine_mm must be 4 x 4 finite numbers ({error}); leave it None where "
                "the position is unknown"
            ) from error
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ImageError(
                f"Placement.affine_mm must be 4 x 4 finite numbers, got shape {affine.shape}; "
                "leave it None where the position is unknown"
            )
        if not np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])) > 0:
            raise ImageError(
                "Placement.affine_mm maps rows and columns to one direction; leave it None where "
                "the position is unknown"
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine_mm", affine)

    @property
    def slant(self) -> float:
        """Area of a pixel by the product of its sides: 1 for a rectangle, and where unknown.

        Below 1 it is where rows and columns are not perpendicular, as in slices along the axis of a
        volume that was scanned with a tilted gantry.
        """
        if self.affine_mm is None:
            return 1.0
        across, down = self.affine_mm[:3, 0], self.affine_mm[:3, 1]
        sides = float(np.linalg.norm(across) * np.linalg.norm(down))
        return float(np.linalg.norm(np.cross(across, down))) / sides

    @property
    def index_in_file(self) -> int:
        """Number of the slice, page or frame in the file that `Image.source` names, from 0."""
        return self.index if self.frame is None else self.frame

    def to_patient_mm(self, x: float, y: float) -> tuple[float, float, float] | None:
        """Patient coordinates (LPS, mm) of the point (x, y) in pixels; None where unknown."""
        if self.affine_mm is None:
            return None
        left, back, head, _ = self.affine_mm @ (x, y, 0.0, 1.0)
        return float(left), float(back), float(head)


@dataclass(frozen=True, eq=False)
class Image:
    """An image ready for the model.

    Attributes:
        pixels: (H, W, 3), red, green, blue; uint8, or float32 in [0, 255] when the source had
            other than 8 bits. Row 0 is the top, column 0 the left; pixel centres lie on whole
            numbers.
        source: the path it was read from, "array" or "PIL".
        spacing_mm: distance between pixel centres as (row, column) in mm, None where unknown.
            Resolution tags (DPI) of raster files say how to print, not how large the subject is,
            so they are not used.
        placement: where the image lies in its file and in the patient, None where unknown.
        region_px: the part that shows the subject, as inclusive (x_min, y_min, x_max, y_max), None
            for all of it. The model sees this part alone; masks and coordinates are of the whole
            image all the same.

    Raises:
        ImageError: pixels of another shape, dtype or value range, a spacing that is not two
            positive numbers, or a region that is not four whole numbers inside the image.
    """

    pixels: NDArray[Any]
    source: str
    spacing_mm: tuple[float, float] | None = None
    placement: Placement | None = None
    region_px: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        pixels = self.pixels
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 3 or pixels.shape[2] != 3:
            got = getattr(pixels, "shape", type(pixels).__name__)
            raise ImageError(
                f"{self.source}: Image.pixels must have shape (H, W, 3), got {got}; use "
                "read_image, which converts"
            )
        if pixels.size == 0:
            raise ImageError(f"{self.source}: Image.pixels is empty, shape {pixels.shape}")
        if pixels.dtype not in (np.uint8, np.float32):
            raise ImageError(
                f"{self.source}: Image.pixels must be uint8 or float32, got {pixels.dtype}; use "
                "read_image, which converts"
            )
        if pixels.dtype == np.float32:
            low, high = float(pixels.min()), float(pixels.max())
            if not (low >= 0.0 and high <= 255.0):
                raise ImageError(
                    f"{self.source}: float32 Image.pixels must lie in [0, 255], got {low:g} to "
                    f"{high:g}; use read_image, which scales"
                )
        if self.spacing_mm is not None:
            spacing = _numbers(self.spacing_mm)
            if len(spacing) != 2 or not all(math.isfinite(v) and v > 0.0 for v in spacing):
                raise ImageError(
                    f"{self.source}: spacing_mm must be two positive numbers, (row, column), got "
                    f"{self.spacing_mm!r}; leave it None where it is unknown"
                )
            object.__setattr__(self, "spacing_mm", spacing)
        if self.region_px is not None:
            region = _numbers(self.region_px)
            if len(region) != 4 or not all(value.is_integer() for value in region):
                raise ImageError(
                    f"{self.source}: region_px must be four whole numbers, inclusive (x_min, "
                    f"y_min, x_max, y_max), got {self.region_px!r}; leave it None for all of the "
                    "image"
                )
            x_min, y_min, x_max, y_max = map(int, region)
            object.__setattr__(self, "region_px", (x_min, y_min, x_max, y_max))
            if not (0 <= x_min <= x_max < self.width and 0 <= y_min <= y_max < self.height):
                raise ImageError(
                    f"{self.source}: region_px {self.region_px} is not inside the image of "
                    f"{self.width} x {self.height} px; give inclusive (x_min, y_min, x_max, y_max)"
                )

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.pixels.shape[1])

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    def sha256(self) -> str:
        """Hash of what the model sees: dtype, shape and pixel values, as 64 hexadecimal digits.

        Two files that decode to the same pixels have the same hash; it is not the hash of a file.
        """
        pixels = np.ascontiguousarray(self.pixels, dtype=self.pixels.dtype.newbyteorder("<"))
        digest = hashlib.sha256(f"{pixels.dtype.name} {pixels.shape}\n".encode())
        digest.update(pixels.data)
        return digest.hexdigest()


def _numbers(values: Any) -> tuple[float, ...]:
    """The values as numbers; none where they are something else, such as a single number."""
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return ()
