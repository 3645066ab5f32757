"""Whom a warning names: the caller's line, however deep in the package it is raised."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_caller"]

_PACKAGE = __name__.partition(".")[0]


def warn_caller(message: str, category: type[Warning]) -> None:
    """`warnings.warn`, naming the nearest line outside this package.

    Python shows a warning once per line it names; named at a line of the package, all callers would
    share that one.

    Args:
        message: what to say.
        category: of the warning.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")
