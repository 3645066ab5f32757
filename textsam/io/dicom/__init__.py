"""DICOM images in: single files, cines and enhanced objects, and folders that hold a series.

pydicom is imported when something is opened, not before.
"""

from __future__ import annotations

from textsam.io.dicom.header import NoPictureError
from textsam.io.dicom.series import open_dicom, open_series
from textsam.io.dicom.stack import DicomStack

__all__ = ["DicomStack", "NoPictureError", "open_dicom", "open_series"]
