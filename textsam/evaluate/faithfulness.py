"""Does the word decide? Wordings, absent things, several classes at once, and the score.

docs/metrics.md says what is asked and how it is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textsam.data.named import by_prompt
from textsam.data.sample import Sample, load_sample
from textsam.draws import drawn_by
from textsam.errors import DataError, TextSAMError
from textsam.evaluate.faithfulness_rows import AnswerFile, AnswerRow, Kind, Wording
from textsam.evaluate.faithfulness_summary import FaithfulnessSummary, summarise_faithfulness
from textsam.evaluate.options import whole_number
from textsam.evaluate.plan import refuse_twice, skipped_of
from textsam.evaluate.reliability_plot import draw_reliability
from textsam.evaluate.row_file import ImageKey, digests_of
from textsam.evaluate.wordings import wordings
from textsam.io.atomic import atomic_path, told_as_output, write_json
from textsam.metrics import dice
from textsam.progress import with_bar
from textsam.prompts import canonical, certainly_absent, distractors_for, normalise

if TYPE_CHECKING:
    from textsam.inference.segmenter import Segmenter
    from textsam.result import Segmentation

__all__ = [
    "DISTRACTORS_PER_IMAGE",
    "PLOT_FILE",
    "SUMMARY_FILE",
    "AnswersTexts",
    "SegmenterTexts",
    "measure_faithfulness",
]

SUMMARY_FILE = "faithfulness.json"
PLOT_FILE = "reliability.png"
DISTRACTORS_PER_IMAGE = 3

Text = tuple[str, str | None]
"""A text for the text encoder, and the concept whose refinement passes it gets, if any."""
_Mask = NDArray[np.bool_]


class AnswersTexts(Protocol):
    """What `measure_faithfulness` needs of a model; `SegmenterTexts` makes it of a `Segmenter`."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The concepts the adapter was trained for."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What answers depend on, JSON types; has "adapter", "preset" and "found_threshold"."""

    @property
    def mask_threshold(self) -> float:
        """Probability above which a pixel belongs to the mask."""

    def meaning(self, text: str) -> str | None:
        """The concept that the product takes a text for, or None."""

    def answers(self, image: NDArray[np.uint8], texts: Sequence[Text]) -> list[Segmentation]:
        """One answer per text, which goes to the text encoder as it is; image (H, W, 3)."""


class SegmenterTexts:
    """A `Segmenter`'s answers to texts, past its lexicon.

    Args:
        segmenter: with its adapter.
        refine: refinement passes; None takes what the adapter asks for.
        seed: of random points, where the adapter's refinement takes some.
    """

    def __init__(self, segmenter: Segmenter, refine: int | None = None, *, seed: int = 0) -> None:
        self._segmenter = segmenter
        self._refine = refine
        self._seed = seed

    @property
    def prompts(self) -> tuple[str, ...]:
        """The concepts the adapter was trained for."""
        return self._segmenter.prompts

    @property
    def settings(self) -> dict[str, Any]:
        """The adapter, its configuration as far as answers depend on it, and the passes."""
        config = self._segmenter.config.model_dump(mode="json", exclude={"training", "terms"})
        views = str(self._segmenter.views)
        return {
            "adapter": self._segmenter.adapter_name,
            "preset": self._segmenter.preset,
            "fingerprint": self._segmenter.fingerprint,
            # Says of the precision and of the text encoder what the rest does not.
            "identity": self._segmenter.identity,
            "found_threshold": config["found_threshold"],
            "refine": self._refine,
            "config": config,
            **({"views": views} if views else {}),
        }

    @property
    def mask_threshold(self) -> float:
        """Probability above which a pixel belongs to the mask."""
        return self._segmenter.config.mask_threshold

    def meaning(self, text: str) -> str | None:
        """The concept that the product takes a text for, or None."""
        return self._segmenter.understood(text).concept

    def answers(self, image: NDArray[np.uint8], texts: Sequence[Text]) -> list[Segmentation]:
        """One answer per text; the image is encoded once."""
        from textsam.inference.question import Question

        questions = [Question(text, concept, text) for text, concept in texts]
        passes = self._segmenter.passes(questions, self._refine)
        prepared = self._segmenter.prepare(image)
        return self._segmenter.answer([prepared], questions, passes, seed=self._seed)[0]


def measure_faithfulness(
    model: AnswersTexts,
    samples: Sequence[Sample],
    *,
    out: str | Path | None,
    seed: int = 0,
    progress: bool = True,
    resume: bool = True,
) -> FaithfulnessSummary:
    """Ask for every concept in every wording, for what is not there, and for neighbours.

    Args:
        model: whose answers are measured.
        samples: test images.
        out: folder for `faithfulness.csv`, `faithfulness-run.json`, `faithfulness.json` and
            `reliability.png`; None writes nothing.
        seed: of the choice of distractors, together with the stem.
        progress: show a bar.
        resume: go on where an earlier, killed run into `out` stopped; False starts anew.

    Raises:
        ConfigError: `seed` is no whole number or below 0.
        DataError: no samples, two of the same set and stem, a file that cannot be used, a concept
            both annotated with pixels and declared absent, earlier results in `out` that belong to
            another run or to other files, or another process that is writing into `out`.
        OutputError: results cannot be written.
        TextSAMError: what the model raises.
    """
    seed = whole_number("seed", seed)
    if not samples:
        raise DataError("there are no samples to measure on; give a set with images")
    refuse_twice(samples)
    by_image = {(sample.dataset, sample.stem): sample for sample in samples}
    settings = {
        "format": 1,
        **model.settings,
        "prompts": list(model.prompts),
        "distractors_per_image": DISTRACTORS_PER_IMAGE,
        "seed": seed,
    }
    skipped = skipped_of(samples, model.prompts)
    if out is None:
        rows = _rows(model, by_image, None, seed, progress)
        return summarise_faithfulness(rows, settings, skipped=skipped)
    out = Path(out)
    with AnswerFile(out, settings, digests_of(samples), resume=resume) as file:
        for name in (SUMMARY_FILE, PLOT_FILE):  # of other answers than those to come
            (out / name).unlink(missing_ok=True)
        rows = _rows(model, by_image, file, seed, progress)
        summary = summarise_faithfulness(rows, settings, skipped=skipped)
        plot = out / PLOT_FILE
        drawn = draw_reliability(summary.score, summary.found_threshold)
        with told_as_output(plot), atomic_path(plot) as temporary:
            drawn.save(temporary, format="PNG")
        write_json(out / SUMMARY_FILE, summary.to_dict())
    return summary


def _rows(
    model: AnswersTexts,
    samples: Mapping[ImageKey, Sample],
    file: AnswerFile | None,
    seed: int,
    progress: bool,
) -> list[AnswerRow]:
    """All rows in the order of the samples; those that the file lacks are asked for and added."""
    rows = {} if file is None else dict(file.finished)
    due = [image for image in samples if image not in rows]
    for image in with_bar(due, "faithfulness", shown=progress):
        rows[image] = _ask(model, samples[image], seed)
        if file is not None:
            file.append(rows[image])
    return [row for image in samples for row in rows[image]]


def _questions(
    model: AnswersTexts, sample: Sample, truth: Mapping[str, _Mask], seed: int
) -> list[tuple[Kind, str, Wording, str]]:
    """(kind, concept, wording, text) for one image.

    truth: annotated concept, by the adapter's name for it where there is one -> mask.
    """
    asked: list[tuple[Kind, str, Wording, str]] = []
    declared = {canonical(concept, model.prompts) or concept for concept in sample.absent}
    for concept in model.prompts:
        if concept in truth and truth[concept].any():
            if concept in declared:
                raise DataError(
                    f"{sample.name}: {concept!r} is annotated with pixels and declared absent; "
                    "correct the data set's manifest"
                )
            asked.append(("present", concept, "name", concept))
            for text, wording in wordings(concept, sample.modality).items():
                asked.append(("present", concept, wording, text))
        elif concept in truth or concept in declared:
            asked.append(("absent_annotated", concept, "name", concept))
        elif certainly_absent(concept, sample.modality):
            asked.append(("absent_modality", concept, "name", concept))

    # By hash, not by a generator: the same everywhere and in any order of images.
    def place(text: str) -> bytes:
        return drawn_by(seed, sample.stem, text)

    strange = [text for text in distractors_for(sample.modality) if model.meaning(text) is None]
    for text in sorted(strange, key=place)[:DISTRACTORS_PER_IMAGE]:
        asked.append(("distractor", text, "name", text))  # noqa: PERF401
    return asked


def _ask(model: AnswersTexts, sample: Sample, seed: int) -> list[AnswerRow]:
    pixels, masks = load_sample(sample)
    truth = by_prompt(masks, model.prompts)
    asked = _questions(model, sample, truth, seed)
    # What the product answers is what the network says to the text that the lexicon gives it.
    network: list[Text] = []
    product: list[Text] = []
    for kind, concept, _, text in asked:
        network.append((text, concept if kind != "distractor" else None))
        meaning = model.meaning(text)
        product.append((normalise(text), None) if meaning is None else (meaning, meaning))
    unique = list(dict.fromkeys((*network, *product)))
    results = model.answers(pixels, unique) if unique else []
    if len(results) != len(unique):
        raise TextSAMError(
            f"{sample.name}: the model gave {len(results)} answers to {len(unique)} texts"
        )
    answer = dict(zip(unique, results, strict=True))
    shown = {name: mask for name, mask in truth.items() if mask.any()}
    rows = []
    for (kind, concept, wording, text), sent, meant in zip(asked, network, product, strict=True):
        result = answer[sent]
        if result.mask.shape != pixels.shape[:2]:
            raise TextSAMError(
                f"{sample.name}: the model's mask is {result.mask.shape}, the image "
                f"{pixels.shape[:2]} (H, W)"
            )
        proposed = result.mask
        if not result.found:
            lower = result.extra.get("cut")  # where it was decided for this image
            proposed = result.probability > (
                lower if isinstance(lower, float) else model.mask_threshold
            )
        target = shown.get(concept) if kind == "present" else None

        def overlap(mask: _Mask, target: _Mask | None = target) -> float | None:
            return None if target is None else round(dice(mask, target), 6)

        several = kind == "present" and wording == "name" and len(shown) > 1
        rows.append(
            AnswerRow(
                dataset=sample.dataset,
                stem=sample.stem,
                rows=len(asked),
                kind=kind,
                concept=concept,
                wording=wording,
                text=text,
                meaning=model.meaning(text) or "",
                dice=overlap(result.mask),
                product_dice=overlap(answer[meant].mask),
                proposed_dice=overlap(proposed),
                score=round(result.score, 6),
                found=result.found,
                area_px=result.area_px,
                proposed_area_px=int(np.count_nonzero(proposed)),
                lies_in=_lies_in(result.mask, shown) if several else {},
            )
        )
    return rows


def _lies_in(answer: _Mask, shown: Mapping[str, _Mask]) -> dict[str, tuple[float, float | None]]:
    area = int(np.count_nonzero(answer))
    return {
        name: (
            round(dice(answer, mask), 6),
            round(int(np.count_nonzero(answer & mask)) / area, 6) if area else None,
        )
        for name, mask in shown.items()
    }
