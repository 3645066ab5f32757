"""Where jobs run: in this process, in one process per device, or on a cluster through submitit."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from textsam.ablate.job import Outcome, died
from textsam.ablate.plan import Job
from textsam.errors import ConfigError

__all__ = ["Engine", "InProcess", "Processes", "Submitit", "Work"]


class Work(Protocol):
    """`run_job` with its steps given; it can be sent to another process."""

    def __call__(
        self, job: Job, device: str | None = None, threads: int | None = None
    ) -> list[Outcome]:
        """Do a job, here."""
        ...


class Engine(Protocol):
    """Runs jobs, in any order."""

    def __call__(self, jobs: Sequence[Job], work: Work) -> Iterator[list[Outcome]]:
        """Outcomes of each job, as soon as it is done."""
        ...


@dataclass(frozen=True)
class InProcess:
    """One job after another, in this process.

    Attributes:
        device: instead of the configuration's; None leaves that.
    """

    device: str | None = None

    def __call__(self, jobs: Sequence[Job], work: Work) -> Iterator[list[Outcome]]:
        """Outcomes of each job, as soon as it is done."""
        for job in jobs:
            yield work(job, self.device)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, be it killed.

    It would train to its end with nobody to take the result, keep the device, and then wait forever
    for another job.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Processes:
    """As many jobs at a time as there are devices, each in a process of its own.

    A process ends with its job, so that all memory of the device is given back. Jobs on the CPU
    share its cores evenly.

    Attributes:
        devices: such as "cuda:0" and "cuda:1"; one given twice gets two jobs at a time.
    """

    devices: tuple[str, ...]

    def __call__(self, jobs: Sequence[Job], work: Work) -> Iterator[list[Outcome]]:
        """Outcomes of each job, as soon as it is done."""
        free: SimpleQueue[str] = SimpleQueue()
        for device in self.devices:
            free.put(device)
        on_cpu = sum(device == "cpu" for device in self.devices)

        def run(job: Job) -> list[Outcome]:
            device = free.get()
            # One alone has what the environment gives it, such as OMP_NUM_THREADS.
            shared = device == "cpu" and on_cpu > 1
            threads = max(1, (os.cpu_count() or 1) // on_cpu) if shared else None
            # Spawned: a forked process cannot use CUDA.
            context = multiprocessing.get_context("spawn")
            try:
                with ProcessPoolExecutor(1, context, initializer=_end_with_parent) as pool:
                    return pool.submit(work, job, device, threads).result()
            except BrokenProcessPool:
                return died(
                    job,
                    f"the process on {device} died, perhaps for want of memory; start again to go "
                    "on with its training",
                )
            finally:
                free.put(device)

        runners = ThreadPoolExecutor(len(self.devices))
        try:
            for future in as_completed([runners.submit(run, job) for job in jobs]):
                yield future.result()
        finally:
            runners.shutdown(cancel_futures=True)


class _Requeued:
    """Work that submitit may interrupt and queue again: a training goes on from its last state."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, job: Job) -> list[Outcome]:
        return self.work(job)

    def checkpoint(self, job: Job) -> Any:
        """What to queue when a time limit or a more urgent job ends this one."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


@dataclass(frozen=True)
class Submitit:
    """Every job through submitit: SLURM, or processes of this machine. Needs the extra `cluster`.

    Attributes:
        folder: of submitit's scripts and logs; all machines must see it, and the data.
        cluster: "slurm", "local" or "debug"; None lets submitit find out.
        parameters: of submitit's `update_parameters`, such as `slurm_partition`.
    """

    folder: Path
    cluster: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, jobs: Sequence[Job], work: Work) -> Iterator[list[Outcome]]:
        """Outcomes of each job, as soon as it is done.

        Raises:
            ConfigError: submitit is not installed, or does not know a parameter.
        """
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                'the engine submitit is not installed; run pip install "textsam[cluster]", or '
                "leave --engine out"
            ) from error
        try:
            executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
            # submitit's own limit is five minutes.
            executor.update_parameters(**{"timeout_min": 24 * 60, **self.parameters})
        except (ValueError, TypeError, NameError, RuntimeError) as error:
            raise ConfigError(
                f"submitit refuses cluster {self.cluster!r} with {dict(self.parameters)}: {error}"
            ) from error
        submitted = {
            id(j): (j, job) for job in jobs for j in [executor.submit(_Requeued(work), job)]
        }
        for done in submitit.helpers.as_completed([j for j, _ in submitted.values()]):
            _, job = submitted[id(done)]
            try:
                yield done.result()
            except Exception as error:  # noqa: BLE001  # whatever the cluster did to this one job
                first = (str(error).strip().splitlines() or [""])[0]
                yield died(job, f"{type(error).__name__}: {first} (log in {done.paths.stderr})")
