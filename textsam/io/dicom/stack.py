"""`DicomStack`: the frames of one or several DICOM files as images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ConfigError
from textsam.io.dicom.colour import show_colour, show_palette
from textsam.io.dicom.decode import FrameReader, check_decodable
from textsam.io.dicom.geometry import (
    frame_plane,
    frame_spacing_mm,
    plane_affine_mm,
    ultrasound_region,
)
from textsam.io.dicom.grey import show_grey
from textsam.io.dicom.groups import FrameHeader
from textsam.io.dicom.guard import damage_reported
from textsam.io.dicom.header import DicomFile
from textsam.io.dicom.voi import NO_WINDOW
from textsam.io.image import Image, Placement
from textsam.io.limits import Limits
from textsam.io.stack import SourceFormat, Stack

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["DicomStack"]


class DicomStack(Stack):
    """Frames of DICOM files: all of the first file, then all of the second, and so on.

    Args:
        source: what was opened, as text.
        files: at least one file, in order.
        limits: what the files may ask for.
        window: which VOI LUT or window of each image is shown: VOI LUTs are counted first, from 0,
            and windows after them; -1 shows all values, as if the file suggested none.
        crop: whether images of ultrasound get the `region_px` that their header calls tissue.

    Raises:
        ImageError: more frames than `limits` allows, or a transfer syntax no decoder is there for.
        ConfigError: a `window` that is not a whole number from -1.
    """

    format: SourceFormat = "dicom"

    def __init__(
        self,
        source: str,
        files: Sequence[DicomFile],
        *,
        limits: Limits,
        window: int = 0,
        crop: bool = True,
    ) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < NO_WINDOW:
            raise ConfigError(
                f"{source}: window must be a whole number from 0, or {NO_WINDOW} to show all "
                f"values, got {window!r}"
            )
        self.source = source
        self._files = tuple(files)
        self._ends = list(accumulate(file.layout.frames for file in self._files))
        limits.check_images(len(self), source)
        for file in self._files:
            check_decodable(file)
        self._readers = [FrameReader(file, limits) for file in self._files]
        self._window = window
        self._crop = crop

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def headers(self) -> tuple[Dataset, ...]:
        """Each file's elements before its pixel data, with `file_meta`, in the stack's order."""
        return tuple(file.header for file in self._files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Each file's path, in the stack's order."""
        return tuple(file.path for file in self._files)

    def where(self, index: int) -> tuple[int, int]:
        """The file, from 0 as in `paths`, and the frame in it, from 0, that image `index` is.

        Raises:
            IndexError: there is no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.source} has {len(self)} images, there is no number {index}")
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def read(self, index: int) -> Image:
        """Decode image `index`, from 0 to len - 1, and nothing else.

        Returns:
            An Image as a viewer would show it: see `open_dicom`. `placement.index` is `index`.

        Raises:
            ImageError: the frame is damaged or truncated, the file was changed meanwhile, or there
                is no such window.
            IndexError: there is no such image.
        """
        number, frame = self.where(index)
        file, reader = self._files[number], self._readers[number]
        source, layout = reader.name(frame), file.layout
        stored = reader.read(frame)
        with damage_reported(source, "the DICOM header cannot be read"):
            header = FrameHeader(file.header, frame, str(file.path))
            shown = self._shown(stored, file, header, source)
            region = ultrasound_region(file.header, layout, source)
            calibrated_mm = None if region is None else region.spacing_mm
            general_mm = frame_spacing_mm(header, source)
            # Other programs, and the SEG of this image, place it by Pixel Spacing.
            sides_mm, plane = general_mm or calibrated_mm, frame_plane(header, source)
            affine_mm = None
            if plane is not None and sides_mm is not None:
                affine_mm = plane_affine_mm(*plane, sides_mm)
        box = None if region is None or not self._crop else region.box_px
        if box == (0, 0, layout.columns - 1, layout.rows - 1):
            box = None
        return Image(
            shown,
            str(file.path),
            spacing_mm=calibrated_mm or general_mm,
            placement=Placement(index, affine_mm, frame if len(self._files) > 1 else None),
            region_px=box,
        )

    def _shown(
        self, stored: NDArray[Any], file: DicomFile, header: FrameHeader, source: str
    ) -> NDArray[Any]:
        layout, window = file.layout, self._window
        if layout.samples == 3:
            return show_colour(stored, layout, window, source)
        if layout.photometric == "PALETTE COLOR":
            return show_palette(stored, layout, header, window, source)
        grey = show_grey(stored, layout, header, window, source)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
