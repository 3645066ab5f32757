"""What an evaluation asks of each image, decided without reading one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from textsam.data.sample import Sample
from textsam.draws import drawn_by
from textsam.errors import ConfigError, DataError
from textsam.evaluate.cases import ImageKey, Kind, QuestionKey
from textsam.evaluate.options import check_box_shift
from textsam.prompts import canonical, certainly_absent

__all__ = ["Plan", "Prompts", "Protocol", "Question", "make_plan", "refuse_twice", "skipped_of"]

Prompts = Literal["text", "text+geometry", "geometry"]


@dataclass(frozen=True)
class Protocol:
    """What a segmenter is given to find a thing with.

    Attributes:
        prompts: "text", the word alone; "geometry", a point and a box of the truth, without the
            word; "text+geometry", all of it.
        box_shifts: parts of its size that the truth's box is moved by; the box is then given
            without a point, once for each shift. Empty: a point, and a box 10 to 15 px too large.

    Raises:
        ConfigError: an unknown kind of prompts, shifts without geometry, one twice, or one that is
            not in [0, 0.5).
    """

    prompts: Prompts = "text"
    box_shifts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.prompts not in get_args(Prompts):
            raise ConfigError(
                f"prompts is {self.prompts!r}; choose one of {', '.join(get_args(Prompts))}"
            )
        for shift in self.box_shifts:
            check_box_shift(shift)
        if self.box_shifts and not self.geometric:
            raise ConfigError(
                'box shifts need a box: give prompts "geometry" or "text+geometry" with them'
            )
        if len(set(self.box_shifts)) < len(self.box_shifts):
            raise ConfigError(f"box shifts {list(self.box_shifts)} hold one twice; give each once")

    @property
    def geometric(self) -> bool:
        """Whether the truth's geometry is given."""
        return self.prompts != "text"

    @property
    def worded(self) -> bool:
        """Whether the word is given."""
        return self.prompts != "geometry"

    @property
    def variants(self) -> tuple[float | None, ...]:
        """The shift of each time that a question is asked; None for a question without."""
        return self.box_shifts or (None,)


@dataclass(frozen=True)
class Question:
    """One prompt for one image, and the data set's concepts it stands for.

    Attributes:
        prompt: the adapter's word.
        annotated: concepts with a mask file, whose masks are united; empty for what is known to be
            absent without one.
        declared: concepts that the set says are absent.
        kind: of the case if the truth has no pixel.
    """

    prompt: str
    annotated: tuple[str, ...]
    declared: tuple[str, ...]
    kind: Kind

    @property
    def concept(self) -> str:
        """What the data set calls it."""
        return " + ".join(self.annotated or self.declared)


@dataclass(frozen=True)
class Plan:
    """All questions of an evaluation.

    Attributes:
        images: of which something is asked.
        skipped: "set/concept" -> images in which it is known and not asked, as the adapter does not
            know it.
    """

    images: dict[ImageKey, tuple[Sample, list[Question]]]
    skipped: Counter[str]

    def expected(self, protocol: Protocol) -> dict[ImageKey, list[QuestionKey]]:
        """What each image has a case for."""
        return {
            image: [(q.prompt, variant) for q in questions for variant in protocol.variants]
            for image, (_, questions) in self.images.items()
        }


def refuse_twice(samples: Iterable[Sample]) -> None:
    """Refuse samples that results could not tell apart.

    Raises:
        DataError: two of the same set and stem.
    """
    seen: dict[ImageKey, Path] = {}
    for sample in samples:
        image = sample.dataset, sample.stem
        if image in seen:
            raise DataError(
                f"{sample.name} is among the samples twice: {seen[image]} and {sample.image_path}; "
                "give the sets different names, or the sample once"
            )
        seen[image] = sample.image_path


def make_plan(
    samples: Sequence[Sample],
    prompts: Sequence[str],
    protocol: Protocol,
    negatives: int,
    seed: int,
) -> Plan:
    """What is asked of each image, and what is skipped.

    Args:
        samples: what to evaluate on.
        prompts: what the adapter knows.
        protocol: with geometry, only annotated concepts are asked: what is not there has none.
        negatives: how many prompts that the modality cannot show are asked per image, at most.
        seed: of their choice, together with the stem.

    Raises:
        DataError: no samples, two of the same set and stem, or nothing that the adapter knows.
    """
    if not samples:
        raise DataError("there are no samples to evaluate on")
    refuse_twice(samples)
    images: dict[ImageKey, tuple[Sample, list[Question]]] = {}
    skipped = skipped_of(samples, prompts)
    for sample in samples:
        image = sample.dataset, sample.stem
        questions = _questions(sample, prompts, negatives, seed)
        if protocol.geometric:
            questions = [question for question in questions if question.annotated]
        if questions:
            images[image] = sample, questions
    if not images:
        raise DataError(
            f"nothing can be asked of the {len(samples)} samples: the adapter knows "
            f"{', '.join(prompts)}, the samples are about {', '.join(skipped) or 'nothing'}"
        )
    return Plan(images, skipped)


def skipped_of(samples: Iterable[Sample], prompts: Sequence[str]) -> Counter[str]:
    """ "set/concept" -> images in which it is annotated or declared absent, of unknown concepts."""
    skipped: Counter[str] = Counter()
    for sample in samples:
        concepts = dict.fromkeys((*(target.concept for target in sample.targets), *sample.absent))
        unknown = [concept for concept in concepts if canonical(concept, prompts) is None]
        skipped.update(f"{sample.dataset}/{concept}" for concept in unknown)
    return skipped


def _questions(sample: Sample, prompts: Sequence[str], negatives: int, seed: int) -> list[Question]:
    annotated: dict[str, list[str]] = {}
    declared: dict[str, list[str]] = {}
    for concepts, meant in (
        ([target.concept for target in sample.targets], annotated),
        (sample.absent, declared),
    ):
        for concept in dict.fromkeys(concepts):
            prompt = canonical(concept, prompts)
            if prompt is not None:
                meant.setdefault(prompt, []).append(concept)
    questions = [
        Question(
            prompt,
            tuple(annotated.get(prompt, ())),
            tuple(declared.get(prompt, ())),
            "absent_annotated",
        )
        for prompt in dict.fromkeys((*annotated, *declared))
    ]
    impossible = [
        prompt
        for prompt in dict.fromkeys(prompts)
        if prompt not in annotated
        and prompt not in declared
        and certainly_absent(prompt, sample.modality)
    ]

    # By hash, not by a generator: the same everywhere, in any order of prompts and images, and a
    # larger number of negatives contains a smaller one.
    def place(prompt: str) -> bytes:
        return drawn_by(seed, sample.stem, prompt)

    drawn = sorted(impossible, key=place)[:negatives]
    questions += [Question(prompt, (), (prompt,), "absent_modality") for prompt in drawn]
    return questions
