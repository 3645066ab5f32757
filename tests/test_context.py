"""Context tokens: where they stand, which layers get fresh ones, and the text feature they give."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from tiny import tiny_model, tiny_text_encoder
from torch import Tensor, nn

from textsam.errors import ConfigError, PromptError
from textsam.model.build import Architecture
from textsam.model.context import ContextTokens
from textsam.model.text_encoders import TextEncoder

B, LAYERS, HIDDEN = 4, 3, 16


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = tiny_text_encoder(LAYERS).eval()
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter.data *= 8  # so that words, positions and attention count
    return made.requires_grad_(False)


def context_of(depth: int) -> ContextTokens:
    with torch.random.fork_rng():
        torch.manual_seed(depth)
        return ContextTokens(B, depth, HIDDEN, LAYERS, std=1.0).requires_grad_(False)


def layer_traffic(
    encoder: TextEncoder, text: str, context: ContextTokens
) -> tuple[list[Tensor], list[Tensor]]:
    """What every BERT layer was given, and what it gave."""
    given: list[Tensor] = []
    gave: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.append(inputs[0].clone())
        gave.append(output.clone())

    hooks = [layer.register_forward_hook(note) for layer in encoder.bert.encoder.layer]
    try:
        encoder([text], context)
    finally:
        for hook in hooks:
            hook.remove()
    return given, gave


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_layers_up_to_the_depth_get_fresh_tokens(encoder: TextEncoder, depth: int) -> None:
    context = context_of(depth)
    given, gave = layer_traffic(encoder, "lung nerve", context)
    assert len(given) == LAYERS
    for number in range(2, LAYERS + 1):
        came, goes_in = gave[number - 2], given[number - 1]
        if number <= depth:
            assert torch.equal(goes_in[0, 1 : 1 + B], context.deep[number - 2])
            assert torch.equal(goes_in[:, :1], came[:, :1])
            assert torch.equal(goes_in[:, 1 + B :], came[:, 1 + B :])
            assert not torch.equal(goes_in, came)
        else:
            assert torch.equal(goes_in, came), f"layer {number} must see what the layer before gave"


def test_layer_one_gets_the_tokens_right_behind_cls(encoder: TextEncoder) -> None:
    context = context_of(1)
    given, _ = layer_traffic(encoder, "lung nerve", context)
    parts = encoder.bert.embeddings
    vocabulary = encoder.tokenizer.get_vocab()
    words = [parts.word_embeddings.weight[vocabulary[w]] for w in ("[CLS]", "lung", "nerve")]
    end = [parts.word_embeddings.weight[vocabulary[w]] for w in (".", "[SEP]")]
    sequence = torch.stack([words[0], *context.tokens, *words[1:], *end])
    positions = parts.position_embeddings.weight[: len(sequence)]
    expected = parts.LayerNorm(sequence + positions + parts.token_type_embeddings.weight[0])
    torch.testing.assert_close(given[0][0], expected, rtol=1e-5, atol=1e-5)


def test_insert_and_replace_by_hand() -> None:
    context = ContextTokens(2, 2, 1, 3)
    context.tokens.data = torch.tensor([[10.0], [11.0]])
    context.deep[0].data = torch.tensor([[20.0], [21.0]])
    words = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
    inserted = context.insert(words)
    assert inserted[..., 0].tolist() == [[1, 10, 11, 2, 3], [4, 10, 11, 5, 6]]
    assert context.replace(inserted, 2)[..., 0].tolist() == [[1, 20, 21, 2, 3], [4, 20, 21, 5, 6]]
    assert torch.equal(context.replace(inserted, 3), inserted)
    assert (context.n_tokens, context.depth) == (2, 2)


@pytest.mark.parametrize(
    ("tokens", "depth", "message"),
    [
        (0, 1, "n_tokens is 0"),
        (-1, 1, "n_tokens is -1"),
        (4, 0, "depth is 0"),
        (4, 4, "depth is 4; this text encoder has 3 layers"),
    ],
)
def test_bad_sizes_are_refused(tokens: int, depth: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ContextTokens(tokens, depth, HIDDEN, LAYERS)


def test_initialisation_is_normal_with_deviation_0_02() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        context = ContextTokens(4, 12, 768, 12)
    for tokens in (context.tokens, *context.deep):
        assert abs(tokens.mean().item()) < 0.002
        assert abs(tokens.std().item() - 0.02) < 0.002
    assert len({tuple(t[0, :3].tolist()) for t in (context.tokens, *context.deep)}) == 12


def reference(
    encoder: TextEncoder, text: str, context: ContextTokens, padding: int = 0, pooling: str = "cls"
) -> Tensor:
    """The text feature by transformers' own forward, on a padded sequence with a mask."""
    tokenizer = encoder.tokenizer
    ids = tokenizer(f"{text}.")["input_ids"]
    padded = torch.tensor([ids + [tokenizer.pad_token_id] * padding])
    words = encoder.bert.get_input_embeddings()(padded)
    embeddings = torch.cat([words[:, :1], context.tokens[None], words[:, 1:]], dim=1)
    length = len(ids) + context.n_tokens
    mask = torch.zeros(1, length + padding, dtype=torch.long)
    mask[:, :length] = 1
    hidden = encoder.bert(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    pooled = hidden[:, 0] if pooling == "cls" else hidden[:, :length].mean(1)
    return encoder.projection(pooled)


@pytest.mark.parametrize("padding", [0, 15])
@pytest.mark.parametrize("text", ["tumor", "cell nucleus", "a b c d"])
def test_shallow_feature_equals_berts_own_forward(
    encoder: TextEncoder, text: str, padding: int
) -> None:
    context = context_of(1)
    ours = encoder([text], context)
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(
        ours, reference(encoder, text, context, padding), rtol=1e-4, atol=1e-5
    )


def test_mean_pooling_averages_real_positions_only(encoder: TextEncoder) -> None:
    mean = TextEncoder(
        encoder.bert,
        encoder.tokenizer,
        encoder.projection,
        pooling="mean",
        out_features=12,
    )
    context = context_of(1)
    ours = mean(["cell nucleus"], context)
    expected = reference(encoder, "cell nucleus", context, padding=9, pooling="mean")
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert (ours - encoder(["cell nucleus"], context)).abs().max() > 0.1


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_prompts_of_any_length_in_one_call_equal_one_by_one(
    encoder: TextEncoder, depth: int, pooling: Literal["cls", "mean"]
) -> None:
    encoder = TextEncoder(
        encoder.bert, encoder.tokenizer, encoder.projection, pooling=pooling, out_features=12
    )
    context = context_of(depth).requires_grad_(True)
    prompts = ["tumor", "cell nucleus", "lung", "a b c d e f", "cell membrane"]
    together = encoder(prompts, context)
    one_by_one = torch.cat([encoder([prompt], context) for prompt in prompts])
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(together)
    for mine, alone in zip(
        torch.autograd.grad(together, [*context.parameters()], direction),
        torch.autograd.grad(one_by_one, [*context.parameters()], direction),
        strict=True,
    ):
        assert alone.abs().max() > 0
        torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-5)
    distances = torch.cdist(together, together) + torch.eye(len(prompts))
    assert distances.min() > 0.01, "different words must have different features"


def test_a_full_stop_is_added_once(encoder: TextEncoder) -> None:
    vocabulary = encoder.tokenizer.get_vocab()
    ids = [vocabulary[piece] for piece in ("[CLS]", "tumor", ".", "[SEP]")]
    for text in ("tumor", "tumor.", " Tumor "):
        assert encoder.token_ids(text) == ids


def test_the_longest_prompt_fits_and_one_more_token_is_refused(encoder: TextEncoder) -> None:
    context = context_of(2)
    room = encoder.max_tokens - B - len(("[CLS]", ".", "[SEP]"))
    assert encoder([" ".join("a" * room)], context).isfinite().all()
    too_long = " ".join("a" * (room + 1))
    with pytest.raises(PromptError, match=f"has {room + 4} tokens.*at most {room + 3} fit"):
        encoder(["tumor", too_long], context)


def test_context_tokens_leave_room_for_a_word() -> None:
    # Of 32 tokens, with [CLS], full stop and [SEP].
    built = tiny_model(Architecture(context_tokens=28, context_depth=1))
    assert built.model.encode_text(["tumor"]).shape == (1, 256)
    with pytest.raises(ConfigError, match=r"n_tokens is 29; .* takes 32 tokens, .* at most 28"):
        tiny_model(Architecture(context_tokens=29, context_depth=1))
