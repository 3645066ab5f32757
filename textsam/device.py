"""Choose device and precision, saying plainly when what was asked for is not there."""

from __future__ import annotations

import torch

from textsam.errors import DeviceError

__all__ = ["choose_device", "choose_precision"]


def choose_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:N" or "mps".

    "auto" takes a CUDA GPU, else Apple's, else the CPU.

    Raises:
        DeviceError: unknown name, or not available here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise DeviceError(f"no device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise DeviceError(
                f"device {name!r} was asked for and {count} CUDA devices are available; use cpu"
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' was asked for and is not available here; use cpu")
    elif device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16 for the image encoder.

    "auto" takes bfloat16 on a CUDA GPU that has it, float32 elsewhere: on a CPU the same input
    then gives the same mask on any machine with the same library versions.

    Raises:
        DeviceError: unknown name, or not available on the device.
    """
    has_bfloat16 = device.type == "cpu" or (
        device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    match name:
        case "auto":
            return torch.bfloat16 if device.type == "cuda" and has_bfloat16 else torch.float32
        case "float32":
            return torch.float32
        case "bfloat16":
            if not has_bfloat16:
                raise DeviceError(f"bfloat16 is not available on {device}; use float32")
            return torch.bfloat16
        case _:
            raise DeviceError(f"no precision {name!r}; use auto, float32 or bfloat16")
