"""Three levels of fine-tuning: exactly what each one changes, and that its adapters last."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import ValidationError
from runs import begin, learned, run_config, same, train, write_data
from test_tuning import decoder_lora, lora_names, names_outside_lora, snapshot
from tiny import (
    LOUD,
    loud_model,
    tiny_backbone,
    tiny_config,
    tiny_model,
    tiny_text_encoder,
    tiny_vit_backbone,
)
from torch import Tensor

from textsam.adapters import read_adapter_config
from textsam.checkpoint import architecture_of, load_adapter, save_adapter
from textsam.errors import AdapterError
from textsam.inference.segmenter import Segmenter
from textsam.model.build import Architecture, assemble
from textsam.model.textsam import TextSAM
from textsam.model.tuning import (
    Tuning,
    merge_for_inference,
    trainable_parameters,
    trainable_state,
)
from textsam.train.run import fit
from textsam.train.settings import LEVELS, TuningSettings
from textsam.train.setup import architecture_from

NAMES = ("decoder", "lora", "full")
IMAGE = torch.linspace(-2, 2, 3 * 64 * 64).sin().view(1, 3, 64, 64)


def architecture(level: str) -> Architecture:
    """That of `loud_model`, at a level."""
    tuning = Tuning(rank=4, **LEVELS[level])  # type: ignore[arg-type]
    return Architecture(context_depth=3, token_scale=16.0, tuning=tuning)


def wanted(level: str) -> set[str]:
    """The names a level should change, from the parts' own lists."""
    backbone = tiny_backbone()
    decoder = {f"mask_decoder.{name}" for name, _ in backbone.mask_decoder.named_parameters()}
    encoder = {f"image_encoder.{name}" for name, _ in backbone.image_encoder.named_parameters()}
    text = {name for name in names_outside_lora(3) if not name.startswith("mask_decoder.")}
    if level == "decoder":
        return text | decoder
    if level == "full":
        return text | decoder | encoder
    layers = [f"image_encoder.blocks.{i}.attn.qkv.{p}" for i in range(2) for p in "qv"]
    return names_outside_lora(3) | lora_names(layers) | decoder_lora()


def step(model: TextSAM) -> None:
    """One step of AdamW over ALL parameters, with weight decay, on a loss of all outputs."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    logits, iou = model(model.encode_image(IMAGE), model.encode_text(["tumor", "lung"]))
    target = (torch.arange(logits[0, 0].numel()).view_as(logits[0, 0]) % 3 == 0).float()
    loss = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits)) + iou.square().sum()
    loss.backward()
    optimiser.step()


@pytest.mark.parametrize("level", NAMES)
def test_a_level_changes_what_it_names_and_nothing_else(level: str) -> None:
    model = loud_model(architecture(level)).model
    assert set(trainable_parameters(model)) == wanted(level)
    before = snapshot(model)
    step(model)
    after = snapshot(model)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed <= wanted(level)
    still = wanted(level) - changed
    # SAM's further masks are not asked for.
    assert still == {n for n in wanted(level) if re.search(r"hypernetworks_mlps\.[123]\.", n)}


def test_the_full_level_of_lite_leaves_its_stem() -> None:
    built = assemble(tiny_vit_backbone(), tiny_text_encoder(), architecture("full"))
    learns = set(trainable_parameters(built.model))
    encoder = {f"image_encoder.{n}" for n, _ in built.model.image_encoder.named_parameters()}
    decoder = {f"mask_decoder.{n}" for n, _ in built.model.mask_decoder.named_parameters()}
    stem = {n for n in encoder if n.startswith(("image_encoder.patch", "image_encoder.layers.0."))}
    assert len(stem) > 5
    assert {n for n in learns if n.startswith("image_encoder.")} == encoder - stem
    assert {n for n in learns if n.startswith("mask_decoder.")} == decoder


@pytest.mark.parametrize("level", NAMES)
def test_a_run_at_a_level_leaves_the_rest_bit_for_bit(tmp_path: Path, level: str) -> None:
    config = run_config(
        write_data(tmp_path),
        tuning={"rank": 2, "level": level},
        geometry={"probability": 0.5, "jitter": 0.1},
        epochs=1,
    )
    before = snapshot(tiny_model(architecture_from(config)).model)
    run = train(config)
    after = snapshot(run.built.model)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    names = set(trainable_parameters(run.built.model))
    assert changed <= names
    parts = {name.split(".")[0] for name in changed}
    assert parts == {"mask_decoder", "context", "adapter"} | (
        set() if level == "decoder" else {"image_encoder"}
    )
    # What is kept says encoder and decoder, which every reader of adapters knows.
    record = json.loads((run.folder / "best" / "adapter.json").read_text(encoding="utf-8"))
    for place in (record["architecture"], record["training"]["config"]["tuning"]):
        assert {k: place[k] for k in ("encoder", "decoder")} == LEVELS[level]
        assert "level" not in place


@pytest.mark.parametrize("level", ["decoder"])
def test_a_run_is_gone_on_with_and_its_level_may_be_spelled_out(tmp_path: Path, level: str) -> None:
    data = write_data(tmp_path)
    short = run_config(data, tuning={"rank": 2, "level": level})
    whole = learned(train(run_config(data, name="whole", tuning={"rank": 2, "level": level})))
    train(short, stop_after=3)
    spelled = run_config(data, tuning={"rank": 2, **LEVELS[level]})
    resumed = begin(spelled)
    assert resumed.state.step == 3
    assert same(learned(fit(resumed, progress=False)), whole)


def answers(built: Any, record: Any) -> list[tuple[NDArray[np.float32], float]]:
    segmenter = Segmenter(built, record, device=torch.device("cpu"), precision=torch.float32)
    pixels = np.random.default_rng(4).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    found = segmenter.segment(pixels, ["tumor", "lung"])
    return [(one.probability, one.score) for one in found]


@pytest.mark.parametrize("level", NAMES)
def test_adapters_of_a_level_are_saved_loaded_and_merged(tmp_path: Path, level: str) -> None:
    shape = architecture(level)
    trained = loud_model(shape)
    step(trained.model)
    trained.model.eval()
    record = tiny_config(shape)
    folder = save_adapter(tmp_path / level, record, trainable_state(trained.model))
    # The same base weights, nothing learned.
    fresh = loud_model(architecture_of(read_adapter_config(folder).architecture))
    load_adapter(folder, fresh)
    ours, theirs = answers(trained, record), answers(fresh, record)
    plain = answers(loud_model(shape), record)
    assert any(not np.array_equal(a, b) for (a, _), (b, _) in zip(ours, plain, strict=True))
    for (mine, score), (other, again) in zip(ours, theirs, strict=True):
        assert np.array_equal(mine, other)
        assert score == again
    merge_for_inference(fresh.model)
    assert not any(p.requires_grad for p in fresh.model.parameters())
    for (mine, score), (merged, again) in zip(ours, answers(fresh, record), strict=True):
        np.testing.assert_allclose(mine, merged, atol=1e-4)
        assert score == pytest.approx(again, abs=1e-4)


def test_an_adapter_of_one_level_does_not_fit_another(tmp_path: Path) -> None:
    state: dict[str, Tensor] = trainable_state(loud_model(architecture("full")).model)
    folder = save_adapter(tmp_path / "full", tiny_config(architecture("full")), state)
    with pytest.raises(AdapterError, match="does not fit this model"):
        load_adapter(folder, loud_model(LOUD))


@pytest.mark.parametrize("level", NAMES)
def test_a_level_is_short_for_encoder_and_decoder(level: str) -> None:
    settings = TuningSettings.model_validate({"level": level})
    assert (settings.encoder, settings.decoder) == tuple(LEVELS[level].values())
    # Fields that agree may be there; what is dumped is what they say, and reads back.
    assert TuningSettings.model_validate({"level": level, **LEVELS[level]}) == settings
    dumped = settings.model_dump()
    assert "level" not in dumped
    assert TuningSettings.model_validate(dumped).encoder == settings.encoder


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"level": "decoder", "encoder": "lora"}, "level is 'decoder'.* encoder: frozen.* 'lora'"),
        ({"level": "lora", "decoder": "full"}, "level is 'lora'.* decoder: lora.* 'full'"),
        ({"level": "full", "encoder": "frozen"}, "level is 'full'.* encoder: full.* 'frozen'"),
        ({"level": "all"}, "level"),
        ({"level": ["full"]}, "level"),
    ],
)
def test_what_contradicts_a_level_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TuningSettings.model_validate(settings)


def test_without_a_level_the_defaults_are_what_they_were() -> None:
    settings = TuningSettings()
    assert (settings.level, settings.encoder, settings.decoder) == (None, "lora", "lora")
