"""Read the header of one DICOM file, and check what it asks for before any pixel is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from textsam.errors import ImageError
from textsam.io.dicom.guard import damage_reported, require_pydicom
from textsam.io.dicom.items import ItemCounter, count_deferred
from textsam.io.dicom.layout import BIG_ENDIAN, PixelLayout, read_layout
from textsam.io.dicom.meta import AFTER_PREFIX, read_meta
from textsam.io.dicom.stream import DicomReader, inflate, open_clamped
from textsam.io.dicom.values import text
from textsam.io.limits import Limits
from textsam.io.paths import existing_file

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.tag import BaseTag

__all__ = ["DEFLATED", "DicomFile", "NoPictureError", "open_pixels", "read_file"]

DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT = "1.2.840.10008.1.2"
_DICOMDIR = "1.2.840.10008.1.3.10"
# Segmentation, Surface Segmentation and Label Map Segmentation Storage.
_SEGMENTATIONS = frozenset(f"1.2.840.10008.5.1.4.1.1.66.{last}" for last in (4, 5, 7))

_PIXELS = {
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
    (0x7FE0, 0x0010): "PixelData",
}
_UNDEFINED = 0xFFFFFFFF
# A larger element stays on disk until somebody asks for it. No element a picture needs is near it.
_DEFERRED_BYTES = 16 * 1024**2


class NoPictureError(ImageError):
    """A sound DICOM file that holds something else than a picture: a report, structures, a SEG."""


@dataclass(frozen=True, eq=False)
class DicomFile:
    """One DICOM file whose header has been read.

    Attributes:
        path: where it is.
        header: all elements before the pixel data, with `file_meta`.
        layout: how the pixels are stored.
        header_bytes: how much of the file the header takes, inflated where it is deflated.
        stamp: size in bytes and time of the last change in ns, to notice another file in its place.
    """

    path: Path
    header: FileDataset
    layout: PixelLayout
    header_bytes: int
    stamp: tuple[int, int]


def read_file(path: str | Path, limits: Limits) -> DicomFile:
    """Read and check the header of one file.

    Raises:
        NoPictureError: sound DICOM without a picture.
        ImageError: not DICOM, damaged, or over a limit.
    """
    path = existing_file(path)
    source = str(path)
    require_pydicom(source)
    with open_clamped(path) as stream:
        limits.check_bytes(stream.size_bytes, source)
        stamp = (stream.size_bytes, stream.changed_ns)
        if stream.read(AFTER_PREFIX)[-4:] != b"DICM":
            raise ImageError(
                f"{source}: not a DICOM file (no DICM after 128 bytes); pass a DICOM file, or "
                "have the device or archive export it again as a DICOM Part 10 file"
            )
        with damage_reported(source, "the DICOM header cannot be read"):
            return _read(path, stream, stamp, limits)


def _read(path: Path, stream: DicomReader, stamp: tuple[int, int], limits: Limits) -> DicomFile:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.filereader import read_dataset

    source = str(path)

    # Not dcmread: it inflates a deflated file whole, whatever it inflates to.
    meta = FileMetaDataset(read_meta(stream))
    syntax = text(meta, "TransferSyntaxUID", source)
    if text(meta, "MediaStorageSOPClassUID", source) == _DICOMDIR:
        raise NoPictureError(
            f"{source}: this is a DICOMDIR, the index of a medium; pass the folder that holds the "
            "image files themselves"
        )
    if not syntax:
        raise ImageError(
            f"{source}: the file does not say how it is encoded (no Transfer Syntax UID); export "
            "it again as a DICOM Part 10 file"
        )
    body: BinaryIO = inflate(stream, limits, source) if syntax == DEFLATED else stream
    start = body.tell()
    counter = ItemCounter(
        body, limits, source, big_endian=syntax == BIG_ENDIAN, deflated=syntax == DEFLATED
    )
    try:
        dataset = read_dataset(
            cast("BinaryIO", counter),
            is_implicit_VR=syntax == _IMPLICIT,
            is_little_endian=syntax != BIG_ENDIAN,
            stop_when=_at_pixels,
            # What is put off is read from the path later, which knows nothing of deflation.
            defer_size=None if syntax == DEFLATED else _DEFERRED_BYTES,
        )
    except Exception as error:
        # Inside a sequence pydicom raises an error of its own about it.
        if counter.refused is not None:
            raise counter.refused from error
        raise
    if stream.size_bytes > _DEFERRED_BYTES:
        count_deferred(dataset, counter)
    implicit = bool(dataset.original_encoding[0])
    header = FileDataset(source, dataset, None, meta, implicit, syntax != BIG_ENDIAN)
    header.set_original_encoding(implicit, syntax != BIG_ENDIAN, dataset.original_character_set)
    header_bytes = body.tell() - start

    kind = text(header, "SOPClassUID", source) or text(meta, "MediaStorageSOPClassUID", source)
    if kind in _SEGMENTATIONS:
        raise NoPictureError(
            f"{source}: this is a segmentation object (SEG), not an image; pass the image it was "
            "drawn on"
        )
    element = _pixel_element(body, implicit, syntax)
    if element is None:
        raise _without_pixels(header, kind, source)
    keyword, vr, length = element
    layout = read_layout(header, source, limits, syntax, keyword, vr, (body.tell(), length))
    return DicomFile(path, header, layout, header_bytes, stamp)


def _at_pixels(tag: BaseTag, *_: object) -> bool:
    return (tag.group, tag.element) in _PIXELS


def _pixel_element(
    body: BinaryIO, implicit: bool, syntax: str
) -> tuple[str, str, int | None] | None:
    """Keyword, VR and length (None: undefined) of the element the reader stopped at, if any."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    head = body.read(8)
    if len(head) < 8:
        return None
    keyword = _PIXELS.get(struct.unpack(f"{order}HH", head[:4]))
    if keyword is None:
        return None
    if implicit:
        return keyword, "OW", _length(head[4:], order)
    vr = head[4:6].decode("ascii")
    return keyword, vr, _length(body.read(4), order)


def _length(raw: bytes, order: str) -> int | None:
    (length,) = struct.unpack(f"{order}L", raw)
    return None if length == _UNDEFINED else int(length)


def _without_pixels(header: FileDataset, kind: str, source: str) -> ImageError:
    from pydicom.uid import UID

    if "Rows" in header:
        return ImageError(
            f"{source}: the file describes an image and ends before its pixel data; it is "
            "truncated, copy or export it again"
        )
    name = UID(kind).name if kind and UID(kind).is_valid else "an object of unknown kind"
    return NoPictureError(
        f"{source}: the file holds no pixel data ({name}); pass an image, not a report, plan, "
        "structure set or presentation state"
    )


def open_pixels(file: DicomFile, limits: Limits) -> BinaryIO:
    """Open the file again, so that offsets of its layout hold.

    Raises:
        ImageError: the file has been changed or replaced since its header was read.
    """
    source = str(file.path)
    stream = open_clamped(file.path)
    try:
        if (stream.size_bytes, stream.changed_ns) != file.stamp:
            raise ImageError(f"{source}: the file was changed after it was opened; open it again")
        if file.layout.syntax != DEFLATED:
            return stream
        with stream, damage_reported(source, "the deflated data cannot be read"):
            stream.seek(AFTER_PREFIX)
            read_meta(stream)
            return inflate(stream, limits, source)
    except BaseException:
        stream.close()
        raise
