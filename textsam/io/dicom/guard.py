"""What stands between damaged files and the caller: one kind of error, and no chatter."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from textsam.errors import ImageError, TextSAMError
from textsam.quiet import quiet

__all__ = ["damage_reported", "require_pydicom"]

_LONGEST_WORDS = 300
_PYDICOM_LOG = logging.getLogger("pydicom")


def require_pydicom(source: str) -> None:
    """Raise ImageError where pydicom is not installed."""
    if find_spec("pydicom") is None:
        raise ImageError(
            f"{source}: reading DICOM needs pydicom, which is not installed; run "
            '`pip install "textsam[medical]"`'
        )


class _QuietLog:
    """Keep pydicom's log silent while any thread is inside: each of its warnings is logged too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._level = logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._level = _PYDICOM_LOG.level
                _PYDICOM_LOG.setLevel(logging.CRITICAL + 1)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _PYDICOM_LOG.setLevel(self._level)


_quiet_log = _QuietLog()
# pydicom's warnings are about values that break a rule of the standard, of patients' names and
# dates as of anything else, and would name them. What matters for the picture is checked here.
# Pillow's: frame sizes are compared with the header before a decoder sees them.
_CHATTER = ({"module": r"pydicom(\.|$)"}, {"module": r"PIL\.Image$"})


@contextmanager
def damage_reported(source: str, what: str, *, in_its_words: bool = False) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into ImageError.

    The message names the kind of the error only: the library's own words may hold values of
    elements, and so a patient's name. `in_its_words` adds them where only pixels are dealt with.
    """
    try:
        with quiet(*_CHATTER), _quiet_log:
            yield
    except (TextSAMError, MemoryError):
        raise
    except BaseException as error:
        # Decoders written in Rust panic with an error that is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        words = " ".join(str(error).split())[:_LONGEST_WORDS] if in_its_words else ""
        raise ImageError(
            f"{source}: {what} ({words or type(error).__name__}); the file is damaged or breaks "
            "the DICOM standard: export or copy it again"
        ) from error
