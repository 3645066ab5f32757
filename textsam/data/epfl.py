"""The EPFL Electron Microscopy Dataset: stacks of mitochondria, into plain folders of slices.

Four multi-page TIFF files, as published by Lucchi et al. (hippocampus of a mouse, 5 nm voxels):
`training.tif`, `training_groundtruth.tif`, `testing.tif` and `testing_groundtruth.tif`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from textsam.data.staging import staged_folder
from textsam.errors import DataError, ImageError
from textsam.io.pages import open_raster

__all__ = ["prepare_epfl"]

_TRUTH = "_groundtruth"


def _stack(path: Path) -> list[NDArray[np.uint8]]:
    """(H, W) grey pages of a TIFF.

    Raises:
        DataError: missing, damaged, or in colour.
    """
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; give the folder with training.tif, testing.tif and their "
            "_groundtruth.tif"
        )
    try:
        stack = open_raster(path)
        pages = [np.asarray(stack.read(number).pixels) for number in range(len(stack))]
    except ImageError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, page in enumerate(pages):
        if page.dtype != np.uint8 or not (page == page[..., :1]).all():
            raise DataError(
                f"{path}, page {number}: 8-bit grey is needed, as the data set is published"
            )
    return [page[..., 0] for page in pages]


def prepare_epfl(source: str | Path, target: str | Path) -> dict[str, int]:
    """Write `{train,val,test}/{images,masks}/SLICE.png`, a plain folder with one concept.

    Training slices are those of `training.tif`. Half of the test part is validation, as in Funai et
    al.: its first half, so that only two slices of the two parts are neighbours.

    Args:
        source: folder with the four files.
        target: to write; must not exist. It appears complete or not at all.

    Returns:
        Part -> slices.

    Raises:
        DataError: a file is missing or damaged, stacks that do not belong together, a truth that
            is not 0/255, or `target` exists.
    """
    source = Path(source)
    with staged_folder(target) as staged:
        counts = {}
        for name in ("training", "testing"):
            images = _stack(source / f"{name}.tif")
            masks = _stack(source / f"{name}{_TRUTH}.tif")
            if len(images) != len(masks):
                raise DataError(
                    f"{source}: {name}.tif has {len(images)} slices, {name}{_TRUTH}.tif "
                    f"{len(masks)}; they are not of one stack"
                )
            half = len(images) // 2
            if name == "testing" and not half:
                raise DataError(
                    f"{source / name}.tif has {len(images)} slice; two or more are needed, as half "
                    "of them validate"
                )
            ranges = {"train": range(len(images))}
            if name == "testing":
                ranges = {"val": range(half), "test": range(half, len(images))}
            for part, numbers in ranges.items():
                counts[part] = len(numbers)
                for number in numbers:
                    where = f"{source / name}{_TRUTH}.tif, slice {number}"
                    _check(where, images[number], masks[number])
                    _write(staged / part, f"{number:03d}", images[number], masks[number])
    return counts


def _check(where: str, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    if image.shape != mask.shape:
        raise DataError(f"{where}: the truth is {mask.shape}, its image {image.shape} (H, W)")
    values = set(np.unique(mask).tolist())
    if not values <= {0, 255}:
        raise DataError(
            f"{where}: the truth holds the values {sorted(values)[:8]}; 0 and 255 are expected"
        )


def _write(folder: Path, stem: str, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    for kind, pixels in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(pixels).save(folder / kind / f"{stem}.png")
