"""Every rearrangement for speed against the plain modules it stands for."""

from __future__ import annotations

import itertools
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import phantoms
import pytest
import torch
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import Attention
from tiny import loud_model, tiny_model, tiny_vit_backbone
from torch import Tensor, nn

import textsam
from textsam.model import chunked_mlp, cpu_tinyvit, relpos_attention
from textsam.model.backbones import build_sam
from textsam.model.chunked_mlp import ChunkedMlp
from textsam.model.cpu_decoder import CpuMaskDecoder
from textsam.model.cpu_tinyvit import CpuTinyViT
from textsam.model.decode import decode_masks, per_token
from textsam.model.relpos_attention import (
    RelativePositionAttention,
    attend_by_chunks,
    attend_fused,
)
from textsam.model.tinyvit import fused_attention
from textsam.model.tuning import fold_batch_norms, merge_for_inference


def same_gradients(
    got: Tensor,
    wanted: Tensor,
    learns: Sequence[Tensor],
    *,
    rtol: float,
    atol: float,
    matters: float = 0.0,
) -> None:
    """Both outputs teach what learns the same; every part of it matters by more than that."""
    direction = torch.randn_like(wanted)
    for mine, theirs in zip(
        torch.autograd.grad(got, learns, direction),
        torch.autograd.grad(wanted, learns, direction),
        strict=True,
    ):
        assert theirs.abs().max() > matters
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)


# --- SAM's attention ----------------------------------------------------------------------------


def attention(height: int, width: int, dtype: torch.dtype = torch.float64) -> Attention:
    torch.manual_seed(height * 100 + width)
    plain = Attention(24, 2, use_rel_pos=True, input_size=(height, width)).to(dtype)
    for table in (plain.rel_pos_h, plain.rel_pos_w):
        nn.init.normal_(table)
    return plain


@pytest.mark.parametrize(("height", "width"), [(5, 7), (6, 6), (2, 3)])
@pytest.mark.parametrize("budget", [1, 300, 1 << 21])
def test_attention_is_sams_with_its_gradients(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, budget: int
) -> None:
    monkeypatch.setattr(relpos_attention, "_CHUNK_SCORES", budget)
    plain = attention(height, width)
    ours = RelativePositionAttention(plain)
    assert {name for name, _ in ours.named_parameters()} == {
        name for name, _ in plain.named_parameters()
    }
    x = torch.randn(3, height, width, 24, dtype=torch.float64, requires_grad=True)
    wanted, got = plain(x), ours(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    same_gradients(got, wanted, [x, *plain.parameters()], rtol=0, atol=1e-11, matters=1e-3)


@pytest.mark.parametrize("tokens", [1, 70, 1000])
def test_windows_may_be_taken_in_groups(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(relpos_attention, "_CHUNK_TOKENS", tokens)
    plain = attention(5, 7)
    x = torch.randn(4, 5, 7, 24, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(
            RelativePositionAttention(plain)(x), plain(x), rtol=0, atol=1e-12
        )


def parts(batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    tokens = height * width
    shapes = [(batch, tokens, 8)] * 3 + [
        (batch, height, width, height),
        (batch, height, width, width),
    ]
    return tuple(torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


def test_the_fused_form_for_gpus_computes_the_same() -> None:
    inputs = parts(4, 3, 5)
    wanted, got = attend_by_chunks(*inputs), attend_fused(*inputs)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    same_gradients(got, wanted, inputs, rtol=0, atol=1e-11)


def test_attention_under_autocast_is_bfloat16_near_float32() -> None:
    plain = attention(6, 6, torch.float32)
    ours = RelativePositionAttention(plain)
    x = torch.randn(2, 6, 6, 24, requires_grad=True)
    exact = ours(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough, sams = ours(x), plain(x)
    assert rough.dtype == torch.bfloat16
    error = (rough.float() - exact).abs().mean()
    assert 0 < error <= 1.5 * (sams.float() - exact).abs().mean()
    (gradient,) = torch.autograd.grad(rough.float().square().sum(), x)
    (wanted,) = torch.autograd.grad(exact.square().sum(), x)
    assert (
        torch.nn.functional.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0) > 0.999
    )


def test_scores_are_not_kept_for_the_gradient() -> None:
    ours = RelativePositionAttention(attention(16, 16, torch.float32))
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        ours(torch.randn(1, 16, 16, 24, requires_grad=True))
    assert kept
    assert max(kept) < 2 * 256 * 256  # one tensor of the scores of two heads


@pytest.mark.parametrize("tokens", [1, 7, 1024])
def test_the_perceptron_is_sams(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(chunked_mlp, "_CHUNK_TOKENS", tokens)
    torch.manual_seed(0)
    plain = MLPBlock(6, 10).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    wanted = plain(x)
    torch.testing.assert_close(ChunkedMlp(plain)(x), wanted)  # as in training
    with torch.inference_mode():
        torch.testing.assert_close(ChunkedMlp(plain)(x), wanted)


def test_sam_is_built_with_both() -> None:
    with torch.device("meta"):
        encoder = build_sam("vit_b").image_encoder
    assert all(type(b.attn) is RelativePositionAttention for b in encoder.blocks)
    assert all(type(b.mlp) is ChunkedMlp for b in encoder.blocks)


# --- TinyViT ------------------------------------------------------------------------------------


def tiny_vit() -> nn.Module:
    encoder = tiny_vit_backbone().image_encoder.eval()
    fold_batch_norms(encoder)
    return encoder


@pytest.mark.parametrize(("rows", "tokens"), [(32, 1024), (8, 100), (256, 1 << 20)])
def test_tinyvit_in_strips_is_tinyvit(
    monkeypatch: pytest.MonkeyPatch, rows: int, tokens: int
) -> None:
    monkeypatch.setattr(cpu_tinyvit, "_STEM_ROWS", rows)
    monkeypatch.setattr(cpu_tinyvit, "_MLP_TOKENS", tokens)
    torch.manual_seed(10)  # of some weights the output hardly depends on the image
    encoder = tiny_vit()
    images = 200 * torch.randn(2, 3, 256, 256)  # loud enough to be heard through random weights
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with torch.inference_mode():
        wanted = encoder(images)
        given = images.clone()
        got = CpuTinyViT(encoder, torch.float32)(given)
    assert got.shape == (2, 256, 64, 64)
    assert (got - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    assert (got[0] - got[1]).abs().max() > 0.01 * wanted.abs().max()
    assert torch.equal(given, images)  # it works in place, but not on what it is given
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_tinyvit_in_bfloat16_is_as_near_as_autocast() -> None:
    encoder = tiny_vit()
    images = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        exact = encoder(images)
        ours = CpuTinyViT(encoder, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            rough = encoder(images)
            got = ours(images)
    assert got.dtype == torch.bfloat16
    errors = [(answer.float() - exact).std().item() for answer in (got, rough)]
    assert 0 < errors[0] < 1.3 * errors[1]


def test_tinyvit_with_batch_norms_is_refused() -> None:
    with pytest.raises(TypeError, match="fold batch norms first"):
        CpuTinyViT(tiny_vit_backbone().image_encoder.eval(), torch.float32)


@pytest.mark.slow
def test_the_real_encoder_in_strips_gives_the_same_masks() -> None:
    import numpy as np
    from skimage import data

    picture = data.immunohistochemistry()
    fast = textsam.load_model(device="cpu", precision="float32")
    half = textsam.load_model(device="cpu", precision="bfloat16")
    assert type(fast.built.model.image_encoder) is CpuTinyViT
    assert type(fast.built.model.fast_decoder) is CpuMaskDecoder
    plain = textsam.load_model(device="cpu", precision="float32", plain=True)
    prepared = plain.prepare(picture)
    with torch.inference_mode():
        wanted, got, rough = (
            one.built.model.encode_image(prepared.pixels[None]) for one in (plain, fast, half)
        )
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    assert (rough.float() - wanted).std() <= 0.03 * wanted.std()
    # Masks are compared where the adapter knows what it sees: elsewhere rounding decides much.
    known = ((phantoms.breast_ultrasound()[0], "tumor"), (phantoms.chest_x_ray()[0], "lung"))
    for (drawn, word), passes in itertools.product(known, (0, 2)):
        whole, same, rounded = (
            one.segment(drawn, word, refine=passes).probability > 0.5 for one in (plain, fast, half)
        )
        assert np.any(whole)
        assert (whole & same).sum() >= 0.999 * (whole | same).sum()
        assert (whole & rounded).sum() >= 0.95 * (whole | rounded).sum()


@pytest.mark.parametrize("learning", [True, False])
def test_the_fused_attention_of_tinyvit_is_the_packages_with_its_gradients(learning: bool) -> None:
    encoder = tiny_vit()
    kinds = {type(module).__name__ for module in encoder.modules()}
    assert "FusedAttention" in kinds
    assert "Attention" not in kinds
    ours: Any = next(m for m in encoder.modules() if type(m).__name__ == "FusedAttention")
    ours.double()
    nn.init.normal_(ours.attention_biases, std=2.0)
    ours.train(learning)
    x = torch.randn(3, len(ours.attention_bias_idxs), ours.norm.normalized_shape[0])
    x = x.double().requires_grad_(True)
    wanted = ours(x)  # on a CPU the package's own
    got = fused_attention(ours, x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert wanted.std() > 0.01
    same_gradients(got, wanted, [x, *ours.parameters()] if learning else [x], rtol=1e-9, atol=1e-10)


# --- decoder ------------------------------------------------------------------------------------


def test_one_mask_of_the_decoder_is_sams_first() -> None:
    model = loud_model().model
    decoder = model.mask_decoder
    torch.manual_seed(3)
    embeddings = torch.randn(3, 256, 8, 8)
    sparse, dense = torch.randn(3, 4, 256), torch.randn(1, 256, 8, 8)
    pe = model.prompt_encoder.get_dense_pe()
    with torch.inference_mode():
        for count in (1, 3):
            one = embeddings[:1]
            wanted = decoder(
                image_embeddings=one,
                image_pe=pe,
                sparse_prompt_embeddings=sparse[:count],
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            got = decode_masks(decoder, one, pe, sparse[:count], dense)
            for mine, sams in zip(got, wanted, strict=True):
                torch.testing.assert_close(mine, sams, rtol=1e-4, atol=1e-4)
        each = decode_masks(decoder, embeddings, pe, sparse, dense)
        for i in range(3):
            alone = decode_masks(decoder, embeddings[i : i + 1], pe, sparse[i : i + 1], dense)
            torch.testing.assert_close(each[0][i : i + 1], alone[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(each[1][i : i + 1], alone[1], rtol=1e-4, atol=1e-4)
    assert (each[0][0] - each[0][1]).abs().max() > 0.01


def test_the_one_mask_teaches_the_decoder_what_sams_would() -> None:
    model = loud_model().model
    pe = model.prompt_encoder.get_dense_pe().double()[..., :6, :6]
    decoder = model.mask_decoder.double()
    for module in decoder.output_upscaling:
        if "Norm" in type(module).__name__:
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    embedding = torch.randn(1, 256, 6, 6, dtype=torch.float64, requires_grad=True)
    sparse = torch.randn(2, 3, 256, dtype=torch.float64)
    dense = torch.randn(1, 256, 6, 6, dtype=torch.float64)
    wanted, _ = decoder(
        image_embeddings=embedding,
        image_pe=pe,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    got, _ = decode_masks(decoder, embedding, pe, sparse, dense)
    same_gradients(
        got, wanted, [embedding, *decoder.output_upscaling.parameters()], rtol=1e-9, atol=1e-10
    )


def test_kernels_that_overlap_are_no_product_per_token() -> None:
    with pytest.raises(TypeError, match="kernels and strides of 2"):
        per_token(nn.ConvTranspose2d(4, 4, 3, 2))


@pytest.mark.parametrize("tokens", [1, 4, 9])
def test_the_decoder_for_a_cpu_is_sams(tokens: int) -> None:
    built = loud_model()
    merge_for_inference(built.model)
    model = built.model
    # Norms at one and zero would hide a mistake in their use.
    torch.manual_seed(4)
    for module in model.mask_decoder.modules():
        if "Norm" in type(module).__name__:
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    pe = model.prompt_encoder.get_dense_pe()
    ours = CpuMaskDecoder(model.mask_decoder, pe)
    before = {name: tensor.clone() for name, tensor in model.mask_decoder.state_dict().items()}
    embedding, dense = torch.randn(1, 256, 8, 8), torch.randn(1, 256, 8, 8)
    sparse = torch.randn(1, tokens, 256)
    with torch.inference_mode():
        wanted = model.mask_decoder(
            image_embeddings=embedding,
            image_pe=pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        got = ours(embedding, sparse, dense)
    for mine, sams in zip(got, wanted, strict=True):
        assert mine.shape == sams.shape
        torch.testing.assert_close(mine, sams, rtol=1e-4, atol=1e-4)
        assert sams.abs().max() > 0.05
    after = model.mask_decoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_decoder_for_a_cpu_is_asked_one_by_one_only() -> None:
    built = loud_model()
    merge_for_inference(built.model)
    model = built.model
    embedding, text = torch.randn(1, 256, 8, 8), torch.randn(2, 256)
    with torch.inference_mode():
        plain = [model(embedding, text[:1]), model(embedding, text)]
        model.fast_decoder = CpuMaskDecoder(model.mask_decoder, model.prompt_encoder.get_dense_pe())
        calls: list[int] = []
        model.fast_decoder.register_forward_hook(lambda *_: calls.append(1))
        fast = [model(embedding, text[:1]), model(embedding, text)]
    assert calls == [1]
    for mine, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(mine[0], other[0], rtol=1e-4, atol=1e-4)


def test_the_decoder_still_learns_through_the_one_mask() -> None:
    model = tiny_model().model
    embedding = torch.randn(1, 256, 8, 8, requires_grad=True)
    logits, iou = model(embedding, model.encode_text(["tumor", "lung"]))
    (logits.square().mean() + iou.square().mean()).backward()
    assert embedding.grad is not None
    assert embedding.grad.abs().max() > 0
    for part in ("output_hypernetworks_mlps.0", "iou_prediction_head", "output_upscaling"):
        first = next(model.mask_decoder.get_submodule(part).parameters())
        assert first.grad is not None
        assert first.grad.abs().max() > 0


# --- memory -------------------------------------------------------------------------------------

_KEEPS = """
import ctypes, resource
from textsam.allocator import keep_freed_memory
changed = keep_freed_memory()
import numpy
numpy.ones(30_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    numpy.ones(30_000_000)
print(changed, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.libc_ver()[0] != "glibc", reason="needs glibc"
)
def test_kept_memory_is_not_faulted_in_again() -> None:
    root = Path(textsam.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", _KEEPS], cwd=root, capture_output=True, text=True, check=True
    )
    changed, faults = done.stdout.split()
    assert changed == "True"
    assert int(faults) < 5000  # 20 arrays of 240 MB are 1.2 million pages of 4 KB
