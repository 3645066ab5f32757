"""Concepts that are looked for at a side of their own, and how it is chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cli_runs import run
from numpy.testing import assert_allclose, assert_array_equal
from runs import run_config, write_data
from test_views import CPU, mirrored, picture, vit_model, vit_segmenter
from tiny import tiny_config, write_images_and_masks

from textsam.adapters import read_adapter_config
from textsam.calibrate import Calibration, calibrate, decide
from textsam.calibrate.finish import finish_adapter
from textsam.calibrate.sides import AtSides, ChosenSides, choose_sides, fit_sides
from textsam.checkpoint import save_adapter
from textsam.data.folder import samples_from_folder
from textsam.data.sample import load_sample
from textsam.errors import ConfigError
from textsam.export import OnnxSegmenter, export_onnx
from textsam.export.record import read_record
from textsam.inference.ready import ready_segmenter
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views, sides_of
from textsam.metrics import dice
from textsam.model.tuning import trainable_state

WORDS = ["tumor", "lung", "cell nucleus"]
LUNG_AT_32 = {"lung": (32,)}


def test_each_concept_is_answered_at_its_side() -> None:
    together = vit_segmenter(sides_for={"lung": (32,), "cell nucleus": (96,)}, refine=1)
    images = [picture(), picture(50, 20, 1)]
    answers = [answer.answers for answer in together.segment_batch(images, WORDS, batch_size=2)]
    for place, (word, side_px) in enumerate(zip(WORDS, (64, 32, 96), strict=True)):
        alone = vit_segmenter(side_px=side_px, refine=1)
        for image, of_image in zip(images, answers, strict=True):
            want = alone.segment(image, word)
            assert_allclose(of_image[place].probability, want.probability, atol=1e-5)
            assert of_image[place].score == pytest.approx(want.score, abs=1e-5)
            assert of_image[place].extra.get("sides_px") == (None if side_px == 64 else [side_px])
            # Another side is another answer, else nothing was compared.
            other = vit_segmenter(side_px=48, refine=1).segment(image, word)
            assert np.abs(other.probability - want.probability).max() > 0.01


def test_a_synonym_is_looked_for_where_the_concept_is() -> None:
    segmenter = vit_segmenter(sides_for=LUNG_AT_32)
    one, other = segmenter.segment(picture(), ["lungs", "lung"])
    assert_array_equal(one.probability, other.probability)
    assert one.extra["sides_px"] == [32]


def test_a_concept_with_several_sides_has_the_mean_of_them() -> None:
    both = vit_segmenter(sides_for={"lung": (64, 32)}, refine=1).segment(picture(), "lung")
    alone = [
        vit_segmenter(side_px=side_px, refine=1).segment(picture(), "lung").probability
        for side_px in (64, 32)
    ]
    assert_allclose(both.probability, np.mean(alone, axis=0), atol=1e-5)
    assert np.ptp(alone, axis=0).max() > 0.01
    assert both.extra["sides_px"] == [64, 32]


def test_points_and_boxes_are_the_images_own_at_every_side() -> None:
    box = (4, 6, 30, 25)
    answer = vit_segmenter(sides_for=LUNG_AT_32).segment(picture(), "lung", boxes=box)
    want = vit_segmenter(side_px=32).segment(picture(), "lung", boxes=box)
    assert_allclose(answer.probability, want.probability, atol=1e-5)


def test_views_join_the_side_of_the_concept() -> None:
    pixels = picture()
    answer = vit_segmenter("96,mirrored", sides_for=LUNG_AT_32).segment(pixels, "lung")
    alone = []
    for side_px in (32, 96):
        single = vit_segmenter(side_px=side_px)
        alone.append(single.segment(pixels, "lung").probability)
        alone.append(single.segment(mirrored(pixels), "lung").probability[:, ::-1])
    assert_allclose(answer.probability, np.mean(alone, axis=0), atol=1e-5)


def test_a_view_at_the_side_of_the_concept_counts_once() -> None:
    both = [vit_segmenter(views, sides_for=LUNG_AT_32) for views in ("", "32")]
    one, other = (own.segment(picture(), "lung").probability for own in both)
    assert_array_equal(one, other)
    assert [len(own.further) for own in both] == [1, 1], "each is an image encoder in memory"


def test_a_side_without_a_model_is_refused() -> None:
    config = tiny_config(sides_for={"lung": (64, 32), "tumor": (48,)})
    with pytest.raises(ConfigError, match=r"'tiny': .* at 32, 48 px .* there are models at 64 px"):
        Segmenter(vit_model(), config, device=CPU)
    with pytest.raises(ConfigError, match=r"side_px is 66; .* multiples of 4"):
        vit_segmenter(sides_for={"lung": (66,)})


def test_the_adapters_own_side_may_be_named() -> None:
    one, other = vit_segmenter(sides_for={"lung": (64,)}), vit_segmenter()
    assert one.further == ()
    assert_array_equal(
        one.segment(picture(), "lung").probability, other.segment(picture(), "lung").probability
    )


def rows(concept: str, *pairs: tuple[float, float, float]) -> list[AtSides]:
    ways = ((64,), (32,), (64, 96))
    own = [dict(zip(ways, pair, strict=True)) for pair in pairs]
    return [AtSides(concept, dice, dice) for dice in own]


def test_the_choice_by_hand() -> None:
    seen = [
        # Both together: +0.20 and +0.24, a mean of 0.22 with a standard error of 0.02.
        *rows("vessel", (0.5, 0.4, 0.7), (0.4, 0.4, 0.64)),
        # Both together: +0.30 and -0.10 are +0.10 on average, with a standard error of 0.20.
        *rows("tumor", (0.5, 0.5, 0.8), (0.5, 0.5, 0.4)),
        # One image decides nothing.
        *rows("lung", (0.1, 0.9, 0.9)),
        # Together better by less than 0.01 than 32 px alone, which takes less time.
        *rows("nerve", (0.5, 0.6, 0.605), (0.4, 0.5, 0.505), (0.3, 0.4, 0.405)),
        # Better without doubt, and by less than 0.01.
        *rows("nucleus", (0.5, 0.505, 0.4), (0.6, 0.605, 0.4)),
    ]
    # Better by far in all looks together, and a little poorer in whole images.
    seen += [
        replace(one, whole={**one.dice, (64, 96): one.dice[64,] - 0.001})
        for one in rows("artery", (0.5, 0.4, 0.7), (0.4, 0.4, 0.64))
    ]
    chosen = choose_sides(seen, 64)
    assert chosen.sides_for == {"nerve": (32,), "vessel": (64, 96)}
    assert chosen.dice_by_sides["artery"]["64+96"] == 0.67  # of all looks
    assert chosen.dice_by_sides["vessel"] == {"64": 0.45, "32": 0.4, "64+96": 0.67}
    assert set(chosen.dice_by_sides) == {"artery", "vessel", "tumor", "lung", "nerve", "nucleus"}


def test_the_same_gain_is_surer_of_more_images() -> None:
    def chosen(*gains: float) -> dict[str, tuple[int, ...]]:
        alike = {(64,): 0.5, (32,): 0.5}  # nothing is lost on whole images
        seen = [AtSides("nerve", {(64,): 0.4, (32,): 0.4 + gain}, alike) for gain in gains]
        return choose_sides(seen, 64).sides_for

    # 0.05 on average, with standard errors of 0.030, 0.017 and 0.013.
    assert chosen(0.02, 0.08) == {}
    assert chosen(0.02, 0.05, 0.08) == {"nerve": (32,)}
    assert chosen(0.02, 0.04, 0.06, 0.08) == {"nerve": (32,)}


def test_of_sides_alike_in_dice_those_of_the_least_time_are_chosen() -> None:
    # One look at 96 px is less work than one at 64 px and one at 96 px.
    dices = {(64,): 0.4, (64, 96): 0.505, (96,): 0.5}
    assert choose_sides([AtSides("nerve", dices, dices)] * 2, 64).sides_for == {"nerve": (96,)}
    # Work grows with the area: two small squares are less than a large one.
    dices = {(64,): 0.4, (112,): 0.5, (64, 80): 0.5}
    assert choose_sides([AtSides("nerve", dices, dices)] * 2, 64).sides_for == {"nerve": (64, 80)}
    # What gains less is not taken for its time.
    dices = {(64,): 0.4, (32,): 0.485, (96,): 0.5}
    assert choose_sides([AtSides("nerve", dices, dices)] * 2, 64).sides_for == {"nerve": (96,)}


def test_sides_are_compared_on_what_is_there_as_it_is_and_closer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images_and_masks(tmp_path, count=3)
    samples = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    parts = [(slice(0, 40), slice(8, 48)), None, (slice(8, 48), slice(0, 40))]
    left = list(parts)
    monkeypatch.setattr("textsam.calibrate.looks.close_crop", lambda *_: left.pop(0))
    # Threshold, views and sides of before play no part.
    segmenter = vit_segmenter("32,mirrored", found_threshold=1.0, sides_for={"tumor": (96,)})
    chosen = fit_sides(segmenter, samples, (32, 96), progress=False)
    assert list(chosen.dice_by_sides) == ["tumor"]
    for name in ("64", "32", "96", "64+32", "64+96"):
        several = [vit_segmenter(side_px=int(side), refine=0) for side in name.split("+")]
        of_images = []
        for sample, part in zip(samples, parts, strict=True):
            image, masks = load_sample(sample)
            overlaps = []
            for where in (slice(None), part)[: 1 if part is None else 2]:
                pixels = np.ascontiguousarray(image[where])
                maps = [one.segment(pixels, "tumor").probability for one in several]
                overlaps.append(dice(np.mean(maps, axis=0) > 0.5, masks["tumor"][where]))
            of_images.append(np.mean(overlaps))
        # A pixel at the threshold may fall on either side.
        assert chosen.dice_by_sides["tumor"][name] == pytest.approx(np.mean(of_images), abs=2e-3)


def test_a_data_set_s_own_word_is_the_concept(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, count=2)
    samples = samples_from_folder(tmp_path, "tumour", modality="breast ultrasound")
    assert list(fit_sides(vit_segmenter(), samples, (64,), progress=False).dice_by_sides) == [
        "tumor"
    ]


def test_the_command_chooses_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "MIN_DICE", 0.0)
    seen: list[AtSides] = []

    def choose(own: list[AtSides], own_px: int) -> ChosenSides:
        seen.extend(own)
        return replace(choose_sides(own, own_px), sides_for={"tumor": (64, 32)})

    monkeypatch.setattr("textsam.calibrate.sides.choose_sides", choose)
    given: list[dict[str, Any]] = []

    def load(*_: object, **options: Any) -> Segmenter:
        given.append(options)
        return ready_segmenter(
            vit_model(), tiny_config(), device=CPU, precision=torch.float32, views=options["views"]
        )

    monkeypatch.setattr("textsam.api.load_model", load)
    settings = run_config(write_data(tmp_path)).model_dump(mode="json")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    folder = save_adapter(tmp_path / "adapter", tiny_config(), trainable_state(vit_model().model))
    out = tmp_path / "finished"
    arguments = ("calibrate", folder, tmp_path / "run.yaml", "-o", out, "--passes", "0")
    done = run(*arguments, "--sides", "32")
    assert done.exit_code == 0, done.output
    assert given[-1]["views"] == Views((32,))
    after = read_adapter_config(out)
    assert after.sides_for == {"tumor": (64, 32)}
    assert set(after.training["dice_by_sides"]["tumor"]) == {"64", "32", "64+32"}
    assert "tumor at 64 and 32 px" in done.output
    assert [set(one.dice) for one in seen] == [{(64,), (32,), (64, 32)}] * 3
    for wrong in ("32,32", "small", "32;96"):
        refused = run(*arguments, "--sides", wrong)
        assert refused.exit_code == 2
        assert "give sides of the model's square in pixels" in " ".join(refused.output.split())


def test_sides_of_what_is_no_longer_offered_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "MIN_DICE", 0.0)

    def without_lung(*given: Any, **options: Any) -> Calibration:
        return replace(calibrate(*given, **options), prompts=("tumor",))

    monkeypatch.setattr("textsam.calibrate.finish.calibrate", without_lung)
    write_images_and_masks(tmp_path / "data", count=1)
    samples = samples_from_folder(tmp_path / "data", "tumor", modality="breast ultrasound")
    sides: dict[str, tuple[int, ...]] = {"tumor": (32,), "lung": (32, 96)}
    config = tiny_config(sides_for=sides)
    folder = save_adapter(tmp_path / "adapter", config, trainable_state(vit_model().model))
    segmenter = vit_segmenter("32,96")
    finish_adapter(segmenter, folder, samples, tmp_path / "out", passes=0, progress=False)
    after = read_adapter_config(tmp_path / "out")
    assert (after.prompts, after.sides_for) == (("tumor",), {"tumor": (32,)})


def test_what_validation_does_not_show_keeps_its_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "MIN_DICE", 0.0)
    write_images_and_masks(tmp_path / "data", count=1)
    samples = samples_from_folder(tmp_path / "data", "tumor", modality="breast ultrasound")
    config = tiny_config(sides_for={"tumor": (96,), "lung": (32, 96)})
    folder = save_adapter(tmp_path / "adapter", config, trainable_state(vit_model().model))
    segmenter = vit_segmenter("32,96", sides_for=config.sides_for)
    finish_adapter(
        segmenter, folder, samples, tmp_path / "out", passes=0, sides_px=(32,), progress=False
    )
    # One image decides nothing of "tumor", but that it was looked at; "lung" was not.
    assert read_adapter_config(tmp_path / "out").sides_for == {"lung": (32, 96)}


def test_sides_as_written() -> None:
    assert sides_of(None) == sides_of(" ") == ()
    assert sides_of(" 168, 448") == (168, 448)
    for wrong in ("168,168", "168,mirrored", "-4", "1.5", ","):
        with pytest.raises(ConfigError, match="each once and parted by commas"):
            sides_of(wrong)


def test_an_export_has_graphs_for_every_side(tmp_path: Path) -> None:
    original = vit_segmenter(sides_for={"lung": (64, 32), "tumor": (32,)}, refine=1)
    folder = export_onnx(
        ready_segmenter(
            vit_model(), original.config, device=CPU, precision=torch.float32, plain=True
        ),
        tmp_path / "export",
    )
    graphs = {path.name for path in folder.glob("*.onnx")}
    assert graphs == {"encoder.onnx", "decoder.onnx", "encoder-32.onnx", "decoder-32.onnx"}
    assert read_record(folder).sides_px == (64, 32)
    assert read_record(folder).sides_for == original.config.sides_for
    exported = OnnxSegmenter(folder, threads=1)
    for _ in range(2):  # the second time from the embeddings kept
        for found, want in zip(
            exported.segment(picture(), WORDS), original.segment(picture(), WORDS), strict=True
        ):
            assert_allclose(found.probability, want.probability, atol=1e-4)
            assert found.extra.get("sides_px") == want.extra.get("sides_px")
    assert_allclose(
        exported.segment(picture(seed=1), "lung").probability,
        original.segment(picture(seed=1), "lung").probability,
        atol=1e-4,
    )
