"""`RasterStack`: the one image of a PNG, JPEG or BMP file, or the pages of a TIFF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.image import Image, Placement
from textsam.io.limits import Limits
from textsam.io.paths import read_head
from textsam.io.pillow import check_header, decode_file
from textsam.io.pixels import to_rgb
from textsam.io.sniff import HEAD_BYTES, sniff
from textsam.io.stack import Stack
from textsam.io.tiff import TiffPage, page_directories

__all__ = ["RasterStack", "open_raster"]


class RasterStack(Stack):
    """The images of a raster file, each scaled to 0 to 255 by itself, as `read_image` does.

    Args:
        path: the file.
        pages: the pages of a TIFF file, None for a file of one image.
        limits: what the file may ask for.
    """

    def __init__(self, path: Path, pages: tuple[TiffPage, ...] | None, limits: Limits) -> None:
        self.source = str(path)
        self.format = "raster"
        self._path, self._pages, self._limits = path, pages, limits

    def __len__(self) -> int:
        return 1 if self._pages is None else len(self._pages)

    def read(self, index: int) -> Image:
        """Decode image or page `index`; see `Stack.read`."""
        source = self._source_of(index)
        return Image(to_rgb(self.values(index), source), self.source, placement=Placement(index))

    def values(self, index: int, *, indices: bool = False) -> NDArray[Any]:
        """The values of image or page `index` as stored; see `textsam.io.pillow.decode_file`."""
        directory, source = None, self._source_of(index)
        if self._pages is not None:
            page = self._pages[index]
            if page.damage is not None:
                raise ImageError(
                    f"{source}: the page is damaged or cut off ({page.damage}); copy or export "
                    "the file again"
                )
            directory = page.offset
        return decode_file(
            self._path,
            self._limits.max_pixels,
            directory=directory,
            source=source,
            indices=indices,
        )

    def _source_of(self, index: int) -> str:
        return f"{self.source}, page {index}" if len(self) > 1 else self.source


def open_raster(path: Path, limits: Limits | None = None) -> RasterStack:
    """Open a PNG, JPEG, BMP or TIFF file.

    The header of a file of one image is checked here, those of a TIFF's pages when a page is read.

    Raises:
        ImageError: not such a file, an animation, or a damaged header or chain of pages.
        LimitError: over one of the limits.
    """
    limits = limits or Limits()
    pages = None
    if sniff(read_head(path, HEAD_BYTES)) == "tiff":
        with path.open("rb") as stream:
            pages = page_directories(stream, str(path), limits)
    if pages is None:
        check_header(path, limits.max_pixels)
    elif len(pages) == 1 and pages[0].damage is None:
        check_header(path, limits.max_pixels, directory=pages[0].offset)
    return RasterStack(path, pages, limits)
