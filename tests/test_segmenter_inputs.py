"""Manual geometry and bad input: what is passed on, what is refused, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from global_state import global_state
from numpy.typing import NDArray
from tiny import tiny_segmenter

import textsam
from textsam.errors import ImageError, PromptError, ReaderError, TextSAMError
from textsam.inference.segmenter import Segmenter
from textsam.result import Segmentation

WORDS = ["tumor", "lung", "cell nucleus"]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return tiny_segmenter(refine=0)


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)


def same(a: Segmentation, b: Segmentation) -> bool:
    return np.array_equal(a.probability, b.probability) and np.array_equal(a.mask, b.mask)


def geometry_given(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, **manual: Any
) -> tuple[Any, Any, Any]:
    """Points, labels and boxes as the prompt encoder is given them in the first pass."""
    seen: list[dict[str, Any]] = []
    hook = segmenter.built.model.prompt_encoder.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True
    )
    segmenter.segment(picture(), "tumor", **manual)
    hook.remove()
    points, boxes = seen[0]["points"], seen[0]["boxes"]
    return (
        None if points is None else points[0].tolist(),
        None if points is None else points[1].tolist(),
        None if boxes is None else boxes.tolist(),
    )


@pytest.mark.parametrize(
    ("given", "points", "labels"),
    [
        ((10, 20), [[[8, 16]]], [[1]]),
        ((10, 20, 0), [[[8, 16]]], [[0]]),
        ([(10, 20)], [[[8, 16]]], [[1]]),
        ([(10, 20, 1), (0, 5, 0)], [[[8, 16], [0, 4]]], [[1, 0]]),
        (np.array([[10.0, 20.0], [5, 0]]), [[[8, 16], [4, 0]]], [[1, 1]]),
        ((79.5, 39.5), [[[63.6, 31.6]]], [[1]]),  # the far corner of the last pixel
        ((-0.5, -0.5), [[[-0.4, -0.4]]], [[1]]),
    ],
)
def test_points_join_the_text_in_the_models_frame(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, given: Any, points: Any, labels: Any
) -> None:
    seen = geometry_given(segmenter, monkeypatch, points=given)
    np.testing.assert_allclose(seen[0], points, rtol=1e-6)
    assert seen[1] == labels
    assert seen[2] is None


def test_a_box_joins_the_text_in_the_models_frame(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, _, boxes = geometry_given(segmenter, monkeypatch, boxes=(0, 10, 79, 39))
    assert points is None
    np.testing.assert_allclose(boxes, [[0, 8, 63.2, 31.2]], rtol=1e-6)
    points, labels, boxes = geometry_given(
        segmenter, monkeypatch, points=(5, 5), boxes=np.array([5, 5, 5, 5])
    )
    np.testing.assert_allclose(points, [[[4, 4]]])
    assert labels == [[1]]
    np.testing.assert_allclose(boxes, [[4, 4, 4, 4]])


def test_manual_geometry_changes_the_answer(segmenter: Segmenter) -> None:
    image = picture()
    plain = segmenter.segment(image, "tumor")
    answers = [
        segmenter.segment(image, "tumor", boxes=(10, 10, 50, 30)),
        segmenter.segment(image, "tumor", boxes=(30, 10, 70, 30)),
        segmenter.segment(image, "tumor", points=(20, 20)),
        segmenter.segment(image, "tumor", points=(20, 20, 0)),
    ]
    for number, answer in enumerate(answers):
        assert not any(same(answer, other) for other in [plain, *answers[:number]]), number
    assert same(segmenter.segment(image, "tumor"), plain), "geometry is not remembered"


def test_lists_of_prompts_take_one_entry_each(segmenter: Segmenter) -> None:
    image, box = picture(), (10, 10, 50, 30)
    points = [(20, 20, 1), (70, 5, 0)]
    answers = segmenter.segment(
        image, WORDS, points=[None, points, None], boxes=[box, None, None], refine=1
    )
    assert same(answers[0], segmenter.segment(image, "tumor", boxes=box, refine=1))
    assert same(answers[1], segmenter.segment(image, "lung", points=points, refine=1))
    assert same(answers[2], segmenter.segment(image, "cell nucleus", refine=1))


@pytest.mark.parametrize(
    ("manual", "message"),
    [
        ({"points": (80, 10)}, r"point \(80, 10\) is outside the image of 80×40 px"),
        ({"points": (10, 40)}, r"point \(10, 40\) is outside"),
        ({"points": (-0.6, 10)}, r"point \(-0.6, 10\) is outside"),
        ({"points": [(1, 1), (200, 1)]}, r"point \(200, 1\) is outside"),
        ({"points": (1, 2, 2)}, r"labels are \[2.0\]; give 1 inside, 0 outside"),
        ({"points": (1, 2, 0.5)}, "labels are"),
        ({"points": (1, 2, 3, 4)}, r"points are \(1, 2, 3, 4\); give \(x, y\)"),
        ({"points": 7}, "points are 7"),
        ({"points": []}, r"points are \[\]"),
        ({"points": "here"}, "points are 'here'"),
        ({"points": [(1, 2), (1, 2, 1)]}, "points are"),
        ({"points": (float("nan"), 1)}, "points are"),
        ({"points": [[[1, 2]]]}, "points are"),
        ({"boxes": (0, 0, 80, 10)}, r"box corner \(80, 10\) is outside"),
        ({"boxes": (-1, 0, 10, 10)}, r"box corner \(-1, 0\) is outside"),
        ({"boxes": (20, 0, 10, 10)}, "corners swapped"),
        ({"boxes": (0, 20, 10, 10)}, "corners swapped"),
        ({"boxes": (0, 0, 10)}, r"the box is \(0, 0, 10\); give \(x_min, y_min"),
        ({"boxes": [(0, 0, 10, 10)]}, "the box is"),
        ({"boxes": (0, 0, 10, float("inf"))}, "the box is"),
        ({"boxes": "all"}, "the box is 'all'"),
        ({"boxes": 3}, "the box is 3"),
        ({"boxes": np.ma.array([0, 0, 9, 9], mask=[0, 0, 1, 0])}, "the box is masked_array"),
        ({"refine": -1}, "refine is -1; give 0 or more"),
        ({"refine": 1.5}, "refine is 1.5; give"),
        ({"refine": "2"}, "refine is '2'; give"),
        ({"refine": np.array([1, 2])}, r"refine is array\(\[1, 2\]\); give"),
        ({"points": np.zeros((0, 2))}, r"points are array.*; give \(x, y\)"),
    ],
)
def test_bad_geometry_is_refused(
    segmenter: Segmenter, manual: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        segmenter.segment(picture(), "tumor", **manual)


@pytest.mark.parametrize(
    ("manual", "message"),
    [
        ({"points": [(1, 2)]}, "points has 1 entries for 2 prompts; give one per prompt"),
        ({"boxes": [None, None, (0, 0, 5, 5)]}, "boxes has 3 entries for 2 prompts"),
        ({"points": 5}, "points is 5; give a list with one entry"),
        ({"boxes": np.array(5)}, r"boxes is array\(5\); give a list with one entry"),
        ({"boxes": [None, (0, 0, 99, 5)]}, r"box corner \(99, 5\) is outside"),
    ],
)
def test_bad_geometry_of_lists_is_refused(
    segmenter: Segmenter, manual: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        segmenter.segment(picture(), ["tumor", "lung"], **manual)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "is empty"),
        (" . ", "is empty"),
        ([], "list of prompts is empty"),
        (["tumor", ""], "is empty"),
        (["tumor", 3], "must be a string"),
        (None, "prompt is None and has no geometry"),
        (["tumor", None], "prompt is None and has no geometry"),
        (7, "prompt is 7; give a word"),
        (b"tumor", "prompt is b'tumor'; give a word"),
        ({"tumor"}, "prompt is {'tumor'}; give a word"),
        (np.array("tumor"), r"prompt is array\('tumor'.*\); give a word"),
        ("x" * 201, "at most 200"),
    ],
)
def test_bad_prompts_are_refused(segmenter: Segmenter, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        segmenter.segment(picture(), prompt)


def test_a_callable_must_return_an_image(segmenter: Segmenter) -> None:
    with pytest.raises(ImageError, match="the image returned ndarray; return what textsam"):
        segmenter.segment(picture, "tumor")  # type: ignore[arg-type]


def test_a_callable_that_raises_anything_is_told(segmenter: Segmenter) -> None:
    with pytest.raises(ReaderError, match=r"that reads the image raised KeyError \('x'"):
        segmenter.segment(lambda: {}["x"], "tumor")


@pytest.mark.filterwarnings("ignore::textsam.inference.segmenter.UnknownPromptWarning")
def test_a_prompt_with_too_many_tokens_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(PromptError, match="with 4 context tokens at most 28 fit"):
        segmenter.segment(picture(), " ".join("qz" * 40))


def with_nan() -> NDArray[np.float64]:
    image = np.zeros((20, 20))
    image[3, 4] = np.nan
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 0)), "empty"),
        (np.zeros((0, 20, 3)), "empty"),
        (with_nan(), "NaN"),
        (np.full((20, 20), np.inf), "inf"),
        (np.zeros((1, 1)), "1 rows and 1 columns"),
        (np.zeros((3, 40, 50)), "channels-first"),
        (np.zeros((40, 50, 7)), "volume"),
        (np.zeros(40), "not an image"),
        (np.zeros((20, 20), dtype=complex), "dtype complex128"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000)), "400,000,000 pixels"),
        (np.broadcast_to(np.float64(0), (20_000, 20_000, 3)), "400,000,000 pixels"),
        ("nowhere/scan.png", "no such file"),
        (None, "not accepted"),
        ([[0, 1], [2, 3]], "not accepted"),
    ],
)
def test_bad_images_are_refused_before_memory_is_spent(
    segmenter: Segmenter, image: Any, message: str
) -> None:
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ImageError, match=message) as raised:
            segmenter.segment(image, "tumor")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(raised.value, TextSAMError)
    assert peak < 1_000_000
    assert time.process_time() - started < 2


@pytest.fixture
def unusual_threads() -> Iterator[None]:
    """Not the number that an earlier test's calls may have left."""
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("unusual_threads")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_segmenting_leaves_no_global_state_behind(precision: torch.dtype) -> None:
    segmenter = tiny_segmenter(precision=precision)
    before = global_state()
    segmenter.segment(picture(), WORDS, refine=2)
    with pytest.raises(PromptError):
        segmenter.segment(picture(), "tumor", points=(500, 500))
    after = global_state()
    for name, value in before.items():
        assert after[name] == value, name


def test_importing_any_module_leaves_no_global_state_behind() -> None:
    script = Path(__file__).parent / "global_state.py"
    places = [str(Path(textsam.__file__).parent.parent), *filter(None, [os.getenv("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
