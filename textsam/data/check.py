"""Read every image and mask of some samples, and say what is wrong with each.

Images are decoded to their end, as training will: a header alone does not show that a file was cut
off. Threads do it, as Pillow's decoders and the hash leave the interpreter to others.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from textsam.data.problems import DataReport, Kind, Problem, Problems
from textsam.data.sample import (
    CocoTarget,
    Sample,
    Target,
    listed_values,
    not_binary,
    read_mask,
    unknown_labels,
)
from textsam.errors import DataError, ImageError
from textsam.io.coco_shapes import covers_a_pixel
from textsam.io.pillow import stored_orientation
from textsam.io.raster import read_image
from textsam.prompts import MODALITIES, nearest_modality

__all__ = ["Checker", "check_samples", "unknown_modality"]


@dataclass(frozen=True)
class _ImageFacts:
    """What reading an image gave: its size (H, W) and a hash of its pixels, or an error.

    orientation: of EXIF, that was applied; the size is that of the image upright.
    """

    size_px: tuple[int, int] = (0, 0)
    digest: str = ""
    error: str = ""
    orientation: int = 1


@dataclass(frozen=True, eq=False)
class _MaskFacts:
    """What reading a mask gave: size (H, W), distinct values, a hash of its pixels; or an error.

    orientation: as of an image.
    """

    size_px: tuple[int, ...] = (0, 0)
    values: NDArray[np.int64] | None = None
    digest: str = ""
    error: str = ""
    orientation: int = 1


class Checker:
    """Reads files once, however many parts they are in.

    Args:
        threads: how many files are read at a time; default: one per processor, 8 at most.
        progress: show a bar on standard error, where that is a terminal.
    """

    def __init__(self, *, threads: int | None = None, progress: bool = False) -> None:
        self.threads = threads or min(8, os.cpu_count() or 1)
        self.progress = progress
        self.files = 0
        self.seconds = 0.0
        self._images: dict[Path, _ImageFacts] = {}
        self._masks: dict[Path, _MaskFacts] = {}

    def __call__(self, parts: Mapping[str, Sequence[Sample]]) -> list[Problem]:
        """The problems of parts that belong together: the same image must not be in two of them.

        Args:
            parts: name, such as "train" -> samples.
        """
        self._read([sample for samples in parts.values() for sample in samples])
        found: list[Problem] = []
        for part, samples in parts.items():
            problems = Problems(part)
            for sample in samples:
                self._judge(sample, problems)
            self._judge_classes(samples, problems)
            _judge_modalities(samples, problems)
            found += problems.found
        return found + list(self._repeated(parts))

    def image_size_px(self, path: Path) -> tuple[int, int]:
        """(H, W) of an image that was read; (0, 0) of a broken one."""
        return self._images[path].size_px

    def image_digest(self, path: Path) -> str:
        """Hash of the pixels of an image that was read; empty for a broken one."""
        return self._images[path].digest

    def mask_values(self, path: Path) -> tuple[int, ...]:
        """The distinct values of a mask that was read; none for a broken one."""
        values = self._masks[path].values
        return () if values is None else tuple(values.tolist())

    def contents(self, samples: Sequence[Sample]) -> str:
        """One digest of the pixels of samples that were read: of images and mask files, in order.

        How a file stores its pixels, and where it lies, plays no part.
        """
        digest = hashlib.sha256()
        for sample in samples:
            digest.update(f"{self._images[sample.image_path].digest}\n".encode())
            for target in sample.targets:
                if isinstance(target, Target):
                    digest.update(f" {self._masks[target.mask_path].digest}\n".encode())
        return digest.hexdigest()

    def _read(self, samples: Sequence[Sample]) -> None:
        images = list(
            dict.fromkeys(s.image_path for s in samples if s.image_path not in self._images)
        )
        masks = list(
            dict.fromkeys(
                target.mask_path
                for sample in samples
                for target in sample.targets
                if isinstance(target, Target) and target.mask_path not in self._masks
            )
        )
        began = time.perf_counter()
        console = Console(stderr=True)
        with (
            ThreadPoolExecutor(self.threads) as pool,
            Progress(
                console=console, transient=True, disable=not (self.progress and console.is_terminal)
            ) as bar,
        ):
            task = bar.add_task("checking images and masks", total=len(images) + len(masks))
            for path, image in zip(images, pool.map(_image_facts, images), strict=True):
                self._images[path] = image
                bar.advance(task)
            for path, mask in zip(masks, pool.map(_mask_facts, masks), strict=True):
                self._masks[path] = mask
                bar.advance(task)
        self.files += len(images) + len(masks)
        self.seconds += time.perf_counter() - began

    def _judge(self, sample: Sample, problems: Problems) -> None:
        image = self._images[sample.image_path]
        if image.error:
            problems.add("broken-image", sample.image_path, image.error)
        seen: set[tuple[Path, Kind]] = set()
        for target in sample.targets:
            size: tuple[int, ...]
            orientation = 1
            faults: list[tuple[Kind, str]] = []
            if isinstance(target, CocoTarget):
                path, size = target.annotations_path, target.size_px
            else:
                path, mask = target.mask_path, self._masks[target.mask_path]
                faults += _mask_faults(target, mask)
                # The size of a broken mask is not known, so it is not compared.
                size = image.size_px if mask.error else mask.size_px
                orientation = image.orientation if mask.error else mask.orientation
            if not image.error and size != image.size_px:
                message = (
                    f"{size[1]}x{size[0]} px (width x height), the image {sample.image_path} "
                    f"{image.size_px[1]}x{image.size_px[0]} px"
                )
                if orientation != image.orientation:
                    message += (
                        f"; turned upright by EXIF orientation {orientation}, the image by "
                        f"{image.orientation} (1 turns nothing)"
                    )
                faults.append(("size-mismatch", message))
            elif isinstance(target, Target) and not image.error:
                faults += _orientation_faults(orientation, image, sample.image_path)
            for kind, message in faults:
                # Several targets share a label map; what is wrong with it is said once.
                if (path, kind) not in seen:
                    seen.add((path, kind))
                    problems.add(kind, path, message)

    def _judge_classes(self, samples: Sequence[Sample], problems: Problems) -> None:
        annotated: dict[tuple[str, str], int] = defaultdict(int)
        shown: set[tuple[str, str]] = set()
        for sample in samples:
            for target in sample.targets:
                key = (sample.dataset, target.concept)
                annotated[key] += 1
                if key not in shown and self._has_pixels(target):
                    shown.add(key)
        for (dataset, concept), count in annotated.items():
            if (dataset, concept) not in shown:
                problems.add(
                    "empty-class",
                    f"{dataset}/{concept}",
                    f"annotated in {count} image(s), without a pixel in any; correct the class's "
                    "label, or leave the class out",
                )

    def _has_pixels(self, target: Target | CocoTarget) -> bool:
        if isinstance(target, CocoTarget):
            return covers_a_pixel(target.rles)
        values = self._masks[target.mask_path].values
        if values is None:
            return True  # a broken mask says nothing about its class
        return bool(
            (values > 127).any() if target.label is None else (values == target.label).any()
        )

    def _repeated(self, parts: Mapping[str, Sequence[Sample]]) -> Iterator[Problem]:
        first: dict[str, tuple[str, Path]] = {}
        for part, samples in parts.items():
            for sample in samples:
                digest = self._images[sample.image_path].digest
                if not digest:
                    continue
                if digest not in first:
                    first[digest] = part, sample.image_path
                    continue
                other, path = first[digest]
                kind: Kind = "repeated-image" if other == part else "same-image"
                message = f"has the pixels of {path}" + (f" in {other!r}" if other else "")
                yield Problem(kind, part, str(sample.image_path), message)


def check_samples(
    parts: Mapping[str, Sequence[Sample]],
    found: Sequence[Problem] = (),
    *,
    allowed: frozenset[Kind] = frozenset(),
    checker: Checker | None = None,
) -> DataReport:
    """Read every file of the samples and report on all of them.

    Args:
        parts: name -> samples, of parts that must have no image in common.
        found: what finding the samples has already shown.
        allowed: kinds of `textsam.data.problems.ALLOWABLE` that are no errors here.
        checker: one that has read some of the files before; default: a new one.
    """
    checker = checker or Checker()
    problems = [*found, *checker(parts)]
    return DataReport(
        problems=tuple(problems),
        samples={part: len(samples) for part, samples in parts.items()},
        allowed=allowed,
        files=checker.files,
        seconds=checker.seconds,
    )


def unknown_modality(modality: str, images: int) -> str:
    """What to say of images whose kind is not in the vocabulary."""
    close = nearest_modality(modality)
    known = f"the closest is {close!r}" if close else ", ".join(MODALITIES)
    return (
        f"{images} image(s) of the kind {modality!r}, which is none of the known names ({known}), "
        "so no concept is ruled out in them"
    )


def _judge_modalities(samples: Sequence[Sample], problems: Problems) -> None:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for sample in samples:
        if sample.modality not in (*MODALITIES, "unknown"):
            counts[sample.dataset, sample.modality] += 1
    for (dataset, modality), images in counts.items():
        problems.add("unknown-modality", dataset, unknown_modality(modality, images))


def _image_facts(path: Path) -> _ImageFacts:
    try:
        image = read_image(path)
    except ImageError as error:
        return _ImageFacts(error=str(error).removeprefix(f"{path}: "))
    return _ImageFacts(image.size_px, image.sha256(), orientation=stored_orientation(path))


def _mask_facts(path: Path) -> _MaskFacts:
    try:
        mask = read_mask(path)
    except DataError as error:
        return _MaskFacts(error=str(error))
    if mask.dtype == np.uint8:
        # Counting is ten times faster than the sorting of numpy.unique.
        values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    else:
        values = np.unique(mask)
    # In as many bits as it needs, so that the same mask kept with more is the same.
    small = values.size == 0 or (values[0] >= 0 and values[-1] < 256)
    pixels = np.ascontiguousarray(mask, dtype=np.uint8 if small else "<i8")
    digest = hashlib.sha256(f"{mask.shape}\n".encode())
    digest.update(pixels.data)
    return _MaskFacts(
        mask.shape,
        values.astype(np.int64),
        digest.hexdigest(),
        orientation=stored_orientation(path),
    )


def _orientation_faults(
    orientation: int, image: _ImageFacts, image_path: Path
) -> Iterator[tuple[Kind, str]]:
    """Of a mask as large as its image: whether both were turned alike, where sizes do not show it.

    Of two that are not square and of which one was turned by its side, equal sizes show that the
    mask was made for the image upright.
    """
    height, width = image.size_px
    one_on_its_side = (orientation >= 5) != (image.orientation >= 5)
    if orientation != image.orientation and not (one_on_its_side and height != width):
        message = (
            f"has EXIF orientation {orientation}, the image {image_path} {image.orientation} (1 "
            "turns nothing), and their sizes do not tell whether the one fits the other; save "
            "both upright, without the tag"
        )
        yield "orientation-mismatch", message


def _mask_faults(target: Target, mask: _MaskFacts) -> Iterator[tuple[Kind, str]]:
    values = mask.values
    if values is None:
        yield "broken-mask", mask.error
        return
    if fault := not_binary(target, values):
        yield "not-a-mask", fault
        return
    unknown = unknown_labels(target, values)
    if unknown.size:
        yield (
            "unknown-label",
            f"holds {listed_values(unknown)}; the labels are 0, "
            + ", ".join(map(str, target.labels)),
        )
    if target.label is None:
        between = values[(values != 0) & (values != 255)]
        if between.size:
            yield "odd-mask-values", f"holds {listed_values(between)}; above 127 counts as inside"
        if (values > 127).all():
            yield "all-foreground", f"every pixel is {target.concept!r}"
    elif values.tolist() == [target.label]:
        yield "all-foreground", f"every pixel is {target.concept!r}"
