"""How often each question is refined: as the user asks, or as the adapter says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textsam.adapters import AdapterConfig
from textsam.errors import PromptError
from textsam.inference.question import Question
from textsam.inference.refinement import RefineWith
from textsam.inference.settle import Settle, settle_of

__all__ = ["Refine", "passes_for"]

Refine = int | str | Settle
"""Refinement passes, "settle", or when a mask has settled."""


def passes_for(
    questions: Sequence[Question],
    refine: Refine | None,
    config: AdapterConfig,
    gives: RefineWith | None = None,
) -> Sequence[int | Settle]:
    """Refinement passes per question.

    Args:
        questions: one by geometry alone is not refined unless asked: the adapter speaks of words.
        refine: as asked; None: what the adapter says of each concept.
        config: of the adapter.
        gives: what refinement takes from a mask; None: what the adapter says. Where it takes
            nothing there is none.

    Raises:
        PromptError: neither a whole number of at least 0 nor a rule for settling.
    """
    if (config.refine_with if gives is None else gives) is RefineWith.NONE:
        return [0] * len(questions)
    if refine is None:
        return [
            0 if q.text is None else config.refine_for.get(q.concept or "", config.refine)
            for q in questions
        ]
    rule = settle_of(refine)
    if rule is not None:
        return [rule] * len(questions)
    if not (isinstance(refine, int | np.integer) and refine >= 0):
        raise PromptError(
            f"refine is {refine!r}; give 0 or more passes, a whole number, or 'settle' to "
            "refine until the mask changes no more"
        )
    return [int(refine)] * len(questions)
