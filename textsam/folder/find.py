"""Find the images of a folder: by name or by their first bytes, in a fixed order, once each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from textsam.errors import ConfigError
from textsam.folder.names import IMAGE_SUFFIXES
from textsam.io.sniff import HEAD_BYTES, sniff

__all__ = ["find_images", "is_dicom", "real_path"]

# An index of other files, itself without an image, and what systems have at the root of a disk:
# folders that their users cannot list, and files that they have deleted.
_LEFT_OUT = frozenset({"dicomdir", "lost+found", "system volume information", "$recycle.bin"})


def find_images(folder: Path, *, recursive: bool, skip: Path) -> list[str]:
    """Relative POSIX paths of the images in a folder, sorted.

    A file is an image when its name ends like one, or when its first bytes are those of one. Hidden
    files and folders, DICOMDIR and the system's folders at the root of a disk are left out. Folders
    that are links are followed unless they lead back to a folder they lie in.

    Args:
        folder: where to look.
        recursive: also look in the folders inside.
        skip: a folder not to look into, even where it lies inside `folder`: the one written to.

    Raises:
        ConfigError: a folder cannot be listed.
    """
    above = (real_path(folder),)
    return sorted(_walk(folder, PurePosixPath(), recursive, real_path(skip), above))


def real_path(path: Path) -> Path:
    """The path without links; unlike `Path.resolve`, also of a link that leads to itself."""
    return Path(os.path.realpath(path))


def _walk(
    folder: Path, inside: PurePosixPath, recursive: bool, skip: Path, above: tuple[Path, ...]
) -> Iterator[str]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(
            f"{folder}: the folder cannot be listed ({error.strerror}); check its permissions"
        ) from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _LEFT_OUT:
            continue
        path = folder / entry.name
        if not _is_folder(entry):
            if _is_image(path):
                yield str(inside / entry.name)
            continue
        real = real_path(path)
        if recursive and real != skip and real not in above:
            yield from _walk(path, inside / entry.name, True, skip, (*above, real))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, for one
        return False


def _is_image(path: Path) -> bool:
    if path.name.lower().endswith(IMAGE_SUFFIXES):
        return True
    try:
        kind = _kind(path)
    except OSError:
        return True  # reading it will fail and say why, which leaving it out would not
    # Gzip alone says nothing: what is compressed may be anything.
    return kind not in (None, "gzip")


def is_dicom(path: Path) -> bool:
    """Whether the first bytes of a file are those of a DICOM file; False where it is unreadable."""
    try:
        return _kind(path) == "dicom"
    except OSError:
        return False


def _kind(path: Path) -> str | None:
    # Anything but a regular file, a pipe for example, might never come to an end.
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return sniff(file.read(HEAD_BYTES))
