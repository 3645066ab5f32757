"""A lock file: one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from textsam.errors import TextSAMError

__all__ = ["locked"]


@contextmanager
def locked(
    path: Path, busy: TextSAMError, *, stays: bool = True, wait_s: float = 0.0
) -> Iterator[None]:
    """Hold a lock file until the block ends, or the process, however.

    Args:
        path: of the file, in a folder that is there.
        busy: what is raised if another process holds it.
        stays: the file is left behind; otherwise only by a process that was killed.
        wait_s: how long another process is waited for.

    Raises:
        TextSAMError: `busy`.
        OSError: the file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        if not stays:
            # While it is held: who waits for a file that has lost its name makes a new one.
            # Windows removes no open file; there it stays, and locks nobody out.
            with suppress(PermissionError):
                path.unlink(missing_ok=True)
        lock.release()
