"""Validation: loss, Dice and IoU per data set and concept, and masks given for what is absent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from textsam.data.dataset import TrainDataset
from textsam.train.losses import mask_losses
from textsam.train.order import Key
from textsam.train.processes import Processes
from textsam.train.settings import LossSettings
from textsam.train.step import Forward

__all__ = ["Validation", "validate"]


@dataclass(frozen=True)
class _Seen:
    """What one image gave.

    Attributes:
        number: of its key.
        loss: total.
        overlaps: group, Dice and IoU of each present concept.
        answered: whether each absent concept got a mask.
    """

    number: int
    loss: float
    overlaps: list[tuple[str, float, float]]
    answered: list[bool]


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        loss: mean over images, weighted as in training.
        dice: mean over the groups of `dice_by_group`, so that a large set does not hide a small;
            None where no image shows anything.
        dice_by_group: "set/concept" -> mean Dice at the model's resolution, by text alone unless
            the run gives geometry in validation.
        iou: mean over the groups of `iou_by_group`, or None likewise.
        iou_by_group: "set/concept" -> mean IoU, of the same masks.
        false_positive_rate: share of absent concepts answered with a non-empty mask; None
            where none is asked for.
    """

    loss: float
    dice: float | None = None
    dice_by_group: dict[str, float] = field(default_factory=dict)
    false_positive_rate: float | None = None
    iou: float | None = None
    iou_by_group: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """Flat name -> value of what there is, for logs."""
        found = {
            "val_loss": self.loss,
            "val_dice": self.dice,
            "val_iou": self.iou,
            "val_false_positive_rate": self.false_positive_rate,
            **{f"val_dice/{name}": value for name, value in self.dice_by_group.items()},
            **{f"val_iou/{name}": value for name, value in self.iou_by_group.items()},
        }
        return {name: value for name, value in found.items() if value is not None}

    def line(self) -> str:
        """The same without the groups, for a terminal."""
        told = {"Dice": self.dice, "IoU": self.iou, "false positives": self.false_positive_rate}
        rest = [f"{name} {value:.4f}" for name, value in told.items() if value is not None]
        return ", ".join([f"val loss {self.loss:.4f}", *rest])


def validate(
    forward: Forward,
    dataset: TrainDataset,
    keys: Sequence[Key],
    loss: LossSettings,
    processes: Processes | None = None,
) -> Validation:
    """Run the validation set through the model as it stands; leaves it in training mode.

    Args:
        forward: of the run.
        dataset: without augmentation.
        keys: which items, always the same.
        loss: weights of the terms.
        processes: that divide the images among them. Images are looked at one by one and summed in
            the order of `keys`, so the result does not depend on how many there are.
    """
    model = forward.built.model
    model.eval()
    processes = processes or Processes()
    own: list[_Seen] = []
    with torch.inference_mode():
        for number in range(processes.index, len(keys), processes.count):
            item = dataset[keys[number]]
            embedding = forward.embed([item])
            tokens = forward.words(item.prompts)
            draws = forward.validation_draws(keys[number])
            answers = forward.decode(item, embedding, tokens, draws)
            # As it will be used: the last pass is the answer.
            logits, targets = answers.logits[-1], answers.targets
            parts = mask_losses(logits, answers.iou[-1], targets, empty_weight=forward.empty_weight)
            seen = _Seen(number, float(parts.total(loss.bce, loss.dice, loss.iou)), [], [])
            masks = logits[:, 0] > 0
            concepts = [item.concepts[place] for place in answers.order]
            for concept, mask, truth in zip(concepts, masks, targets.bool(), strict=True):
                if bool(truth.any()):
                    both = (mask & truth).sum()
                    dice = 2 * both / (mask.sum() + truth.sum())
                    iou_of = both / (mask | truth).sum()
                    group = f"{item.sample.dataset}/{concept}"
                    seen.overlaps.append((group, float(dice), float(iou_of)))
                else:
                    seen.answered.append(bool(mask.any()))
            own.append(seen)
    model.train()
    everything = sorted(processes.gather(own), key=lambda seen: seen.number)
    dices: dict[str, list[float]] = defaultdict(list)
    ious: dict[str, list[float]] = defaultdict(list)
    for seen in everything:
        for group, one, other in seen.overlaps:
            dices[group].append(one)
            ious[group].append(other)
    by_group = {name: fmean(values) for name, values in sorted(dices.items())}
    iou_by_group = {name: fmean(values) for name, values in sorted(ious.items())}
    answered = [answer for seen in everything for answer in seen.answered]
    return Validation(
        loss=fmean(seen.loss for seen in everything),
        dice=fmean(by_group.values()) if by_group else None,
        dice_by_group=by_group,
        false_positive_rate=fmean(answered) if answered else None,
        iou=fmean(iou_by_group.values()) if iou_by_group else None,
        iou_by_group=iou_by_group,
    )
