"""From the last pass to an answer: its score, and whether the thing is there."""

from __future__ import annotations

import numpy as np

from textsam.adapters import AdapterConfig
from textsam.kinds import Look
from textsam.prepare import Prepared
from textsam.question import Question
from textsam.refine import Pass
from textsam.refinement import RefineWith
from textsam.result import Segmentation
from textsam.score import answer_score
from textsam.settle import Settle

__all__ = ["verdict"]


def verdict(
    config: AdapterConfig,
    image: Prepared,
    question: Question,
    final: Pass,
    index: int,
    *,
    refined: int | Settle,
    gives: RefineWith,
    look: Look,
) -> Segmentation:
    """The answer to one question about one image.

    Args:
        config: of the adapter.
        image: asked about.
        question: asked.
        final: the last pass.
        index: of the question in that pass.
        refined: passes of refinement, or the rule they followed.
        gives: what refinement took from a mask.
        look: of the image; `UNLOOKED` where it is not to rule anything out.
    """
    logits = image.frame.logits_to_image(final.logits[index][None].float())[0, 0]
    probability = logits.sigmoid().cpu().numpy()
    mask = final.masks[index]
    empty = not mask.any()
    if config.score == "iou_head":
        raw = float(final.iou[index, 0].clamp(0, 1))
    else:
        raw = 0.0 if empty else float(probability[mask].mean())
    score = answer_score(raw, config.score_map, empty=empty)
    ruled_out = config.kinds is not None and config.kinds.rules_out(
        question.concept, look.probabilities
    )
    if ruled_out:
        score = 0.0
    # The threshold tells present from absent for words; a place shown is no such question.
    sure = question.text is None or score >= config.found_threshold
    found = not empty and sure and not ruled_out
    extra: dict[str, object] = {"concept": question.concept, "refine": refined}
    if isinstance(refined, Settle):
        passes, ending = final.settled.get(index, (0, None))
        extra.update(refine=passes, settle=refined.model_dump(), ended=ending)
    if gives is not RefineWith.BOX_CENTROID:
        extra["refine_with"] = gives.value
    if ruled_out:
        extra["not_in"] = look.likeliest
    if look.unfamiliar:
        extra["unfamiliar"] = True
    if not empty and not found:
        extra["rejected_area_px"] = int(mask.sum())
    return Segmentation(
        mask=image.to_image(mask.copy() if found else np.zeros_like(mask)),
        probability=image.to_image(probability),
        score=score,
        found=found,
        prompt=question.asked,
        image=image.image,
        adapter=config.name,
        model=config.preset,
        extra=extra,
    )
