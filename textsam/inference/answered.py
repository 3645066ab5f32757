"""Prepared images and questions about them, answered and judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from textsam.adapters import AdapterConfig
from textsam.inference.decoded import cut_out
from textsam.inference.encoded import Encodings, means_of
from textsam.inference.kinds import UNLOOKED
from textsam.inference.prepare import Prepared
from textsam.inference.question import Question
from textsam.inference.refine import Geometry
from textsam.inference.refinement import RefineWith
from textsam.inference.settle import Settle
from textsam.inference.sides import Sides
from textsam.inference.verdict import verdict
from textsam.inference.view import Asked
from textsam.result import Segmentation

__all__ = ["answered"]


def answered(
    model: Sides,
    config: AdapterConfig,
    images: Sequence[Prepared],
    questions: Sequence[Question],
    *,
    geometry: Sequence[Geometry | None],
    passes: Sequence[int | Settle],
    gives: RefineWith,
    seed: int,
) -> list[list[Segmentation]]:
    """Ask the same questions of each image, and judge what the model says by its adapter.

    Args:
        model: at the sides that the adapter and the views name.
        config: of the adapter.
        images: B, prepared.
        questions: C.
        geometry: (C,) in the image's frame, or None; the same for every image.
        passes: (C,) refinement passes, or rules for settling.
        gives: what refinement takes from a mask.
        seed: of random refinement points.

    Returns:
        B lists of C results.
    """
    own = (model.own_px,)
    sides = [config.sides_for.get(question.concept or "", own) for question in questions]
    with torch.inference_mode():
        looks = [UNLOOKED for _ in images]
        embeddings = None
        if config.kinds is not None:
            embeddings = model.encodings.embed(images)
            looks = [config.kinds.look(mean) for mean in means_of(embeddings, images)]
        asked = Asked(
            texts=[question.text for question in questions],
            tokens=[_token(model.encodings, question) for question in questions],
            geometry=geometry,
            passes=passes,
            gives=gives,
            threshold=config.mask_threshold,
            authors_frame=config.authors_frame,
            seed=seed,
        )
        answers = model.decode(images, asked, sides, embeddings)
    # Validation has shown where to cut what a word asks for, not what a point or a box does.
    cuts = [config.cut if shown is None else None for shown in geometry]
    return [
        [
            verdict(
                config,
                image,
                question,
                cut_out(answers[row][i], cuts[i], config.mask_threshold),
                refined=passes[i],
                gives=gives,
                # Whoever shows a place has said what kind of thing to look for there.
                look=look if geometry[i] is None else UNLOOKED,
                views=str(model.views),
                sides_px=sides[i] if sides[i] != own else (),
            )
            for i, question in enumerate(questions)
        ]
        for row, (image, look) in enumerate(zip(images, looks, strict=True))
    ]


def _token(encodings: Encodings, question: Question) -> Tensor | None:
    if question.text is None or not encodings.model.takes_text:
        return None
    return encodings.token(question.text)
