"""Settings of a library that are the process's, held at a value for a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["HeldSetting"]


class HeldSetting:
    """Hold an attribute at a value while any thread is inside, then restore it.

    The lock guards the count only, so threads work side by side.

    Args:
        owner: a module, say.
        name: of its attribute.
        value: what it is held at.
        put: how it is set.
    """

    def __init__(
        self,
        owner: object,
        name: str,
        value: object,
        put: Callable[[Any, str, Any], None] = setattr,
    ) -> None:
        self._owner, self._name, self._value, self._put = owner, name, value, put
        self._lock = threading.Lock()
        self._inside = 0
        self._before: object = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = getattr(self._owner, self._name)
                self._put(self._owner, self._name, self._value)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._put(self._owner, self._name, self._before)
