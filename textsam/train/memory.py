"""How much memory a process has needed so far; torch is imported where a GPU is asked alone."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["peak_memory_mib", "resident_peak_mib"]


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak memory of this process since it began, in MiB.

    Args:
        device: on a CUDA device what its tensors took there (`torch.cuda.max_memory_allocated`),
            elsewhere the resident memory of the process, libraries included.

    Returns:
        None as of `resident_peak_mib`.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident_peak_mib()


def resident_peak_mib() -> float | None:
    """The most resident memory this process has held, libraries included, in MiB.

    Returns:
        None on Windows without psutil (extra `train`): nothing else there knows.
    """
    if sys.platform == "win32":
        if find_spec("psutil") is None:
            return None
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    own = Path("/proc/self/status")
    if own.is_file():
        # getrusage would count what the process that started this one had needed until then.
        lines = own.read_text(encoding="ascii", errors="replace").splitlines()
        peak_kib = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        if peak_kib:
            return int(peak_kib[0]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes on Linux, bytes on macOS.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
