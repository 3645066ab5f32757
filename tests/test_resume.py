"""A run that was interrupted goes on as if nothing had happened; so does one with a cache."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import run as command
from runs import begin, learned, log_rows, run_config, same, train, write_data
from safetensors.torch import load_file
from torch import Tensor

from textsam.config import TrainConfig
from textsam.data.survey import check_settings
from textsam.errors import ConfigError, OutputError, TextSAMError
from textsam.train import log as log_module
from textsam.train import run as run_module
from textsam.train import state as state_module
from textsam.train.cache import EmbeddingCache
from textsam.train.log import RunLog
from textsam.train.losses import LossParts
from textsam.train.run import Run, fit
from textsam.train.state import write_state

# Everything random at once: order, prompts, augmentation, geometry.
BUSY: dict[str, Any] = {
    "augment": {},
    "geometry": {"probability": 0.5, "jitter": 0.2},
    "loss": {"iou": 0.5},
    "optim": {"lr": 2e-3, "warmup_steps": 2, "grad_clip": 1.0},
    "accumulate": 2,
    "batch_size": 1,
    "val_every": 2,
    "save_every": 3,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def assert_same_end(resumed: Run, whole: Run) -> None:
    assert resumed.state.step == whole.state.step == 6
    assert same(learned(resumed), learned(whole))
    assert log_rows(resumed) == log_rows(whole)
    assert resumed.state.best == whole.state.best
    for name in ("best", "last"):
        file = Path(name) / "adapter.safetensors"
        assert same(load_file(resumed.folder / file), load_file(whole.folder / file))
    for one, other in zip(
        resumed.optimiser.state_dict()["state"].values(),
        whole.optimiser.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(one[n], other[n]) for n in ("step", "exp_avg", "exp_avg_sq"))


def disturb_global_randomness(seed: int) -> None:
    """A new process has other random states; nothing may depend on them."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def resume(config: TrainConfig) -> Run:
    """Go on with a run on a model whose trainable part is not what it was."""
    disturb_global_randomness(99)
    run = begin(config)
    assert run.state.step == 3
    return fit(run, progress=False)


def test_three_steps_and_three_more_are_six(root: Path) -> None:
    whole = train(run_config(root, **BUSY, out=str(root / "whole")))
    part = train(run_config(root, **BUSY), stop_after=3)
    assert part.state.step == 3
    fresh = learned(begin(run_config(root, **BUSY, name="fresh")))
    assert not same(learned(part), fresh)
    assert_same_end(resume(run_config(root, **BUSY)), whole)


def test_a_killed_run_loses_only_the_steps_since_its_state(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(run_config(root, **BUSY, out=str(root / "whole")))
    run = begin(run_config(root, **BUSY))
    losses, calls = run.forward.losses, iter(range(100))

    def killed_in_step_six(*args: Any) -> Any:
        if next(calls) == 11:
            raise KeyboardInterrupt
        return losses(*args)

    monkeypatch.setattr(run.forward, "losses", killed_in_step_six)
    with pytest.raises(KeyboardInterrupt):
        fit(run, progress=False)
    assert run.state.step == 5
    assert {row[0] for row in log_rows(run)[1:]} == {"1", "2", "3", "4", "5"}
    assert_same_end(resume(run_config(root, **BUSY)), whole)


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_run_killed_while_it_writes_its_last_adapters_makes_them_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = train(run_config(root, **BUSY, out=str(root / "whole")))
    run, write = begin(run_config(root, **BUSY)), run_module.save_adapter

    def killed_at_the_end(folder: Path, config: Any, tensors: dict[str, Tensor]) -> Path:
        if run.state.step == 6 and folder.name == name:
            raise KeyboardInterrupt
        return write(folder, config, tensors)

    monkeypatch.setattr(run_module, "save_adapter", killed_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        fit(run, progress=False)
    monkeypatch.setattr(run_module, "save_adapter", write)
    assert_same_end(resume(run_config(root, **BUSY)), whole)
    steps = [
        json.loads((one.folder / name / "adapter.json").read_text())["training"]["step"]
        for one in (run, whole)
    ]
    assert steps[0] == steps[1]


def test_two_trainings_in_one_folder_are_refused(root: Path) -> None:
    config = run_config(root, val_every=1)
    first, second = begin(config), begin(config)
    step, tried = first.forward.losses, []

    def beside(*args: Any) -> Any:
        with pytest.raises(
            ConfigError, match=r"another process is training in .*toy; wait"
        ) as told:
            fit(second, stop_after=1, progress=False)
        tried.append(told)
        return step(*args)

    first.forward.losses = beside  # type: ignore[method-assign]
    fit(first, progress=False)
    assert len(tried) == 6
    assert second.state.step == 0
    alone = train(run_config(root, name="alone", val_every=1))
    assert log_rows(first) == log_rows(alone)
    assert same(learned(first), learned(alone))
    assert not (first.folder / ".train.lock").exists()
    assert train(config).state.step == 6, "the folder is free again"


def test_a_training_set_up_beside_one_that_has_ended_since_is_refused(root: Path) -> None:
    config = run_config(root)
    first, second = begin(config), begin(config)
    fit(first, stop_after=2, progress=False)
    files = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"trained in .*toy while this training was set up"):
        fit(second, progress=False)
    for path, content in files.items():
        assert path.read_bytes() == content
    fit(first, stop_after=4, progress=False)
    assert train(config).state.step == 6


def test_a_finished_run_is_left_as_it_is(root: Path) -> None:
    done = train(run_config(root))
    files = sorted(
        p for p in done.folder.rglob("*") if p.suffix in (".pt", ".safetensors", ".json")
    )
    before = [path.read_bytes() for path in files]
    again = train(run_config(root))
    assert again.state.step == 6
    assert [path.read_bytes() for path in files] == before
    assert log_rows(again) == log_rows(done)


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"optim": {"lr": 2e-3}}, {"epochs": 3}, {"loss": {"bce": 2.0}}]
)
def test_resuming_with_other_settings_is_refused(root: Path, changes: dict[str, Any]) -> None:
    run = train(run_config(root), stop_after=3)
    with pytest.raises(ConfigError, match=r"state\.pt belongs to a run with other settings"):
        begin(run_config(root, **changes))
    assert begin(run_config(root)).state.step == run.state.step == 3


def test_a_refusal_names_the_settings_that_differ(root: Path) -> None:
    run = train(run_config(root), stop_after=1)
    told = r"\(seed was 0 and is 1; optim\.lr was 0\.001 and is 0\.002\); use the same"
    with pytest.raises(ConfigError, match=told):
        begin(run_config(root, seed=1, optim={"lr": 2e-3}))
    path = run.folder / "state.pt"
    content = torch.load(path, weights_only=True)
    del content["settings"]  # as an earlier version wrote it
    torch.save(content, path)
    with pytest.raises(ConfigError, match="with other settings; use the same configuration"):
        begin(run_config(root, seed=1))
    assert begin(run_config(root)).state.settings["seed"] == 0


def test_the_command_names_the_adapters_that_are_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(config: TrainConfig, *, stop_after: int | None, **_: Any) -> Path:
        return train(config, stop_after).folder

    monkeypatch.setattr(run_module, "train", stopped)
    monkeypatch.delenv("RANK", raising=False)
    file = root / "toy.yaml"
    file.write_text(json.dumps(run_config(root).model_dump(mode="json")), encoding="utf-8")
    best, last = root / "runs/toy/best", root / "runs/toy/last"
    done = command("train", file, "--stop-after", "1")
    assert done.stdout == f"adapter: {last}; {best} comes with the first validation\n"
    assert (best.is_dir(), last.is_dir()) == (False, True)
    done = command("train", file)
    assert done.stdout == f"adapters: {best} and {last}\n"
    assert best.is_dir()


def test_resuming_elsewhere_or_with_other_workers_is_not(root: Path) -> None:
    run = train(run_config(root), stop_after=3)
    (root / "runs").rename(root / "moved")
    moved = begin(run_config(root, out=str(root / "moved"), workers=2, save_every=1))
    assert moved.state.step == 3
    assert same(learned(moved), learned(run))


def test_a_state_cut_short_while_written_leaves_the_one_before(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(run_config(root), stop_after=3)
    kept = learned(run)

    def half(content: object, path: Path) -> None:
        path.write_bytes(b"PK\x03\x04 half of a state")
        raise OSError(28, "No space left on device")

    with torch.no_grad():
        for parameter in run.built.model.parameters():
            parameter.add_(1.0)
    run.state.step = 4
    monkeypatch.setattr(state_module.torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        write_state(run.folder / "state.pt", run.state, run.built.model, run.optimiser)
    monkeypatch.undo()
    assert not list(run.folder.glob(".state.pt.*")), "what could not be finished is removed"
    # A kill leaves the half file behind; it is not taken for the state.
    (run.folder / ".state.pt.4711.deadbeef").write_bytes(b"PK\x03\x04 half")
    again = begin(run_config(root))
    assert again.state.step == 3
    assert same(learned(again), kept)


def test_a_damaged_state_is_named_with_the_way_out(root: Path) -> None:
    path = train(run_config(root), stop_after=3).folder / "state.pt"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match=r"state\.pt cannot be read.*remove it"):
        begin(run_config(root))


def test_a_log_line_cut_short_is_dropped(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, tensorboard=False) as log:
        for step in (1, 2, 12):
            log.write(step, {"loss": step / 4})
    text = log.path.read_text(encoding="utf-8")
    # What a power failure may leave, and a line of "13,loss,…".
    log.path.write_text(text + "\0\0\0,\0,\0\n1", encoding="utf-8")
    RunLog(tmp_path, 2, tensorboard=False)
    assert log.path.read_text(encoding="utf-8").split() == [
        "step,name,value", "1,loss,0.25", "2,loss,0.5",
    ]  # fmt: skip


def test_a_log_without_tensorboard_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "find_spec", lambda _: None)
    with RunLog(tmp_path, 0) as log:
        log.write(1, {"loss": 0.25})
    assert log.path.read_text(encoding="utf-8").split() == ["step,name,value", "1,loss,0.25"]
    assert not (tmp_path / "tensorboard").exists()


def test_the_log_is_utf_8_whatever_the_machine_s_encoding_is(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from textsam.train.log import RunLog\n"
        "for step in (0, 1):\n"
        "    with RunLog(Path(sys.argv[1]), step, tensorboard=False) as log:\n"
        "        log.write(step + 1, {'val_dice/Gef\\xe4\\xdfe/\\u80c3': 0.5})"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run(
        [sys.executable, "-c", code, tmp_path], check=True, env={**os.environ, **ascii_only}
    )
    lines = (tmp_path / "log.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ["1,val_dice/Gefäße/胃,0.5", "2,val_dice/Gefäße/胃,0.5"]


def test_a_loss_that_is_no_number_stops_the_run_and_spares_its_state(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(run_config(root, save_every=1), stop_after=2)
    kept = learned(run)
    run = begin(run_config(root, save_every=1))
    losses = run.forward.losses

    def poisoned(*args: Any) -> Any:
        parts = losses(*args)
        parts[0].bce = parts[0].bce * float("nan")
        return parts

    monkeypatch.setattr(run.forward, "losses", poisoned)
    with pytest.raises(TextSAMError, match=r"step 3: the loss is nan.*/00"):
        fit(run, progress=False)
    again = begin(run_config(root, save_every=1))
    assert again.state.step == 2
    assert same(learned(again), kept)


def test_of_accumulated_batches_the_one_whose_loss_is_no_number_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(run_config(root, accumulate=3, batch_size=1))
    before = learned(run)
    keys = [batch[0] for batch, _ in zip(run.order.batches(1), range(3), strict=False)]
    names = [run.train_set[key].sample.name for key in keys]
    assert len(set(names)) == 3
    losses = run.forward.losses

    def poisoned(drawn: Any, items: Any) -> Any:
        parts = losses(drawn, items)
        if items[0].sample.name == names[1]:
            parts[0].dice = parts[0].dice * math.inf
        return parts

    monkeypatch.setattr(run.forward, "losses", poisoned)
    with pytest.raises(TextSAMError, match=f"step 1: the loss is inf for {names[1]}; lower"):
        fit(run, progress=False)
    assert same(learned(run), before)


def test_a_loss_that_is_no_number_before_anything_is_saved_names_no_adapter(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(run_config(root))

    def poisoned(*_: Any) -> Any:
        lost = torch.tensor(math.nan, requires_grad=True)
        return [LossParts(bce=lost, dice=torch.zeros(()), iou=torch.zeros(()))]

    monkeypatch.setattr(run.forward, "losses", poisoned)
    with pytest.raises(TextSAMError, match=r"step 1: the loss is nan.*start again") as caught:
        fit(run, progress=False)
    assert "init_adapter" not in str(caught.value)
    assert not (run.folder / "last").exists()


@pytest.mark.parametrize("select", ["val_loss", "val_dice", "last"])
def test_a_validation_that_gives_no_number_stops_the_run_and_spares_what_was_saved(
    root: Path, monkeypatch: pytest.MonkeyPatch, select: str
) -> None:
    config = run_config(root, save_every=1, val_every=1, select=select)
    before = train(config, stop_after=2)
    kept, best = learned(before), load_file(before.folder / "best" / "adapter.safetensors")
    run, validate = begin(config), run_module.validate

    def blown_up(*args: Any) -> Any:
        with torch.no_grad():
            run.built.model.adapter.fc2.bias.fill_(float("nan"))
        return validate(*args)

    monkeypatch.setattr(run_module, "validate", blown_up)
    with pytest.raises(TextSAMError, match=r"step 3: the validation loss is nan; lower.*/last"):
        fit(run, progress=False)
    assert same(load_file(run.folder / "best" / "adapter.safetensors"), best)
    assert same(load_file(run.folder / "last" / "adapter.safetensors"), kept)
    again = begin(config)
    assert again.state.step == 2
    assert same(learned(again), kept)


def test_a_state_that_the_disk_does_not_take_is_told_and_the_run_goes_on_later(root: Path) -> None:
    resource = pytest.importorskip("resource")
    config = run_config(root, save_every=1)
    kept = learned(train(config, stop_after=2))
    state = root / "runs" / "toy" / "state.pt"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size // 2, before[1]))
    try:
        with pytest.raises(OutputError) as caught:
            train(config, stop_after=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).startswith(f"{state}: cannot be written (")
    again = begin(config)
    assert again.state.step == 2
    assert same(learned(again), kept)
    assert same(learned(fit(again, progress=False)), learned(train(run_config(root, name="whole"))))


@pytest.mark.parametrize("content", [b"hello", b"", [1, 2], {"step": 3}])
def test_a_file_that_is_no_state_is_named(root: Path, content: Any) -> None:
    run = begin(run_config(root))
    path = run.folder / "state.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=r"state\.pt .*; remove it to start the run anew"):
        begin(run_config(root))


def test_a_part_without_an_image_is_named(root: Path) -> None:
    (root / "manifest.json").write_text(
        '{"train": {"modality": "unknown", "classes": {"255": "tumor"}, "terms": "none"}}'
    )
    (root / "splits.json").write_text('{"train": {"all": ["000", "001"]}}')
    config = run_config(root)
    selection = {"set": "train", "split": "all", "prefix": "zz"}
    data = {**config.data.model_dump(), "train_folders": [], "train": [selection]}
    with pytest.raises(ConfigError, match=r"data\.train keeps no image"):
        begin(run_config(root, data=data))
    assert not (root / "runs").exists()


def test_a_part_without_an_image_is_named_whatever_the_check_remarks(root: Path) -> None:
    (root / "manifest.json").write_text(
        '{"train": {"modality": "unknown", "classes": {"255": "tumor"}, "terms": "none"}}'
    )
    (root / "splits.json").write_text('{"train": {"all": ["000", "001"]}}')
    # A warning, of the part that does have images.
    (root / "train" / "images" / "notes.txt").write_text("about the images")
    config = run_config(root)
    selection = {"set": "train", "split": "all", "prefix": "zz"}
    data = {**config.data.model_dump(), "val_folders": [], "val": [selection]}
    config = run_config(root, data=data)
    with pytest.raises(ConfigError, match=r"data\.val keeps no image"):
        begin(config)
    assert not (root / "runs").exists()
    with pytest.raises(ConfigError, match=r"data\.val keeps no image"):
        check_settings(config.data)


def test_a_cache_that_cannot_be_written_is_refused_before_the_run_is_made(root: Path) -> None:
    (root / "cache").write_text("a file")
    with pytest.raises(OutputError, match="cache is a file; give a folder"):
        begin(cached_config(root))
    assert not (root / "runs").exists()


@pytest.mark.parametrize("grad_clip", [None, 1.0])
def test_a_gradient_that_is_no_number_stops_the_run_and_spares_its_state(
    root: Path, grad_clip: float | None
) -> None:
    config = run_config(root, save_every=1, optim={"grad_clip": grad_clip})
    kept = learned(train(config, stop_after=2))
    run = begin(config)
    parameter = run.optimiser.param_groups[0]["params"][0]
    parameter.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(TextSAMError, match=r"step 3: the gradient.s norm is (nan|inf).*/last"):
        fit(run, progress=False)
    again = begin(config)
    assert again.state.step == 2
    assert same(learned(again), kept)
    assert same(learned(run), kept), "the step was not taken"


def cached_config(root: Path, **changes: Any) -> TrainConfig:
    return run_config(
        root,
        tuning={"rank": 2, "encoder": "frozen"},
        cache=str(root / "cache"),
        optim={"lr": 1e-3},
        epochs=5,
        val_every=15,
        **changes,
    )


def count_encodings(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    seen: list[Tensor] = []
    encode = run.built.model.encode_image

    def counted(images: Tensor) -> Tensor:
        seen.append(images.clone())
        return encode(images)

    monkeypatch.setattr(run.built.model, "encode_image", counted)
    return seen


def test_each_image_is_encoded_once_per_flip(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = begin(cached_config(root))
    encoded = count_encodings(cold, monkeypatch)
    fit(cold, progress=False)
    distinct = {image.numpy().tobytes() for image in encoded}
    assert len(encoded) == len(distinct) == len(list((root / "cache").iterdir()))
    # 15 steps of 2 images: 30 looks at 6 images in 4 ways, and 3 to validate on.
    assert 3 + 6 < len(encoded) <= 3 + 6 * 4
    warm = begin(cached_config(root, out=str(root / "warm")))
    encoded = count_encodings(warm, monkeypatch)
    fit(warm, progress=False)
    assert encoded == []
    assert same(learned(warm), learned(cold))
    assert log_rows(warm) == log_rows(cold)


def test_a_first_answer_lies_in_memory_like_a_stored_one(tmp_path: Path) -> None:
    image = torch.full((3, 4, 4), 0.1)
    cache = EmbeddingCache(tmp_path, "encoder")
    # Or what is computed from it later is rounded in another order.
    assert cache(image, lambda _: torch.rand(7, 5).t()).is_contiguous()


def test_a_stored_answer_is_the_first_answer(tmp_path: Path) -> None:
    calls = []

    def encode(images: Tensor) -> Tensor:
        calls.append(images)
        return images.mean() + torch.linspace(0, 1 / 3, 7)[None]

    image = torch.full((3, 4, 4), 0.1)
    cache = EmbeddingCache(tmp_path, "encoder 1")
    first = cache(image, encode)
    assert calls[0].shape == (1, 3, 4, 4)
    # Rounded to half precision at once, or a second epoch would see other values than the first.
    assert torch.equal(first, (0.1 + torch.linspace(0, 1 / 3, 7)[None]).half().float())
    again = EmbeddingCache(tmp_path, "encoder 1")(image, encode)
    assert torch.equal(again, first)
    assert again.dtype == torch.float32
    assert len(calls) == 1
    # What was cut short, by a full disk or a kill of old, is made anew.
    path = cache.path_of(image)
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert torch.equal(cache(image, encode), first)
    assert len(calls) == 2
    assert path.read_bytes() == whole


def test_stored_answers_are_as_readable_as_other_files(tmp_path: Path) -> None:
    image, other = torch.zeros(3, 4, 4), tmp_path / "other"
    cache = EmbeddingCache(tmp_path, "encoder")
    cache(image, lambda _: torch.ones(1, 2))
    other.touch()
    assert cache.path_of(image).stat().st_mode == other.stat().st_mode


def test_another_encoder_or_image_is_another_entry(tmp_path: Path) -> None:
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    cache = EmbeddingCache(tmp_path, "encoder 1")
    cache(image, lambda _: torch.ones(1, 2))
    other = EmbeddingCache(tmp_path, "encoder 2")
    assert other(image, lambda _: torch.full((1, 2), 2.0)).tolist() == [[2.0, 2.0]]
    assert cache(image.flip(-1), lambda _: torch.full((1, 2), 3.0)).tolist() == [[3.0, 3.0]]
    assert cache(image.view(3, 2, 8), lambda _: torch.full((1, 2), 4.0)).tolist() == [[4.0, 4.0]]
    assert cache(image, lambda _: torch.zeros(1, 2)).tolist() == [[1.0, 1.0]]


def test_runs_of_another_precision_do_not_share_embeddings(root: Path) -> None:
    exact, rough = (
        begin(cached_config(root, name=p, precision=p)).forward for p in ("float32", "bfloat16")
    )
    image = torch.zeros(3, 4, 4)
    assert exact.cache is not None
    assert rough.cache is not None
    assert exact.cache.path_of(image) != rough.cache.path_of(image)
