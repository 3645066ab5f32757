"""`NiftiStack`: the slices of a NIfTI volume as images, and masks of them as a volume."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ConfigError, ImageError
from textsam.io.gzipped import inflate_head
from textsam.io.image import Image, Placement
from textsam.io.limits import Limits
from textsam.io.nifti.header import HEADER_BYTES, NiftiHeader, parse_header
from textsam.io.nifti.plane import Plane, default_axis, plane_of
from textsam.io.nifti.voxels import Voxels
from textsam.io.paths import read_head
from textsam.io.pixels import check_size, stretched, to_rgb
from textsam.io.stack import Stack, check_masks

__all__ = ["NiftiStack", "open_nifti"]

_GZIP_MAGIC = b"\x1f\x8b"


class NiftiStack(Stack):
    """The slices of a volume across one voxel axis, in the order of that axis.

    Image `n` shows the voxels whose index along `axis` is `n`, turned as `Plane` says, with its
    place in the patient in `placement.affine_mm` (None where the file has neither sform nor
    qform). `spacing_mm` is the length of that affine's columns, else the file's zooms.

    Values become 0 to 255 by one rule for the whole volume: the file's display range (cal_min to
    cal_max) where it gives one; else as for an array of the whole volume (uint8 is kept, floats
    within [0, 1] are multiplied by 255, all else is stretched from the smallest to the largest
    value, for which the first image passes over the volume once). NaN, which many programs write
    outside the head or body, is shown black; infinite values are refused. Colour is kept.

    Args:
        path: the file.
        header: what its header says.
        voxels: its stored values.
        plane: how slices are cut and turned.
    """

    def __init__(self, path: Path, header: NiftiHeader, voxels: Voxels, plane: Plane) -> None:
        self.source = str(path)
        self.format = "nifti"
        self.header = header
        self.plane = plane
        self._voxels = voxels
        self._lock = threading.Lock()
        self._range: tuple[float, float] | None = header.display_range
        self._kept = header.channels > 1

    def __len__(self) -> int:
        return self.header.shape[self.axis]

    @property
    def axis(self) -> int:
        """The voxel axis the slices are across: 0, 1 or 2."""
        return self.plane.axis

    def read(self, index: int) -> Image:
        """Decode slice `index`; see `Stack.read`."""
        values = self.plane.show(self._voxels.slice_at(self.axis, index))
        source = f"{self.source}, slice {index}"
        kept = self._kept_as_stored()
        pixels = to_rgb(values, source) if kept else self._scaled(values, source)
        affine = self.header.affine_mm
        placed = None if affine is None else self.plane.affine_lps_mm(index, affine)
        return Image(pixels, self.source, self._spacing_mm(placed), Placement(index, placed))

    def _spacing_mm(self, placed: NDArray[np.float64] | None) -> tuple[float, float] | None:
        if placed is not None:
            column_mm, row_mm = np.linalg.norm(placed[:3, :2], axis=0)
            return float(row_mm), float(column_mm)
        zooms = self.header.zooms_mm
        return None if zooms is None else (zooms[self.plane.y_axis], zooms[self.plane.x_axis])

    def _kept_as_stored(self) -> bool:
        """Whether values are shown as they are; else `_range` is known afterwards."""
        with self._lock:
            if not self._kept and self._range is None:
                if self.header.dtype == np.uint8 and not self.header.scaled:
                    self._kept = True
                else:
                    self._range = self._whole_range()
            return self._kept

    def _whole_range(self) -> tuple[float, float]:
        header = self.header
        stored = self._voxels.extremes()
        if np.isnan(stored).any():
            raise ImageError(f"{self.source}: every voxel is NaN; export the file again")
        ends = sorted(value * header.slope + header.inter for value in stored)
        if not np.isfinite(ends).all():
            raise ImageError(
                f"{self.source}: the values run from {ends[0]:g} to {ends[1]:g}; replace infinite "
                "ones, for example with numpy.nan_to_num"
            )
        if (header.scaled or header.dtype.kind == "f") and ends[0] >= 0.0 and ends[1] <= 1.0:
            return 0.0, 1.0
        return ends[0], ends[1]

    def _scaled(self, values: NDArray[Any], source: str) -> NDArray[np.float32]:
        """(H, W) stored values to (H, W, 3) in [0, 255]."""
        assert self._range is not None  # set by _kept_as_stored
        low, high = self._range
        infinite = np.count_nonzero(np.isinf(values))
        if infinite:
            raise ImageError(
                f"{source}: {infinite:,} values are infinite; replace them, for example with "
                "numpy.nan_to_num"
            )
        slope, inter = self.header.slope, self.header.inter
        # The range in stored values spares scaling each of them.
        grey = stretched(values, (low - inter) / slope, (high - inter) / slope)
        return np.repeat(np.nan_to_num(grey, copy=False)[:, :, np.newaxis], 3, axis=2)

    def to_volume(self, masks: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Put masks of images back into the file's voxel order.

        Args:
            masks: (H, W) bool by image index; images left out are False.

        Returns:
            Bool array of the file's shape (`header.file_shape`): voxel [i, j, k] is the mask's
            value at the pixel that shows it.

        Raises:
            ImageError: an index there is no image for, or a mask of another shape or dtype.
        """
        volume = np.zeros(self.header.shape, dtype=bool)
        check_masks(self, masks, (self.plane.height, self.plane.width))
        for index, mask in masks.items():
            np.moveaxis(volume, self.axis, 0)[index] = self.plane.hide(mask)
        return volume.reshape(self.header.file_shape)


def open_nifti(path: Path, *, axis: int | None = None, limits: Limits | None = None) -> NiftiStack:
    """Open a NIfTI-1 or NIfTI-2 file, plain or compressed with gzip.

    Args:
        path: the file, header and voxels in one.
        axis: the voxel axis to slice across: 0, 1 or 2. None takes the third, unless another one
            alone has a single voxel.
        limits: what the file may ask for, None for the defaults.

    Raises:
        ImageError: not such a file; damaged, truncated; of four or more dimensions, complex
            values or in two files; slices under 8 pixels a side; nibabel is not installed.
        LimitError: over one of the limits.
        ConfigError: another `axis`.
    """
    limits = limits or Limits()
    source = str(path)
    head = read_head(path, HEADER_BYTES)
    compressed = head.startswith(_GZIP_MAGIC)
    header = parse_header(inflate_head(path, HEADER_BYTES) if compressed else head, source)
    if axis is None:
        axis = default_axis(header.shape)
    elif isinstance(axis, bool) or not isinstance(axis, int) or axis not in (0, 1, 2):
        raise ConfigError(f"{source}: axis is {axis!r}; it must be 0, 1 or 2")
    plane = plane_of(header, axis)
    check_size(plane.height, plane.width, f"{source}, axis {axis}", limits.max_pixels)
    limits.check_images(header.shape[axis], source)
    return NiftiStack(path, header, Voxels(path, header, compressed, limits), plane)
