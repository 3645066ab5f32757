"""Learned prompt tokens, SAM's own embeddings, the whole decoder, and models without words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import begin, learned, run_config, same, train, write_data
from test_refine import EMBEDDING
from tiny import LOUD, loud_model, tiny_config, tiny_model
from torch import Tensor

from textsam.adapters import ArchitectureRecord, read_adapter_config
from textsam.checkpoint import architecture_of, load_adapter, record_of, save_adapter
from textsam.errors import AdapterError, ConfigError, PromptError
from textsam.export.graphs import DecoderGraph
from textsam.inference.segmenter import Segmenter
from textsam.model.build import Architecture, BuiltModel
from textsam.model.learned_tokens import LearnedTokens
from textsam.model.tuning import Tuning, merge_for_inference, trainable_parameters, trainable_state

WORDS = torch.linspace(-2, 2, 2 * 256).view(2, 256)
POINTS = (torch.tensor([[[10.0, 12.0]], [[40.0, 50.0]]]), torch.ones(2, 1))
BOXES = torch.tensor([[2.0, 3, 30, 40], [10, 12, 50, 60]])
WITH_TOKENS = Architecture(context_depth=3, tuning=Tuning(rank=2), prompt_tokens=3)


@pytest.mark.parametrize(
    "asked",
    [
        {"text_tokens": WORDS},
        {"text_tokens": None, "boxes": BOXES},
        {"text_tokens": WORDS, "boxes": BOXES},
        {"text_tokens": WORDS, "points": POINTS, "boxes": BOXES},
    ],
)
def test_learned_tokens_come_after_all_others_in_every_kind_of_prompt(
    asked: dict[str, Any],
) -> None:
    plain, more = tiny_model().model, tiny_model(WITH_TOKENS).model
    own = more.learned_tokens
    assert own is not None
    with torch.no_grad():
        before, dense = plain.prompt_tokens(**asked)
        sparse, same_dense = more.prompt_tokens(**asked)
        by_hand = own.embedding @ own.lift.weight.t() + own.lift.bias
    assert torch.equal(sparse[:, :-3], before), "the rest begins as it would without them"
    assert torch.equal(dense, same_dense)
    for row in sparse:
        torch.testing.assert_close(row[-3:], by_hand)


def test_a_mask_is_sams_dense_prompt_with_or_without_a_word() -> None:
    model = tiny_model().model
    side = 4 * EMBEDDING.shape[-1]
    masks = torch.linspace(-3, 3, side * side).view(1, 1, side, side)
    with torch.no_grad():
        _, expected = model.prompt_encoder(points=None, boxes=None, masks=masks)
        worded, dense = model.prompt_tokens(WORDS[:1], masks=masks)
        alone, same_dense = model.prompt_tokens(None, masks=masks)
        _, without = model.prompt_tokens(WORDS[:1])
    assert torch.equal(worded, WORDS[:1, None])
    assert alone.shape == (1, 0, 256)
    assert torch.equal(dense, expected)
    assert torch.equal(same_dense, expected)
    assert not torch.equal(dense, without.expand_as(dense))


def test_tokens_are_learned_in_few_dimensions() -> None:
    own = LearnedTokens(5, 128)
    assert {n: tuple(p.shape) for n, p in own.named_parameters()} == {
        "embedding": (5, 128),
        "lift.weight": (256, 128),
        "lift.bias": (256,),
    }
    assert own().shape == (5, 256)
    with pytest.raises(ConfigError, match=r"tokens\.count is 0"):
        LearnedTokens(0)


def test_what_learns_is_what_the_settings_say() -> None:
    def names(**tuning: Any) -> set[str]:
        text = tuning.pop("takes_text", True)
        tokens = tuning.pop("prompt_tokens", 0)
        shape = Architecture(
            context_depth=3,
            tuning=Tuning(encoder="frozen", **tuning),
            takes_text=text,
            prompt_tokens=tokens,
        )
        return set(trainable_parameters(tiny_model(shape).model))

    heads = names(decoder="heads")
    full = names(decoder="full")
    everything = {
        f"mask_decoder.{n}" for n, _ in tiny_model().model.mask_decoder.named_parameters()
    }
    whole = {n for n in everything if ".lora_" not in n and ".base_layer" not in n}
    assert {n for n in full if n.startswith("mask_decoder.transformer.")}
    assert {n for n in full if n.startswith("mask_decoder.")} >= whole
    assert full - heads == {n for n in full if n.startswith("mask_decoder.transformer.")}
    assert names(decoder="heads", prompt_embeddings=True) - heads == {
        "prompt_encoder.not_a_point_embed.weight",
        *(f"prompt_encoder.point_embeddings.{i}.weight" for i in range(4)),
    }
    assert names(decoder="heads", prompt_tokens=2) - heads == {
        "learned_tokens.embedding",
        "learned_tokens.lift.weight",
        "learned_tokens.lift.bias",
    }
    silent = names(decoder="heads", takes_text=False)
    assert heads - silent == {n for n in heads if n.startswith(("context.", "adapter."))}


def test_records_of_before_are_still_what_they_were() -> None:
    assert architecture_of(ArchitectureRecord()) == Architecture()
    every = Architecture(
        tuning=Tuning(decoder="full", prompt_embeddings=True),
        prompt_tokens=4,
        prompt_token_width=32,
        takes_text=False,
    )
    assert architecture_of(record_of(every)) == every


def test_without_the_tokens_the_rest_would_begin_as_it_does() -> None:
    states = []
    for count in (0, 3):
        torch.manual_seed(4)
        shape = Architecture(context_depth=3, tuning=Tuning(rank=4), prompt_tokens=count)
        states.append(tiny_model(shape, seed=4).model.state_dict())
    bare, with_tokens = states
    assert any(".lora_" in name for name in bare), "which are drawn as well"
    assert all(torch.equal(with_tokens[name], tensor) for name, tensor in bare.items())


def loud_with_tokens(seed: int = 7) -> BuiltModel:
    return loud_model(
        Architecture(context_depth=3, token_scale=16.0, tuning=Tuning(rank=4), prompt_tokens=3),
        seed,
    )


def test_an_adapter_keeps_its_tokens_and_fits_no_model_without(tmp_path: Path) -> None:
    built = loud_with_tokens()
    shape = Architecture(context_depth=3, token_scale=16.0, tuning=Tuning(rank=4), prompt_tokens=3)
    save_adapter(tmp_path, tiny_config(shape), trainable_state(built.model))
    other = loud_with_tokens(seed=8)
    config = load_adapter(tmp_path, other)
    assert architecture_of(config.architecture) == shape
    assert built.model.learned_tokens is not None
    assert other.model.learned_tokens is not None
    assert torch.equal(other.model.learned_tokens(), built.model.learned_tokens())
    with pytest.raises(AdapterError, match=r"unknown: learned_tokens\.embedding"):
        load_adapter(tmp_path, loud_model(LOUD))


@pytest.mark.parametrize("boxes", [None, BOXES[:1]])
def test_an_exported_decoder_has_the_tokens(boxes: Tensor | None) -> None:
    model = loud_with_tokens().model
    merge_for_inference(model)
    graph = DecoderGraph(model, 64).eval()
    with torch.inference_mode():
        sparse, dense = model.prompt_tokens(WORDS[:1], None, boxes)
        logits, iou = model.decode(EMBEDDING, sparse, dense)
        points = torch.zeros(1, 0, 2) if boxes is None else boxes.reshape(1, 2, 2)
        labels = torch.zeros(1, 0, dtype=torch.int64) if boxes is None else torch.tensor([[2, 3]])
        found = graph(EMBEDDING, WORDS[:1], points, labels)
        without, _ = model.decode(EMBEDDING, sparse[:, :-3], dense)
    torch.testing.assert_close(found[0], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], iou, rtol=1e-4, atol=1e-4)
    assert (logits - without).abs().max() > 1e-2, "the tokens say something"


def test_a_model_without_words_is_asked_by_geometry_or_by_nothing() -> None:
    model = tiny_model(Architecture(context_depth=3, takes_text=False)).model
    with torch.no_grad():
        sparse, dense = model.prompt_tokens(None, count=2)
        assert sparse.shape == (2, 0, 256)
        # SAM's own decoding without a prompt.
        expected, _ = model.mask_decoder(
            image_embeddings=EMBEDDING,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.zeros(1, 0, 256),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        logits, _ = model.decode(EMBEDDING, sparse, dense)
    torch.testing.assert_close(logits, expected.expand(2, -1, -1, -1), rtol=1e-4, atol=1e-4)
    with pytest.raises(PromptError, match="trained without words"):
        model.prompt_tokens(WORDS)


def test_a_segmenter_without_words_ignores_them() -> None:
    shape = Architecture(context_depth=3, token_scale=16.0, tuning=Tuning(rank=4), takes_text=False)
    built = loud_model(shape)
    merge_for_inference(built.model)
    segmenter = Segmenter(built, tiny_config(shape), device=torch.device("cpu"))
    image = (np.arange(3 * 40 * 50) * 7919 % 251).astype(np.uint8).reshape(40, 50, 3)
    one, other = (segmenter.segment(image, word, refine=0) for word in ("tumor", "lung"))
    assert np.array_equal(one.probability, other.probability)
    by_box = segmenter.segment(image, None, boxes=(5, 5, 30, 30))
    with_word = segmenter.segment(image, "tumor", boxes=(5, 5, 30, 30), refine=0)
    assert np.array_equal(by_box.probability, with_word.probability)


BOX_RUN: dict[str, Any] = {
    "text": False,
    "tokens": {"count": 2, "width": 16},
    "tuning": {"rank": 2, "encoder": "frozen", "decoder": "full", "prompt_embeddings": True},
    "prompts": {"negatives": 0},
    "geometry": {
        "probability": 1.0,
        "jitter": 0.0,
        "kinds": {"box": 1.0},
        "shifts": [{"by": 0.0, "p": 0.6}, {"by": 0.1, "p": 0.2}, {"by": 0.2, "p": 0.2}],
        "in_validation": True,
    },
    "refine": 0,
    "refine_with": "box",
}


def test_a_run_on_boxes_learns_what_boxes_need_and_resumes_exactly(tmp_path: Path) -> None:
    root = write_data(tmp_path)
    config = run_config(root, **BOX_RUN)
    before = learned(begin(config.model_copy(update={"name": "fresh"})))
    whole = train(config)
    after = learned(whole)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert "learned_tokens.embedding" in moved
    assert "prompt_encoder.point_embeddings.2.weight" in moved, "a box's first corner"
    # No point was ever shown.
    assert "prompt_encoder.point_embeddings.1.weight" not in moved
    assert not any(name.startswith(("context.", "adapter.")) for name in after)
    record = read_adapter_config(whole.folder / "best")
    assert (record.refine, record.refine_with.value) == (0, "box")
    other = run_config(root, **{**BOX_RUN, "out": str(root / "other")})
    train(other, stop_after=4)
    assert same(learned(train(other)), after)
