"""Whether a folder can be written into, said before the work whose results would go there."""

from __future__ import annotations

import os
from pathlib import Path

from textsam.errors import OutputError

__all__ = ["check_out_folder"]


def check_out_folder(folder: str | Path) -> None:
    """Refuse a folder that is a file, or that can be neither made nor written into.

    Nothing is made: what is looked at is the folder, or the nearest one above it that is there.

    Raises:
        OutputError: it is so; the message names the path and says what to give.
    """
    folder = Path(folder)
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        if place == folder.absolute():
            raise OutputError(f"{folder} is a file; give a folder")
        raise OutputError(f"{folder} cannot be made, as {place} is a file; give another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder} cannot be written, as {place} takes no files from this user; change its "
            "permissions, or give another folder"
        )
