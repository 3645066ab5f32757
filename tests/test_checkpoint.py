"""Adapters survive the way to disk and back, and what does not fit is refused whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import LOUD, loud_model, tiny_config, tiny_model
from torch import Tensor

from textsam import adapters
from textsam.adapters import (
    CONFIG_FILE,
    TENSORS_FILE,
    AdapterConfig,
    ArchitectureRecord,
    adapter_json,
    find_adapter,
    read_adapter_config,
    shipped_adapters,
)
from textsam.checkpoint import architecture_of, load_adapter, record_of, save_adapter
from textsam.errors import AdapterError, OutputError, WeightsError
from textsam.model.build import Architecture
from textsam.model.state import differences, load_exactly
from textsam.model.tuning import Tuning, trainable_state
from textsam.weights.checksum import sha256_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "a", tiny_config(), trainable_state(loud_model().model))


def all_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_what_is_saved_is_what_is_loaded(folder: Path) -> None:
    trained, other = loud_model(), tiny_model(LOUD, seed=9)
    expected = trainable_state(trained.model)
    frozen = {n: t for n, t in all_tensors(other.model).items() if n in _frozen_names(other.model)}
    assert not torch.equal(other.model.context.tokens, expected["context.tokens"])
    config = load_adapter(folder, other)
    digest = hashlib.sha256((folder / TENSORS_FILE).read_bytes()).hexdigest()
    assert config == tiny_config(tensors_sha256=digest)
    loaded = trainable_state(other.model)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    now = other.model.state_dict()
    assert len(frozen) > 50
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
    assert all(p.requires_grad for p in _learning(other.model).values()), "training can go on"


def _learning(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def _frozen_names(model: torch.nn.Module) -> set[str]:
    return set(model.state_dict()) - set(_learning(model))


def test_names_in_the_file_are_plain_and_the_file_says_what_it_is(folder: Path) -> None:
    with safe_open(folder / TENSORS_FILE, "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert metadata == {"format": "textsam-adapter-1"}
    assert not any(".default" in name for name in names)
    assert "image_encoder.blocks.0.attn.qkv.q.lora_A.weight" in names
    assert not any("text_encoder" in name or "base_layer" in name for name in names)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, TENSORS_FILE]


def test_the_same_adapter_is_the_same_file(tmp_path: Path) -> None:
    state = trainable_state(loud_model().model)
    folders = [save_adapter(tmp_path / str(time), tiny_config(), state) for time in range(8)]
    assert len({sha256_of(folder / TENSORS_FILE) for folder in folders}) == 1


def test_float16_halves_the_file_and_rounds(folder: Path, tmp_path: Path) -> None:
    state = trainable_state(loud_model().model)
    small = save_adapter(tmp_path / "h", tiny_config(), state, dtype=torch.float16)
    sizes = [(path / TENSORS_FILE).stat().st_size for path in (small, folder)]
    assert 0.48 < sizes[0] / sizes[1] < 0.55
    assert {t.dtype for t in load_file(small / TENSORS_FILE).values()} == {torch.float16}
    other = tiny_model(LOUD, seed=9)
    load_adapter(small, other)
    for name, tensor in trainable_state(other.model).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].half().float()), name


def edit(folder: Path, **fields: object) -> None:
    """Change `adapter.json` as a user with a text editor would."""
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("place", [0, 200, -1])
def test_one_changed_byte_of_the_tensors_is_refused(folder: Path, place: int) -> None:
    path = folder / TENSORS_FILE
    content = bytearray(path.read_bytes())
    before = hashlib.sha256(content).hexdigest()
    content[place] ^= 1
    path.write_bytes(content)
    after = hashlib.sha256(content).hexdigest()
    other = tiny_model(LOUD, seed=9)
    unloaded = all_tensors(other.model)
    with pytest.raises(AdapterError, match="copy the whole adapter folder again") as raised:
        load_adapter(folder, other)
    for part in (str(path), f"has sha256 {after}", f"expects {before}"):
        assert part in str(raised.value)
    now = other.model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in unloaded.items())


def test_settings_may_be_edited_and_an_old_folder_without_a_digest_loads(folder: Path) -> None:
    edit(folder, found_threshold=0.75)
    config = load_adapter(folder, tiny_model(LOUD, seed=9))
    assert config.found_threshold == 0.75
    old = json.loads((folder / CONFIG_FILE).read_text())
    assert len(old.pop("tensors_sha256")) == 64
    (folder / CONFIG_FILE).write_text(json.dumps(old))
    assert load_adapter(folder, tiny_model(LOUD, seed=9)).tensors_sha256 is None


def test_a_stale_digest_is_replaced_when_saving(tmp_path: Path) -> None:
    config = tiny_config(tensors_sha256="0" * 64)
    folder = save_adapter(tmp_path / "new", config, trainable_state(loud_model().model))
    digest = hashlib.sha256((folder / TENSORS_FILE).read_bytes()).hexdigest()
    assert read_adapter_config(folder).tensors_sha256 == digest


def test_a_missing_tensor_file_is_named(folder: Path) -> None:
    (folder / TENSORS_FILE).unlink()
    with pytest.raises(AdapterError, match=r"adapter\.safetensors cannot be read: No such file"):
        load_adapter(folder, tiny_model(LOUD))


def drop(state: dict[str, Tensor]) -> None:
    del state["adapter.fc1.weight"]


def add(state: dict[str, Tensor]) -> None:
    state["context.deep.9"] = torch.zeros(4, 16)


def reshape(state: dict[str, Tensor]) -> None:
    state["context.tokens"] = torch.zeros(8, 16)


def quantise(state: dict[str, Tensor]) -> None:
    state["adapter.fc2.bias"] = state["adapter.fc2.bias"].to(torch.int8)


def double(state: dict[str, Tensor]) -> None:
    state["adapter.fc2.bias"] = state["adapter.fc2.bias"].to(torch.complex64)


def run_away(state: dict[str, Tensor]) -> None:
    state["adapter.fc2.bias"][3] = torch.nan
    state["adapter.fc1.bias"][0] = torch.inf


def spoil_all(state: dict[str, Tensor]) -> None:
    drop(state)
    add(state)
    reshape(state)


@pytest.mark.parametrize(
    ("spoil", "messages"),
    [
        (drop, ["1 missing: adapter.fc1.weight"]),
        (add, ["1 unknown: context.deep.9"]),
        (reshape, ["1 of another shape: context.tokens is (8, 16), expected (4, 16)"]),
        (quantise, ["1 of another kind: adapter.fc2.bias is torch.int8, expected torch.float32"]),
        (double, ["1 of another kind: adapter.fc2.bias is torch.complex64, expected"]),
        (run_away, ["2 with NaN or infinite values: adapter.fc1.bias, adapter.fc2.bias"]),
        (spoil_all, ["1 missing: adapter.fc1", "1 unknown: context.deep.9", "context.tokens is"]),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_loaded(
    folder: Path, spoil: Callable[[dict[str, Tensor]], None], messages: list[str]
) -> None:
    state = load_file(folder / TENSORS_FILE)
    spoil(state)
    save_file(state, folder / TENSORS_FILE)
    edit(folder, tensors_sha256=None)
    other = tiny_model(LOUD, seed=9)
    before = all_tensors(other.model)
    with pytest.raises(AdapterError) as raised:
        load_adapter(folder, other)
    for message in [str(folder), *messages]:
        assert message in str(raised.value)
    after = other.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(3).to(torch.uint8), "weight is torch.uint8, expected torch.float32"),
        (torch.ones(3).to_sparse(), "weight is sparse, expected torch.float32"),
        (torch.ones(3, device="meta"), "weight is empty of values, expected torch.float32"),
        (torch.tensor([1.0, torch.nan, 2.0]), "1 with NaN or infinite values: weight"),
        (torch.tensor([1.0, 2.0, torch.inf]), "1 with NaN or infinite values: weight"),
        (torch.tensor([-torch.inf, 1.0, 2.0]), "1 with NaN or infinite values: weight"),
    ],
)
def test_base_weights_are_finite_floating_numbers(values: Tensor, message: str) -> None:
    module = torch.nn.BatchNorm1d(3)
    state = {**module.state_dict(), "weight": values}
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_exactly(module, state, source="w.pth")
    assert torch.equal(module.weight, torch.ones(3))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
)
def test_base_weights_of_any_floating_type_are_taken(dtype: torch.dtype) -> None:
    module = torch.nn.BatchNorm1d(3)
    # Its counter of batches is a whole number, and made floating like the rest here.
    state = {name: tensor.to(dtype) for name, tensor in module.state_dict().items()}
    state["weight"] = torch.tensor([0.5, 2.0, -1.0]).to(dtype)
    load_exactly(module, state, source="w.pth")
    assert torch.equal(module.weight, torch.tensor([0.5, 2.0, -1.0]))
    assert int(module.num_batches_tracked) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_broken_number_among_many_is_found(value: float, dtype: torch.dtype) -> None:
    module = torch.nn.Linear(1000, 30).to(dtype)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for place in (0, 13_579, 29_999):
        state["weight"].copy_(module.weight.detach())
        assert differences(module.state_dict(), state) == []
        state["weight"].view(-1)[place] = value
        assert differences(module.state_dict(), state) == ["1 with NaN or infinite values: weight"]


def test_an_empty_tensor_has_no_broken_number() -> None:
    module = torch.nn.BatchNorm1d(0)
    load_exactly(module, module.state_dict(), source="w.pth")


def test_an_adapter_of_another_rank_is_refused(folder: Path) -> None:
    other = tiny_model(Architecture(context_depth=3, tuning=Tuning(rank=2)))
    with pytest.raises(AdapterError, match=r"of another shape: .*lora_A.*expected \(2, "):
        load_adapter(folder, other)


def test_a_damaged_tensor_file_is_refused(folder: Path) -> None:
    path = folder / TENSORS_FILE
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(AdapterError, match="has sha256"):
        load_adapter(folder, tiny_model(LOUD))
    edit(folder, tensors_sha256=None)
    with pytest.raises(WeightsError, match=TENSORS_FILE):
        load_adapter(folder, tiny_model(LOUD))


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(tiny_config().model_dump_json()), **fields}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file: Invalid JSON"),
        (b'{"name": "tiny", ', "file: Invalid JSON"),
        (b"[1, 2]", "not an adapter's configuration"),
        (b"\xff\xfe\x00binary", "it is not text"),
        (b"{}", "name: Field required; preset: Field required; prompts: Field required"),
        (changed(format=2), "format: Input should be 1"),
        (
            changed(prompt="tumor"),
            r"prompt: unknown; did you mean prompts\?; correct the file",
        ),
        (changed(mask_threshold=1.0), "mask_threshold: Input should be less than 1"),
        (changed(found_threshold=-0.1), "found_threshold: Input should be greater"),
        (changed(refine=-1), "refine: Input should be greater"),
        (changed(tensors_sha256="abc"), "tensors_sha256: String should match pattern"),
        (changed(score="best"), "score: Input should be 'iou_head' or 'mask_probability'"),
        (changed(architecture={"rank": 0}), r"architecture.rank: Input should be greater"),
    ],
)
def test_a_bad_configuration_is_refused_by_field(
    folder: Path, content: bytes, message: str
) -> None:
    (folder / CONFIG_FILE).write_bytes(content)
    with pytest.raises(AdapterError, match=message) as raised:
        read_adapter_config(folder)
    assert str(folder / CONFIG_FILE) in str(raised.value)


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter\.json cannot be read: No such file"):
        read_adapter_config(tmp_path)


def test_configuration_round_trip(tmp_path: Path) -> None:
    config = AdapterConfig(
        name="ü",
        preset="vit_b",
        architecture=ArchitectureRecord(
            context_tokens=8,
            context_depth=9,
            normalise=False,
            token_scale=2.5,
            rank=4,
            encoder="full",
            encoder_targets=("attn.q",),
            decoder="heads",
        ),
        prompts=("tumor", "lung"),
        refine=0,
        refine_for={"lung": 3},
        mask_threshold=0.4,
        found_threshold=0.2,
        score="iou_head",
        authors_frame=True,
        base={"sam_vit_b": "ab" * 32},
        terms="CC0",
        tensors_sha256="cd" * 32,
        training={"epochs": 3, "note": {"seed": 1}},
    )
    (tmp_path / CONFIG_FILE).write_text(adapter_json(config))
    assert read_adapter_config(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG_FILE]


def test_architecture_and_record_are_each_others_inverse() -> None:
    architecture = Architecture(
        context_tokens=8,
        context_depth=9,
        normalise=False,
        token_scale=2.5,
        tuning=Tuning(rank=4, encoder="full", encoder_targets=("attn.q",), decoder="heads"),
    )
    assert architecture_of(record_of(architecture)) == architecture
    assert architecture_of(ArchitectureRecord()) == Architecture()


def test_a_failed_save_leaves_the_old_adapter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(tensors: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    def full(*_: object) -> None:
        raise OSError("disk full")

    other = {n: t + 1 for n, t in trainable_state(tiny_model(LOUD).model).items()}
    for writer, failing in (("save_file", fail), ("adapter_json", full)):
        with monkeypatch.context() as patched:
            patched.setattr(f"textsam.checkpoint.{writer}", failing)
            with pytest.raises(OutputError, match="disk full"):
                save_adapter(folder, tiny_config(name="new"), other)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_adapters_are_found_by_path_and_by_shipped_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "_PACKAGED", tmp_path / "nothing")
    monkeypatch.setattr(adapters, "_CHECKOUT", tmp_path)
    assert shipped_adapters() == {"a": folder}
    assert find_adapter("a") == folder
    assert find_adapter(folder) == find_adapter(str(folder)) == folder
    with pytest.raises(AdapterError, match=r"no adapter 'b'.*shipped adapters are: a"):
        find_adapter("b")


def test_folders_that_are_no_adapters_say_what_they_lack(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"lacks adapter\.json and adapter\.safetensors"):
        find_adapter(tmp_path / "empty")
    (folder / TENSORS_FILE).unlink()
    with pytest.raises(AdapterError, match=r"lacks adapter\.safetensors; give"):
        find_adapter(folder)
