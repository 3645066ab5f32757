"""The worker: who is answered with whom, and that no job gets another's answer or error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from serving import Held, picture, wait_until
from tiny import tiny_segmenter

from textsam.errors import ConfigError, ImageError
from textsam.inference.segmenter import Segmenter
from textsam.io.image import Image
from textsam.serve.worker import Job, Worker


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return tiny_segmenter()


def image(seed: int = 0) -> Image:
    return Image(picture(seed), "upload")


def job(seed: int = 0, *prompts: str, refine: int | None = None) -> Job:
    return Job(partial(image, seed), prompts or ("tumor",), refine)


def bad() -> Image:
    raise ImageError("upload: damaged")


def bug() -> Image:
    raise ZeroDivisionError("a mistake of a reader")


def run(worker: Worker, jobs: list[Job]) -> None:
    """Submit all before the worker takes the first."""
    for one in jobs:
        worker.submit(one)
    worker.start()
    worker.stop(120)


def test_every_job_gets_the_answer_to_its_own_image(segmenter: Segmenter) -> None:
    jobs = [job(seed, *words) for seed in range(4) for words in (("tumor",), ("lung", "tumor"))]
    run(Worker(segmenter, batch_size=3), jobs)
    for number, one in enumerate(jobs):
        answer = one.future.result(0)
        assert tuple(result.prompt for result in answer.answers) == one.prompts
        np.testing.assert_array_equal(answer.answers[0].image.pixels, picture(number // 2))


def test_the_oldest_goes_first_and_takes_its_like_along(segmenter: Segmenter) -> None:
    held = Held(segmenter)
    held.release.set()
    asked: list[tuple[int, Any]] = []
    plain = held.segment_batch

    def noted(images: list[Any], prompts: Any, **options: Any) -> Iterator[Any]:
        asked.append((len(images), (prompts[0], options["refine"])))
        return plain(images, prompts, **options)

    held.segment_batch = noted  # type: ignore[method-assign]
    jobs = [
        job(0), job(1, "lung"), job(2), job(3, refine=3), job(4), job(5), job(6, "lung"),
    ]  # fmt: skip
    run(Worker(held, batch_size=3), jobs)  # type: ignore[arg-type]
    assert asked == [
        (3, ("tumor", None)), (2, ("lung", None)), (1, ("tumor", 3)), (1, ("tumor", None)),
    ]  # fmt: skip
    assert all(one.future.result(0).answers for one in jobs)


def test_a_bad_image_is_its_own_jobs_error(segmenter: Segmenter) -> None:
    jobs = [job(0), Job(bad, ("tumor",)), job(1)]
    run(Worker(segmenter, batch_size=3), jobs)
    error = jobs[1].future.result(0).error
    assert isinstance(error, ImageError)
    for one in (jobs[0], jobs[2]):
        assert one.future.result(0).error is None


def test_a_bug_that_one_image_meets_spares_the_others(segmenter: Segmenter) -> None:
    jobs = [job(0), Job(bug, ("tumor",)), job(1)]
    run(Worker(segmenter, batch_size=3), jobs)
    assert isinstance(jobs[1].future.exception(0), ZeroDivisionError)
    for seed, one in ((0, jobs[0]), (1, jobs[2])):
        np.testing.assert_array_equal(one.future.result(0).answers[0].image.pixels, picture(seed))


class Silent:
    """A segmenter that forgets the last image of a batch."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def segment_batch(self, images: list[Any], *rest: Any, **options: Any) -> Iterator[Any]:
        return self._segmenter.segment_batch(images[:-1], *rest, **options)


def test_an_answer_that_never_comes_is_an_error(segmenter: Segmenter) -> None:
    jobs = [job(0), job(1)]
    run(Worker(Silent(segmenter), batch_size=2), jobs)  # type: ignore[arg-type]
    assert jobs[0].future.result(0).answers
    assert isinstance(jobs[1].future.exception(0), RuntimeError)


def test_the_worker_survives_and_counts(segmenter: Segmenter) -> None:
    held = Held(segmenter)
    worker = Worker(held, batch_size=2)  # type: ignore[arg-type]
    assert not worker.alive
    jobs = [Job(bug, ("tumor",)), job(0), job(1), job(2)]
    for one in jobs:
        worker.submit(one)
    worker.start()
    wait_until(held.entered.is_set)
    assert (worker.alive, worker.waiting, worker.working) == (True, 2, 2)
    held.release.set()
    assert jobs[3].future.result(120).answers
    wait_until(lambda: worker.working == 0)
    assert (worker.alive, worker.waiting) == (True, 0)
    first, second, third = (one.future.result(0).seconds for one in jobs[1:])
    mean = first + 0.2 * (second - first)
    assert worker.mean_seconds == pytest.approx(mean + 0.2 * (third - mean))
    worker.stop(120)
    assert not worker.alive


def test_discarded_jobs_are_never_read(segmenter: Segmenter) -> None:
    held = Held(segmenter)
    worker = Worker(held)  # type: ignore[arg-type]
    read = threading.Event()

    def reading() -> Image:
        read.set()
        return image()

    first, dropped, cancelled, last = job(0), Job(reading, ("tumor",)), Job(reading, ("x",)), job(1)
    worker.start()
    worker.submit(first)
    wait_until(held.entered.is_set)
    for one in (dropped, cancelled, last):
        worker.submit(one)
    worker.discard(dropped)
    assert worker.waiting == 2
    cancelled.future.cancel()
    worker.discard(first)  # runs already: finished for nobody
    held.release.set()
    assert last.future.result(120).answers
    worker.stop(120)
    assert not read.is_set()


def test_unknown_prompts_do_not_warn_into_the_log(segmenter: Segmenter) -> None:
    # Warnings are errors in tests.
    jobs = [job(0, "left lung")]
    run(Worker(segmenter), jobs)
    assert jobs[0].future.result(0).answers


def test_batch_size_is_checked(segmenter: Segmenter) -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Worker(segmenter, batch_size=0)
