"""The one thread that owns the model: takes what waits, in batches, and answers each its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from textsam.errors import ConfigError, ReaderError, TextSAMWarning
from textsam.quiet import quiet

if TYPE_CHECKING:
    from textsam.inference.batch import BatchAnswer
    from textsam.inference.segmenter import Segmenter
    from textsam.io.image import Image

__all__ = ["Job", "Worker"]

# How much of the mean time per image the last one makes.
_NEWEST_SHARE = 0.2


@dataclass(eq=False)
class Job:
    """One image and what is asked about it.

    Attributes:
        read: gives the image; called by the worker, so that waiting jobs hold no pixels.
        prompts: what to look for.
        refine: refinement passes; None takes what the adapter asks for.
        future: gets the answer. Cancelling it takes the job out of the queue.
    """

    read: Callable[[], Image]
    prompts: tuple[str, ...]
    refine: int | None = None
    future: Future[BatchAnswer] = field(default_factory=Future)

    @property
    def group(self) -> tuple[tuple[str, ...], int | None]:
        """Jobs of one group can share a call of the model."""
        return self.prompts, self.refine


class Worker:
    """Owns a segmenter, which one thread at a time may use.

    The job that waited longest is always in the next call; jobs behind it that ask the same words
    come along, up to `batch_size`.

    Args:
        segmenter: loaded model; nobody else may call it while the worker runs.
        batch_size: most images of one call.

    Attributes:
        mean_seconds: of the model for an image, lately; 1 before the first.

    Raises:
        ConfigError: a batch size below 1.
    """

    def __init__(self, segmenter: Segmenter, *, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; give at least 1")
        self.segmenter = segmenter
        self.batch_size = batch_size
        self.mean_seconds = 1.0
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._counted = False
        self._working = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._loop, name="textsam-worker", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """Finish what was taken, then end the thread; waits at most `timeout_s`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether jobs are being taken."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._jobs)

    @property
    def working(self) -> int:
        """Jobs in the call that runs now."""
        return self._working

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def discard(self, job: Job) -> None:
        """Take a job out of the queue; one that already runs is finished, for nobody."""
        job.future.cancel()
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def _loop(self) -> None:
        while group := self._next():
            try:
                self._answer(group)
            finally:
                self._working = 0

    def _next(self) -> list[Job]:
        """Wait for jobs of one group; none when it is time to stop."""
        with self._changed:
            while True:
                while not self._jobs and not self._stopping:
                    self._changed.wait()
                if not self._jobs:
                    return []
                key = self._jobs[0].group
                same = [job for job in self._jobs if job.group == key][: self.batch_size]
                for job in same:
                    self._jobs.remove(job)
                # False for a job whose request has gone away.
                live = [job for job in same if job.future.set_running_or_notify_cancel()]
                if live:
                    self._working = len(live)
                    return live

    def _answer(self, group: list[Job]) -> None:
        open_jobs = dict(enumerate(group))
        prompts, refine = group[0].group
        try:
            # Unknown prompts are reported in the answer; a warning would put them in the log.
            with quiet({"category": TextSAMWarning}):
                answers = self.segmenter.segment_batch(
                    [job.read for job in group],
                    list(prompts),
                    batch_size=self.batch_size,
                    refine=refine,
                )
            for answer in answers:
                if answer.error is None:
                    self._count(answer.seconds)
                future = open_jobs.pop(answer.index).future
                if isinstance(answer.error, ReaderError):
                    # A mistake of ours, and not of who sent the image.
                    future.set_exception(answer.error.__cause__)
                else:
                    future.set_result(answer)
            for job in open_jobs.values():
                job.future.set_exception(RuntimeError("the model gave no answer for this image"))
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to a request
            for job in open_jobs.values():
                if len(group) == 1:
                    job.future.set_exception(error)
                else:
                    # One image of the batch may have caused it: the others get their answers.
                    self._answer([job])

    def _count(self, seconds: float) -> None:
        share = _NEWEST_SHARE if self._counted else 1.0
        self._counted = True
        self.mean_seconds += share * (seconds - self.mean_seconds)
