"""Open inputs ahead of their use: headers and hashes are read while the model works."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from textsam.errors import ImageError, TextSAMError
from textsam.folder.manifest import file_identity
from textsam.folder.options import Format, Options, formats_for
from textsam.folder.plan import Input
from textsam.io.image import Image
from textsam.io.open import open_stack
from textsam.io.stack import Stack

__all__ = ["Opened", "check_input", "open_ahead", "open_input"]

# Opened inputs hold headers and a hash, no pixels.
_AHEAD = 8


@dataclass(frozen=True, eq=False)
class Opened:
    """An input whose headers were read.

    Attributes:
        item: the input.
        files: what identifies its content; see `InputRecord.files`.
        stack: its images, None where it cannot be opened.
        frames: which of them are to be segmented.
        formats: those of the formats asked for that it can have.
        error: why it cannot be opened, or None.
    """

    item: Input
    files: list[dict[str, Any]]
    stack: Stack | None = None
    frames: Sequence[int] = ()
    formats: tuple[Format, ...] = ()
    error: TextSAMError | None = None
    _reading: Lock = field(default_factory=Lock)

    def read(self, frame: int) -> Image:
        """Decode one image; several threads may ask.

        Raises:
            ImageError: the image, or the input as a whole, cannot be read.
        """
        if self.error is not None:
            raise self.error
        assert self.stack is not None  # there is an error otherwise
        # Readers of formats with many images keep a place in their file.
        with self._reading:
            return self.stack.read(frame)


def open_input(item: Input, options: Options) -> Opened:
    """Hash the files of an input and read its headers; what fails is in the result."""
    try:
        # The hash comes first: if the file is replaced in between, it is not that of what was
        # segmented, and the input is done again by the next run. What is refused for its size is
        # not read for minutes before.
        large = any(path.stat().st_size > options.limits.max_bytes for path in item.paths)
        files = [] if large else file_identity(item.paths)
    except OSError:
        files = []  # opening it says why
    try:
        stack = _open(item, options)
        return Opened(
            item,
            files,
            stack,
            frames=_frames(stack, options.frame),
            formats=formats_for(stack, options.formats),
        )
    except TextSAMError as error:
        return Opened(item, files, error=error)


def check_input(item: Input, options: Options) -> int:
    """Read the headers of an input, and nothing else; how many images are to be segmented.

    Raises:
        TextSAMError: what `open_input` would say of it.
    """
    stack = _open(item, options)
    formats_for(stack, options.formats)
    return len(_frames(stack, options.frame))


def open_ahead(inputs: Sequence[Input], options: Options) -> Generator[Opened]:
    """`open_input` of each, in order, a few ahead in a thread of their own."""
    pending: deque[Future[Opened]] = deque()
    pool = ThreadPoolExecutor(1, "textsam-open")
    try:
        for item in inputs:
            pending.append(pool.submit(open_input, item, options))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _open(item: Input, options: Options) -> Stack:
    reading: dict[str, Any] = {
        "window": options.window,
        "crop": options.crop,
        "limits": options.limits,
    }
    if len(item.paths) > 1:
        from textsam.io.dicom import open_series

        # A raw data object among its images must not cost the series.
        return open_series(item.paths, skip_no_picture=True, **reading)
    return open_stack(item.path, axis=options.axis, **reading)


def _frames(stack: Stack, frame: int | None) -> Sequence[int]:
    count = len(stack)
    if count == 0:
        raise ImageError(f"{stack.source}: there is no image in it")
    if frame is None:
        return range(count)
    if frame >= count:
        raise ImageError(
            f"{stack.source}: there is no image {frame}; it has {count}, counted from 0"
        )
    return [frame]
