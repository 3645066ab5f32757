"""The arms of the BUSI benchmark: what is trained, and what answers an image afterwards.

`text`      the product: an adapter on LiteMedSAM, trained on the fold, asked "tumor".
`further`   the adapter of `text`, trained on by a second schedule on the same images of its fold.
`averaged`  the adapter of `text`, looking at each image in several ways (`VIEWS`), as with
            `textsam segment --views`; the probabilities are averaged. Nothing more is trained.
`box`       LiteMedSAM as it comes, asked with the box of the truth. Nothing is trained.
`no-text`   the same backbone, trained in the same way, asked nothing at all: SAM's decoding
            without a prompt, as in SAMed. What differs from `text` is the word.
`unet`      MONAI's U-Net from nothing (`busi_unet`).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from busi_unet import UNetPredictor, UNetRun, UNetSettings
from numpy.typing import NDArray

from textsam.adapters import AdapterConfig
from textsam.calibrate.ask import Answer
from textsam.calibrate.decide import choose_refinements
from textsam.checkpoint import load_adapter, record_of
from textsam.config import TrainConfig, read_config, without_effect
from textsam.data.sample import Sample, load_sample
from textsam.data.selection import Selection
from textsam.data.sources import samples_of
from textsam.device import choose_device, choose_precision
from textsam.errors import ConfigError, DataError
from textsam.frame import box_and_centroid
from textsam.inference.ready import ready_segmenter
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import views_of
from textsam.metrics import dice
from textsam.model.build import BuiltModel, assemble, load_parts
from textsam.train.run import architecture_from, fit, setup

ARMS = ("text", "further", "averaged", "box", "no-text", "unet")
CONCEPT = "tumor"
# Of the ones compared on validation images (benchmarks/busi_views.py), the best.
VIEWS = "112,224,mirrored"
MOST_PASSES = 2

Predictor = Callable[
    [NDArray[np.uint8], NDArray[np.bool_]], tuple[NDArray[np.float32], NDArray[np.bool_]]
]


@dataclass
class Job:
    """One arm on one fold.

    Attributes:
        arm: one of `ARMS`.
        fold: 1, 2 or 3.
        config: of the adapter's training on this fold; the other arms take data, augmentation,
            seed, precision and device from it.
        unet: of the U-Net's training.
        slice_steps: optimiser steps between looks at the clock.
        begins: the job whose adapter this one begins with, or answers with; None: it needs none.
    """

    arm: str
    fold: int
    config: TrainConfig
    unet: UNetSettings
    slice_steps: int = 25
    begins: Job | None = None

    @property
    def folder(self) -> Path:
        """Where the job keeps what it has done."""
        return Path(self.config.out) / f"{self.arm}-fold{self.fold}"

    @property
    def adapter(self) -> Path:
        """The folder of the adapter that answers, where one does."""
        return Path(self.config.out) / self.config.name / "best"

    @property
    def fingerprint(self) -> str:
        """Of all settings that figures depend on; of training none do where nothing is trained."""
        facts = self.config.model_dump(mode="json", exclude=without_effect(self.config))
        facts["data"].pop("root")
        if self.arm == "further" and self.begins is not None:
            facts["init_adapter"] = self.begins.fingerprint  # what it learned, not where it lies
        if self.arm == "box":
            facts = {"preset": self.config.preset, "fold": self.fold}
        extra = {"unet": asdict(self.unet), "averaged": {"views": VIEWS}}.get(self.arm, {})
        text = json.dumps([self.arm, facts, extra], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def test_samples(self) -> list[Sample]:
        """The fold's test images, in the order of the published list."""
        test = self.config.data.model_copy(
            update={"val": (Selection(set="busi", split=f"fold{self.fold}/test"),)}
        )
        return samples_of(test, "val")


def fold_config(
    path: Path, fold: int, arm: str, work: Path, overrides: Sequence[str] = ()
) -> TrainConfig:
    """The configuration of an arm on a fold.

    Raises:
        ConfigError: it would begin with an adapter, which may have seen images of the fold's test
            part, or it takes data from anything but training parts. `further` always begins with
            the fold's own `text`, whatever the file names.
    """
    config = read_config(path, overrides)
    if arm == "further":
        config = config.model_copy(update={"init_adapter": str(work / f"text-fold{fold}" / "best")})
    elif config.init_adapter is not None:
        raise ConfigError(
            f"{path}: init_adapter is {config.init_adapter!r}; the benchmark begins with base "
            "weights, as an adapter may have been trained on test images of a fold"
        )
    data = config.data
    if data.train_folders or data.val_folders or data.train_coco or data.val_coco:
        raise ConfigError(f"{path}: the benchmark takes its data from the published splits alone")

    def of_fold(selections: Sequence[Selection]) -> tuple[Selection, ...]:
        moved = [
            one.model_copy(update={"split": re.sub(r"^fold\d+", f"fold{fold}", one.split)})
            for one in selections
        ]
        for one in moved:
            if (one.set, one.split) != ("busi", f"fold{fold}/train"):
                raise ConfigError(f"{path}: {one.set}/{one.split} is no training part of the fold")
        return tuple(moved)

    changes: dict[str, Any] = {
        "name": f"{'text' if arm == 'averaged' else arm}-fold{fold}",
        "out": str(work),
        "data": config.data.model_copy(
            update={"train": of_fold(config.data.train), "val": of_fold(config.data.val)}
        ),
    }
    if arm in ("box", "no-text"):
        changes["text"] = False
        # Without a word there is nothing to say no to, and no geometry to join.
        changes["prompts"] = config.prompts.model_copy(update={"negatives": 0})
        changes["geometry"] = config.geometry.model_copy(update={"probability": 0.0})
    if arm == "box":
        # As it comes, it works at the side it was pretrained at.
        changes["side_px"] = None
    return config.model_copy(update=changes)


def built_for(config: TrainConfig) -> BuiltModel:
    """The preset's model on base weights, as the configuration wants it."""
    torch.manual_seed(config.seed)
    backbone, encoder = load_parts(config.preset)
    return assemble(backbone, encoder, architecture_from(config))


def train_adapter(job: Job, deadline: float) -> bool:
    """Train until done or until the deadline; whether it is done."""
    run = setup(job.config, built_for(job.config))
    while run.state.step < run.total_steps:
        fit(run, stop_after=run.state.step + job.slice_steps, progress=False)
        print(f"{job.config.name}: step {run.state.step} of {run.total_steps}", flush=True)
        if time.monotonic() > deadline:
            break
    return run.state.step >= run.total_steps


def segmenter_of(job: Job, views: str = "") -> Segmenter:
    """The model of an arm as users would run it: merged, in the device's own precision.

    Args:
        job: trained.
        views: as of `textsam.load_model`.
    """
    built = built_for(job.config)
    if job.arm == "box":
        record = AdapterConfig(
            name="none",
            preset=job.config.preset,
            architecture=record_of(architecture_from(job.config)),
            prompts=(CONCEPT,),
        )
    else:
        record = load_adapter(job.adapter, built)
    device = choose_device(job.config.device)
    precision = choose_precision("auto", device)
    return ready_segmenter(built, record, device=device, precision=precision, views=views_of(views))


def choose_passes(segmenter: Segmenter, samples: Sequence[Sample]) -> int:
    """How often to refine, chosen on validation images as `textsam calibrate` does."""
    answers = []
    for sample in samples:
        pixels, masks = load_sample(sample)
        truth = masks[CONCEPT]
        overlaps = tuple(
            dice(segmenter.segment(pixels, CONCEPT, refine=passes).mask, truth)
            for passes in range(MOST_PASSES + 1)
        )
        kind: Literal["present", "absent_annotated"] = (
            "present" if truth.any() else "absent_annotated"
        )
        scores = (1.0,) * len(overlaps)
        answers.append(Answer(CONCEPT, sample.modality, kind, overlaps, scores))
    chosen = choose_refinements(answers)
    if CONCEPT not in chosen:
        raise DataError(f"no validation image shows a {CONCEPT}; give others in data.val")
    return chosen[CONCEPT][0]


def by_word(segmenter: Segmenter, passes: int) -> Predictor:
    """Asks a segmenter, with the word or without, for the tumour; the truth is not looked at."""

    def predict(
        pixels: NDArray[np.uint8], _truth: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        found = segmenter.segment(pixels, CONCEPT, refine=passes)
        return found.probability, found.mask

    return predict


def by_box(segmenter: Segmenter) -> Predictor:
    """Gives a segmenter that takes no word the box of the truth, tight and unshifted."""

    def predict(
        pixels: NDArray[np.uint8], truth: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        geometry = box_and_centroid(truth)
        if geometry is None:
            raise DataError("the truth of an image is empty and has no box")
        found = segmenter.segment(pixels, CONCEPT, refine=0, boxes=geometry[0])
        return found.probability, found.mask

    return predict


def train_arm(job: Job, deadline: float) -> bool:
    """Train what the arm needs trained; whether it is done."""
    if job.arm == "box":
        return True
    if job.arm == "unet":
        return UNetRun(job.config, job.unet, job.folder).advance(deadline)
    return train_adapter(job, deadline)


def predictor_of(job: Job, known_passes: int | None) -> tuple[Predictor, int | None]:
    """What answers for a trained arm, and the refinement passes chosen for it (None: has none).

    Args:
        job: trained.
        known_passes: chosen earlier; None chooses.
    """
    if job.arm == "unet":
        return UNetPredictor(UNetRun(job.config, job.unet, job.folder)), None
    segmenter = segmenter_of(job, VIEWS if job.arm == "averaged" else "")
    if job.arm == "box":
        return by_box(segmenter), None
    passes = known_passes
    if passes is None:
        passes = choose_passes(segmenter, samples_of(job.config.data, "val"))
    return by_word(segmenter, passes), passes
