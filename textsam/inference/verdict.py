"""From what a model says to an answer: its score, and whether the thing is there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textsam.adapters import AdapterConfig
from textsam.inference.decoded import Decoded
from textsam.inference.judgement import judge
from textsam.inference.kinds import Look
from textsam.inference.prepare import Prepared
from textsam.inference.question import Question
from textsam.inference.refinement import RefineWith
from textsam.inference.settle import Settle
from textsam.result import Segmentation

__all__ = ["verdict"]


def verdict(
    config: AdapterConfig,
    image: Prepared,
    question: Question,
    answer: Decoded,
    *,
    refined: int | Settle,
    gives: RefineWith,
    look: Look,
    views: str = "",
    sides_px: Sequence[int] = (),
) -> Segmentation:
    """The answer to one question about one image.

    Args:
        config: of the adapter.
        image: asked about.
        question: asked.
        answer: of the model.
        refined: passes of refinement, or the rule they followed.
        gives: what refinement took from a mask.
        look: of the image; `UNLOOKED` where it is not to rule anything out.
        views: that the answer is the mean of, besides the plain one.
        sides_px: of the model's square, where they are not the adapter's own alone.
    """
    mask, probability = answer.mask, answer.probability
    judgement = judge(
        config,
        mask,
        probability,
        iou=answer.iou,
        concept=question.concept,
        look=look,
        shown=question.text is None,
    )
    extra: dict[str, object] = {"concept": question.concept, "refine": refined}
    if isinstance(refined, Settle):
        passes, ending = answer.settled or (0, None)
        extra.update(refine=passes, settle=refined.model_dump(), ended=ending)
    if gives is not RefineWith.BOX_CENTROID:
        extra["refine_with"] = gives.value
    if views:
        extra["views"] = views
    if sides_px:
        extra["sides_px"] = list(sides_px)
    if answer.cut is not None:
        extra["cut"] = answer.cut
    extra.update(judgement.remarks)
    return Segmentation(
        mask=image.to_image(mask if judgement.found else np.zeros_like(mask)),
        probability=image.to_image(probability),
        score=judgement.score,
        found=judgement.found,
        prompt=question.asked,
        image=image.image,
        adapter=config.name,
        model=config.preset,
        extra=extra,
    )
