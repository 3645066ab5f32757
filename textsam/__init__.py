"""TextSAM: text-prompted segmentation of medical images.

    seg = textsam.segment("scan.png", "tumor")

Importing this package is cheap; the heavy libraries come with the first use of `segment` or
`load_model`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from textsam.errors import (
    AdapterError,
    ConfigError,
    DataError,
    DeviceError,
    ImageError,
    LimitError,
    OutputError,
    PacsError,
    PromptError,
    ReaderError,
    TextSAMError,
    TextSAMWarning,
    WeightsError,
)

if TYPE_CHECKING:
    from textsam.api import load_model, segment
    from textsam.inference.segmenter import Segmenter
    from textsam.model.textsam import TextSAM
    from textsam.result import Segmentation
    from textsam.spelling import CorrectedPromptWarning, UnknownPromptWarning

__version__ = "0.1.0"

__all__ = [
    "AdapterError",
    "ConfigError",
    "CorrectedPromptWarning",
    "DataError",
    "DeviceError",
    "ImageError",
    "LimitError",
    "OutputError",
    "PacsError",
    "PromptError",
    "ReaderError",
    "Segmentation",
    "Segmenter",
    "TextSAM",
    "TextSAMError",
    "TextSAMWarning",
    "UnknownPromptWarning",
    "WeightsError",
    "__version__",
    "load_model",
    "segment",
]

_LAZY = {
    "CorrectedPromptWarning": "textsam.spelling",
    "Segmentation": "textsam.result",
    "Segmenter": "textsam.inference.segmenter",
    "TextSAM": "textsam.model.textsam",
    "UnknownPromptWarning": "textsam.spelling",
    "load_model": "textsam.api",
    "segment": "textsam.api",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'textsam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
