"""Find what a header says about one frame: functional groups first (PS3.3 C.7.6.16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textsam.errors import ImageError
from textsam.io.dicom.values import first_item

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["FrameHeader"]

_PER_FRAME = "PerFrameFunctionalGroupsSequence"


class FrameHeader:
    """The header as it holds for one frame.

    Args:
        header: of the file.
        frame: which frame, from 0.
        source: how the file is called in messages.

    Raises:
        ImageError: the file has functional groups, and none for this frame.
    """

    def __init__(self, header: Dataset, frame: int, source: str) -> None:
        self._source = source
        self.header = header
        self._groups: list[Dataset] = []
        items = header.get(_PER_FRAME)
        if items:
            if frame >= len(items):
                raise ImageError(
                    f"{source}: the header describes {len(items)} frames, frame {frame}, "
                    "from 0, is not among them; the file is damaged: export it again"
                )
            self._groups.append(items[frame])
        shared = first_item(header, "SharedFunctionalGroupsSequence", source)
        if shared is not None:
            self._groups.append(shared)

    def group(self, keyword: str) -> Dataset | None:
        """The functional group `keyword` of this frame, else of all frames, None without one."""
        for groups in self._groups:
            item = first_item(groups, keyword, self._source)
            if item is not None:
                return item
        return None

    def of(self, keyword: str) -> Dataset:
        """The functional group `keyword`, or the header itself where there is no such group."""
        item = self.group(keyword)
        return self.header if item is None else item
