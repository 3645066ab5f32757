"""The questions that calibration asks of a validation image, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from textsam.data.absent_crop import absent_crop
from textsam.data.ask import PromptConfig, PromptSampler
from textsam.data.heal import HealWay, healed
from textsam.data.named import by_prompt
from textsam.data.sample import Sample, load_sample
from textsam.inference.segmenter import Segmenter
from textsam.metrics import dice
from textsam.prompts import canonical

__all__ = ["EMPTY", "Answer", "Kind", "ask"]

# The score of an empty mask, which no threshold lets pass.
EMPTY = -1.0

Kind = Literal["present", "absent_annotated", "absent_beside", "absent_modality"]


@dataclass(frozen=True)
class Answer:
    """One prompt on one image, after each pass.

    Attributes:
        concept: asked for.
        modality: of the image.
        kind: whether it is in the image; if not, how that is known: from the data about this image,
            because it is a part beside all that the image shows of it or the whole with that
            covered, or because this kind of image cannot show it.
        dice: per pass, 0 refinements first; 0 for an absent concept.
        score: per pass, raw; -1 where the mask is empty.
    """

    concept: str
    modality: str
    kind: Kind
    dice: tuple[float, ...]
    score: tuple[float, ...]


def ask(
    segmenter: Segmenter,
    sample: Sample,
    passes: int,
    *,
    beside: int,
    heal: Mapping[str, HealWay],
    rng: np.random.Generator,
) -> list[Answer]:
    """Ask for all that is in an image, and for all that surely is not.

    Args:
        segmenter: without a found threshold.
        sample: the image and its masks.
        passes: most refinements.
        beside: parts of the image beside everything annotated (`textsam.data.absent_crop`), each
            asked for all that the image shows elsewhere; none where there is no room for one.
        heal: modality -> how everything annotated can be covered (`textsam.data.heal`). Where there
            are parts, one such image is asked as they are.
        rng: draws these parts and what covers.
    """
    image, masks = load_sample(sample)
    prompts = segmenter.prompts
    known = {c: mask for c, mask in by_prompt(masks, prompts).items() if c in prompts}
    sample = replace(sample, absent=tuple(canonical(c, prompts) or c for c in sample.absent))
    present = [concept for concept, mask in known.items() if mask.any()]
    empty = [concept for concept in known if concept not in present]
    sampler = PromptSampler(prompts, PromptConfig())
    legal = sampler.negative_texts(sample, present, empty)
    absent = [concept for concept in legal if concept in prompts]
    kinds: dict[str, Kind] = dict.fromkeys(present, "present")
    for concept in absent:
        annotated = concept in empty or concept in sample.absent
        kinds[concept] = "absent_annotated" if annotated else "absent_modality"
    answers = _asked(segmenter, image, sample.modality, kinds, known, passes)
    if not present:
        return answers
    elsewhere: dict[str, Kind] = dict.fromkeys(present, "absent_beside")
    shown = list(masks.values())
    for _ in range(beside):
        part = absent_crop(shown, rng)
        if part is None:
            break
        pixels = np.ascontiguousarray(image[part])
        answers += _asked(segmenter, pixels, sample.modality, elsewhere, {}, passes)
    if beside and sample.modality in heal:
        whole = healed(image, shown, heal[sample.modality], rng)
        if whole is not None:
            answers += _asked(segmenter, whole, sample.modality, elsewhere, {}, passes)
    return answers


def _asked(
    segmenter: Segmenter,
    image: NDArray[np.uint8],
    modality: str,
    kinds: Mapping[str, Kind],
    truths: Mapping[str, NDArray[np.bool_]],
    passes: int,
) -> list[Answer]:
    """The answers to all concepts of `kinds`, scored where they are present."""
    asked: Sequence[str] = list(kinds)
    if not asked:
        return []
    by_pass = [segmenter.segment(image, asked, refine=count) for count in range(passes + 1)]
    answers = []
    for index, (concept, kind) in enumerate(kinds.items()):
        results = [answers_of_pass[index] for answers_of_pass in by_pass]
        overlaps = [0.0] * len(results)
        if kind == "present":
            overlaps = [dice(result.mask, truths[concept]) for result in results]
        scores = [result.score if result.mask.any() else EMPTY for result in results]
        answers.append(Answer(concept, modality, kind, tuple(overlaps), tuple(scores)))
    return answers
