"""One image with its masks: what is known of it, and reading it from disk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from textsam.errors import DataError, ImageError
from textsam.io.coco_shapes import decode_union
from textsam.io.limits import Limits
from textsam.io.pillow import upright
from textsam.io.raster import read_image
from textsam.io.raw_modes import repair_byte_order
from textsam.io.sniff import HEAD_BYTES, sniff
from textsam.io.tiff import page_directories, stream_of_page
from textsam.io.tiff_samples import refuse_depth

__all__ = [
    "CocoTarget",
    "Sample",
    "Target",
    "load_sample",
    "not_binary",
    "read_mask",
    "unknown_labels",
]

# What Pillow's decoders raise on damaged files, beside OSError.
_DAMAGE = (
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    PILImage.DecompressionBombError,
)


@dataclass(frozen=True)
class Target:
    """Where the mask of one concept is.

    label: the concept's pixel value in a label map, compared exactly; None: a 0/255 mask, of which
        everything above 127 is foreground (a lossy file does not keep 0 and 255 exactly).
    labels: all pixel values beside 0 that the file may hold; another one is an error. Empty: no
        such check.
    """

    concept: str
    mask_path: Path
    label: int | None = None
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class CocoTarget:
    """What a COCO file says about one concept in one image.

    annotations_path: the file, for messages.
    size_px: (H, W) of the image, as the file says.
    rles: compressed run lengths (`textsam.io.coco_shapes.rles_of`), one per polygon or code; the
        mask is their union. Empty: the concept is not in the image.
    """

    concept: str
    annotations_path: Path
    size_px: tuple[int, int]
    rles: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One image and what is known about it.

    targets: the annotated concepts. One whose mask is empty is absent from this image.
    absent: further concepts that are known not to be in the image.
    weight: how often the sample is wanted in an epoch of training, relative to the others.
    """

    dataset: str
    modality: str
    stem: str
    image_path: Path
    targets: tuple[Target | CocoTarget, ...]
    absent: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def name(self) -> str:
        """ "DATASET/STEM", for messages and tables."""
        return f"{self.dataset}/{self.stem}"


def read_mask(path: Path) -> NDArray[Any]:
    """A mask file: (H, W) integers as stored; a palette image gives its indices.

    An EXIF orientation is applied as it is to images.
    Raises DataError if the file is missing, unreadable, of several pages or frames, a real
    colour image, or drawn by transparency alone.
    """
    try:
        with _opened(path) as file:
            file.load()
            mode = file.mode
            raw = upright(np.asarray(file), file)
    except FileNotFoundError:
        raise DataError(f"The mask {path} does not exist.") from None
    except (OSError, ImageError, *_DAMAGE) as error:
        told = str(error).removeprefix(f"{path}: ")
        raise DataError(f"The mask {path} cannot be read: {told}") from error
    if mode in ("LA", "RGB", "RGBA"):
        colour = raw[..., : 1 if mode == "LA" else 3]
        if not (colour == colour[..., :1]).all():
            raise DataError(
                f"The mask {path} is a colour image. Store one grey value per class instead."
            )
        if mode != "RGB" and np.ptp(raw[..., -1]) and not np.ptp(colour):
            raise DataError(
                f"The mask {path} is of one grey value, drawn by its transparency alone. Save it "
                "as a grey image without transparency."
            )
        raw = colour[..., 0]
    if raw.ndim != 2 or raw.dtype.kind not in "biu":
        raise DataError(f"The mask {path} has mode {mode}; an 8- or 16-bit grey image is needed.")
    return raw.astype(np.uint8) * 255 if raw.dtype == np.bool_ else raw


@contextmanager
def _opened(path: Path) -> Iterator[PILImage.Image]:
    """The one picture of a mask file. Which pages count is as for images."""
    with path.open("rb") as stream:
        if sniff(stream.read(HEAD_BYTES)) == "tiff":
            pages = page_directories(stream, str(path), Limits())
            count = len(pages)
            with PILImage.open(stream_of_page(stream, pages[0].offset, str(path))) as file:
                _refuse_pages(path, count)
                refuse_depth(file, str(path))
                repair_byte_order(file)
                yield file
            return
        stream.seek(0)
        with PILImage.open(stream) as file:
            # MPO is a photograph with previews, of which the photograph is read.
            _refuse_pages(path, 1 if file.format == "MPO" else getattr(file, "n_frames", 1))
            yield file


def _refuse_pages(path: Path, count: int) -> None:
    if count > 1:
        raise DataError(
            f"The mask {path} holds several pages or frames ({count}), and it is not known which "
            "one is meant. Save that one as a PNG file."
        )


def _foreground(target: Target, raw: NDArray[Any]) -> NDArray[np.bool_]:
    if not_binary(target, raw):
        raise DataError(
            f"The mask {target.mask_path} holds the values {_listed(raw)} and none above 127: "
            "it is not a 0/255 mask. Write 255 inside, or give the value as a class in a manifest, "
            'as in "classes": {"1": CONCEPT}.'
        )
    unknown = unknown_labels(target, raw)
    if unknown.size:
        raise DataError(
            f"The mask {target.mask_path} holds the values {_listed(unknown)}, which are not "
            f"among the labels of its set: {', '.join(map(str, target.labels))}."
        )
    return np.asarray(raw > 127 if target.label is None else raw == target.label)


def not_binary(target: Target, values: NDArray[Any]) -> bool:
    """Whether a mask that should be 0/255 has pixels, and none of them foreground."""
    return target.label is None and bool(values.any()) and not bool((values > 127).any())


def unknown_labels(target: Target, values: NDArray[Any]) -> NDArray[Any]:
    """Values of a label map that its set does not have."""
    if target.label is None or not target.labels:
        return values[:0].ravel()
    return np.setdiff1d(values, np.asarray((0, *target.labels)))


def _listed(values: NDArray[Any]) -> str:
    unique = np.unique(values)
    return ", ".join(str(int(v)) for v in unique[:8]) + (", …" if unique.size > 8 else "")


def _pixels(sample: Sample) -> NDArray[np.uint8]:
    try:
        pixels = read_image(sample.image_path).pixels
    except ImageError as error:
        raise DataError(f"The image of {sample.name} cannot be used: {error}") from error
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels).astype(np.uint8)
    return np.asarray(pixels)


def load_sample(sample: Sample) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
    """Read a sample: its image (H, W, 3) in [0, 255] and concept -> mask (H, W).

    A concept that is annotated and has no pixel gives an all-False mask. Two targets of the same
    concept are united. Raises DataError for a file that is missing, unreadable or of another size
    than the image, and for pixel values that the targets do not explain.
    """
    image = _pixels(sample)
    size_px = (image.shape[0], image.shape[1])
    raws: dict[Path, NDArray[Any]] = {}
    masks: dict[str, NDArray[np.bool_]] = {}
    for target in sample.targets:
        if isinstance(target, CocoTarget):
            _check_size(sample, f"{target.annotations_path} says it", target.size_px, size_px)
            mask = decode_union(target.rles, size_px)
        else:
            if target.mask_path not in raws:
                raws[target.mask_path] = read_mask(target.mask_path)
            raw = raws[target.mask_path]
            _check_size(sample, f"the mask {target.mask_path}", raw.shape, size_px)
            mask = _foreground(target, raw)
        masks[target.concept] = masks[target.concept] | mask if target.concept in masks else mask
    return image, masks


def _check_size(sample: Sample, what: str, size: tuple[int, ...], size_px: tuple[int, int]) -> None:
    if size != size_px:
        raise DataError(
            f"{sample.name}: {what} is {size[1]}x{size[0]} px (width x height), the image "
            f"{size_px[1]}x{size_px[0]} px."
        )
