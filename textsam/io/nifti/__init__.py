"""NIfTI volumes in, slice by slice."""

from textsam.io.nifti.header import NiftiHeader, parse_header
from textsam.io.nifti.plane import Plane
from textsam.io.nifti.stack import NiftiStack, open_nifti

__all__ = ["NiftiHeader", "NiftiStack", "Plane", "open_nifti", "parse_header"]
