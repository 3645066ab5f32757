"""Lookup tables of DICOM: modality and VOI LUTs, and the palettes of PALETTE COLOR."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.dicom.values import numbers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["LookupTable", "read_lookup", "read_palette"]

_SEGMENT_DISCRETE, _SEGMENT_LINEAR, _SEGMENT_INDIRECT = 0, 1, 2


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A table of outputs for successive inputs (PS3.3 C.11.1.1.1).

    Attributes:
        first: the input that the first entry is for; inputs outside take the nearest entry.
        entries: (n,) outputs, uint16.
        full: the largest output there could be, 2**bits - 1.
    """

    first: int
    entries: NDArray[np.uint16]
    full: int

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """The entries for `values`, rounded to whole numbers first, in the same shape."""
        where = values if values.dtype.kind in "ui" else np.rint(values)
        last = self.first + len(self.entries) - 1
        # In 64 bits: the first input may lie outside the range of the values' own type.
        where = np.clip(where.astype(np.int64), self.first, last) - self.first
        shown: NDArray[np.uint16] = self.entries[where]
        return shown


def _descriptor(dataset: Dataset, keyword: str, signed: bool, source: str) -> tuple[int, int, int]:
    described = numbers(dataset, keyword, source)
    if len(described) != 3 or not 8 <= described[2] <= 16:
        raise ImageError(
            f"{source}: {keyword} is {described}, not (entries, first input, 8 to 16 bits); the "
            "file is damaged: export it again"
        )
    # All three are 16 bits wide, and the reader may have taken the sign of any amiss.
    count, first = int(described[0]) & 0xFFFF or 1 << 16, int(described[1]) & 0xFFFF
    return count, first - (1 << 16) if signed and first >= 1 << 15 else first, int(described[2])


def _entries(
    raw: Any, count: int, bits: int, little_endian: bool, name: str, source: str
) -> NDArray[np.uint16]:
    entries: NDArray[Any]
    if isinstance(raw, bytes):
        if bits == 8 and len(raw) in (count, count + 1):
            entries = np.frombuffer(raw, np.uint8)
        else:
            order = "<" if little_endian else ">"
            entries = np.frombuffer(raw[: len(raw) // 2 * 2], f"{order}u2")
    else:
        entries = np.array(raw if hasattr(raw, "__iter__") else [raw], dtype=np.int64)
    if len(entries) < count:
        raise ImageError(
            f"{source}: {name} has {len(entries)} entries, its descriptor says {count}; the file "
            "is damaged: export it again"
        )
    return entries[:count].astype(np.uint16)


def read_lookup(item: Dataset, signed: bool, little_endian: bool, source: str) -> LookupTable:
    """The table in an item of a Modality or VOI LUT Sequence.

    Args:
        item: has LUTDescriptor and LUTData.
        signed: whether inputs may be negative, which the first input's sign depends on.
        little_endian: of the file.
        source: how the file is called in messages.

    Raises:
        ImageError: descriptor and data are missing or do not fit.
    """
    count, first, bits = _descriptor(item, "LUTDescriptor", signed, source)
    entries = _entries(item.get("LUTData"), count, bits, little_endian, "LUTData", source)
    return LookupTable(first, entries, (1 << bits) - 1)


def read_palette(
    header: Dataset, signed: bool, little_endian: bool, source: str
) -> tuple[LookupTable, LookupTable, LookupTable]:
    """The red, green and blue tables of a PALETTE COLOR image (PS3.3 C.7.9), expanded.

    Raises:
        ImageError: one is missing or damaged.
    """
    red, green, blue = (
        _palette_table(header, colour, signed, little_endian, source)
        for colour in ("Red", "Green", "Blue")
    )
    return red, green, blue


def _palette_table(
    header: Dataset, colour: str, signed: bool, little_endian: bool, source: str
) -> LookupTable:
    name = f"{colour}PaletteColorLookupTable"
    count, first, bits = _descriptor(header, f"{name}Descriptor", signed, source)
    raw = header.get(f"{name}Data")
    if raw is not None:
        if isinstance(raw, bytes) and len(raw) in (count, count + 1) and count > 2:
            bits = 8  # whatever the descriptor says
        entries = _entries(raw, count, bits, little_endian, f"{name}Data", source)
        return LookupTable(first, entries, (1 << bits) - 1)
    segmented = header.get(f"Segmented{name}Data")
    if not isinstance(segmented, bytes):
        raise ImageError(
            f"{source}: the image has PALETTE COLOR pixels and no {name}Data; the file is damaged: "
            "export it again"
        )
    words = _words(segmented, bits, little_endian)
    expanded = _expand(words, count, 1 if bits == 8 else 2, source)
    entries = np.array(expanded, dtype=np.uint16)
    return LookupTable(first, entries, (1 << bits) - 1)


def _words(raw: bytes, bits: int, little_endian: bool) -> tuple[int, ...]:
    if bits == 8:
        return tuple(raw)
    return struct.unpack(
        f"{'<' if little_endian else '>'}{len(raw) // 2}H", raw[: len(raw) // 2 * 2]
    )


def _expand(words: tuple[int, ...], count: int, word_bytes: int, source: str) -> list[int]:
    """Expand segments (PS3.3 C.7.9.2) to exactly `count` entries."""
    offset_words = 4 // word_bytes
    entries: list[int] = []

    def segment(at: int, within_indirect: bool) -> int:
        """Append the entries of the segment at word `at`; return where the next one is."""
        kind, length = words[at], words[at + 1]
        if kind == _SEGMENT_DISCRETE:
            entries.extend(words[at + 2 : at + 2 + length])
            at += 2 + length
        elif kind == _SEGMENT_LINEAR and entries:
            begin, end = entries[-1], words[at + 2]
            entries.extend(round(begin + (end - begin) * k / length) for k in range(1, length + 1))
            at += 3
        elif kind == _SEGMENT_INDIRECT and not within_indirect:
            # The offset counts bytes, in 32 bits with the least significant word first.
            parts = [words[at + 2 + k] << 8 * word_bytes * k for k in range(offset_words)]
            inner = sum(parts) // word_bytes
            for _ in range(length):
                inner = segment(inner, within_indirect=True)
            at += 2 + offset_words
        else:
            raise IndexError
        if len(entries) > count:
            raise IndexError
        return at

    at = 0
    try:
        # One word alone is padding.
        while at < len(words) - 1 and len(entries) < count:
            at = segment(at, within_indirect=False)
    except IndexError:
        entries = []
    if len(entries) != count:
        raise ImageError(
            f"{source}: the segments of a palette do not make up its {count} entries; the file is "
            "damaged: export it again"
        )
    return entries
