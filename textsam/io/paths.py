"""Paths to read from, checked before anything is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from textsam.errors import ImageError

__all__ = ["existing_file", "existing_source", "read_head"]


def existing_source(source: str | os.PathLike[str]) -> Path:
    """The path of a file or folder that is there.

    Raises:
        ImageError: no text, an address, nothing there, a device or a pipe, or a file of 0 bytes.
    """
    text = os.fspath(source)
    if not isinstance(text, str):
        raise ImageError(f"{text!r}: a path must be text, not bytes; use os.fsdecode(path)")
    if not text.strip():
        raise ImageError("'': the path of the image is empty; pass the path of an image file")
    if "://" in text:
        raise ImageError(f"{text}: addresses are not fetched; download the image and pass its path")
    path = Path(text)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise ImageError(
            f"{text}: there is no such file; check the path (relative paths start from the "
            "current folder)"
        ) from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{text!r}: not a usable path ({error}); check the path") from error
    if stat.S_ISDIR(status.st_mode):
        return path
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{text}: this is not a regular file; pass an image file")
    if status.st_size == 0:
        raise ImageError(f"{text}: the file is empty (0 bytes); copy or export it again")
    return path


def existing_file(source: str | os.PathLike[str]) -> Path:
    """The path of a file that is there; as `existing_source`, but a folder is an ImageError too."""
    path = existing_source(source)
    if path.is_dir():
        raise ImageError(f"{path}: this is a folder; pass one image file in it")
    return path


def read_head(path: Path, count: int) -> bytes:
    """The first `count` bytes of a file, or all of a shorter one.

    Raises:
        ImageError: the file cannot be opened or read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError as error:
        raise ImageError(
            f"{path}: the file cannot be opened ({error.strerror}); check its permissions"
        ) from error
