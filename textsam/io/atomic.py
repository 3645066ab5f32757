"""Write a file under a temporary name, then move it into place: readers never see half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path"]


@contextmanager
def atomic_path(target: str | Path, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `target`; move it onto `target` when the block succeeds.

    Args:
        target: the file to write; parent folders are made.
        suffix: kept at the end of the temporary name, for writers that choose a format by it.

    The temporary file is removed when the block raises, and `target` is then left as it was.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not longer than the target's name may be: the longest names a file system takes are legal.
    stem = target.name[:32] if target.name.isascii() else ""
    temporary = target.with_name(f".{stem}.{os.getpid()}.{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
