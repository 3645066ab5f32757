"""Runs over folders: many inputs, outputs in place or not at all, and a way to go on.

    from textsam.folder import Options, segment_folder

    summary = segment_folder(textsam.load_model(), "scans", ["tumor"], "masks", resume=True)

Importing it is cheap; the modules that need the heavy libraries come with the first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsam.errors import OutputError
    from textsam.folder.manifest import InputRecord
    from textsam.folder.options import Options
    from textsam.folder.plan import Plan, make_plan
    from textsam.folder.process import Listener
    from textsam.folder.run import FolderSummary, LeftoverWarning, run_plan, segment_folder

__all__ = [
    "FolderSummary",
    "InputRecord",
    "LeftoverWarning",
    "Listener",
    "Options",
    "OutputError",
    "Plan",
    "make_plan",
    "run_plan",
    "segment_folder",
]

_LAZY = {
    "FolderSummary": "textsam.folder.run",
    "InputRecord": "textsam.folder.manifest",
    "LeftoverWarning": "textsam.folder.run",
    "Listener": "textsam.folder.process",
    "Options": "textsam.folder.options",
    "OutputError": "textsam.errors",
    "Plan": "textsam.folder.plan",
    "make_plan": "textsam.folder.plan",
    "run_plan": "textsam.folder.run",
    "segment_folder": "textsam.folder.run",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
