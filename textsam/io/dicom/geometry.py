"""Where pixels lie in the patient: spacing, affine, and the part of a screen that is ultrasound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textsam.io.dicom.groups import FrameHeader
from textsam.io.dicom.layout import PixelLayout
from textsam.io.dicom.values import numbers_or_none, text, whole_number
from textsam.io.pixels import MIN_SIDE_PX

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "UltrasoundRegion",
    "frame_plane",
    "frame_spacing_mm",
    "perpendicular_axes",
    "plane_affine_mm",
    "ultrasound_region",
]

# PS3.3 C.8.5.5.1: a two-dimensional region, of tissue, with lengths in cm.
_TWO_DIMENSIONAL, _TISSUE, _CENTIMETRES = 1, 1, 3
_MM_PER_CM = 10.0
_UNIT_TOLERANCE = 1e-2


@dataclass(frozen=True)
class UltrasoundRegion:
    """A calibrated part of an ultrasound screen.

    Attributes:
        box_px: inclusive (x_min, y_min, x_max, y_max).
        spacing_mm: (row, column), None where it has no lengths.
    """

    box_px: tuple[int, int, int, int]
    spacing_mm: tuple[float, float] | None


def ultrasound_region(header: Dataset, layout: PixelLayout, source: str) -> UltrasoundRegion | None:
    """The largest two-dimensional region of tissue.

    None where there is none, and where one reaches outside the image: then the regions are of
    another picture than this.
    """
    found: list[UltrasoundRegion] = []
    for item in header.get("SequenceOfUltrasoundRegions") or []:
        if (
            whole_number(item, "RegionSpatialFormat", source) != _TWO_DIMENSIONAL
            or whole_number(item, "RegionDataType", source) != _TISSUE
        ):
            continue
        corners = [
            whole_number(item, f"RegionLocation{corner}", source, -1) or 0
            for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")
        ]
        x_min, y_min, x_max, y_max = corners
        # Some devices give the number of columns as the last column. A region that goes further is
        # of the picture before it was cropped or shrunk, and so are its lengths.
        if min(corners) < 0 or x_max > layout.columns or y_max > layout.rows:
            return None
        x_max, y_max = min(x_max, layout.columns - 1), min(y_max, layout.rows - 1)
        if min(x_max - x_min, y_max - y_min) + 1 < MIN_SIDE_PX:
            continue
        found.append(
            UltrasoundRegion((x_min, y_min, x_max, y_max), _region_spacing_mm(item, source))
        )
    return max(found, key=_area_px, default=None)


def _area_px(region: UltrasoundRegion) -> int:
    x_min, y_min, x_max, y_max = region.box_px
    return (x_max - x_min + 1) * (y_max - y_min + 1)


def _region_spacing_mm(item: Dataset, source: str) -> tuple[float, float] | None:
    units = [whole_number(item, f"PhysicalUnits{axis}Direction", source) for axis in ("X", "Y")]
    step_x = numbers_or_none(item, "PhysicalDeltaX", 1, source)
    step_y = numbers_or_none(item, "PhysicalDeltaY", 1, source)
    if units != [_CENTIMETRES, _CENTIMETRES] or step_x is None or step_y is None:
        return None
    # A negative step says which way the axis runs.
    spacing = abs(step_y[0]) * _MM_PER_CM, abs(step_x[0]) * _MM_PER_CM
    return spacing if min(spacing) > 0 else None


def frame_spacing_mm(header: FrameHeader, source: str) -> tuple[float, float] | None:
    """Distance of pixel centres in the patient as (row, column), None where it is not known.

    Imager Pixel Spacing is the distance on the detector, where the shadow is larger than the
    patient, so it is not used; nor is Pixel Spacing that only repeats it (PS3.3 10.7.1.3).
    """
    spacing = numbers_or_none(header.of("PixelMeasuresSequence"), "PixelSpacing", 2, source)
    if spacing is None or min(spacing) <= 0:
        return None
    at_detector = numbers_or_none(header.header, "ImagerPixelSpacing", 2, source)
    calibrated = text(header.header, "PixelSpacingCalibrationType", source)
    if spacing == at_detector and not calibrated:
        return None
    return spacing[0], spacing[1]


def frame_plane(
    header: FrameHeader, source: str
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Where a frame lies: (x, y, z) of its first pixel in mm, and its six direction cosines.

    None where position or orientation is missing, or the orientation is not two perpendicular
    directions. The position in the header of a file of several frames is that of one of them only
    and is not used; functional groups give each frame its own.
    """
    orientation = numbers_or_none(
        header.of("PlaneOrientationSequence"), "ImageOrientationPatient", 6, source
    )
    placed = header.group("PlanePositionSequence")
    if placed is None and whole_number(header.header, "NumberOfFrames", source, 1) == 1:
        placed = header.header
    position = numbers_or_none(placed, "ImagePositionPatient", 3, source)
    if position is None or orientation is None or perpendicular_axes(orientation) is None:
        return None
    return position, orientation


def plane_affine_mm(
    position: tuple[float, ...], orientation: tuple[float, ...], spacing_mm: tuple[float, ...]
) -> NDArray[np.float64]:
    """(4, 4) from (x, y, 0, 1) in pixels to patient coordinates in mm (PS3.3 C.7.6.2.1.1).

    Its third column is the unit normal.
    """
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    affine = np.eye(4)
    affine[:3, 0] = along_row * spacing_mm[1]
    affine[:3, 1] = along_column * spacing_mm[0]
    affine[:3, 2] = np.cross(along_row, along_column)
    affine[:3, 3] = position
    return affine


def perpendicular_axes(
    orientation: tuple[float, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Directions in which columns and rows are counted, None unless perpendicular unit vectors."""
    along_row = np.asarray(orientation[:3], dtype=np.float64)
    along_column = np.asarray(orientation[3:], dtype=np.float64)
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if (abs(lengths - 1.0) > _UNIT_TOLERANCE).any() or abs(
        along_row @ along_column
    ) > _UNIT_TOLERANCE:
        return None
    return along_row, along_column
