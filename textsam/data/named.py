"""Names of what masks show: those that can be asked for, and those that an adapter has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from textsam.data.sample import Sample
from textsam.errors import PromptError
from textsam.prompts import CONCEPTS, canonical, canonical_key, normalise

__all__ = ["ConceptName", "by_prompt", "named_by", "unaskable", "words_of"]


def unaskable(name: str) -> str:
    """Why a name cannot be asked for; empty where it can."""
    try:
        normalise(name)
    except PromptError as error:
        return str(error)
    return ""


def _askable(name: str) -> str:
    if fault := unaskable(name):
        raise ValueError(fault)
    return name


ConceptName = Annotated[str, AfterValidator(_askable)]
"""Of a setting that says what masks show: a text that can be asked for."""


def by_prompt(
    masks: Mapping[str, NDArray[np.bool_]], prompts: Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """The masks by the adapter's word for each concept; several that are one word are united.

    Args:
        masks: the data set's concept -> (H, W), all of one size.
        prompts: the adapter's words. A concept that is none of them keeps its name.
    """
    named: dict[str, NDArray[np.bool_]] = {}
    for concept, mask in masks.items():
        name = canonical(concept, prompts) or concept
        named[name] = named[name] | mask if name in named else mask
    return named


def words_of(samples: Iterable[Sample]) -> tuple[str, ...]:
    """The concepts annotated in samples, in order; of several spellings of one word one alone.

    "tumour" beside "tumor" could never be asked for: whatever an adapter is asked, it takes the
    first of its words that is meant. It is the one in `CONCEPTS`, of which synonyms and kinds of
    image are known, else the first.
    """
    words: dict[str, str] = {}
    for concept in dict.fromkeys(target.concept for own in samples for target in own.targets):
        key = canonical_key(concept)
        if key not in words or concept in CONCEPTS:
            words[key] = concept
    return tuple(words.values())


def named_by(samples: Iterable[Sample], words: Sequence[str]) -> list[Sample]:
    """Samples with their concepts called as an adapter of these words understands them.

    Args:
        samples: of any spelling.
        words: of the adapter. A concept that is none of them keeps its name.
    """
    spelt = {canonical_key(word): word for word in reversed(words)}
    names: dict[str, str] = {}

    def named(concept: str) -> str:
        if concept not in names:
            names[concept] = canonical(concept, words) or concept
        return names[concept]

    def absent(concept: str) -> str:
        # That a synonym is not there, perhaps a narrower one, says less of the word.
        return spelt.get(canonical_key(concept), concept)

    return [
        replace(
            sample,
            targets=tuple(replace(own, concept=named(own.concept)) for own in sample.targets),
            absent=tuple(dict.fromkeys(map(absent, sample.absent))),
        )
        for sample in samples
    ]
