"""What DICOM SEG needs to know of the images it is about: their headers, places and groups.

No pixels are read here; headers alone say how many SEG instances a stack will give.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ConfigError, ImageError
from textsam.io.dicom.geometry import frame_plane, plane_affine_mm
from textsam.io.dicom.groups import FrameHeader
from textsam.io.dicom.guard import damage_reported
from textsam.io.dicom.values import numbers_or_none

if TYPE_CHECKING:
    from pydicom import Dataset

    from textsam.io.dicom import DicomStack

__all__ = ["FrameGeometry", "SegGroup", "frame_geometry", "group_frames"]

# Slices whose orientation or spacing differ by less are of one volume: scanners round these numbers
# slice by slice. 1e-4 of a direction cosine moves the far corner of 512 pixels by 0.05 pixels.
_COSINE_TOLERANCE = 1e-4
_SPACING_TOLERANCE_MM = 1e-4
_POSITION_TOLERANCE_MM = 1e-4


@dataclass(frozen=True)
class FrameGeometry:
    """The plane of one frame in patient coordinates (LPS, mm), as its header says.

    Attributes:
        frame_of_reference: UID of the coordinate system, "" where none is given.
        position: (x, y, z) of the centre of the top-left pixel.
        orientation: direction cosines: of a row, that is of growing column numbers, then of a
            column.
        spacing: (between rows, between columns).
        thickness: of the slice, None where unknown.
    """

    frame_of_reference: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector perpendicular to the plane, row direction × column direction."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def affine_mm(self) -> NDArray[np.float64]:
        """(4, 4): (x, y, 0, 1) in pixels -> patient coordinates; as `Placement.affine_mm`."""
        return plane_affine_mm(self.position, self.orientation, self.spacing)


def frame_geometry(
    header: Dataset, frame: int, source: str = "", *, reference: bool = True
) -> FrameGeometry | None:
    """The place of frame `frame` (from 0) of a file in the patient.

    With `reference=False` a file without Frame of Reference UID has a place too: one that can be
    compared with other images of the file or series, and with nothing else.

    None where the header does not give all of Frame of Reference UID, position, orientation and
    pixel spacing, or the orientation is not two perpendicular directions.

    Raises:
        ImageError: the header is damaged; `source` names it.
    """
    uid = str(header.get("FrameOfReferenceUID") or "")
    if not uid and reference:
        return None
    described = FrameHeader(header, frame, source)
    plane = frame_plane(described, source)
    measured = described.of("PixelMeasuresSequence")
    spacing = numbers_or_none(measured, "PixelSpacing", 2, source)
    if plane is None or spacing is None or min(spacing) <= 0:
        return None
    thickness = numbers_or_none(measured, "SliceThickness", 1, source)
    known = None if thickness is None or thickness[0] <= 0 else thickness[0]
    return FrameGeometry(uid, *plane, spacing, known)


@dataclass(frozen=True)
class SegGroup:
    """The images that go into one SEG instance.

    Attributes:
        indices: of the stack, in order.
        geometry: of each, or None: one image whose place in the patient is not known.
    """

    indices: tuple[int, ...]
    geometry: tuple[FrameGeometry, ...] | None

    @property
    def thickness_mm(self) -> float | None:
        """Of its slices, None where their place in the patient is not known.

        Readers need a number: where the header has none it is the smallest distance between
        neighbours, and for a single slice the distance between rows.
        """
        if self.geometry is None:
            return None
        first = self.geometry[0]
        if first.thickness is not None:
            return first.thickness
        along = np.sort([float(first.normal @ one.position) for one in self.geometry])
        return float(np.diff(along).min()) if len(along) > 1 else first.spacing[0]


def group_frames(stack: DicomStack, indices: Iterable[int] | None = None) -> list[SegGroup]:
    """Divide images into SEG instances.

    Images of one series, size, frame of reference, orientation and spacing, and at different
    positions along their normal, go into one instance; where several lie at one position (the
    phases of a beating heart), the first of each position make an instance, then the second, and so
    on. An image whose place in the patient is not known is an instance of its own, as highdicom
    requires: nothing in a SEG but its position tells one frame from another.

    Args:
        stack: the images.
        indices: which images; None means all.

    Raises:
        ConfigError: no images, or an index outside the stack.
        ImageError: not DICOM, or a file lacks its rows and columns or the UIDs that a reference to
            it needs.
    """
    if stack.format != "dicom":
        raise ImageError(
            f"{stack.source}: a DICOM SEG refers to DICOM images and this is none; write its masks "
            "as NIfTI, COCO or PNG"
        )
    chosen = range(len(stack)) if indices is None else sorted(set(indices))
    if not chosen:
        raise ConfigError(f"{stack.source}: no image is chosen; give answers for at least one")
    if chosen[0] < 0 or chosen[-1] >= len(stack):
        raise ConfigError(
            f"{stack.source} has images 0 to {len(stack) - 1}, answers name image "
            f"{chosen[0] if chosen[0] < 0 else chosen[-1]}; give answers of this stack"
        )
    with damage_reported(stack.source, "a header cannot be read"):
        return _grouped(stack, chosen)


def _grouped(stack: DicomStack, chosen: Sequence[int]) -> list[SegGroup]:
    headers = stack.headers
    families: dict[tuple[object, ...], list[_Family]] = {}
    groups: list[SegGroup] = []
    for index in chosen:
        file, frame = stack.where(index)
        header = headers[file]
        _check_header(header, stack.source, file)
        geometry = frame_geometry(header, frame, stack.source)
        if geometry is None:
            groups.append(SegGroup((index,), None))
            continue
        key = (
            str(header.SeriesInstanceUID),
            int(header.Rows),
            int(header.Columns),
            geometry.frame_of_reference,
        )
        alike = families.setdefault(key, [])
        family = next((one for one in alike if one.fits(geometry)), None)
        if family is None:
            family = _Family(geometry)
            alike.append(family)
        family.add(index, geometry)
    groups += [
        SegGroup(tuple(i for i, _ in volume), tuple(g for _, g in volume))
        for alike in families.values()
        for family in alike
        for volume in family.volumes
    ]
    return sorted(groups, key=lambda group: group.indices[0])


class _Family:
    """Images with one orientation and spacing, divided into volumes of distinct positions."""

    def __init__(self, first: FrameGeometry) -> None:
        self.first = first
        self.volumes: list[list[tuple[int, FrameGeometry]]] = []
        self._seen: dict[int, int] = {}

    def fits(self, geometry: FrameGeometry) -> bool:
        turned = np.abs(np.subtract(geometry.orientation, self.first.orientation)).max()
        scaled = np.abs(np.subtract(geometry.spacing, self.first.spacing)).max()
        return bool(turned <= _COSINE_TOLERANCE and scaled <= _SPACING_TOLERANCE_MM)

    def add(self, index: int, geometry: FrameGeometry) -> None:
        distance_mm = float(self.first.normal @ geometry.position)
        place = round(distance_mm / _POSITION_TOLERANCE_MM)
        turn = self._seen.get(place, 0)
        self._seen[place] = turn + 1
        if turn == len(self.volumes):
            self.volumes.append([])
        self.volumes[turn].append((index, geometry))


def _check_header(header: Dataset, source: str, file: int) -> None:
    needed = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    lacking = [name for name in needed if not header.get(name)]
    if not header.get("Rows") or not header.get("Columns"):
        lacking.append("Rows and Columns")
    if lacking:
        raise ImageError(
            f"{source}: file {file + 1} lacks {', '.join(lacking)}, so a DICOM SEG cannot refer to "
            "it; write its masks in another format"
        )
