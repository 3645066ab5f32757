"""The sampling of training prompts: what is drawn, how often, and what is left as it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from runs import begin, run_config, write_data
from test_self_prompt import Recorder

from textsam.ablate.identity import training_facts
from textsam.config import TrainConfig, unused_settings
from textsam.inference.refinement import RefineWith
from textsam.train.settings import GeometrySettings, SelfPromptSettings
from textsam.train.simulate import given_by_truth, simulated_geometry, weighted_choice

MASK = np.zeros((40, 50), dtype=bool)
MASK[10:20, 15:35] = True  # 20 wide, 10 high
TIGHT = np.array([15.0, 10, 34, 19])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def test_kinds_are_drawn_by_weight_and_one_alone_is_not_drawn() -> None:
    rng = np.random.default_rng(0)
    weights = {RefineWith.BOX: 3.0, RefineWith.POINT: 1.0, RefineWith.CENTROID: 0.0}
    drawn = Counter(weighted_choice(weights, rng) for _ in range(4000))
    assert set(drawn) == {RefineWith.BOX, RefineWith.POINT}
    assert drawn[RefineWith.BOX] == pytest.approx(3000, abs=120)
    before = rng.bit_generator.state
    assert weighted_choice({RefineWith.BOX: 0.2, RefineWith.POINT: 0.0}, rng) is RefineWith.BOX
    assert rng.bit_generator.state == before


def test_each_side_moves_by_the_shift_in_or_out() -> None:
    seen = set()
    for seed in range(200):
        _, box = simulated_geometry(MASK, 0.0, np.random.default_rng(seed), 0.2)
        moved = (box - TIGHT) / (20, 10, 20, 10)
        np.testing.assert_allclose(np.abs(moved), 0.2)
        seen.add(tuple(np.sign(moved)))
    assert len(seen) == 16, "each of the four sides on its own"


def test_shifts_come_as_often_as_they_say() -> None:
    settings = GeometrySettings.model_validate(
        {
            "jitter": 0.0,
            "shifts": [{"by": 0.0, "p": 0.6}, {"by": 0.1, "p": 0.2}, {"by": 0.2, "p": 0.2}],
        }
    )
    rng = np.random.default_rng(1)
    sizes: Counter[float] = Counter()
    for _ in range(3000):
        given = given_by_truth(MASK, RefineWith.BOX, settings, rng)
        assert given.box is not None
        assert given.points.shape == (0, 2)
        sizes[round(float(abs(given.box[0] - TIGHT[0]) / 20), 3)] += 1
    assert set(sizes) == {0.0, 0.1, 0.2}
    assert sizes[0.0] == pytest.approx(1800, abs=90)
    assert sizes[0.2] == pytest.approx(600, abs=75)


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [("point", 1, False), ("centroid", 1, False), ("box", 0, True), ("box+5points", 5, True)],
)
def test_each_kind_gives_what_its_name_says(kind: str, points: int, box: bool) -> None:
    given = given_by_truth(MASK, RefineWith(kind), GeometrySettings(), np.random.default_rng(2))
    assert given.points.shape == (points, 2)
    assert (given.box is not None) == box
    if kind != "centroid":
        assert all(MASK[int(y), int(x)] for x, y in given.points)


def sampled(root: Path, **geometry: Any) -> tuple[Any, Recorder]:
    run = begin(
        run_config(
            root,
            geometry={"probability": 1.0, **geometry},
            prompts={"negatives": 1, "distractor_p": 1.0},
        )
    )
    return run, Recorder(run)


def test_text_can_be_left_out_where_geometry_is(root: Path) -> None:
    run, _ = sampled(root, kinds={"box": 1.0}, text_p=0.5)
    tokens_seen: list[int] = []
    prompt_tokens = run.built.model.prompt_tokens

    def noted(text: Any, *args: Any, **kwargs: Any) -> Any:
        sparse, dense = prompt_tokens(text, *args, **kwargs)
        tokens_seen.append(sparse.shape[1])
        return sparse, dense

    run.built.model.prompt_tokens = noted
    for epoch in range(30):
        key = (epoch, 0, 0)
        run.forward.losses([key], [run.train_set[key]])
    boxes, absent = tokens_seen[::2], tokens_seen[1::2]
    assert set(absent) == {1}, "what is absent has its word alone"
    assert set(boxes) == {2, 3}
    assert 8 <= boxes.count(2) <= 22


def test_earlier_output_gives_geometry_and_none_where_it_is_empty(root: Path) -> None:
    run, _ = sampled(root, kinds={"box": 1.0}, earlier_p=1.0)
    item = run.train_set[(0, 0, 0)]
    logits = torch.full((1, 1, 16, 16), -4.0)
    logits[..., 2:7, 2:9] = 4.0
    for first, expected in ((logits, [8, 8, 35, 27]), (-logits.abs(), None)):
        recorder = Recorder(run, [first, torch.zeros(2, 1, 16, 16)])
        run.forward.decode(item, torch.zeros(1), torch.zeros(2, 256), np.random.default_rng(0))
        assert recorder.asked[0] == [None], "the first pass is asked by its word"
        again, absent = recorder.asked[1]
        assert absent is None
        assert (None if again is None else again.box.tolist()) == expected  # type: ignore[union-attr]


def test_without_a_word_the_earlier_output_is_that_to_a_box_of_the_truth(root: Path) -> None:
    run = begin(
        run_config(
            root,
            text=False,
            geometry={"probability": 1.0, "kinds": {"mask": 1.0}, "jitter": 0.0},
            prompts={"negatives": 0},
        )
    )
    logits = torch.full((1, 1, 16, 16), -4.0)
    logits[..., 2:7, 2:9] = 4.0
    recorder = Recorder(run, [logits, logits])
    key = (0, 0, 0)
    run.forward.losses([key], [run.train_set[key]])
    (given,) = recorder.asked[0]
    assert given is not None
    mask = run.train_set[key].targets[0].numpy().astype(bool)
    _, tight = simulated_geometry(mask, 0.0, np.random.default_rng(0))
    assert given.box is not None
    np.testing.assert_array_equal(given.box, tight)
    (again,) = recorder.asked[1]
    assert again is not None
    assert again.box is None
    assert again.mask is not None
    assert torch.equal(again.mask, logits[0])


def test_boxes_of_the_truth_stay_inside_the_image(root: Path) -> None:
    shifts = [{"by": 0.45, "p": 1.0}]
    run, recorder = sampled(root, kinds={"box": 1.0}, shifts=shifts, jitter=0.4)
    item = run.train_set[(0, 0, 0)]
    height, width = 40, 56  # of 64: below and beside it is padding
    targets = torch.zeros_like(item.targets)
    targets[0, 20:38, 30:54] = 1
    wide = replace(item, size_px=(height, width), targets=targets)
    tokens = torch.zeros(len(item.prompts), 256)
    answers = torch.zeros(len(item.prompts), 1, 16, 16)
    edges = []
    for seed in range(40):
        recorder.answers = [answers]
        run.forward.decode(wide, torch.zeros(1), tokens, np.random.default_rng(seed))
        given = recorder.asked[-1][0]
        assert given is not None
        assert given.box is not None
        edges.append(given.box[2:])
    assert np.max(edges, axis=0).tolist() == [width - 1, height - 1]


@pytest.mark.parametrize(
    ("section", "settings", "words"),
    [
        (GeometrySettings, {"kinds": {"none": 1}}, "probability"),
        (GeometrySettings, {"kinds": {"box": 0}}, "one above 0"),
        (GeometrySettings, {"kinds": {"boxes": 1}}, "kinds"),
        (GeometrySettings, {"shifts": [{"by": 0.1, "p": 0.5}]}, "add up to 1"),
        (GeometrySettings, {"shifts": [{"by": 0.6, "p": 1}]}, "less than 0.5"),
        (SelfPromptSettings, {"gives": "none"}, "passes to 1"),
        (SelfPromptSettings, {"passes": 2, "weights": [1]}, "one for each"),
        (SelfPromptSettings, {"distillation": {"weight": 1}}, "2 at least"),
    ],
)
def test_policies_that_make_no_sense_are_refused(
    section: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        section.model_validate(settings)


def test_absent_things_need_words(root: Path) -> None:
    with pytest.raises(ValidationError, match=r"set prompts\.negatives to 0"):
        run_config(root, text=False)


def test_a_run_is_recognised_as_before_until_it_uses_what_came_later(root: Path) -> None:
    plain = run_config(root)
    left_out = unused_settings(plain)
    assert left_out["geometry"] == {"kinds", "shifts", "text_p", "earlier_p", "in_validation"}
    assert left_out["augment"] >= {"extra", "no_up", "close_crop_p", "heal_p", "heal"}
    facts = training_facts(plain, None, {}, {})
    assert facts["geometry"] == {"probability": 0.0, "jitter": 0.1}
    assert not {"text", "tokens", "self_prompt", "refine_with"} & set(facts)
    used = run_config(root, geometry={"text_p": 0.5}, tokens={"count": 2})
    facts = training_facts(used, None, {}, {})
    assert facts["geometry"] == {"probability": 0.0, "jitter": 0.1, "text_p": 0.5}
    assert facts["tokens"] == {"count": 2, "width": 128}
    assert isinstance(used, TrainConfig)
