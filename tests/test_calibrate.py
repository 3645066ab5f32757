"""What training leaves open is chosen by what it does, on hand-made answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from cli_runs import run, use_tiny_model
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage
from runs import run_config, write_data
from tiny import loud_model, tiny_config, tiny_model, write_images_and_masks

from textsam.adapters import TENSORS_FILE, AdapterConfig, read_adapter_config
from textsam.calibrate import Calibration, calibrate, decide, finish_adapter
from textsam.calibrate.ask import Answer, Kind, ask
from textsam.calibrate.cut import ChosenCut
from textsam.calibrate.decide import choose_refinements
from textsam.calibrate.looks import looks_at
from textsam.calibrate.sides import ChosenSides
from textsam.calibrate.threshold import Demand, choose_threshold, group_weights
from textsam.checkpoint import save_adapter
from textsam.data.folder import samples_from_folder
from textsam.data.heal import HealWay
from textsam.data.sample import Sample, Target
from textsam.errors import ConfigError, DataError
from textsam.inference.cut import Cut
from textsam.inference.segmenter import Segmenter
from textsam.model.tuning import trainable_state
from textsam.tensors import load_tensors


def answer(concept: str, *dice: float, kind: Kind = "present") -> Answer:
    return Answer(concept, "brain MRI", kind, dice, tuple(0.5 for _ in dice))


def test_refinement_is_kept_only_where_it_helps() -> None:
    chosen = choose_refinements(
        [
            answer("vessel", 0.70, 0.60, 0.50),  # thin: every pass hurts
            answer("tumor", 0.70, 0.80, 0.80),
            answer("tumor", 0.80, 0.80, 0.84),  # means 0.75, 0.80, 0.82
            answer("lung", 0.950, 0.951, 0.952),  # gains below what is worth a pass
            answer("lung", 0.0, 1.0, 1.0, kind="absent_modality"),  # absent: no say in Dice
        ]
    )
    assert {concept: count for concept, (count, _) in chosen.items()} == {
        "vessel": 0,
        "tumor": 2,
        "lung": 0,
    }
    assert chosen["tumor"][1] == (0.75, 0.80, 0.82)


def demand(rate: float, *scores: float) -> Demand:
    return Demand(scores, [1.0] * len(scores), rate)


def test_threshold_is_the_lowest_that_meets_a_demand() -> None:
    # 9 of 10 absent answers must be below; the two lowest present scores are the price.
    absent = [-1.0] * 5 + [0.1] * 3 + [0.3, 0.6]
    present = [0.2, 0.25, 0.5, 0.9]
    assert choose_threshold(present, [demand(0.9, *absent)]) == pytest.approx(0.4)  # (0.3+0.5)/2
    assert choose_threshold(present, [demand(0.8, *absent)]) == pytest.approx(0.15)
    assert choose_threshold(present, [demand(0.5, *absent)]) == 0.0


def test_threshold_meets_every_demand() -> None:
    easy, hard = demand(0.5, -1.0, 0.7), demand(1.0, 0.1, 0.4)
    assert choose_threshold([0.3, 0.5], [easy]) == 0.0
    assert choose_threshold([0.3, 0.5], [easy, hard]) == pytest.approx(0.45)
    assert choose_threshold([0.3, 0.5], [hard, easy, demand(1.0)]) == pytest.approx(0.45)


def test_a_large_group_does_not_hide_a_small_one() -> None:
    # 88 of one group come back empty by themselves, the twelve of the other do not.
    scores, groups = [-1.0] * 88 + [0.6] * 12, ["large"] * 88 + ["small"] * 12
    assert choose_threshold([0.9], [demand(0.85, *scores)]) == 0.0
    weights = list(group_weights(groups))
    assert choose_threshold([0.9], [Demand(scores, weights, 0.85)]) == pytest.approx(0.75)


def test_group_weights() -> None:
    groups = ["a"] * 30 + ["b"] * 10
    assert group_weights(groups) == pytest.approx([1 / 60] * 30 + [1 / 20] * 10)
    # Five members have half the say of ten or more.
    groups = ["a"] * 30 + ["b"] * 5
    assert group_weights(groups) == pytest.approx([2 / 90] * 30 + [1 / 15] * 5)
    assert group_weights(["a", "b", "a", "a"]) == pytest.approx([1 / 4] * 4)


def test_threshold_is_zero_when_masks_alone_suffice() -> None:
    assert choose_threshold([0.3, 0.6], []) == 0.0
    assert choose_threshold([0.3], [demand(1.0, -1.0, -1.0)]) == 0.0
    assert choose_threshold([], []) == 0.0


def test_threshold_at_its_edges() -> None:
    # A mask whose score is 0 is shown at a threshold of 0: it has to be got rid of.
    assert choose_threshold([0.5], [demand(1.0, 0.0)]) == pytest.approx(0.25)
    # Two of three can only fall by 0.7, above all that is there.
    assert choose_threshold([0.3], [demand(2 / 3, 0.2, 0.5, 0.9)]) == 0.3
    # Half a percent short of the rate is short of it; a rounded sum of weights is not.
    assert choose_threshold([0.9], [Demand([-1.0, 0.5], [0.895, 0.105], 0.9)]) == pytest.approx(0.7)
    assert choose_threshold([0.9], [demand(0.4, *[-1.0] * 6, *[0.5] * 9)]) == 0.0


scores = st.floats(0, 1, allow_nan=False) | st.just(-1.0)


@given(st.lists(scores, min_size=1, max_size=8), st.lists(scores, max_size=8), st.floats(0, 1))
def test_threshold_reaches_the_rate_or_keeps_the_best_found(
    present: list[float], absent: list[float], rate: float
) -> None:
    threshold = choose_threshold(present, [demand(rate, *absent)])
    highest = max(0.0, *present)
    assert 0 <= threshold <= highest
    empty = sum(score < threshold for score in absent)
    assert not absent or empty / len(absent) >= rate - 1e-6 or threshold == highest


def _segmenter(**changes: object) -> Segmenter:
    config = AdapterConfig(name="tiny", preset="lite", prompts=("tumor", "cell nucleus"))
    return Segmenter(tiny_model(), config.model_copy(update=changes), device=torch.device("cpu"))


def test_calibration_counts_every_question_and_ignores_the_old_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "MIN_DICE", 0.0)  # an untrained model is poor
    write_images_and_masks(tmp_path, count=3)
    samples = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    falls = ((0.0, 0.0), (1.0, 0.1))
    own = {"tumor": ((0.0, 0.3), (1.0, 0.9))}
    old = _segmenter(found_threshold=1.0, score_map=falls, score_map_for=own)
    result = calibrate(old, samples, progress=False)
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
    monkeypatch.setattr(decide, "MIN_DICE", 1.1)
    with pytest.raises(DataError, match=r"mean Dice is tumor 0\.\d\d, and 1\.1 is"):
        calibrate(_segmenter(), samples, progress=False)


def test_the_words_of_the_data_are_those_of_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "MIN_DICE", 0.0)  # an untrained model is poor
    write_images_and_masks(tmp_path, count=3)
    plain, worded = (
        samples_from_folder(tmp_path, word, modality="breast ultrasound")
        for word in ("tumor", "tumour")
    )
    result = calibrate(_segmenter(), worded, passes=0, progress=False)
    assert result == calibrate(_segmenter(), plain, passes=0, progress=False)
    assert result.n_present == 3
    # What is declared absent, too.
    normal = [replace(sample, targets=(), absent=("breast tumour",)) for sample in plain[:1]]
    both = calibrate(_segmenter(), [*worded[1:], *normal], passes=0, progress=False)
    assert both.empty_annotated is not None


def test_images_without_a_known_concept_are_refused(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, count=1)
    samples = samples_from_folder(tmp_path, "polyp", modality="unknown")
    with pytest.raises(DataError, match=r"knows tumor, cell nucleus, and .* show none"):
        calibrate(_segmenter(), samples, progress=False)


def scripted(
    monkeypatch: pytest.MonkeyPatch, answers: list[Answer], *, empty_beside: float | None = None
) -> Calibration:
    """The calibration of given answers."""
    monkeypatch.setattr("textsam.calibrate.run.ask", lambda *_, **__: answers)
    sample = Sample("set", "brain MRI", "0", Path("0.png"), ())
    return calibrate(_segmenter(), [sample], passes=0, empty_beside=empty_beside, progress=False)


def one(kind: Kind, dice: float, score: float, modality: str = "brain MRI") -> Answer:
    return Answer("tumor", modality, kind, (dice,), (score,))


def test_each_concept_is_judged_after_its_own_passes() -> None:
    def asked(concept: str, kind: Kind, dice: tuple[float, ...], *score: float) -> list[Answer]:
        return [Answer(concept, "brain MRI", kind, dice, score)] * 3

    answers = [
        *asked("tumor", "present", (0.2, 0.3), 0.1, 0.6),
        *asked("lung", "present", (0.9, 0.9), 0.9, 0.1),
        *asked("polyp", "present", (0.1, 0.2), 0.1, 0.2),  # never learned
        *asked("nerve", "absent_modality", (0.0, 0.0), 0.5, 0.95),  # seen nowhere
    ]
    names = ("tumor", "lung", "polyp", "nerve")
    result = decide.decide(answers, names, {"absent_modality": 1.0})
    assert result.prompts == ("tumor", "lung", "nerve")
    # Of as many concepts for either the fewer passes; what was seen nowhere has those.
    assert (result.refine, result.refine_for) == (0, {"tumor": 1})
    assert result.found_threshold == pytest.approx(0.55)  # of 0.5 and 0.6
    assert result.found_by_concept == {"lung": 1.0, "tumor": 1.0}
    assert result.dice_without_threshold == pytest.approx(0.6)
    assert result.dice_by_passes["polyp"] == (0.1, 0.2)
    assert (result.n_present, result.n_absent) == (6, 3)
    # With one more like the tumor, two of three want a pass.
    more = [*answers, *asked("vessel", "present", (0.2, 0.3), 0.1, 0.6)]
    result = decide.decide(more, (*names, "vessel"), {})
    assert (result.refine, result.refine_for) == (1, {"lung": 0})


def test_score_and_threshold_are_chosen_together(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        # Sure of itself and right to 0.8; unsure and right to 0.6.
        *[one("present", 0.8, 0.9) for _ in range(30)],
        *[one("present", 0.6, 0.7) for _ in range(10)],
        # Absent: one in two has a mask, of a score below; one in ten of the annotated ones is as
        # sure as can be, which 85 % allow for.
        *[one("absent_modality", 0, 0.5, "chest X-ray") for _ in range(20)],
        *[one("absent_modality", 0, -1, "chest X-ray") for _ in range(20)],
        *[one("absent_annotated", 0, 0.9) for _ in range(2)],
        *[one("absent_annotated", 0, -1) for _ in range(18)],
    ]
    result = scripted(monkeypatch, answers)
    assert (result.empty_modality, result.empty_annotated) == (1.0, pytest.approx(0.9))
    assert result.found_by_concept == {"tumor": 1.0}
    assert (result.found_rate, result.lost_rate) == (1.0, 0.0)
    assert (result.n_present, result.n_absent) == (40, 60)
    assert result.dice_without_threshold == result.dice_with_threshold == pytest.approx(0.75)
    # At 0.9 there are 3/8 of all weight right to 0.8, and 2/20 of a quarter absent.
    share = 0.375 / (0.375 + 0.025)
    assert dict(result.score_map)[0.9] == pytest.approx(0.8 * share, abs=1e-4)
    assert dict(result.score_map)[0.5] == 0.0
    # One concept: its own map is that of all.
    assert result.score_map_for == {"tumor": result.score_map}
    assert 0 < result.found_threshold < dict(result.score_map)[0.7] == pytest.approx(0.6)
    assert result.ece_after < 0.01 < result.ece_before


@pytest.mark.parametrize(
    ("count", "score"),
    [
        (3, 0.5),
        (3, 0.9),  # as high as what is absent
        (3, 0.333337),  # rounded up, the threshold would be above it
        (20, 0.01),  # with a map: worth less than a score that helps, and the best there is
    ],
)
def test_the_best_of_what_is_there_is_found_whatever_is_absent(
    monkeypatch: pytest.MonkeyPatch, count: int, score: float
) -> None:
    answers = [one("present", 0.3, score), one("absent_annotated", 0, 0.9)] * count
    result = scripted(monkeypatch, answers)
    assert bool(result.score_map) == (count == 20)
    assert (result.found_rate, result.empty_annotated, result.empty_rate) == (1.0, 0.0, 0.0)


def test_scores_are_those_of_a_concepts_own_map(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(concept: str, dice: float, score: float) -> Answer:
        return Answer(concept, "brain MRI", "present", (dice,), (score,))

    answers = [
        *[found("tumor", 0.9, 0.8)] * 20,
        *[found("cell nucleus", 0.5, 0.8)] * 20,
        *[found("cell nucleus", 0.0, -1)] * 4,  # missed: no map makes a score of that
    ]
    result = scripted(monkeypatch, answers)
    # Both have half of all weight, of which the missed have a sixth.
    common = (0.9 + 0.5 * 5 / 6) / (1 + 5 / 6)
    tumor, nucleus = ((20 * dice + 15 * common) / 35 for dice in (0.9, 0.5))
    assert dict(result.score_map)[0.8] == pytest.approx(common, abs=1e-4)
    assert dict(result.score_map_for["tumor"])[0.8] == pytest.approx(tumor, abs=1e-4)
    assert dict(result.score_map_for["cell nucleus"])[0.8] == pytest.approx(nucleus, abs=1e-4)
    off = (0.9 - tumor) / 2 + (nucleus - 0.5) / 2 * 5 / 6
    assert result.ece_after == pytest.approx(off, abs=1e-4)
    assert (result.lost_rate, result.found_rate) == (0.0, pytest.approx(40 / 44))
    assert (result.empty_rate, result.n_absent) == (1.0, 0)


def test_parts_beside_have_a_demand_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        *[one("present", 0.9, 0.9) for _ in range(6)],
        *[one("present", 0.5, 0.35) for _ in range(4)],
        *[one("absent_annotated", 0, -1) for _ in range(4)],
        *[one("absent_beside", 0, score) for score in (-1, 0.1, 0.3, 0.5)],
    ]
    result = scripted(monkeypatch, answers)
    assert (result.found_threshold, result.empty_beside) == (0.0, pytest.approx(0.25))
    result = scripted(monkeypatch, answers, empty_beside=0.5)
    assert result.found_threshold == pytest.approx(0.2)  # between 0.1 and 0.3
    assert result.empty_beside == pytest.approx(0.5)
    result = scripted(monkeypatch, answers, empty_beside=0.75)
    assert result.found_threshold == pytest.approx(0.325, abs=1.1e-5)  # rounded down
    assert (result.lost_rate, result.n_absent) == (0.0, 8)


def test_parts_beside_show_nothing_of_what_they_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a part of the image, without its object, and only what the image shows is asked."""
    image = np.zeros((120, 200, 3), np.uint8)
    image[40:80, 20:60] = 255  # the object is all that is bright
    mask = image[..., 0] == 255
    for name, pixels in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
        (tmp_path / name).mkdir()
        PILImage.fromarray(pixels).save(tmp_path / name / "0.png")
    (sample,) = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    seen: list[tuple[Any, list[str]]] = []
    segmenter = _segmenter()
    segment = segmenter.segment

    def watched(pixels: Any, asked: list[str], **options: Any) -> Any:
        seen.append((pixels, asked))
        return segment(pixels, asked, **options)

    monkeypatch.setattr(segmenter, "segment", watched)
    answers = ask(segmenter, sample, 0, beside=3, heal={}, rng=np.random.default_rng(0))
    (whole, asked), *parts = seen
    assert whole.shape == image.shape
    assert asked == ["tumor", "cell nucleus"]
    assert len(parts) == 3
    for pixels, concepts in parts:
        assert concepts == ["tumor"]
        assert min(pixels.shape[:2]) >= 48
        assert not pixels.any()
    assert [a.kind for a in answers] == ["present", "absent_modality", *["absent_beside"] * 3]
    # Nothing is drawn where nothing is asked, and nothing asked where there is no room.
    assert len(ask(segmenter, sample, 0, beside=0, heal={}, rng=np.random.default_rng(0))) == 2
    # The whole with the object covered counts as one part more; other kinds of image are left.
    seen.clear()
    heal: dict[str, HealWay] = {"breast ultrasound": "beside"}
    answers = ask(segmenter, sample, 0, beside=1, heal=heal, rng=np.random.default_rng(0))
    assert [a.kind for a in answers][2:] == ["absent_beside"] * 2
    covered, concepts = seen[-1]
    assert concepts == ["tumor"]
    assert covered.shape == image.shape
    assert covered.max() < 26  # a tenth of the object, at its edge
    heal = {"brain MRI": "beside"}
    assert len(ask(segmenter, sample, 0, beside=1, heal=heal, rng=np.random.default_rng(0))) == 3
    filled = np.full((120, 200), 255, np.uint8)
    PILImage.fromarray(filled).save(tmp_path / "masks" / "0.png")
    assert len(ask(segmenter, sample, 0, beside=3, heal={}, rng=np.random.default_rng(0))) == 2


def test_what_is_annotated_as_empty_is_asked_for_and_what_is_unknown_is_not(
    tmp_path: Path,
) -> None:
    write_images_and_masks(tmp_path, count=1)
    (sample,) = samples_from_folder(tmp_path, "tumor", modality="microscopy")
    (tumor,) = sample.targets
    assert isinstance(tumor, Target)
    nothing = tmp_path / "nothing.png"
    PILImage.fromarray(np.zeros((48, 48), np.uint8)).save(nothing)
    empty = Target("cell nucleus", nothing)
    unknown = replace(tumor, concept="polyp")
    sample = replace(sample, targets=(tumor, empty, unknown))
    answers = ask(_segmenter(), sample, 0, beside=0, heal={}, rng=np.random.default_rng(0))
    assert {a.concept: a.kind for a in answers} == {
        "tumor": "present",
        "cell nucleus": "absent_annotated",
    }


def test_what_can_be_expected_to_be_wrong_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        *[one("present", 0.8, 0.9) for _ in range(20)],
        *[one("present", 0.01, 0.2) for _ in range(20)],
        *[one("absent_annotated", 0, -1) for _ in range(4)],
    ]
    result = scripted(monkeypatch, answers)
    assert dict(result.score_map)[0.2] == pytest.approx(0.01, abs=0.005)
    assert result.found_threshold == decide.MIN_SCORE == 0.05
    assert result.found_rate == pytest.approx(0.5)


def test_the_price_of_a_threshold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        *[one("present", 0.9, 0.9) for _ in range(6)],
        *[one("present", 0.5, 0.3) for _ in range(2)],
        *[one("present", 0.0, -1) for _ in range(2)],  # missed without any threshold
        *[one("absent_annotated", 0, 0.6) for _ in range(4)],
    ]
    result = scripted(monkeypatch, answers)
    assert result.score_map == ()  # of so few
    assert result.found_threshold == pytest.approx(0.75)
    assert result.empty_modality is None
    assert result.empty_annotated == 1.0
    assert result.lost_rate == pytest.approx(0.2)
    assert result.found_rate == pytest.approx(0.6)
    assert result.dice_without_threshold == pytest.approx(0.64)
    assert result.dice_with_threshold == pytest.approx(0.54)


def test_each_image_is_asked_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def watched(
        segmenter: Segmenter, _: Sample, passes: int, *, beside: int, heal: Any, rng: Any
    ) -> list[Answer]:
        config = segmenter.config
        assert (config.found_threshold, config.score_map, config.score_map_for) == (0, (), {})
        asked.append((passes, beside, heal, rng.random()))
        return [one("present", 0.9, 0.9)]

    monkeypatch.setattr("textsam.calibrate.run.ask", watched)
    samples = [Sample("set", "brain MRI", str(n), Path(f"{n}.png"), ()) for n in range(2)]
    heal: dict[str, HealWay] = {"brain MRI": "mirrored"}
    falls = ((0.0, 0.0), (1.0, 0.1))
    old = _segmenter(found_threshold=1.0, score_map=falls, score_map_for={"tumor": falls})

    def calibrated(**options: Any) -> list[tuple[Any, ...]]:
        asked.clear()
        calibrate(old, samples, passes=0, progress=False, **options)
        return list(asked)

    plain = calibrated()
    assert [settings[:3] for settings in plain] == [(0, 0, {})] * 2
    # Even where a share of nothing is asked of parts beside, they are asked and counted.
    both = calibrated(empty_beside=0.0, heal=heal)
    assert [settings[:3] for settings in both] == [(0, 2, heal)] * 2
    # Every image has a generator of its own, whatever was drawn before, and every seed others.
    draws = [settings[3] for settings in (*plain, *calibrated(seed=1))]
    assert len(set(draws)) == 4
    assert [settings[3] for settings in both] == draws[:2]


def made_up() -> Calibration:
    return Calibration(
        **{
            **dict.fromkeys(Calibration.__dataclass_fields__, 0.0),
            "prompts": ("tumor",),
            "refine": 1,
            "refine_for": {"tumor": 2},
            "score_map": ((0.0, 0.1), (1.0, 0.7)),
            "score_map_for": {"tumor": ((0.0, 0.2), (1.0, 0.8))},
            "found_threshold": 0.3,
        }
    )


def test_what_is_finished_is_calibrated_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = made_up()
    given: list[dict[str, Any]] = []

    def watched(_: Segmenter, __: list[Sample], **options: Any) -> Calibration:
        given.append(options)
        return decided

    monkeypatch.setattr("textsam.calibrate.finish.calibrate", watched)
    config = tiny_config(training={"epochs": 3}, sides_for={"tumor": (32,)})
    folder = save_adapter(tmp_path / "adapter", config, trainable_state(loud_model().model))
    asked: dict[str, Any] = {
        "passes": 1,
        "empty_modality": 0.5,
        "empty_annotated": 0.6,
        "empty_beside": 0.7,
        "heal": {"brain MRI": "mirrored"},
        "seed": 5,
        "progress": False,
    }
    out = tmp_path / "out"
    assert finish_adapter(_segmenter(), folder, [], out, **asked) is decided
    assert given == [asked]
    after = read_adapter_config(out)
    for name in ("prompts", "refine", "refine_for", "score_map", "score_map_for"):
        assert getattr(after, name) == getattr(decided, name)
    assert (after.found_threshold, after.sides_for) == (0.3, {"tumor": (32,)})
    assert after.training["epochs"] == 3
    assert after.training["calibration"]["found_threshold"] == 0.3
    assert {t.dtype for t in load_tensors(out / TENSORS_FILE).values()} == {torch.float16}
    with pytest.raises(ConfigError, match="is the adapter to calibrate; write to another folder"):
        finish_adapter(_segmenter(), folder, [], tmp_path / "out" / ".." / "adapter", **asked)


def test_masks_are_cut_at_the_sides_just_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of finishing looks at what the steps before it have decided."""
    sides, cut = {"tumor": (32,)}, Cut(sharpness=2.0)
    seen: dict[str, AdapterConfig] = {}

    def step(name: str, result: Any) -> Any:
        def done(segmenter: Segmenter, *_: Any, **__: Any) -> Any:
            seen[name] = segmenter.config
            return result

        return done

    class Noted:
        def __init__(self, config: AdapterConfig) -> None:
            self.config = config

        def with_config(self, config: AdapterConfig, **_: Any) -> Noted:
            return Noted(config)

    finish = "textsam.calibrate.finish"
    monkeypatch.setattr(f"{finish}.fit_sides", step("sides", ChosenSides(sides, {"tumor": {}})))
    monkeypatch.setattr(f"{finish}.fit_cut", step("cut", ChosenCut(cut, {})))
    monkeypatch.setattr(f"{finish}.calibrate", step("calibrate", made_up()))
    folder = save_adapter(tmp_path / "a", tiny_config(), trainable_state(loud_model().model))
    noted = cast("Segmenter", Noted(tiny_config()))
    finish_adapter(noted, folder, [], tmp_path / "out", sides_px=[32], cut=True)
    assert [seen[name].sides_for for name in ("sides", "cut", "calibrate")] == [{}, sides, sides]
    assert [seen[name].cut for name in ("sides", "cut", "calibrate")] == [None, None, cut]
    after = read_adapter_config(tmp_path / "out")
    assert (after.sides_for, after.cut) == (sides, cut)


def test_a_closer_look_is_a_part_around_each_concept(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    masks = np.zeros((3, 200, 300), dtype=bool)
    masks[0, 20:60, 30:60] = True
    masks[2, 120:160, 200:230] = True
    targets = []
    PILImage.fromarray(image).save(tmp_path / "image.png")
    for name, mask in zip(("tumour", "cell nucleus", "polyp"), masks, strict=True):
        PILImage.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{name}.png")
        targets.append(Target(name, tmp_path / f"{name}.png"))
    sample = Sample("set", "colonoscopy", "0", tmp_path / "image.png", tuple(targets))
    # Called as the adapter calls it; neither what is empty nor what it does not know.
    sides = []
    for seed in range(60):
        (look,) = looks_at(sample, ("tumor", "cell nucleus"), seed)
        assert look.concept == "tumor"
        assert np.array_equal(look.whole[0], image)
        assert np.array_equal(look.whole[1], masks[0])
        assert look.closer is not None
        pixels, mask = look.closer
        assert np.array_equal(pixels[mask], image[masks[0]])
        assert pixels.shape[:2] == mask.shape
        sides.append(max(mask.shape))
    # 1.3 to 1.9 times the 40 px of its longer side.
    assert 52 <= min(sides) < 54 < 74 < max(sides) <= 76
    (same,) = looks_at(sample, ("tumor",), 59)
    assert same.closer is not None
    assert np.array_equal(same.closer[0], pixels)


def test_the_share_to_come_back_empty_is_a_share() -> None:
    with pytest.raises(ConfigError, match=r"absent_annotated.* is 1\.5; give 0…1"):
        calibrate(_segmenter(), [], empty_annotated=1.5)
    with pytest.raises(ConfigError, match=r"absent_beside.* is -0\.1; give 0…1"):
        calibrate(_segmenter(), [], empty_beside=-0.1)


def test_fewer_than_no_passes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"passes is -1; give .* 0 or more"):
        calibrate(_segmenter(), [], passes=-1)


def test_the_command_stores_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "MIN_DICE", 0.0)
    use_tiny_model(monkeypatch)
    settings = run_config(write_data(tmp_path)).model_dump(mode="json")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    state = trainable_state(loud_model().model)
    before = tiny_config(score_map=((0.0, 0.0), (1.0, 0.5)), found_threshold=0.9)
    folder = save_adapter(tmp_path / "adapter", before, state)
    out = tmp_path / "finished"
    done = run(
        "calibrate", folder, tmp_path / "run.yaml", "-o", out, "--passes", "0", "--kinds", "9"
    )
    assert done.exit_code == 0, done.output
    after = read_adapter_config(out)
    assert (after.score_map, after.found_threshold, after.refine) == ((), 0.0, 0)
    assert after.training["calibration"]["n_present"] == 3
    assert after.training["calibration"]["empty_annotated"] is None
    assert after.tensors_sha256 not in (None, read_adapter_config(folder).tensors_sha256)
    assert "of what the data say is absent: nothing was asked" in done.output
    # Images of no modality in the vocabulary teach nothing of kinds.
    assert "kinds of image told apart: none; that takes two kinds, with 4" in done.output
    assert after.kinds is None
    assert "no knots" in done.output
    assert "called not there" not in done.output
    # What was there is gone, or was chosen by others: both are told.
    unseen = [word for word in after.prompts if word != "tumor"]
    assert unseen
    assert f"warning: no validation image shows {', '.join(unseen)}: passes" in done.stderr
    assert "warning: the adapter had a score map, and too few masks" in done.stderr
    monkeypatch.setattr(
        "textsam.calibrate.finish_adapter",
        lambda *a, **k: replace(finish_adapter(*a, **k), found_rate=0.2, prompts=("tumor",)),
    )
    plain = save_adapter(tmp_path / "plain", tiny_config(), state)
    few = run("calibrate", plain, tmp_path / "run.yaml", "-o", tmp_path / "few", "--passes", "0")
    assert few.exit_code == 0
    assert "warning: 80% of what is there is called not there" in few.stderr
    assert "no validation image shows" not in few.stderr
    assert "had a score map" not in few.stderr
    refused = run("calibrate", folder, tmp_path / "run.yaml", "-o", out, "--empty-modality", "2")
    assert refused.exit_code == 2
