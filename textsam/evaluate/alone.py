"""One measurement at a time in a folder: two would write every row twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from textsam.errors import DataError
from textsam.evaluate.row_file import check_is_no_file

__all__ = ["LOCK_FILE", "alone_in"]

LOCK_FILE = ".measuring.lock"


@contextmanager
def alone_in(folder: Path | None) -> Iterator[None]:
    """Hold a folder of results, made if need be, until the block ends, or the process, however.

    Args:
        folder: of the results; None holds nothing.

    Raises:
        DataError: the folder is a file, or another measurement is being written into it.
    """
    if folder is None:
        yield
        return
    from filelock import FileLock, Timeout

    check_is_no_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(
            f"{folder}: another process is measuring into this folder; wait for it, or give "
            "another folder (-o)"
        ) from error
    try:
        yield
    finally:
        # While it is held: who waits for a file that has lost its name makes a new one. Windows
        # removes no open file; there it stays, and locks nobody out.
        with suppress(PermissionError):
            (folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()
