"""Refinement and the found threshold are chosen by what they do, on hand-made answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model, write_images_and_masks

from textsam import calibrate as calibration
from textsam.adapters import AdapterConfig
from textsam.calibrate import (
    EMPTY_RATE,
    Answer,
    calibrate,
    choose_refinements,
    choose_threshold,
)
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


def test_threshold_is_the_lowest_that_empties_nearly_all_that_is_absent() -> None:
    # 9 of 10 absent answers must be below; the two lowest present scores are the price.
    absent = [0.0] * 5 + [0.1] * 3 + [0.3, 0.6]
    assert choose_threshold([0.2, 0.25, 0.5, 0.9], absent) == pytest.approx(0.4)  # (0.3 + 0.5) / 2


def test_threshold_is_zero_when_masks_alone_suffice() -> None:
    assert choose_threshold([0.3, 0.6], []) == 0.0
    assert choose_threshold([0.3], [0.0, 0.0]) == 0.0


scores = st.floats(0, 1, allow_nan=False)


@given(st.lists(scores, min_size=1, max_size=8), st.lists(scores, max_size=8))
def test_threshold_reaches_the_rate_or_keeps_the_best_found(
    present: list[float], absent: list[float]
) -> None:
    threshold = choose_threshold(present, absent)
    assert threshold <= max(present)
    empty = sum(score < threshold or score == 0 for score in absent)
    assert not absent or empty / len(absent) >= EMPTY_RATE or threshold == max(present)


def _segmenter(**changes: object) -> Segmenter:
    config = AdapterConfig(name="tiny", preset="lite", prompts=("tumor", "cell nucleus"))
    return Segmenter(tiny_model(), config.model_copy(update=changes), device=torch.device("cpu"))


def test_calibration_counts_every_question_and_ignores_the_old_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MIN_DICE", 0.0)  # an untrained model is poor
    write_images_and_masks(tmp_path, count=3)
    samples = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    result = calibrate(_segmenter(found_threshold=1.0), samples, progress=False)
    # Each image is asked for its tumor, and for the nucleus that ultrasound cannot show.
    assert result.prompts == ("tumor", "cell nucleus")
    assert (result.n_present, result.n_absent) == (3, 3)
    assert list(result.dice_by_passes) == ["tumor"]
    assert len(result.dice_by_passes["tumor"]) == 3
    again = calibrate(_segmenter(), samples, progress=False)
    assert again == result


def test_what_was_not_learned_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images_and_masks(tmp_path, count=2)
    samples = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    monkeypatch.setattr(calibration, "MIN_DICE", 1.1)
    with pytest.raises(DataError, match="they show tumor, none with a mean Dice"):
        calibrate(_segmenter(), samples, progress=False)


def test_images_without_a_known_concept_are_refused(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, count=1)
    samples = samples_from_folder(tmp_path, "polyp", modality="unknown")
    with pytest.raises(DataError, match="they show nothing"):
        calibrate(_segmenter(), samples, progress=False)
