"""Who wants to know how a run goes, such as a progress bar."""

from __future__ import annotations

from typing import Any

from textsam.folder.manifest import InputRecord
from textsam.folder.plan import Input, Plan

__all__ = ["Listener"]


class Listener:
    """Called while a run goes on, in the thread that runs it; here each call does nothing."""

    def planned(self, plan: Plan) -> None:
        """The run begins."""

    def skipped(self, record: InputRecord) -> None:
        """An input was done by an earlier run."""

    def answered(self, item: Input, result: dict[str, Any]) -> None:
        """One prompt was answered on one image; `result` is an entry of `InputRecord.results`."""

    def failed(self, item: Input, frame: int | None, error: str) -> None:
        """An image of an input failed, or, where `frame` is None, the input."""

    def finished(self, record: InputRecord) -> None:
        """All of an input is written, and its line in the manifest."""
