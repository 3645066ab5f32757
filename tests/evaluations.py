"""A stand-in for the segmenter whose answers, and hence scores, are known; samples; results."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from textsam.data.sample import Sample, Target
from textsam.io.raster import read_image
from textsam.result import Segmentation

Mask = NDArray[np.bool_]
SHAPE = (40, 50)
PROMPTS = ("tumor", "polyp", "skin lesion", "cell nucleus", "myocardium")
NOTHING: Mask = np.zeros(SHAPE, dtype=np.bool_)


def square(top: int, left: int, side: int = 10) -> Mask:
    mask = NOTHING.copy()
    mask[top : top + side, left : left + side] = True
    return mask


class Fake:
    """Knows the answers by the image's number, which is its grey value.

    Whatever it has no answer for it finds empty; a question without a word is "". `stop_at` is the
    call at which it is killed.
    """

    def __init__(
        self,
        answers: Mapping[tuple[int, str], Mask],
        prompts: Sequence[str] = PROMPTS,
        name: str = "fake",
        stop_at: int | None = None,
    ) -> None:
        self.answers = answers
        self.prompts = tuple(prompts)
        self.adapter_name = name
        self.preset = "lite"
        self.stop_at = stop_at
        self.calls: list[tuple[int, list[str | None], int | None]] = []
        self.geometry: list[tuple[Sequence[Any] | None, Sequence[Any] | None]] = []

    def segment(
        self,
        image: NDArray[np.uint8],
        prompt: Sequence[str | None],
        *,
        refine: int | None = None,
        points: Sequence[Any] | None = None,
        boxes: Sequence[Any] | None = None,
    ) -> list[Segmentation]:
        number = int(image[0, 0, 0])
        assert image.shape == (*SHAPE, 3)
        assert not isinstance(prompt, str)
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((number, list(prompt), refine))
        self.geometry.append((points, boxes))
        return [self._answer(image, number, text or "") for text in prompt]

    def _answer(self, image: NDArray[np.uint8], number: int, text: str) -> Segmentation:
        mask = self.answers.get((number, text), NOTHING)
        return Segmentation(
            mask=mask,
            probability=mask.astype(np.float32),
            score=0.875 if mask.any() else 0.25,
            found=bool(mask.any()),
            prompt=text,
            image=read_image(image),
            adapter=self.adapter_name,
            model=self.preset,
        )


class Store:
    """Makes samples on disk; every image is of one grey value, its number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(
        self,
        dataset: str = "bus",
        modality: str = "breast ultrasound",
        absent: Sequence[str] = (),
        stem: str | None = None,
        **masks: Mask,
    ) -> Sample:
        number, self.count = self.count, self.count + 1
        folder = self.folder / dataset
        folder.mkdir(parents=True, exist_ok=True)
        image_path = folder / f"{number}.png"
        PILImage.fromarray(np.full(SHAPE, number, dtype=np.uint8)).save(image_path)
        targets = []
        for concept, mask in masks.items():
            mask_path = folder / f"{number}_{concept}.png"
            PILImage.fromarray(mask.astype(np.uint8) * 255).save(mask_path)
            targets.append(Target(concept.replace("_", " "), mask_path))
        return Sample(
            dataset,
            modality,
            stem or f"case{number}",
            image_path,
            tuple(targets),
            tuple(absent),
        )


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "cases.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
