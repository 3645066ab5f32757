"""From mask to prompts and back: geometry, its frame and order, and what stays untouched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from tiny import loud_model
from torch import Tensor

from textsam.frame import box_and_centroid
from textsam.inference.refine import Geometry, Pass, decode_passes, geometry_of_mask
from textsam.inference.settle import Settle
from textsam.model.textsam import TextSAM
from textsam.preprocess import Frame

FRAME = Frame((40, 80), 64)  # every image pixel is 0.8 px of the square
EMBEDDING = torch.linspace(-3, 3, 256 * 8 * 8).sin().view(1, 256, 8, 8)


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows])


@pytest.mark.parametrize(
    ("rows", "box", "centroid"),
    [
        (("....", ".##.", ".#.."), [1, 1, 2, 2], [4 / 3, 4 / 3]),
        (("...#",), [3, 0, 3, 0], [3, 0]),
        (("#", ".", "#"), [0, 0, 0, 2], [0, 1]),
        (("#....#", "......"), [0, 0, 5, 0], [2.5, 0]),
        (("###", "###"), [0, 0, 2, 1], [1, 0.5]),
    ],
)
def test_box_and_centroid_by_hand(
    rows: tuple[str, ...], box: list[int], centroid: list[float]
) -> None:
    found = box_and_centroid(mask_of(*rows))
    assert found is not None
    assert found[0].tolist() == box
    np.testing.assert_allclose(found[1], centroid, rtol=1e-12)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0.01, 0.9))
def test_box_and_centroid_are_scipys(height: int, width: int, seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    found = box_and_centroid(mask)
    if not mask.any():
        assert found is None
        return
    assert found is not None
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    assert found[0].tolist() == [columns.start, rows.start, columns.stop - 1, rows.stop - 1]
    y, x = ndimage.center_of_mass(mask)
    np.testing.assert_allclose(found[1], [x, y], rtol=1e-12, atol=1e-12)


def test_a_large_mask_does_not_overflow() -> None:
    found = box_and_centroid(np.ones((3000, 3000), dtype=bool))
    assert found is not None
    assert found[1].tolist() == [1499.5, 1499.5]


def test_geometry_of_a_mask_is_its_centroid_as_foreground_and_its_box() -> None:
    assert geometry_of_mask(np.zeros((5, 6), dtype=bool)) is None
    geometry = geometry_of_mask(mask_of("....", ".###", "...."))
    assert geometry is not None
    assert geometry.points.tolist() == [[2, 1]]
    assert geometry.labels.tolist() == [1]
    assert geometry.box is not None
    assert geometry.box.tolist() == [1, 1, 3, 1]


class Script:
    """A model whose decoder says what it is told and notes what it is asked."""

    def __init__(self, model: TextSAM, answers: Sequence[Tensor]) -> None:
        self.answers = list(answers)
        self.sparse: list[Tensor] = []
        self.prompts: list[dict[str, Any]] = []
        self.model = model
        model.decode = self.decode  # type: ignore[method-assign]
        model.prompt_encoder.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _: object, args: object, kwargs: dict[str, Any]) -> None:
        self.prompts.append(kwargs)

    def decode(self, embedding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        self.sparse.append(sparse.clone())
        logits = torch.cat([self.answers.pop(0) for _ in range(len(sparse))])
        return logits, torch.full((len(sparse), 1), float(len(self.sparse)))


def blob(x0: int, y0: int, x1: int, y1: int) -> Tensor:
    """(1, 1, 64, 64) logits, positive in an inclusive box of the square."""
    logits = torch.full((1, 1, 64, 64), -5.0)
    logits[..., y0 : y1 + 1, x0 : x1 + 1] = 5.0
    return logits


EMPTY = torch.full((1, 1, 64, 64), -5.0)
TOKENS = torch.linspace(-1, 1, 3 * 256).view(3, 256)


def geometry_seen(prompts: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    coordinates, labels = prompts["points"]
    return coordinates.tolist(), labels.tolist(), prompts["boxes"].tolist()


@pytest.mark.parametrize("authors_frame", [False, True])
def test_refinement_prompts_reach_the_prompt_encoder_in_the_right_frame(
    authors_frame: bool,
) -> None:
    script = Script(loud_model().model, [blob(16, 8, 31, 23), EMPTY])
    passes = decode_passes(
        script.model, EMBEDDING, TOKENS[:1], FRAME, refine=[1], authors_frame=authors_frame
    )
    # 16 … 32 of the square's columns are 20 … 40 of the image's, 8 … 24 of the rows 10 … 30.
    assert box_and_centroid(passes[0].masks[0])[0].tolist() == [20, 10, 39, 29]  # type: ignore[index]
    assert script.prompts[0]["points"] is None
    assert script.prompts[0]["boxes"] is None
    points, labels, boxes = geometry_seen(script.prompts[1])
    factor = 1.0 if authors_frame else 0.8
    np.testing.assert_allclose(points, [[[29.5 * factor, 19.5 * factor]]], rtol=1e-6)
    np.testing.assert_allclose(boxes, [[v * factor for v in (20, 10, 39, 29)]], rtol=1e-6)
    assert labels == [[1]]


def test_uneven_frames_scale_each_axis_on_its_own() -> None:
    frame = Frame((100, 300), 64)  # 21 of 64 rows
    script = Script(loud_model().model, [EMPTY])
    manual = [Geometry(np.array([[150.0, 50.0]]), np.array([0]), np.array([30.0, 20.0, 60, 100]))]
    decode_passes(script.model, EMBEDDING, TOKENS[:1], frame, refine=[0], manual=manual)
    points, labels, boxes = geometry_seen(script.prompts[0])
    np.testing.assert_allclose(points, [[[32.0, 10.5]]], rtol=1e-6)
    np.testing.assert_allclose(boxes, [[6.4, 4.2, 12.8, 21.0]], rtol=1e-6)
    assert labels == [[0]]


def embedded(model: TextSAM, x: float, y: float, kind: int) -> Tensor:
    """SAM's embedding of one point, by its formula: position code of the pixel's centre + kind."""
    encoder = model.prompt_encoder
    place = 2 * torch.tensor([x + 0.5, y + 0.5]) / 64 - 1
    angle = 2 * torch.pi * (place @ encoder.pe_layer.positional_encoding_gaussian_matrix)
    code = torch.cat([angle.sin(), angle.cos()])
    return code + encoder.point_embeddings[kind].weight[0]


def test_tokens_come_as_text_point_corner_corner() -> None:
    script = Script(loud_model().model, [blob(16, 8, 31, 23), EMPTY])
    with torch.inference_mode():
        decode_passes(script.model, EMBEDDING, TOKENS[:1], FRAME, refine=[1])
        first, second = script.sparse
        assert torch.equal(first, TOKENS[None, :1])
        model = script.model
        expected = torch.stack(
            [
                TOKENS[0],
                embedded(model, 29.5 * 0.8, 19.5 * 0.8, kind=1),
                embedded(model, 20 * 0.8, 10 * 0.8, kind=2),
                embedded(model, 39 * 0.8, 29 * 0.8, kind=3),
            ]
        )
    torch.testing.assert_close(second[0], expected, rtol=1e-4, atol=1e-4)


def test_an_empty_mask_stays_empty_and_keeps_its_first_pass() -> None:
    script = Script(
        loud_model().model, [EMPTY - 1, blob(8, 8, 15, 15), blob(8, 8, 31, 15), blob(0, 0, 3, 3)]
    )
    passes = decode_passes(script.model, EMBEDDING, TOKENS[:2], FRAME, refine=[2, 2])
    assert len(passes) == 3
    assert script.answers == [], "the empty one is not decoded again, the other one twice"
    for result in passes:
        assert torch.equal(result.logits[0], EMPTY[0] - 1)
        assert not result.masks[0].any()
        assert torch.equal(result.iou[0], passes[0].iou[0])
    assert torch.equal(passes[1].logits[1:], blob(8, 8, 31, 15))
    assert torch.equal(passes[2].logits[1:], blob(0, 0, 3, 3))
    assert [int(p.masks[1].sum()) for p in passes] == [100, 300, 25]
    assert [p.iou[:, 0].tolist() for p in passes] == [[1, 2], [1, 3], [1, 4]]
    # Refined from the pass before, not from the first: its box is the second mask's.
    assert script.prompts[-1]["boxes"][0, 2].item() == pytest.approx(39 * 0.8)


def test_a_mask_that_refinement_empties_is_the_answer() -> None:
    script = Script(loud_model().model, [blob(8, 8, 15, 15), EMPTY])
    passes = decode_passes(script.model, EMBEDDING, TOKENS[:1], FRAME, refine=[3])
    assert [bool(p.masks[0].any()) for p in passes] == [True, False, False, False]
    assert script.answers == []


def test_threshold_is_applied_to_logits() -> None:
    script = Script(loud_model().model, [blob(8, 8, 15, 15) - 1] * 2)
    for threshold, area in ((3.9, 100), (4.1, 0)):
        passes = decode_passes(
            script.model,
            EMBEDDING,
            TOKENS[:1],
            FRAME,
            refine=[0],
            threshold_logit=threshold,
        )
        assert abs(int(passes[0].masks[0].sum()) - area) <= 40 * (area > 0)


def by_real_model(
    tokens: Tensor, refine: Sequence[int | Settle], manual: list[Geometry | None] | None = None
) -> list[Pass]:
    model = loud_model().model
    with torch.inference_mode():
        return decode_passes(model, EMBEDDING, tokens, FRAME, refine=refine, manual=manual)


def test_no_refinement_is_the_text_only_pass() -> None:
    model = loud_model().model
    passes = by_real_model(TOKENS[:1], [0])
    assert len(passes) == 1
    with torch.inference_mode():
        logits, iou = model(EMBEDDING, TOKENS[:1])
    assert torch.equal(passes[0].logits, logits)
    assert torch.equal(passes[0].iou, iou)
    assert 0.02 < passes[0].masks[0].mean() < 0.98
    assert torch.equal(by_real_model(TOKENS[:1], [2])[0].logits, logits)


def same(a: Pass, i: int, b: Pass, j: int = 0) -> bool:
    return (
        torch.equal(a.logits[i], b.logits[j])
        and torch.equal(a.iou[i], b.iou[j])
        and np.array_equal(a.masks[i], b.masks[j])
    )


def test_each_prompt_is_refined_as_often_as_it_asks() -> None:
    counts = [0, 2, 1]
    passes = by_real_model(TOKENS, counts)
    alone = [by_real_model(TOKENS[i : i + 1], [count])[-1] for i, count in enumerate(counts)]
    assert len(passes) == 3
    for index, result in enumerate(alone):
        assert same(passes[-1], index, result)
    for index, count in enumerate(counts):
        for number in range(1, 3):
            unchanged = same(passes[number], index, passes[number - 1], index)
            assert unchanged == (number > count), (index, number)


def test_a_list_with_mixed_geometry_answers_in_order_as_one_by_one() -> None:
    box = Geometry(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), np.array([4.0, 4.0, 40.0, 30.0]))
    point = Geometry(np.array([[60.0, 20.0], [5.0, 5.0]]), np.array([1, 0]), None)
    manual: list[Geometry | None] = [box, None, point]
    together = by_real_model(TOKENS, [1, 0, 1], manual)
    for index in range(3):
        alone = by_real_model(TOKENS[index : index + 1], [int(index != 1)], [manual[index]])
        for number, result in enumerate(alone):
            assert same(together[number], index, result)
    plain = by_real_model(TOKENS, [0, 0, 0])[0]
    changed = [not torch.equal(plain.logits[i], together[0].logits[i]) for i in range(3)]
    assert changed == [True, False, True]


def test_several_that_ask_nothing_are_decoded_together() -> None:
    model = loud_model().model
    model.takes_text = False
    with torch.inference_mode():
        alone, both = (
            decode_passes(model, EMBEDDING, [None] * n, FRAME, refine=[0] * n, together=True)[0]
            for n in (1, 2)
        )
    torch.testing.assert_close(both.logits, alone.logits.expand(2, -1, -1, -1))


def test_the_same_twice_is_the_same_bit_for_bit() -> None:
    runs = [by_real_model(TOKENS, [2] * 3) for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        assert all(same(first, index, second, index) for index in range(3))


def test_logits_are_enlarged_for_what_is_refined_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    enlarged = []
    enlarge = Frame.logits_to_image

    def counting(frame: Frame, logits: torch.Tensor) -> torch.Tensor:
        enlarged.append(logits)
        return enlarge(frame, logits)

    monkeypatch.setattr(Frame, "logits_to_image", counting)
    passes = by_real_model(TOKENS, [0, 1, 0])
    assert [torch.equal(own[0], passes[0].logits[1]) for own in enlarged] == [True]
    final = passes[-1].masks
    assert len(final) == 3
    assert np.array_equal(final[1], passes[-1].masks[1])
    assert not np.array_equal(final[1], passes[0].masks[1])
    assert np.array_equal(final[-1], passes[0].masks[2])
    assert [mask.sum() for mask in final[:2]] == [final[0].sum(), final[1].sum()]
    assert len(enlarged) == 6  # each mask once, and again the one a pass had let go of
    enlarged.clear()
    settling = by_real_model(TOKENS[:1], [Settle(tolerance_px=0, most_passes=3, falls=None)])
    assert len(settling) == 4
    # The mask that a pass is compared with is the one the next pass is asked with.
    assert len(enlarged) == 4
    assert np.array_equal(settling[-1].masks[0], enlarge(FRAME, settling[-1].logits)[0, 0] > 0)
