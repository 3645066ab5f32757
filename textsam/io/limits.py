"""How much a file may ask of the machine; checked before memory is spent."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from textsam.errors import ConfigError, LimitError

__all__ = ["DEFAULT_MAX_PIXELS", "Limits", "max_pixels_limit"]

DEFAULT_MAX_PIXELS = 100_000_000
"""Largest image accepted unless told otherwise, in pixels (10,000 x 10,000)."""


def max_pixels_limit(max_pixels: int | None = None) -> int:
    """The size limit in force: the argument, else TEXTSAM_MAX_PIXELS, else DEFAULT_MAX_PIXELS.

    Raises:
        ConfigError: the one that counts is not a positive whole number.
    """
    if max_pixels is not None:
        if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels <= 0:
            raise ConfigError(f"max_pixels must be a positive whole number, got {max_pixels!r}")
        return max_pixels
    text = os.environ.get("TEXTSAM_MAX_PIXELS", "").strip()
    if not text:
        return DEFAULT_MAX_PIXELS
    try:
        limit = int(text)
    except ValueError:
        limit = 0
    if limit <= 0:
        raise ConfigError(
            f"the environment variable TEXTSAM_MAX_PIXELS is {text!r}; set it to a positive whole "
            f"number of pixels, or unset it for the default of {DEFAULT_MAX_PIXELS}"
        )
    return limit


@dataclass(frozen=True)
class Limits:
    """The most that one source may ask for.

    Attributes:
        max_bytes: size of one file on disk, in bytes.
        max_pixels: height x width of one two-dimensional image.
        max_images: pages, frames or slices of one source.
        max_inflated_bytes: what has to be held in memory at once to decode one image: a whole
            compressed volume, say. Headers say how much that is; a file that inflates beyond what
            its header says is refused while it does.

    Raises:
        ConfigError: a limit that is not a positive whole number.
    """

    max_bytes: int = 2 * 1024**3
    max_pixels: int = field(default_factory=max_pixels_limit)
    max_images: int = 20_000
    max_inflated_bytes: int = 1024**3

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_images", "max_inflated_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ConfigError(f"{name} must be a positive whole number, got {value!r}")

    def check_bytes(self, size_bytes: int, source: str) -> None:
        """Raise LimitError where a file is larger than `max_bytes`."""
        if size_bytes > self.max_bytes:
            raise LimitError(
                f"{source}: the file has {size_bytes:,} bytes, the limit is {self.max_bytes:,}; "
                "raise max_bytes (--max-bytes) if the file is meant to be that large"
            )

    def check_images(self, count: int, source: str) -> None:
        """Raise LimitError where a source has more than `max_images` pages, frames or slices."""
        if count > self.max_images:
            raise LimitError(
                f"{source}: the source holds {count:,} images, the limit is {self.max_images:,}; "
                "raise max_images (--max-images), or split it"
            )

    def check_inflated(self, size_bytes: int, source: str) -> None:
        """Raise LimitError where decoding would need more than `max_inflated_bytes` at once."""
        if size_bytes > self.max_inflated_bytes:
            raise LimitError(
                f"{source}: decoding needs {size_bytes:,} bytes at once, the limit is "
                f"{self.max_inflated_bytes:,}; raise max_inflated_bytes (--max-inflated-bytes) if "
                "there is memory for it"
            )
