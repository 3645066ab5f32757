"""The error that ends a run: there is nowhere left to write to."""

from __future__ import annotations

import errno
from pathlib import Path

from textsam.errors import TextSAMError

__all__ = ["OutputError"]


class OutputError(TextSAMError):
    """An output cannot be written: a full disk, missing permissions, a folder that is a file."""

    @classmethod
    def of(cls, path: Path, error: BaseException) -> OutputError:
        """The error for a file that could not be written because of `error`."""
        return cls(
            f"{path}: cannot be written ({error}); free space or check the permissions, then go on "
            "with --resume"
        )


def is_disk_error(error: BaseException) -> bool:
    """Whether an error comes from the disk as a whole, and not from the one file."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen.errno != errno.ENAMETOOLONG
        seen = seen.__cause__
    return False
