"""Read files so that no length in them, true or not, decides how much memory is set aside."""

from __future__ import annotations

import io

__all__ = ["ClampedReader"]

_SMALL_BYTES = 1 << 13


class ClampedReader(io.BufferedReader):
    """A file whose `read` sets aside no more memory than the file has bytes left.

    `BufferedReader.read(n)` allocates n bytes first, and a damaged file may name any n.

    Args:
        raw: the file, open for reading.
        size_bytes: how long it is.
    """

    def __init__(self, raw: io.RawIOBase, size_bytes: int) -> None:
        super().__init__(raw)
        self._size_bytes = size_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, and fewer where the file ends before."""
        if size is not None and size > _SMALL_BYTES:
            size = max(0, min(size, self._size_bytes - self.tell()))
        return super().read(size)
