"""Progress bars of long work, on standard error: standard output belongs to the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

__all__ = ["with_bar"]

Item = TypeVar("Item")


def with_bar(
    items: Sequence[Item], doing: str, *, shown: bool, stays: bool = True
) -> Iterable[Item]:
    """The items, with a bar that moves as they are taken.

    Args:
        items: what is worked through.
        doing: beside the bar.
        shown: False gives the items alone.
        stays: leave the bar on the screen when all are done.
    """
    console = Console(stderr=True)
    return track(items, doing, console=console, transient=not stays, disable=not shown)
