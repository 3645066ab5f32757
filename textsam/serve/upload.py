"""An uploaded file: what it is, its images, and nothing of it left when the request is over."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from textsam.errors import ConfigError, ImageError, LimitError, TextSAMError
from textsam.io.image import Image
from textsam.io.limits import Limits
from textsam.io.open import open_stack
from textsam.io.sniff import HEAD_BYTES, sniff
from textsam.io.stack import Stack
from textsam.io.temporary import temporary_folder
from textsam.serve.problems import FrameNeededError, UnknownFileError, no_room

__all__ = ["SOURCE", "Upload", "saved_upload", "upload_folder"]

SOURCE = "upload"
"""What an uploaded file is called in answers and messages."""


class Upload:
    """One image of an uploaded file.

    Args:
        path: the file on this server's disk.
        kind: what `sniff` says it is.
        frame: number of the frame, page or slice, from 0; None where there is one only.
        axis: of a volume, the voxel axis across which it is cut; None for the thickest.
        window: of DICOM, which of the windows in the file to look through, from 0; -1 for none.
        limits: what it may ask of the machine.
        max_answer_px: most pixels of all its masks together.
        prompts: how many masks there will be.

    Attributes:
        stack: the opened file.
        index: number of the image in it, from 0.
        window: as given.

    Raises:
        ImageError: the file cannot be used, or there is no such image in it.
        FrameNeededError: it holds several images and `frame` is None.
        LimitError: over a limit.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        *,
        frame: int | None,
        axis: int | None,
        window: int,
        limits: Limits,
        prompts: int,
        max_answer_px: int,
    ) -> None:
        self.kind = kind
        self.window = window
        self._path = path
        self._prompts = prompts
        self._max_answer_px = max_answer_px
        with self.without_path():
            self.stack: Stack = open_stack(path, axis=axis, window=window, limits=limits)
        self.index = _chosen(len(self.stack), frame)

    def read(self) -> Image:
        """Decode the image; `source` of the result names no path."""
        with self.without_path():
            image = self.stack.read(self.index)
        pixels = image.height * image.width * self._prompts
        if pixels > self._max_answer_px:
            raise LimitError(
                f"{SOURCE}: {self._prompts} masks of {image.width} x {image.height} px are "
                f"{pixels:,} px, the limit is {self._max_answer_px:,}; ask fewer prompts at a time"
            )
        return replace(image, source=SOURCE)

    @contextmanager
    def without_path(self) -> Iterator[None]:
        """Messages that name the file's place on this server call it by another name."""
        try:
            yield
        except TextSAMError as error:
            error.args = tuple(
                _cleaned(value, self._path) if isinstance(value, str) else value
                for value in error.args
            )
            raise


def _cleaned(message: str, path: Path) -> str:
    for place in (str(path), str(path.resolve()), path.name):
        message = message.replace(place, SOURCE)
    return message


def _chosen(images: int, frame: int | None) -> int:
    if frame is None and images != 1:
        raise FrameNeededError(
            f"{SOURCE}: the file holds {images} images; say which with frame=0 to {images - 1}",
            images,
        )
    index = frame or 0
    if index >= images:
        raise ImageError(
            f"{SOURCE}: there is no frame {index}; the file holds {images}, counted from 0"
        )
    return index


def upload_folder() -> AbstractContextManager[Path]:
    """A folder for uploads that only this user can read; it is removed in the end.

    Raises (on entering):
        ConfigError: it cannot be made.
    """
    return temporary_folder("textsam-serve-", _no_folder)


def _no_folder(error: OSError) -> ConfigError:
    return ConfigError(
        f"the folder for uploads cannot be made ({error}); set TMPDIR to a folder that can be "
        "written to"
    )


@contextmanager
def saved_upload(file: IO[bytes], folder: Path) -> Iterator[tuple[Path, str]]:
    """Write an upload to a file of its own, named by chance; remove it in the end.

    Yields:
        Its path and what `sniff` says it is.

    Raises:
        UnknownFileError: the first bytes are those of no file type that is read.
        Refusal: 507, the disk does not take it.
    """
    file.seek(0)
    kind = sniff(file.read(HEAD_BYTES))
    file.seek(0)
    if kind is None:
        raise UnknownFileError(
            f"{SOURCE}: this is no PNG, JPEG, BMP, TIFF, NIfTI or DICOM file (with its preamble); "
            "export the image as one of these"
        )
    path = folder / secrets.token_hex(16)
    try:
        try:
            with path.open("xb") as copy:
                shutil.copyfileobj(file, copy)
        except OSError as error:
            raise no_room(error) from error
        yield path, kind
    finally:
        path.unlink(missing_ok=True)
