"""Where probabilities are cut into masks, and how it is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cli_runs import run
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from pydantic import ValidationError
from runs import run_config, write_data
from test_views import CPU, picture, vit_model, vit_segmenter
from tiny import tiny_config, write_images_and_masks

from textsam.adapters import read_adapter_config
from textsam.calibrate import decide
from textsam.calibrate.cut import SHARPNESSES, CutAt, choose_cut, fit_cut
from textsam.checkpoint import save_adapter
from textsam.data.folder import samples_from_folder
from textsam.data.sample import load_sample
from textsam.inference.cut import STEPS, Cut, expected_dice, histogram
from textsam.inference.decoded import Decoded, cut_out
from textsam.inference.ready import ready_segmenter
from textsam.inference.segmenter import Segmenter
from textsam.metrics import dice
from textsam.model.tuning import trainable_state

# Believes one half of everything, so that the largest mask promises most.
ALL = Cut(sharpness=0.001)


def decoded(*rows: list[float]) -> Decoded:
    probability = np.array(rows, dtype=np.float32)
    return Decoded(probability, probability > 0.5, 0.9)


def test_the_expected_dice_by_hand() -> None:
    # Ten pixels of about 0.6 and ten of about 0.3, each in the middle of its 200th.
    probability = np.array([[0.6025] * 10 + [0.3025] * 10])
    counts = histogram(probability)
    assert counts[120] == counts[60] == 10
    assert counts.sum() == 20
    expected = expected_dice(counts, 1.0)
    expected_pixels = 10 * (0.6025 + 0.3025)
    assert expected[100] == pytest.approx(2 * 6.025 / (10 + expected_pixels))
    assert expected[50] == pytest.approx(2 * expected_pixels / (20 + expected_pixels))
    assert expected[150] == 0
    # The odds of 0.6025 to the power 2 are 2.2974.
    squared = expected_dice(histogram(np.array([[0.6025]])), 2.0)
    believed = (0.6025 / 0.3975) ** 2 / (1 + (0.6025 / 0.3975) ** 2)
    assert squared[100] == pytest.approx(2 * believed / (1 + believed))


def test_of_a_large_map_a_part_is_counted() -> None:
    small = np.random.default_rng(0).random((512, 512), dtype=np.float32)
    large = small.repeat(6, axis=0).repeat(6, axis=1)
    counts = histogram(large)
    # Nine megapixels: every third row and column, so of 36 alike numbers four are counted.
    assert_array_equal(counts, 4 * histogram(small))


def test_the_cut_by_hand() -> None:
    # 0.3 beside 0.6 does not pay (0.632 without it, 0.623 with it), 0.4 does (0.601, 0.669).
    for low, threshold in ((0.3025, 0.5), (0.4025, 0.4)):
        counts = histogram(np.array([[0.6025] * 10 + [low] * 10]))
        assert Cut(sharpness=1).threshold(counts, 0.5) == threshold
    # Believed more sharply, 0.4 does not pay either.
    assert Cut(sharpness=3).threshold(counts, 0.5) == 0.5
    assert ALL.threshold(counts, 0.5) == 0.4
    assert Cut(sharpness=0.001, lowest=0.45).threshold(counts, 0.5) == 0.5
    # At the ends of what can be given.
    counts = histogram(np.array([[0.999] * 10]))
    assert Cut(sharpness=1).threshold(counts, 0.999) == (STEPS - 1) / STEPS
    assert np.isfinite(expected_dice(counts, 1e4)).all()


@given(st.lists(st.integers(0, 50), min_size=STEPS, max_size=STEPS))
def test_the_best_cut_is_at_half_of_the_dice_to_expect(numbers: list[int]) -> None:
    counts = np.array(numbers)
    counts[150] += 1
    expected = expected_dice(counts, 1.0)
    best = int(np.argmax(expected))
    # Every pixel above half of the Dice is worth taking, and none below.
    half = expected[best] / 2
    middle = (np.arange(STEPS) + 0.5) / STEPS
    taken = np.arange(STEPS) >= best
    assert not counts[~taken & (middle > half + 1e-9)].any()
    assert not counts[taken & (middle < half - 1e-9)].any()


def test_nothing_likely_leaves_the_mask_empty() -> None:
    nothing = decoded([0.3, 0.2], [0.1, 0.05])
    assert cut_out(nothing, ALL, 0.5) is nothing
    little = decoded([0.31, 0.2], [0.1, 0.05])
    found = cut_out(little, Cut(sharpness=1), 0.5)
    assert_array_equal(found.mask, [[True, True], [False, False]])
    assert not little.mask.any()
    assert found.cut == 0.195
    assert cut_out(little, None, 0.5) is little


def test_what_is_sure_stays_as_it_is() -> None:
    sure = decoded([0.99, 0.98], [0.01, 0.02])
    assert cut_out(sure, Cut(sharpness=1), 0.5) is sure


def test_a_cut_is_checked() -> None:
    for wrong in ({"sharpness": 0}, {"sharpness": 1, "least": 1}, {"sharpness": 1, "lowest": 0}):
        with pytest.raises(ValidationError):
            Cut.model_validate(wrong)


def test_words_are_cut_and_places_are_not() -> None:
    plain, lower = vit_segmenter(refine=1), vit_segmenter(refine=1, cut=ALL)
    image = picture()
    before, after = plain.segment(image, "lung"), lower.segment(image, "lung")
    assert_array_equal(after.probability, before.probability)
    assert "cut" not in before.extra
    assert after.extra["cut"] == 0.1
    assert_array_equal(after.mask, after.probability > 0.1)
    assert after.area_px > before.area_px
    box = (4, 6, 30, 25)
    before, after = (one.segment(image, "lung", boxes=box) for one in (plain, lower))
    assert "cut" not in after.extra
    assert_array_equal(after.mask, before.mask)


def test_no_mask_is_cut_higher_than_the_adapters_threshold() -> None:
    above = Cut(sharpness=0.001, lowest=0.35)
    answer = vit_segmenter(mask_threshold=0.3, cut=above).segment(picture(), "lung", refine=0)
    assert "cut" not in answer.extra
    assert_array_equal(answer.mask, answer.probability > 0.3)
    assert ((answer.probability > 0.3) & (answer.probability <= 0.35)).any()


def test_views_are_averaged_and_then_cut() -> None:
    answer = vit_segmenter("32,mirrored", cut=ALL).segment(picture(), "lung")
    assert_array_equal(answer.mask, answer.probability > 0.1)


def ways(fixed: float, *others: float) -> dict[float | None, float]:
    return dict(zip((None, *SHARPNESSES), (fixed, *others), strict=True))


def test_the_choice_by_hand() -> None:
    lung, tumor = ("chest X-ray", "lung"), ("breast ultrasound", "tumor")
    seen = [
        # One lung and twenty tumors: the lung has a tenth of their say.
        CutAt(lung, ways(0.9, 0.9, 0.9, 0.9, 0.9, 0.9), {}),
        *[
            CutAt(tumor, ways(0.5, 0.4, 0.5, 0.6, 0.5, 0.5), ways(0.2, 0.9, 0.5, 0.3, 0.3, 0.2))
            for _ in range(20)
        ],
    ]
    chosen = choose_cut(seen)
    # 1 is best on closer looks and loses on whole images; 1.25 gains 0.3 there, 1.5 twice 0.1.
    assert chosen.cut == Cut(sharpness=1.25)
    assert chosen.dice["fixed"] == (round((0.09 + 0.5) / 1.1, 4), 0.2)
    assert chosen.dice["1.5"] == (round((0.09 + 0.6) / 1.1, 4), 0.3)
    worse = [CutAt(tumor, ways(0.5, 0.5, 0.5, 0.4, 0.4, 0.4), {})]
    assert choose_cut(worse).cut is None
    assert choose_cut(worse).dice["1"] == (0.5, None)


def test_of_a_few_objects_no_cut_is_chosen() -> None:
    better = CutAt(("dermoscopy", "skin lesion"), ways(0.5, 0.5, 0.5, 0.5, 0.9, 0.5), {})
    assert choose_cut([better] * 9).cut is None
    assert choose_cut([better] * 10).cut == Cut(sharpness=2)


def test_masks_are_cut_as_they_are_and_closer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images_and_masks(tmp_path, count=2)
    samples = samples_from_folder(tmp_path, "tumour", modality="breast ultrasound")
    part = (slice(8, 48), slice(0, 40))
    left: list[tuple[slice, slice] | None] = [part, None]
    monkeypatch.setattr("textsam.calibrate.looks.close_crop", lambda *_: left.pop(0))
    # The cut, the threshold and the views of before play no part.
    given_one = vit_segmenter("mirrored", found_threshold=1.0, cut=ALL)
    chosen = fit_cut(given_one, samples, progress=False)
    plain = vit_segmenter(refine=0)

    def by_hand(pixels: NDArray[np.uint8], truth: NDArray[np.bool_], sharpness: float) -> float:
        answer = plain.segment(np.ascontiguousarray(pixels), "tumor")
        known = Decoded(answer.probability, answer.mask, 0.0)
        return dice(cut_out(known, Cut(sharpness=sharpness), 0.5).mask, truth)

    loaded = [load_sample(sample) for sample in samples]
    for sharpness in SHARPNESSES:
        whole = [by_hand(image, masks["tumour"], sharpness) for image, masks in loaded]
        closer = by_hand(loaded[0][0][part], loaded[0][1]["tumour"][part], sharpness)
        wanted = pytest.approx((np.mean(whole), closer), abs=1e-4)
        assert chosen.dice[f"{sharpness:g}"] == wanted
    assert chosen.dice["fixed"][0] == pytest.approx(
        np.mean([dice(plain.segment(i, "tumor").mask, m["tumour"]) for i, m in loaded]), abs=1e-4
    )


def test_the_command_chooses_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "MIN_DICE", 0.0)

    def load(*_: object, **options: Any) -> Segmenter:
        return ready_segmenter(
            vit_model(), tiny_config(), device=CPU, precision=torch.float32, views=options["views"]
        )

    monkeypatch.setattr("textsam.api.load_model", load)
    settings = run_config(write_data(tmp_path)).model_dump(mode="json")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    state = trainable_state(vit_model().model)
    folder = save_adapter(tmp_path / "adapter", tiny_config(cut=ALL), state)
    arguments = ("calibrate", folder, tmp_path / "run.yaml", "--passes", "0")
    done = run(*arguments, "-o", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    assert "masks cut" not in done.output
    assert read_adapter_config(tmp_path / "kept").cut == ALL
    done = run(*arguments, "--cut", "-o", tmp_path / "chosen")
    assert done.exit_code == 0, done.output
    after = read_adapter_config(tmp_path / "chosen")
    told = after.training["dice_by_cut"]
    assert set(told) == {"fixed", *(f"{way:g}" for way in SHARPNESSES)}
    assert after.cut is None or after.cut.sharpness in SHARPNESSES
    how = "a fixed threshold" if after.cut is None else f"sharpness {after.cut.sharpness:g}"
    assert f"masks cut by {how}" in done.output
    assert f"fixed: {told['fixed'][0]:.3f}" in done.output
