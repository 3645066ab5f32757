"""One COCO file of a whole run, written from its records in memory that does not grow with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from textsam.folder.manifest import InputRecord
from textsam.io.atomic import atomic_path, told_as_output
from textsam.io.coco import coco_categories, coco_info

__all__ = ["write_run_coco"]


def write_run_coco(
    path: Path, prompts: Sequence[str], records: Callable[[], Iterable[InputRecord]]
) -> Path:
    """Write a COCO file, complete or not at all; https://cocodataset.org/#format-data.

    It says what `textsam.io.coco.CocoWriter` would say, and is never in memory as a whole.

    Args:
        path: the file.
        prompts: the categories, numbered from 1.
        records: gives the run's records; called twice. Results hold "rle" where their mask is not
            empty.

    Raises:
        OutputError: it cannot be written.
    """
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts), start=1)}
    with (
        told_as_output(path),
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        file.write(f'{{"info": {json.dumps(coco_info())}, "licenses": [], "images": [')
        file.writelines(_joined(_images(records(), len(prompts))))
        file.write(f'], "categories": {json.dumps(coco_categories(numbers))}, "annotations": [')
        file.writelines(_joined(_annotations(records(), len(prompts), numbers)))
        file.write("]}\n")
    return path


def _joined(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    before = "\n"
    for entry in entries:
        yield before + json.dumps(entry)
        before = ",\n"


def _images(records: Iterable[InputRecord], prompts: int) -> Iterator[dict[str, Any]]:
    number = 0
    for record in records:
        # The results about one image stand together, one per prompt.
        for result in record.results[::prompts]:
            number += 1
            # An input of several files is called by the first of them.
            given = {"name": record.input, "frame": result["image"]["index"]}
            place = result.get("in_file", given)
            yield {
                "id": number,
                "file_name": place["name"],
                "width": result["image"]["width"],
                "height": result["image"]["height"],
                "frame_index": place["frame"],
            }


def _annotations(
    records: Iterable[InputRecord], prompts: int, categories: dict[str, int]
) -> Iterator[dict[str, Any]]:
    place = number = 0
    for record in records:
        for result in record.results:
            place += 1
            if "rle" not in result:
                continue
            number += 1
            x_min, y_min, x_max, y_max = result["box"]
            yield {
                "id": number,
                "image_id": (place - 1) // prompts + 1,
                "category_id": categories[result["prompt"]],
                "segmentation": result["rle"],
                "area": result["area_px"],
                "bbox": [x_min, y_min, x_max - x_min + 1, y_max - y_min + 1],
                "iscrowd": 0,
                "score": result["score"],
            }
