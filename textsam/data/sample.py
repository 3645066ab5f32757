"""One image with its masks: what is known of it, and reading it from disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import DataError, ImageError, LimitError
from textsam.io.coco_shapes import decode_union
from textsam.io.pages import open_raster
from textsam.io.paths import existing_file
from textsam.io.raster import read_image

__all__ = [
    "CocoTarget",
    "Sample",
    "Target",
    "listed_values",
    "load_sample",
    "not_binary",
    "read_mask",
    "unknown_labels",
]

# Inside, in masks of more than 8 bits.
_FULL = (255 << 8, *(2**bits - 1 for bits in (10, 12, 14, 15, 16, 31, 32)))


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

    It is decoded as images are: an EXIF orientation is applied, and the limits are the same.
    Raises DataError if the file is missing, unreadable, of several pages or frames, a real
    colour image, or drawn by transparency alone.
    """
    try:
        if not path.exists():
            raise DataError(f"The mask {path} does not exist.")
        stack = open_raster(existing_file(path))
        if len(stack) > 1:
            raise DataError(
                f"The mask {path} holds several pages or frames ({len(stack)}), and it is not "
                "known which one is meant. Save that one as a PNG file."
            )
        raw = stack.values(0, indices=True)
    except (OSError, ImageError) as error:
        told = str(error).removeprefix(f"{path}: ")
        if not isinstance(error, LimitError):
            # What an image may be instead, and a caller do with it, is nothing for a mask.
            told = f"{told.partition('; ')[0]}; copy it again, or save it as a grey PNG file"
        raise DataError(f"The mask {path} cannot be read: {told}") from error
    if raw.ndim == 3:
        colour = raw[..., :3]
        if not (colour == colour[..., :1]).all():
            raise DataError(
                f"The mask {path} is a colour image. Store one grey value per class instead."
            )
        if raw.shape[2] == 4 and np.ptp(raw[..., 3]) and not np.ptp(colour):
            raise DataError(
                f"The mask {path} is of one grey value, drawn by its transparency alone. Save it "
                "as a grey image without transparency."
            )
        raw = colour[..., 0]
    if raw.dtype.kind not in "biu":
        raise DataError(f"The mask {path} holds {raw.dtype} values; whole numbers are needed.")
    return raw.astype(np.uint8) * 255 if raw.dtype == np.bool_ else raw


def _foreground(target: Target, raw: NDArray[Any]) -> NDArray[np.bool_]:
    if fault := not_binary(target, raw):
        raise DataError(
            f"The mask {target.mask_path} {fault}: it is not a 0/255 mask. Write 255 inside, or "
            'give the value as a class in a manifest, as in "classes": {"1": CONCEPT}.'
        )
    unknown = unknown_labels(target, raw)
    if unknown.size:
        raise DataError(
            f"The mask {target.mask_path} holds the values {listed_values(unknown)}, which are not "
            f"among the labels of its set: {', '.join(map(str, target.labels))}."
        )
    return np.asarray(raw > 127 if target.label is None else raw == target.label)


def not_binary(target: Target, values: NDArray[Any]) -> str:
    """What is wrong with the values of a mask that should be 0/255; empty where nothing is.

    It has pixels, and none of them foreground; or it numbers objects, so that some would be
    foreground for their number alone.
    """
    top = int(values.max(initial=0))
    if target.label is not None or not values.any():
        return ""
    if top <= 127:
        return f"holds the values {listed_values(values)} and none above 127"
    if top > 255 and top not in _FULL and np.unique(values).size > 2:
        return f"holds the values {listed_values(values)}, as a map of labels or objects does"
    return ""


def unknown_labels(target: Target, values: NDArray[Any]) -> NDArray[Any]:
    """Values of a label map that its set does not have."""
    if target.label is None or not target.labels:
        return values[:0].ravel()
    return np.setdiff1d(values, np.asarray((0, *target.labels)))


def listed_values(values: NDArray[Any]) -> str:
    """The distinct ones in a sentence, eight at most."""
    unique = np.unique(values)
    more = f" and {unique.size - 8} more" if unique.size > 8 else ""
    return ", ".join(str(int(value)) for value in unique[:8]) + more


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
