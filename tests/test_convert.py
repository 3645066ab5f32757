"""Checkpoints of the authors' code become adapters that compute the same, or are refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from official import TinyOfficial, tiny_official
from safetensors.torch import load_file
from torch import Tensor

from textsam import convert as convert_module
from textsam import weights
from textsam.adapters import read_adapter_config
from textsam.checkpoint import architecture_of, load_adapter
from textsam.convert import convert_checkpoint, read_official
from textsam.errors import AdapterError, TextSAMError, WeightsError
from textsam.model.build import BuiltModel, assemble
from textsam.weights.checksum import sha256_of


@pytest.fixture(scope="module")
def made() -> TinyOfficial:
    return tiny_official()


@pytest.fixture
def official(made: TinyOfficial, monkeypatch: pytest.MonkeyPatch) -> TinyOfficial:
    monkeypatch.setattr(convert_module, "load_parts", lambda *_, **__: made.parts())
    return replace(made, state=dict(made.state))


def save(path: Path, state: dict[str, Tensor]) -> Path:
    """As the authors' training loop does."""
    torch.save({"model": state, "epoch": 3, "optimizer": {"step": 7}, "best_loss": 0.25}, path)
    return path


def answers(built: BuiltModel, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        tokens = built.model.encode_text(prompts)
        return tokens, *built.model(built.model.encode_image(image), tokens)


def test_the_adapter_computes_what_the_checkpoint_s_model_did(
    official: TinyOfficial, tmp_path: Path
) -> None:
    config = convert_checkpoint(save(tmp_path / "official.pth", official.state), tmp_path / "out")
    assert read_adapter_config(tmp_path / "out") == config
    fresh = assemble(*official.parts(), architecture_of(config.architecture))
    wanted = answers(official.built, ["tumor", "background"])
    assert not torch.allclose(answers(fresh, ["tumor", "background"])[1], wanted[1], atol=1e-2)
    load_adapter(tmp_path / "out", fresh)
    for ours, theirs in zip(answers(fresh, ["tumor", "background"]), wanted, strict=True):
        assert torch.equal(ours, theirs)


def test_what_the_adapter_says_of_itself(official: TinyOfficial, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "official.pth", official.state)
    config = convert_checkpoint(checkpoint, tmp_path / "eus", authors_frame=True)
    assert (config.name, config.preset, config.authors_frame) == ("eus", "vit_b", True)
    assert config.prompts == ("tumor",)
    architecture = config.architecture
    assert (architecture.rank, architecture.context_tokens) == (2, 4)
    assert (architecture.encoder, architecture.decoder) == ("lora", "lora")
    assert (architecture.normalise, architecture.token_scale) == (True, 1.0)
    assert config.base == {
        "sam_vit_b": weights.entry("sam_vit_b").identity,
        "biomedclip": official.text_encoder.digest(),
    }
    assert config.training["converted_from"] == "official.pth"
    assert config.training["sha256"] == sha256_of(checkpoint)
    again = convert_checkpoint(checkpoint, tmp_path / "other", name="mine")
    assert (again.name, again.authors_frame) == ("mine", False)


def test_their_depth_is_one_more_than_it_does(official: TinyOfficial, tmp_path: Path) -> None:
    deep = [n for n in official.state if "deep_prompts" in n]
    assert len(deep) == 2, "depth 3 by their count"
    config = convert_checkpoint(save(tmp_path / "official.pth", official.state), tmp_path / "out")
    assert config.architecture.context_depth == 2
    tensors = load_file(tmp_path / "out" / "adapter.safetensors")
    assert [n for n in tensors if n.startswith("context.deep.")] == ["context.deep.0"]
    first = official.state["prompt_encoder.prompt_learner.deep_prompts.0"]
    assert torch.equal(tensors["context.deep.0"], first)


def test_the_last_deep_prompt_says_nothing(official: TinyOfficial, tmp_path: Path) -> None:
    other = dict(official.state)
    other["prompt_encoder.prompt_learner.deep_prompts.1"] = torch.full((4, 16), 9.0)
    for name, state in (("one", official.state), ("two", other)):
        convert_checkpoint(save(tmp_path / f"{name}.pth", state), tmp_path / name)
    one, two = (load_file(tmp_path / n / "adapter.safetensors") for n in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one.keys() | two.keys())


def test_a_checkpoint_without_deep_prompts_is_shallow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_official(depth=1)
    state = {n: t for n, t in made.state.items() if "deep_prompts" not in n}
    monkeypatch.setattr(convert_module, "load_parts", lambda *_, **__: made.parts())
    config = convert_checkpoint(save(tmp_path / "official.pth", state), tmp_path / "out")
    assert config.architecture.context_depth == 1


@pytest.mark.parametrize(
    ("classes", "prompts"),
    [
        (("background", "cell nucleus"), ("cell nucleus",)),
        (("background", "polyps", "lung"), ("polyps", "lung")),
        (("tumor", "background"), ("tumor",)),
    ],
)
def test_class_names_are_read_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    classes: tuple[str, ...],
    prompts: tuple[str, ...],
) -> None:
    made = tiny_official(classes)
    monkeypatch.setattr(convert_module, "load_parts", lambda *_, **__: made.parts())
    config = convert_checkpoint(save(tmp_path / "official.pth", made.state), tmp_path / "out")
    assert config.prompts == prompts


def test_a_bare_state_dict_will_do(official: TinyOfficial, tmp_path: Path) -> None:
    torch.save(official.state, tmp_path / "bare.pth")
    convert_checkpoint(tmp_path / "bare.pth", tmp_path / "bare")
    convert_checkpoint(save(tmp_path / "official.pth", official.state), tmp_path / "whole")
    one, two = (load_file(tmp_path / n / "adapter.safetensors") for n in ("bare", "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one.keys() | two.keys())


Change = Callable[[dict[str, Tensor]], None]


def renamed(old: str, new: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        state[new] = state.pop(old)

    return change


def missing(name: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        del state[name]

    return change


def moved(name: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        tensor = state[name].clone()
        tensor.view(-1)[0] += 0.01
        state[name] = tensor

    return change


def cut(name: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        state[name] = state[name][:-1].clone()

    return change


def broken(name: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        tensor = state[name].clone()
        tensor.view(-1)[0] = float("nan")
        state[name] = tensor

    return change


def only_background(state: dict[str, Tensor]) -> None:
    name = "prompt_encoder.prompt_learner.token_suffix"
    state[name] = state[name][:1]


BLOCK = "image_encoder.blocks.3"
QUERY = "transformer.encoder.layer.1.attention.self.query.weight"
LEARNER = "prompt_encoder.prompt_learner"
REFUSALS: dict[str, tuple[Change, list[str]]] = {
    "renamed frozen": (
        renamed(f"{BLOCK}.norm1.weight", f"{BLOCK}.norm_1.weight"),
        [f"1 tensors are missing:\n  {BLOCK}.norm1.weight", f"unknown:\n  {BLOCK}.norm_1.weight"],
    ),
    "renamed learned": (
        renamed(f"{LEARNER}.ctx", f"{LEARNER}.context"),
        ["1 keys that are not of the authors' model", f"{LEARNER}.context"],
    ),
    "a key of another model": (
        renamed("prompt_encoder.text_head.0.weight", "text_head.0.weight"),
        ["not of the authors' model", "text_head.0.weight"],
    ),
    "missing frozen": (missing(f"{BLOCK}.attn.qkv.qkv.bias"), [f"{BLOCK}.attn.qkv.bias"]),
    "missing in the decoder": (
        missing("mask_decoder.transformer.layers.0.self_attn.k_proj.weight"),
        ["mask_decoder.transformer.layers.0.self_attn.k_proj.weight"],
    ),
    "missing learned": (
        missing("mask_decoder.iou_token.weight"),
        ["1 missing: mask_decoder.iou_token.weight"],
    ),
    "missing LoRA": (
        missing(f"{BLOCK}.attn.qkv.linear_b_v.weight"),
        [f"1 missing: {BLOCK}.attn.qkv.v.lora_B.weight"],
    ),
    "missing context": (missing(f"{LEARNER}.ctx"), ["context.tokens"]),
    "missing deep prompt": (missing(f"{LEARNER}.deep_prompts.0"), ["context.deep"]),
    "missing in one text tower": (
        missing(f"prompt_encoder.text_encoder.{QUERY}"),
        ["lacks 1 keys", f"prompt_encoder.text_encoder.{QUERY}"],
    ),
    "missing in one vision tower": (
        missing("prompt_encoder.clip_model.vision_model.head.proj.weight"),
        ["lacks 1 keys", "prompt_encoder.clip_model.vision_model.head.proj.weight"],
    ),
    "missing class names": (missing(f"{LEARNER}.token_suffix"), [f"{LEARNER}.token_suffix"]),
    "no class but the background": (only_background, ["names no class"]),
    "another encoder weight": (
        moved(f"{BLOCK}.attn.qkv.qkv.weight"),
        ["SAM weights", "1 frozen tensors differ", f"{BLOCK}.attn.qkv.qkv.weight"],
    ),
    "another decoder weight": (
        moved("mask_decoder.transformer.layers.1.mlp.lin1.weight"),
        ["SAM weights", "mask_decoder.transformer.layers.1.mlp.lin1.weight"],
    ),
    "another text weight": (
        moved(f"prompt_encoder.clip_model.text_model.{QUERY}"),
        ["text encoder weights", f"prompt_encoder.clip_model.text_model.{QUERY}"],
    ),
    "a frozen tensor of another shape": (
        cut("image_encoder.neck.0.weight"),
        ["1 frozen tensors differ", "image_encoder.neck.0.weight"],
    ),
    "a learned tensor of another shape": (
        cut("mask_decoder.mask_tokens.weight"),
        ["of another shape: mask_decoder.mask_tokens.weight is (3, 256), expected (4, 256)"],
    ),
    "a training that ran away": (
        broken("mask_decoder.iou_token.weight"),
        ["NaN or infinite values in 1 learned tensors", "mask_decoder.iou_token.weight"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused_by_name(
    official: TinyOfficial, tmp_path: Path, case: str
) -> None:
    change, words = REFUSALS[case]
    change(official.state)
    with pytest.raises(AdapterError) as caught:
        convert_checkpoint(save(tmp_path / "official.pth", official.state), tmp_path / "out")
    assert str(tmp_path / "official.pth") in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_everything_that_does_not_fit_is_listed(official: TinyOfficial, tmp_path: Path) -> None:
    names = [f"image_encoder.blocks.{i}.norm2.bias" for i in range(12)]
    for name in (*names, "image_encoder.pos_embed"):
        moved(name)(official.state)
    with pytest.raises(AdapterError, match="13 frozen tensors differ") as caught:
        convert_checkpoint(save(tmp_path / "official.pth", official.state), tmp_path / "out")
    assert "… and 1 more" in str(caught.value)


def test_rounding_of_the_frozen_part_is_no_difference(
    official: TinyOfficial, tmp_path: Path
) -> None:
    name = f"{BLOCK}.mlp.lin1.weight"
    official.state[name] = official.state[name] * (1 + 1e-6)
    convert_checkpoint(save(tmp_path / "official.pth", official.state), tmp_path / "out")


def test_a_checkpoint_in_double_precision_is_read(official: TinyOfficial, tmp_path: Path) -> None:
    state = {n: t.double() if t.is_floating_point() else t for n, t in official.state.items()}
    config = convert_checkpoint(save(tmp_path / "official.pth", state), tmp_path / "out")
    assert config.prompts == ("tumor",)


def test_classes_of_one_name_are_one_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = tiny_official(("background", "tumor", "tumor"))
    monkeypatch.setattr(convert_module, "load_parts", lambda *_, **__: official.parts())
    config = convert_checkpoint(save(tmp_path / "official.pth", official.state), tmp_path / "out")
    assert config.prompts == ("tumor",)


class _Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain_pickle", [False, True])
def test_a_checkpoint_with_code_is_not_run(
    official: TinyOfficial, tmp_path: Path, plain_pickle: bool
) -> None:
    content = {"model": official.state, "epoch": _Trap(tmp_path / "sprung")}
    path = tmp_path / "official.pth"
    if plain_pickle:
        path.write_bytes(pickle.dumps(content["epoch"]))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=r"official\.pth: refused.*mkdir"):
        convert_checkpoint(path, tmp_path / "out")
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "out").exists()


def test_other_files_are_refused_for_what_they_are(official: TinyOfficial, tmp_path: Path) -> None:
    sam = {n: t for n, t in official.state.items() if n.startswith("image_encoder.neck")}
    with pytest.raises(AdapterError, match="is not a checkpoint of the authors' model"):
        read_official(save(tmp_path / "sam.pth", sam))
    fewer = {n: t for n, t in official.state.items() if "image_encoder.blocks.11." not in n}
    with pytest.raises(AdapterError, match="image encoder of 11 blocks; known are 12, 24, 32"):
        read_official(save(tmp_path / "fewer.pth", fewer))
    with pytest.raises(TextSAMError, match="no such weight file"):
        read_official(tmp_path / "none.pth")
