"""Draw the curves of a training's `log.csv`: smoothed loss, and what validations found."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _HEIGHT = 860, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 40
_INK, _GRID = (30, 30, 30), (228, 228, 228)
_LOSS, _DICE, _ABSENT = (0, 114, 178), (213, 94, 0), (0, 128, 90)
# Weight of the newest step in the smoothed loss.
_SMOOTHING = 0.04


def read_curves(log: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value."""
    curves: dict[str, dict[int, float]] = {}
    with log.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            curves.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    return curves


def smoothed(values: dict[int, float], weight: float = _SMOOTHING) -> dict[int, float]:
    """Exponential mean in the order of steps, begun with the first value."""
    result: dict[int, float] = {}
    mean: float | None = None
    for step, value in sorted(values.items()):
        mean = value if mean is None else (1 - weight) * mean + weight * value
        result[step] = mean
    return result


def draw_curves(log: Path) -> Image.Image:
    """An RGB picture: everything lies in [0, 1], what is higher is cut there."""
    curves = read_curves(log)
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12)
    last = max(max(values) for values in curves.values())

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        return x, _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(1.0, max(0.0, value))

    for tenth in range(0, 11, 2):
        draw.line([place(0, tenth / 10), place(last, tenth / 10)], fill=_GRID)
        draw.text((_LEFT - 30, place(0, tenth / 10)[1] - 7), f"{tenth / 10:.1f}", _INK, font)
    for quarter in range(5):
        x, y = place(last * quarter / 4, 0)
        draw.text((x, y + 8), f"{round(last * quarter / 4)}", _INK, font, anchor="mt")
    draw.text((_WIDTH / 2, _HEIGHT - 6), "optimiser step", _INK, font, anchor="mb")
    shown = (
        ("training loss, smoothed", smoothed(curves.get("loss", {})), _LOSS),
        ("validation Dice, mean over sets and concepts", curves.get("val_dice", {}), _DICE),
        ("masks for absent things", curves.get("val_false_positive_rate", {}), _ABSENT),
    )
    for number, (title, values, colour) in enumerate(shown):
        points = [place(step, value) for step, value in sorted(values.items())]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        if len(points) < 40:
            for x, y in points:
                draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        draw.text((_LEFT + number * 275, 12), title, colour, font)
    return picture
