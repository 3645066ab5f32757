"""Hashes by which something is drawn alike everywhere and in any order.

Names among what is hashed may be of files, and so need not be valid UTF-8.
"""

from __future__ import annotations

import hashlib
import zlib

__all__ = ["drawn_by", "number_of"]


def drawn_by(*facts: object) -> bytes:
    """The 32 bytes that these facts draw."""
    return hashlib.sha256(_bytes_of("\n".join(map(str, facts)))).digest()


def number_of(name: str) -> int:
    """A number in [0, 2³²) that a name draws."""
    return zlib.crc32(_bytes_of(name))


def _bytes_of(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
