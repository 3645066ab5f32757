"""Runs over folders: many inputs, outputs in place or not at all, and a way to go on.

    from textsam.folder import Options, segment_folder

    summary = segment_folder(textsam.load_model(), "scans", ["tumor"], "masks", resume=True)

Importing it is cheap; the modules that need the heavy libraries come with the first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsam.folder.errors import OutputError
    from textsam.folder.listener import Listener
    from textsam.folder.manifest import InputRecord
    from textsam.folder.options import Options
    from textsam.folder.plan import Plan, make_plan
    from textsam.folder.run import FolderSummary, run_plan, segment_folder

__all__ = [
    "FolderSummary",
    "InputRecord",
    "Listener",
    "Options",
    "OutputError",
    "Plan",
    "make_plan",
    "run_plan",
    "segment_folder",
]

_LAZY = {
    "FolderSummary": "run",
    "InputRecord": "manifest",
    "Listener": "listener",
    "Options": "options",
    "OutputError": "errors",
    "Plan": "plan",
    "make_plan": "plan",
    "run_plan": "run",
    "segment_folder": "run",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
