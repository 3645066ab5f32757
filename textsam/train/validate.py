"""Validation: loss, Dice per data set and concept, and masks given for what is absent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from textsam.config import LossSettings
from textsam.data.dataset import TrainDataset
from textsam.train.losses import mask_losses
from textsam.train.order import Key
from textsam.train.step import Forward

__all__ = ["Validation", "validate"]


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        loss: mean over images, weighted as in training.
        dice: mean over the groups of `dice_by_group`, so that a large set does not hide a small.
        dice_by_group: "set/concept" -> mean Dice at the model's resolution, text alone.
        false_positive_rate: share of absent concepts answered with a non-empty mask.
    """

    loss: float
    dice: float
    dice_by_group: dict[str, float] = field(default_factory=dict)
    false_positive_rate: float = 0.0

    def summary(self) -> dict[str, float]:
        """Flat name -> value, for logs."""
        return {
            "val_loss": self.loss,
            "val_dice": self.dice,
            "val_false_positive_rate": self.false_positive_rate,
            **{f"val_dice/{name}": value for name, value in self.dice_by_group.items()},
        }


def validate(
    forward: Forward,
    dataset: TrainDataset,
    keys: Sequence[Key],
    loss: LossSettings,
) -> Validation:
    """Run the validation set through the model as it stands; leaves it in training mode.

    Args:
        forward: of the run.
        dataset: without augmentation.
        keys: which items, always the same.
        loss: weights of the terms.
    """
    model = forward.built.model
    model.eval()
    total = 0.0
    dice: dict[str, list[float]] = defaultdict(list)
    absent: list[bool] = []
    with torch.inference_mode():
        for key in keys:
            item = dataset[key]
            embedding = forward.embed([item])
            tokens = model.encode_text(item.prompts)
            logits, targets, iou = forward.decode(item, embedding, tokens, None)
            parts = mask_losses(logits, iou, targets)
            total += float(parts.total(loss.bce, loss.dice, loss.iou))
            masks = logits[:, 0] > 0
            for concept, mask, truth in zip(item.concepts, masks, targets.bool(), strict=True):
                if bool(truth.any()):
                    overlap = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
                    dice[f"{item.sample.dataset}/{concept}"].append(float(overlap))
                else:
                    absent.append(bool(mask.any()))
    model.train()
    by_group = {name: sum(values) / len(values) for name, values in sorted(dice.items())}
    return Validation(
        loss=total / max(1, len(keys)),
        dice=sum(by_group.values()) / max(1, len(by_group)),
        dice_by_group=by_group,
        false_positive_rate=sum(absent) / max(1, len(absent)),
    )
