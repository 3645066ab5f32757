"""Seconds and memory of the benchmark's own process, on a CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["memory_mib", "reset_peak", "timed"]


def timed(device: str, call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call and its answer; on a GPU by CUDA events, with its queue empty around."""
    if not device.startswith("cuda"):
        began = time.perf_counter()
        answer = call()
        return time.perf_counter() - began, answer
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    answer = call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000, answer


def memory_mib(device: str) -> tuple[float | None, float | None]:
    """Memory now and at its peak since `reset_peak`, in MiB; None where it cannot be read.

    On a CPU the process's resident memory as Linux counts it (VmRSS, VmHWM), code of the libraries
    included; on a GPU what torch has allocated there.
    """
    if device.startswith("cuda"):
        return (
            torch.cuda.memory_allocated() / 2**20,
            torch.cuda.max_memory_allocated() / 2**20,
        )
    status = Path("/proc/self/status")
    if not status.is_file():
        return None, None
    lines = status.read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    now, peak = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def reset_peak(device: str) -> None:
    """Begin a new peak: what loading took for a moment must not hide what the work takes."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        # 5 resets the high water mark of resident memory: proc(5).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
