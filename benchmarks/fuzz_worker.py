"""Read damaged files in a process of its own, with a limit on memory and on time."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Literal

from textsam.train.memory import resident_peak_mib

MEMORY_BYTES = 2 * 1024**3
TIMEOUT_S = 20.0
MOST_IMAGES = 6
"""Images read of one file: the first ones and the last."""

Outcome = Literal["result", "refused", "crash", "hang"]


@dataclass(frozen=True)
class Answer:
    """What came of one file.

    Attributes:
        outcome: "result" when every image was read, "refused" when an error of TextSAM's own said
            why not, "crash" for any other error, a dead process or too much memory, "hang" for
            more than `TIMEOUT_S` seconds.
        words: the error, for "result" the number of images.
        rss_mib: the most memory the process has held so far.
        seconds: how long it took by the clock, waiting for a busy machine included.
        cpu_s: processor time of the worker, 0 where it did not answer.
    """

    outcome: Outcome
    words: str
    rss_mib: int
    seconds: float
    cpu_s: float = 0.0


def read_one(path: Path) -> tuple[Outcome, str]:
    """Open a file and read its images, in this process."""
    from textsam.errors import TextSAMError
    from textsam.io.open import open_stack

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stack = open_stack(path)
            count = len(stack)
            # A damaged image must not keep the others from being read.
            errors = []
            for index in sorted({*range(min(count, MOST_IMAGES - 1)), count - 1}):
                try:
                    stack.read(index)
                except TextSAMError as error:
                    errors.append(error)
            if errors:
                return "refused", f"{type(errors[0]).__name__}: {errors[0]}"
            return "result", f"{count} images"
    except TextSAMError as error:
        return "refused", f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001  # Rust libraries panic with one that is no Exception
        return "crash", traceback.format_exc(limit=-4)


def _serve(pipe: Connection, memory_bytes: int) -> None:
    # libtiff writes a line on each damage it finds.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    import nibabel  # noqa: F401  # so that its import is nobody's seconds
    import pydicom

    import textsam.io.raster  # noqa: F401

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        import resource
    except ImportError:
        pass
    else:
        # Address space beyond what libraries have taken already.
        with Path("/proc/self/statm").open() as stream:
            taken = int(stream.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes, taken + memory_bytes))
    pipe.send("ready")
    while (path := pipe.recv()) is not None:
        began = time.process_time()
        outcome, words = read_one(path)
        # 0 where the system does not say.
        peak_mib = int(resident_peak_mib() or 0)
        pipe.send((outcome, words, peak_mib, time.process_time() - began))


class Worker:
    """A process that reads one file after another, started again when it dies or hangs."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES, timeout_s: float = TIMEOUT_S) -> None:
        self._memory_bytes, self._timeout_s = memory_bytes, timeout_s
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def _started(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other, self._memory_bytes))
            self._process.start()
            other.close()
            if self._pipe.recv() != "ready":
                raise RuntimeError("the worker did not start")
        return self._pipe

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None

    def read(self, path: Path) -> Answer:
        """Read one file; never raises for what is in it."""
        pipe = self._started()
        began = time.perf_counter()
        pipe.send(path)
        try:
            if not pipe.poll(self._timeout_s):
                self.close()
                return Answer("hang", "", 0, time.perf_counter() - began)
            outcome, words, peak, cpu_s = pipe.recv()
        except (EOFError, ConnectionError):
            process = self._process
            if process is not None:
                process.join()
            code = None if process is None else process.exitcode
            self.close()
            return Answer("crash", f"the process died: {code}", 0, time.perf_counter() - began)
        seconds = time.perf_counter() - began
        if peak * 1024**2 > self._memory_bytes:
            self.close()
            return Answer("crash", f"{peak} MiB of memory", peak, seconds, cpu_s)
        return Answer(outcome, words, peak, seconds, cpu_s)
