"""Prompts without labels for the images of a folder, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textsam.data.listing import SUFFIXES, list_folder
from textsam.errors import DataError, ImageError, OutputError
from textsam.inference.refinement import generator_for
from textsam.io.atomic import save_text
from textsam.io.out_folder import check_out_folder
from textsam.io.raster import read_image
from textsam.saliency.region import prompt_of_region, salient_region

__all__ = ["Saliency", "write_prompts"]


class Saliency(Protocol):
    """A method: `ClipSaliency` or `BoxSaliency`."""

    name: str

    def __call__(self, pixels: NDArray[np.uint8], text: str) -> NDArray[np.float32]:
        """(H, W, 3) pixels and a text -> (H, W) saliency."""
        ...


def write_prompts(
    folder: str | Path, text: str, out: str | Path, saliency: Saliency, *, seed: int = 0
) -> dict[str, Any]:
    """Box and points of what a text, or the image alone, makes salient in every image.

    Args:
        folder: of images; folders in it are not looked into, and hidden files are left out.
        text: what is wanted.
        out: JSON to write: `method`, `text`, `seed`, in `images` file name -> `box`
            (x_min, y_min, x_max, y_max) and `points` [(x, y), …] in pixels, or null where nothing
            is salient, and in `failures` the `path` and `error` of each file that cannot be read.
        saliency: how.
        seed: of the points.

    Returns:
        What was written.

    Raises:
        DataError: the folder has no images, or is none.
        OutputError: `out` cannot be written, found out before there is any work.
        TextSAMError: writing it fails.
    """
    folder, out = Path(folder), Path(out)
    check_out_folder(out.parent)
    if out.is_dir():
        raise OutputError(f"{out} is a folder; give a JSON file to write")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder, so it holds no image; give a folder of images")
    usable = list_folder(folder).usable.values()
    paths = sorted(path for same in usable for path in same if not path.is_dir())
    if not paths:
        raise DataError(f"{folder} holds no image ({SUFFIXES})")
    images: dict[str, Any] = {}
    failures: list[dict[str, str]] = []
    for path in paths:
        try:
            picture = read_image(path)
        except ImageError as error:
            failures.append({"path": path.name, "error": str(error)})
            continue
        pixels = np.clip(np.rint(picture.pixels), 0, 255).astype(np.uint8)
        region = salient_region(saliency(pixels, text), pixels)
        if region is None:
            images[path.name] = None
            continue
        found = prompt_of_region(region, generator_for(seed, path.name, text, 1))
        images[path.name] = {"box": found.box.tolist(), "points": found.points.tolist()}
    content = {
        "method": saliency.name,
        "text": text,
        "seed": seed,
        "images": images,
        "failures": failures,
    }
    save_text(out, json.dumps(content, indent=1) + "\n")
    return content
