"""Errors that nobody expected, in the log: their type and place, and nothing of what was sent."""

from __future__ import annotations

import logging
import secrets
import traceback

__all__ = ["log_unknown"]

# The name is fixed: whoever embeds the application finds its log under it.
_LOG = logging.getLogger("textsam.serve")


def log_unknown(error: BaseException) -> str:
    """Log an error without its message, which may quote what was sent.

    Returns:
        The number it has in the log.
    """
    number = secrets.token_hex(4)
    _LOG.error("error %s: %s", number, _without_values(error))
    return number


def _without_values(error: BaseException) -> str:
    """Type and places of an exception and its causes, without their messages."""
    parts = []
    link: BaseException | None = error
    while link is not None:
        frames = traceback.extract_tb(link.__traceback__)
        places = " < ".join(f"{f.name} ({f.filename}:{f.lineno})" for f in reversed(frames))
        parts.append(f"{type(link).__name__} at {places}")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "; caused by ".join(parts)
