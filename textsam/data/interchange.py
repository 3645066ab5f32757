"""Data sets from COCO to folders of PNG masks, and back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from textsam.caller import warn_caller
from textsam.data.check import check_samples
from textsam.data.coco import CocoSelection, samples_from_coco
from textsam.data.listing import IMAGE_SUFFIXES, PARTS, SUFFIXES
from textsam.data.problems import (
    ALLOWABLE,
    DataReport,
    DataWarning,
    Kind,
    Problem,
    Problems,
)
from textsam.data.registry import check_name, registering
from textsam.data.sample import Sample, load_sample
from textsam.data.staging import staged_folder
from textsam.errors import DataError
from textsam.frame import bounds
from textsam.io.atomic import write_json
from textsam.io.coco import coco_categories, coco_info, encode_placed
from textsam.io.coco_polygons import exact_polygons
from textsam.io.folder_name import folder_name_fault
from textsam.io.pillow import stored_orientation
from textsam.io.raster import write_mask, write_picture

__all__ = ["coco_to_set", "samples_to_coco"]

_Region = tuple[NDArray[np.bool_], tuple[slice, slice]]
"""The pixels of a region in the part of the image that bounds it, and its rows and columns."""


def coco_to_set(
    parts: Mapping[str, CocoSelection],
    root: str | Path,
    name: str,
    *,
    terms: str,
    source: str | Path = ".",
    allowed: frozenset[Kind] = frozenset(),
) -> Path:
    """Write COCO files as one set of a data root: images, PNG masks, manifest and splits.

    Masks are 0/255: `masks/STEM.png` for one concept, `masks/CONCEPT/STEM.png` for several, which
    may overlap. Images are copied; those with an EXIF orientation are written upright, as PNG.
    Folders inside a `file_name` become part of the stem ("a/b.png" is "a__b"). What the check
    remarks, and what is allowed, is told as a `DataWarning`.

    Args:
        parts: "train", "val" or "test" -> file and folder of its images. All have one modality.
        root: data root; its `manifest.json` and `splits.json` are made, or added to.
        name: of the set; must be new.
        terms: licence of the data, in words.
        source: folder that the selections' paths are relative to.
        allowed: kinds of problems that are no errors here, of `textsam.data.problems.ALLOWABLE`.

    Returns:
        The folder of the set.

    Raises:
        DataCheckError: faults in files, all of them listed; nothing is written.
        DataError: the set exists, its parts differ in modality or categories, or a
            selection is not exhaustive, which folders of masks cannot say.
    """
    root = Path(root)
    modality = _modality(parts)
    check_name(root, name)
    if fault := folder_name_fault(name):
        raise DataError(fault)
    samples, found = _samples(parts, source)
    # The faults first: a file that cannot be read has no samples, which is no matter of categories.
    report = check_samples(samples, found, allowed=allowed)
    report.raise_errors("Nothing was written.")
    concepts = _same_concepts(samples)
    folders = _mask_folders(concepts)
    _warn(report)
    key = dict.fromkeys(concepts, "255") if len(concepts) == 1 else folders
    entry = {
        "modality": modality,
        "classes": {key[concept]: concept for concept in concepts},
        "terms": terms,
    }
    stems = {part: [_stem(sample) for sample in those] for part, those in samples.items()}
    with ExitStack() as held:
        with staged_folder(root / name) as staged:
            for part in samples.values():
                for sample in part:
                    _write_sample(sample, staged, folders)
            # Before the folder is in place, so that a name taken meanwhile leaves nothing behind.
            register = held.enter_context(registering(root, name))
        register(entry, stems)
    return root / name


def samples_to_coco(
    samples: Sequence[Sample],
    path: str | Path,
    images: str | Path,
    *,
    description: str = "",
    instances: bool = False,
    polygons: bool = False,
    found: Sequence[Problem] = (),
) -> Path:
    """Write the masks of samples as a COCO file, one run-length annotation per image and concept.

    What the check remarks, such as files that are left out, is told as a `DataWarning`.

    Args:
        samples: all with the same annotated and absent concepts: a COCO file cannot say that
            nothing is known of a category in some of its images.
        path: the JSON file.
        images: folder that `file_name` is relative to; all images must be in it.
        description: of the data, for `info`.
        instances: one annotation per region instead (pixels that meet at a corner are one region).
        polygons: as polygons, where these are drawn back to the same pixels; what has holes stays a
            run-length code. `info.note` tells how many.
        found: what finding the samples has already shown.

    Returns:
        The path.

    Raises:
        DataCheckError: faults in files, all of them listed; nothing is written.
        DataError: no samples, concepts that differ, an image outside the folder, or for polygons
            no pycocotools. Nothing is written then either.
    """
    path, folder = Path(path), Path(images).absolute()
    # A class without a pixel is a category without an annotation, as COCO allows.
    report = check_samples({"": samples}, found, allowed=ALLOWABLE)
    report.raise_errors("Nothing was written.")
    if not samples:
        raise DataError(f"{path}: there are no samples to write")
    concepts = _common_concepts(samples)
    numbers = {concept: number for number, concept in enumerate(concepts, start=1)}
    # What a COCO file may be, and what it does not say.
    _warn(report, but=frozenset({"empty-class", "unknown-modality"}))
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(samples, start=1):
        pixels, masks = load_sample(sample)
        try:
            file_name = sample.image_path.absolute().relative_to(folder).as_posix()
        except ValueError:
            raise DataError(
                f"{sample.image_path} is not in {folder}; give the folder that holds all images"
            ) from None
        height, width = pixels.shape[:2]
        entries.append({"id": number, "file_name": file_name, "width": width, "height": height})
        for concept, mask in masks.items():
            for region, (rows, columns) in _regions(mask, instances):
                rings = _polygons(mask.shape, region, rows, columns) if polygons else None
                place = (rows.start, columns.start)
                code = encode_placed(region, place, (height, width)) if rings is None else rings
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": numbers[concept],
                        "segmentation": code,
                        "area": int(region.sum()),
                        "bbox": [*reversed(place), *reversed(region.shape)],
                        "iscrowd": 0,
                    }
                )
    codes = sum(isinstance(entry["segmentation"], dict) for entry in annotations)
    note = f"{codes} of {len(annotations)} annotations are run-length codes, as they have holes"
    content = {
        "info": coco_info(description, **({"note": note} if polygons else {})),
        "licenses": [],
        "images": entries,
        "categories": coco_categories(numbers),
        "annotations": annotations,
    }
    write_json(path, content)
    return path


def _warn(report: DataReport, but: frozenset[Kind] = frozenset()) -> None:
    """Tell what the check remarks, as of files that are left out; kinds of `but` are not told."""
    told = tuple(problem for problem in report.warnings if problem.kind not in but)
    if told:
        text = replace(report, problems=told).text()
        warn_caller(f"the data can be used, but\n{text}", DataWarning)


def _regions(mask: NDArray[np.bool_], instances: bool) -> Iterator[_Region]:
    """A mask whole, or its regions; none for an empty one."""
    if not mask.any():
        return
    if not instances:
        place = bounds(mask)
        yield mask[place], place
        return
    from scipy import ndimage

    labels, _ = ndimage.label(mask, np.ones((3, 3), dtype=bool))
    # Their surroundings alone: thousands of nuclei in an image would be as many whole masks.
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        yield labels[place] == number, place


def _polygons(
    shape: tuple[int, ...], region: NDArray[np.bool_], rows: slice, columns: slice
) -> list[list[float]] | None:
    """Polygons of a region of an image, in the image's frame; None where there are no exact ones.

    One pixel around the region is looked at, where the image has one: at the image's border
    polygons are cut, elsewhere not.
    """
    top, left = max(0, rows.start - 1), max(0, columns.start - 1)
    bottom, right = min(shape[0], rows.stop + 1), min(shape[1], columns.stop + 1)
    window = np.zeros((bottom - top, right - left), dtype=np.bool_)
    window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = region
    rings = exact_polygons(window)
    if rings is None:
        return None
    return [[value + (top if i % 2 else left) for i, value in enumerate(ring)] for ring in rings]


def _modality(parts: Mapping[str, CocoSelection]) -> str:
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not parts:
        raise DataError(f"the parts are {', '.join(parts) or 'none'}; give train, val or test")
    modalities = sorted({selection.modality for selection in parts.values()})
    if len(modalities) > 1:
        raise DataError(f"one set has one modality, not {', '.join(modalities)}")
    if not all(s.exhaustive and s.crowd == "union" for s in parts.values()):
        raise DataError(
            "folders of masks cannot say that nothing is known of a class in an image; convert "
            "exhaustive annotations, crowds united, or train from the COCO file itself"
        )
    return modalities[0]


def _samples(
    parts: Mapping[str, CocoSelection], source: str | Path
) -> tuple[dict[str, list[Sample]], list[Problem]]:
    samples: dict[str, list[Sample]] = {}
    found: list[Problem] = []
    stems: dict[str, Path] = {}
    for part, selection in parts.items():
        problems = Problems(part)
        samples[part] = []
        with problems.source(Path(source) / selection.annotations):
            samples[part] = samples_from_coco(source, selection, problems=problems)
        for sample in samples[part]:
            path = sample.image_path
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                problems.add("broken-image", path, f"is none of {SUFFIXES}; convert it")
            if _stem(sample).startswith("."):
                told = (
                    "its name begins with a dot; hidden files of a set are left out, so rename it"
                )
                problems.add("broken-image", path, told)
            if _stem(sample) in stems:
                other = stems[_stem(sample)]
                problems.add("duplicate-stem", path, f"{other} has the same name; rename one")
            stems[_stem(sample)] = path
        found += problems.found
    return samples, found


def _same_concepts(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """The concepts of a set, which all its parts must have."""
    concepts = list(
        dict.fromkeys(t.concept for part in samples.values() for s in part for t in s.targets)
    )
    for name, those in samples.items():
        own = {target.concept for sample in those for target in sample.targets}
        if missing := sorted(set(concepts) - own):
            raise DataError(
                f"the part {name!r} has no category {', '.join(missing)}, which another part "
                "has; a set has the same concepts in all its parts: name the common ones with "
                "concepts"
            )
    return concepts


def _stem(sample: Sample) -> str:
    return sample.stem.replace("/", "__")


def _mask_folders(concepts: Sequence[str]) -> dict[str, str]:
    """Concept -> its folder of masks."""
    if len(concepts) == 1:
        return {concepts[0]: "masks"}
    folders: dict[str, str] = {}
    for concept in concepts:
        slug = re.sub(r"\W+", "-", concept.lower()).strip("-") or "class"
        names = chain([slug], (f"{slug}-{number}" for number in count(2)))
        folders[concept] = next(
            folder
            for folder in (f"masks/{name}" for name in names)
            if folder not in folders.values()
        )
    return folders


def _write_sample(sample: Sample, folder: Path, folders: Mapping[str, str]) -> None:
    stem = _stem(sample)
    pixels, masks = load_sample(sample)
    turned = stored_orientation(sample.image_path) != 1
    suffix = ".png" if turned else sample.image_path.suffix.lower()
    image = folder / "images" / f"{stem}{suffix}"
    image.parent.mkdir(parents=True, exist_ok=True)
    if turned:
        # Upright as the masks are, which have no tag that would say so of them.
        write_picture(PIL.Image.fromarray(pixels), image)
    else:
        shutil.copyfile(sample.image_path, image)
    for concept, mask in masks.items():
        write_mask(mask, folder / folders[concept] / f"{stem}.png")


def _common_concepts(samples: Sequence[Sample]) -> tuple[str, ...]:
    first = samples[0]
    known = tuple(dict.fromkeys([*(t.concept for t in first.targets), *first.absent]))
    for sample in samples:
        own = {*(target.concept for target in sample.targets), *sample.absent}
        if own != set(known):
            raise DataError(
                f"of {first.name} {', '.join(sorted(known))} are known, of {sample.name} "
                f"{', '.join(sorted(own)) or 'nothing'}; a COCO file says the same of all its "
                "images: convert each set into a file of its own"
            )
    return known
