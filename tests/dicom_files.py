"""DICOM files for tests: those that come inside pydicom, and small ones made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
"""pydicom's own test files, inside the installed package; the others it would download."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT = "1.2.840.10008.5.1.4.1.1.2"
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
AXIAL = [1, 0, 0, 0, 1, 0]


def bundled(name: str) -> Path:
    path = BUNDLED / name
    assert path.is_file(), f"pydicom no longer brings {name}"
    return path


def item(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def items(*datasets: Dataset) -> Sequence:
    return Sequence(datasets)


def make(pixels: NDArray[Any], **attributes: Any) -> Dataset:
    """A dataset whose pixels are `pixels`: (H, W), (H, W, 3), (N, H, W) or (N, H, W, 3).

    `attributes` are set last, None deletes. `syntax` is the transfer syntax.
    """
    syntax = attributes.pop("syntax", ExplicitVRLittleEndian)
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    frames = pixels.shape[0] if pixels.ndim == (4 if colour else 3) else None
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = attributes.pop("SOPClassUID", SECONDARY_CAPTURE)
    dataset.SOPInstanceUID = attributes.pop("SOPInstanceUID", generate_uid())
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = "1.2.3.1"
    dataset.SeriesInstanceUID = "1.2.3.2"
    dataset.PatientName = "Secret^Name"
    dataset.PatientID = "SECRET-ID"
    dataset.Modality = "OT"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    if frames is not None:
        dataset.NumberOfFrames = frames
    bits = pixels.dtype.itemsize * 8
    if pixels.dtype.kind == "f":
        dataset.BitsAllocated = bits
        raw = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        setattr(dataset, "FloatPixelData" if bits == 32 else "DoubleFloatPixelData", raw)
    else:
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        order = "<" if syntax.is_little_endian else ">"
        raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        dataset.add_new("PixelData", "OW" if bits > 8 else "OB", raw + b"\0" * (len(raw) % 2))
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(path: Path, pixels: NDArray[Any], **attributes: Any) -> Path:
    make(pixels, **attributes).save_as(path, enforce_file_format=True)
    return path


def ramp(
    height: int = 8, width: int = 16, dtype: Any = np.uint16, start: int = 0, step: int = 1
) -> NDArray[Any]:
    """Each pixel another value: start, start + step, … along rows."""
    return (np.arange(height * width) * step + start).reshape(height, width).astype(dtype)
