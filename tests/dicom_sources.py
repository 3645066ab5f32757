"""DICOM files made for tests: series and enhanced multi-frame files with a place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dicom_files import make
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage
from pydicom.valuerep import DSfloat

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
FRAME_OF_REFERENCE = "1.2.3.4.5.6"


def ds(values: Sequence[float]) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


def base(size: tuple[int, int], frames: int, **attributes: Any) -> Dataset:
    """A black CT image with nothing but what reading needs, and `attributes`."""
    return make(
        np.zeros(size if frames == 1 else (frames, *size), np.uint8),
        **{
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": "1.2.3.9.1",
            "StudyInstanceUID": "1.2.3.7",
            "SeriesInstanceUID": "1.2.3.8",
            "Modality": "CT",
            "SeriesNumber": 4,
            "PatientID": "P1",
            "PatientName": "Test^Case",
            **attributes,
        },
    )


def save(made: Dataset, path: Path) -> Path:
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    positions: Sequence[Sequence[float]],
    *,
    size: tuple[int, int] = (16, 20),
    orientation: Sequence[Sequence[float]] | Sequence[float] = AXIAL,
    spacing: Sequence[float] = (0.8, 0.5),
    **attributes: Any,
) -> list[Path]:
    """One single-frame file per position; `orientation` is one, or one for each."""
    paths = []
    for number, position in enumerate(positions):
        turned = orientation if np.ndim(orientation) == 1 else orientation[number]
        made = base(size, 1, **attributes)
        made.SOPInstanceUID = f"1.2.3.9.{number + 1}"
        made.InstanceNumber = number + 1
        made.FrameOfReferenceUID = FRAME_OF_REFERENCE
        made.ImagePositionPatient = ds(position)
        made.ImageOrientationPatient = ds(np.asarray(turned, dtype=float))
        made.PixelSpacing = ds(spacing)
        paths.append(save(made, folder / f"{number:03d}.dcm"))
    return paths


def write_enhanced(
    path: Path,
    positions: Sequence[Sequence[float]],
    *,
    size: tuple[int, int] = (16, 20),
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (0.8, 0.5),
) -> Path:
    """An enhanced MR file: one frame per position, places in functional groups."""
    made = base(size, len(positions), SOPClassUID=EnhancedMRImageStorage, Modality="MR")
    made.FrameOfReferenceUID = FRAME_OF_REFERENCE
    turned, measured, shared = Dataset(), Dataset(), Dataset()
    turned.ImageOrientationPatient = ds(orientation)
    measured.PixelSpacing, measured.SliceThickness = ds(spacing), 2
    shared.PlaneOrientationSequence = [turned]
    shared.PixelMeasuresSequence = [measured]
    made.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for position in positions:
        plane, frame = Dataset(), Dataset()
        plane.ImagePositionPatient = ds(position)
        frame.PlanePositionSequence = [plane]
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = frames
    return save(made, path)


def rotation(angles: Sequence[float]) -> NDArray[np.float64]:
    """A (3, 3) rotation from three angles in radians."""
    a, b, c = angles
    around_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    around_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    around_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.array(around_x) @ np.array(around_y) @ np.array(around_z)
