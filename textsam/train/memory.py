"""How much memory a training process has needed so far."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import torch

__all__ = ["peak_memory_mib"]


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak memory of this process since it began, in MiB.

    Args:
        device: on a CUDA device what its tensors took there (`torch.cuda.max_memory_allocated`),
            elsewhere the resident memory of the process, libraries included.

    Returns:
        None on Windows without psutil (extra `train`): nothing else there knows.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        if find_spec("psutil") is None:
            return None
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes on Linux, bytes on macOS.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
