"""The one family of errors TextSAM raises on purpose, and that of its warnings.

Every message names the input, the value that was wrong and what to do about it, so that it can be
shown to a user as it stands.
"""

from __future__ import annotations

import errno
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
    "ReaderError",
    "TextSAMError",
    "TextSAMWarning",
    "WeightsError",
    "remedy_of",
    "system_reason",
]


_REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "give a folder that can be written",
    errno.ENOTDIR: "give a folder, and not a file",
    errno.EEXIST: "give a folder, and not a file",
    errno.ENAMETOOLONG: "give it a shorter name",
}


class TextSAMError(Exception):
    """Base class: catch this to catch everything TextSAM raises on purpose."""


class TextSAMWarning(UserWarning):
    """Base class of what TextSAM warns of; the command line shows each as a line, once."""


class ImageError(TextSAMError):
    """An input image cannot be used: missing, unreadable, too large, or not an image at all."""


class LimitError(ImageError):
    """An input image asks for more bytes, pixels or images than the limits allow."""


class ReaderError(ImageError):
    """A callable that was to give an image raised an error of another family, its `__cause__`."""


class OutputError(TextSAMError):
    """An output cannot be written: a full disk, missing permissions, a folder that is a file."""

    @classmethod
    def of(cls, path: Path, error: BaseException) -> OutputError:
        """The error for a file that was not written.

        Args:
            path: the file.
            error: why. Of an error that comes from one of the system, that one is told, as what
                lies between has a path and a remedy of its own.
        """
        number, reason = system_reason(error)
        if number is None:
            return cls(f"{path}: cannot be written ({reason})")
        return cls(f"{path}: cannot be written ({reason}); {remedy_of(number)}")


def remedy_of(number: int | None) -> str:
    """What to do about a file that the system did not write, by the number of its error."""
    return _REMEDIES.get(number or 0, "check the folder, its permissions and the space")


def system_reason(error: BaseException) -> tuple[int | None, str]:
    """What the system said, where an error comes from one of the system.

    Libraries wrap such errors, some of them (pydicom) in an `OSError` that has no number and a
    whole traceback for a text. The innermost one with a number is what happened.

    Returns:
        Its number and text. Without one: 0 if there is any `OSError`, None if there is none, and
        the first line of that, or of the error itself.
    """
    told: tuple[int | None, str] = (None, str(error).partition("\n")[0])
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, OSError) and reason.errno is not None:
            told = reason.errno, reason.strerror or str(reason)
        elif isinstance(reason, OSError) and told[0] is None:
            told = 0, str(reason).partition("\n")[0]
        reason = reason.__cause__
    return told


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
