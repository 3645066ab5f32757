"""Contact sheets: small pictures of all answers on numbered pages, to look a run through."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from textsam.caption import end_that_fits
from textsam.errors import ImageError
from textsam.io.raster import write_picture
from textsam.overlay import DEFAULT_COLOUR
from textsam.result import Segmentation

__all__ = ["TILES_PER_PAGE", "TILE_PX", "captioned_tile", "draw_tile", "lay_sheets", "write_sheets"]

_COLUMNS, _ROWS = 8, 6
TILES_PER_PAGE = _COLUMNS * _ROWS
"""Small pictures on one page."""

TILE_PX = 160
"""Longer side of a small picture, without its captions."""

_CAPTION_PX = 34
_GAP_PX = 6
_FONT_PX = 12
_TINT = 0.4
_PAPER = (24, 24, 24)
_INK = (235, 235, 235)


def draw_tile(answer: Segmentation, name: str) -> PIL.Image.Image:
    """A small picture of one answer: the image with the mask tinted, its name, prompt and score.

    Args:
        answer: what to draw.
        name: of the image; its end is kept where it is too long.

    Returns:
        An RGB picture of the same size for all answers; the image's longer side has 160 pixels.
    """
    pixels = answer.image.pixels
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels).astype(np.uint8)
    height, width = answer.mask.shape
    scale = TILE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    box = PIL.Image.Resampling.BOX
    small = np.asarray(PIL.Image.fromarray(pixels).resize(size, box)).astype(np.float32)
    share = PIL.Image.fromarray(answer.mask.astype(np.uint8) * 255).resize(size, box)
    # A mask much smaller than a pixel here still shows, as a tint as strong as its share.
    weight = (np.asarray(share).astype(np.float32) / 255 * _TINT)[:, :, None]
    tinted = small * (1 - weight) + np.asarray(DEFAULT_COLOUR, dtype=np.float32) * weight
    picture = PIL.Image.fromarray(np.rint(tinted).astype(np.uint8))
    verdict = f"{answer.score:.2f}" if answer.found else f"{answer.score:.2f} not found"
    return captioned_tile(picture, name, f"{answer.prompt} {verdict}")


def captioned_tile(picture: PIL.Image.Image, name: str, line: str) -> PIL.Image.Image:
    """A small picture with two lines below it.

    Args:
        picture: RGB, at most `TILE_PX` on both sides.
        name: first line; its end is kept where it is too long.
        line: second line, likewise.

    Returns:
        An RGB picture of the same size for all.
    """
    tile = PIL.Image.new("RGB", (TILE_PX, TILE_PX + _CAPTION_PX), _PAPER)
    tile.paste(picture, ((TILE_PX - picture.width) // 2, (TILE_PX - picture.height) // 2))
    draw = PIL.ImageDraw.Draw(tile)
    font = PIL.ImageFont.load_default(_FONT_PX)
    draw.text((2, TILE_PX + 1), end_that_fits(name, font, TILE_PX - 4), fill=_INK, font=font)
    second = end_that_fits(line, font, TILE_PX - 4)
    draw.text((2, TILE_PX + 17), second, fill=DEFAULT_COLOUR, font=font)
    return tile


def write_sheets(tiles: Iterable[Path], out: Path, name: str = "sheet") -> list[Path]:
    """Lay small pictures on pages, one page in memory at a time.

    Args:
        tiles: files that `draw_tile` pictures were saved to, in the order they are to appear.
        out: folder for the pages.
        name: their names begin with: sheet-001.png, sheet-002.png, …

    Returns:
        The pages. Those that follow in number, of an earlier run, are removed.

    Raises:
        ImageError: a picture cannot be read, or a page not be written.
    """
    return lay_sheets(map(_read_tile, tiles), out, name)


def _read_tile(path: Path) -> PIL.Image.Image:
    try:
        with PIL.Image.open(path, formats=("JPEG",)) as file:
            return file.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"{path}: the small picture cannot be read ({error}); delete it and go on with --resume"
        ) from error


def lay_sheets(tiles: Iterable[PIL.Image.Image], out: Path, name: str = "sheet") -> list[Path]:
    """Lay small pictures of one size on pages, one page in memory at a time.

    Args:
        tiles: from `captioned_tile`, in the order they are to appear.
        out: folder for the pages.
        name: their names begin with: sheet-001.png, sheet-002.png, …

    Returns:
        The pages. Those that follow in number, of an earlier run, are removed.

    Raises:
        ImageError: a page cannot be written.
    """
    pages: list[Path] = []
    page: list[PIL.Image.Image] = []
    for tile in tiles:
        page.append(tile)
        if len(page) == TILES_PER_PAGE:
            pages.append(_write_page(page, out, name, len(pages) + 1))
            page = []
    if page:
        pages.append(_write_page(page, out, name, len(pages) + 1))
    number = len(pages) + 1
    while (page_before := _page_path(out, name, number)).is_file():
        page_before.unlink()
        number += 1
    return pages


def _page_path(out: Path, name: str, number: int) -> Path:
    return out / f"{name}-{number:03d}.png"


def _write_page(tiles: list[PIL.Image.Image], out: Path, name: str, number: int) -> Path:
    width, height = TILE_PX + _GAP_PX, TILE_PX + _CAPTION_PX + _GAP_PX
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // _COLUMNS)
    page = PIL.Image.new("RGB", (columns * width + _GAP_PX, rows * height + _GAP_PX), _PAPER)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, _COLUMNS)
        page.paste(tile, (_GAP_PX + column * width, _GAP_PX + row * height))
    return write_picture(page, _page_path(out, name, number))
