"""Pillow's raw modes: how the samples of an opened file are unpacked when it is decoded."""

from __future__ import annotations

import re
from typing import Any

import PIL.Image
import PIL.ImageFile

__all__ = ["raw_modes_of", "repair_byte_order", "set_raw_mode"]


def raw_modes_of(picture: PIL.Image.Image) -> list[object]:
    """The raw mode of each piece of a file that is still to be decoded."""
    tiles = getattr(picture, "tile", [])
    return [tile[3][0] if isinstance(tile[3], tuple) else tile[3] for tile in tiles]


def set_raw_mode(picture: PIL.Image.Image, new: str) -> None:
    """Have all pieces of a file unpacked by another raw mode."""
    tiles: list[Any] = []
    for codec, extents, offset, args in picture.tile:  # type: ignore[attr-defined]
        changed = (new, *args[1:]) if isinstance(args, tuple) else new
        tiles.append(PIL.ImageFile._Tile(codec, extents, offset, changed))
    picture.tile = tiles  # type: ignore[attr-defined]


def repair_byte_order(picture: PIL.Image.Image) -> None:
    """Read compressed TIFFs of the other byte order right, where Pillow swaps bytes twice.

    libtiff hands values over in the machine's own order, but Pillow 13 still names the file's
    order for signed, floating-point and 32-bit samples.
    """
    for raw_mode in raw_modes_of(picture):
        match = re.fullmatch(r"([IF];(?:16|32))B?([SF]?)", str(raw_mode))
        if match and picture.tile[0][0] == "libtiff":  # type: ignore[attr-defined]
            set_raw_mode(picture, f"{match.group(1)}N{match.group(2)}")
