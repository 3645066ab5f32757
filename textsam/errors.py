"""The one family of errors TextSAM raises on purpose.

Every message names the input, the value that was wrong and what to do about it, so that it can be
shown to a user as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AdapterError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "ImageError",
    "LimitError",
    "OutputError",
    "PacsError",
    "PromptError",
    "TextSAMError",
    "WeightsError",
]


class TextSAMError(Exception):
    """Base class: catch this to catch everything TextSAM raises on purpose."""


class ImageError(TextSAMError):
    """An input image cannot be used: missing, unreadable, too large, or not an image at all."""


class LimitError(ImageError):
    """An input image asks for more bytes, pixels or images than the limits allow."""


class OutputError(TextSAMError):
    """An output cannot be written: a full disk, missing permissions, a folder that is a file."""

    @classmethod
    def of(cls, path: Path, error: BaseException) -> OutputError:
        """The error for a file of a run over many inputs, not written because of `error`."""
        return cls(
            f"{path}: cannot be written ({error}); free space or check the permissions, then go on "
            "with --resume"
        )


class PacsError(TextSAMError):
    """An image archive (DICOMweb) cannot be reached, refuses, or answers what it should not."""


class PromptError(TextSAMError):
    """A text, point or box prompt cannot be used."""


class WeightsError(TextSAMError):
    """Base weights are missing, corrupt, unsafe to load, or do not fit the model."""


class AdapterError(TextSAMError):
    """An adapter folder or a converted checkpoint is incomplete or does not fit its base model."""


class ConfigError(TextSAMError):
    """A configuration is unknown, inconsistent or cannot be parsed."""


class DataError(TextSAMError):
    """A data set is incomplete or inconsistent."""


class DeviceError(TextSAMError):
    """The requested device or precision is not available on this machine."""
