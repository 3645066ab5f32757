"""Write what is asked of one input: masks as they come, volumes when all are there."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from textsam.errors import ImageError, OutputError, TextSAMError, system_reason
from textsam.folder.held import HeldAnswers
from textsam.folder.names import RASTER_ENDS, TILE_FOLDER, answer_name
from textsam.folder.options import Format
from textsam.folder.plan import Input, Plan
from textsam.folder.sheet import draw_tile
from textsam.io.raster import write_mask, write_picture
from textsam.io.stack import Stack
from textsam.result import Segmentation

if TYPE_CHECKING:
    from textsam.io.dicom import DicomStack

__all__ = ["OutputWriter"]

# A name that is too long, or that the file system cannot have, such as one with ":" on exFAT; or
# one that is taken: by a folder where a file is to be, or by a file where a folder is to be.
_OF_A_NAME = frozenset(
    {
        errno.ENAMETOOLONG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
    }
)


class OutputWriter:
    """The output files of one input.

    Memory: none that grows, but for formats of a whole input, whose masks are held in a bit per
    pixel.

    Args:
        plan: says what to write and where.
        item: the input.
        stack: its images.
        formats: what to write, all of which fit the input.
        model_identity: of the model and its settings.

    Attributes:
        written: all files written so far.
        numbered: whether the input has several images, whose numbers are part of the names.
        whole: the formats of a whole input, which `finish` is to be asked for.
    """

    def __init__(
        self,
        plan: Plan,
        item: Input,
        stack: Stack,
        formats: Sequence[Format],
        model_identity: str,
    ) -> None:
        self._plan = plan
        self._item = item
        self._stack = stack
        self._model_identity = model_identity
        self.written: list[Path] = []
        self.numbered = len(stack) > 1
        self._rasters = [name for name in formats if name in RASTER_ENDS]
        self.whole = [name for name in formats if name in ("nifti", "seg")]
        self._held: HeldAnswers | None = None
        if self.whole:
            fractional = plan.options.fractional and "seg" in self.whole
            self._held = HeldAnswers(fractional=fractional)

    def add(self, index: int, answers: Sequence[Segmentation]) -> list[dict[str, str]]:
        """Write what can be written of image `index`.

        Returns:
            Per prompt, kind of file -> its path relative to the output folder. "mask" is the mask's
            file; "tiff" is there beside it where PNG is written too.

        Raises:
            OutputError: nothing can be written any more.
            TextSAMError: this one file cannot be.
        """
        files: list[dict[str, str]] = []
        for number, answer in enumerate(answers):
            made: dict[str, str] = {}
            for name in self._rasters:
                path = self._path(number, index, RASTER_ENDS[name])
                made[name if made else "mask"] = self._write(path, partial(write_mask, answer.mask))
            if self._plan.options.overlay:
                path = self._path(number, index, "_overlay.png")
                made["overlay"] = self._write(path, partial(write_picture, answer.overlay()))
            if self._plan.options.sheet:
                path = self._plan.out / TILE_FOLDER / self._name(number, index, ".jpg")
                tile = draw_tile(answer, self._label(index))
                made["thumbnail"] = self._write(path, partial(write_picture, tile))
            files.append(made)
        if self._held is not None:
            self._held.hold(index, answers)
        return files

    def finish(self, name: str) -> list[dict[str, str]]:
        """Write one of the formats in `whole`, once all images of the input were added.

        Returns:
            Per prompt, kind of file -> its path relative to the output folder.

        Raises:
            OutputError, TextSAMError: as `add`.
        """
        with _writing(self._plan.out / self._item.base):
            shown, paths = self._nifti() if name == "nifti" else self._seg()
        self.written += paths
        return [{name: self._relative(path)} for path in shown]

    def sizes(self) -> dict[str, int]:
        """Path relative to the output folder -> bytes, of all files written.

        Raises:
            OutputError: a file is gone already.
        """
        sizes: dict[str, int] = {}
        for path in self.written:
            try:
                sizes[self._relative(path)] = path.stat().st_size
            except OSError as error:
                raise OutputError.of(path, error) from error
        return sizes

    def _nifti(self) -> tuple[list[Path], list[Path]]:
        """Write a volume per prompt: per prompt what to show for it, and all files."""
        from textsam.io.nifti_out import write_nifti

        assert self._held is not None  # there is a format of the whole input
        paths = []
        for number, slug in enumerate(self._plan.slugs):
            path = self._plan.out / f"{self._item.base}_{slug}.nii.gz"
            write_nifti(path, self._stack, self._held.masks(number))
            paths.append(path)
        return paths, paths

    def _seg(self) -> tuple[list[Path], list[Path]]:
        """Write a DICOM segmentation of all prompts; as `_nifti`."""
        from textsam.io.seg import seg_identity, write_seg

        assert self._held is not None
        stack = cast("DicomStack", self._stack)
        plan, model_identity = self._plan, self._model_identity
        settings, fractional = plan.options.reading(), plan.options.fractional
        identity = seg_identity(
            stack,
            plan.prompts,
            model_identity,
            fractional=fractional,
            settings=settings,
            indices=self._held,
        )
        # Images without a place in the patient get a file each, in a folder.
        single = len(identity.instance_uids) == 1
        target = plan.out / f"{self._item.base}_seg{'.dcm' if single else ''}"
        paths = write_seg(
            target,
            stack,
            self._held,
            fractional=fractional,
            model_identity=model_identity,
            settings=settings,
        )
        return [target] * len(plan.prompts), paths

    def _label(self, index: int) -> str:
        return f"{self._item.name} [{index}]" if self.numbered else self._item.name

    def _name(self, prompt: int, index: int, end: str) -> str:
        frame = index if self.numbered else None
        return answer_name(self._item.base, self._plan.slugs[prompt], frame) + end

    def _path(self, prompt: int, index: int, end: str) -> Path:
        mask = self._plan.mask_file
        if mask is None:
            return self._plan.out / self._name(prompt, index, end)
        if self.numbered and self._plan.options.frame is None:
            raise ImageError(
                f"{self._item.path} holds several images, and {mask} one mask; give a folder"
            )
        return mask.with_name(mask.stem + end) if end.startswith("_") else mask

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._plan.out).as_posix()

    def _write(self, path: Path, write: Callable[[Path], Path]) -> str:
        with _writing(path):
            write(path)
        self.written.append(path)
        return self._relative(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell a disk that takes nothing any more from an answer that one file cannot hold."""
    try:
        yield
    except (TextSAMError, OSError) as error:
        if _is_disk_error(error):
            raise OutputError.of(path, error) from error
        raise


def _is_disk_error(error: BaseException) -> bool:
    """Whether an error comes from the disk as a whole, and not from the name of the one file."""
    number, _ = system_reason(error)
    return number is not None and number not in _OF_A_NAME
