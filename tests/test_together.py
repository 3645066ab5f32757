"""A batch decoded and judged at once is the same as image by image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import begin, run_config, write_data
from torch import Tensor

from textsam.data.dataset import TrainItem
from textsam.model.tuning import trainable_parameters
from textsam.train.losses import LossParts, batch_losses, mask_losses
from textsam.train.run import Run

KEYS = [(0, index, 0) for index in range(6)]
BOXES: dict[str, Any] = {"probability": 0.6, "jitter": 0.2}
SIZES = [(64, 64), (40, 64), (64, 23)]


def cropped(item: TrainItem, height: int, width: int) -> TrainItem:
    """The item as if its image were smaller, with nothing beyond it."""
    image, targets = torch.zeros_like(item.image), torch.zeros_like(item.targets)
    image[:, :height, :width] = item.image[:, :height, :width]
    targets[:, :height, :width] = item.targets[:, :height, :width]
    return replace(item, image=image, targets=targets, size_px=(height, width))


def items_of(run: Run) -> list[TrainItem]:
    """Six images of three shapes; three of them are asked for what is there last of all."""
    items = [run.train_set[key] for key in KEYS]
    for number, item in enumerate(items[:3]):
        items[number] = replace(
            item,
            prompts=item.prompts[::-1],
            concepts=item.concepts[::-1],
            targets=item.targets.flip(0),
        )
    return [cropped(item, *SIZES[number % 3]) for number, item in enumerate(items)]


def gradients(run: Run, parts: list[LossParts]) -> dict[str, Tensor]:
    """Of the mean of all terms."""
    run.optimiser.zero_grad(set_to_none=True)
    total = torch.stack([part.total(1.0, 0.7, 0.5) for part in parts]).mean()
    total.backward()  # type: ignore[no-untyped-call]
    named = trainable_parameters(run.built.model).items()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"geometry": BOXES},
        {"geometry": {**BOXES, "text_p": 0.5, "kinds": {"box": 1.0, "point": 1.0}}},
        {"geometry": {**BOXES, "earlier_p": 0.7}, "loss": {"iou": 0.5, "empty": 0.3}},
        {"geometry": BOXES, "tokens": {"count": 2, "width": 8}},
    ],
    ids=["word", "boxes", "without-word", "earlier", "learned-tokens"],
)
def test_a_batch_is_its_images_one_by_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    prompts = {"negatives": 2, "distractor_p": 1.0}
    run = begin(run_config(write_data(tmp_path), prompts=prompts, **settings))
    items = items_of(run)
    assert [len(item.prompts) for item in items] == [3] * 6
    singly = [
        part
        for key, item in zip(KEYS, items, strict=True)
        for part in run.forward.losses([key], [item])
    ]
    by_hand = gradients(run, singly)
    at_once = run.forward.losses(KEYS, items)
    for number, (ours, theirs) in enumerate(zip(at_once, singly, strict=True)):
        for name in ("bce", "dice", "iou"):
            one, other = (float(getattr(part, name).detach()) for part in (ours, theirs))
            assert one == pytest.approx(other, rel=1e-4, abs=1e-6), (number, name)
    found = gradients(run, at_once)
    assert found.keys() == by_hand.keys()
    scale = max(float(grad.abs().max()) for grad in by_hand.values())
    for name, grad in found.items():
        torch.testing.assert_close(grad, by_hand[name], rtol=2e-3, atol=1e-4 * scale)


def test_images_without_and_with_nothing_to_find_keep_their_own_terms() -> None:
    torch.manual_seed(0)
    logits, iou = torch.randn(5, 1, 8, 8), torch.rand(5, 1)
    targets = torch.zeros(5, 8, 8, dtype=torch.uint8)
    targets[0, 2:5, 1:4] = 1
    targets[3, :6, :2] = 1
    sizes, counts = [(8, 8), (6, 3), (5, 8)], [2, 1, 2]  # the second image shows nothing asked for
    targets[3, 5:] = 0
    together = batch_losses(logits, iou, targets, sizes_px=sizes, counts=counts, empty_weight=0.4)
    begun = 0
    for part, (height, width), count in zip(together, sizes, counts, strict=True):
        rows = slice(begun, begun + count)
        alone = mask_losses(
            logits[rows, :, :height, :width],
            iou[rows],
            targets[rows, :height, :width],
            empty_weight=0.4,
        )
        for name in ("bce", "dice", "iou"):
            torch.testing.assert_close(getattr(part, name), getattr(alone, name))
        begun += count
    assert float(together[1].dice) > 0, "an empty target costs by its emptiness alone"


def test_the_decoder_is_called_once_for_prompts_of_one_shape(tmp_path: Path) -> None:
    run = begin(run_config(write_data(tmp_path), prompts={"negatives": 1, "distractor_p": 1.0}))
    decode, calls = run.built.model.decode, []

    def counted(image: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(sparse))
        return decode(image, sparse, dense)

    run.built.model.decode = counted  # type: ignore[method-assign]
    run.forward.losses(KEYS, items_of(run))
    assert calls == [12]
