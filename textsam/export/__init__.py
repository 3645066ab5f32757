"""Export to ONNX, and segment with the exported files without PyTorch.

`export_onnx` writes a folder; `OnnxSegmenter` answers from it. The latter and everything it needs
import no torch, so it also runs where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsam.export.runner import OnnxSegmenter
    from textsam.export.write import export_onnx

__all__ = ["OnnxSegmenter", "export_onnx"]

_LAZY = {"OnnxSegmenter": "textsam.export.runner", "export_onnx": "textsam.export.write"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'textsam.export' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
