"""The voxels of a NIfTI file as stored: mapped from the file, or inflated once."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.gzipped import TRAILING_BYTES, inflate
from textsam.io.limits import Limits
from textsam.io.nifti.header import NiftiHeader

__all__ = ["Voxels"]

# Volumes are passed over in blocks of about this many values.
_BLOCK_VALUES = 1 << 22


class Voxels:
    """The stored values of a volume.

    A plain file is mapped when a slice is asked for and nothing of it is kept. A compressed file
    can only be inflated from its start, so that is done once, at the first slice, and what came
    out is kept: as much as `limits.max_inflated_bytes` allows.

    Args:
        path: the file.
        header: what its header says.
        compressed: whether it is gzip.
        limits: what it may ask for.

    Raises:
        ImageError: a plain file whose size is not what the header says.
        LimitError: a compressed file that would need too much memory.
    """

    def __init__(self, path: Path, header: NiftiHeader, compressed: bool, limits: Limits) -> None:
        self._path, self._header, self._compressed = path, header, compressed
        self._inflated: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()
        if compressed:
            limits.check_inflated(header.size_bytes, str(path))
        else:
            self._check_size(path.stat().st_size)

    def _check_size(self, found: int) -> None:
        wanted = self._header.size_bytes
        if found < wanted:
            raise ImageError(
                f"{self._path}: the file is shorter than its header says ({found:,} of {wanted:,} "
                "bytes); copy or export it again"
            )
        if found > wanted + TRAILING_BYTES:
            raise ImageError(
                f"{self._path}: the file has {found:,} bytes where its header accounts for "
                f"{wanted:,}; the header or the file is damaged, write it again"
            )

    def _array(self) -> NDArray[Any]:
        """(channels, i, j, k), in the order of the file."""
        header = self._header
        shape = (header.channels, *header.shape)
        if not self._compressed:
            try:
                return np.memmap(
                    self._path, header.dtype, "r", header.data_offset, shape, order="F"
                )
            except (OSError, ValueError) as error:
                raise ImageError(
                    f"{self._path}: the file cannot be read any more ({error}); was it changed or "
                    "removed?"
                ) from error
        with self._lock:
            if self._inflated is None:
                self._inflated = inflate(self._path, header.size_bytes)
        flat = self._inflated[header.data_offset :].view(header.dtype)
        return flat.reshape(shape, order="F")

    def slice_at(self, axis: int, index: int) -> NDArray[Any]:
        """One slice in voxel order: (A, B), or (A, B, channels) of a colour file. A copy."""
        # Plain indexing: numpy.take would copy a volume in the file's order as a whole.
        voxels = np.moveaxis(np.moveaxis(self._array(), axis + 1, 0)[index], 0, -1)
        return np.array(voxels[:, :, 0] if self._header.channels == 1 else voxels)

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest stored value that is a number; both NaN where there is none."""
        array = self._array()[0]
        thick = max(1, _BLOCK_VALUES // math.prod(self._header.shape[:2]))
        low, high = math.nan, math.nan
        with np.errstate(invalid="ignore"):
            for first in range(0, self._header.shape[2], thick):
                block = array[:, :, first : first + thick]
                # fmin and fmax leave NaN out.
                low = float(np.fmin(low, np.fmin.reduce(block, axis=None)))
                high = float(np.fmax(high, np.fmax.reduce(block, axis=None)))
        return low, high
