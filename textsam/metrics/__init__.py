"""How well a mask matches the truth: overlap, agreement of contours, and distance of contours.

All take two bool arrays (H, W) in one frame and do not care which of the two is which.

| function | what | range | both empty | one empty |
|---|---|---|---|---|
| `dice`, `iou` | overlap | [0, 1], 1 best | 1.0 | 0.0 |
| `nsd` | contour within a tolerance | [0, 1], 1 best | 1.0 | 0.0 |
| `nsd_slab` | the TextSAM-EUS authors' variant of it | [0, 1], 1 best | 1.0 | 0.0 |
| `hd95` | distance of contours, px or mm | [0, inf], 0 best | 0.0 | inf |

Where both are empty the answer is right and gets the best value; where exactly one is, the worst.
The formulas give nothing there, so this is a convention; see docs/metrics.md.

Figures of many cases are in `textsam.metrics.statistics`; whether scores are the Dice to expect
says `textsam.metrics.reliability`.
"""

from textsam.metrics.contour import hd95, nsd
from textsam.metrics.overlap import dice, iou
from textsam.metrics.slab import nsd_slab

__all__ = ["dice", "hd95", "iou", "nsd", "nsd_slab"]
