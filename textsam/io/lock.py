"""A lock file: one process at a time, and no wait for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from textsam.errors import TextSAMError

__all__ = ["locked"]


@contextmanager
def locked(path: Path, busy: TextSAMError) -> Iterator[None]:
    """Hold a lock file until the block ends, or the process, however. The file stays.

    Args:
        path: of the file, in a folder that is there.
        busy: what is raised if another process holds it.

    Raises:
        TextSAMError: `busy`.
        OSError: the file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        lock.release()
