"""What is said of one segment: who drew it and how often it was found."""

from __future__ import annotations

from dataclasses import dataclass

from textsam.result import Segmentation

__all__ = ["SegmentFacts"]


@dataclass
class SegmentFacts:
    """One prompt over the images of one instance.

    Attributes:
        prompt: as asked.
        concept: what the adapter took it for, None where it does not know the prompt.
        adapter, model: names.
        images: how many were counted.
        found: in how many of them it was found.
        score: the highest.
    """

    prompt: str
    concept: str | None
    adapter: str
    model: str
    images: int = 0
    found: int = 0
    score: float = 0.0

    @classmethod
    def of(cls, answer: Segmentation) -> SegmentFacts:
        """Facts from the first answer, which is not counted yet."""
        concept = answer.extra.get("concept")
        known = concept if isinstance(concept, str) else None
        return cls(answer.prompt, known, answer.adapter, answer.model)

    def count(self, answer: Segmentation) -> None:
        """Add one image."""
        self.images += 1
        self.found += answer.found
        self.score = max(self.score, answer.score)
