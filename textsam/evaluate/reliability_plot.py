"""The reliability diagram: mean true Dice per bin of score, against the diagonal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from textsam.metrics.reliability import Reliability

if TYPE_CHECKING:
    from textsam.evaluate.faithfulness_summary import ScoreReliability

__all__ = ["draw_reliability"]

_SIDE, _MARGIN, _TOP = 320, 62, 48
_INK, _GREY, _LIGHT = (20, 20, 20), (150, 150, 150), (230, 230, 230)
_BAR, _GAP, _MARK = (86, 132, 190), (214, 96, 77), (0, 110, 60)


def draw_reliability(score: ScoreReliability, found_threshold: float) -> Image.Image:
    """Two panels, RGB: present and absent things balanced, and present things alone.

    A bar reaches up to the mean Dice of its bin, a red line shows the distance to the mean score.
    The numbers above the axis are answers per bin; the green line is the found threshold.
    """
    panels = (("present and absent, balanced", score.balanced), ("present", score.present))
    width = _SIDE + 2 * _MARGIN
    picture = Image.new("RGB", (width * len(panels), _SIDE + _TOP + _MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    for index, (title, own) in enumerate(panels):
        _panel(draw, index * width + _MARGIN, title, own, found_threshold)
    return picture


def _panel(
    draw: ImageDraw.ImageDraw, left: int, title: str, own: Reliability | None, threshold: float
) -> None:
    font, small = ImageFont.load_default(14), ImageFont.load_default(10)
    bottom = _TOP + _SIDE

    def at(score: float, dice: float) -> tuple[float, float]:
        return left + score * _SIDE, bottom - dice * _SIDE

    for tick in range(0, 11, 2):
        value = tick / 10
        draw.line([at(0, value), at(1, value)], fill=_LIGHT)
        draw.text(at(value, 0), f"\n{value:.1f}", fill=_INK, font=small, anchor="ma")
        x, y = at(0, value)
        draw.text((x - 6, y), f"{value:.1f}", fill=_INK, font=small, anchor="rm")
    ece = "no answers" if own is None else f"ECE {own.ece:.3f}, n = {own.n}"
    draw.text((left, 8), f"{title}\n{ece}", fill=_INK, font=font)
    draw.text((left + _SIDE / 2, bottom + 34), "score", fill=_INK, font=font, anchor="ma")
    draw.text((left - 34, _TOP - 4), "Dice", fill=_INK, font=font, anchor="mb")
    for b in own.bins if own is not None else ():
        if b.mean_score is None or b.mean_dice is None:
            continue
        x0, y0 = at(b.low, b.mean_dice)
        x1, y1 = at(b.high, 0)
        draw.rectangle([x0 + 2, y0, x1 - 2, y1], fill=_BAR)
        middle = (b.low + b.high) / 2
        draw.line([at(middle, b.mean_dice), at(middle, b.mean_score)], fill=_GAP, width=3)
        draw.text((at(middle, 0)[0], bottom - 2), str(b.n), fill=_INK, font=small, anchor="mb")
    draw.line([at(0, 0), at(1, 1)], fill=_GREY, width=2)
    draw.line([at(threshold, 0), at(threshold, 1)], fill=_MARK, width=1)
    draw.rectangle([left, _TOP, left + _SIDE, bottom], outline=_INK)
