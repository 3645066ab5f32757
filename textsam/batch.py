"""Many images through the model: read ahead, encode together, answer in order."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from textsam.errors import ConfigError, DeviceError, TextSAMError
from textsam.prepare import ImageLike, Prepared

if TYPE_CHECKING:
    from textsam.result import Segmentation

__all__ = ["BatchAnswer", "batches"]

_READERS = 4
# Bad images wait with the good ones; this many times the batch is enough to wait for a full one.
_WAITING_BATCHES = 4


@dataclass(frozen=True, eq=False)
class BatchAnswer:
    """What came of one image of many.

    Attributes:
        index: its position among the images, from 0.
        source: its path, or what else it was.
        answers: one per prompt; empty where it failed.
        error: why it failed, or None.
        seconds: its share of the model's time; waiting for the file is not in it.
    """

    index: int
    source: str
    answers: tuple[Segmentation, ...]
    error: TextSAMError | None
    seconds: float


@dataclass(frozen=True, eq=False)
class _Read:
    index: int
    source: str
    prepared: Prepared | None
    error: TextSAMError | None


def batches(
    images: Iterable[ImageLike],
    prepare: Callable[[ImageLike], Prepared],
    answer: Callable[[Sequence[Prepared]], list[list[Segmentation]]],
    *,
    batch_size: int,
) -> Iterator[BatchAnswer]:
    """Answer every image in order, holding a few batches in memory at a time.

    Args:
        images: read from lazily, at most two batches ahead.
        prepare: reads one image; called by several threads.
        answer: images prepared -> results, one list per image.
        batch_size: images per call of `answer`. Halved, for good, whenever the device runs out of
            memory; an image that does not fit alone is an answer with an error.

    Raises:
        ConfigError: a batch size below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; give at least 1")
    return _answers(images, prepare, answer, batch_size)


def _answers(
    images: Iterable[ImageLike],
    prepare: Callable[[ImageLike], Prepared],
    answer: Callable[[Sequence[Prepared]], list[list[Segmentation]]],
    size: int,
) -> Iterator[BatchAnswer]:
    waiting: deque[_Read] = deque()
    reading = _read_ahead(images, prepare, ahead=2 * size)
    exhausted = False
    while True:
        while (
            not exhausted
            and len(waiting) < _WAITING_BATCHES * size
            and sum(read.error is None for read in waiting) < size
        ):
            following = next(reading, None)
            exhausted = following is None
            if following is not None:
                waiting.append(following)
        if not waiting:
            return
        taken = _take(waiting, size)
        good = [read.prepared for read in taken if read.prepared is not None]
        began = time.perf_counter()
        try:
            results = iter(answer(good) if good else [])
        except torch.OutOfMemoryError as error:
            if len(good) > 1:
                size = max(1, len(good) // 2)
                waiting.extendleft(reversed(taken))
            else:
                for read in taken:
                    yield BatchAnswer(
                        read.index, read.source, (), read.error or _too_large(read, error), 0.0
                    )
        else:
            seconds = (time.perf_counter() - began) / max(1, len(good))
            for read in taken:
                if read.error is not None:
                    yield BatchAnswer(read.index, read.source, (), read.error, 0.0)
                else:
                    yield BatchAnswer(read.index, read.source, tuple(next(results)), None, seconds)


def _take(waiting: deque[_Read], size: int) -> list[_Read]:
    """The next images, until `size` of them are good; bad ones keep their place between them."""
    taken: list[_Read] = []
    while waiting and sum(read.error is None for read in taken) < size:
        taken.append(waiting.popleft())
    return taken


def _read_ahead(
    images: Iterable[ImageLike], prepare: Callable[[ImageLike], Prepared], ahead: int
) -> Iterator[_Read]:
    def read(index: int, image: ImageLike) -> _Read:
        try:
            prepared = prepare(image)
        except TextSAMError as error:
            return _Read(index, _name(image), None, error)
        return _Read(index, prepared.image.source, prepared, None)

    pending: deque[Future[_Read]] = deque()
    pool = ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1), "textsam-read")
    try:
        for index, image in enumerate(images):
            pending.append(pool.submit(read, index, image))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _name(image: ImageLike) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    return str(getattr(image, "source", type(image).__name__))


def _too_large(read: _Read, error: torch.OutOfMemoryError) -> DeviceError:
    return DeviceError(
        f"{read.source}: the device's memory does not hold even this one image ({error}); use "
        "device='cpu', or a device with more memory"
    )
