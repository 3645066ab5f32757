"""The kinds of refinement prompts: what each takes from a mask, and that chance is repeatable."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_refine import EMBEDDING, FRAME, TOKENS, Script, blob
from tiny import loud_model, tiny_segmenter, write_images_and_masks

from textsam.data.folder import samples_from_folder
from textsam.data.sample import load_sample
from textsam.errors import DataError, PromptError
from textsam.evaluate import evaluate
from textsam.inference.refine import decode_passes, geometry_of_mask
from textsam.inference.refinement import RefineWith, generator_for, points_and_box, refine_with_of

MASK = np.zeros((20, 30), dtype=bool)
MASK[4:9, 10:22] = True
MASK[4:6, 10:14] = False  # no rectangle: its centroid is not its middle
NUMBERS = np.arange(3 * 40 * 50, dtype=np.uint32)
IMAGE = (NUMBERS * 7919 % 251).astype(np.uint8).reshape(40, 50, 3)


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("point", 1, False),
        ("box", 0, True),
        ("box+point", 1, True),
        ("box+centroid", 1, True),
        ("box+5points", 5, True),
    ],
)
def test_each_kind_gives_what_its_name_says(kind: str, points: int, box: bool) -> None:
    found = points_and_box(MASK, RefineWith(kind), generator_for(0, "image", "tumor", 1))
    assert found is not None
    coordinates, corners = found
    assert coordinates.shape == (points, 2)
    assert (corners is None) == (not box)
    if corners is not None:
        assert corners.tolist() == [10, 4, 21, 8]
    if kind == "box+centroid":
        ys, xs = np.nonzero(MASK)
        np.testing.assert_allclose(coordinates, [[xs.mean(), ys.mean()]])
    else:
        assert all(MASK[int(y), int(x)] for x, y in coordinates)
        assert len({tuple(point) for point in coordinates}) == points


def test_none_gives_nothing_and_so_does_an_empty_mask() -> None:
    assert points_and_box(MASK, RefineWith.NONE) is None
    for kind in RefineWith:
        assert points_and_box(np.zeros_like(MASK), kind, np.random.default_rng(0)) is None


def test_random_kinds_need_a_generator() -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        points_and_box(MASK, RefineWith.POINT)


def test_a_mask_of_two_pixels_still_gives_five_points() -> None:
    small = np.zeros((5, 5), dtype=bool)
    small[1, 1:3] = True
    found = points_and_box(small, RefineWith.BOX_5POINTS, np.random.default_rng(0))
    assert found is not None
    assert found[0].shape == (5, 2)
    assert {tuple(point) for point in found[0]} <= {(1.0, 1.0), (2.0, 1.0)}


def test_no_pixel_is_given_twice_where_there_are_enough() -> None:
    five = np.zeros((5, 5), dtype=bool)
    five[1, :] = True
    for seed in range(5):
        found = points_and_box(five, RefineWith.BOX_5POINTS, np.random.default_rng(seed))
        assert found is not None
        assert sorted(found[0].tolist()) == [[x, 1] for x in range(5)]


def test_points_are_drawn_evenly_from_the_mask() -> None:
    drawn = np.concatenate(
        [
            points_and_box(MASK, RefineWith.POINT, generator_for(0, str(image), "tumor", 1))[0]  # type: ignore[index]
            for image in range(4000)
        ]
    )
    counts = np.zeros(MASK.shape)
    np.add.at(counts, (drawn[:, 1].astype(int), drawn[:, 0].astype(int)), 1)
    assert not counts[~MASK].any()
    expected = 4000 / MASK.sum()
    # Chi-square with 51 degrees of freedom: 99.99 % lie below 96.
    assert ((counts[MASK] - expected) ** 2 / expected).sum() < 96


@settings(deadline=None)
@given(st.integers(0, 2**40), st.text(max_size=20), st.text(max_size=20), st.integers(1, 9))
def test_generators_depend_on_each_of_their_four_facts(
    seed: int, image: str, prompt: str, number: int
) -> None:
    def first(*facts: object) -> float:
        return float(generator_for(*facts).random())  # type: ignore[arg-type]

    own = first(seed, image, prompt, number)
    assert own == first(seed, image, prompt, number)
    others = {
        first(seed + 1, image, prompt, number),
        first(seed, image + "x", prompt, number),
        first(seed, image, prompt + "x", number),
        first(seed, image, prompt, number + 1),
    }
    assert own not in others


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(PromptError, match=r"'middle'.*none, point, centroid, box, .*box\+5points"):
        refine_with_of("middle")


def test_the_prompt_encoder_gets_the_points_of_the_kind() -> None:
    script = Script(loud_model().model, [blob(16, 8, 31, 23)] * 3)
    passes = decode_passes(
        script.model,
        EMBEDDING,
        TOKENS[:1],
        FRAME,
        refine=[2],
        gives=RefineWith.BOX_5POINTS,
        draws=[(3, "image", "tumor")],
    )
    for number in (1, 2):
        wanted = geometry_of_mask(
            passes[number - 1].masks[0],
            RefineWith.BOX_5POINTS,
            generator_for(3, "image", "tumor", number),
        )
        assert wanted is not None
        coordinates, labels = script.prompts[number]["points"]
        np.testing.assert_allclose(coordinates[0], wanted.points * 0.8, rtol=1e-6)
        assert labels.tolist() == [[1] * 5]
        np.testing.assert_allclose(script.prompts[number]["boxes"], [wanted.box * 0.8], rtol=1e-6)
    first, second = (script.prompts[number]["points"][0] for number in (1, 2))
    assert not torch.equal(first, second), "a pass draws anew"


def test_a_box_alone_brings_no_point() -> None:
    script = Script(loud_model().model, [blob(16, 8, 31, 23)] * 2)
    decode_passes(script.model, EMBEDDING, TOKENS[:1], FRAME, refine=[1], gives=RefineWith.BOX)
    assert script.prompts[1]["points"] is None
    assert script.prompts[1]["boxes"] is not None


def test_random_kinds_are_refused_without_a_source() -> None:
    with pytest.raises(ValueError, match="draws="):
        decode_passes(
            loud_model().model, EMBEDDING, TOKENS[:1], FRAME, refine=[1], gives=RefineWith.POINT
        )


def test_the_default_is_box_and_centroid_bit_for_bit() -> None:
    segmenter = tiny_segmenter(refine=2)
    default = segmenter.segment(IMAGE, "tumor")
    named = segmenter.segment(IMAGE, "tumor", refine_with="box+centroid", seed=5)
    assert np.array_equal(default.probability, named.probability)
    assert default.to_dict() == named.to_dict()
    assert "refine_with" not in default.extra


def test_none_is_the_answer_of_the_text_alone() -> None:
    segmenter = tiny_segmenter(refine=2)
    alone = segmenter.segment(IMAGE, "tumor", refine=0)
    none = segmenter.segment(IMAGE, "tumor", refine_with="none")
    assert np.array_equal(alone.probability, none.probability)
    assert none.extra["refine"] == 0
    assert none.extra["refine_with"] == "none"


def test_random_points_repeat_whatever_else_is_asked_and_touch_no_global_state() -> None:
    words = ["lung", "tumor", "cell nucleus"]
    one, two, three = (tiny_segmenter(refine=2) for _ in range(3))
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    alone = one.segment(IMAGE, "tumor", refine_with="point", seed=1)
    among = two.segment(IMAGE, words, refine_with="point", seed=1)[1]
    other = three.segment(IMAGE, "tumor", refine_with="point", seed=2)
    now = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    assert now == states
    assert alone.mask.any(), "the test needs a mask to draw from"
    assert np.array_equal(alone.probability, among.probability)
    assert not np.array_equal(alone.probability, other.probability)
    assert alone.extra["refine_with"] == "point"


def test_evaluate_hands_the_kind_on_records_it_and_refuses_to_mix(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path / "data", 2)
    samples = samples_from_folder(tmp_path / "data", "tumor")
    segmenter = tiny_segmenter(refine=1)
    out = tmp_path / "out"
    first = evaluate(segmenter, samples, out=out, refine_with="point", seed=4, progress=False)
    assert first.settings["refine_with"] == "point"
    image, _ = load_sample(samples[0])
    expected = segmenter.segment(image, "tumor", refine_with="point", seed=4).area_px
    assert f",{expected}," in (out / "cases.csv").read_text(encoding="utf-8").splitlines()[1]
    with pytest.raises(DataError, match=r"refine_with was 'point' and is 'box'"):
        evaluate(segmenter, samples, out=out, refine_with="box", seed=4, progress=False)
    with pytest.raises(PromptError, match="'boxes'"):
        evaluate(segmenter, samples, out=None, refine_with="boxes", progress=False)
