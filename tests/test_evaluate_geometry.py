"""Evaluation with points and boxes of the truth: what is given, drawn by seed and case alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import NOTHING, SHAPE, Fake, Mask, Store, rows, square
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_segmenter

from textsam.data.sample import Sample
from textsam.errors import ConfigError, DataError
from textsam.evaluate import Protocol, evaluate
from textsam.evaluate.geometry import Draws, foreground_point, loose_box, shifted_box

WIDE = (200, 300)
FIRST_BYTES = "4899454e770d63c4"  # printf "0\nbus\ncase0\ntumor\npoint" | sha256sum


def rectangle(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros(WIDE, dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def draws(number: int = 0, seed: int = 0) -> Draws:
    return Draws(seed, "bus", f"case{number}", "tumor")


def test_draws_are_the_same_everywhere() -> None:
    found = draws()("point")
    assert found.shape == (4,)
    assert found[0] == pytest.approx(int(FIRST_BYTES, 16) / 2**64, abs=1e-15)


def test_draws_are_uniform_and_of_one_case() -> None:
    many = np.array([draws(n)("point") for n in range(2000)])
    assert many.min() >= 0
    assert many.max() < 1
    np.testing.assert_allclose(many.mean(0), 0.5, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(many.T) - np.eye(4), 0, atol=0.08)
    others = [
        Draws(1, "bus", "case0", "tumor"),
        Draws(0, "other", "case0", "tumor"),
        Draws(0, "bus", "case1", "tumor"),
        Draws(0, "bus", "case0", "polyp"),
    ]
    first = draws()("point").tolist()
    assert all(other("point").tolist() != first for other in others)
    assert draws()("loose box").tolist() != first
    assert draws()("point").tolist() == first


def test_a_point_is_any_pixel_of_the_mask_alike() -> None:
    mask = np.zeros((6, 7), dtype=np.bool_)
    mask[1, 2] = mask[4, 0] = mask[5, 6] = True
    hits = [foreground_point(mask, draws(n)) for n in range(600)]
    assert set(hits) == {(2.0, 1.0), (0.0, 4.0), (6.0, 5.0)}
    assert all(150 < hits.count(point) < 250 for point in set(hits))


def test_a_loose_box_is_10_to_15_px_too_large_on_each_side() -> None:
    mask = rectangle(60, 100, 30, 50)
    boxes = np.array([loose_box(mask, draws(n)) for n in range(500)])
    outwards = (boxes - (100, 60, 149, 89)) * (-1, -1, 1, 1)
    assert outwards.min() >= 10
    assert outwards.max() < 15
    np.testing.assert_allclose(outwards.mean(0), 12.5, atol=0.3)
    assert len(np.unique(outwards[0])) == 4


def test_a_loose_box_ends_where_the_image_does() -> None:
    assert loose_box(np.ones((20, 30), dtype=np.bool_), draws()) == (0, 0, 29, 19)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4])
def test_a_shifted_box_moves_each_side_by_its_part(fraction: float) -> None:
    mask = rectangle(80, 100, 20, 60)
    boxes = np.array([shifted_box(mask, fraction, draws(n)) for n in range(300)])
    moved = boxes - (100, 80, 159, 99)
    expected = fraction * np.array([60, 20, 60, 20])
    np.testing.assert_allclose(np.abs(moved), np.tile(expected, (300, 1)), atol=1e-9)
    if fraction:
        assert len({tuple(np.sign(own)) for own in moved}) == 16, "every combination of ways"


def test_larger_shifts_go_the_same_way() -> None:
    mask = rectangle(80, 100, 20, 60)
    tight = np.array([100, 80, 159, 99])
    for number in range(20):
        small = np.array(shifted_box(mask, 0.1, draws(number))) - tight
        large = np.array(shifted_box(mask, 0.4, draws(number))) - tight
        np.testing.assert_allclose(large, 4 * small, atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 199),
    st.integers(0, 299),
    st.integers(1, 200),
    st.integers(1, 300),
    st.floats(0, 0.4999),
    st.integers(0, 10**6),
)
def test_every_box_is_a_box_in_the_image(
    top: int, left: int, height: int, width: int, fraction: float, number: int
) -> None:
    mask = rectangle(top, left, height, width)
    for x0, y0, x1, y1 in (shifted_box(mask, fraction, draws(number)), loose_box(mask, draws())):
        assert 0 <= x0 <= x1 <= 299
        assert 0 <= y0 <= y1 <= 199
    x, y = foreground_point(mask, draws(number))
    assert mask[int(y), int(x)]


@pytest.fixture
def make(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


@pytest.fixture
def samples(make: Store) -> list[Sample]:
    """One object, two objects, an empty mask, and a set of normal scans."""
    return [
        make(tumor=square(10, 10)),
        make(tumor=square(20, 20), polyp=square(2, 30, 6)),
        make(tumor=NOTHING),
        make("bus_normal", absent=("tumor",)),
    ]


def test_geometry_alone(samples: list[Sample], tmp_path: Path) -> None:
    fake = Fake({(0, ""): square(10, 10), (1, ""): square(20, 20)})
    summary = evaluate(fake, samples, out=tmp_path, prompts="geometry", progress=False)
    assert fake.calls == [(0, [None], 0), (1, [None, None], 0)]
    ((points, boxes), (two_points, two_boxes)) = fake.geometry
    own = Draws(0, "bus", "case0", "tumor")
    assert points == [foreground_point(square(10, 10), own)]
    assert boxes == [loose_box(square(10, 10), own)]
    assert boxes is not None
    assert boxes[0][0] == 0  # 10 px of margin, 10 to 15 px outwards
    assert two_points is not None
    assert two_boxes is not None
    assert square(2, 30, 6)[int(two_points[1][1]), int(two_points[1][0])]
    written = [(r["stem"], r["prompt"], r["kind"], r["dice"]) for r in rows(tmp_path)]
    assert written == [
        ("case0", "tumor", "present", "1.0"),
        ("case1", "tumor", "present", "1.0"),
        ("case1", "polyp", "present", "0.0"),
        ("case2", "tumor", "not_asked", ""),
    ]
    assert (summary.images, summary.unasked_images) == (2, 2)
    assert summary.absences == ()
    assert summary.settings["protocol"] == "geometry"
    assert (summary.settings["negatives"], summary.settings["refine"]) == (0, 0)


def test_text_and_geometry(samples: list[Sample]) -> None:
    alone, both = Fake({}), Fake({})
    evaluate(alone, samples, out=None, prompts="geometry", progress=False)
    evaluate(both, samples, out=None, prompts="text+geometry", refine=2, progress=False)
    assert both.calls == [(0, ["tumor"], 2), (1, ["tumor", "polyp"], 2)]
    assert both.geometry == alone.geometry


def test_text_gives_no_geometry(samples: list[Sample]) -> None:
    fake = Fake({})
    evaluate(fake, samples, out=None, progress=False)
    assert fake.geometry == [(None, None)] * 4


def test_box_shifts(samples: list[Sample], tmp_path: Path) -> None:
    class Worse(Fake):
        """Answers a shifted box by a mask that is off by as many pixels as the box."""

        def segment(self, image: Any, prompt: Sequence[Any], **options: Any) -> Any:
            answers = super().segment(image, prompt, **options)
            found = []
            for answer, box in zip(answers, options["boxes"], strict=True):
                mask = np.zeros(SHAPE, dtype=np.bool_)
                x0, y0, x1, y1 = (round(value) for value in box)
                mask[y0 : y1 + 1, x0 : x1 + 1] = True
                object.__setattr__(answer, "mask", mask)
                found.append(answer)
            return found

    fake = Worse({})
    shifts = (0.0, 0.2, 0.4)
    summary = evaluate(
        fake, samples, out=tmp_path, prompts="geometry", box_shifts=shifts, progress=False
    )
    assert fake.calls == [(0, [None] * 3, 0), (1, [None] * 6, 0)]
    points, boxes = fake.geometry[0]
    own = Draws(0, "bus", "case0", "tumor")
    assert points == [None] * 3, "the box alone"
    assert boxes == [shifted_box(square(10, 10), shift, own) for shift in shifts]
    assert boxes[0] == (10, 10, 19, 19)
    cases = rows(tmp_path)
    assert [(r["stem"], r["concept"], r["box_shift"]) for r in cases] == [
        (stem, concept, shift)
        for stem, concept in (
            ("case0", "tumor"),
            ("case1", "tumor"),
            ("case1", "polyp"),
            ("case2", "tumor"),
        )
        for shift in ("0.0", "0.2", "0.4")
    ]
    tumor = [r for r in summary.concepts if r.concept == "tumor"]
    assert [(r.box_shift, r.n) for r in tumor] == [(0.0, 2), (0.2, 2), (0.4, 2)]
    assert tumor[0].dice.mean == tumor[0].iou.mean == 1.0
    assert 1.0 > tumor[1].dice.mean > tumor[2].dice.mean
    by_hand = [float(r["dice"]) for r in cases if r["box_shift"] == "0.4" and r["dice"]]
    assert tumor[2].dice.mean == pytest.approx((by_hand[0] + by_hand[1]) / 2, abs=1e-6)
    assert "| set | concept | box shift % | n |" in summary.table()
    assert "| bus | tumor | 0 | 2 |" in summary.table()
    assert "| bus | tumor | 20 | 2 |" in summary.table()


def test_order_and_resuming_change_nothing(samples: list[Sample], tmp_path: Path) -> None:
    options: dict[str, Any] = {"prompts": "text+geometry", "progress": False, "worst": 0}
    forwards, backwards = Fake({}), Fake({})
    evaluate(forwards, samples, out=tmp_path / "a", **options)
    evaluate(backwards, samples[::-1], out=None, **options)
    assert backwards.geometry == forwards.geometry[::-1]
    killed = Fake({}, stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(killed, samples, out=tmp_path / "b", **options)
    rest = Fake({})
    evaluate(rest, samples, out=tmp_path / "b", **options)
    assert killed.geometry + rest.geometry == forwards.geometry
    timeless = [
        [{**row, "seconds": ""} for row in rows(tmp_path / folder)] for folder in ("a", "b")
    ]
    assert timeless[0] == timeless[1]
    again = Fake({})
    evaluate(again, samples, out=tmp_path / "b", **options)
    assert again.calls == [], "an image with nothing to ask is finished too"
    other = Fake({})
    evaluate(other, samples, out=None, seed=1, **options)
    assert other.geometry != forwards.geometry


def test_a_cut_file_with_shifts_is_resumed(samples: list[Sample], tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "prompts": "geometry",
        "box_shifts": (0.1, 0.3),
        "progress": False,
        "worst": 0,
    }
    evaluate(Fake({}), samples, out=tmp_path, **options)
    path = tmp_path / "cases.csv"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:5]))  # image 1 has two of its four cases
    fake = Fake({})
    evaluate(fake, samples, out=tmp_path, **options)
    assert [number for number, _, _ in fake.calls] == [1]
    assert len(path.read_text().splitlines()) == len(whole)


def test_another_protocol_is_not_resumed(samples: list[Sample], tmp_path: Path) -> None:
    evaluate(Fake({}), samples, out=tmp_path, prompts="geometry", progress=False)
    for change, message in (
        ({"prompts": "text+geometry"}, "protocol was 'geometry' and is 'text"),
        ({"prompts": "geometry", "box_shifts": (0.1,)}, r"box_shifts was \[\] and is \[0.1\]"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate(Fake({}), samples, out=tmp_path, progress=False, **change)  # type: ignore[arg-type]


def test_nothing_to_take_geometry_from(make: Store, tmp_path: Path) -> None:
    empty = [make(tumor=NOTHING), make(tumor=NOTHING, polyp=NOTHING)]
    for out in (None, tmp_path / "out"):
        with pytest.raises(DataError, match="none of the 3 masks has a pixel"):
            evaluate(Fake({}), empty, out=out, prompts="geometry", progress=False)
    # Told before anything was done.
    assert not (tmp_path / "out").exists()
    # What the adapter does not know is not asked, so that it gives nothing to point at.
    other = [make(tumor=NOTHING, scar=square(5, 5))]
    with pytest.raises(DataError, match="none of the 1 masks has a pixel"):
        evaluate(Fake({}), other, out=None, prompts="geometry", progress=False)
    shown = [*empty, make(tumor=square(5, 5))]
    summary = evaluate(Fake({}), shown, out=None, prompts="geometry", progress=False)
    assert (summary.images, summary.unasked_images) == (1, 2)
    normal = [make(absent=("tumor",))]
    with pytest.raises(DataError, match="nothing can be asked"):
        evaluate(Fake({}), normal, out=None, prompts="geometry", progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("boxes",), "choose one of text, text.geometry, geometry"),
        (("text", (0.1,)), "box shifts need a box"),
        (("geometry", (0.5,)), r"0.5 is not in \[0, 0.5\)"),
        (("geometry", (-0.1,)), "-0.1 is not in"),
        (("geometry", (float("nan"),)), "nan is not in"),
        (("geometry", (0.1, 0.1)), "hold one twice"),
    ],
)
def test_protocols_that_do_not_exist(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Protocol(*arguments)


def test_a_real_segmenter_gets_what_it_can_use(samples: list[Sample], tmp_path: Path) -> None:
    """The answers scored are those of `Segmenter.segment` with the same point and box."""
    segmenter = tiny_segmenter(prompts=("tumor", "polyp"), refine=1)
    from textsam.data.sample import load_sample
    from textsam.metrics import dice

    pixels, masks = load_sample(samples[1])
    own = Draws(5, "bus", "case1", "polyp")
    for prompts, word in (("geometry", None), ("text+geometry", "polyp")):
        evaluate(
            segmenter,
            samples,
            out=tmp_path / prompts,
            prompts=prompts,  # type: ignore[arg-type]
            seed=5,
            progress=False,
        )
        answer = segmenter.segment(
            pixels,
            word,
            points=foreground_point(masks["polyp"], own),
            boxes=loose_box(masks["polyp"], own),
            refine=0,
        )
        (row,) = [r for r in rows(tmp_path / prompts) if r["concept"] == "polyp"]
        assert float(row["dice"]) == pytest.approx(dice(answer.mask, masks["polyp"]), abs=1e-6)
        assert int(row["area_px"]) == answer.area_px
        header = json.loads((tmp_path / prompts / "evaluation.json").read_text())
        assert (header["protocol"], header["seed"]) == (prompts, 5)
