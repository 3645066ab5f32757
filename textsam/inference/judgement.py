"""What a mask is worth, and whether its subject is in the image: alike with torch and without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textsam.inference.kinds import Look
from textsam.inference.score import answer_score

if TYPE_CHECKING:
    from textsam.adapters import AdapterConfig
    from textsam.export.record import ExportRecord

__all__ = ["Judgement", "judge"]


@dataclass(frozen=True)
class Judgement:
    """Of one mask.

    Attributes:
        score: in [0, 1].
        found: whether the mask is the answer; otherwise that is an empty one.
        remarks: what else to tell: `not_in`, the likeliest kind of an image that cannot show the
            concept; `unfamiliar`, of an image unlike all kinds; `rejected_area_px`, of a mask that
            does not count.
    """

    score: float
    found: bool
    remarks: Mapping[str, object]


def judge(
    rules: AdapterConfig | ExportRecord,
    mask: NDArray[np.bool_],
    probability: NDArray[np.float32],
    *,
    iou: float,
    concept: str | None,
    look: Look,
    shown: bool = False,
) -> Judgement:
    """Score a mask and decide whether it is an answer.

    Args:
        rules: of the adapter, or of an export of it.
        mask: (H, W), of the last pass.
        probability: (H, W) in [0, 1].
        iou: that the decoder predicts for the mask; need not lie in [0, 1].
        concept: asked for; None for a text outside the vocabulary.
        look: of the image; `UNLOOKED` where it is not to rule anything out.
        shown: a point or box alone asks, not a word: the found threshold, which tells present from
            absent for words, says nothing then.
    """
    empty = not mask.any()
    if rules.score == "iou_head":
        raw = min(max(iou, 0.0), 1.0)
    else:
        raw = 0.0 if empty else float(probability[mask].mean())
    knots = rules.score_map_for.get(concept or "", rules.score_map)
    score = answer_score(raw, knots, empty=empty)
    ruled_out = rules.kinds is not None and rules.kinds.rules_out(concept, look.probabilities)
    remarks: dict[str, object] = {}
    if ruled_out:
        score = 0.0
        remarks["not_in"] = look.likeliest
    if look.unfamiliar:
        remarks["unfamiliar"] = True
    found = not empty and not ruled_out and (shown or score >= rules.found_threshold)
    if not empty and not found:
        remarks["rejected_area_px"] = int(mask.sum())
    return Judgement(score, found, remarks)
