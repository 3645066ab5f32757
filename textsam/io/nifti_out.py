"""Masks as a NIfTI volume: lying exactly over a NIfTI file, or over a DICOM series."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ConfigError, ImageError, TextSAMError
from textsam.io.atomic import atomic_path, told_as
from textsam.io.stack import Stack, check_masks

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

    from textsam.io.dicom import DicomStack
    from textsam.io.nifti import NiftiStack
    from textsam.io.seg_source import FrameGeometry

__all__ = ["check_nifti", "write_nifti"]

_SCANNER, _ALIGNED = 1, 2  # NIFTI_XFORM codes of nifti1.h
_MM, _SECONDS = 2, 8
_MOST_NIFTI1 = 32_767  # a side in voxels
_NO_EXTENSIONS = bytes(4)
# Slices may lie this far from where even spacing puts them, in mm and as a share of the spacing.
_UNEVEN_MM = 0.01
_UNEVEN_SHARE = 0.01
_COSINE_TOLERANCE = 1e-3
# LPS, as in DICOM and `Placement`, to RAS, as in NIfTI.
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_nifti(path: str | Path, stack: Stack, masks: Mapping[int, NDArray[np.bool_]]) -> Path:
    """Write the masks of one prompt as a volume of 0 and 1 (uint8).

    Args:
        path: ends in ".nii", or ".nii.gz", which is compressed.
        stack: the images the masks belong to:

            * a NIfTI file gives a volume of its shape, with the fields of its header that say where
              it lies (affine, q-form and s-form codes, voxel sizes, units) as they stand;
            * a DICOM series or enhanced file, whose slices are of one orientation, size and spacing
              and evenly spaced along their normal, gives (columns, rows, slices) with the affine of
              the headers as s-form and q-form, code 1 (scanner). Slices keep the order of the
              stack, or are sorted by position where that order goes back and forth;
            * a single picture without a place in the patient gives (columns, rows), placed as
              programs built on ITK place pictures: the first pixel at the origin, columns to the
              patient's left and rows to the back, code 2 (aligned to another file). One pixel is
              one mm where the spacing is not known; the unit is "unknown" then.

            The last two are NIfTI-1, or NIfTI-2 where a side is over 32,767, more than that holds.

        masks: image index -> (H, W) bool; images left out are empty.

    Returns:
        The path.

    Raises:
        ConfigError: another ending.
        ImageError: several pictures or frames without places, or slices that make no even volume;
            an index outside the stack; a mask of another shape or type.
        TextSAMError: nibabel is not installed, or the file cannot be written.
    """
    path = Path(path)
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    if suffix not in (".nii", ".nii.gz"):
        raise ConfigError(f"{path}: a NIfTI file ends in .nii or .nii.gz; give such a name")
    _require_nibabel(path)
    content = _content(stack, masks)
    with told_as(TextSAMError, path), atomic_path(path, suffix) as temporary:
        if suffix == ".nii":
            temporary.write_bytes(content)
        else:
            # Without the time: the same masks make the same file.
            with temporary.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, 0) as packed:
                packed.write(content)
    return path


def check_nifti(stack: Stack) -> None:
    """Say of a stack what `write_nifti` would, by its headers alone.

    Raises:
        ImageError: several pictures or frames without places, or slices that make no even volume.
        TextSAMError: nibabel is not installed.
    """
    _require_nibabel(stack.source)
    if stack.format != "nifti":
        _grid(stack)


def _require_nibabel(name: str | Path) -> None:
    if find_spec("nibabel") is None:
        raise TextSAMError(
            f"{name}: writing NIfTI needs nibabel, which is not installed; run "
            '`pip install "textsam[medical]"`'
        )


def _content(stack: Stack, masks: Mapping[int, NDArray[np.bool_]]) -> bytes:
    """The bytes of the file."""
    if stack.format == "nifti":
        return _over_nifti(cast("NiftiStack", stack), masks)
    grid = _grid(stack)
    if grid is None:
        return _over_picture(stack, masks).to_bytes()
    return _over_planes(cast("DicomStack", stack), grid, masks).to_bytes()


@dataclass(frozen=True)
class _Grid:
    """Where a DICOM volume lies: (4, 4) from (x, y, slice) to LPS in mm, and the slices' order."""

    affine_mm: NDArray[np.float64]
    order: Sequence[int]


def _grid(stack: Stack) -> _Grid | None:
    """The grid of DICOM slices, None for a single picture without a place.

    Raises:
        ImageError: there are several images, and they make no volume.
    """
    if stack.format == "dicom":
        series = cast("DicomStack", stack)
        geometry = _geometry(series)
        if geometry is not None:
            return _even(series, geometry)
    if len(stack) > 1:
        raise ImageError(
            f"{stack.source}: its {len(stack)} images have no places in the patient, so they make "
            "no volume; write masks as PNG, or DICOM images as DICOM SEG"
        )
    return None


def _over_nifti(stack: NiftiStack, masks: Mapping[int, NDArray[np.bool_]]) -> bytes:
    # Header and voxels, without nibabel's image of them: that cannot be made of every header that
    # says where a single slice lies, and repairs others, so that the mask would lie elsewhere.
    header = stack.header.raw.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 1
    header.set_intent("none")
    header["descrip"] = b"mask by TextSAM"
    for field in ("aux_file", "db_name"):  # NIfTI-2 has no db_name
        if field in header.keys():  # noqa: SIM118
            header[field] = b""
    header["vox_offset"] = len(header.binaryblock) + len(_NO_EXTENSIONS)
    volume = stack.to_volume(masks).view(np.uint8)
    return bytes(header.binaryblock) + _NO_EXTENSIONS + volume.tobytes(order="F")


def _geometry(stack: DicomStack) -> list[FrameGeometry] | None:
    """The plane of each image, None where none has one."""
    from textsam.io.dicom.guard import damage_reported
    from textsam.io.seg_source import frame_geometry

    headers, found = stack.headers, []
    with damage_reported(stack.source, "a header cannot be read"):
        for index in range(len(stack)):
            file, frame = stack.where(index)
            found.append(frame_geometry(headers[file], frame, stack.source, reference=False))
        sizes = {(int(header.Rows), int(header.Columns)) for header in headers}
    placed = [one for one in found if one is not None]
    if not placed:
        return None
    if len(placed) < len(found):
        raise _no_volume(stack, f"{len(found) - len(placed)} of its images have no place")
    if len(sizes) > 1:
        raise _no_volume(stack, "its images differ in size")
    return placed


def _even(stack: DicomStack, geometry: Sequence[FrameGeometry]) -> _Grid:
    first = geometry[0]
    for one in geometry[1:]:
        if one.frame_of_reference != first.frame_of_reference:
            raise _no_volume(stack, "its slices differ in their frame of reference")
        if np.abs(np.subtract(one.orientation, first.orientation)).max() > _COSINE_TOLERANCE:
            raise _no_volume(stack, "its slices differ in orientation")
        if not np.allclose(one.spacing, first.spacing, rtol=1e-3):
            raise _no_volume(stack, "its slices differ in pixel spacing")
    positions = np.array([one.position for one in geometry])
    along = positions @ first.normal
    steps = np.diff(along)
    order = np.arange(len(along))
    if not ((steps > 0).all() or (steps < 0).all()):
        order = np.argsort(along, kind="stable")
    step_mm = first.normal * (first.thickness or first.spacing[0])
    if len(order) > 1:
        step_mm = first.normal * ((along[order[-1]] - along[order[0]]) / (len(order) - 1))
        even = positions[order[0]] + np.outer(np.arange(len(order)), step_mm)
        apart_mm = np.linalg.norm(positions[order] - even, axis=1).max()
        if not np.linalg.norm(step_mm) > 1e-6 or apart_mm > max(
            _UNEVEN_MM, _UNEVEN_SHARE * float(np.linalg.norm(step_mm))
        ):
            raise _no_volume(stack, "its slices are not evenly spaced along their normal")
    affine = first.affine_mm
    affine[:3, 2] = step_mm
    affine[:3, 3] = positions[order[0]]
    return _Grid(affine, order.tolist())


def _over_planes(
    stack: DicomStack, grid: _Grid, masks: Mapping[int, NDArray[np.bool_]]
) -> Nifti1Image:
    header = stack.headers[0]
    height, width = int(header.Rows), int(header.Columns)
    check_masks(stack, masks, (height, width))
    volume = np.zeros((width, height, len(grid.order)), dtype=np.uint8)
    for slot, index in enumerate(grid.order):
        if index in masks:
            volume[:, :, slot] = masks[index].T
    return _made(volume, _TO_RAS @ grid.affine_mm, _SCANNER, known_mm=True)


def _over_picture(stack: Stack, masks: Mapping[int, NDArray[np.bool_]]) -> Nifti1Image:
    image = stack.read(0)
    row_mm, column_mm = image.spacing_mm or (1.0, 1.0)
    plane = np.zeros((image.width, image.height), dtype=np.uint8)
    check_masks(stack, masks, image.size_px)
    if 0 in masks:
        plane[:] = masks[0].T
    affine = _TO_RAS @ np.diag([column_mm, row_mm, 1.0, 1.0])
    return _made(plane, affine, _ALIGNED, known_mm=image.spacing_mm is not None)


def _made(
    volume: NDArray[np.uint8], affine: NDArray[np.float64], code: int, *, known_mm: bool
) -> Nifti1Image:
    from nibabel import nifti1, nifti2

    kind: Any = nifti1.Nifti1Image if max(volume.shape) <= _MOST_NIFTI1 else nifti2.Nifti2Image
    made: Any = kind(volume, affine)
    made.set_sform(affine, code)
    made.set_qform(affine, code)
    made.header["xyzt_units"] = _MM if known_mm else 0
    made.header["cal_min"], made.header["cal_max"] = 0, 1
    made.header["descrip"] = b"mask by TextSAM"
    image: Nifti1Image = made
    return image


def _no_volume(stack: Stack, why: str) -> ImageError:
    return ImageError(
        f"{stack.source}: {why}, so they make no NIfTI volume; write DICOM SEG, or masks as PNG"
    )
