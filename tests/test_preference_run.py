"""Stage two as a run: what moves, what does not, what the truth may do, and resuming."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from runs import ONLY_FLIPS, begin, learned, log_rows, logged, run_config, same, train
from safetensors.torch import load_file
from tiny import write_images_and_masks
from torch import Tensor

from textsam.config import TrainConfig
from textsam.data.dataset import TrainItem
from textsam.data.sources import samples_of
from textsam.errors import ConfigError
from textsam.model.tuning import trainable_parameters
from textsam.train.losses import LossParts
from textsam.train.preference import PreferenceParts
from textsam.train.preference_step import PreferenceForward, unlabelled_images
from textsam.train.run import Run, fit

FOLDERS = [
    {"folder": "few", "concept": "tumor"},
    {"folder": "many", "concept": "tumor"},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images_and_masks(tmp_path / "few", 3)
    write_images_and_masks(tmp_path / "many", 3, seed=4)
    write_images_and_masks(tmp_path / "val", 2, seed=1)
    first = run_config(
        tmp_path, name="first", data=data(tmp_path, FOLDERS[:1]), epochs=8, optim={"lr": 3e-3}
    )
    train(first)
    # What so little training is unsure of: heights that cut its masks into different sizes.
    (tmp_path / "cuts.json").write_text("[0.3, 0.4, 0.5, 0.6]", encoding="utf-8")
    logits = logits_of(begin(second(tmp_path)), "many")
    cuts = torch.quantile(logits.sigmoid(), torch.tensor([0.3, 0.5, 0.7, 0.9])).tolist()
    (tmp_path / "cuts.json").write_text(json.dumps(cuts), encoding="utf-8")
    return tmp_path


def data(root: Path, folders: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "root": str(root),
        "train_folders": folders,
        "val_folders": [{"folder": "val", "concept": "tumor"}],
    }


def second(root: Path, preference: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    """Stage two: 6 steps of 2 images, of which half have no labels."""
    settings: dict[str, Any] = {
        "name": "second",
        "data": data(root, FOLDERS),
        "init_adapter": str(root / "runs" / "first" / "last"),
        "prompts": {"negatives": 0, "synonym_p": 0.0},
        "preference": {
            "unlabelled_folders": ["many"],
            "cuts": json.loads((root / "cuts.json").read_text(encoding="utf-8")),
            **(preference or {}),
        },
    }
    return run_config(root, **{**settings, **changes})


def forward_of(run: Run) -> PreferenceForward:
    assert isinstance(run.forward, PreferenceForward)
    return run.forward


def item_of(run: Run, folder: str) -> tuple[tuple[int, int, int], TrainItem]:
    for index, sample in enumerate(run.train_set.samples):
        if sample.dataset == folder:
            return (0, index, 0), run.train_set[(0, index, 0)]
    raise AssertionError(folder)


def logits_of(run: Run, folder: str) -> Tensor:
    """(h, w) of the first image of a folder, by the word alone."""
    _, item = item_of(run, folder)
    with torch.no_grad():
        tokens = run.built.model.encode_text(item.prompts)
        answers = run.forward.decode(item, run.forward.embed([item]), tokens, None)
    return answers.logits[-1][0, 0]


def losses(run: Run, folder: str, **changes: Any) -> LossParts:
    """The loss of the first image of a folder, fields of its item replaced."""
    key, item = item_of(run, folder)
    (parts,) = run.forward.losses([key], [dataclasses.replace(item, **changes)])
    return parts


def state_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_the_decoder_moves_and_nothing_else(root: Path) -> None:
    run = begin(second(root))
    reference = forward_of(run).reference
    before, began = learned(run), state_of(reference)
    assert same(before, load_file(root / "runs" / "first" / "last" / "adapter.safetensors"))
    everything = state_of(run.built.model)
    fit(run, progress=False)
    assert same(state_of(reference), began), "bit for bit"
    moved = {name for name, tensor in learned(run).items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith("mask_decoder.") for name in moved)
    resting = {n: t for n, t in everything.items() if not n.startswith("mask_decoder.")}
    now = state_of(run.built.model)
    assert same({name: now[name] for name in resting}, resting)
    # What rests is in the adapter all the same.
    saved = load_file(run.folder / "last" / "adapter.safetensors")
    assert saved.keys() == before.keys()


def test_the_words_learn_where_that_is_asked_for(root: Path) -> None:
    run = begin(second(root, {"learns": "decoder+text"}))
    reference = forward_of(run).reference
    before, began = learned(run), state_of(reference)
    fit(run, progress=False)
    assert same(state_of(reference), began)
    moved = {n.split(".")[0] for n, t in learned(run).items() if not torch.equal(t, before[n])}
    assert moved == {"mask_decoder", "context", "adapter"}


def test_the_reference_shares_what_rests(root: Path) -> None:
    run = begin(second(root))
    model, reference = run.built.model, forward_of(run).reference
    assert reference.image_encoder is model.image_encoder
    assert reference.text_encoder is model.text_encoder
    own = {id(p) for p in reference.mask_decoder.parameters()}
    assert own.isdisjoint({id(p) for p in model.parameters()})
    assert not any(parameter.requires_grad for parameter in reference.mask_decoder.parameters())
    assert all(p.requires_grad for p in trainable_parameters(model).values())


def test_a_first_step_stands_at_ln_2_and_then_prefers(root: Path) -> None:
    preference = {"candidates": "reference", "anchor": 0.0}
    run = begin(second(root, preference, epochs=4))
    parts = losses(run, "many")
    assert isinstance(parts, PreferenceParts)
    assert parts.skipped == 0
    assert float(parts.preference.detach()) == pytest.approx(np.log(2), abs=1e-6)
    fit(run, progress=False)
    assert len(logged(run, "preference")) > 4
    after = losses(run, "many")
    assert isinstance(after, PreferenceParts)
    assert float(after.preference.detach()) < 0.99 * np.log(2)
    assert after.correct == 1.0


def test_a_worse_truth_pulls_the_other_way(root: Path) -> None:
    """The same image with the opposite truth: candidates are ranked in reverse."""

    def gradient(truth: Tensor) -> Tensor:
        run = begin(second(root))
        losses(run, "many", targets=truth).total(1, 1, 0).backward()
        parts = [
            parameter.grad.flatten()
            for name, parameter in trainable_parameters(run.built.model).items()
            if name.startswith("mask_decoder.") and parameter.grad is not None
        ]
        return torch.cat(parts)

    run = begin(second(root))
    _, item = item_of(run, "many")
    everywhere = torch.zeros_like(item.targets)
    everywhere[..., : item.size_px[0], : item.size_px[1]] = 1
    nearly_nowhere = torch.zeros_like(everywhere)
    # The likeliest pixel: the smallest candidate is then the best.
    logits = logits_of(run, "many")
    y, x = divmod(int(logits.argmax()), logits.shape[-1])
    nearly_nowhere[0, y, x] = 1
    up, down = gradient(everywhere), gradient(nearly_nowhere)
    assert up.abs().max() > 0
    assert torch.allclose(up, -down, rtol=1e-4, atol=1e-7 * float(up.abs().max()))


def test_an_unlabelled_truth_speaks_through_ratings_alone(root: Path) -> None:
    run = begin(second(root, {"strategy": "rating"}))
    _, item = item_of(run, "many")
    # The second candidate itself: IoUs of 5/7, 1, 3/5 and 1/5, so ratings of 4, 4, 3 and 1.
    truth = torch.zeros_like(item.targets)
    truth[0] = logits_of(run, "many").sigmoid() > forward_of(run).settings.cuts[1]
    plain = losses(run, "many", targets=truth)
    assert isinstance(plain, PreferenceParts)
    assert plain.skipped == 0
    # A truth with a pixel less has other IoUs, and the same ratings.
    other = truth.clone()
    y, x = np.argwhere(other[0].numpy())[0]
    other[0, y, x] = 0
    changed = losses(run, "many", targets=other)
    assert isinstance(changed, PreferenceParts)
    gradients = []
    for parts in (plain, changed):
        run.built.model.zero_grad()
        parts.total(1, 1, 1).backward()
        gradients.append({n: p.grad for n, p in trainable_parameters(run.built.model).items()})
    assert torch.equal(plain.preference, changed.preference)
    assert all(
        (a is None and b is None) or torch.equal(a, b)
        for a, b in zip(gradients[0].values(), gradients[1].values(), strict=True)
    )
    # Of a labelled image the same change is seen.
    _, few = item_of(run, "few")
    less = few.targets.clone()
    y, x = np.argwhere(less[0].numpy())[0]
    less[0, y, x] = 0
    assert not torch.equal(losses(run, "few").bce, losses(run, "few", targets=less).bce)


def test_no_geometry_of_an_unlabelled_truth(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(second(root, geometry={"probability": 1.0, "jitter": 0.0}))
    seen: list[str] = []
    simulate = run.forward._geometry

    def watched(*args: Any) -> Any:
        seen.append("geometry")
        return simulate(*args)

    monkeypatch.setattr(run.forward, "_geometry", watched)
    losses(run, "many")
    assert seen == []
    losses(run, "few")
    assert seen == ["geometry"]


def test_a_batch_of_ties_moves_nothing(root: Path) -> None:
    config = second(
        root,
        # Nothing is so sure, or so unsure: all candidates are alike.
        {"cuts": [0.9999998, 0.9999999], "anchor": 0.0},
        optim={"lr": 1e-3, "weight_decay": 0.0},
    )
    run = begin(config)
    parts = losses(run, "many")
    assert isinstance(parts, PreferenceParts)
    assert (parts.skipped, parts.correct, float(parts.preference.detach())) == (1.0, None, 0.0)
    before = learned(run)
    fit(run, progress=False)
    assert same(learned(run), before)
    assert set(logged(run, "ties").values()) == {1.0}
    assert logged(run, "preferred") == {}


def test_nothing_unlabelled_is_supervised_training_of_the_decoder(root: Path) -> None:
    run = begin(second(root, {"unlabelled_folders": [], "anchor": 1.0}))
    before = learned(run)
    parts = losses(run, "many")
    assert not isinstance(parts, PreferenceParts)
    fit(run, progress=False)
    moved = {name for name, tensor in learned(run).items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith("mask_decoder.") for name in moved)
    assert logged(run, "preference") == {}


@pytest.mark.parametrize("candidates", ["current", "reference"])
def test_three_steps_and_three_more_are_six(root: Path, candidates: str) -> None:
    preference = {"noise": 0.5, "candidates": candidates}
    busy: dict[str, Any] = {
        "augment": {"keep_fraction": 0},
        "optim": {"lr": 2e-3, "grad_clip": 1.0},
        "save_every": 3,
    }
    whole = train(second(root, preference, **busy, out=str(root / "whole")))
    part = train(second(root, preference, **busy), stop_after=3)
    assert part.state.step == 3
    torch.manual_seed(99)
    resumed = begin(second(root, preference, **busy))
    assert resumed.state.step == 3
    first = load_file(root / "runs" / "first" / "last" / "adapter.safetensors")
    # The reference is stage one's, not what the run was resumed with.
    model = forward_of(resumed).reference
    name = "mask_decoder.iou_token.weight"
    assert torch.equal(model.mask_decoder.iou_token.weight, first[name])
    assert not torch.equal(learned(resumed)[name], first[name])
    fit(resumed, progress=False)
    assert same(learned(resumed), learned(whole))
    assert log_rows(resumed) == log_rows(whole)


def test_embeddings_are_kept_though_the_adapter_has_an_encoder(root: Path) -> None:
    kept = str(root / "embeddings")
    cached = second(root, cache=kept, augment={**ONLY_FLIPS, "flip_vertical_p": 0.0})
    run = train(cached)
    files = sorted((root / "embeddings").iterdir())
    assert 8 <= len(files) <= 2 * 6 + 2
    # Another adapter has another encoder.
    other = train(run_config(root, name="other", data=data(root, FOLDERS[:1]), epochs=1))
    moved = second(root, name="third", cache=kept, init_adapter=str(other.folder / "last"))
    image = torch.zeros(3, 4, 4)
    caches = [run.forward.cache, begin(moved).forward.cache]
    assert all(cache is not None for cache in caches)
    assert len({cache.path_of(image) for cache in caches if cache is not None}) == 2


def test_mistakes_on_the_reference_s_candidates_stay(root: Path) -> None:
    for candidates, stays in (("reference", True), ("current", False)):
        forward = forward_of(begin(second(root, {"candidates": candidates})))
        draws = [forward._rater((epoch, 3, 0), 0).random() for epoch in range(2)]
        assert (draws[0] == draws[1]) is stays
        assert forward._rater((0, 3, 0), 1).random() != draws[0]


def test_stage_two_needs_stage_one(root: Path) -> None:
    with pytest.raises(ValidationError, match="preference needs init_adapter"):
        second(root, init_adapter=None)


def test_what_is_not_trained_on_cannot_be_unlabelled(root: Path) -> None:
    for looking in (
        {},
        {"affine_p": 0, "absent_crop_p": 0.1},
        {"affine_p": 0, "close_crop_p": 0.1},
    ):
        with pytest.raises(ValidationError, match="for the rater alone"):
            second(root, augment=looking)
    second(root, {"unlabelled_folders": []}, augment={})
    with pytest.raises(ConfigError, match="unlabelled_folders has 'none'"):
        begin(second(root, {"unlabelled_folders": ["none"]}))


def test_a_labelled_folder_inside_an_unlabelled_one_keeps_its_labels(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path / "all", 3)
    write_images_and_masks(tmp_path / "all" / "labelled", 2, seed=1)
    folders = [{"folder": name, "concept": "tumor"} for name in ("all", "all/labelled")]
    config = run_config(
        tmp_path,
        data={
            "root": str(tmp_path),
            "train_folders": folders,
            "val_folders": [{"folder": "val", "concept": "tumor"}],
        },
        init_adapter="some",
        preference={"unlabelled_folders": ["all"]},
    )
    samples = samples_of(config.data, "train")
    assert len(samples) == 5
    assert unlabelled_images(config, samples) == {
        sample.image_path for sample in samples if sample.dataset == "all"
    }


def test_a_section_that_is_off_leaves_no_trace(root: Path) -> None:
    assert "preference" not in run_config(root).model_dump()
    assert "preference" not in run_config(root).model_dump_json()
    assert second(root).model_dump()["preference"]["strategy"] == "ranking"


def test_stage_two_weighs_empty_masks_as_the_run_says(root: Path) -> None:
    for weight in (0.0, 5.0):
        run = begin(second(root, loss={"empty": weight}))
        assert forward_of(run).empty_weight == weight
