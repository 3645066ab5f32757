"""From the last pass to an answer: its score, and whether the thing is there."""

from __future__ import annotations

import numpy as np

from textsam.adapters import AdapterConfig
from textsam.judgement import judge
from textsam.kinds import Look
from textsam.prepare import Prepared
from textsam.question import Question
from textsam.refine import Pass
from textsam.refinement import RefineWith
from textsam.result import Segmentation
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
    judgement = judge(
        config,
        mask,
        probability,
        iou=float(final.iou[index, 0]),
        concept=question.concept,
        look=look,
        shown=question.text is None,
    )
    extra: dict[str, object] = {"concept": question.concept, "refine": refined}
    if isinstance(refined, Settle):
        passes, ending = final.settled.get(index, (0, None))
        extra.update(refine=passes, settle=refined.model_dump(), ended=ending)
    if gives is not RefineWith.BOX_CENTROID:
        extra["refine_with"] = gives.value
    extra.update(judgement.remarks)
    return Segmentation(
        mask=image.to_image(mask.copy() if judgement.found else np.zeros_like(mask)),
        probability=image.to_image(probability),
        score=judgement.score,
        found=judgement.found,
        prompt=question.asked,
        image=image.image,
        adapter=config.name,
        model=config.preset,
        extra=extra,
    )
