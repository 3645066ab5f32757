"""Refinement and the found threshold are chosen by what they do, on hand-made answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model, write_images_and_masks

from textsam.adapters import AdapterConfig
from textsam.calibrate import Answer, calibrate, choose_refinements, choose_threshold
from textsam.data.folder import samples_from_folder
from textsam.errors import DataError
from textsam.segmenter import Segmenter


def answer(concept: str, *dice: float, present: bool = True) -> Answer:
    return Answer(concept, present, dice, tuple(0.5 for _ in dice))


def test_refinement_is_kept_only_where_it_helps() -> None:
    chosen = choose_refinements(
        [
            answer("vessel", 0.70, 0.60, 0.50),  # thin: every pass hurts
            answer("tumor", 0.70, 0.80, 0.80),
            answer("tumor", 0.80, 0.80, 0.84),  # means 0.75, 0.80, 0.82
            answer("lung", 0.950, 0.951, 0.952),  # gains below what is worth a pass
            answer("lung", 0.0, 1.0, 1.0, present=False),  # absent: no say in Dice
        ]
    )
    assert {concept: count for concept, (count, _) in chosen.items()} == {
        "vessel": 0,
        "tumor": 2,
        "lung": 0,
    }
    assert chosen["tumor"][1] == (0.75, 0.80, 0.82)


def test_threshold_lies_between_what_is_there_and_what_is_not() -> None:
    present = [(0.9, 0.8), (0.8, 0.9), (0.7, 0.7)]
    assert choose_threshold(present, [0.2, 0.3, 0.0]) == pytest.approx(0.5)  # (0.3 + 0.7) / 2


def test_threshold_gives_up_poor_answers_to_reject_many_false_ones() -> None:
    # Losing the answer of score 0.4 costs 0.05 of mean Dice and wins two thirds of emptiness.
    present = [(0.9, 0.9), (0.4, 0.1)]
    assert choose_threshold(present, [0.5, 0.45, 0.1]) == pytest.approx(0.7)


def test_threshold_is_zero_when_nothing_is_gained() -> None:
    assert choose_threshold([(0.3, 0.9), (0.6, 0.8)], []) == 0.0
    assert choose_threshold([(0.3, 0.9)], [0.0, 0.0]) == 0.0


scores = st.floats(0, 1, allow_nan=False)


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=8), st.lists(scores, max_size=8))
def test_no_other_threshold_is_better(
    present: list[tuple[float, float]], absent: list[float]
) -> None:
    def value(threshold: float) -> float:
        kept = sum(overlap for score, overlap in present if score >= threshold) / len(present)
        empty = sum(score < threshold or score == 0 for score in absent)
        return kept + (empty / len(absent) if absent else 0.0)

    best = value(choose_threshold(present, absent))
    highest = max(score for score, _ in present)
    assert all(best >= value(k / 50 * highest) - 1e-9 for k in range(51))


def _segmenter(**changes: object) -> Segmenter:
    config = AdapterConfig(name="tiny", preset="lite", prompts=("tumor", "cell nucleus"))
    return Segmenter(tiny_model(), config.model_copy(update=changes), device=torch.device("cpu"))


def test_calibration_counts_every_question_and_ignores_the_old_threshold(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, count=3)
    samples = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    result = calibrate(_segmenter(found_threshold=1.0), samples, progress=False)
    # Each image is asked for its tumor, and for the nucleus that ultrasound cannot show.
    assert (result.n_present, result.n_absent) == (3, 3)
    assert list(result.dice_by_passes) == ["tumor"]
    assert len(result.dice_by_passes["tumor"]) == 3
    again = calibrate(_segmenter(), samples, progress=False)
    assert again == result


def test_images_without_a_known_concept_are_refused(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, count=1)
    samples = samples_from_folder(tmp_path, "polyp", modality="unknown")
    with pytest.raises(DataError, match="tumor, cell nucleus"):
        calibrate(_segmenter(), samples, progress=False)
