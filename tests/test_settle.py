"""Refining until the mask settles: when it ends, with which mask, and that a guard holds it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_refine import EMBEDDING, EMPTY, TOKENS, Script, blob
from tiny import loud_model, tiny_segmenter
from torch import Tensor

from textsam.errors import PromptError
from textsam.inference.refine import Geometry, Pass, decode_passes
from textsam.inference.refinement import RefineWith
from textsam.inference.settle import Settle, Settling, settle_of
from textsam.preprocess import Frame

SQUARE = Frame((64, 64), 64)  # an image pixel is a pixel of the square, so that areas are exact
IMAGE = (np.arange(3 * 40 * 50) * 7919 % 251).astype(np.uint8).reshape(40, 50, 3)


def of_area(*areas: int) -> list[NDArray[np.bool_]]:
    """Masks of so many pixels, each inside of every larger one."""
    return [(np.arange(400) < area).reshape(20, 20) for area in areas]


def ending(rule: Settle, *areas: int) -> tuple[int, str | None, list[bool]]:
    """Passes, ending, and which masks counted."""
    masks = of_area(*areas)
    own = Settling(rule, masks[0])
    taken = []
    current = masks[0]
    for mask in masks[1:]:
        assert own.ending is None
        taken.append(own.take(current, mask))
        current = mask if taken[-1] else current
    return own.passes, own.ending, taken


@pytest.mark.parametrize("tolerance", [0, 2, 5])
def test_it_ends_exactly_where_the_change_is_the_tolerance(tolerance: int) -> None:
    rule = Settle(tolerance_px=tolerance)
    assert ending(rule, 100, 100 + tolerance) == (1, "settled", [True])
    assert ending(rule, 100, 101 + tolerance) == (1, None, [True])


def test_change_is_pixels_that_differ_and_not_a_difference_of_areas() -> None:
    one, other = np.zeros((2, 8), dtype=bool), np.zeros((2, 8), dtype=bool)
    one[0, :4] = other[0, 1:5] = True  # moved by a pixel: the same area, two pixels differ
    for tolerance, expected in ((1, None), (2, "settled")):
        own = Settling(Settle(tolerance_px=tolerance), one)
        own.take(one, other)
        assert own.ending == expected


def test_the_cap_ends_it_with_the_mask_of_that_pass() -> None:
    assert ending(Settle(most_passes=3), 100, 120, 100, 120) == (3, "cap", [True] * 3)
    assert ending(Settle(), *[100, 120] * 5, 100) == (10, "cap", [True] * 10)


def test_without_the_guard_a_mask_shrinks_to_nothing() -> None:
    bare = Settle(falls=None)
    assert ending(bare, 90, 60, 30, 3, 0) == (4, "empty", [True] * 4)


def test_the_guard_allows_one_fall_and_keeps_the_mask_before_the_second() -> None:
    assert ending(Settle(), 90, 60, 30) == (2, "shrinking", [True, False])
    # A fall, a rise and a fall are no run; small losses are none either.
    assert ending(Settle(), 90, 60, 70, 50, 52) == (4, "settled", [True] * 4)
    assert ending(Settle(falls=1), 90, 60) == (1, "shrinking", [False])
    assert ending(Settle(falls=3), 90, 60, 40, 20) == (3, "shrinking", [True, True, False])


def test_a_mask_that_moves_and_loses_the_tolerance_has_not_fallen() -> None:
    before, now = np.zeros((2, 10), dtype=bool)
    before[:6] = now[6:] = True  # 6 px, then 4 px elsewhere
    for tolerance, expected in ((2, None), (1, "shrinking")):
        own = Settling(Settle(tolerance_px=tolerance, falls=1), before)
        own.take(before, now)
        assert own.ending == expected


def test_the_guard_never_takes_a_pass_that_leaves_nothing() -> None:
    assert ending(Settle(), 90, 0) == (1, "shrinking", [False])
    assert ending(Settle(), 2, 0) == (1, "shrinking", [False]), "though only 2 px change"
    assert ending(Settle(falls=None), 2, 0) == (1, "settled", [True]), "the paper's loop"
    assert Settling(Settle(), np.zeros((3, 3), dtype=bool)).ending == "empty"


def squares(*sides: int) -> list[Tensor]:
    return [blob(10, 10, 9 + side, 9 + side) for side in sides]


def passes_of(
    answers: Sequence[Tensor], rule: Settle | int, *, word: bool = True, box: bool = False
) -> tuple[Script, list[Pass]]:
    script = Script(loud_model().model, answers)
    given = Geometry(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), np.array([8.0, 8, 40, 40]))
    passes = decode_passes(
        script.model,
        EMBEDDING,
        TOKENS[:1] if word else [None],
        SQUARE,
        refine=[rule],
        manual=[given if box else None],
        gives=RefineWith.BOX,
    )
    return script, passes


@pytest.mark.parametrize(("word", "box"), [(True, False), (False, True), (True, True)])
def test_each_pass_is_asked_with_the_box_of_the_mask_before(word: bool, box: bool) -> None:
    answers = squares(20, 16, 18, 18, 5)
    script, passes = passes_of(answers, Settle(), word=word, box=box)
    assert [int(p.masks[0].sum()) for p in passes] == [400, 256, 324, 324]
    assert passes[-1].settled == {0: (3, "settled")}
    assert len(script.answers) == 1, "the fifth answer is never asked for"
    boxes = [prompt["boxes"] for prompt in script.prompts]
    first = [[8, 8, 40, 40]] if box else None
    assert (None if boxes[0] is None else boxes[0].tolist()) == first
    assert [b.tolist() for b in boxes[1:]] == [
        [[10, 10, 9 + side, 9 + side]] for side in (20, 16, 18)
    ]
    corners = 2 + int(word)
    assert [s.shape[1] for s in script.sparse[1:]] == [corners] * 3


def test_of_all_passes_the_last_alone_keeps_its_masks() -> None:
    _, passes = passes_of(squares(20, 16, 18, 18), Settle())
    assert [len(p.masks._made) for p in passes] == [0, 0, 0, 1]


def test_a_runaway_decoder_is_held_by_the_guard_and_only_by_it() -> None:
    shrinking = squares(16, 14, 12, 10, 8, 6, 4, 2)
    _, bare = passes_of(shrinking, Settle(falls=None, most_passes=7))
    assert int(bare[-1].masks[0].sum()) == 4
    assert bare[-1].settled == {0: (7, "cap")}
    script, held = passes_of(shrinking, Settle(most_passes=7))
    assert [int(p.masks[0].sum()) for p in held] == [256, 196, 196]
    assert held[-1].settled == {0: (2, "shrinking")}
    assert len(script.answers) == 5
    # Logits and predicted IoU are those of the mask that is kept.
    assert torch.equal(held[-1].logits, shrinking[1])
    assert held[-1].iou.tolist() == [[2.0]]


def test_nothing_to_begin_with_is_asked_once() -> None:
    _, passes = passes_of([EMPTY], Settle())
    assert len(passes) == 1
    assert passes[0].settled == {0: (0, "empty")}


def test_counts_and_rules_stand_side_by_side() -> None:
    # Three prompts, answered in turn: a number of passes, a rule, and neither.
    first = [blob(0, 0, 9, 9), blob(20, 20, 39, 39), blob(0, 0, 3, 3)]
    second = [blob(0, 0, 7, 7), blob(20, 20, 35, 35)]
    third = [blob(20, 20, 35, 35)]
    script = Script(loud_model().model, [*first, *second, *third])
    passes = decode_passes(
        script.model, EMBEDDING, TOKENS, SQUARE, refine=[1, Settle(), 0], gives=RefineWith.BOX
    )
    areas = [[int(mask.sum()) for mask in p.masks] for p in passes]
    assert areas == [[100, 400, 16], [64, 256, 16], [64, 256, 16]]
    assert script.answers == []
    assert passes[-1].settled == {1: (2, "settled")}


def test_a_segmenter_settles_and_says_how_it_ended() -> None:
    segmenter = tiny_segmenter()
    rule = Settle(tolerance_px=0, most_passes=3, falls=None)
    found = segmenter.segment(IMAGE, "tumor", refine=rule, refine_with="box")
    passes = found.extra["refine"]
    assert isinstance(passes, int)
    assert found.extra["settle"] == {"tolerance_px": 0, "most_passes": 3, "falls": None}
    assert found.extra["ended"] in ("settled", "cap", "empty")
    same = segmenter.segment(IMAGE, "tumor", refine=passes, refine_with="box")
    assert np.array_equal(found.mask, same.mask)
    assert np.array_equal(found.probability, same.probability)
    shown = segmenter.segment(IMAGE, None, boxes=(5, 5, 30, 30), refine="settle")
    assert shown.extra["settle"] == Settle().model_dump()


def test_wrong_rules_are_refused_by_name() -> None:
    assert settle_of("settle") == Settle()
    assert settle_of({"falls": None}) == Settle(falls=None)
    assert settle_of(3) is None
    wrong = {"tau": 2, "tolerance_px": -1, "most_passes": 0, "falls": 0}
    for field, value in wrong.items():
        with pytest.raises(PromptError, match=f"refine: {field}"):
            settle_of({field: value})
    with pytest.raises(PromptError, match="or 'settle'"):
        tiny_segmenter().segment(IMAGE, "tumor", refine="sette")
