"""Many images through the model: read ahead, encode together, answer in order."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as PILImage

from textsam.errors import ConfigError, DeviceError, ImageError, TextSAMError
from textsam.inference.prepare import ImageLike, Prepared, called
from textsam.io.raster import read_image

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
        images: read from lazily, at most two batches ahead. A callable that raises is an answer
            with an error, a `ReaderError` where what it raises is none of ours.
        prepare: reads one image; called by several threads.
        answer: images prepared -> results, one list per image.
        batch_size: images per call of `answer`. Halved, for good, whenever the device runs out of
            memory; an image that does not fit alone is an answer with an error.

    Raises:
        ConfigError: a batch size that is no whole number of at least 1.
        ImageError: `images` is a single image.
    """
    if not (isinstance(batch_size, int | np.integer) and batch_size >= 1):
        raise ConfigError(f"batch_size is {batch_size!r}; give at least 1, a whole number")
    if _is_single(images):
        shown = repr(images) if isinstance(images, str | os.PathLike) else type(images).__name__
        raise ImageError(
            f"images is {shown}, a single image; give several, such as a list of paths or "
            "[image], or use segment"
        )
    return _answers(images, prepare, answer, batch_size)


def _is_single(images: Any) -> bool:
    """Whether somebody gave an image in place of several; a path is several characters, too."""
    if isinstance(images, str | bytes | os.PathLike):
        return True
    if isinstance(images, np.ndarray):  # of images or slices, along its first axis, or one image
        return images.ndim < 3 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))
    try:
        iter(images)
    except TypeError:
        return True
    return False


class _Source:
    """Images up to the place where what gives them fails; those before it are to be answered."""

    def __init__(self, images: Iterable[ImageLike]) -> None:
        self.images = images
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[ImageLike]:
        try:
            yield from self.images
        except Exception as error:  # noqa: BLE001  # raised when what came before is answered
            self.error = error


def _answers(
    images: Iterable[ImageLike],
    prepare: Callable[[ImageLike], Prepared],
    answer: Callable[[Sequence[Prepared]], list[list[Segmentation]]],
    size: int,
) -> Iterator[BatchAnswer]:
    waiting: deque[_Read] = deque()
    source = _Source(images)
    reading = _read_ahead(source, prepare, ahead=2 * size)
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
            if source.error is not None:
                raise source.error
            return
        taken = _take(waiting, size)
        good = [read.prepared for read in taken if read.prepared is not None]
        began = time.perf_counter()
        try:
            results = iter(_each(answer, good))
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
                found = read.error if read.error is not None else next(results)
                if isinstance(found, TextSAMError):
                    spent = 0.0 if read.error is not None else seconds
                    yield BatchAnswer(read.index, read.source, (), found, spent)
                else:
                    yield BatchAnswer(read.index, read.source, tuple(found), None, seconds)


def _each(
    answer: Callable[[Sequence[Prepared]], list[list[Segmentation]]], good: Sequence[Prepared]
) -> Sequence[list[Segmentation] | TextSAMError]:
    """Answers to all at once; where that fails, one after another, so that one spoils no other."""
    try:
        return answer(good) if good else []
    except TextSAMError as error:
        if len(good) == 1:
            return [error]
    return [_each(answer, [one])[0] for one in good]


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
            who = f"image {index}: the callable that reads it"
            prepared = prepare(partial(called, image, who) if callable(image) else image)
        except TextSAMError as error:
            return _Read(index, _name(image), None, error)
        return _Read(index, prepared.image.source, prepared, None)

    pending: deque[Future[_Read]] = deque()
    pool = ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1), "textsam-read")
    try:
        for index, image in enumerate(images):
            try:
                taken = _as_it_is(image)
            except TextSAMError as error:
                pending.append(_known(_Read(index, _name(image), None, error)))
            else:
                pending.append(pool.submit(read, index, taken))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _as_it_is(image: ImageLike) -> ImageLike:
    """An image in memory, read now: who gives it may show the next page or frame in it at once."""
    return read_image(image) if isinstance(image, np.ndarray | PILImage.Image) else image


def _known(read: _Read) -> Future[_Read]:
    done: Future[_Read] = Future()
    done.set_result(read)
    return done


def _name(image: ImageLike) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    return str(getattr(image, "source", type(image).__name__))


def _too_large(read: _Read, error: torch.OutOfMemoryError) -> DeviceError:
    return DeviceError(
        f"{read.source}: the device's memory does not hold even this one image ({error}); use "
        "device='cpu', or a device with more memory"
    )
