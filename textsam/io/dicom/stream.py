"""Open files so that no length in them, true or not, decides how much memory is spent."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

from textsam.errors import ImageError
from textsam.io.clamped import ClampedReader
from textsam.io.limits import Limits

__all__ = ["DicomReader", "inflate", "open_clamped"]

_COMPRESSED_CHUNK = 1 << 16
_INFLATED_CHUNK = 1 << 20


class DicomReader(ClampedReader):
    """A file with its size and the time of its last change, of which no read is without bounds.

    Args:
        raw: the file, open for reading.
    """

    def __init__(self, raw: io.FileIO) -> None:
        status = os.fstat(raw.fileno())
        super().__init__(raw, status.st_size)
        self.size_bytes = status.st_size
        self.changed_ns = status.st_mtime_ns

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, and fewer where the file ends before."""
        if size is None or size < 0:
            # pydicom inflates deflated files whole, from such a read.
            raise ValueError("a read has to say how many bytes it is of")
        return super().read(size)


def open_clamped(path: Path) -> DicomReader:
    """Open an existing file for reading.

    Raises:
        ImageError: it cannot be opened.
    """
    try:
        return DicomReader(io.FileIO(path, "rb"))
    except OSError as error:
        raise ImageError(
            f"{path}: the file cannot be opened ({error.strerror}); check that it is there and may "
            "be read"
        ) from error


def inflate(stream: DicomReader, limits: Limits, source: str) -> io.BytesIO:
    """Inflate the rest of a file with a deflated transfer syntax (PS3.5 A.5), within the limit.

    Raises:
        ImageError: it inflates to more than `max_inflated_bytes`, found out on the way there, or
            the compressed data is damaged or incomplete.
    """
    inflated = io.BytesIO()
    # Deflated data in DICOM has no zlib header, which the negative window size says.
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while not machine.eof and (chunk := stream.read(_COMPRESSED_CHUNK)):
            while chunk and not machine.eof:
                inflated.write(machine.decompress(chunk, _INFLATED_CHUNK))
                limits.check_inflated(inflated.tell(), source)
                chunk = machine.unconsumed_tail
    except zlib.error as error:
        raise ImageError(
            f"{source}: the deflated data is damaged ({error}); copy or export the file again"
        ) from error
    if not machine.eof:
        raise ImageError(
            f"{source}: the deflated data ends before its end; the file is truncated, copy or "
            "export it again"
        )
    inflated.seek(0)
    return inflated
