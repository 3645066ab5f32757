"""What an archive's answers say: DICOM JSON (PS3.18 F) to the few values that are needed.

Archives add names and dates of patients to their lists without being asked. They are dropped here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "SEGMENTATION_STORAGE",
    "UID_PATTERN",
    "InstanceEntry",
    "SeriesEntry",
    "failures",
    "instance_entry",
    "referenced_series",
    "series_entry",
    "warnings_of",
]

UID_PATTERN = re.compile(r"[0-9][0-9.]{0,63}")
"""Digits and dots, at most 64: PS3.5 9.1, but with leading zeros, which archives do hold."""

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
"""Segmentation Storage, PS3.6 table A-1."""

_MODALITY, _SOP_CLASS, _SOP_INSTANCE = "00080060", "00080016", "00080018"
_SERIES_INSTANCE, _NUMBER_OF_FRAMES = "0020000E", "00280008"
_SERIES_INSTANCES = "00201209"
_REFERENCED_SERIES = "00081115"

# PS3.18 table I.2-2, in short.
_REASONS = {
    0x0110: "processing failure",
    0x0111: "an object of that UID is already there",
    0x0117: "invalid UID",
    0x0122: "this class of objects is not supported",
    0x0124: "not authorised",
    0x0131: "not supported for the data that was sent",
    0xC122: "this transfer syntax is not supported",
}
_REASON_GROUPS = {
    0xA7: "out of resources",
    0xA9: "data does not match its class",
    0xC0: "not understood",
}


@dataclass(frozen=True)
class SeriesEntry:
    """A series as the archive lists it.

    Attributes:
        series_uid: SeriesInstanceUID.
        modality: such as "CT"; "" where the archive does not say.
        instances: how many instances it has, 0 where the archive does not say.
    """

    series_uid: str
    modality: str
    instances: int

    @property
    def uid(self) -> str:
        """What tells it from the others of a list."""
        return self.series_uid


@dataclass(frozen=True)
class InstanceEntry:
    """An instance as the archive lists it.

    Attributes:
        sop_instance_uid: its UID.
        sop_class_uid: what kind of object it is.
        series_uid: the series it is in; "" where the archive does not repeat it.
        frames: number of frames, 1 where the archive does not say.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    frames: int

    @property
    def uid(self) -> str:
        """What tells it from the others of a list."""
        return self.sop_instance_uid


def series_entry(item: Mapping[str, Any]) -> SeriesEntry:
    """Read one match of a search for series; ValueError where it is none."""
    return SeriesEntry(
        _uid(item, _SERIES_INSTANCE),
        _text(item, _MODALITY),
        int(_first(item, _SERIES_INSTANCES) or 0),
    )


def instance_entry(item: Mapping[str, Any]) -> InstanceEntry:
    """Read one match of a search for instances; ValueError where it is none."""
    series = _text(item, _SERIES_INSTANCE)
    return InstanceEntry(
        _uid(item, _SOP_INSTANCE),
        _uid(item, _SOP_CLASS),
        series if UID_PATTERN.fullmatch(series) else "",
        int(_first(item, _NUMBER_OF_FRAMES) or 1),
    )


def referenced_series(metadata: Mapping[str, Any]) -> frozenset[str]:
    """UIDs in the Referenced Series Sequence (0008,1115) of an instance's metadata."""
    items = metadata.get(_REFERENCED_SERIES, {}).get("Value") or []
    return frozenset(_uid(item, _SERIES_INSTANCE) for item in items)


def failures(answer: Dataset) -> list[str]:
    """Reasons why objects were not taken, in the answer to a store request; [] for success."""
    # In the second is what the archive could not even tell the UID of.
    sequences = [answer.get(name, []) for name in ("FailedSOPSequence", "OtherFailuresSequence")]
    return [_reason(int(item.get("FailureReason") or 0)) for items in sequences for item in items]


def warnings_of(answer: Dataset) -> list[str]:
    """Warning codes in the answer to a store request: such as "B000", elements were changed."""
    items = answer.get("ReferencedSOPSequence", [])
    return [f"{int(item.WarningReason):04X}" for item in items if item.get("WarningReason")]


def _reason(code: int) -> str:
    meaning = _REASONS.get(code) or _REASON_GROUPS.get(code >> 8)
    return f"{code:04X} ({meaning})" if meaning else f"{code:04X}"


def _first(item: Mapping[str, Any], tag: str) -> Any:
    if not isinstance(item, Mapping):
        raise ValueError("a match is not a DICOM JSON object")
    values = (item.get(tag) or {}).get("Value") or [None]
    return values[0]


def _text(item: Mapping[str, Any], tag: str) -> str:
    value = _first(item, tag)
    return value.strip() if isinstance(value, str) else ""


def _uid(item: Mapping[str, Any], tag: str) -> str:
    text = _text(item, tag)
    if not UID_PATTERN.fullmatch(text):
        raise ValueError(f"a match has no UID in {tag}")
    return text
