"""What a model says of one question about one image, by one view of it or by several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from textsam.inference.cut import Cut, histogram
from textsam.inference.settle import Ending

__all__ = ["Decoded", "cut_out", "mean_of_views"]


@dataclass(frozen=True, eq=False)
class Decoded:
    """One question, answered but not judged.

    Attributes:
        probability: (H, W) float32 in [0, 1], in the frame of the image's region.
        mask: (H, W), where the probability exceeds the adapter's threshold.
        iou: predicted IoU.
        settled: refinement passes, and why they ended, where they went on until the mask settled.
        cut: probability above which pixels were taken, where that is lower than the adapter's
            threshold; see `textsam.inference.cut`.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    iou: float
    settled: tuple[int, Ending | None] | None = None
    cut: float | None = None


def mean_of_views(views: Sequence[Decoded], threshold: float) -> Decoded:
    """Several views' answers to one question as one: probabilities and predicted IoU averaged.

    Args:
        views: at least one; what settled is the first one's. One alone is returned as it is.
        threshold: probability above which a pixel belongs to the mask.
    """
    if len(views) == 1:
        return views[0]
    together = np.stack([view.probability for view in views])
    probability: NDArray[np.float32] = together.mean(axis=0, dtype=np.float32)
    iou = float(np.mean([view.iou for view in views]))
    return Decoded(probability, np.greater(probability, threshold), iou, views[0].settled)


def cut_out(answer: Decoded, cut: Cut | None, highest: float) -> Decoded:
    """An answer with its mask cut anew.

    Args:
        answer: its mask cut at `highest`.
        cut: None leaves it as it is.
        highest: probability above which a pixel belongs to the mask in any case.
    """
    if cut is None or not (answer.probability > cut.least).any():
        return answer
    threshold = cut.threshold(histogram(answer.probability), highest)
    if threshold >= highest:
        return answer
    return replace(answer, mask=np.greater(answer.probability, threshold), cut=threshold)
