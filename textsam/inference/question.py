"""What a prompt means to an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textsam.caller import warn_caller
from textsam.errors import PromptError
from textsam.prompts import canonical, normalise
from textsam.spelling import (
    CorrectedPromptWarning,
    UnknownPromptWarning,
    corrected,
    unknown_message,
)

__all__ = ["Question", "as_list", "understood", "warned"]


@dataclass(frozen=True)
class Question:
    """A prompt as asked, what it means, and the text that is encoded; None: geometry alone.

    doubt: what the user should know of how the prompt was understood; empty if it is known.
    """

    asked: str
    concept: str | None
    text: str | None
    doubt: str = ""


def understood(asked: str, adapter_name: str, prompts: Sequence[str]) -> Question:
    """What one prompt means to an adapter that knows `prompts`, without a warning.

    A known name, synonym or other wording is the concept. A misspelling of one
    (`textsam.spelling`) is the concept too, with a doubt; any other text stands for itself.

    Raises:
        PromptError: an empty or too long prompt.
    """
    text = normalise(asked)
    concept = canonical(text, prompts)
    if concept is not None:
        return Question(asked, concept, concept)
    concept = corrected(text, prompts)
    doubt = unknown_message(adapter_name, asked, prompts, answered=True)
    return Question(asked, concept, text if concept is None else concept, doubt)


def warned(asked: str, adapter_name: str, prompts: Sequence[str], *, strict: bool) -> Question:
    """`understood`, with its doubt as a warning.

    Args:
        asked, adapter_name, prompts: as of `understood`.
        strict: raise for a prompt that is not known, instead of warning.

    Raises:
        PromptError: as `understood`; with `strict`, an unknown prompt.
    """
    question = understood(asked, adapter_name, prompts)
    if question.doubt and strict:
        raise PromptError(unknown_message(adapter_name, asked, prompts, answered=False))
    if question.doubt:
        misspelt = question.concept is not None
        category = CorrectedPromptWarning if misspelt else UnknownPromptWarning
        warn_caller(question.doubt, category)
    return question


def as_list(prompt: Any) -> list[Any]:
    """One prompt, or several, as a list.

    Raises:
        PromptError: neither a word nor a sequence of at least one prompt.
    """
    if isinstance(prompt, str):
        return [prompt]
    # A set has no order for the answers to follow, and bytes would be a list of numbers.
    single = isinstance(prompt, np.ndarray) and prompt.ndim == 0
    if not isinstance(prompt, Sequence | np.ndarray) or isinstance(prompt, bytes) or single:
        raise PromptError(f"the prompt is {prompt!r}; give a word or a list of words")
    if not len(prompt):
        raise PromptError("the list of prompts is empty; give at least one word")
    return list(prompt)
