"""Fit the kinds of image an adapter tells apart, on its training images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from textsam.data.augment import Augment, by_kind
from textsam.data.augment_config import AugmentConfig
from textsam.data.sample import Sample, load_sample
from textsam.inference.kinds import ImageKinds, Remainder, Spread
from textsam.inference.segmenter import Segmenter
from textsam.progress import with_bar
from textsam.vocabulary import IMAGE_KINDS

__all__ = ["MIN_IMAGES", "both_means", "chosen_of", "discriminant", "fit_kinds", "fit_means"]

# Of the within-kind covariance, drawn towards a sphere: there are fewer images than channels.
_SHRINKAGE = 0.1
# Halves the log odds. Other scanners lie farther from the means than the images fitted on.
_TEMPERATURE = 2.0
THRESHOLD = 0.05
# Of the images fitted on. They vary in few directions: these explain nearly all of it.
_DIRECTIONS = 32
# Through fewer images the directions pass exactly, and any other image would be unfamiliar.
_MEANS_PER_DIRECTION = 4
# Fewer images say too little of how a kind varies.
MIN_IMAGES = 4


def discriminant(
    means: NDArray[np.float64],
    kinds: Sequence[str],
    *,
    covered: float = 1.0,
) -> ImageKinds:
    """Linear discriminant analysis with one covariance, every kind equally likely and weighty.

    Args:
        means: (N, C), from `mean_embedding`.
        kinds: N names, two or more different ones.
        covered: share of these images that are within reach, of their spread and again of what
            they have besides. One odd image among them would else make the reach so large that
            anything is familiar.
    """
    labels = np.array(kinds)
    names = sorted(set(kinds))
    centres = np.stack([means[labels == name].mean(axis=0) for name in names])
    covariance = np.mean(
        [np.cov(means[labels == name], rowvar=False, bias=True) for name in names],
        axis=0,
    )
    channels = means.shape[1]
    sphere = np.trace(covariance) / channels * np.eye(channels)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * sphere
    weights = np.linalg.solve(covariance, centres.T).T
    biases = -0.5 * np.einsum("kc,kc->k", weights, centres)
    told = ImageKinds(
        names=tuple(names),
        weights=_rows(weights / _TEMPERATURE),
        biases=_row(biases / _TEMPERATURE),
        threshold=THRESHOLD,
    )
    return told.model_copy(
        update={
            "spread": _spread(told, centres, covariance, means, covered),
            "remainder": _remainder(means, covered),
        }
    )


def _spread(
    told: ImageKinds,
    centres: NDArray[np.float64],
    covariance: NDArray[np.float64],
    means: NDArray[np.float64],
    covered: float,
) -> Spread:
    """What (K, C) centres and a (C, C) covariance of mean embeddings are as scores."""
    weights = np.asarray(told.weights)
    spread = Spread(
        centres=_rows(np.stack([told.scores(centre) for centre in centres])),
        precision=_rows(np.linalg.inv(weights @ covariance @ weights.T)),
        reach=1.0,
    )
    distances = [spread.distance(told.scores(mean)) for mean in means]
    return spread.model_copy(update={"reach": _reach(distances, covered)})


def _remainder(means: NDArray[np.float64], covered: float) -> Remainder | None:
    """Principal directions of (N, C) mean embeddings; None where they would explain too much."""
    if len(means) < _MEANS_PER_DIRECTION * _DIRECTIONS or means.shape[1] <= _DIRECTIONS:
        return None
    centre = means.mean(axis=0)
    _, _, rows = np.linalg.svd(means - centre, full_matrices=False)
    rest = Remainder(centre=_row(centre), directions=_rows(rows[:_DIRECTIONS]), reach=1.0)
    reach = _reach([rest.length(mean) for mean in means], covered)
    return rest.model_copy(update={"reach": reach}) if reach > 0 else None


def _reach(distances: Sequence[float], covered: float) -> float:
    """Within which a share of the distances lies."""
    reach = float(np.quantile(distances, covered, method="inverted_cdf"))
    # Above the farthest itself, which rounding would else put outside.
    return float(f"{reach * 1.00001:.7g}")


def _row(numbers: NDArray[np.float64]) -> tuple[float, ...]:
    """With seven digits: float32's. More would only fill the adapter's file."""
    return tuple(float(f"{number:.7g}") for number in numbers)


def _rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(_row(row) for row in matrix)


def fit_kinds(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    *,
    per_modality: int = 40,
    covered: float = 1.0,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ImageKinds | None:
    """Fit on training images, each as it is and once changed as in training.

    Args:
        segmenter: whose image encoder is used.
        samples: training images; those of a modality outside the vocabulary are left out.
        per_modality: at most this many images of each, evenly spread.
        covered: share of them, changed ones included, that count as familiar.
        augment: how training changed them.
        seed: of these changes.
        progress: show a bar.

    Returns:
        None where the images are of fewer than two kinds, or too few: there is nothing to tell
        apart.
    """
    counts: dict[str, int] = defaultdict(int)
    chosen = chosen_of(samples, per_modality)
    for sample in chosen:
        counts[IMAGE_KINDS[sample.modality]] += 1
    chosen = [s for s in chosen if counts[IMAGE_KINDS[s.modality]] >= MIN_IMAGES]
    if len({IMAGE_KINDS[sample.modality] for sample in chosen}) < 2:
        return None
    means = both_means(segmenter, chosen, augment or AugmentConfig(), seed, progress=progress)
    return fit_means(chosen, means, covered=covered)


def fit_means(
    samples: Sequence[Sample], means: NDArray[np.float64], *, covered: float
) -> ImageKinds:
    """`discriminant` of (N, 2, C) means of N images, from `both_means`."""
    kinds = [IMAGE_KINDS[sample.modality] for sample in samples for _ in range(2)]
    return discriminant(means.reshape(len(kinds), -1), kinds, covered=covered)


def chosen_of(samples: Sequence[Sample], per_modality: int) -> list[Sample]:
    """At most so many of each modality of the vocabulary, evenly spread."""
    by_modality: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.modality in IMAGE_KINDS:
            by_modality[sample.modality].append(sample)
    return [
        group[i * len(group) // count]
        for group in by_modality.values()
        for count in [min(per_modality, len(group))]
        for i in range(count)
    ]


def both_means(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    augment: AugmentConfig,
    seed: int,
    *,
    progress: bool,
) -> NDArray[np.float64]:
    """(N, 2, C) mean embeddings of images as they are, and once changed as in training."""
    # Parts beside the object and covered wholes are for masks that stay empty; here they would only
    # be less of an image.
    settings = augment.model_copy(update={"absent_crop_p": 0.0, "heal": {}})
    usual, for_kind = Augment(settings), by_kind(settings)
    means = []
    with torch.inference_mode():
        for number, sample in enumerate(with_bar(samples, "kinds of image", shown=progress)):
            pixels, masks = load_sample(sample)
            change = for_kind.get(sample.modality, usual)
            changed, _ = change(pixels, list(masks.values()), np.random.default_rng((seed, number)))
            pictures = (pixels, np.ascontiguousarray(changed))
            means.append([segmenter.mean_embedding(picture) for picture in pictures])
    return np.asarray(means)
