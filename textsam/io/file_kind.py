"""As which kind of file a path is read: by its first bytes, else by its name."""

from __future__ import annotations

from pathlib import Path

from textsam.io.paths import read_head
from textsam.io.sniff import HEAD_BYTES, FileKind, sniff

__all__ = ["DICOM_SUFFIXES", "kind_of_file"]

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")


def kind_of_file(path: Path) -> FileKind | None:
    """As which kind of file `open_stack` reads a file; "gzip" as NIfTI, None as a raster image.

    Raises:
        ImageError: the file cannot be read.
    """
    kind = sniff(read_head(path, HEAD_BYTES))
    # DICOM without its preamble has no signature. What is called so gets the message on DICOM.
    if kind is None and path.suffix.lower() in DICOM_SUFFIXES:
        return "dicom"
    return kind
