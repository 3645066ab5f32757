"""Many images: order, bad ones, memory, and the same answers as one by one."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageSequence
from tiny import tiny_segmenter

from textsam.errors import (
    ConfigError,
    DeviceError,
    ImageError,
    PromptError,
    ReaderError,
    TextSAMError,
)
from textsam.inference.prepare import Prepared
from textsam.inference.refine import decode_passes
from textsam.inference.refinement import RefineWith
from textsam.inference.segmenter import UnknownPromptWarning
from textsam.io.image import Image
from textsam.io.raster import read_image
from textsam.result import Segmentation

WORDS = ["tumor", "lung"]


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """Images of different sizes."""
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (40 + 3 * i, 64 - 2 * i, 3), dtype=np.uint8) for i in range(count)]


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 8])
def test_the_answers_are_those_of_one_by_one(batch_size: int | None) -> None:
    images = pictures(5)
    alone = [tiny_segmenter().segment(image, WORDS, refine=2) for image in images]
    got = list(tiny_segmenter().segment_batch(images, WORDS, batch_size=batch_size, refine=2))
    assert [answer.index for answer in got] == [0, 1, 2, 3, 4]
    for answer, wanted in zip(got, alone, strict=True):
        assert answer.error is None
        assert answer.seconds > 0
        for mine, his in zip(answer.answers, wanted, strict=True):
            np.testing.assert_allclose(mine.probability, his.probability, rtol=0, atol=1e-4)
            assert (mine.mask != his.mask).mean() < 1e-3
            assert mine.prompt == his.prompt
            assert batch_size not in (None, 1) or np.array_equal(mine.mask, his.mask)
    assert any(answer.answers[0].mask.any() for answer in got)


def test_a_bad_image_is_an_answer_and_the_others_go_on(tmp_path: Path) -> None:
    paths = []
    for number, image in enumerate(pictures(4)):
        paths.append(tmp_path / f"{number}.png")
        PILImage.fromarray(image).save(paths[-1])
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    paths.insert(3, tmp_path / "missing.png")
    segmenter = tiny_segmenter()
    for size in (1, 2, 5):
        got = list(segmenter.segment_batch(paths, "tumor", batch_size=size))
        assert [answer.source for answer in got] == [str(path) for path in paths]
        assert [isinstance(answer.error, ImageError) for answer in got] == [0, 1, 0, 1, 0]
        assert [len(answer.answers) for answer in got] == [1, 0, 1, 0, 1]
        assert got[4].answers[0].image.source == str(paths[4])


def test_the_models_time_is_shared_by_the_images_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(perf_counter=iter([10.0, 16.0]).__next__)
    monkeypatch.setattr("textsam.inference.batch.time", clock)
    first, *rest = pictures(3)
    images = [first, tmp_path / "missing.png", *rest]
    got = tiny_segmenter().segment_batch(images, "tumor", batch_size=3)
    assert [answer.seconds for answer in got] == [2, 0, 2, 2]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_bad_images_are_answered_before_a_good_one_comes(batch_size: int) -> None:
    taken: list[int] = []

    def bad() -> Image:
        raise ImageError("bad")

    def images() -> Iterator[Any]:
        yield pictures(1)[0]
        for number in range(1000):
            taken.append(number)
            yield bad

    answers = tiny_segmenter().segment_batch(images(), "tumor", batch_size=batch_size)
    assert [next(answers).error is None for _ in range(3)] == [True, False, False]
    assert len(taken) < 12 * batch_size
    assert sum(1 for _ in answers) == 998


def test_a_callable_is_called_where_the_image_is_needed(tmp_path: Path) -> None:
    image = Image(pictures(1)[0], "slice 3")

    def broken() -> Image:
        raise ImageError("slice 4 is damaged; copy it again")

    got = list(tiny_segmenter().segment_batch([lambda: image, broken], "tumor"))
    assert got[0].answers[0].image is image
    assert str(got[1].error) == "slice 4 is damaged; copy it again"
    path = tmp_path / "a.png"
    PILImage.fromarray(image.pixels).save(path)
    again = next(tiny_segmenter().segment_batch([partial(read_image, path)], "tumor"))
    assert np.array_equal(again.answers[0].mask, got[0].answers[0].mask)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_callable_that_raises_anything_is_an_answer(batch_size: int) -> None:
    image, fault = Image(pictures(1)[0], "a"), KeyError("no such slice")

    def broken() -> Image:
        raise fault

    images: list[Any] = [lambda: image, broken, lambda: image.pixels, lambda: image]
    got = list(tiny_segmenter().segment_batch(images, "tumor", batch_size=batch_size))
    assert [answer.error is None for answer in got] == [True, False, False, True]
    assert type(got[1].error) is ReaderError
    assert got[1].error.__cause__ is fault
    assert "image 1: the callable that reads it raised KeyError ('no such slice')" in str(
        got[1].error
    )
    assert type(got[2].error) is ImageError
    assert "image 2: the callable that reads it returned ndarray" in str(got[2].error)


def test_one_image_is_not_several(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    pixels = pictures(1)[0]
    PILImage.fromarray(pixels).save(path)
    segmenter = tiny_segmenter()
    singles: list[Any] = [
        str(path), path, str(path).encode(), pixels, pixels[..., 0], pixels[..., :1],
        np.dstack([pixels, pixels[..., 0]]), Image(pixels, "a"), PILImage.fromarray(pixels),
        lambda: Image(pixels, "a"), None,
    ]  # fmt: skip
    for single in singles:
        with pytest.raises(ImageError, match="a single image; give several"):
            segmenter.segment_batch(single, "tumor")
    with pytest.raises(ImageError, match=r"images is '.*scan\.png'"):
        segmenter.segment_batch(str(path), "tumor")
    # Several images, or the slices of a volume, may be one array.
    several: list[Any] = [np.stack([pixels] * 2), np.stack([pixels[..., 0]] * 2), (path, path)]
    for many in several:
        got = list(segmenter.segment_batch(many, "tumor"))
        assert [answer.error for answer in got] == [None, None]


def test_images_are_read_a_few_ahead_and_no_more() -> None:
    given, image = [], pictures(1)[0]

    def endless() -> Iterator[NDArray[np.uint8]]:
        while True:
            given.append(1)
            yield image

    answers = tiny_segmenter().segment_batch(endless(), "tumor", batch_size=2)
    for _ in range(4):
        next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert 4 <= len(given) <= 4 + 2 * 2 + 2
    for _ in range(2400):
        if not any(thread.name.startswith("textsam-read") for thread in threading.enumerate()):
            break
        threading.Event().wait(0.05)
    assert not any(thread.name.startswith("textsam-read") for thread in threading.enumerate())


def short_of_memory(fits: int, calls: list[int]) -> object:
    """`Segmenter.answer` on a device that holds `fits` images."""

    def answer(
        self: object, images: Sequence[Prepared], questions: Sequence[object], *_: object
    ) -> list[list[Segmentation]]:
        calls.append(len(images))
        if len(images) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [
            [
                Segmentation(
                    mask=np.zeros(image.image.size_px, bool),
                    probability=np.zeros(image.image.size_px, np.float32),
                    score=0.0,
                    found=False,
                    prompt="tumor",
                    image=image.image,
                    adapter="a",
                    model="m",
                )
            ]
            for image in images
        ]

    return answer


@pytest.mark.parametrize(("fits", "calls"), [(3, [8, 4, 2, 2, 2, 2, 2]), (8, [8, 2])])
def test_out_of_memory_halves_the_batch_for_good(
    monkeypatch: pytest.MonkeyPatch, fits: int, calls: list[int]
) -> None:
    segmenter = tiny_segmenter()
    asked: list[int] = []
    monkeypatch.setattr(type(segmenter), "answer", short_of_memory(fits, asked))
    images = pictures(10)
    got = list(segmenter.segment_batch(images, "tumor", batch_size=8))
    assert [answer.index for answer in got] == list(range(10))
    assert [answer.answers[0].mask.shape for answer in got] == [i.shape[:2] for i in images]
    assert asked == calls


def test_an_image_that_does_not_fit_alone_is_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = tiny_segmenter()
    asked: list[int] = []
    monkeypatch.setattr(type(segmenter), "answer", short_of_memory(0, asked))
    images = [tmp_path / "missing.png", *pictures(3)]
    bad, *got = segmenter.segment_batch(images, "tumor", batch_size=2)
    assert type(bad.error) is ImageError
    assert [type(answer.error) for answer in got] == [DeviceError] * 3
    assert "array: the device's memory does not hold" in str(got[0].error)
    assert asked == [2, 1, 1, 1]


def test_bad_questions_are_refused_before_anything_is_read() -> None:
    segmenter = tiny_segmenter()

    def never() -> Iterator[NDArray[np.uint8]]:
        raise AssertionError
        yield

    with pytest.raises(PromptError, match="empty"):
        segmenter.segment_batch(never(), "")
    with pytest.raises(PromptError, match="zebra"):
        segmenter.segment_batch(never(), "zebra", strict=True)
    with pytest.raises(PromptError, match="refine is -1"):
        segmenter.segment_batch(never(), "tumor", refine=-1)
    for size in (0, 1.5, "2"):
        with pytest.raises(ConfigError, match=f"batch_size is {size!r}; give at least 1"):
            segmenter.segment_batch(never(), "tumor", batch_size=size)  # type: ignore[arg-type]
    with pytest.warns(UnknownPromptWarning) as caught:
        segmenter.segment_batch(never(), ["zebra", "tumor"])
    assert [Path(warning.filename).name for warning in caught] == ["test_batch.py"]
    assert list(segmenter.segment_batch([], "tumor")) == []


def test_images_of_one_batch_are_encoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = tiny_segmenter()
    encode, calls = segmenter.built.model.encode_image, []

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return encode(images)

    monkeypatch.setattr(segmenter.built.model, "encode_image", counted)
    images = pictures(3)
    list(segmenter.segment_batch([*images, images[0]], "tumor", batch_size=4))
    assert calls == [3]  # the fourth is the first again
    list(segmenter.segment_batch([images[1]], "lung"))
    assert calls == [3]  # seen lately
    list(segmenter.segment_batch(pictures(5)[3:], "tumor"))
    assert calls == [3, 1, 1], "on a CPU one at a time, unless asked"


@pytest.mark.parametrize(("most", "sizes"), [(64, [3, 2, 2]), (2, [2, 1, 2, 2])])
def test_prompts_decoded_together_agree_with_one_by_one(
    monkeypatch: pytest.MonkeyPatch, most: int, sizes: list[int]
) -> None:
    monkeypatch.setattr("textsam.inference.refine._MOST_TOGETHER", most)
    segmenter = tiny_segmenter()
    prepared = [segmenter.prepare(image) for image in pictures(3)]
    model = segmenter.built.model
    decode, asked = model.decode, []

    def counted(embedding: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor) -> Any:
        asked.append(len(sparse))
        return decode(embedding, sparse, dense)

    monkeypatch.setattr(model, "decode", counted)
    with torch.inference_mode():
        embeddings = [model.encode_image(image.pixels[None]) for image in prepared]
        tokens = model.encode_text(["tumor", "lung", "nerve"])
        frames = [image.frame for image in prepared]
        both = [
            decode_passes(model, embeddings, tokens, frames, refine=[2, 0, 2], together=together)
            for together in (False, True)
        ]
    assert len(both[0]) == len(both[1]) == 3
    assert asked == [1] * sum(sizes) + sizes
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=1e-3)
        torch.testing.assert_close(one.iou, other.iou, rtol=0, atol=1e-4)
        for mine, his in zip(one.masks, other.masks, strict=True):
            assert (mine != his).mean() < 1e-3


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_what_is_shown_when_an_image_is_given_is_what_is_answered(batch_size: int) -> None:
    """Pages of one file and frames in one buffer are the same object, which soon shows the next."""
    values = [0, 20, 40, 60, 80, 100]
    pages = [PILImage.fromarray(np.full((32, 40), value, np.uint8)) for value in values]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])

    def frames() -> Iterator[NDArray[np.uint8]]:
        buffer = np.zeros((32, 40, 3), np.uint8)
        for value in values:
            buffer[:] = value
            yield buffer

    for images in (ImageSequence.Iterator(PILImage.open(file)), frames()):
        got = tiny_segmenter().segment_batch(images, "tumor", batch_size=batch_size)
        assert [int(one.answers[0].image.pixels[0, 0, 0]) for one in got] == values


@pytest.mark.parametrize("batch_size", [1, 4])
def test_images_before_a_fault_of_their_source_are_answered(batch_size: int) -> None:
    def images() -> Iterator[NDArray[np.uint8]]:
        yield from pictures(3)
        raise RuntimeError("the archive is gone")

    got: list[int] = []
    answers = tiny_segmenter().segment_batch(images(), "tumor", batch_size=batch_size)
    with pytest.raises(RuntimeError, match="archive"):
        got.extend(answer.index for answer in answers)
    assert got == [0, 1, 2]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_answer_that_fails_is_one_image_s(
    monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    segmenter, images = tiny_segmenter(), pictures(3)
    answer = type(segmenter).answer

    def failing(self: Any, prepared: Sequence[Prepared], *given: Any, **more: Any) -> Any:
        if any(np.array_equal(one.image.pixels, images[1]) for one in prepared):
            raise TextSAMError("no number")
        return answer(self, prepared, *given, **more)

    monkeypatch.setattr(type(segmenter), "answer", failing)
    got = list(segmenter.segment_batch(images, "tumor", batch_size=batch_size))
    assert [str(one.error or "") for one in got] == ["", "no number", ""]


def test_several_threads_share_what_is_kept() -> None:
    """The embeddings kept last are looked up, moved and dropped by all of them."""
    segmenter, images, faults = tiny_segmenter(), pictures(7), []
    expected = [segmenter.segment(image, "tumor").mask for image in images]

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for number in rng.integers(0, 7, 25):
                answer = segmenter.segment(images[number], "tumor")
                if not np.array_equal(answer.mask, expected[number]):
                    faults.append(f"image {number} is answered as another")
        except Exception as error:  # noqa: BLE001  # of another thread
            faults.append(repr(error))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_a_batch_without_refinement_says_so() -> None:
    segmenter = tiny_segmenter()
    never = segmenter.config.model_copy(update={"refine_with": RefineWith.NONE})
    (answer,) = segmenter.with_config(never).segment_batch(pictures(1), "tumor", refine=3)
    assert answer.answers[0].extra["refine"] == 0
