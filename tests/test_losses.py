"""Losses, learning rate and order of training, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from textsam.data.sample import Sample, Target
from textsam.train.losses import dice_loss, emptiness_loss, iou_of_logits, mask_losses
from textsam.train.order import Key, Order
from textsam.train.schedule import rate_factor
from textsam.train.simulate import simulated_geometry

LN3 = math.log(3)  # sigmoid(±ln 3) is 3/4 and 1/4
ONE_OF_FOUR = torch.tensor([[1.0, 0.0], [0.0, 0.0]])


def test_dice_loss_of_hand_worked_masks() -> None:
    logits = torch.tensor([[[LN3, LN3], [-LN3, -LN3]], [[0.0, 0.0], [0.0, 0.0]]])
    losses = dice_loss(logits, torch.stack([ONE_OF_FOUR, ONE_OF_FOUR]))
    # 1 − 2·(3/4) / (2·9/16 + 2·1/16 + 1) and 1 − 2·(1/2) / (4·1/4 + 1)
    torch.testing.assert_close(losses, torch.tensor([1 / 3, 1 / 2]), rtol=0, atol=2e-5)


def test_dice_loss_at_the_ends_of_its_range() -> None:
    target = ONE_OF_FOUR[None]
    certain = (2 * target - 1) * 40
    assert dice_loss(certain, target).item() == pytest.approx(0.0, abs=1e-6)
    assert dice_loss(-certain, target).item() == pytest.approx(1.0, abs=1e-5)
    # Nothing wanted and nothing said: the smoothing term makes it a perfect answer.
    empty = torch.zeros(1, 2, 2)
    assert dice_loss(torch.full((1, 2, 2), -200.0), empty).item() == pytest.approx(0.0, abs=1e-6)


def test_dice_loss_is_monais_with_squared_denominators() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 7, generator=generator)
    targets = (torch.randn(3, 9, 7, generator=generator) > 0.5).float()
    theirs = DiceLoss(
        sigmoid=True, squared_pred=True, reduction="none", smooth_nr=1e-5, smooth_dr=1e-5
    )(logits[:, None], targets[:, None])
    torch.testing.assert_close(dice_loss(logits, targets), theirs.flatten(), rtol=1e-6, atol=1e-6)


def test_iou_of_logits() -> None:
    logits = torch.tensor([[[0.1, 2.0], [-1.0, 0.0]]]).repeat(4, 1, 1)
    targets = torch.stack(
        [
            ONE_OF_FOUR,
            torch.tensor([[1.0, 1.0], [0.0, 0.0]]),
            torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
            torch.zeros(2, 2),
        ]
    )
    # A logit of exactly 0 is outside the mask.
    assert iou_of_logits(logits, targets).tolist() == [0.5, 1.0, 0.0, 0.0]
    assert iou_of_logits(-logits.abs() - 1, targets)[3].item() == 0.0


def test_mask_losses_of_a_present_and_an_absent_prompt() -> None:
    logits = torch.tensor([[[[LN3, LN3], [-LN3, -LN3]]], [[[LN3, LN3], [LN3, LN3]]]])
    targets = torch.stack([ONE_OF_FOUR, torch.zeros(2, 2)]).to(torch.uint8)
    parts = mask_losses(logits, torch.tensor([[0.9], [0.3]]), targets)
    present = (-math.log(0.75) * 3 - math.log(0.25)) / 4
    assert parts.bce.item() == pytest.approx((present + math.log(4)) / 2, rel=1e-6)
    # The absent prompt has no say in Dice: not half of it, none.
    assert parts.dice.item() == pytest.approx(1 / 3, abs=2e-5)
    # True IoU is 1/2 and, for what is absent, 0.
    assert parts.iou.item() == pytest.approx((0.4**2 + 0.3**2) / 2, rel=1e-6)
    expected = 2 * parts.bce.item() + 3 * parts.dice.item() + 4 * parts.iou.item()
    assert parts.total(2, 3, 4).item() == pytest.approx(expected, rel=1e-6)


def test_absent_prompts_learn_from_cross_entropy_alone() -> None:
    logits = torch.zeros(2, 1, 4, 4, requires_grad=True)
    parts = mask_losses(logits, torch.zeros(2, 1), torch.zeros(2, 4, 4))
    assert parts.dice.item() == 0.0
    (of_dice,) = torch.autograd.grad(parts.dice, logits, retain_graph=True)
    assert torch.equal(of_dice, torch.zeros_like(logits))
    (of_bce,) = torch.autograd.grad(parts.bce, logits)
    # d/dz of softplus(z) at 0 is 1/2, over 2 prompts of 16 pixels.
    torch.testing.assert_close(of_bce, torch.full_like(logits, 0.5 / 32))


def test_emptiness_counts_small_false_masks_nearly_as_much_as_large_ones() -> None:
    def blob(share: float) -> torch.Tensor:
        logits = torch.full((100, 100), -50.0)
        logits.view(-1)[: round(share * 10_000)] = 50.0
        return logits

    losses = emptiness_loss(torch.stack([blob(share) for share in (0, 0.01, 0.04, 1)]))
    assert losses.tolist() == pytest.approx([0, 1 / 2, 4 / 5, 100 / 101], abs=1e-6)


def test_emptiness_is_added_to_dice_for_absent_prompts_alone() -> None:
    logits = torch.tensor([[[[LN3, LN3], [-LN3, -LN3]]], [[[LN3, LN3], [LN3, LN3]]]])
    targets = torch.stack([ONE_OF_FOUR, torch.zeros(2, 2)])
    without = mask_losses(logits, torch.zeros(2, 1), targets)
    parts = mask_losses(logits, torch.zeros(2, 1), targets, empty_weight=0.5)
    # Probabilities of 3/4 all over the square: 9/16 of it.
    assert parts.dice.item() == pytest.approx(
        without.dice.item() + 0.5 * 0.5625 / (0.5625 + 0.01), rel=1e-6
    )
    assert (parts.bce, parts.iou) == (without.bce, without.iou)
    present = mask_losses(logits[:1], torch.zeros(1, 1), targets[:1], empty_weight=0.5)
    assert present.dice.item() == without.dice.item()


def test_iou_regression_moves_the_prediction_and_not_the_mask() -> None:
    logits = torch.tensor([[[[LN3, LN3], [-LN3, -LN3]]]], requires_grad=True)
    predicted = torch.tensor([[0.9]], requires_grad=True)
    parts = mask_losses(logits, predicted, ONE_OF_FOUR[None])
    of_iou = torch.autograd.grad(parts.iou, [logits, predicted], allow_unused=True)
    assert of_iou[0] is None
    assert of_iou[1].item() == pytest.approx(2 * (0.9 - 0.5), rel=1e-6)


def test_rate_rises_then_follows_the_cosine() -> None:
    def factor(step: int, final: float = 0.0) -> float:
        return rate_factor(step, 11, warmup_steps=3, schedule="cosine", final_fraction=final)

    assert [factor(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    # Steps 3 to 11 are the half wave: a quarter, a half and three quarters of the way.
    assert factor(5) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert factor(7) == pytest.approx(0.5)
    assert factor(9) == pytest.approx((1 - math.sqrt(0.5)) / 2)
    assert factor(11) == pytest.approx(0.0, abs=1e-12)
    assert factor(7, final=0.2) == pytest.approx(0.6)
    assert factor(11, final=0.2) == factor(50, final=0.2) == pytest.approx(0.2)
    # Warm-up is not scaled by the final fraction.
    assert factor(1, final=0.2) == pytest.approx(0.5)


def test_constant_rate_has_a_warm_up_too() -> None:
    factors = [
        rate_factor(step, 4, warmup_steps=1, schedule="constant", final_fraction=0.0)
        for step in range(4)
    ]
    assert factors == [0.5, 1.0, 1.0, 1.0]


def samples(*weights: float) -> list[Sample]:
    return [
        Sample("toy", "unknown", f"{i}", Path(f"{i}.png"), (Target("tumor", Path("m.png")),), (), w)
        for i, w in enumerate(weights)
    ]


@pytest.mark.parametrize("weights", [(1.0,) * 7, (2.0, 1.0, 0.5, 1.3, 0.4)])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_batches_from_the_middle_are_those_of_the_whole_run(
    weights: tuple[float, ...], size: int
) -> None:
    order = Order(samples(*weights), seed=4)
    whole = list(islice(order.batches(size), 12))
    assert {len(batch) for batch in whole} == {size}
    for start in (1, 2, 5, 11):
        assert list(islice(order.batches(size, start), 12 - start)) == whole[start:]


def test_each_epoch_is_another_permutation() -> None:
    order = Order(samples(*(1.0,) * 10), seed=0)
    keys = [key for batch in islice(order.batches(4), 10) for key in batch]
    epochs = [keys[start : start + 10] for start in range(0, 40, 10)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [(number, index, 0) for index in range(10)]
    orders = {tuple(index for _, index, _ in epoch) for epoch in epochs}
    assert len(orders) == 4
    again = [
        key for batch in islice(Order(samples(*(1.0,) * 10), 1).batches(4), 10) for key in batch
    ]
    assert again != keys


def test_weights_say_how_often_a_sample_is_seen() -> None:
    order = Order(samples(3.0, 1.0, 0.5, 0.5), seed=3)
    assert order.epoch_length == 5
    assert Order(samples(1.0, 0.7), seed=0).epoch_length == 2
    assert Order(samples(0.2), seed=0).epoch_length == 1
    counts: Counter[int] = Counter()
    for number, epoch in enumerate(islice(order.batches(5), 400)):
        seen = Counter(index for _, index, _ in epoch)
        # Whole weights are exact in every epoch, and a second look is another repeat.
        assert (seen[0], seen[1]) == (3, 1)
        assert {(number, 0, repeat) for repeat in range(3)} <= set(epoch)
        counts += seen
    assert counts[2] + counts[3] == 400
    assert 160 < counts[2] < 240  # 200 ± 4 standard deviations


class _Keys(Dataset[Key]):
    def __getitem__(self, key: Key) -> Key:
        return key


def _as_is(batch: list[Key]) -> list[Key]:
    return batch


# Python 3.12 and 3.13 warn of forking where threads run, which torch's loader does.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_order_does_not_depend_on_loader_processes() -> None:
    order = Order(samples(2.0, 1.0, 0.5, 0.5), seed=3)
    seen = []
    for workers in (0, 2):
        loader = DataLoader(
            _Keys(),
            batch_sampler=order.batches(3, start=2),  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_as_is,
        )
        seen.append(list(islice(iter(loader), 8)))
    assert seen[0] == seen[1] == list(islice(order.batches(3, start=2), 8))


def l_shape() -> NDArray[np.bool_]:
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 10:12] = True
    mask[13:15, 10:20] = True
    return mask


def test_geometry_without_jitter_is_the_mask_s_own() -> None:
    point, box = simulated_geometry(l_shape(), 0.0, np.random.default_rng(0))
    assert box.tolist() == [10, 5, 19, 14]
    # 20 px of the bar around x 10.5, y 9.5 and 16 px of the foot around x 15.5, y 13.5
    assert point.tolist() == pytest.approx(
        [(20 * 10.5 + 16 * 15.5) / 36, (20 * 9.5 + 16 * 13.5) / 36]
    )


@pytest.mark.parametrize("jitter", [0.1, 1.0])
def test_jittered_geometry_stays_near_and_inside(jitter: float) -> None:
    mask = l_shape()
    point, _ = simulated_geometry(mask, 0.0, np.random.default_rng(0))
    boxes = []
    for seed in range(300):
        moved, box = simulated_geometry(mask, jitter, np.random.default_rng(seed))
        assert (np.abs(moved - point) <= jitter * 10 / 2 + 1e-9).all()
        assert 0 <= box[0] <= box[2] <= 29
        assert 0 <= box[1] <= box[3] <= 19
        boxes.append(box)
    spread = np.abs(np.array(boxes) - [10, 5, 19, 14]).max(axis=0)
    assert (spread > 0.4 * jitter * 10).all()
    if jitter < 0.5:
        assert (spread <= jitter * 10 + 1e-9).all()


def test_an_object_at_the_border_keeps_its_geometry_inside() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[7, 7] = True
    for seed in range(50):
        point, box = simulated_geometry(mask, 1.0, np.random.default_rng(seed))
        assert ((point >= 0) & (point <= 7)).all()
        assert ((box >= 0) & (box <= 7)).all()


def test_an_empty_mask_has_no_geometry() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        simulated_geometry(np.zeros((4, 4), dtype=bool), 0.1, np.random.default_rng(0))
