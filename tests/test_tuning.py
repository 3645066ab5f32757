"""What learns and what does not: exact counts, exact names, and a real optimiser step."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny import (
    loud_model,
    randomise_lora,
    tiny_backbone,
    tiny_model,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_vit_backbone,
)
from torch import Tensor, nn

from textsam.errors import ConfigError
from textsam.model.backbones import build_sam
from textsam.model.build import Architecture, BuiltModel, assemble
from textsam.model.text_encoders import build_biomedclip_text
from textsam.model.textsam import TextSAM
from textsam.model.tuning import Tuning, trainable_parameters, trainable_state

ATTENTIONS = (
    "layers.0.self_attn",
    "layers.0.cross_attn_token_to_image",
    "layers.0.cross_attn_image_to_token",
    "layers.1.self_attn",
    "layers.1.cross_attn_token_to_image",
    "layers.1.cross_attn_image_to_token",
    "final_attn_token_to_image",
)


def vit_b(rank: int) -> TextSAM:
    """The full `vit_b` without memory for its weights."""
    with torch.device("meta"):
        return assemble(
            build_sam("vit_b"),
            build_biomedclip_text(tiny_tokenizer()),
            Architecture(context_tokens=4, context_depth=12, tuning=Tuning(rank=rank)),
        ).model


def count(parameters: dict[str, nn.Parameter], wanted: Callable[[str], bool]) -> int:
    return sum(p.numel() for name, p in parameters.items() if wanted(name))


@pytest.mark.parametrize(("rank", "total"), [(1, 1_043_812), (4, 1_172_068), (16, 1_685_092)])
def test_vit_b_has_the_papers_trainable_parameters(rank: int, total: int) -> None:
    learns = trainable_parameters(vit_b(rank))
    assert count(learns, lambda name: True) == total == 42_752 * rank + 1_001_060
    parts = {
        "encoder": count(learns, lambda n: n.startswith("image_encoder.") and "lora" in n),
        "decoder": count(learns, lambda n: n.startswith("mask_decoder.") and "lora" in n),
        "heads": count(learns, lambda n: n.startswith("mask_decoder.") and "lora" not in n),
        "adapter": count(learns, lambda n: n.startswith("adapter.")),
        "context": count(learns, lambda n: n.startswith("context.")),
    }
    assert parts == {
        "encoder": 36_864 * rank,
        "decoder": 5_888 * rank,
        "heads": 767_076,
        "adapter": 197_120,
        "context": 36_864,
    }


def lora_names(layers: list[str]) -> set[str]:
    return {f"{layer}.lora_{matrix}.weight" for layer in layers for matrix in "AB"}


def names_outside_lora(depth: int) -> set[str]:
    """Heads, context and adapter: what learns in every mode."""
    decoder = tiny_backbone().mask_decoder
    heads = {n for n, _ in decoder.named_parameters() if not n.startswith("transformer.")}
    assert {n.split(".")[0] for n in heads} == {
        "iou_token",
        "mask_tokens",
        "output_upscaling",
        "output_hypernetworks_mlps",
        "iou_prediction_head",
    }
    return (
        {f"mask_decoder.{name}" for name in heads}
        | {"context.tokens", *(f"context.deep.{i}" for i in range(depth - 1))}
        | {f"adapter.{layer}.{kind}" for layer in ("fc1", "fc2") for kind in ("weight", "bias")}
    )


def decoder_lora() -> set[str]:
    layers = [f"mask_decoder.transformer.{a}.{p}_proj" for a in ATTENTIONS for p in "qv"]
    return lora_names(layers)


def test_vit_b_learns_exactly_these_names() -> None:
    encoder = [f"image_encoder.blocks.{i}.attn.qkv.{p}" for i in range(12) for p in "qv"]
    expected = lora_names(encoder) | decoder_lora() | names_outside_lora(depth=12)
    assert set(trainable_parameters(vit_b(4))) == expected


@pytest.mark.parametrize("decoder", ["lora", "heads"])
def test_frozen_encoder_and_head_modes(decoder: str) -> None:
    tuning = Tuning(rank=2, encoder="frozen", decoder=decoder)  # type: ignore[arg-type]
    model = tiny_model(Architecture(context_depth=2, tuning=tuning)).model
    expected = names_outside_lora(depth=2) | (decoder_lora() if decoder == "lora" else set())
    assert set(trainable_parameters(model)) == expected
    encoder = set(tiny_backbone().image_encoder.state_dict())
    assert set(model.image_encoder.state_dict()) == encoder


def full_vit() -> tuple[BuiltModel, Tensor, Tensor]:
    """A TinyViT trained in full, an image, and its embedding before the tuning was applied."""
    backbone = tiny_vit_backbone()
    image = torch.linspace(0, 60, 3 * 256 * 256).sin().view(1, 3, 256, 256) / 2 + 0.5
    with torch.inference_mode():
        before = backbone.image_encoder(image)
    tuning = Tuning(rank=2, encoder="full")
    built = assemble(backbone, tiny_text_encoder(), Architecture(context_depth=2, tuning=tuning))
    return built, image, before


def test_full_encoder_learns_all_but_the_fixed_parts() -> None:
    built, image, before = full_vit()
    model = built.model
    everything = {f"image_encoder.{n}" for n, _ in model.image_encoder.named_parameters()}
    fixed = {
        name
        for name in everything
        if name.startswith(("image_encoder.patch_embed.", "image_encoder.layers.0."))
    }
    assert len(fixed) > 5
    expected = (everything - fixed) | decoder_lora() | names_outside_lora(depth=2)
    assert set(trainable_parameters(model)) == expected
    assert any(name.endswith("attention_biases") for name in expected)
    # Batch norms of the fixed parts are folded, the others are there, and nothing else is new.
    norms = [n for n, m in model.image_encoder.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(n.startswith(("patch_embed", "layers.0")) for n in norms)
    with torch.inference_mode():
        torch.testing.assert_close(model.encode_image(image), before, rtol=0, atol=1e-4)


def test_fixed_parts_without_batch_norm_stay_frozen_too() -> None:
    backbone = tiny_backbone()
    backbone.fixed_parts = ("patch_embed", "blocks.0")
    tuning = Tuning(rank=2, encoder="full")
    built = assemble(backbone, tiny_text_encoder(), Architecture(context_depth=2, tuning=tuning))
    encoder = dict(built.model.image_encoder.named_parameters())
    frozen = {name for name, parameter in encoder.items() if not parameter.requires_grad}
    assert frozen == {n for n in encoder if n.startswith(("patch_embed.", "blocks.0."))}
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= frozen
    assert {"pos_embed", "blocks.1.attn.qkv.weight", "neck.0.weight"} <= encoder.keys() - frozen


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, those outside the state dict too."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name.replace(".default.", "."): t.detach().clone() for name, t in tensors.items()}


def step(model: TextSAM, image: Tensor) -> None:
    """One step of AdamW over ALL parameters, on a loss of masks and predicted IoU."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    logits, iou = model(model.encode_image(image), model.encode_text(["tumor", "lung"]))
    target = (torch.arange(logits[0, 0].numel()).view_as(logits[0, 0]) % 3 == 0).float()
    loss = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits)) + iou.square().sum()
    loss.backward()
    optimiser.step()


def check_step(model: TextSAM, image: Tensor, expected: set[str]) -> None:
    before = snapshot(model)
    step(model, image)
    after = snapshot(model)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed - expected == set(), "these are outside the list"
    unmade = {name for name in expected if re.search(r"hypernetworks_mlps\.[123]\.", name)}
    assert expected - changed == unmade, "these did not learn"
    assert len(unmade) == 3 * 6  # SAM's further masks, which are not asked for


def test_one_step_changes_what_is_listed_and_nothing_else() -> None:
    model = loud_model().model
    encoder = [f"image_encoder.blocks.{i}.attn.qkv.{p}" for i in range(2) for p in "qv"]
    expected = lora_names(encoder) | decoder_lora() | names_outside_lora(depth=3)
    image = torch.linspace(-2, 2, 3 * 64 * 64).sin().view(1, 3, 64, 64)
    check_step(model, image, expected)


def test_one_step_of_the_full_encoder_leaves_batch_norm_statistics_alone() -> None:
    built, image, _ = full_vit()
    model = built.model
    randomise_lora(model)
    learns = set(trainable_parameters(model))
    before = snapshot(model)
    step(model, image)
    after = snapshot(model)
    encoder = {n for n in before if n.startswith("image_encoder.")}
    statistics = {n for n in encoder if "running_" in n or n.endswith("num_batches_tracked")}
    assert len(statistics) >= 6
    changed = {n for n in encoder & after.keys() if not torch.equal(after[n], before[n])}
    assert changed == {n for n in learns if n.startswith("image_encoder.")}


def test_text_dropout_stays_off_in_training() -> None:
    model = tiny_model().model
    assert model.text_encoder.bert.config.hidden_dropout_prob > 0
    in_eval = model.encode_text(["tumor"])
    model.train()
    assert model.training
    assert model.mask_decoder.training
    assert not any(m.training for m in model.text_encoder.modules())
    assert torch.equal(model.encode_text(["tumor"]), in_eval)
    model.eval()
    assert not any(m.training for m in model.modules())


def test_trainable_state_is_a_copy() -> None:
    model = tiny_model().model
    state = trainable_state(model)
    assert set(state) == set(trainable_parameters(model))
    state["context.tokens"].zero_()
    assert model.context.tokens.abs().max() > 0
    assert not any(tensor.requires_grad for tensor in state.values())


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"rank is {rank}"):
        Tuning(rank=rank)
