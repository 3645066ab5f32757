"""Masks as a COCO file: one JSON of images, categories and annotations.

Written from the format's description (https://cocodataset.org/#format-data) and checked against
pycocotools, which is not needed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import textsam
from textsam.errors import TextSAMError
from textsam.io.atomic import atomic_path, told_as
from textsam.result import Segmentation

__all__ = [
    "CocoWriter",
    "coco_categories",
    "coco_info",
    "encode_placed",
    "encode_rle",
    "encode_runs",
    "write_coco",
]


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Run-length encode a mask as COCO does.

    Args:
        mask: (H, W) bool.

    Returns:
        {"size": [H, W], "counts": text}: lengths of runs down the columns, the first of pixels
        outside; from the fourth on as differences to the last but one before; each in groups of
        five bits, lowest first, with a sixth bit for "more follows", as a character from "0" on.
    """
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise TextSAMError(
            f"a mask of {mask.dtype} {mask.shape} cannot be encoded; pass bool (H, W)"
        )
    return encode_placed(mask, (0, 0), (mask.shape[0], mask.shape[1]))


def encode_placed(
    part: NDArray[np.bool_], corner: tuple[int, int], size_px: tuple[int, int]
) -> dict[str, Any]:
    """Run-length encode a mask of which only a part has pixels, in the time that part takes.

    Args:
        part: (h, w) bool.
        corner: (row, column) of the part's first pixel in the mask.
        size_px: (H, W) of the mask.

    Returns:
        As `encode_rle` of the whole mask.
    """
    (top, left), (height, width) = corner, size_px
    columns = np.zeros((height, part.shape[1]), dtype=np.bool_)
    columns[top : top + part.shape[0]] = part
    pixels = np.pad(columns.ravel(order="F"), 1)
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + left * height
    inner = edges[edges < height * width].tolist()
    runs = [after - before for before, after in pairwise([0, *inner, height * width])]
    return {"size": [int(height), int(width)], "counts": encode_runs(runs)}


def encode_runs(runs: Sequence[int]) -> str:
    """Run lengths, the first of pixels outside, as the text that `encode_rle` describes."""
    characters: list[str] = []
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        while True:
            bits, value = value & 0x1F, value >> 5
            # The last group's highest bit is the sign.
            more = value != (-1 if bits & 0x10 else 0)
            characters.append(chr(48 + bits + (0x20 if more else 0)))
            if not more:
                break
    return "".join(characters)


def coco_info(description: str = "Segmentations by TextSAM", **more: str) -> dict[str, str]:
    """A file's entry about itself."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"description": description, **more, "version": textsam.__version__, "date_created": now}


def coco_categories(numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """A file's categories, of their names and numbers."""
    return [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]


class CocoWriter:
    """Collects answers and writes them as one COCO file; keeps no pixels.

    Args:
        path: the file, written by `write` or at the end of a `with` block that did not raise.
        prompts: categories to have from the start, in this order; others follow as they come.
    """

    def __init__(self, path: str | Path, prompts: Iterable[str] = ()) -> None:
        self.path = Path(path)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}
        for prompt in prompts:
            self._category(prompt)

    def __enter__(self) -> CocoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.write()

    def add(self, answers: Sequence[Segmentation], *, file_name: str | None = None) -> None:
        """Add one image with its answers. What was not found adds a category and no annotation.

        Args:
            answers: at least one, all about one image.
            file_name: how the image is called; None takes `Image.source`.

        Raises:
            TextSAMError: no answers, or answers about different images.
        """
        if not answers:
            raise TextSAMError(f"{self.path}: an image without answers; give one per prompt")
        image = answers[0].image
        if any(
            answer.image is not image and _key(answer) != _key(answers[0]) for answer in answers
        ):
            raise TextSAMError(
                f"{self.path}: answers about {image.source} and another image; add each image alone"
            )
        number = len(self._images) + 1
        entry: dict[str, Any] = {
            "id": number,
            "file_name": image.source if file_name is None else file_name,
            "width": image.width,
            "height": image.height,
        }
        if image.placement is not None:
            entry["frame_index"] = image.placement.index_in_file
        self._images.append(entry)
        for answer in answers:
            category = self._category(answer.prompt)
            if answer.box is not None:
                self._annotations.append(self._annotation(answer, number, category))

    def _category(self, prompt: str) -> int:
        return self._categories.setdefault(prompt, len(self._categories) + 1)

    def _annotation(self, answer: Segmentation, image: int, category: int) -> dict[str, Any]:
        assert answer.box is not None
        x_min, y_min, x_max, y_max = answer.box
        return {
            "id": len(self._annotations) + 1,
            "image_id": image,
            "category_id": category,
            "segmentation": encode_rle(answer.mask),
            "area": answer.area_px,
            "bbox": [x_min, y_min, x_max - x_min + 1, y_max - y_min + 1],
            "iscrowd": 0,
            "score": round(answer.score, 4),
        }

    def to_dict(self) -> dict[str, Any]:
        """The file's content so far."""
        return {
            "info": coco_info(),
            "licenses": [],
            "images": self._images,
            "categories": coco_categories(self._categories),
            "annotations": self._annotations,
        }

    def write(self) -> Path:
        """Write the file, complete or not at all, and return its path.

        Raises:
            TextSAMError: the file cannot be written.
        """
        with (
            told_as(TextSAMError, self.path),
            atomic_path(self.path) as temporary,
            # As `save_text`: lone surrogates of a file name that is no UTF-8 are written escaped.
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out,
        ):
            json.dump(self.to_dict(), out, ensure_ascii=False, allow_nan=False)
            out.write("\n")
        return self.path


def write_coco(
    path: str | Path, answers: Iterable[Segmentation], *, prompts: Iterable[str] = ()
) -> Path:
    """Write answers as one COCO file.

    Args:
        path: of the file.
        answers: in any number; neighbours about one image share its entry. They are taken one by
            one, and none is kept but for those of the current image.
        prompts: categories to have in any case, in this order.

    Returns:
        The path.

    Raises:
        TextSAMError: the file cannot be written.
    """
    writer = CocoWriter(path, prompts)
    current: list[Segmentation] = []
    for answer in answers:
        if current and answer.image is not current[0].image and _key(answer) != _key(current[0]):
            writer.add(current)
            current = []
        current.append(answer)
    if current:
        writer.add(current)
    return writer.write()


def _key(answer: Segmentation) -> tuple[str, int, str]:
    """Tells images apart, also arrays, which are all called "array"."""
    image = answer.image
    return image.source, image.placement.index if image.placement else 0, image.sha256()
