"""JSON too long to be in memory: an object whose last members are lists that come one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from textwrap import indent
from typing import Any

__all__ = ["write_object"]


def write_object(
    write: Callable[[str], object],
    head: Mapping[str, Any],
    lists: Mapping[str, Iterable[Mapping[str, Any]]],
) -> None:
    """Write what `json.dumps({**head, **lists}, indent=2)` and a line end would be.

    Args:
        write: takes text, such as the method of an open file.
        head: members to begin with, at least one.
        lists: members that follow; each entry is taken when it is its turn, and then dropped.
    """
    before = "{\n"
    for key, value in head.items():
        write(before + indent(f"{json.dumps(key)}: {json.dumps(value, indent=2)}", "  "))
        before = ",\n"
    for key, entries in lists.items():
        write(f"{before}  {json.dumps(key)}: [")
        end, following = "]", "\n"
        for entry in entries:
            write(following + indent(json.dumps(entry, indent=2), "    "))
            end, following = "\n  ]", ",\n"
        write(end)
    write("\n}\n")
