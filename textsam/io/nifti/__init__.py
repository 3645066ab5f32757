"""NIfTI volumes in, slice by slice."""

from textsam.io.nifti.stack import NiftiStack, open_nifti

__all__ = ["NiftiStack", "open_nifti"]
