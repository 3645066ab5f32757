"""Samples of a COCO file: images, categories and annotations in one JSON.

https://cocodataset.org/#format-data. Categories become concepts; an image's mask of a concept is
the union of its annotations, crowds (`iscrowd`) included: they are regions of that category, too;
or an image says nothing of a category that it has a crowd of.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from textsam.data.named import ConceptName, unaskable
from textsam.data.problems import WARNINGS, Problems
from textsam.data.sample import CocoTarget, Sample
from textsam.errors import DataError
from textsam.io.coco_shapes import (
    ShapeError,
    covers_a_pixel,
    exceeds_limit,
    is_closed,
    merged,
    rles_of,
)
from textsam.sections import Section

__all__ = ["CocoSelection", "samples_from_coco"]


class CocoSelection(Section):
    """A COCO file and the folder of its images.

    images: folder, relative to the data root, in which the file's `file_name`s are.
    annotations: the JSON file, relative to the data root.
    concepts: category name -> concept, several categories may mean one; categories that are not
        here are left out. None takes every category by its name.
    modality: as in the vocabulary, so that absent concepts can be asked for.
    weight: how often each of its samples is seen per epoch.
    exhaustive: whether an image without an annotation of a category does not show it, as in COCO;
        False takes such an image to say nothing about the category.
    crowd: what a region of many objects (`iscrowd: 1`) is: "union", a part of the mask like any
        other; or "unknown", where crowds were drawn roughly: an image with a crowd of a concept
        says nothing about that concept, which is then neither trained nor evaluated there. The
        check of the data tells how many images that are.
    """

    images: str
    annotations: str
    concepts: dict[str, ConceptName] | None = Field(default=None, min_length=1)
    modality: str = "unknown"
    weight: float = Field(default=1.0, gt=0.0)
    exhaustive: bool = True
    crowd: Literal["union", "unknown"] = "union"


def samples_from_coco(
    root: str | Path,
    selection: CocoSelection,
    *,
    dataset: str | None = None,
    problems: Problems | None = None,
) -> list[Sample]:
    """The samples of a COCO file, in its order of images.

    Args:
        root: folder that the selection's paths are relative to.
        selection: which file, and what its categories mean.
        dataset: name in tables; default: the annotation file's name without suffix.
        problems: takes every fault, annotation by annotation, and the samples are made of what is
            right; None raises for the first.

    Raises:
        DataError: no such file, no JSON of the three lists, a category of `concepts` that it does
            not have, one whose name cannot be asked for where they are None, no image of which it
            says anything; and, with `problems` None, an image that is not there, is listed twice,
            lies outside the folder or is too large to be read, an annotation of an unknown image or
            category, and a segmentation that cannot be drawn.
            pycocotools is needed for polygons.
    """
    path = Path(root) / selection.annotations
    own = Problems() if problems is None else problems
    before = len(own.found)
    samples = _Reader(path, Path(root) / selection.images, selection, own).samples(
        dataset or path.stem
    )
    errors = [problem for problem in own.found[before:] if problem.kind not in WARNINGS]
    if not samples and not errors:
        raise DataError(f"{path} gives no samples: it lists no image of which it says anything")
    if problems is None and errors:
        first, more = errors[0], len(errors) - 1
        raise DataError(
            f"{first.path}: {first.message}" + (f" (and {more} more problems)" if more else "")
        )
    return samples


class _Reader:
    """One COCO file being read; every fault goes to `problems`."""

    def __init__(
        self, path: Path, images: Path, selection: CocoSelection, problems: Problems
    ) -> None:
        self.path = path
        self.folder = images
        self.selection = selection
        self.problems = problems
        if not images.is_dir():
            raise DataError(f"{path}: its images should be in {images}, which is not a folder")
        content = _read(path)
        self.images: list[Any] = content["images"]
        self.annotations: list[Any] = content["annotations"]
        self.concepts = _concepts(path, content["categories"], selection.concepts)
        self.categories = {
            c["id"] for c in content["categories"] if isinstance(c, dict) and _whole(c.get("id"))
        }

    def samples(self, dataset: str) -> list[Sample]:
        """One per image that is there."""
        sizes, names = self._image_entries()
        drawn = self._drawn(sizes)
        self._tell_pixelless(names, drawn)
        unknown = self._crowds(sizes) if self.selection.crowd == "unknown" else set()
        concepts = tuple(dict.fromkeys(self.concepts.values()))
        samples: list[Sample] = []
        for number, name in names.items():
            image_path = self.folder / name
            if not image_path.is_file():
                self.problems.add("missing-image", image_path, f"{self.path} lists it")
                continue
            targets = tuple(
                CocoTarget(concept, self.path, sizes[number], tuple(drawn[number].get(concept, ())))
                for concept in concepts
                if (self.selection.exhaustive or concept in drawn[number])
                and (number, concept) not in unknown
            )
            if targets:
                samples.append(
                    Sample(
                        dataset=dataset,
                        modality=self.selection.modality,
                        stem=str(PurePosixPath(name).with_suffix("")),
                        image_path=image_path,
                        targets=targets,
                        weight=self.selection.weight,
                    )
                )
        return samples

    def _tell_pixelless(
        self, names: Mapping[int, str], drawn: Mapping[int, Mapping[str, Sequence[bytes]]]
    ) -> None:
        """Tell, by concept, where something is annotated and the mask is empty all the same."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for number, name in names.items():
            for concept, codes in drawn.get(number, {}).items():
                if not covers_a_pixel(codes):
                    found[concept].append(name)
        for concept, images in sorted(found.items()):
            self._add(
                "pixelless-annotation",
                f"{len(images)} image(s) have annotations of {concept!r} that are too small to "
                f"cover a pixel, and count as not showing it, e.g. {images[0]}; draw them larger, "
                "or leave these images out",
            )

    def _crowds(self, sizes: Mapping[int, tuple[int, int]]) -> set[tuple[int, str]]:
        """Image and concept wherever there is a crowd of it; told by concept."""
        found = {
            (entry["image_id"], self.concepts[entry["category_id"]])
            for entry in self.annotations
            if isinstance(entry, dict)
            and entry.get("iscrowd")
            and _whole(entry.get("image_id"))
            and entry["image_id"] in sizes
            and _whole(entry.get("category_id"))
            and entry["category_id"] in self.concepts
        }
        for concept, count in sorted(Counter(concept for _, concept in found).items()):
            self._add(
                "crowd-left-out",
                f"{count} image(s) have a crowd of {concept!r} and say nothing about it, as "
                "crowd: unknown asks for",
            )
        return found

    def _image_entries(self) -> tuple[dict[int, tuple[int, int]], dict[int, str]]:
        sizes: dict[int, tuple[int, int]] = {}
        names: dict[int, str] = {}
        stems: dict[str, str] = {}
        for place, entry in enumerate(self.images):
            where = f"images[{place}]"
            if not isinstance(entry, dict) or not (
                _whole(entry.get("id"))
                and isinstance(entry.get("file_name"), str)
                and entry["file_name"]
                and all(_whole(entry.get(side)) and entry[side] > 0 for side in ("height", "width"))
            ):
                self._add(
                    "bad-annotation", f"{where} needs id, file_name, height and width: {entry!r}"
                )
                continue
            number, name = entry["id"], entry["file_name"].replace("\\", "/")
            if number in sizes:
                self._add("bad-annotation", f"{where} ({name}) has the id {number} of another one")
                continue
            # The sizes of images that are not used are kept: their annotations are judged as well.
            sizes[number] = (entry["height"], entry["width"])
            parts = PurePosixPath(name)
            if not parts.parts:
                self._add("bad-annotation", f"{where}: the file_name {name!r} names no file")
                continue
            if too_large := exceeds_limit(sizes[number]):
                self._add("bad-annotation", f"{where} ({name}) {too_large}")
                continue
            if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
                self._add("bad-annotation", f"{where}: {name} lies outside {self.folder}")
                continue
            stem = str(parts.with_suffix(""))
            if stem in stems:
                self._add("duplicate-stem", f"{name} and {stems[stem]} have one name")
                continue
            stems[stem] = name
            names[number] = name
        return sizes, names

    def _drawn(
        self, sizes: Mapping[int, tuple[int, int]]
    ) -> defaultdict[int, dict[str, list[bytes]]]:
        """Image id -> concept -> codes, one of every annotation that can be drawn."""
        closing = _closes_its_rings(self.annotations)
        drawn: defaultdict[int, dict[str, list[bytes]]] = defaultdict(dict)
        for place, entry in enumerate(self.annotations):
            if not isinstance(entry, dict):
                self._add("bad-annotation", f"annotations[{place}] is no object: {entry!r}")
                continue
            where = f"annotation {entry.get('id', f'number {place}')}"
            image: Any = entry.get("image_id")
            category: Any = entry.get("category_id")
            if not _whole(image) or image not in sizes:
                self._add("unknown-reference", f"{where} is about image {image!r}, not listed")
                continue
            if not _whole(category) or category not in self.categories:
                self._add("unknown-reference", f"{where} is of category {category!r}, not listed")
                continue
            if category not in self.concepts:
                continue
            segmentation = entry.get("segmentation")
            try:
                codes = rles_of(segmentation, sizes[image])
            except ShapeError as error:
                self._add(error.kind, f"{where} of image {image}: {error}")
                continue
            if closing and isinstance(segmentation, list):
                open_rings = [ring for ring in segmentation if not is_closed(ring)]
                if open_rings:
                    self._add(
                        "unclosed-polygon",
                        f"{where} of image {image}: the last point of {len(open_rings)} polygon(s) "
                        "is not the first, as it is in the other polygons of the file",
                    )
                    continue
            drawn[image].setdefault(self.concepts[category], []).append(merged(codes, sizes[image]))
        return drawn

    def _add(self, kind: Any, message: str) -> None:
        self.problems.add(kind, self.path, message)


def _whole(value: object) -> bool:
    return type(value) is int


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"the COCO file {path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the COCO file {path} cannot be read as JSON: {error}") from error
    lists = ("images", "categories", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(n), list) for n in lists):
        raise DataError(
            f"{path} is no COCO file: it needs the lists {', '.join(lists)}. A file of results "
            "alone has no images; combine it with the file it answers"
        )
    return content


def _concepts(
    path: Path, categories: Sequence[Any], wanted: Mapping[str, str] | None
) -> dict[int, str]:
    """Category id -> concept."""
    names: dict[int, str] = {}
    for place, entry in enumerate(categories):
        if not isinstance(entry, dict) or not _whole(entry.get("id")) or not entry.get("name"):
            raise DataError(f"{path}: categories[{place}] needs an id and a name, got {entry!r}")
        if entry["id"] in names:
            raise DataError(f"{path}: two categories have the id {entry['id']}")
        names[entry["id"]] = str(entry["name"])
    if not names:
        raise DataError(f"{path} has no categories")
    if wanted is None:
        for name in names.values():
            if fault := unaskable(name):
                raise DataError(
                    f"{path}: the category {name!r} cannot be asked for, so concepts must say what "
                    f"categories mean. {fault}"
                )
        return names
    unknown = sorted(set(wanted) - set(names.values()))
    if unknown:
        raise DataError(
            f"{path} has no category {', '.join(map(repr, unknown))}. It has: "
            f"{', '.join(names.values())}"
        )
    return {number: wanted[name] for number, name in names.items() if name in wanted}


def _closes_its_rings(annotations: Sequence[Any]) -> bool:
    """Whether a file's convention is to end each polygon with its first point.

    COCO does not ask for it and closes every polygon by itself; most files leave it out. In one
    where more than half of the polygons do so, one that does not was cut off.
    """
    closed = total = 0
    for entry in annotations:
        segmentation = entry.get("segmentation") if isinstance(entry, dict) else None
        for ring in segmentation if isinstance(segmentation, list) else ():
            if isinstance(ring, list):
                total += 1
                closed += is_closed(ring)
    return 2 * closed > total
