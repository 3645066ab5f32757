"""A temporary folder, or a message that says why there is none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from textsam.errors import TextSAMError

__all__ = ["temporary_folder"]


@contextmanager
def temporary_folder(prefix: str, refusal: Callable[[OSError], TextSAMError]) -> Iterator[Path]:
    """Make a folder that only this user can read; it is removed in the end.

    Args:
        prefix: of its name.
        refusal: makes the error to raise of why it cannot be made.

    Raises:
        TextSAMError: of `refusal`.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise refusal(error) from error
    with made as folder:
        yield Path(folder)
