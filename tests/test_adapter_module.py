"""The text adapter computes the paper's formula."""

from __future__ import annotations

import math

import pytest
import torch

from textsam.model.adapter import TextAdapter


def hand_made(*, normalise: bool = True, scale: float = 1.0) -> TextAdapter:
    adapter = TextAdapter(2, 2, 3, normalise=normalise, scale=scale)
    adapter.fc1.weight.data = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    adapter.fc1.bias.data = torch.tensor([0.5, -1.0])
    adapter.fc2.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
    adapter.fc2.bias.data = torch.tensor([0.1, 0.2, 0.3])
    return adapter


def gelu(x: float) -> float:
    """The exact one, by the normal distribution's integral."""
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def by_hand(z: tuple[float, float]) -> list[float]:
    a = gelu(1.0 * z[0] - 1.0 * z[1] + 0.5)
    b = gelu(0.5 * z[0] + 2.0 * z[1] - 1.0)
    return [a + 0.1, 2 * b + 0.2, -a + b + 0.3]


INPUTS = [(2.0, 1.0), (-1.5, 0.75), (0.0, 0.0)]


@pytest.mark.parametrize("z", INPUTS)
def test_formula_without_norm(z: tuple[float, float]) -> None:
    token = hand_made(normalise=False)(torch.tensor([z]))
    torch.testing.assert_close(token, torch.tensor([by_hand(z)]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("z", INPUTS)
@pytest.mark.parametrize("scale", [1.0, 16.0])
def test_formula_with_norm_and_scale(z: tuple[float, float], scale: float) -> None:
    token = hand_made(scale=scale)(torch.tensor([z]))
    expected = by_hand(z)
    length = math.sqrt(sum(value * value for value in expected))
    expected = [scale * value / length for value in expected]
    torch.testing.assert_close(token, torch.tensor([expected]), rtol=1e-5, atol=1e-5)


def test_every_token_has_the_norm_of_the_scale() -> None:
    features = torch.linspace(-3, 3, 7 * 512).sin().view(7, 512)
    for scale in (1.0, 2.5):
        tokens = TextAdapter(512, scale=scale)(features)
        assert tokens.shape == (7, 256)
        torch.testing.assert_close(tokens.norm(dim=-1), torch.full((7,), scale))
    assert TextAdapter(512, normalise=False)(features).norm(dim=-1).std() > 0.01


def test_scale_applies_without_norm_too() -> None:
    z = torch.tensor([INPUTS[0]])
    torch.testing.assert_close(
        hand_made(normalise=False, scale=3.0)(z), 3 * hand_made(normalise=False)(z)
    )


def test_a_zero_output_is_not_divided_by_zero() -> None:
    adapter = TextAdapter(4, 4, 4)
    for parameter in adapter.parameters():
        parameter.data.zero_()
    assert torch.equal(adapter(torch.ones(2, 4)), torch.zeros(2, 4))


def test_biomedclips_adapter_has_the_papers_size() -> None:
    assert sum(p.numel() for p in TextAdapter(512).parameters()) == 197_120
