"""The kinds of file a run can write, and which input can have which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from textsam.errors import ImageError
from textsam.io.stack import Stack

__all__ = ["Format", "formats_for"]

Format = Literal["png", "tiff", "nifti", "seg", "coco"]


def formats_for(stack: Stack, wanted: Sequence[Format]) -> tuple[Format, ...]:
    """Those of the formats that an input can have.

    A DICOM segmentation is about DICOM images, and pages of a TIFF make no volume. Whether the
    images of a DICOM input make one turns out when it is written, unless NIfTI is all that would
    be: then they would be segmented for nothing.

    Raises:
        ImageError: none of them.
        TextSAMError: nothing but NIfTI is to be written, and nibabel is not installed.
    """
    unfit: set[Format] = set()
    if stack.format != "dicom":
        unfit.add("seg")
    if stack.format == "raster" and len(stack) > 1:
        unfit.add("nifti")
    fitting = tuple(name for name in wanted if name not in unfit)
    if not fitting:
        raise ImageError(
            f"{stack.source}: none of the formats asked for ({', '.join(wanted)}) fits this "
            f"{stack.format} file: seg is for DICOM images, nifti for volumes and single images; "
            "add the format png"
        )
    if set(fitting) == {"nifti"}:
        from textsam.io.nifti_out import check_nifti

        check_nifti(stack)
    return fitting
