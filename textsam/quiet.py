"""Keep what libraries warn about from the caller, in any number of threads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet"]

_LOCK = threading.Lock()
_inside = 0
_before: Any = None


@contextmanager
def quiet(*filters: dict[str, Any]) -> Iterator[None]:
    """Ignore warnings while the block runs.

    The first thread in keeps the filters there were and the last one out restores them:
    `warnings.catch_warnings`, entered by two threads in turn, would restore the wrong ones. So all
    that silences warnings of libraries in this package goes through here.

    Args:
        filters: arguments of `warnings.filterwarnings` besides the action.
    """
    global _inside, _before  # noqa: PLW0603  # filters are the process's, so is what guards them
    with _LOCK:
        if _inside == 0:
            _before = warnings.catch_warnings()
            _before.__enter__()
        for one in filters:
            warnings.filterwarnings("ignore", **one)
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                _before.__exit__(None, None, None)
