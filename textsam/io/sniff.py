"""What a file is, by its first bytes; its name is not asked."""

from __future__ import annotations

from typing import Literal

__all__ = ["HEAD_BYTES", "FileKind", "sniff"]

FileKind = Literal["png", "jpeg", "bmp", "tiff", "nifti", "gzip", "dicom"]

HEAD_BYTES = 352
"""How many bytes from the start of a file `sniff` looks at; fewer are enough for most kinds."""

_STARTS: tuple[tuple[bytes, FileKind], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    # TIFF 6.0, section 2, and BigTIFF, which has 43 in place of 42.
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\x1f\x8b", "gzip"),
)
_DICOM_MAGIC_AT = 128
_NIFTI1_MAGIC_AT = 344
_NIFTI2_MAGIC_AT = 4
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)


def sniff(head: bytes) -> FileKind | None:
    """The kind of file that begins with `head`, or None where no kind's signature is there.

    Args:
        head: the first bytes of the file, best `HEAD_BYTES` of them; more do no harm.

    Returns:
        * "dicom": `DICM` after a preamble of 128 bytes (DICOM PS3.10, 7.1). The preamble may hold
          anything, a TIFF header among others, so this is looked for first. Files without a
          preamble have no signature and are None.
        * "png", "jpeg", "bmp", "tiff" (BigTIFF too), "gzip".
        * "nifti": NIfTI-1 or NIfTI-2 with its voxels in the same file, and also the header of a
          pair of files (.hdr and .img), which is told apart when it is opened.
    """
    if head[_DICOM_MAGIC_AT : _DICOM_MAGIC_AT + 4] == b"DICM":
        return "dicom"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[_NIFTI1_MAGIC_AT : _NIFTI1_MAGIC_AT + 4] in (b"n+1\0", b"ni1\0"):
        return "nifti"
    if head[_NIFTI2_MAGIC_AT : _NIFTI2_MAGIC_AT + 4] in (b"n+2\0", b"ni2\0"):
        return "nifti"
    # Two letters are not much of a signature, so the size of the header that follows counts too.
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    return None
