"""A U-Net from MONAI, trained from nothing on the images, changes and order of the other arms."""

from __future__ import annotations

import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from textsam.config import TrainConfig
from textsam.data.ask import PromptConfig, PromptSampler
from textsam.data.augment import Augment
from textsam.data.dataset import TrainDataset, TrainItem
from textsam.data.sources import samples_of
from textsam.device import choose_device
from textsam.errors import TextSAMError
from textsam.io.atomic import atomic_path
from textsam.preprocess import MinMaxPixels, Preprocessor
from textsam.train.losses import mask_losses
from textsam.train.order import Order
from textsam.train.schedule import rate_factor

STATE_FILE = "state.pt"


@dataclass(frozen=True)
class UNetSettings:
    """How the U-Net is made and trained.

    Attributes:
        epochs: passes over the training images; more than an adapter's, as it begins with nothing.
        batch_size: images per step.
        lr: of AdamW, on a cosine.
        weight_decay: of AdamW.
        channels: per level; the side of the input must be divisible by 2 to the levels but one.
        side_px: of the square input, as the `lite` model's.
        val_every_epochs: epochs between validations, which choose the weights kept.
    """

    epochs: float = 60.0
    batch_size: int = 8
    lr: float = 1e-3
    weight_decay: float = 1e-2
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    side_px: int = 256
    val_every_epochs: float = 5.0


def build_unet(settings: UNetSettings) -> nn.Module:
    """MONAI's `UNet` with two residual units per level and instance norms, 3 channels to 1."""
    with warnings.catch_warnings():
        # Optional parts of MONAI complain when imported; nothing here uses them.
        warnings.simplefilter("ignore")
        from monai.networks.nets.unet import UNet

    return UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=1,
        channels=settings.channels,
        strides=(2,) * (len(settings.channels) - 1),
        num_res_units=2,
    )


class UNetRun:
    """A training that goes on from its state.

    Args:
        config: of the fold: data, augmentation, seed, precision, device and workers are used.
        settings: of the U-Net.
        folder: of the state; made if needed.
    """

    def __init__(self, config: TrainConfig, settings: UNetSettings, folder: Path) -> None:
        self.config, self.settings, self.folder = config, settings, folder
        self.device = choose_device(config.device)
        self.preprocessor = Preprocessor(settings.side_px, MinMaxPixels())
        train, val = samples_of(config.data, "train"), samples_of(config.data, "val")
        # It is asked nothing: the words only carry the masks.
        words = sorted({target.concept for sample in train for target in sample.targets})
        prompts = PromptSampler(words, PromptConfig(negatives=0, synonym_p=0, distractor_p=0))
        self.train_set = TrainDataset(
            train,
            size_px=settings.side_px,
            prompts=prompts,
            augment=Augment(config.augment),
            seed=config.seed,
        )
        self.val_set = TrainDataset(
            val, size_px=settings.side_px, prompts=prompts, seed=config.seed
        )
        self.order = Order(train, config.seed)
        torch.manual_seed(config.seed)
        self.model = build_unet(settings).to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.step, self.best = 0, -1.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE_FILE).exists():
            self._read()

    @property
    def steps_per_epoch(self) -> float:
        """Optimiser steps per epoch."""
        return self.order.epoch_length / self.settings.batch_size

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, round(self.settings.epochs * self.steps_per_epoch))

    def advance(self, deadline: float) -> bool:
        """Train until done or until `time.monotonic()` passes the deadline; whether it is done."""
        if self.step >= self.total_steps:
            return True
        batches = iter(
            DataLoader(
                self.train_set,
                batch_sampler=self.order.batches(self.settings.batch_size, self.step),
                num_workers=self.config.workers,
                collate_fn=list,
            )
        )
        val_every = max(1, round(self.settings.val_every_epochs * self.steps_per_epoch))
        while self.step < self.total_steps:
            self._learn(next(batches))
            self.step += 1
            if self.step % val_every == 0 or self.step == self.total_steps:
                found = self.validate()
                print(f"step {self.step} of {self.total_steps}: validation Dice {found:.4f}")
                if found > self.best:
                    self.best = found
                    self._write(self.folder / "best.pt", {"model": self.model.state_dict()})
            if time.monotonic() > deadline:
                break
        self._write(self.folder / STATE_FILE, self._state())
        return self.step >= self.total_steps

    def validate(self) -> float:
        """Mean Dice of the validation images at the model's size."""
        self.model.eval()
        values = []
        with torch.inference_mode():
            for index in range(len(self.val_set)):
                item = self.val_set[(0, index, 0)]
                (logits,), (truth,) = self._logits([item]), self._targets([item])
                mask = logits[0] > 0
                total = int(mask.sum()) + int(truth.sum())
                values.append(2 * int((mask & truth.bool()[0]).sum()) / total if total else 1.0)
        self.model.train()
        return float(np.mean(values))

    def _learn(self, items: list[TrainItem]) -> None:
        factor = rate_factor(
            self.step, self.total_steps, warmup_steps=40, schedule="cosine", final_fraction=0.0
        )
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.lr * factor
        self.optimiser.zero_grad(set_to_none=True)
        losses = []
        for logits, truth in zip(self._logits(items), self._targets(items), strict=True):
            parts = mask_losses(logits[None], logits.new_zeros(1, 1), truth)
            losses.append(parts.total(1.0, 1.0, 0.0))
        loss = torch.stack(losses).mean()
        if not bool(torch.isfinite(loss)):
            raise TextSAMError(f"step {self.step + 1}: the U-Net's loss is {float(loss)}")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()

    def _logits(self, items: list[TrainItem]) -> list[Tensor]:
        """(1, h, w) logits over the valid part of each item."""
        images = []
        for item in items:
            height, width = item.size_px
            image = item.image[:, :height, :width].to(self.device, torch.float32)
            images.append(self.preprocessor.normalise_and_pad(image))
        with _autocast(self.device, self.config.precision):
            whole = self.model(torch.stack(images)).float()
        return [
            logits[:, : item.size_px[0], : item.size_px[1]]
            for logits, item in zip(whole, items, strict=True)
        ]

    def _targets(self, items: list[TrainItem]) -> list[Tensor]:
        """(1, h, w) in {0, 1}: what any of an item's words means."""
        return [
            item.targets.any(0, keepdim=True)[:, : item.size_px[0], : item.size_px[1]]
            .to(self.device)
            .to(torch.uint8)
            for item in items
        ]

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best": self.best,
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def _read(self) -> None:
        state = torch.load(self.folder / STATE_FILE, map_location="cpu", weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise TextSAMError(
                f"{self.folder / STATE_FILE} belongs to a U-Net with other settings; use the same, "
                "or another --work"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best = state["step"], state["best"]

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        with atomic_path(path) as temporary:
            torch.save(content, temporary)


class UNetPredictor:
    """The weights that validation chose, answering images of any size.

    Args:
        run: finished.
    """

    def __init__(self, run: UNetRun) -> None:
        self.run = run
        best = torch.load(run.folder / "best.pt", map_location="cpu", weights_only=True)
        run.model.load_state_dict(best["model"])
        run.model.eval()

    def __call__(
        self, pixels: NDArray[np.uint8], _truth: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probability and mask (H, W) of an image; the truth is not looked at."""
        run = self.run
        image, frame = run.preprocessor(pixels)
        with torch.inference_mode(), _autocast(run.device, run.config.precision):
            square = run.model(image[None].to(run.device)).float()
        logits = frame.logits_to_image(square)[0, 0]
        return logits.sigmoid().cpu().numpy(), (logits > 0).cpu().numpy()


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
