"""Settings of a library that are module globals, held at a value for a moment."""

from __future__ import annotations

import threading
from types import ModuleType

__all__ = ["HeldSetting"]


class HeldSetting:
    """Hold a module global at a value while any thread is inside, then restore it.

    The lock guards the count only, so threads work side by side.
    """

    def __init__(self, module: ModuleType, name: str, value: object) -> None:
        self._module, self._name, self._value = module, name, value
        self._lock = threading.Lock()
        self._inside = 0
        self._before: object = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = getattr(self._module, self._name)
                setattr(self._module, self._name, self._value)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                setattr(self._module, self._name, self._before)
