"""The plot of an ablation: a mean per cell, with what it could as well have been."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from textsam.ablate.plan import Plan
from textsam.ablate.results import Figure, Group
from textsam.ablate.table import metric_title

__all__ = ["draw_plot", "value_range"]

_Font = PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont
_SIZE_PX = (960, 600)
_MARGIN_PX = {"left": 90, "right": 30, "top": 90, "bottom": 110}
_INK, _GRID, _FAINT = (30, 30, 30), (225, 225, 225), (140, 140, 140)
# Okabe and Ito's blue and vermilion: apart for colour-blind eyes too.
_SERIES = (("dice", (0, 114, 178)), ("nsd_3px", (213, 94, 0)))


def value_range(figures: Sequence[Figure]) -> tuple[float, float]:
    """Percentages, in tens, between which all means, intervals and seeds lie; at least ten wide."""
    ends = [100 * end for figure in figures for end in _interval(figure)]
    ends += [100 * mean for figure in figures for mean in figure.seed_means.values()]
    if not ends:
        return 0.0, 100.0
    low = max(0.0, math.floor(min(ends) / 10) * 10)
    high = min(100.0, math.ceil(max(ends) / 10) * 10)
    return (low, high) if high > low else (max(0.0, high - 10), max(10.0, high))


def _interval(figure: Figure) -> tuple[float, float]:
    """95 % of the mean over cases, by the normal approximation."""
    half = 1.96 * figure.std_cases / math.sqrt(figure.n)
    return figure.mean - half, figure.mean + half


def draw_plot(plan: Plan, group: Group) -> PIL.Image.Image:
    """Dice and NSD of each cell, in percent.

    A disc is the mean over cases and seeds, the line its 95 % confidence interval over cases, a
    ring the mean of one seed where there are several. A cell without results is marked as missing.

    Args:
        plan: of the ablation.
        group: the rows to draw.

    Returns:
        An RGB picture of 960 × 600 pixels.
    """
    picture = PIL.Image.new("RGB", _SIZE_PX, "white")
    draw = PIL.ImageDraw.Draw(picture)
    left, right = _MARGIN_PX["left"], _SIZE_PX[0] - _MARGIN_PX["right"]
    top, bottom = _MARGIN_PX["top"], _SIZE_PX[1] - _MARGIN_PX["bottom"]
    series = [(metric, colour) for metric, colour in _SERIES if metric in group.metrics]
    low, high = value_range(
        [row.figures[m] for row in group.rows for m, _ in series if m in row.figures]
    )

    def y_of(percent: float) -> float:
        return bottom - (min(max(percent, low), high) - low) / (high - low) * (bottom - top)

    title, normal, small = (PIL.ImageFont.load_default(size=size) for size in (22, 16, 13))
    where = f": {group.dataset}, {group.concept}" if group.dataset else ""
    draw.text((left, 18), f"{plan.ablation.title}{where}", font=title, fill=_INK)
    for tick in range(int(low), int(high) + 1, 5 if high - low <= 30 else 10):
        draw.line([(left, y_of(tick)), (right, y_of(tick))], fill=_GRID)
        draw.text((left - 10, y_of(tick)), str(tick), font=normal, fill=_INK, anchor="rm")
    for number, (metric, colour) in enumerate(series):
        key = left + 160 * number
        draw.ellipse([key, 56, key + 12, 68], fill=colour)
        draw.text((key + 20, 62), metric_title(metric), font=normal, fill=_INK, anchor="lm")
    titles = {cell.name: cell.title for cell in plan.ablation.cells}
    step = (right - left) / len(group.rows)
    for place, row in enumerate(group.rows):
        centre = left + step * (place + 0.5)
        label = _fitted(titles[row.cell], normal, step - 8)
        draw.text((centre, bottom + 14), label, font=normal, fill=_INK, anchor="ma")
        if not row.figures:
            middle = (centre, (top + bottom) / 2)
            draw.text(middle, "missing", font=normal, fill=_FAINT, anchor="mm")
        for offset, (metric, colour) in enumerate(series):
            if metric in row.figures:
                x = centre + 22 * (offset - (len(series) - 1) / 2)
                _mark(draw, x, row.figures[metric], y_of, colour)
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=_INK, width=2)
    draw.text(
        ((left + right) / 2, bottom + 48), plan.ablation.column, font=normal, fill=_INK, anchor="ma"
    )
    legend = "disc: mean; line: 95 % confidence interval over cases; ring: one seed's mean"
    draw.text((left, _SIZE_PX[1] - 26), legend, font=small, fill=_FAINT)
    return picture


def _mark(
    draw: PIL.ImageDraw.ImageDraw,
    x: float,
    figure: Figure,
    y_of: Callable[[float], float],
    colour: tuple[int, int, int],
) -> None:
    ends = [y_of(100 * end) for end in _interval(figure)]
    draw.line([(x, ends[0]), (x, ends[1])], fill=colour, width=2)
    for y in ends:
        draw.line([(x - 5, y), (x + 5, y)], fill=colour, width=2)
    y = y_of(100 * figure.mean)
    draw.ellipse([x - 6, y - 6, x + 6, y + 6], fill=colour)
    if len(figure.seed_means) > 1:
        for mean in figure.seed_means.values():
            y = y_of(100 * mean)
            draw.ellipse([x + 8, y - 3, x + 14, y + 3], outline=colour)


def _fitted(text: str, font: _Font, width_px: float) -> str:
    if font.getlength(text) <= width_px:
        return text
    while len(text) > 1 and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"
