"""What a mask is worth and whether it counts, by hand."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pytest

from textsam.inference.judgement import judge
from textsam.inference.kinds import UNLOOKED, ImageKinds, Look
from textsam.inference.score import ScoreMap

BRAIN, COLON = (0.99, 0.01), (0.01, 0.99)
MASK = np.array([[True, True, False], [False, False, False]])
PROBABILITY = np.array([[0.9, 0.7, 0.4], [0.1, 0.1, 0.1]], np.float32)
NOTHING = np.zeros_like(MASK)


@dataclass(frozen=True)
class RulesOfTest:
    score: Literal["iou_head", "mask_probability"] = "iou_head"
    score_map: ScoreMap = ()
    score_map_for: Mapping[str, ScoreMap] = field(default_factory=dict)
    found_threshold: float = 0.5
    kinds: ImageKinds | None = None


KINDS = RulesOfTest(
    kinds=ImageKinds(
        names=("MRI", "colonoscopy"), weights=((1.0,), (-1.0,)), biases=(0, 0), threshold=0.05
    )
)


def look(shares: tuple[float, float]) -> Look:
    return Look(dict(zip(("MRI", "colonoscopy"), shares, strict=True)))


def judged(rules: RulesOfTest, iou: float, mask: np.ndarray = MASK, **more: object):  # type: ignore[no-untyped-def]
    asked = {"concept": "polyp", "look": UNLOOKED, **more}
    return judge(rules, mask, PROBABILITY, iou=iou, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("iou", "score", "found"),
    [(0.49, 0.49, False), (0.5, 0.5, True), (1.2, 1.0, True), (-1, 0, False)],
)
def test_the_predicted_iou_is_the_score(iou: float, score: float, found: bool) -> None:
    answer = judged(RulesOfTest(), iou)
    assert (answer.score, answer.found) == (score, found)
    assert answer.remarks == ({} if found else {"rejected_area_px": 2})


def test_the_mean_probability_of_the_mask_is_the_score() -> None:
    rules = RulesOfTest(score="mask_probability")
    assert judged(rules, math.nan).score == pytest.approx(0.8)
    assert judged(rules, math.nan, NOTHING).score == 0.0


def test_the_map_comes_before_the_threshold() -> None:
    rules = RulesOfTest(score_map=((0.0, 0.0), (0.2, 0.6), (1.0, 1.0)))
    answer = judged(rules, 0.2)
    assert (answer.score, answer.found) == (pytest.approx(0.6), True)


def test_a_concepts_own_map_comes_first() -> None:
    rules = RulesOfTest(
        score_map=((0.0, 0.0), (0.2, 0.6), (1.0, 1.0)),
        score_map_for={"polyp": ((0.0, 0.0), (0.2, 0.3), (1.0, 1.0))},
    )
    assert judged(rules, 0.2).score == pytest.approx(0.3)
    assert judged(rules, 0.2, concept="tumor").score == pytest.approx(0.6)
    assert judged(rules, 0.2, concept=None).score == pytest.approx(0.6), "outside the vocabulary"


def test_an_empty_mask_is_never_found() -> None:
    answer = judged(RulesOfTest(found_threshold=0.0), 1.0, NOTHING)
    assert (answer.found, answer.remarks) == (False, {})


def test_what_the_image_cannot_show_is_not_there_however_sure() -> None:
    answer = judged(KINDS, 0.9, look=look(BRAIN))
    assert (answer.score, answer.found) == (0.0, False)
    assert answer.remarks == {"not_in": "MRI", "rejected_area_px": 2}
    assert judged(KINDS, 0.9, look=look(COLON)).found
    assert judged(KINDS, 0.9, look=look(BRAIN), concept=None).found
    # Where every score is enough, too.
    assert not judged(replace(KINDS, found_threshold=0.0), 0.9, look=look(BRAIN)).found


def test_an_unfamiliar_image_is_remarked_and_rules_nothing_out() -> None:
    answer = judged(KINDS, 0.9, look=Look(unfamiliar=True))
    assert (answer.found, answer.remarks) == (True, {"unfamiliar": True})


def test_the_threshold_is_for_words() -> None:
    assert judged(RulesOfTest(), 0.1, shown=True).found
    assert not judged(RulesOfTest(), 0.1, NOTHING, shown=True).found
