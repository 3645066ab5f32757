"""Choose, on validation images, how often to refine each concept and when to say "not there"."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from textsam.adapters import TENSORS_FILE, read_adapter_config
from textsam.checkpoint import save_adapter
from textsam.data.ask import PromptConfig, PromptSampler
from textsam.data.sample import Sample, load_sample
from textsam.errors import DataError
from textsam.metrics import dice
from textsam.segmenter import Segmenter
from textsam.tensors import load_tensors

__all__ = [
    "Answer",
    "Calibration",
    "calibrate",
    "choose_refinements",
    "choose_threshold",
    "finish_adapter",
]

# A further pass must earn its cost: differences below this are noise on a validation set.
MIN_GAIN = 0.003
# Below this mean Dice an adapter does not know a concept, and must not say that it does.
MIN_DICE = 0.25
# Share of absent things that must come back empty.
EMPTY_RATE = 0.9


@dataclass(frozen=True)
class Answer:
    """One prompt on one image, after each pass.

    Attributes:
        concept: asked for.
        present: whether it is in the image.
        dice: per pass, 0 refinements first; for an absent concept 1 if the mask is empty, else 0.
        score: per pass, 0 where the mask is empty.
    """

    concept: str
    present: bool
    dice: tuple[float, ...]
    score: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and what it does on the images it was chosen on.

    Attributes:
        prompts: concepts the adapter knows: those trained whose mean Dice is not below `MIN_DICE`.
        refine: passes that are best for most concepts.
        refine_for: concepts that want another number.
        found_threshold: score below which an answer counts as "not there".
        dice_by_passes: concept -> mean Dice after 0, 1, … refinements.
        found_rate: share of present concepts that are still found.
        empty_rate: share of absent concepts that come back empty.
        n_present: answers behind `found_rate`.
        n_absent: answers behind `empty_rate`.
    """

    prompts: tuple[str, ...]
    refine: int
    refine_for: dict[str, int]
    found_threshold: float
    dice_by_passes: dict[str, tuple[float, ...]]
    found_rate: float
    empty_rate: float
    n_present: int
    n_absent: int


def choose_refinements(answers: Iterable[Answer]) -> dict[str, tuple[int, tuple[float, ...]]]:
    """Concept -> the fewest passes within `MIN_GAIN` of the best mean Dice, and all the means."""
    by_concept: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for answer in answers:
        if answer.present:
            by_concept[answer.concept].append(answer.dice)
    chosen = {}
    for concept, rows in by_concept.items():
        means = np.asarray(rows).mean(axis=0)
        passes = int(np.flatnonzero(means >= means.max() - MIN_GAIN)[0])
        chosen[concept] = (passes, tuple(round(float(m), 4) for m in means))
    return chosen


def choose_threshold(present: Sequence[float], absent: Sequence[float]) -> float:
    """The lowest score threshold at which `EMPTY_RATE` of the absent things come back empty.

    Lowest, because every step up loses things that are there.

    Args:
        present: scores of answers whose concept is there.
        absent: scores of answers whose concept is not there, 0 for an empty mask.

    Returns:
        0 when masks alone suffice, else the middle between two neighbouring scores. Never above
        the highest score of a present thing: a model that finds nothing is of no use.
    """
    others = np.asarray(absent, dtype=np.float64)
    highest = max(present, default=0.0)
    edges = np.unique([0.0, *present, *absent])
    for threshold in (0.0, *((edges[:-1] + edges[1:]) / 2)):
        empty = (others < threshold) | (others == 0)
        if not len(others) or empty.mean() >= EMPTY_RATE:
            return float(min(threshold, highest))
    return float(highest)


def _answers(segmenter: Segmenter, sample: Sample, passes: int) -> list[Answer]:
    image, masks = load_sample(sample)
    known = {concept: mask for concept, mask in masks.items() if concept in segmenter.prompts}
    present = [concept for concept, mask in known.items() if mask.any()]
    empty = [concept for concept in known if concept not in present]
    sampler = PromptSampler(segmenter.prompts, PromptConfig())
    legal = sampler.negative_texts(sample, present, empty)
    absent = [concept for concept in legal if concept in segmenter.prompts]
    asked = [*present, *absent]
    if not asked:
        return []
    by_pass = [segmenter.segment(image, asked, refine=count) for count in range(passes + 1)]
    answers = []
    for index, concept in enumerate(asked):
        results = [answers_of_pass[index] for answers_of_pass in by_pass]
        is_present = concept in present
        if is_present:
            overlaps = [dice(result.mask, known[concept]) for result in results]
        else:
            overlaps = [float(not result.mask.any()) for result in results]
        scores = [result.score if result.mask.any() else 0.0 for result in results]
        answers.append(Answer(concept, is_present, tuple(overlaps), tuple(scores)))
    return answers


def calibrate(
    segmenter: Segmenter, samples: Sequence[Sample], *, passes: int = 2, progress: bool = True
) -> Calibration:
    """Decide refinement and the found threshold on validation images.

    Args:
        segmenter: its own found threshold is set aside.
        samples: validation images, not those reported on.
        passes: most refinements tried.
        progress: show a bar.

    Raises:
        DataError: the samples hold nothing the adapter knows.
    """
    config = segmenter.config.model_copy(update={"found_threshold": 0.0})
    open_minded = Segmenter(
        segmenter.built, config, device=segmenter.device, precision=segmenter.precision
    )
    answers: list[Answer] = []
    with torch.inference_mode():
        for sample in track(samples, description="calibrating", disable=not progress):
            answers += _answers(open_minded, sample, passes)
    chosen = choose_refinements(answers)
    known = tuple(
        concept
        for concept in config.prompts
        if concept not in chosen or max(chosen[concept][1]) >= MIN_DICE
    )
    if not chosen.keys() & set(known):
        raise DataError(
            "the calibration images show nothing the adapter knows: of "
            f"{', '.join(segmenter.prompts)} they show {', '.join(chosen) or 'nothing'}, none with "
            f"a mean Dice of {MIN_DICE} or more; give other images, or train longer"
        )
    counts = [count for concept, (count, _) in chosen.items() if concept in known]
    refine = max(sorted(set(counts)), key=counts.count)
    final = {c: chosen[c][0] if c in chosen else refine for c in known}
    asked = [answer for answer in answers if answer.concept in known]
    present = [a.score[final[a.concept]] for a in asked if a.present]
    absent = [a.score[final[a.concept]] for a in asked if not a.present]
    threshold = round(choose_threshold(present, absent), 4)
    return Calibration(
        prompts=known,
        refine=refine,
        refine_for={concept: count for concept, count in final.items() if count != refine},
        found_threshold=threshold,
        dice_by_passes={concept: means for concept, (_, means) in sorted(chosen.items())},
        found_rate=float(np.mean([s >= threshold and s > 0 for s in present])),
        empty_rate=float(np.mean([s < threshold or s == 0 for s in absent])) if absent else 1.0,
        n_present=len(present),
        n_absent=len(absent),
    )


def finish_adapter(
    segmenter: Segmenter,
    adapter: Path,
    samples: Sequence[Sample],
    out: Path,
    *,
    passes: int = 2,
    progress: bool = True,
) -> Calibration:
    """Calibrate an adapter and write it with what was chosen, in half precision.

    Args:
        segmenter: with this adapter.
        adapter: its folder.
        samples: validation images.
        out: adapter folder to write.
        passes, progress: as in `calibrate`.

    Raises:
        DataError: as `calibrate`.
    """
    record = read_adapter_config(adapter)
    result = calibrate(segmenter, samples, passes=passes, progress=progress)
    finished = record.model_copy(
        update={
            "prompts": result.prompts,
            "refine": result.refine,
            "refine_for": result.refine_for,
            "found_threshold": result.found_threshold,
            "training": {**record.training, "calibration": asdict(result)},
        }
    )
    save_adapter(out, finished, load_tensors(adapter / TENSORS_FILE), dtype=torch.float16)
    return result
