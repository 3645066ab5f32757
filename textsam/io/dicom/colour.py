"""Colour frames and palettes to red, green and blue."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.dicom.groups import FrameHeader
from textsam.io.dicom.layout import PixelLayout
from textsam.io.dicom.lookup import read_palette
from textsam.io.dicom.voi import NO_WINDOW

__all__ = ["show_colour", "show_palette"]


def show_colour(
    stored: NDArray[Any], layout: PixelLayout, window: int, source: str
) -> NDArray[Any]:
    """Shown colours of a true-colour frame.

    Args:
        stored: (H, W, 3) red, green, blue.
        layout: of the file.
        window: 0 or NO_WINDOW: colours have no windows.
        source: how the frame is called in messages.

    Returns:
        (H, W, 3), the range of the stored bits as 0 to 255: uint8 where up to 8 bits are stored,
        else float32.

    Raises:
        ImageError: a window is asked for.
    """
    _refuse_window(window, source)
    if layout.bits_stored == 8 and stored.dtype == np.uint8:
        return stored
    shown = stored.astype(np.float64) * (255.0 / (2**layout.bits_stored - 1))
    return _finished(shown, layout.bits_stored)


def show_palette(
    stored: NDArray[Any],
    layout: PixelLayout,
    header: FrameHeader,
    window: int,
    source: str,
) -> NDArray[Any]:
    """Shown colours of a PALETTE COLOR frame.

    Args:
        stored: (H, W) indices into the palette.
        layout: of the file.
        header: of the frame.
        window: 0 or NO_WINDOW: colours have no windows.
        source: how the frame is called in messages.

    Returns:
        (H, W, 3), the range of the palette's bits as 0 to 255: uint8 where it has 8, else float32.

    Raises:
        ImageError: the palette is missing or damaged, or a window is asked for.
    """
    _refuse_window(window, source)
    tables = read_palette(header.header, layout.signed, layout.little_endian, source)
    shown = np.stack([table.apply(stored) * (255.0 / table.full) for table in tables], axis=-1)
    return _finished(shown, 8 if all(table.full == 255 for table in tables) else 16)


def _refuse_window(window: int, source: str) -> None:
    if window not in (0, NO_WINDOW):
        raise ImageError(
            f"{source}: there is no window {window}, a colour image has none; choose window=0"
        )


def _finished(shown: NDArray[Any], bits: int) -> NDArray[Any]:
    shown = np.clip(shown, 0.0, 255.0)
    return np.rint(shown).astype(np.uint8) if bits <= 8 else shown.astype(np.float32)
