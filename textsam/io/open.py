"""`open_stack`: any file or folder that can be read, as a `Stack` of images."""

from __future__ import annotations

import os
from pathlib import Path

from textsam.errors import ImageError
from textsam.io.file_kind import kind_of_file
from textsam.io.gzipped import inflate_head
from textsam.io.limits import Limits
from textsam.io.pages import open_raster
from textsam.io.paths import existing_source
from textsam.io.sniff import HEAD_BYTES, sniff
from textsam.io.stack import Stack

__all__ = ["open_stack"]


def open_stack(
    source: str | os.PathLike[str],
    *,
    axis: int | None = None,
    window: int = 0,
    crop: bool = True,
    limits: Limits | None = None,
) -> Stack:
    """Open a source of one or many images. Headers are read; no pixels yet.

    Args:
        source: a PNG, JPEG, BMP, TIFF, NIfTI (.nii, .nii.gz) or DICOM file, recognised by what is
            in it and not by its name; or a folder that holds one DICOM series.
        axis: for NIfTI, the voxel axis to slice across (0, 1 or 2; None takes the third, unless
            another one alone has a single voxel). Other formats have no such choice and ignore it.
        window: for DICOM, which of the file's windows of grey values is used, from 0; -1 shows all
            values.
        crop: for DICOM ultrasound, whether the model sees the ultrasound region alone.
        limits: what the source may ask for; None for the defaults.

    Raises:
        ImageError: nothing there, not an image, damaged, truncated; or a package for the format is
            not installed.
        LimitError: over one of the limits.
        ConfigError: an `axis` or `window` that cannot be.
    """
    limits = limits or Limits()
    path = existing_source(source)
    if path.is_dir():
        from textsam.io.dicom import open_series

        return open_series(path, limits=limits, window=window, crop=crop)
    limits.check_bytes(path.stat().st_size, str(path))
    kind = kind_of_file(path)
    if kind == "gzip":
        _check_inside(path)
    if kind in ("nifti", "gzip"):
        from textsam.io.nifti import open_nifti

        return open_nifti(path, axis=axis, limits=limits)
    if kind == "dicom":
        from textsam.io.dicom import open_dicom

        return open_dicom(path, limits=limits, window=window, crop=crop)
    return open_raster(path, limits)


def _check_inside(path: Path) -> None:
    """Raise ImageError unless a gzip file holds NIfTI."""
    kind = sniff(inflate_head(path, HEAD_BYTES))
    if kind != "nifti":
        raise ImageError(
            f"{path}: a gzip file that holds {kind or 'no image'}; of compressed files NIfTI alone "
            "is read. Unpack it, for example with gunzip, and pass what comes out"
        )
