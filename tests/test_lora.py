"""LoRA reaches q and v alone, starts as nothing, and merges back into the base model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from segment_anything.modeling.image_encoder import Attention as SamAttention
from tiny import (
    loud_model,
    randomise_lora,
    randomise_vit,
    tiny_backbone,
    tiny_segmenter,
    tiny_text_encoder,
    tiny_vit_backbone,
)
from torch import Tensor, nn

from textsam.errors import ConfigError
from textsam.model.backbones import Backbone, build_litemedsam
from textsam.model.build import Architecture, assemble
from textsam.model.lora import (
    Layout,
    SplitQKV,
    inject_lora,
    merge_lora,
    split_fused_qkv,
)
from textsam.model.tuning import Tuning, merge_for_inference

HEADS, WIDTH = 3, 12
LAYOUTS: tuple[Layout, ...] = ("blocks", "per_head")


def rows_of(part: str, layout: Layout, width: int = WIDTH, heads: int = HEADS) -> list[int]:
    """Rows of q, k or v in a fused weight, counted by hand."""
    number, size = "qkv".index(part), width // heads
    if layout == "blocks":
        return list(range(number * width, (number + 1) * width))
    return [(3 * head + number) * size + i for head in range(heads) for i in range(size)]


def fused_layer(bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(WIDTH, 3 * WIDTH, bias=bias)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False])
def test_split_equals_fused_and_fuses_back(layout: Layout, bias: bool) -> None:
    fused = fused_layer(bias)
    split = SplitQKV(fused, HEADS, layout)
    x = torch.linspace(-2, 2, 2 * 5 * WIDTH).view(2, 5, WIDTH)
    torch.testing.assert_close(split(x), fused(x), rtol=1e-5, atol=1e-6)
    for part in "qkv":
        assert torch.equal(split.get_submodule(part).weight, fused.weight[rows_of(part, layout)]), (
            part
        )
    again = split.fuse()
    assert torch.equal(again.weight, fused.weight)
    assert (again.bias is None) == (not bias)
    if bias:
        assert torch.equal(again.bias, fused.bias)
    # The parts are copies: the fused layer stays as it was when they learn.
    before = fused.weight.detach().clone()
    split.q.weight.data.zero_()
    assert torch.equal(fused.weight, before)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ((), "has no target"),
        (
            ("qkv.q", "qkv.vv"),
            "no layer has the LoRA target 'qkv.vv'; the linear ones end in .*qkv.q",
        ),
        (("norm1",), "'norm1' is also .*a LayerNorm and no linear layer"),
        (("proj",), r"'proj' is also patch_embed.proj, a Conv2d .*attn\.proj"),
        (("qkv",), "a SplitQKV and no linear layer"),
    ],
)
def test_targets_are_linear_layers_that_exist(targets: tuple[str, ...], words: str) -> None:
    encoder = tiny_backbone().image_encoder
    split_fused_qkv(encoder, "blocks")
    before = {name for name, _ in encoder.named_parameters()}
    with pytest.raises(ConfigError, match=words):
        inject_lora(encoder, targets, 2)
    assert {name for name, _ in encoder.named_parameters()} == before


def test_fusing_needs_merged_lora() -> None:
    holder = nn.ModuleDict({"qkv": SplitQKV(fused_layer(), HEADS, "blocks")})
    inject_lora(holder, ("qkv.q",), 2)
    with pytest.raises(TypeError, match="merge LoRA before"):
        holder["qkv"].fuse()


def test_per_head_parts_are_tiny_vits_q_and_v() -> None:
    """Without q, the attention's weights are its biases alone; without v, nothing is passed on."""
    attention = tiny_vit_backbone().image_encoder.layers[1].blocks[0].attn
    tokens = attention.attention_bias_idxs.shape[0]
    x = torch.linspace(-1, 1, tokens * 8).sin().view(1, tokens, 8)
    fused, whole = attention.qkv, attention(x)
    assert split_fused_qkv(attention, "per_head") == [""]
    torch.testing.assert_close(attention(x), whole, rtol=1e-5, atol=1e-5)

    attention.qkv.q.weight.data.zero_()
    attention.qkv.q.bias.data.zero_()
    per_head = fused(attention.norm(x)).view(1, tokens, 2, 12)
    values = per_head[..., 8:].permute(0, 2, 1, 3)
    passed = attention.ab.softmax(-1) @ values
    expected = attention.proj(passed.transpose(1, 2).reshape(1, tokens, 8))
    assert (whole - expected).abs().max() > 0.01
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)

    attention.qkv.v.weight.data.zero_()
    attention.qkv.v.bias.data.zero_()
    torch.testing.assert_close(attention(x), attention.proj.bias.expand(1, tokens, 8))


def test_block_parts_are_sams_q_and_v() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        attention = SamAttention(8, num_heads=2)
    x = torch.linspace(-1, 1, 16 * 8).sin().view(1, 4, 4, 8) * 3
    whole = attention(x)
    split_fused_qkv(attention, "blocks")
    torch.testing.assert_close(attention(x), whole, rtol=1e-5, atol=1e-6)
    mean_value = attention.qkv.v(x).mean((1, 2), keepdim=True)
    expected = attention.proj(mean_value).expand_as(x)
    assert (whole - expected).abs().max() > 0.01
    attention.qkv.q.weight.data.zero_()
    attention.qkv.q.bias.data.zero_()
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_lora_starts_as_identity() -> None:
    encoder = tiny_backbone().image_encoder.eval()
    image = torch.linspace(-2, 2, 3 * 64 * 64).sin().view(1, 3, 64, 64)
    split_fused_qkv(encoder, "blocks")
    with torch.inference_mode():
        before = encoder(image)
    inject_lora(encoder, ("qkv.q", "qkv.v"), 4)
    with torch.inference_mode():
        assert torch.equal(encoder(image), before)
    parameters = dict(encoder.named_parameters())
    names = [name for name in parameters if ".lora_" in name]
    assert len(names) == 2 * 2 * 2  # blocks, q and v, A and B
    for name in names:
        learns_from_the_start = ".lora_A." in name
        assert bool(parameters[name].any()) == learns_from_the_start, name
    randomise_lora(encoder)
    with torch.inference_mode():
        assert (encoder(image) - before).abs().max() > 0.01


def low_rank(layer: LoraLinear) -> Tensor:
    return layer.lora_B["default"].weight @ layer.lora_A["default"].weight


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rank", [1, 5])
def test_merged_encoder_weight_is_w_plus_ba_on_q_and_v(layout: Layout, rank: int) -> None:
    backbone = tiny_backbone() if layout == "blocks" else tiny_vit_backbone()
    encoder = backbone.image_encoder
    base = copy.deepcopy(encoder).eval()
    names = split_fused_qkv(encoder, layout)
    inject_lora(encoder, ("qkv.q", "qkv.v"), rank)
    randomise_lora(encoder)
    added = {
        (name, part): low_rank(encoder.get_submodule(f"{name}.qkv.{part}")).detach()
        for name in names
        for part in "qv"
    }
    merge_lora(encoder)
    assert len(names) == (2 if layout == "blocks" else 3)
    for name in names:
        attention, old = encoder.get_submodule(name), base.get_submodule(name).qkv
        heads, width = attention.num_heads, old.in_features
        new = attention.qkv
        assert type(new) is nn.Linear
        for part in "qkv":
            rows = rows_of(part, layout, width, heads)
            assert torch.equal(new.bias[rows], old.bias[rows])
            if part == "k":
                assert torch.equal(new.weight[rows], old.weight[rows]), f"{name}: k changed"
                continue
            expected = old.weight[rows] + added[name, part]
            assert added[name, part].abs().max() > 0.01
            torch.testing.assert_close(new.weight[rows], expected, rtol=0, atol=1e-6)


def test_merged_decoder_changes_q_and_v_of_every_attention_and_nothing_else() -> None:
    built = loud_model()
    transformer = built.model.mask_decoder.transformer
    lora = {n: m for n, m in transformer.named_modules() if isinstance(m, LoraLinear)}
    attentions = [
        *(f"layers.{i}.{a}" for i in (0, 1) for a in ("self_attn", "cross_attn_token_to_image")),
        *(f"layers.{i}.cross_attn_image_to_token" for i in (0, 1)),
        "final_attn_token_to_image",
    ]
    assert set(lora) == {f"{a}.{p}_proj" for a in attentions for p in "qv"}
    base = {n: layer.get_base_layer().weight.detach().clone() for n, layer in lora.items()}
    added = {n: low_rank(layer).detach() for n, layer in lora.items()}
    others = {
        n: p.detach().clone()
        for n, p in transformer.named_parameters()
        if not any(n.startswith(name + ".") for name in lora)
    }
    merge_for_inference(built.model)
    merged = dict(transformer.named_parameters())
    for name, weight in base.items():
        torch.testing.assert_close(
            merged[f"{name}.weight"], weight + added[name], rtol=0, atol=1e-6
        )
    assert len(others) > 20
    assert all(torch.equal(merged[name], tensor) for name, tensor in others.items())


def test_merged_model_has_the_base_models_layers_and_learns_nothing() -> None:
    built = loud_model()
    merge_for_inference(built.model)
    left = [n for n, m in built.model.named_modules() if isinstance(m, LoraLinear | SplitQKV)]
    assert left == []
    assert [n for n in built.model.state_dict() if "lora" in n or "base_layer" in n] == []
    base = tiny_backbone()
    for part in ("image_encoder", "mask_decoder"):
        ours, theirs = getattr(built.model, part), getattr(base, part)
        assert list(ours.state_dict()) == list(theirs.state_dict())
    assert not any(p.requires_grad for p in built.model.parameters())
    assert not built.model.training


def test_merged_and_unmerged_outputs_agree() -> None:
    plain, merged = loud_model().model, loud_model().model
    merge_for_inference(merged)
    image = torch.linspace(-2, 2, 3 * 64 * 64).sin().view(1, 3, 64, 64)
    with torch.inference_mode():
        embedding = plain.encode_image(image)
        difference = (merged.encode_image(image) - embedding).abs().max()
        assert 0 < difference <= 1e-4
        tokens = plain.encode_text(["tumor", "lung"])
        assert torch.equal(merged.encode_text(["tumor", "lung"]), tokens)
        logits, iou = plain(embedding, tokens)
        merged_logits, merged_iou = merged(embedding, tokens)
    assert logits.std() > 0.5
    torch.testing.assert_close(merged_logits, logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(merged_iou, iou, rtol=0, atol=1e-4)


def test_merged_and_unmerged_segmenters_draw_the_same_mask() -> None:
    merged, plain = tiny_segmenter(), tiny_segmenter(merge=False)
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for word in ("tumor", "lung"):
        a, b = merged.segment(image, word, refine=2), plain.segment(image, word, refine=2)
        assert 0.05 < a.mask.mean() < 0.95
        assert np.array_equal(a.mask, b.mask)
        np.testing.assert_allclose(a.probability, b.probability, rtol=0, atol=1e-4)


def assembled_vit(backbone: Backbone, tuning: Tuning) -> nn.Module:
    built = assemble(backbone, tiny_text_encoder(), Architecture(context_depth=2, tuning=tuning))
    randomise_lora(built.model)
    return built.model


def test_batch_norms_fold_and_lora_merges_in_tiny_vit() -> None:
    model = assembled_vit(tiny_vit_backbone(), Tuning(rank=3))
    image = torch.linspace(0, 60, 3 * 256 * 256).sin().view(1, 3, 256, 256) / 2 + 0.5
    with torch.inference_mode():
        before = model.encode_image(image)
        merge_for_inference(model)
        after = model.encode_image(image)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert 0 < (after - before).abs().max() <= 1e-4
    assert before.std() > 0.5


def test_the_real_litemedsam_merges() -> None:
    backbone = build_litemedsam()
    randomise_vit(backbone.image_encoder)
    model = assembled_vit(backbone, Tuning(rank=16))
    image = torch.linspace(0, 60, 3 * 256 * 256).sin().view(1, 3, 256, 256) / 2 + 0.5
    with torch.inference_mode():
        before = model.encode_image(image)
        merge_for_inference(model)
        after = model.encode_image(image)
    assert 0 < (after - before).abs().max() <= 1e-4
    assert before.std() > 0.5
