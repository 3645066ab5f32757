"""The group of elements at the start of a DICOM file that say what it holds and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

__all__ = ["AFTER_PREFIX", "read_meta"]

AFTER_PREFIX = 132
"""Where it starts, in bytes: after the preamble and "DICM" (PS3.10 7.1)."""


def read_meta(stream: BinaryIO) -> Dataset:
    """File meta information, which is never deflated; the stream is then at the data set.

    Args:
        stream: at `AFTER_PREFIX`.

    Raises (of pydicom, on damaged files):
        Exception: of any kind.
    """
    from pydicom.filereader import read_dataset

    return read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_past_meta)


def _past_meta(tag: BaseTag, *_: object) -> bool:
    return tag.group != 2
