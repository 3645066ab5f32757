"""Averaging adapters: the numbers, what the result says of itself, and what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import run
from runs import run_config, train, write_data
from safetensors.torch import load_file
from tiny import loud_model, tiny_config

from textsam.adapters import AdapterConfig, read_adapter_config
from textsam.average import LineageWarning, average_adapters
from textsam.checkpoint import load_adapter, save_adapter
from textsam.errors import AdapterError, ConfigError
from textsam.inference.refinement import RefineWith
from textsam.model.build import Architecture
from textsam.model.tuning import Tuning, trainable_state
from textsam.train import run as run_module
from textsam.train.validate import Validation

SHAPE = Architecture(context_depth=3, token_scale=16.0, tuning=Tuning(rank=4))


BEGUN = {"continued_from": "beginning, step 9"}


def adapter(folder: Path, seed: int, **changes: object) -> AdapterConfig:
    training = {"step": seed, **BEGUN}
    config = tiny_config(SHAPE).model_copy(
        update={"name": folder.name, "training": training, **changes}
    )
    save_adapter(folder, config, trainable_state(loud_model(SHAPE, seed).model))
    return read_adapter_config(folder)


def test_every_number_is_weighted(tmp_path: Path) -> None:
    old = adapter(tmp_path / "old", 1)
    new = adapter(tmp_path / "new", 2, found_threshold=0.3, score_map=((0.0, 0.0), (1.0, 0.9)))
    average_adapters(tmp_path / "old", tmp_path / "new", tmp_path / "mean", weight=0.25)
    one, other, mean = (
        load_file(tmp_path / name / "adapter.safetensors") for name in ("old", "new", "mean")
    )
    assert mean.keys() == one.keys()
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, one[name] + 0.25 * (other[name] - one[name]))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    config = load_adapter(tmp_path / "mean", loud_model(SHAPE))
    assert (config.name, config.prompts, config.terms) == ("new", new.prompts, new.terms)
    assert (config.found_threshold, config.score_map, config.kinds) == (0.0, (), None)
    assert config.training == {
        "step": 2,
        **BEGUN,
        "averaged": [
            {"name": "old", "tensors_sha256": old.tensors_sha256, "weight": 0.75},
            {"name": "new", "tensors_sha256": new.tensors_sha256, "weight": 0.25},
        ],
    }


def test_what_calibration_measured_of_the_second_is_not_said_of_the_average(
    tmp_path: Path,
) -> None:
    adapter(tmp_path / "old", 1)
    measured = {"calibration": {"found_rate": 0.9}, "dice_by_sides": {}, "dice_by_cut": {}}
    adapter(tmp_path / "new", 2, training={**BEGUN, "step": 7, **measured})
    config = average_adapters(tmp_path / "old", tmp_path / "new", tmp_path / "mean")
    assert config.training.keys() == {*BEGUN, "step", "averaged"}
    assert config.training["step"] == 7


def test_the_ends_are_the_adapters_themselves(tmp_path: Path) -> None:
    for seed, name in enumerate(("old", "new")):
        adapter(tmp_path / name, seed)
    for weight, name in ((0.0, "old"), (1.0, "new")):
        average_adapters(tmp_path / "old", tmp_path / "new", tmp_path / "end", weight=weight)
        own = load_file(tmp_path / name / "adapter.safetensors")
        end = load_file(tmp_path / "end" / "adapter.safetensors")
        assert all(torch.equal(end[key], tensor) for key, tensor in own.items())


def test_what_refinement_takes_stays_and_how_often_is_open(tmp_path: Path) -> None:
    for seed, name in enumerate(("old", "new")):
        adapter(tmp_path / name, seed, refine=2, refine_with=RefineWith.BOX)
    average_adapters(tmp_path / "old", tmp_path / "new", tmp_path / "mean")
    config = read_adapter_config(tmp_path / "mean")
    assert (config.refine, config.refine_with) == (0, RefineWith.BOX)


def test_the_side_is_the_second_adapters(tmp_path: Path) -> None:
    adapter(tmp_path / "old", 1)
    new = adapter(tmp_path / "new", 2)
    smaller = new.architecture.model_copy(update={"side_px": 48})
    save_adapter(
        tmp_path / "new",
        new.model_copy(update={"architecture": smaller}),
        load_file(tmp_path / "new" / "adapter.safetensors"),
    )
    average_adapters(tmp_path / "old", tmp_path / "new", tmp_path / "mean")
    assert read_adapter_config(tmp_path / "mean").architecture == smaller
    average_adapters(tmp_path / "new", tmp_path / "old", tmp_path / "mean")
    assert read_adapter_config(tmp_path / "mean").architecture.side_px is None


def test_base_weights_that_only_one_has_on_record_are_kept(tmp_path: Path) -> None:
    adapter(tmp_path / "old", 1, base={"litemedsam": "1" * 64, "minilm": "unknown"})
    adapter(tmp_path / "new", 2, base={"litemedsam": "1" * 64, "minilm": "2" * 64})
    for first, second in (("old", "new"), ("new", "old")):
        mean = average_adapters(tmp_path / first, tmp_path / second, tmp_path / "mean")
        assert mean.base == {"litemedsam": "1" * 64, "minilm": "2" * 64}


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    adapter(tmp_path / "old", 1, base={"litemedsam": "1" * 64, "minilm": "1" * 64})
    adapter(tmp_path / "new", 2)
    adapter(tmp_path / "based", 2, base={"litemedsam": "0" * 64})
    adapter(tmp_path / "told", 2, base={"minilm": "0" * 64})
    other = Architecture(context_depth=3, token_scale=16.0, tuning=Tuning(rank=2))
    save_adapter(tmp_path / "thin", tiny_config(other), trainable_state(loud_model(other, 3).model))
    tensors = load_file(tmp_path / "new" / "adapter.safetensors")
    tensors.pop(min(tensors))
    save_adapter(tmp_path / "short", read_adapter_config(tmp_path / "new"), tensors)
    shutil.copytree(tmp_path / "new", tmp_path / "broken")
    with (tmp_path / "broken" / "adapter.safetensors").open("ab") as file:
        file.write(b"x")
    for second, words in (
        ("based", r"differ in base \(base\.litemedsam: the files are others\)"),
        ("told", r"differ in base \(base\.minilm: the files are others\)"),
        ("thin", r"differ in architecture \(architecture\.rank was 4 and is 2\); average"),
        ("short", "do not have the same tensors"),
        ("broken", "sha256|SHA-256"),
        ("none", "none"),
    ):
        with pytest.raises(AdapterError, match=words):
            average_adapters(tmp_path / "old", tmp_path / second, tmp_path / "mean")
    adapter(tmp_path / "boxes", 2, refine_with=RefineWith.BOX)
    with pytest.raises(AdapterError, match="differ in refine_with"):
        average_adapters(tmp_path / "old", tmp_path / "boxes", tmp_path / "mean")
    for own in ("old", "new", "../" + tmp_path.name + "/new"):
        with pytest.raises(ConfigError, match="is one of the adapters to average"):
            average_adapters(tmp_path / "old", tmp_path / "new", tmp_path / own)
    with pytest.raises(ConfigError, match=r"weight is 1\.5"):
        average_adapters(tmp_path / "old", tmp_path / "new", tmp_path / "mean", weight=1.5)
    assert not (tmp_path / "mean").exists()
    done = run("average", tmp_path / "old", tmp_path / "new", "-o", tmp_path / "mean")
    assert done.exit_code == 0, done.output
    assert "not calibrated" in done.stdout
    failed = run("average", tmp_path / "old", tmp_path / "thin", "-o", tmp_path / "mean")
    assert failed.exit_code == 1
    assert "differ in architecture" in failed.stderr


@pytest.mark.parametrize(
    ("one", "other", "related"),
    [
        ({}, {}, False),
        ({}, {"continued_from": "old, step 5"}, True),
        ({"continued_from": "new, step 5"}, {}, True),
        ({}, {"continued_from": "older, step 5"}, False),
        ({"continued_from": None}, {"continued_from": None}, False),
        ({"continued_from": "a, step 5"}, {"continued_from": "a, step 5"}, True),
        ({"continued_from": "a, step 5"}, {"continued_from": "a, step 7"}, True),
        ({"continued_from": "a, step 5"}, {"continued_from": "b, step 5"}, False),
        ({"config": {"seed": 1}}, {"config": {"seed": 1}}, False),
    ],
    ids=str,
)
def test_adapters_that_began_apart_are_averaged_with_a_warning(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], related: bool
) -> None:
    adapter(tmp_path / "old", 1, training=one)
    adapter(tmp_path / "new", 2, training=other)
    folders = tmp_path / "old", tmp_path / "new", tmp_path / "mean"
    if related:
        average_adapters(*folders)  # warnings are errors
    else:
        with pytest.warns(LineageWarning, match="'new', goes on from .* not known to be of one"):
            average_adapters(*folders)
    assert (tmp_path / "mean" / "adapter.safetensors").is_file()


def test_the_command_says_it_in_a_line(tmp_path: Path) -> None:
    adapter(tmp_path / "old", 1, training={})
    adapter(tmp_path / "new", 2, training={})
    done = run("average", tmp_path / "old", tmp_path / "new", "-o", tmp_path / "mean")
    assert done.exit_code == 0, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'old'} ('old', goes on from no adapter) and ")


def test_best_and_last_of_a_run_that_was_resumed_otherwise_are_related(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([Validation(0.1), Validation(0.2)])
    monkeypatch.setattr(run_module, "validate", lambda *_: next(answers))
    write_data(tmp_path)
    train(run_config(tmp_path, val_every=3), stop_after=3)
    folder = train(run_config(tmp_path, val_every=3, save_every=1)).folder
    average_adapters(folder / "best", folder / "last", tmp_path / "mean")


def test_best_and_last_of_one_run_and_an_average_with_its_parts_are_related(
    tmp_path: Path,
) -> None:
    run_of = {"config": {"seed": 1, "optim": {"lr": 0.1}}}
    for name, seed in (("best", 1), ("last", 2)):
        adapter(tmp_path / name, seed, name="mine", training={"step": seed, **run_of})
    average_adapters(tmp_path / "best", tmp_path / "last", tmp_path / "mean")
    average_adapters(tmp_path / "mean", tmp_path / "last", tmp_path / "again")
    # Called otherwise, as shipped adapters are, it is known by its tensors.
    first = read_adapter_config(tmp_path / "best")
    save_adapter(
        tmp_path / "renamed",
        first.model_copy(update={"name": "first", "training": {}}),
        load_file(tmp_path / "best" / "adapter.safetensors"),
    )
    average_adapters(tmp_path / "renamed", tmp_path / "again", tmp_path / "third")
