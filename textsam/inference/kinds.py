"""Which kind of image this is, and what cannot be in it: "lung" has no place in a breast scan.

A mask decoder asked for a lung looks for something like one, wherever it is. Whether the picture
can show lungs at all is another question, and an easier one: the mean of an image's embedding tells
an ultrasound scan from a radiograph. A linear discriminant of these means is fitted when an adapter
is finished (`textsam.calibrate.kinds`) and travels with it. Of an image that lies farther from
every kind than the images it was fitted on, it says nothing but that.

A photograph may lie where radiographs do, as far as the directions go that tell kinds apart. What
gives it away is what it has besides: the part of its mean in which the images fitted on hardly
vary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from textsam.sections import Section
from textsam.vocabulary import CONCEPTS, IMAGE_KINDS

if TYPE_CHECKING:
    from textsam.frame import SquareGeometry

__all__ = ["UNLOOKED", "ImageKinds", "Look", "Remainder", "Spread", "mean_embedding"]


def mean_embedding(embedding: NDArray[np.floating], frame: SquareGeometry) -> NDArray[np.float64]:
    """The mean of an embedding over the part of the square that is image.

    Args:
        embedding: (C, h, h) over the model's square.
        frame: of the image.

    Returns:
        (C,).
    """
    cells = embedding.shape[-1]
    rows, columns = (math.ceil(valid * cells / frame.side_px) for valid in frame.valid_px)
    inside = np.asarray(embedding[:, :rows, :columns], dtype=np.float64)
    mean: NDArray[np.float64] = inside.mean(axis=(1, 2))
    return mean


@dataclass(frozen=True)
class Look:
    """What an image looks like.

    Attributes:
        probabilities: kind -> probability; empty where nothing is known, so that nothing is ruled
            out.
        unfamiliar: it lies farther from every kind than the images the kinds were fitted on, or has
            something that these have not.
    """

    probabilities: Mapping[str, float] = field(default_factory=dict)
    unfamiliar: bool = False

    @property
    def likeliest(self) -> str:
        """The kind of highest probability; not for a look without any."""
        return max(self.probabilities, key=lambda kind: self.probabilities[kind])


UNLOOKED = Look()
"""Of an image that nobody looked at."""


class Spread(Section):
    """How the scores of a kind's own images scatter, and how far.

    Attributes:
        centres: K rows of K, the scores of each kind's mean.
        precision: (K, K), inverse covariance of scores within a kind.
        reach: the squared Mahalanobis distance from its nearest centre within which all images
            fitted on lie, or most of them.
    """

    centres: tuple[tuple[float, ...], ...]
    precision: tuple[tuple[float, ...], ...]
    reach: float = Field(gt=0)

    def distance(self, scores: NDArray[np.float64]) -> float:
        """Squared Mahalanobis distance of (K,) scores from the nearest centre."""
        offsets = np.asarray(self.centres) - scores
        return float(np.einsum("ki,ij,kj->k", offsets, np.asarray(self.precision), offsets).min())


class Remainder(Section):
    """What an embedding has besides that in which the images fitted on vary.

    Attributes:
        centre: C numbers, the mean embedding of all these images.
        directions: rows of C, orthonormal: the principal directions in which they vary.
        reach: the length of the remainder within which all of them lie, or most of them.
    """

    centre: tuple[float, ...] = Field(min_length=1)
    directions: tuple[tuple[float, ...], ...] = Field(min_length=1)
    reach: float = Field(gt=0)

    def length(self, mean: NDArray[np.float64]) -> float:
        """Of a (C,) mean's offset from the centre, without its share along the directions."""
        offset = mean - np.asarray(self.centre)
        directions = np.asarray(self.directions)
        return float(np.linalg.norm(offset - directions.T @ (directions @ offset)))


class ImageKinds(Section):
    """A linear discriminant of mean embeddings.

    Attributes:
        names: of the K kinds it can tell apart, values of `textsam.vocabulary.IMAGE_KINDS`.
        weights: K rows of one number per channel of the embedding.
        biases: K numbers. The probability of a kind is the softmax of `weights · mean + biases`.
        threshold: below this probability of all kinds together that can show a concept, it is ruled
            out.
        spread: of the scores, by which an unfamiliar image is known; None: every image is taken for
            one of the kinds.
        remainder: by which an image is known as unfamiliar that lies near a kind; None: none is.
    """

    names: tuple[str, ...] = Field(min_length=2)
    weights: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]
    threshold: float = Field(gt=0, lt=1)
    spread: Spread | None = None
    remainder: Remainder | None = None

    @model_validator(mode="after")
    def _of_one_size(self) -> ImageKinds:
        count = len(self.names)
        if len(self.weights) != count or len(self.biases) != count:
            raise ValueError(
                f"has {count} names, {len(self.weights)} rows of weights and {len(self.biases)} "
                "biases"
            )
        if len({len(row) for row in self.weights}) != 1:
            raise ValueError("has rows of weights of different lengths")
        if self.spread is not None:
            for name in ("centres", "precision"):
                rows = getattr(self.spread, name)
                if {len(rows), *(len(row) for row in rows)} != {count}:
                    raise ValueError(f"has {count} names, so spread.{name} is {count} rows of that")
        if self.remainder is not None:
            lengths = {len(row) for row in (self.remainder.centre, *self.remainder.directions)}
            if lengths != {len(self.weights[0])}:
                raise ValueError(
                    f"has weights of {len(self.weights[0])} channels, so the centre and the "
                    "directions of remainder have as many"
                )
        return self

    def scores(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K,) `weights · mean + biases` of a (C,) mean."""
        scores: NDArray[np.float64] = np.asarray(self.weights) @ mean + np.asarray(self.biases)
        return scores

    def look(self, mean: NDArray[np.float64]) -> Look:
        """What kind of image this is.

        Args:
            mean: (C,), from `mean_embedding`.
        """
        scores = self.scores(mean)
        if self.spread is not None and self.spread.distance(scores) > self.spread.reach:
            return Look(unfamiliar=True)
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        rest = self.remainder
        return Look(
            dict(zip(self.names, map(float, shares), strict=True)),
            unfamiliar=rest is not None and rest.length(mean) > rest.reach,
        )

    def rules_out(self, concept: str | None, probabilities: Mapping[str, float]) -> bool:
        """Whether an image of these probabilities can hardly show a concept.

        Never for a concept outside the vocabulary, nor for one of whose kinds of image none is
        among `names`: nothing is known of them.

        Args:
            concept: canonical name, or None for a text that means none.
            probabilities: of a look.
        """
        if concept is None or concept not in CONCEPTS:
            return False
        kinds = {IMAGE_KINDS[modality] for modality in CONCEPTS[concept].modalities}
        known = kinds & probabilities.keys()
        return bool(known) and sum(probabilities[kind] for kind in known) < self.threshold
