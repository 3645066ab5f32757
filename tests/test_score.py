"""The map from raw score to expected Dice, its fit, and the error it is judged by."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import tiny_config, tiny_segmenter

from textsam.calibrate.scores import FITTED_KNOTS, MIN_ANSWERS, fit_own_maps, fit_score_map
from textsam.errors import DataError
from textsam.inference.score import MAX_KNOTS, answer_score, check_score_map
from textsam.inference.segmenter import Segmenter
from textsam.metrics.reliability import BINS, reliability

KNOTS = ((0.2, 0.1), (0.6, 0.5), (0.8, 0.5), (0.9, 1.0))
unit = st.floats(0, 1, allow_nan=False)


@given(unit)
def test_between_knots_the_map_is_a_line_and_beyond_them_level(raw: float) -> None:
    expected = float(np.interp(raw, *zip(*KNOTS, strict=True)))
    assert answer_score(raw, KNOTS, empty=False) == pytest.approx(expected, abs=1e-12)
    assert answer_score(raw, KNOTS, empty=True) == 0.0
    assert answer_score(raw, (), empty=False) == raw == answer_score(raw, (), empty=True)


def test_values_of_the_map() -> None:
    found = [answer_score(raw, KNOTS, empty=False) for raw in (0.0, 0.2, 0.4, 0.7, 0.85, 1.0)]
    assert found == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.75, 1.0])
    assert math.isnan(answer_score(math.nan, KNOTS, empty=False)), "no number is no high score"


def test_a_map_may_have_as_many_knots_as_are_allowed() -> None:
    knots = tuple((i / 100, i / 100) for i in range(MAX_KNOTS))
    assert check_score_map(knots) == knots


@pytest.mark.parametrize(
    ("knots", "message"),
    [
        (((0.5, 0.5),), "has 1 knots; give none, or 2 to 64"),
        (tuple((i / 100, 0.5) for i in range(MAX_KNOTS + 1)), "has 65 knots"),
        (((0.0, 0.0), (0.5, 1.5)), r"\(0.5, 1.5\) is not in"),
        (((0.0, -0.5), (0.5, 0.5)), r"\(0.0, -0.5\) is not in"),
        (((0.0, 0.0), (1.5, 0.5)), r"\(1.5, 0.5\) is not in"),
        (((0.0, 0.0), (float("nan"), 0.5)), "is not in"),
        (((0.0, 0.0), (0.5, 0.5), (0.5, 0.6)), "raw score must rise"),
        (((0.0, 0.3), (0.5, 0.2)), "expected Dice must not fall"),
    ],
)
def test_maps_that_are_none_are_refused(
    knots: tuple[tuple[float, float], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_score_map(knots)
    with pytest.raises(ValidationError, match="score_map"):
        tiny_config(score_map=knots)
    with pytest.raises(ValidationError, match=r"score_map_for\.tumor"):
        tiny_config(score_map_for={"tumor": knots})


@pytest.mark.parametrize("score", ["iou_head", "mask_probability"])
def test_a_segmenter_maps_its_score_before_the_threshold(score: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    knots = ((0.0, 0.0), (1.0, 0.5))  # halves every score

    def segmenter(**changes: object) -> Segmenter:
        return tiny_segmenter(score=score, **changes)

    raw = segmenter().segment(image, "tumor")
    assert raw.found
    mapped = segmenter(score_map=knots).segment(image, "tumor")
    assert mapped.score == pytest.approx(raw.score / 2, abs=1e-12)
    assert np.array_equal(mapped.mask, raw.mask)
    between = raw.score * 0.75  # passes the raw score, not the mapped one
    assert segmenter(found_threshold=between).segment(image, "tumor").found
    rejected = segmenter(found_threshold=between, score_map=knots).segment(image, "tumor")
    assert not rejected.found
    assert not rejected.mask.any()
    assert rejected.score == mapped.score


def test_reliability_by_hand() -> None:
    # Bin 0.1-0.2: mean score 0.15, mean Dice 0.25. Bin 0.8-0.9: 0.8 and 0.5. Last bin: 1 and 0.9.
    found = reliability([0.1, 0.2 - 1e-9, 0.8, 1.0], [0.5, 0.0, 0.5, 0.9])
    assert found is not None
    assert [b.n for b in found.bins] == [0, 2, 0, 0, 0, 0, 0, 0, 1, 1]
    assert found.bins[1].mean_score == pytest.approx(0.15)
    assert found.bins[1].mean_dice == pytest.approx(0.25)
    assert found.bins[0].mean_score is None
    assert found.ece == pytest.approx(0.5 * 0.1 + 0.25 * 0.3 + 0.25 * 0.1)
    weighted = reliability([0.1, 0.8], [0.5, 0.5], [3, 1])
    assert weighted is not None
    assert weighted.ece == pytest.approx(0.75 * 0.4 + 0.25 * 0.3)
    assert weighted.bins[1].weight == 0.75


def test_edges_of_bins_belong_to_the_bin_above() -> None:
    for index in range(BINS):
        found = reliability([index / BINS], [0.0])
        assert found is not None
        assert found.bins[index].n == 1, index


def test_what_is_no_score_is_refused() -> None:
    assert reliability([], []) is None
    with pytest.raises(DataError, match="one length"):
        reliability([0.5], [0.5, 0.5])
    with pytest.raises(DataError, match="outside"):
        reliability([1.5], [0.5])
    with pytest.raises(DataError, match="not above 0"):
        reliability([0.5], [0.5], [0.0])


def test_a_fit_turns_scores_into_expected_dice() -> None:
    rng = np.random.default_rng(3)
    raw = rng.uniform(0.3, 1, 4000)
    truth = (raw - 0.3) ** 2 / 0.49  # far below the raw score
    noisy = np.clip(truth + rng.normal(0, 0.1, raw.shape), 0, 1)
    ones = [1.0] * len(raw)
    knots = fit_score_map(list(raw), list(noisy), ones)
    assert check_score_map(knots) == knots
    assert knots[0] == (0.0, 0.0)
    assert knots[-1][0] == 1.0
    assert len(knots) <= FITTED_KNOTS + 2
    mapped = [answer_score(float(r), knots, empty=False) for r in raw]
    before, after = reliability(list(raw), list(noisy)), reliability(mapped, list(noisy))
    assert before is not None
    assert after is not None
    assert before.ece > 0.3
    assert after.ece < 0.03


def test_a_fit_is_monotone_where_the_answers_are_not() -> None:
    # Two levels in the wrong order become one: the mean of all.
    raw = [0.4] * 30 + [0.6] * 30
    knots = fit_score_map(raw, [0.8] * 30 + [0.2] * 30, [1.0] * 60)
    assert knots == ((0.0, 0.0), (0.5, 0.5), (1.0, 0.5))
    # With weights it is their weighted mean, at the weighted mean of the scores.
    knots = fit_score_map(raw, [0.8] * 30 + [0.2] * 30, [3.0] * 30 + [1.0] * 30)
    assert knots == ((0.0, 0.0), (0.45, 0.65), (1.0, 0.65))


def test_too_few_answers_or_none_right_give_no_map() -> None:
    few = MIN_ANSWERS - 1
    assert fit_score_map([0.5] * few, [0.5] * few, [1.0] * few) == ()
    assert fit_score_map([0.5] * MIN_ANSWERS, [0.5] * MIN_ANSWERS, [1.0] * MIN_ANSWERS)
    assert fit_score_map([0.5] * 40, [0.0] * 40, [1.0] * 40) == ()


def test_knots_are_those_of_groups_of_one_weight() -> None:
    # Twenty answers in ten groups; of each two the second counts three times.
    raw = [0.04 * number for number in range(1, 21)]
    knots = fit_score_map(raw, raw, [1.0, 3.0] * 10)
    centres = [0.07 + 0.08 * number for number in range(10)]
    assert [at for at, _ in knots] == pytest.approx([0.0, *centres, 1.0])
    assert [value for _, value in knots] == pytest.approx([0.0, *centres, centres[-1]])
    # Whatever answers of the score 0 are worth, its knot stays.
    knots = fit_score_map([0.0] * 20 + [0.5] * 20, [0.2] * 20 + [0.6] * 20, [1.0] * 40)
    assert knots == ((0.0, 0.0), (0.5, 0.6), (1.0, 0.6))


def test_concepts_with_answers_enough_have_maps_of_their_own() -> None:
    # Lungs are worth what they score, nerves eight times that; tumors of such scores are false.
    rng = np.random.default_rng(0)
    lungs = rng.uniform(0.5, 1, 60)
    nerves, tumors = rng.uniform(0.02, 0.1, (2, 60))
    concepts = ["lung"] * 60 + ["nerve"] * 60 + ["tumor"] * 60 + ["cyst"] * 2 + ["vessel"] * 20
    raw = [*lungs, *nerves, *tumors, *[0.5] * 2, *[0.3] * 20]
    dice = [*lungs, *(8 * nerves), *[0.0] * 60, *[0.5] * 2, 0.5, *[0.0] * 19]
    weights = [1.0] * len(raw)
    maps = fit_own_maps(concepts, raw, dice, weights)
    assert set(maps) == {"lung", "nerve"}, "two answers, and one right one, are too few"
    common = fit_score_map(raw, dice, weights)
    for score in (0.04, 0.08):
        own = answer_score(score, maps["nerve"], empty=False)
        assert own == pytest.approx(8 * score, abs=0.1)
        assert answer_score(score, common, empty=False) < 0.7 * own
    for knots in maps.values():
        assert check_score_map(knots) == knots


def test_few_answers_of_a_concept_are_held_by_all() -> None:
    concepts = ["lung"] * 90 + ["nerve"] * 10
    raw = [0.9] * 45 + [0.3] * 45 + [0.3] * 10
    dice = [0.9] * 45 + [0.3] * 45 + [0.8] * 10
    maps = fit_own_maps(concepts, raw, dice, [0.5] * 90 + [2.0] * 10)
    # Ten of its own, a weight of 20, beside 15 of all, a weight of 30: of the 65 that all have,
    # 22.5 are lungs of score 0.3 and 20 are nerves.
    wanted = (20 * 0.8 + 30 * (22.5 * 0.3 + 20 * 0.8) / 65) / (20 + 30 * 42.5 / 65)
    assert answer_score(0.3, maps["nerve"], empty=False) == pytest.approx(wanted, abs=1e-4)
