"""Fill a folder under a temporary name, then move it into place: all of it or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from textsam.errors import DataError

__all__ = ["staged_folder"]


@contextmanager
def staged_folder(target: str | Path) -> Iterator[Path]:
    """Yield a new folder beside `target`; it becomes `target` when the block succeeds.

    Raises:
        DataError: `target` exists, or something cannot be written. The folder is removed when the
            block raises.
    """
    target = Path(target)
    if target.exists():
        raise DataError(f"{target} exists already; remove it, or choose another place")
    staged = target.with_name(f".{target.name[:32]}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        staged.mkdir(parents=True)
        yield staged
        staged.rename(target)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written ({error}); check permissions and free space"
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # gone already where all went well
