"""Which prompts a training image is asked: concepts it shows, and things that are surely not there.

A negative must be true. What a data set does not annotate may still be in its images (vessels in a
breast scan), so only what is known to be absent is asked for with an empty mask as the answer.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from textsam.data.sample import Sample
from textsam.prompts import (
    CONCEPTS,
    canonical,
    canonical_key,
    certainly_absent,
    distractors_for,
    meanings,
)
from textsam.sections import Section
from textsam.vocabulary import IMAGE_KINDS

__all__ = ["Ask", "PromptConfig", "PromptSampler"]


class PromptConfig(Section):
    """How many prompts an image is asked, and in which words.

    max_positives: concepts that are in the image, chosen at random when there are more.
    negatives: prompts that must come back empty (fewer when fewer are known to be absent). An
        image without positives is asked at least one.
    synonym_p: probability of a synonym instead of the canonical name.
    distractor_p: probability that a negative is a thing outside the vocabulary.
    hard_weight: how much likelier a negative is one that the data set itself knows to be absent
        from this image (annotated and without pixels, or a normal image) than any other.
    kin_weight: the same for one that other images of this kind can show ("tumor" in a forearm's
        ultrasound, as breasts have them): what tells kinds of image apart does not rule it out.
    """

    max_positives: int = Field(default=2, ge=1)
    negatives: int = Field(default=1, ge=0)
    synonym_p: float = Field(default=0.5, ge=0.0, le=1.0)
    distractor_p: float = Field(default=0.1, ge=0.0, le=1.0)
    hard_weight: float = Field(default=4.0, gt=0.0)
    kin_weight: float = Field(default=1.0, gt=0.0)


@dataclass(frozen=True)
class Ask:
    """One prompt: its text, the concept meant (the text itself for a distractor), the truth."""

    text: str
    concept: str
    present: bool


class PromptSampler:
    """Draw the prompts to ask of an image.

    vocabulary: the concepts that negatives are drawn from, usually all that are trained.
    """

    def __init__(self, vocabulary: Sequence[str], config: PromptConfig | None = None) -> None:
        self.vocabulary = tuple(dict.fromkeys(vocabulary))
        self.config = config or PromptConfig()

    def __call__(
        self, sample: Sample, present: Sequence[str], empty: Sequence[str], rng: np.random.Generator
    ) -> list[Ask]:
        """Positives first, then negatives.

        present: annotated concepts that have pixels. empty: annotated ones that have none.
        """
        config = self.config
        chosen = list(present)
        if len(chosen) > config.max_positives:
            order = rng.choice(len(chosen), size=config.max_positives, replace=False)
            chosen = [chosen[i] for i in order]
        asks = [Ask(self._positive_text(c, sample.modality, rng), c, True) for c in chosen]
        wanted = config.negatives if asks else max(1, config.negatives)
        return asks + self._negatives(sample, present, empty, wanted, rng)

    def negative_texts(
        self, sample: Sample, present: Sequence[str], empty: Sequence[str]
    ) -> dict[str, list[str]]:
        """Concept -> texts that are certainly false of the image, its own name first.

        A concept counts when the sample says it is absent, when it is annotated without a pixel,
        or when it never occurs in the modality. A text that could also mean something that may be
        there is left out ("lesion" for "skin lesion" in a breast scan), and so is another wording
        of what is there ("cysts" beside "cyst").
        """
        shown = {canonical_key(concept) for concept in present}
        known_absent = {*sample.absent, *empty} - set(present)

        def is_absent(concept: str) -> bool:
            if canonical_key(concept) in shown:
                return False
            return concept in known_absent or (
                concept in CONCEPTS and certainly_absent(concept, sample.modality)
            )

        legal: dict[str, list[str]] = {}
        for concept in dict.fromkeys((*sample.absent, *empty, *self.vocabulary)):
            if not is_absent(concept):
                continue
            names = CONCEPTS[concept].names if concept in CONCEPTS else (concept,)
            texts = [n for n in names if all(is_absent(m) for m in meanings(n))]
            if texts:
                legal[concept] = texts
        return legal

    def _positive_text(self, concept: str, modality: str, rng: np.random.Generator) -> str:
        if concept not in CONCEPTS:
            return concept
        return self._worded(concept, CONCEPTS[concept].names_in(modality)[1:], rng)

    def _worded(self, concept: str, synonyms: Sequence[str], rng: np.random.Generator) -> str:
        if synonyms and rng.random() < self.config.synonym_p:
            return synonyms[int(rng.integers(len(synonyms)))]
        return concept

    def _weight(self, concept: str, modality: str, hard: Set[str]) -> float:
        """How likely a concept is as a negative, beside the others."""
        if concept in hard:
            return self.config.hard_weight
        # Only the vocabulary says of others that a kind of image, one of its own, cannot show them.
        kin = {IMAGE_KINDS[other] for other in CONCEPTS[concept].modalities}
        return self.config.kin_weight if IMAGE_KINDS[modality] in kin else 1.0

    def _negatives(
        self,
        sample: Sample,
        present: Sequence[str],
        empty: Sequence[str],
        wanted: int,
        rng: np.random.Generator,
    ) -> list[Ask]:
        legal = self.negative_texts(sample, present, empty)
        hard = {*sample.absent, *empty}
        # What a run trains on is no distractor for it, even where the table says so.
        trained = (*self.vocabulary, *present, *empty)
        distractors = [d for d in distractors_for(sample.modality) if canonical(d, trained) is None]
        asks: list[Ask] = []
        for _ in range(wanted):
            if not legal or rng.random() < self.config.distractor_p:
                if distractors:
                    text = distractors.pop(int(rng.integers(len(distractors))))
                    asks.append(Ask(text, text, False))
                continue
            concepts = list(legal)
            weights = np.array([self._weight(c, sample.modality, hard) for c in concepts])
            concept = concepts[int(rng.choice(len(concepts), p=weights / weights.sum()))]
            text = self._worded(concept, legal.pop(concept)[1:], rng)
            asks.append(Ask(text, concept, False))
        return asks
