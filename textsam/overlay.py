"""Draw a mask over its image, with a caption, as a picture to look at."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from textsam.errors import ConfigError

__all__ = ["DEFAULT_COLOUR", "draw_overlay", "outlines"]

DEFAULT_COLOUR = (255, 122, 0)
"""Orange: apart from the greys of radiology, the pinks of histology and the reds of endoscopy."""

# Small images are enlarged towards the first, never beyond the second; a picture narrower than the
# third gets a border, so that a caption always has room.
_READABLE_SIDE_PX = 256
_ENLARGED_SIDE_PX = 2048
_CAPTION_WIDTH_PX = 192

_MIN_FONT_PX = 14
# Text height relative to the shorter side: readable when the picture is shrunk to fit a screen.
_FONT_SHARE = 1 / 28
_CAPTION_LINES = 3
_CAPTION_CHARACTERS = 240


def draw_overlay(
    pixels: NDArray[Any],
    mask: NDArray[np.bool_],
    prompt: str,
    score: str,
    alpha: float = 0.45,
    colour: str | tuple[int, int, int] | None = None,
) -> PIL.Image.Image:
    """Tint and outline `mask` on `pixels` and write "prompt score" in the emptiest corner.

    Args:
        pixels: (H, W, 3) in [0, 255].
        mask: (H, W) bool.
        prompt: shortened with an ellipsis where it does not fit; the score always stays.
        score: written after the prompt.
        alpha: strength of the tint in [0, 1].
        colour: colour name, "#rrggbb" or (red, green, blue); None takes `DEFAULT_COLOUR`.

    Returns:
        An RGB picture. Its size is (W, H) when both sides have at least 256 pixels. Smaller images
        are enlarged by a whole factor (nearest pixel), and a black border is added on the right
        and below where the caption would still not fit or would cover over a quarter of the height.

    Raises:
        ConfigError: `alpha` outside [0, 1] or a colour that does not exist.
    """
    rgb = _parse_colour(colour)
    if not (isinstance(alpha, Real) and 0.0 <= alpha <= 1.0):
        raise ConfigError(f"the tint's alpha must lie in [0, 1], got {alpha!r}")
    height, width = mask.shape
    factor = _enlargement(height, width)
    base = np.rint(pixels).astype(np.uint8) if pixels.dtype != np.uint8 else pixels.copy()
    if mask.any():
        # Only the tinted pixels are computed in floating point, not the whole image.
        inside = base[mask].astype(np.float32)
        tint = np.asarray(rgb, dtype=np.float32)
        base[mask] = np.rint(inside * (1.0 - alpha) + tint * alpha).astype(np.uint8)
    picture = PIL.Image.fromarray(base)
    if factor > 1:
        size = (width * factor, height * factor)
        picture = picture.resize(size, PIL.Image.Resampling.NEAREST)
    _draw_contour(picture, mask, factor, rgb)
    return _add_caption(picture, mask, factor, prompt, score)


def _parse_colour(colour: str | tuple[int, int, int] | None) -> tuple[int, int, int]:
    if colour is None:
        return DEFAULT_COLOUR
    if isinstance(colour, str):
        try:
            values: tuple[Any, ...] = PIL.ImageColor.getrgb(colour)[:3]
        except ValueError as error:
            raise ConfigError(
                f"the colour {colour!r} is unknown; use a name such as 'red' or '#rrggbb'"
            ) from error
    else:
        values = tuple(colour) if isinstance(colour, Sequence) else ()
    if len(values) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in values):
        raise ConfigError(f"the colour {colour!r} is not usable; give red, green, blue in 0 to 255")
    return values[0], values[1], values[2]


def _enlargement(height: int, width: int) -> int:
    wanted = math.ceil(_READABLE_SIDE_PX / min(height, width))
    return max(1, min(wanted, _ENLARGED_SIDE_PX // max(height, width)))


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The closed lines around a mask and its holes, half way between inside and outside.

    Args:
        mask: (H, W) bool.

    Returns:
        Lines of (n, 2) points (x, y) in pixels, pixel centres being whole numbers; along the
        image's border they run half a pixel outside of it. None for an empty mask.
    """
    from skimage.measure import find_contours

    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        return []
    left, top = int(columns[0]), int(rows[0])
    region = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    # The margin closes outlines that touch the edge of the image; cutting to the mask's box keeps
    # large images quick.
    closed = np.pad(region, 1).astype(np.float32)
    found = find_contours(closed, 0.5)  # type: ignore[no-untyped-call]
    return [contour[:, ::-1] + (left - 1, top - 1) for contour in found]


def _draw_contour(
    picture: PIL.Image.Image, mask: NDArray[np.bool_], factor: int, rgb: tuple[int, int, int]
) -> None:
    line_px = max(2, round(min(picture.size) / 350))
    draw = PIL.ImageDraw.Draw(picture)
    # Pixel centres of the mask lie in the middle of the enlarged pixels.
    scaled = [(outline + 0.5) * factor - 0.5 for outline in outlines(mask)]
    lines = [[(float(x), float(y)) for x, y in points] for points in scaled]
    # A dark line under the coloured one keeps the edge visible on images of the same colour.
    for line in lines:
        draw.line(line, fill=(0, 0, 0), width=line_px + 2, joint="curve")
    for line in lines:
        draw.line(line, fill=rgb, width=line_px, joint="curve")


def _add_caption(
    picture: PIL.Image.Image, mask: NDArray[np.bool_], factor: int, prompt: str, score: str
) -> PIL.Image.Image:
    width, height = max(picture.width, _CAPTION_WIDTH_PX), picture.height
    font_px = max(_MIN_FONT_PX, round(min(picture.size) * _FONT_SHARE))
    font = PIL.ImageFont.load_default(size=font_px)
    padding = max(3, font_px // 3)
    text = _fit(" ".join(prompt.split()), score, font, width - 2 * padding)
    measure = PIL.ImageDraw.Draw(PIL.Image.new("RGB", (1, 1)))
    left, top, right, bottom = measure.multiline_textbbox((0, 0), text, font=font)
    box_w = min(width, math.ceil(right - left) + 2 * padding)
    box_h = math.ceil(bottom - top) + 2 * padding
    if box_h * 4 > height or picture.width < width:
        canvas = PIL.Image.new("RGB", (width, height + box_h))
        canvas.paste(picture)
        picture, corner = canvas, (0, height)
    else:
        corner = _emptiest_corner(mask, box_w, box_h, factor)
    draw = PIL.ImageDraw.Draw(picture)
    x, y = corner
    draw.rectangle((x, y, x + box_w - 1, y + box_h - 1), fill=(0, 0, 0))
    draw.multiline_text(
        (x + padding - left, y + padding - top), text, font=font, fill=(255, 255, 255)
    )
    return picture


def _fit(prompt: str, score: str, font: Any, width_px: int) -> str:
    """Break "prompt score" into lines of at most `width_px`, shortening the prompt if need be."""
    shown = prompt[:_CAPTION_CHARACTERS]
    while True:
        text = f"{shown}{'' if shown == prompt else '…'} {score}".strip()
        lines = _wrap(text, font, width_px)
        if len(lines) <= _CAPTION_LINES or not shown:
            return "\n".join(lines)
        shown = shown[: len(shown) * 9 // 10].rstrip() if len(shown) > 10 else shown[:-1]


def _wrap(text: str, font: Any, width_px: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for whole in text.split(" "):
        word = whole
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width_px:
            line = joined
            continue
        if line:
            lines.append(line)
        # A word longer than a line is cut where it reaches the edge.
        while len(word) > 1 and font.getlength(word) > width_px:
            lengths = range(1, len(word) + 1)
            fits = max(1, bisect_right(lengths, width_px, key=lambda n: font.getlength(word[:n])))
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line]


def _emptiest_corner(
    mask: NDArray[np.bool_], box_w: int, box_h: int, factor: int
) -> tuple[int, int]:
    """Top-left point (x, y) of the caption in the corner where it covers the least of the mask."""
    height, width = mask.shape[0] * factor, mask.shape[1] * factor
    corners = [(0, 0), (width - box_w, 0), (0, height - box_h), (width - box_w, height - box_h)]

    def covered(corner: tuple[int, int]) -> int:
        x, y = corner
        rows = slice(y // factor, math.ceil((y + box_h) / factor))
        columns = slice(x // factor, math.ceil((x + box_w) / factor))
        return int(np.count_nonzero(mask[rows, columns]))

    return min(corners, key=covered)
