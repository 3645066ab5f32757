"""Preference optimisation, piece by piece: rater, noise, region, log-likelihood and loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from textsam.train.losses import LossParts
from textsam.train.preference import (
    AnchorParts,
    PreferenceParts,
    disagreement,
    log_likelihood,
    preference_margin,
)
from textsam.train.preference_config import PreferenceSettings, Strategy
from textsam.train.rater import (
    candidate_masks,
    candidate_weights,
    flip_adjacent,
    iou_of,
    ratings_of,
)

CUTS = (0.3, 0.4, 0.5, 0.6)


def weights_of(iou: list[float], strategy: Strategy = "ranking", noise: float = 0) -> list[float]:
    found = candidate_weights(
        np.array(iou),
        strategy,
        beta_outer=1.0,
        beta_inner=0.5,
        noise=noise,
        rng=np.random.default_rng(0),
    )
    return [round(float(weight), 12) for weight in found]


def test_candidates_are_level_sets() -> None:
    probability = torch.tensor([[0.1, 0.3, 0.35], [0.45, 0.55, 0.9]])
    masks = candidate_masks(probability, CUTS)
    assert masks.int().tolist() == [
        [[0, 0, 1], [1, 1, 1]],  # 0.3 itself is not above 0.3
        [[0, 0, 0], [1, 1, 1]],
        [[0, 0, 0], [0, 1, 1]],
        [[0, 0, 0], [0, 0, 1]],
    ]


def test_iou_by_hand() -> None:
    truth = torch.tensor([[True, True, False, False]])
    candidates = torch.tensor([[[True, True, True, False]], [[False, False, False, False]]])
    assert iou_of(candidates, truth).tolist() == [2 / 3, 0.0]
    assert iou_of(candidates, torch.zeros_like(truth)).tolist() == [0.0, 1.0]


def test_ratings_are_the_paper_s() -> None:
    iou = np.array([0.0, 0.399, 0.4, 0.549, 0.55, 0.7, 0.701, 1.0])
    assert ratings_of(iou).tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_ranking_weighs_as_the_paper_s_loss() -> None:
    assert weights_of([0.2, 0.6, 0.3, 0.5]) == [-1, 1, -0.5, 0.5]


def test_best_only_compares_two() -> None:
    assert weights_of([0.2, 0.6, 0.3, 0.5], "best-only") == [-1, 1, 0, 0]


def test_rating_sees_no_difference_within_a_rating() -> None:
    # Ratings 1, 3, 1, 2: the two of rating 1 share the last two places.
    assert weights_of([0.2, 0.6, 0.3, 0.5], "rating") == [-0.75, 1, -0.75, 0.5]
    # Ratings 4, 4, 4, 3.
    assert weights_of([0.72, 0.74, 0.8, 0.6], "rating") == [
        *[pytest.approx(1 / 3)] * 3,
        -1,
    ]
    # All 3: the rater has no opinion, though IoU differs.
    assert weights_of([0.56, 0.6, 0.65, 0.69], "rating") == [0, 0, 0, 0]
    assert weights_of([0.56, 0.6, 0.65, 0.69], "ranking") == [-1, -0.5, 0.5, 1]


@pytest.mark.parametrize("strategy", ["best-only", "rating", "ranking"])
def test_ties_weigh_nothing(strategy: Strategy) -> None:
    assert weights_of([0.5] * 4, strategy) == [0, 0, 0, 0]
    assert weights_of([0.5] * 4, strategy, noise=1.0) == [0, 0, 0, 0]


@pytest.mark.parametrize("strategy", ["best-only", "rating", "ranking"])
def test_weights_add_up_to_nothing_whatever_is_confused(strategy: Strategy) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        iou = rng.choice([0.1, 0.3, 0.45, 0.6, 0.9], 4)
        found = candidate_weights(iou, strategy, beta_outer=1.0, beta_inner=0.5, noise=0.5, rng=rng)
        assert abs(found.sum()) < 1e-12


def test_two_and_three_candidates_have_no_inner_pair() -> None:
    assert weights_of([0.4, 0.5]) == [-1, 1]
    assert weights_of([0.4, 0.6, 0.5]) == [-1, 1, 0]


def test_no_noise_changes_nothing() -> None:
    scores = np.array([0.3, 0.1, 0.2, 0.4])
    for seed in range(20):
        assert flip_adjacent(scores, 0.0, np.random.default_rng(seed)) is scores


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_noise_confuses_neighbours_in_its_share_of_the_cases(noise: float) -> None:
    scores = np.array([3.0, 1.0, 2.0, 4.0])
    flipped = [flip_adjacent(scores, noise, np.random.default_rng((7, i))) for i in range(4000)]
    changed = [f for f in flipped if not np.array_equal(f, scores)]
    assert abs(len(changed) / 4000 - noise) < 3 * math.sqrt(noise * (1 - noise) / 4000) + 1e-9
    # Neighbours in the order, and nobody else: 1-2, 2-3 or 3-4.
    seen = {tuple(f) for f in changed}
    assert seen == {(3.0, 2.0, 1.0, 4.0), (2.0, 1.0, 3.0, 4.0), (4.0, 1.0, 2.0, 3.0)}


def test_a_confusion_at_a_low_noise_is_one_at_a_higher() -> None:
    scores = np.array([3.0, 1.0, 2.0, 4.0])
    for seed in range(200):
        low, high = (flip_adjacent(scores, p, np.random.default_rng(seed)) for p in (0.1, 0.3))
        assert np.array_equal(low, scores) or np.array_equal(low, high)


def test_noise_between_equal_ratings_picks_a_pair_that_differs() -> None:
    scores = np.array([4.0, 4.0, 4.0, 3.0])
    for seed in range(20):
        flipped = flip_adjacent(scores, 1.0, np.random.default_rng(seed))
        assert flipped[3] == 4
        assert sorted(flipped) == [3, 4, 4, 4]


# Two candidates on 1×5 pixels that differ in the middle one.
NARROW = torch.tensor([[[True, True, False, False, False]], [[True, True, True, False, False]]])


def test_region_is_where_candidates_differ_and_around() -> None:
    assert disagreement(NARROW, 0).int().tolist() == [[0, 0, 1, 0, 0]]
    assert disagreement(NARROW, 1).int().tolist() == [[0, 1, 1, 1, 0]]
    assert disagreement(NARROW[:1].repeat(2, 1, 1), 3).any().item() is False


def test_log_likelihood_by_hand() -> None:
    logits = torch.tensor([[9.0, 1.0, -0.5, -2.0, 9.0]], dtype=torch.float64)
    p = [1 / (1 + math.exp(-z)) for z in (1.0, -0.5, -2.0)]
    wanted = [
        (math.log(p[0]) + math.log(1 - p[1]) + math.log(1 - p[2])) / 3,
        (math.log(p[0]) + math.log(p[1]) + math.log(1 - p[2])) / 3,
    ]
    found = log_likelihood(logits, NARROW, disagreement(NARROW, 1))
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)


def random_case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, those of a reference, and four candidates of which none is inside another."""
    generator = torch.Generator().manual_seed(seed)
    logits, reference = torch.randn(2, 6, 7, generator=generator, dtype=torch.float64)
    candidates = torch.rand(4, 6, 7, generator=generator) > 0.5
    candidates[:, :3] = True  # they agree here
    return logits, reference, candidates


def test_margin_is_linear_in_the_logits() -> None:
    # log σ(z) − log σ(−z) = z, so with weights that add up to 0 all but this cancels.
    logits, reference, candidates = random_case(0)
    weights = torch.tensor([1.0, 0.5, -0.5, -1.0], dtype=torch.float64)
    region = disagreement(candidates, 1)
    pull = (weights[:, None, None] * candidates).sum(0)
    wanted = ((logits - reference) * pull).sum() / region.sum()
    found = preference_margin(logits, reference, candidates, weights, 1)
    assert float(found) == pytest.approx(float(wanted), abs=1e-12)
    assert float(preference_margin(reference, reference, candidates, weights, 1)) == 0


def test_the_loss_is_the_paper_s() -> None:
    logits, reference, candidates = random_case(1)
    region = disagreement(candidates, 2)
    r = log_likelihood(logits, candidates, region) - log_likelihood(reference, candidates, region)
    # Candidates 2, 0, 3, 1 from best to worst.
    weights = torch.from_numpy(
        candidate_weights(
            np.array([0.6, 0.1, 0.9, 0.3]),
            "ranking",
            beta_outer=1.0,
            beta_inner=0.5,
            noise=0,
            rng=np.random.default_rng(0),
        )
    )
    margin = float(1.0 * r[2] + 0.5 * r[0] - 0.5 * r[3] - 1.0 * r[1])
    found = -F.logsigmoid(preference_margin(logits, reference, candidates, weights, 2))
    assert float(found) == pytest.approx(math.log(1 + math.exp(-margin)), abs=1e-12)


def test_best_only_is_the_dpo_loss_of_two() -> None:
    logits, reference, candidates = random_case(2)
    best, worst = 3, 1
    region = disagreement(candidates[[best, worst]], 1)

    def pi(z: Tensor, y: Tensor) -> float:
        likelihood = torch.where(y, z.sigmoid(), 1 - z.sigmoid())
        return float(likelihood.log()[region].mean())

    chosen = pi(logits, candidates[best]) - pi(reference, candidates[best])
    rejected = pi(logits, candidates[worst]) - pi(reference, candidates[worst])
    by_hand = -math.log(1 / (1 + math.exp(-1.0 * (chosen - rejected))))
    weights = torch.tensor(weights_of([0.3, 0.1, 0.2, 0.9], "best-only"), dtype=torch.float64)
    found = -F.logsigmoid(preference_margin(logits, reference, candidates, weights, 1))
    assert float(found) == pytest.approx(by_hand, abs=1e-12)


def test_exchanging_best_and_worst_turns_the_gradient() -> None:
    _, reference, candidates = random_case(3)
    gradients = []
    for order in ([0.9, 0.5, 0.5, 0.1], [0.1, 0.5, 0.5, 0.9]):
        logits = reference.clone().requires_grad_(True)
        weights = torch.tensor(weights_of(order), dtype=torch.float64)
        loss = -F.logsigmoid(preference_margin(logits, reference, candidates, weights, 1))
        loss.backward()
        assert logits.grad is not None
        gradients.append(logits.grad)
    assert torch.allclose(gradients[0], -gradients[1], atol=1e-15)
    assert gradients[0].abs().max() > 0
    # Down the first gradient the best gains: where it alone has a pixel, the logit rises.
    only_best = candidates[0] & ~candidates[3]
    assert (gradients[0][only_best] < 0).all()
    assert (gradients[0][candidates[0] == candidates[3]] == 0).all()


def test_parts_of_a_batch_weigh_as_set() -> None:
    one = torch.tensor(1.0)
    rated = PreferenceParts(
        0 * one, 0 * one, 0 * one, preference=3 * one, weight=0.5, correct=1.0, skipped=0.25
    )
    assert float(rated.total(7, 7, 7)) == 1.5
    assert rated.logged() == {"preference": 3.0, "ties": 0.25, "preferred": 1.0}
    inner = LossParts(one, 2 * one, 3 * one)
    anchor = AnchorParts(inner, 0.25)
    assert float(anchor.total(1, 2, 3)) == 0.25 * (1 + 4 + 9)
    assert anchor.logged() == inner.logged() == {"bce": 1.0, "dice": 2.0, "iou": 3.0}


@pytest.mark.parametrize("cuts", [(0.5,), (0.5, 0.4), (0.4, 0.4), (0.0, 0.5), (0.5, 1.0)])
def test_cuts_that_make_no_candidates_are_refused(cuts: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="cuts are"):
        PreferenceSettings(cuts=cuts)


def test_defaults_are_the_paper_s() -> None:
    settings = PreferenceSettings()
    assert (settings.cuts, settings.beta_outer, settings.beta_inner) == (CUTS, 1.0, 0.5)
    assert (settings.strategy, settings.learns, settings.noise) == ("ranking", "decoder", 0.0)
