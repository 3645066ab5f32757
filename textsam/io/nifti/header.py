"""The header of a NIfTI file, checked: what its voxels are, and where they lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError

__all__ = ["HEADER_BYTES", "NiftiHeader", "parse_header"]

HEADER_BYTES = 544
"""The longer of the two headers, NIfTI-2's, with the four bytes that follow it."""

_NIFTI1_BYTES, _NIFTI2_BYTES = 348, 540
_NIFTI2_MAGIC = b"n+2\0\r\n\x1a\n"

# Data type codes of nifti1.h: numpy's letter and size, and the number of channels.
_TYPES = {
    2: ("u1", 1),
    4: ("i2", 1),
    8: ("i4", 1),
    16: ("f4", 1),
    64: ("f8", 1),
    128: ("u1", 3),
    256: ("i1", 1),
    512: ("u2", 1),
    768: ("u4", 1),
    1024: ("i8", 1),
    1280: ("u8", 1),
    2304: ("u1", 4),
}
_UNREADABLE_TYPES = {1: "one bit", 32: "complex", 1536: "128-bit", 1792: "complex", 2048: "complex"}
# The lower three bits of xyzt_units (nifti1.h): unknown, metre, millimetre, micrometre.
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
# Placements beyond a thousand kilometres, and voxels under a millionth of a micrometre, are damage.
_MOST_MM, _LEAST_MM = 1e9, 1e-9


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """What a header says.

    Attributes:
        file_shape: shape of the voxel array as the file has it, two to seven numbers.
        shape: its first three, with 1 for the third of a two-dimensional image.
        dtype: type of one value as stored, byte order included.
        channels: values a voxel: 1, 3 (red, green, blue) or 4 (with alpha).
        data_offset: where the voxels start, in bytes.
        slope, inter: stored values times `slope` plus `inter` are the true values; (1, 0) where
            the file does not scale.
        display_range: the true values to show as black and as white (cal_min, cal_max), or None.
        affine_mm: (4, 4) float64, voxel (i, j, k, 1) to patient coordinates in mm, to the
            patient's right, front and head (RAS, as NIfTI has it): the sform where its code is
            over 0, else the qform where its code is. None where neither is.
        zooms_mm: distances between voxel centres along the three axes, in mm; None where the file
            has no positive ones.
        raw: nibabel's Nifti1Header or Nifti2Header, for writing a file that goes with this one.
    """

    file_shape: tuple[int, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    channels: int
    data_offset: int
    slope: float
    inter: float
    display_range: tuple[float, float] | None
    affine_mm: NDArray[np.float64] | None
    zooms_mm: tuple[float, float, float] | None
    raw: Any

    @property
    def size_bytes(self) -> int:
        """Bytes from the start of the file to the last voxel."""
        values = math.prod(self.shape) * self.channels
        return self.data_offset + values * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        """Whether true values differ from stored ones."""
        return (self.slope, self.inter) != (1.0, 0.0)


def parse_header(head: bytes, source: str) -> NiftiHeader:
    """Read a header.

    Args:
        head: the first `HEADER_BYTES` bytes of the file, inflated.
        source: the name for messages.

    Raises:
        ImageError: not a NIfTI file, half of a pair of files, a damaged header, four or more
            dimensions, or a data type that cannot be shown; or nibabel is not installed.
    """
    raw = _nibabel_header(head, source)
    file_shape = _shape(raw, source)
    dtype, channels = _type(raw, source)
    slope, inter = _scaling(raw, source)
    mm = _MM_PER_UNIT.get(int(raw["xyzt_units"]) & 7)
    if mm is None:
        raise ImageError(
            f"{source}: the header's unit of length is {int(raw['xyzt_units']) & 7}, which NIfTI "
            "does not define; set xyzt_units to 2 for mm and save the file again"
        )
    zooms = [float(size) * mm for size in raw["pixdim"][1:4]]
    low, high = float(raw["cal_min"]), float(raw["cal_max"])
    shown = math.isfinite(low) and math.isfinite(high) and high > low
    depth = file_shape[2] if len(file_shape) > 2 else 1
    return NiftiHeader(
        file_shape=file_shape,
        shape=(file_shape[0], file_shape[1], depth),
        dtype=dtype,
        channels=channels,
        data_offset=_data_offset(raw, source),
        slope=slope if channels == 1 else 1.0,
        inter=inter if channels == 1 else 0.0,
        display_range=(low, high) if shown and channels == 1 else None,
        affine_mm=_affine(raw, mm, source),
        zooms_mm=(zooms[0], zooms[1], zooms[2]) if _usable(zooms, depth) else None,
        raw=raw,
    )


def _nibabel_header(head: bytes, source: str) -> Any:
    try:
        from nibabel.nifti1 import Nifti1Header
        from nibabel.nifti2 import Nifti2Header
    except ImportError as error:
        raise ImageError(
            f"{source}: NIfTI files are read with nibabel, which is not installed; run "
            '`pip install "textsam[medical]"`'
        ) from error
    # nibabel's classes have no types.
    nifti1: Any = Nifti1Header
    nifti2: Any = Nifti2Header
    little, big = int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")
    order = "<" if little in (_NIFTI1_BYTES, _NIFTI2_BYTES) else ">"
    size = little if order == "<" else big
    if size == _NIFTI1_BYTES and len(head) >= size and head[344:346] in (b"n+", b"ni"):
        _refuse_pair(head[344:346], source)
        return nifti1(head[:size], order, check=False)
    if size == _NIFTI2_BYTES and len(head) >= size:
        _refuse_pair(head[4:6], source)
        if head[4:12] == _NIFTI2_MAGIC:
            return nifti2(head[:size], order, check=False)
        raise ImageError(
            f"{source}: the signature of this NIfTI-2 file is damaged, as by a transfer as text; "
            "copy it again as binary"
        )
    raise ImageError(
        f"{source}: the NIfTI header is damaged or incomplete (it gives its size as "
        f"{little}, where {_NIFTI1_BYTES} or {_NIFTI2_BYTES} is "
        "right); copy or export the file again"
    )


def _refuse_pair(magic: bytes, source: str) -> None:
    if magic == b"ni":
        raise ImageError(
            f"{source}: this is the header of a NIfTI pair, whose voxels are in a second file; "
            'join them with nibabel.save(nibabel.load("a.hdr"), "a.nii.gz") and pass that'
        )


def _shape(raw: Any, source: str) -> tuple[int, ...]:
    dim = [int(value) for value in raw["dim"]]
    count = dim[0]
    if not 1 <= count <= 7 or any(size < 1 for size in dim[1 : count + 1]):
        raise ImageError(
            f"{source}: the header's dimensions {dim} are damaged; copy or export the file again"
        )
    shape = tuple(dim[1 : count + 1])
    if count == 1:
        raise ImageError(
            f"{source}: the file holds one row of {shape[0]} values, no image; pass another"
        )
    if any(size > 1 for size in shape[3:]):
        first = ", ".join([":"] * 3 + ["0"] * (count - 3))
        raise ImageError(
            f"{source}: the file holds {math.prod(shape[3:])} volumes or components (shape "
            f"{shape}) and it is not known which one is meant; save one of them with "
            f'nibabel.save(nibabel.load(path).slicer[{first}], "one.nii.gz") and pass that'
        )
    return shape


def _type(raw: Any, source: str) -> tuple[np.dtype[Any], int]:
    code = int(raw["datatype"])
    if code not in _TYPES:
        name = _UNREADABLE_TYPES.get(code, "unknown")
        raise ImageError(
            f"{source}: voxels of NIfTI data type {code} ({name}) are no image; save real numbers, "
            "for example as float32"
        )
    letter, channels = _TYPES[code]
    return np.dtype(letter).newbyteorder(raw.endianness), channels


def _scaling(raw: Any, source: str) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 says that there is no scaling (nifti1.h)."""
    slope, inter = float(raw["scl_slope"]), float(raw["scl_inter"])
    # nibabel writes NaN for both where it means none.
    if slope == 0.0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise ImageError(
            f"{source}: the header scales values by {slope:g} and adds {inter:g}; the file is "
            "damaged, export it again"
        )
    return slope, inter


def _data_offset(raw: Any, source: str) -> int:
    least = int(raw.single_vox_offset)
    offset = float(raw["vox_offset"])
    # 0 is found in the wild for "right after the header".
    if offset == 0.0:
        return least
    if not (math.isfinite(offset) and offset == int(offset) and least <= offset < 2**62):
        raise ImageError(
            f"{source}: the header says that voxels start at byte {offset:g}, where {least} or a "
            "larger whole number is right; copy or export the file again"
        )
    return int(raw["vox_offset"])


def _usable(zooms: list[float], depth: int) -> bool:
    # The third axis of a two-dimensional image has no spacing.
    return all(math.isfinite(z) and z > 0 for z in (zooms if depth > 1 else zooms[:2]))


def _affine(raw: Any, mm: float, source: str) -> NDArray[np.float64] | None:
    if int(raw["sform_code"]) > 0:
        name, read = "sform", raw.get_sform
    elif int(raw["qform_code"]) > 0:
        name, read = "qform", raw.get_qform
    else:
        return None
    try:
        with np.errstate(all="ignore"):
            affine = np.array(read(), dtype=np.float64)
    except Exception as error:
        raise ImageError(
            f"{source}: the header's {name}, which places the image in the patient, is damaged "
            f"({error}); copy or export the file again"
        ) from error
    affine[:3] *= mm
    columns = affine[:3, :3]
    sane = np.isfinite(affine).all() and float(np.abs(affine).max()) < _MOST_MM
    lengths = _lengths(columns) if sane else np.zeros(3)
    one_slice = int(raw["dim"][0]) < 3 or int(raw["dim"][3]) == 1
    if one_slice and lengths[2] == 0.0 and lengths[:2].all():
        # One slice has no distance to the next; any direction across it will do.
        columns[:, 2] = np.cross(columns[:, 0] / lengths[0], columns[:, 1] / lengths[1])
        lengths = _lengths(columns)
    if not lengths.min() > _LEAST_MM or not abs(np.linalg.det(columns / lengths)) > 1e-6:
        raise ImageError(
            f"{source}: the header's {name}, which places the image in the patient, is damaged (it "
            "gives voxels no possible size or place); where the position does not matter, set "
            f"{name}_code to 0 and save the file again"
        )
    return affine


def _lengths(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt((columns**2).sum(axis=0)))
