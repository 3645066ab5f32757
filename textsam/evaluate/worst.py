"""The worst cases of an evaluation on one picture: where to look first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.PngImagePlugin
from numpy.typing import NDArray

from textsam.caption import end_that_fits
from textsam.evaluate.ask import Asked
from textsam.evaluate.cases import Case, ImageKey
from textsam.frame import bounds
from textsam.io.raster import write_picture
from textsam.overlay import DEFAULT_COLOUR, outlines

__all__ = ["WORST_FILE", "WorstCases", "cases_per_group"]

WORST_FILE = "worst.png"

# In the picture itself, so that it is known wherever the picture goes.
_COUNT = "textsam:cases-per-group"

Group = tuple[str, str, float | None]  # data set, concept, box shift

_TILE_PX = 240
_CAPTION_PX = 36
_GAP_PX = 8
_HEADING_PX = 26
_FONT_PX, _HEADING_FONT_PX = 13, 16
_COLUMNS = 8
_LINE_PX = 2
# Shown of the image: the objects, and this part of their size around them.
_MARGIN = 0.35
_MIN_SHOWN_PX = 48

_PAPER, _INK = (24, 24, 24), (235, 235, 235)
_TRUTH, _ANSWER = (70, 230, 110), DEFAULT_COLOUR


def cases_per_group(path: Path) -> int | None:
    """How many cases per group a sheet was drawn for; None: no sheet, or one that does not say."""
    try:
        with PIL.Image.open(path) as sheet:
            count = sheet.info.get(_COUNT)
    except (OSError, ValueError, SyntaxError):
        return None  # it is drawn again
    return int(count) if isinstance(count, str) and count.isdecimal() else None


def _group(case: Case) -> Group:
    return case.dataset, case.concept, case.box_shift


def _order(case: Case) -> tuple[float, str, str]:
    return case.dice or 0.0, case.dataset, case.stem


class WorstCases:
    """Keeps pictures of the cases with the lowest Dice, per set, concept and box shift.

    Args:
        count: cases per group; 0 keeps none.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._tiles: dict[Group, dict[ImageKey, tuple[Case, PIL.Image.Image]]] = defaultdict(dict)

    def add(self, asked: Asked, *, keep: bool = False) -> None:
        """Look at the cases of one image, and draw those that are among the worst so far.

        Args:
            asked: the image.
            keep: draw all of them, and drop no other.
        """
        for case, truth, answer in zip(asked.cases, asked.truths, asked.answers, strict=True):
            if case.kind != "present" or not self.count:
                continue
            tiles = self._tiles[_group(case)]
            kept = sorted((own for own, _ in tiles.values()), key=_order)
            if len(kept) >= self.count and not keep:
                if _order(case) >= _order(kept[-1]):
                    continue
                del tiles[kept[-1].image]
            tiles[case.image] = case, _draw_tile(asked.pixels, truth, answer, case)

    def missing(self, cases: Sequence[Case]) -> list[ImageKey]:
        """Images that are among the worst and of which there is no picture."""
        return list(
            dict.fromkeys(
                case.image
                for group, worst in self._worst(cases).items()
                for case in worst
                if case.image not in self._tiles[group]
            )
        )

    def write(self, path: Path, cases: Sequence[Case]) -> Path | None:
        """Lay the pictures out, a row or more per group; nothing is written without any.

        Raises:
            ImageError: the file cannot be written.
        """
        groups = self._worst(cases)
        if not groups:
            return None
        columns = min(_COLUMNS, max(len(worst) for worst in groups.values()))
        rows = [-(-len(worst) // columns) for worst in groups.values()]
        step, height = _TILE_PX + _GAP_PX, _TILE_PX + _CAPTION_PX + _GAP_PX
        # Wide enough for the headings, were there one tile only.
        width = max(columns * step + _GAP_PX, 3 * step)
        total = _HEADING_PX + sum(_HEADING_PX + count * height for count in rows) + _GAP_PX
        page = PIL.Image.new("RGB", (width, total), _PAPER)
        draw = PIL.ImageDraw.Draw(page)
        font = PIL.ImageFont.load_default(_HEADING_FONT_PX)
        x = float(_GAP_PX)
        for text, colour in (("outlines: ", _INK), ("truth  ", _TRUTH), ("answer", _ANSWER)):
            draw.text((x, 4), text, fill=colour, font=font)
            x += font.getlength(text)
        top = _HEADING_PX
        for (group, worst), count in zip(groups.items(), rows, strict=True):
            heading = _heading(group, len(worst), cases)
            draw.text((_GAP_PX, top + 3), heading, fill=_INK, font=font)
            top += _HEADING_PX
            for index, case in enumerate(worst):
                row, column = divmod(index, columns)
                _, tile = self._tiles[group][case.image]
                page.paste(tile, (_GAP_PX + column * step, top + row * height))
            top += count * height
        notes = PIL.PngImagePlugin.PngInfo()
        notes.add_text(_COUNT, str(self.count))
        return write_picture(page, path, pnginfo=notes)

    def _worst(self, cases: Sequence[Case]) -> dict[Group, list[Case]]:
        groups: dict[Group, list[Case]] = defaultdict(list)
        for case in cases:
            if case.kind == "present" and self.count:
                groups[_group(case)].append(case)
        ordered = sorted(groups, key=lambda g: (g[0], g[1], -1.0 if g[2] is None else g[2]))
        return {group: sorted(groups[group], key=_order)[: self.count] for group in ordered}


def _heading(group: Group, shown: int, cases: Sequence[Case]) -> str:
    dataset, concept, shift = group
    own = [case.dice or 0.0 for case in cases if case.kind == "present" and _group(case) == group]
    moved = "" if shift is None else f", box moved by {100 * shift:g} %"
    return (
        f"{dataset}: {concept}{moved}; the {shown} lowest of {len(own)}, "
        f"mean Dice {100 * np.mean(own):.1f} %"
    )


def _draw_tile(
    pixels: NDArray[np.uint8], truth: NDArray[np.bool_], answer: NDArray[np.bool_], case: Case
) -> PIL.Image.Image:
    """The part of the image around truth and answer, with both outlines, and two lines below."""
    top, left, side = _shown(truth | answer)
    bottom, right = min(truth.shape[0], top + side), min(truth.shape[1], left + side)
    region = slice(top, bottom), slice(left, right)
    factor = _TILE_PX / side
    size = max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor))
    picture = PIL.Image.fromarray(np.ascontiguousarray(pixels[region]))
    # Averages where it shrinks.
    picture = picture.resize(size, PIL.Image.Resampling.BILINEAR)
    draw = PIL.ImageDraw.Draw(picture)
    for mask, colour in ((truth, _TRUTH), (answer, _ANSWER)):
        for outline in outlines(mask[region]):
            points = [(float(x), float(y)) for x, y in (outline + 0.5) * factor - 0.5]
            draw.line(points, fill=colour, width=_LINE_PX, joint="curve")
    tile = PIL.Image.new("RGB", (_TILE_PX, _TILE_PX + _CAPTION_PX), _PAPER)
    tile.paste(picture, (0, 0))
    font = PIL.ImageFont.load_default(_FONT_PX)
    captions = PIL.ImageDraw.Draw(tile)
    captions.text(
        (2, _TILE_PX + 1), end_that_fits(case.stem, font, _TILE_PX - 4), fill=_INK, font=font
    )
    what = "missed" if case.area_px == 0 else f"HD95 {case.hd95_px:.0f} px"
    verdict = f"Dice {100 * (case.dice or 0.0):.1f} %   {what}"
    captions.text((2, _TILE_PX + 18), verdict, fill=_ANSWER, font=font)
    return tile


def _shown(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Top, left and side of the square that is shown; it may reach over the right and lower end."""
    rows, columns = bounds(mask)
    extent: int = max(rows.stop - rows.start, columns.stop - columns.start)
    wanted = max(_MIN_SHOWN_PX, round(extent * (1 + 2 * _MARGIN)))
    side = min(wanted, int(max(mask.shape)))

    def start(ends: slice, length: int) -> int:
        middle: int = (ends.start + ends.stop) // 2
        return max(0, min(middle - side // 2, length - side))

    return start(rows, mask.shape[0]), start(columns, mask.shape[1]), side
