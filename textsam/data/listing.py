"""The image files of a folder by stem, and what to say of those that cannot be used."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from textsam.data.problems import Problems
from textsam.errors import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "PARTS",
    "SUFFIXES",
    "Listing",
    "is_system_file",
    "list_folder",
    "listed",
    "tell_unsupported",
    "the_only",
    "told_as_data",
    "unusable_instead",
]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
SUFFIXES = ", ".join(sorted(IMAGE_SUFFIXES))
PARTS = ("train", "val", "test")
# What Windows puts beside pictures by itself; names with a dot in front are hidden anyway.
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Listing:
    """The files of a folder by stem: those that can be used, and those of other suffixes.

    inner: the folders in it.
    """

    folder: Path
    usable: dict[str, list[Path]]
    others: dict[str, list[Path]]
    inner: list[Path]

    @cached_property
    def folders(self) -> list[str]:
        """Names of the folders in it that have images, of the suffixes that can be used."""
        return [path.name for path in self.inner if _holds_images(path)]

    def lacks(self, stem: str) -> str:
        """What to say where there is no usable file of this stem."""
        others = self.others.get(stem)
        if not others:
            return f"{self.folder} has no {stem}.*"
        names = ", ".join(path.name for path in others)
        return f"{self.folder} has {names} alone, none of {SUFFIXES}; save it as PNG"

    def tell_others(self, problems: Problems) -> None:
        """Warn of files that are left out."""
        names = sorted(path.name for paths in self.others.values() for path in paths)
        tell_unsupported(self.folder, names, problems)

    def tell_folders(self, problems: Problems) -> None:
        """Warn of folders with images, which are not looked into."""
        if self.folders:
            problems.add(
                "unread-folder",
                self.folder,
                f"{len(self.folders)} folder(s) in it have images that are left out: "
                f"{listed(self.folders)}; put the files beside the others",
            )


def tell_unsupported(folder: Path, names: Sequence[str], problems: Problems) -> None:
    """Warn of files of a folder, if any, that are left out for their suffix."""
    if names:
        problems.add(
            "unsupported-file",
            folder,
            f"{len(names)} file(s) are none of {SUFFIXES} and left out: {listed(names)}",
        )


def is_system_file(path: Path) -> bool:
    """Whether Windows puts such a file beside pictures by itself."""
    return path.name.lower() in _SYSTEM_FILES


def list_folder(folder: Path) -> Listing:
    """The files of a folder, hidden ones and the system's left out.

    Stems are in Unicode's NFC: a Mac may have written the same "é" in two code points.
    """
    listing = Listing(folder, {}, {}, [])
    with told_as_data(folder):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.startswith("."):
                continue
            stem = unicodedata.normalize("NFC", path.stem)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                listing.usable.setdefault(stem, []).append(path)
            elif path.is_dir():
                listing.inner.append(path)
            elif path.is_file() and not is_system_file(path):
                listing.others.setdefault(stem, []).append(path)
    return listing


@contextmanager
def told_as_data(folder: Path) -> Iterator[None]:
    """Raise what keeps a folder from being looked into as a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}); check its permissions"
        ) from error


def _holds_images(folder: Path) -> bool:
    """Whether an image lies in a folder, or in one inside of it; links are not followed."""
    return any(
        Path(name).suffix.lower() in IMAGE_SUFFIXES
        for _, _, names in os.walk(folder)
        for name in names
    )


def the_only(stem: str, paths: Sequence[Path], problems: Problems | None) -> Path:
    """The first of a stem's files; more are a problem, or without `problems` a DataError."""
    if len(paths) > 1:
        named = ", ".join(map(str, paths))
        if problems is None:
            raise DataError(f"The stem {stem!r} is ambiguous: {named}. Keep one file.")
        problems.add("duplicate-stem", paths[0], f"{stem!r} is ambiguous: {named}; keep one file")
    return paths[0]


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, five at most."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def unusable_instead(listings: Sequence[Listing], stem: str) -> str:
    """What to add where a file is missing and one of its name cannot be used."""
    others = [str(path) for listing in listings for path in listing.others.get(stem, ())]
    if not others:
        return ""
    return f" (but {', '.join(others)}, none of {SUFFIXES}; save it as PNG)"
