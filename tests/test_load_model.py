"""`load_model`, `segment`, devices and precision: refusals first, then a model that answers."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import (
    LOUD,
    loud_model,
    tiny_config,
    tiny_segmenter,
)

import textsam
from textsam import api, weights
from textsam.adapters import CONFIG_FILE, adapter_json, read_adapter_config
from textsam.checkpoint import save_adapter
from textsam.device import choose_device, choose_precision
from textsam.errors import AdapterError, ConfigError, DeviceError, WeightsError
from textsam.model import build
from textsam.model.build import Architecture
from textsam.model.tuning import trainable_state


def adapter(folder: Path, **changes: Any) -> Path:
    return save_adapter(folder, tiny_config(**changes), trainable_state(loud_model().model))


@pytest.fixture
def no_building(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals must come before gigabytes are read."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(api, "build_model", refuse)


def test_an_empty_path_is_not_taken_for_none_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Path] = []
    monkeypatch.setattr(build, "load_backbone", lambda _, path: taken.append(path))
    monkeypatch.setattr(build, "load_minilm", taken.append)
    monkeypatch.setattr(weights, "resolve", lambda name: Path("registry", name))
    build.load_parts("lite", sam_checkpoint="", text_encoder="")
    assert taken == [Path(), Path()], "loading these says that they are no weights"


@pytest.mark.usefixtures("no_building")
class TestRefusals:
    def test_unknown_preset(self) -> None:
        with pytest.raises(ConfigError, match="no preset 'vit_x'; choose one of lite, vit_b"):
            textsam.load_model("vit_x")

    @pytest.mark.parametrize("preset", ["vit_b", "vit_l", "vit_h"])
    def test_preset_without_an_adapter(self, preset: str) -> None:
        with pytest.raises(AdapterError, match=f"no adapter comes with '{preset}'; give adapter="):
            textsam.load_model(preset)

    def test_unknown_adapter(self) -> None:
        with pytest.raises(AdapterError, match="no adapter 'nowhere'"):
            textsam.load_model("lite", adapter="nowhere")

    def test_a_damaged_adapter(self, tmp_path: Path) -> None:
        folder = adapter(tmp_path)
        path = folder / "adapter.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        with pytest.raises(AdapterError, match=r"adapter\.safetensors has sha256 .* expects"):
            textsam.load_model("lite", adapter=folder)

    def test_adapter_of_another_preset(self, tmp_path: Path) -> None:
        folder = adapter(tmp_path, preset="lite")
        with pytest.raises(AdapterError, match="belongs to 'lite', not 'vit_b'"):
            textsam.load_model("vit_b", adapter=folder)

    def test_other_base_weights_by_path(self, tmp_path: Path) -> None:
        base = tmp_path / "sam.safetensors"
        base.write_bytes(b"other weights")
        digest = hashlib.sha256(b"other weights").hexdigest()
        folder = adapter(tmp_path / "a", preset="vit_b", base={"sam_vit_b": "ab" * 32})
        with pytest.raises(AdapterError, match=f"{'ab' * 8}….*at hand have {digest[:16]}…"):
            textsam.load_model("vit_b", adapter=folder, sam_checkpoint=base)

    def test_other_base_weights_of_the_registry(self, tmp_path: Path) -> None:
        folder = adapter(tmp_path, base={"litemedsam": "cd" * 32})
        known = weights.entry("litemedsam").identity[:16]
        with pytest.raises(AdapterError, match=f"sha256 {'cd' * 8}….*{known}"):
            textsam.load_model("lite", adapter=folder)

    @pytest.mark.parametrize(
        ("device", "precision", "message"),
        [
            ("tpu9", "auto", "no device 'tpu9'"),
            ("meta", "auto", "device 'meta' is not supported"),
            ("cuda:99", "auto", "'cuda:99' was asked for and \\d+ CUDA"),
            ("cpu", "float8", "no precision 'float8'; use auto, float32 or bfloat16"),
        ],
    )
    def test_device_and_precision(
        self, tmp_path: Path, device: str, precision: str, message: str
    ) -> None:
        with pytest.raises(DeviceError, match=message):
            textsam.load_model("lite", adapter(tmp_path), device, precision)


@pytest.mark.parametrize("identity", ["right", "unknown", "not recorded"])
def test_the_right_or_unrecorded_base_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identity: str
) -> None:
    path = tmp_path / "sam.safetensors"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    base = {"right": {"litemedsam": digest}, "unknown": {"litemedsam": "unknown"}}
    folder = adapter(tmp_path / "a", base=base.get(identity, {}))
    built = loud_model()
    monkeypatch.setattr(api, "build_model", lambda *_, **__: built)
    assert textsam.load_model("lite", folder, sam_checkpoint=path).built is built


def test_an_adapter_is_used_with_the_text_encoder_it_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = loud_model()
    monkeypatch.setattr(api, "build_model", lambda *_, **__: built)
    encoder = built.model.text_encoder
    folder = adapter(tmp_path / "a", base={"minilm": encoder.digest()})
    words = encoder.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        words[5:].zero_()  # as a copy with the words in use alone
    assert textsam.load_model("lite", folder).built is built
    with torch.no_grad():
        encoder.bert.encoder.layer[0].output.dense.bias[0] += 1e-6
    with pytest.raises(AdapterError, match=r"was trained on minilm with sha256 .* at hand have"):
        textsam.load_model("lite", folder)


def test_the_identity_tells_base_weights_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, text = tmp_path / "sam.safetensors", tmp_path / "text"
    image.write_bytes(b"weights")
    text.mkdir()
    (text / "model.safetensors").write_bytes(b"one")
    folder = adapter(tmp_path / "a")
    monkeypatch.setattr(api, "build_model", lambda *_, **__: loud_model())

    def identity(**given: Path) -> str:
        return textsam.load_model("lite", folder, device="cpu", **given).identity  # type: ignore[arg-type]

    plain, own = identity(), identity(text_encoder=text)
    assert len({plain, own, identity(sam_checkpoint=image)}) == 3
    assert own == identity(text_encoder=text)
    (text / "model.safetensors").write_bytes(b"two")
    assert identity(text_encoder=text) not in {plain, own}


def test_missing_base_weights_are_the_builders_to_report(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", base={"litemedsam": "ab" * 32})
    with pytest.raises(WeightsError, match=r"gone\.safetensors: no such weight file"):
        textsam.load_model("lite", folder, sam_checkpoint=tmp_path / "gone.safetensors")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`load_model` builds a tiny model; the list holds what it was asked for."""
    asked: list[dict[str, Any]] = []

    def build(preset: str, architecture: Architecture, **given: Any) -> Any:
        asked.append({"preset": preset, "architecture": architecture, **given})
        built = loud_model(architecture)
        with torch.no_grad():  # the adapter must bring these back
            for parameter in built.model.parameters():
                if parameter.requires_grad:
                    parameter.zero_()
        return built

    monkeypatch.setattr(api, "build_model", build)
    api._cached_model.cache_clear()
    return asked


def test_segment_loads_again_what_was_written_again(
    tmp_path: Path, parts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter(tmp_path / "here" / "own")
    for _ in range(2):
        assert textsam.segment(PICTURE, "tumor", adapter=folder, device="cpu").adapter == "tiny"
    assert len(parts) == 1, "the model was kept"
    config = read_adapter_config(folder)
    (folder / CONFIG_FILE).write_text(adapter_json(config.model_copy(update={"name": "another"})))
    assert textsam.segment(PICTURE, "tumor", adapter=folder, device="cpu").adapter == "another"
    # A relative path is another folder elsewhere.
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere / folder.name)
    (elsewhere / folder.name / CONFIG_FILE).write_text(
        adapter_json(config.model_copy(update={"name": "elsewhere's"}))
    )
    for place, name in ((folder.parent, "another"), (elsewhere, "elsewhere's")):
        monkeypatch.chdir(place)
        answer = textsam.segment(PICTURE, "tumor", adapter=folder.name, device="cpu")
        assert answer.adapter == name


PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def test_a_loaded_model_answers_as_the_one_that_was_saved(
    tmp_path: Path, parts: list[dict[str, Any]]
) -> None:
    (tmp_path / "own").write_bytes(b"weights")
    model = textsam.load_model(
        "lite", adapter(tmp_path), "cpu", text_encoder=tmp_path, sam_checkpoint=tmp_path / "own"
    )
    assert parts == [
        {
            "preset": "lite",
            "architecture": LOUD,
            "sam_checkpoint": tmp_path / "own",
            "text_encoder": tmp_path,
        }
    ]
    assert (model.preset, model.adapter_name, model.precision) == ("lite", "tiny", torch.float32)
    plain = textsam.load_model("lite", adapter(tmp_path), "cpu", plain=True)
    expected = tiny_segmenter().segment(PICTURE, "lung")
    assert np.array_equal(plain.segment(PICTURE, "lung").probability, expected.probability)
    answer = model.segment(PICTURE, "lung")
    np.testing.assert_allclose(answer.probability, expected.probability, rtol=0, atol=1e-4)
    assert (answer.mask != expected.mask).mean() < 1e-3
    assert expected.mask.any()
    assert model.built.model.fast_decoder is not None
    assert plain.built.model.fast_decoder is None
    assert not any("lora" in name for name, _ in model.built.model.named_parameters())
    assert not model.built.model.training


@pytest.mark.usefixtures("parts")
def test_what_answers_depend_on_tells_loaded_models_apart(tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(b"weights")
    one, state = adapter(tmp_path / "one"), trainable_state(loud_model(seed=8).model)
    other = save_adapter(tmp_path / "other", tiny_config(), state)

    def identity(folder: Path, **options: Any) -> str:
        return textsam.load_model("lite", folder, "cpu", **options).identity

    plain = identity(one, precision="float32")
    changed = [
        identity(other, precision="float32"),
        identity(one, precision="bfloat16"),
        identity(one, precision="float32", sam_checkpoint=tmp_path / "own"),
    ]
    assert len({plain, *changed}) == 4
    assert identity(one, precision="float32") == plain


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("asked", [True, False, None])
def test_authors_frame_by_argument_else_by_adapter(
    tmp_path: Path, parts: list[dict[str, Any]], recorded: bool, asked: bool | None
) -> None:
    folder = adapter(tmp_path, authors_frame=recorded)
    model = textsam.load_model("lite", folder, "cpu", authors_frame=asked)
    assert model.config.authors_frame is (recorded if asked is None else asked)


def test_segment_loads_the_model_once_and_passes_everything_on(
    tmp_path: Path, parts: list[dict[str, Any]]
) -> None:
    folder = adapter(tmp_path)
    geometry: dict[str, Any] = {"refine": 2, "points": (5, 6, 0), "boxes": (3, 3, 30, 20)}
    answers = [
        textsam.segment(PICTURE, "lung", adapter=folder, device="cpu", **geometry) for _ in range(2)
    ]
    assert len(parts) == 1
    expected = tiny_segmenter().segment(PICTURE, "lung", **geometry)
    for answer in answers:
        np.testing.assert_allclose(answer.probability, expected.probability, rtol=0, atol=1e-4)
    other = tiny_segmenter().segment(PICTURE, "lung")
    assert np.abs(other.probability - expected.probability).max() > 1e-2  # the geometry counts
    several = textsam.segment(PICTURE, ["lung", "tumor"], adapter=folder, device="cpu")
    assert [answer.prompt for answer in several] == ["lung", "tumor"]
    with pytest.raises(textsam.PromptError, match="'zebra'"):
        textsam.segment(PICTURE, "zebra", adapter=folder, device="cpu", strict=True)
    assert len(parts) == 1


def test_a_cpu_is_taken_with_float32_unless_bfloat16_is_asked_for() -> None:
    cpu = choose_device("cpu")
    assert cpu == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu") or (
        torch.backends.mps.is_available()
    )
    assert choose_precision("auto", cpu) == torch.float32
    assert choose_precision("float32", cpu) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16


def test_a_gpu_takes_bfloat16_where_it_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for has, auto in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert choose_precision("auto", gpu) == auto
    with pytest.raises(DeviceError, match="bfloat16 is not available on cuda; use float32"):
        choose_precision("bfloat16", gpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == gpu
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="'cuda:2' was asked for and 2 CUDA"):
        choose_device("cuda:2")
