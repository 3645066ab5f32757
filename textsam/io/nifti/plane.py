"""How the slices of a volume are turned for display, and turned back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.io.nifti.header import NiftiHeader

__all__ = ["Plane", "default_axis", "plane_of"]

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# ANALYZE 7.5, which NIfTI's unplaced files follow: towards the patient's left, front and head.
_UNPLACED = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Plane:
    """The slices across one voxel axis, each shown as an image.

    Attributes:
        axis: the voxel axis that counts the slices, 0, 1 or 2.
        x_axis, y_axis: the voxel axes that run along the rows and down the columns of the image.
        flip_x, flip_y: whether the image runs against them.
        shape: the three sides of the volume, in voxels.
    """

    axis: int
    x_axis: int
    y_axis: int
    flip_x: bool
    flip_y: bool
    shape: tuple[int, int, int]

    @property
    def height(self) -> int:
        """Rows of the image."""
        return self.shape[self.y_axis]

    @property
    def width(self) -> int:
        """Columns of the image."""
        return self.shape[self.x_axis]

    def show(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """From a slice in voxel order, (A, B) or (A, B, channels) with the axes rising, to rows."""
        turned = voxels.swapaxes(0, 1) if self.x_axis < self.y_axis else voxels
        return turned[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def hide(self, image: NDArray[Any]) -> NDArray[Any]:
        """From (height, width) to voxel order: the inverse of `show`."""
        turned = image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]
        return turned.swapaxes(0, 1) if self.x_axis < self.y_axis else turned

    def to_voxel(self, index: int) -> NDArray[np.float64]:
        """(4, 4): the pixel (x, y, 0, 1) of image `index` to its voxel (i, j, k, 1)."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1.0
        matrix[self.axis, 2:] = 1.0, index
        for column, axis, flip in ((0, self.x_axis, self.flip_x), (1, self.y_axis, self.flip_y)):
            matrix[axis, column] = -1.0 if flip else 1.0
            matrix[axis, 3] = self.shape[axis] - 1 if flip else 0
        return matrix

    def affine_lps_mm(self, index: int, affine_ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """(4, 4): the pixel (x, y, 0, 1) of image `index` to the patient, LPS in mm."""
        affine: NDArray[np.float64] = _TO_LPS @ affine_ras_mm @ self.to_voxel(index)
        return affine


def default_axis(shape: tuple[int, int, int]) -> int:
    """The third axis, unless another one alone has a single voxel."""
    single = [axis for axis in range(3) if shape[axis] == 1]
    return single[0] if len(single) == 1 else 2


def plane_of(header: NiftiHeader, axis: int) -> Plane:
    """How to show slices across `axis`.

    Each voxel axis is named by the direction in the patient it is closest to. Then images are laid
    out as radiology shows them: columns run to the patient's left (or, in sagittal slices, to the
    back), rows run to the back (or, in sagittal and coronal slices, to the feet).
    """
    from nibabel import orientations

    io_orientation: Any = orientations.io_orientation
    affine = _UNPLACED if header.affine_mm is None else header.affine_mm
    named = io_orientation(_TO_LPS @ affine)
    # Directions are numbered left 0, back 1, head 2, so the lower number is the one for columns.
    x_axis, y_axis = sorted((a for a in range(3) if a != axis), key=lambda a: float(named[a, 0]))
    wanted_y = -1.0 if named[y_axis, 0] == 2 else 1.0
    return Plane(
        axis=axis,
        x_axis=x_axis,
        y_axis=y_axis,
        flip_x=bool(named[x_axis, 1] != 1.0),
        flip_y=bool(named[y_axis, 1] != wanted_y),
        shape=header.shape,
    )
