"""Which names can become names of folders."""

from __future__ import annotations

import re

__all__ = ["folder_name_fault"]


def folder_name_fault(name: str) -> str | None:
    """Why a name cannot be that of a folder, and what can be; None: it can."""
    if re.fullmatch(r"[\w.+-]+", name) and not name.startswith("."):
        return None
    return (
        f"{name!r} cannot be the name of a folder; use letters, digits, ., -, + and _, and no . at "
        "the beginning"
    )
