"""Completion of the last of several words with commas between them."""

from __future__ import annotations

from collections.abc import Iterable

from qtpy.QtCore import QModelIndex, Qt
from qtpy.QtWidgets import QCompleter, QLineEdit

__all__ = ["PromptCompleter", "split_prompts"]


def split_prompts(text: str) -> list[str]:
    """The prompts of "tumor, lung": trimmed, without empty ones and repetitions, in order."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


class PromptCompleter(QCompleter):
    """Offers prompts for the part of the line after the last comma.

    Args:
        words: to offer, in this order.
        line: the line they are typed into.
    """

    def __init__(self, words: Iterable[str], line: QLineEdit) -> None:
        super().__init__(list(words), line)
        self._line = line
        self.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.setFilterMode(Qt.MatchFlag.MatchContains)

    def splitPath(self, path: str | None) -> list[str]:  # noqa: N802  # Qt calls it so
        """What is completed: the part after the last comma."""
        return [(path or "").rsplit(",", 1)[-1].strip()]

    def pathFromIndex(self, index: QModelIndex) -> str:  # noqa: N802  # Qt calls it so
        """The whole line with a chosen word in place of its last part."""
        before, comma, _ = self._line.text().rpartition(",")
        word = str(super().pathFromIndex(index))
        return f"{before}{comma} {word}" if comma else word
