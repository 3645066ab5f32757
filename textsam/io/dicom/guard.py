"""What stands between damaged files and the caller: one kind of error, and no chatter."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from textsam.errors import ImageError, TextSAMError
from textsam.io.held_setting import HeldSetting
from textsam.quiet import quiet

__all__ = ["damage_reported", "require_pydicom"]

_LONGEST_WORDS = 300


def require_pydicom(source: str) -> None:
    """Raise ImageError where pydicom is not installed."""
    if find_spec("pydicom") is None:
        raise ImageError(
            f"{source}: reading DICOM needs pydicom, which is not installed; run "
            '`pip install "textsam[medical]"`'
        )


# Each of pydicom's warnings is logged too.
_quiet_log = HeldSetting(
    logging.getLogger("pydicom"),
    "level",
    logging.CRITICAL + 1,
    put=lambda log, _, level: log.setLevel(level),
)
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
