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

__all__ = ["TILES_PER_PAGE", "draw_tile", "write_sheets"]

_COLUMNS, _ROWS = 8, 6
TILES_PER_PAGE = _COLUMNS * _ROWS
"""Small pictures on one page."""

_TILE_PX = 160
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
    tile = PIL.Image.new("RGB", (_TILE_PX, _TILE_PX + _CAPTION_PX), _PAPER)
    pixels = answer.image.pixels
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels).astype(np.uint8)
    height, width = answer.mask.shape
    scale = _TILE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    box = PIL.Image.Resampling.BOX
    small = np.asarray(PIL.Image.fromarray(pixels).resize(size, box)).astype(np.float32)
    share = PIL.Image.fromarray(answer.mask.astype(np.uint8) * 255).resize(size, box)
    # A mask much smaller than a pixel here still shows, as a tint as strong as its share.
    weight = (np.asarray(share).astype(np.float32) / 255 * _TINT)[:, :, None]
    tinted = small * (1 - weight) + np.asarray(DEFAULT_COLOUR, dtype=np.float32) * weight
    picture = PIL.Image.fromarray(np.rint(tinted).astype(np.uint8))
    tile.paste(picture, ((_TILE_PX - size[0]) // 2, (_TILE_PX - size[1]) // 2))
    draw = PIL.ImageDraw.Draw(tile)
    font = PIL.ImageFont.load_default(_FONT_PX)
    verdict = f"{answer.score:.2f}" if answer.found else f"{answer.score:.2f} not found"
    draw.text((2, _TILE_PX + 1), end_that_fits(name, font, _TILE_PX - 4), fill=_INK, font=font)
    prompt = end_that_fits(f"{answer.prompt} {verdict}", font, _TILE_PX - 4)
    draw.text((2, _TILE_PX + 17), prompt, fill=DEFAULT_COLOUR, font=font)
    return tile


def write_sheets(tiles: Iterable[Path], out: Path, suffix: str) -> list[Path]:
    """Lay small pictures on pages, one page in memory at a time.

    Args:
        tiles: files that `draw_tile` pictures were saved to, in the order they are to appear.
        out: folder for the pages.
        suffix: goes into the names: sheetSUFFIX-001.png, sheetSUFFIX-002.png, …

    Returns:
        The pages. Those that follow in number, of an earlier run, are removed.

    Raises:
        ImageError: a picture cannot be read, or a page not be written.
    """
    pages: list[Path] = []
    page: list[PIL.Image.Image] = []
    for path in tiles:
        try:
            with PIL.Image.open(path, formats=("JPEG",)) as file:
                page.append(file.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(
                f"{path}: the small picture cannot be read ({error}); delete it and go on with "
                "--resume"
            ) from error
        if len(page) == TILES_PER_PAGE:
            pages.append(_write_page(page, out, suffix, len(pages) + 1))
            page = []
    if page:
        pages.append(_write_page(page, out, suffix, len(pages) + 1))
    number = len(pages) + 1
    while (page_before := _page_path(out, suffix, number)).is_file():
        page_before.unlink()
        number += 1
    return pages


def _page_path(out: Path, suffix: str, number: int) -> Path:
    return out / f"sheet{suffix}-{number:03d}.png"


def _write_page(tiles: list[PIL.Image.Image], out: Path, suffix: str, number: int) -> Path:
    width, height = _TILE_PX + _GAP_PX, _TILE_PX + _CAPTION_PX + _GAP_PX
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // _COLUMNS)
    page = PIL.Image.new("RGB", (columns * width + _GAP_PX, rows * height + _GAP_PX), _PAPER)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, _COLUMNS)
        page.paste(tile, (_GAP_PX + column * width, _GAP_PX + row * height))
    return write_picture(page, _page_path(out, suffix, number))
