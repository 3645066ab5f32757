"""How many items the sequences of a header may have: each costs half a kilobyte, and time.

An item takes eight bytes in a file, deflated much less, and a hundred times that in memory. So a
file of a few kilobytes could ask for gigabytes and minutes, all of it before its first pixel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, BinaryIO

from textsam.errors import LimitError
from textsam.io.limits import Limits

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["ITEMS_PER_IMAGE", "ItemCounter", "count_deferred"]

ITEMS_PER_IMAGE = 16
"""Items a header may have for each image that a source may hold."""
# An enhanced file has about a kilobyte of header for a frame, and hardly ever is one deflated.
_MOST_DEFLATED_HEADER_BYTES = 16 * 1024**2
_CHUNK_BYTES = 1 << 20


class ItemCounter:
    """A stream to parse a header from that counts the item tags passing by.

    Those of sequences that are parsed later, as somebody asks for them, pass by as bytes.

    Args:
        stream: positioned at the header.
        limits: of the source.
        source: the name for messages.
        big_endian: byte order of the data.
        deflated: the stream is what a deflated file unfolds to.

    Attributes:
        refused: what `read` has raised, as a parser may turn it into an error of its own.
    """

    def __init__(
        self, stream: BinaryIO, limits: Limits, source: str, *, big_endian: bool, deflated: bool
    ) -> None:
        self._stream = stream
        self._tag = b"\xff\xfe\xe0\x00" if big_endian else b"\xfe\xff\x00\xe0"
        self._most = ITEMS_PER_IMAGE * limits.max_images
        self._source = source
        self._most_bytes = _MOST_DEFLATED_HEADER_BYTES if deflated else math.inf
        self._items = self._bytes = self._seen = 0
        self.refused: LimitError | None = None
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int, /) -> bytes:
        """As of the stream.

        Raises:
            LimitError: more items than the limit allows, or too long a deflated header.
        """
        start = self.tell()
        data = self._stream.read(size)
        end = start + len(data)
        if end > self._seen:  # a parser goes back to look again
            self._count(data if start >= self._seen else data[self._seen - start :])
            self._seen = end
        return data

    def read_left_out(self, start: int, length: int) -> None:
        """Count what the parser left where it is, and come back.

        Raises:
            LimitError: as `read`.
        """
        place = self.tell()
        self.seek(start)
        while length > 0 and (data := self._stream.read(min(length, _CHUNK_BYTES))):
            length -= len(data)
            self._count(data)
        self.seek(place)

    def _count(self, data: bytes) -> None:
        self._items += data.count(self._tag)
        self._bytes += len(data)
        if self._items > self._most or self._bytes > self._most_bytes:
            self.refused = self._refusal()
            raise self.refused

    def _refusal(self) -> LimitError:
        if self._items > self._most:
            return LimitError(
                f"{self._source}: the header has more than {self._most:,} items in sequences, "
                f"{ITEMS_PER_IMAGE} for each image that a source may hold; raise max_images "
                "(--max-images) if the file is meant to be so"
            )
        return LimitError(
            f"{self._source}: the header of this deflated file unfolds to more than "
            f"{self._most_bytes:,} bytes; export it again without deflation"
        )


def count_deferred(header: Dataset, counter: ItemCounter) -> None:
    """Count the items of elements so large that they have been left in the file for later.

    Args:
        header: as parsed from `counter`.
        counter: left where it was.

    Raises:
        LimitError: as `ItemCounter.read`.
    """
    for tag in header.keys():  # noqa: SIM118  # iterating would convert every element
        element: Any = header.get_item(tag, keep_deferred=True)
        if element.value is None and getattr(element, "length", None):
            counter.read_left_out(element.value_tell, element.length)
