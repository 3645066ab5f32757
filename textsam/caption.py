"""Names under small pictures."""

from __future__ import annotations

import PIL.ImageFont

__all__ = ["end_that_fits"]


def end_that_fits(
    text: str, font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont, width_px: int
) -> str:
    """The text, or as much of its end as fits after an ellipsis: ends tell file names apart.

    Args:
        text: of any characters; halves of one become question marks.
        font: it will be drawn in.
        width_px: most that it may take.
    """
    text = text.encode("utf-8", "replace").decode()
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength("…" + text) > width_px:
        text = text[1:]
    return "…" + text
