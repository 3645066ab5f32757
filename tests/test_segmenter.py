"""What a user gets from `Segmenter.segment`: answers, lists, the cache, prompts and scores."""

from __future__ import annotations

import math
import multiprocessing
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import loud_model, tiny_segmenter
from torch import Tensor

from textsam.errors import PromptError
from textsam.inference import forked
from textsam.inference.refine import decode_passes
from textsam.inference.segmenter import CorrectedPromptWarning, Segmenter, UnknownPromptWarning
from textsam.io.image import Image
from textsam.model.tuning import merge_for_inference
from textsam.result import Segmentation

WORDS = ["tumor", "lung", "cell nucleus"]


def picture(seed: int = 0, size: tuple[int, int] = (40, 56)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def same(a: Segmentation, b: Segmentation) -> bool:
    """Bit for bit."""
    return (
        np.array_equal(a.mask, b.mask)
        and np.array_equal(a.probability, b.probability)
        and a.score == b.score
        and a.found == b.found
    )


def count_encodings(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every image encoded."""
    encode, calls = segmenter.built.model.encode_image, []

    def counted(images: Tensor) -> Tensor:
        calls.append(len(images))
        return encode(images)

    monkeypatch.setattr(segmenter.built.model, "encode_image", counted)
    return calls


def answer_with(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, logit: float, iou: float = 0.9
) -> None:
    """Make the decoder say the same of every pixel."""

    def decode(embedding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(sparse), 1, 16, 16), logit), torch.full((len(sparse), 1), iou)

    monkeypatch.setattr(segmenter.built.model, "decode", decode)


def test_a_word_in_gives_one_answer_and_a_list_gives_a_list_in_order() -> None:
    segmenter, image = tiny_segmenter(), picture()
    one = segmenter.segment(image, "tumor")
    assert isinstance(one, Segmentation)
    assert (one.prompt, one.adapter, one.model) == ("tumor", "tiny", "lite")
    several = segmenter.segment(image, WORDS)
    assert [s.prompt for s in several] == WORDS
    assert isinstance(segmenter.segment(image, ("tumor",)), list)
    assert [s.prompt for s in segmenter.segment(image, np.array(WORDS))] == WORDS
    assert same(segmenter.segment(image, ["tumor"])[0], one)
    masks = [s.probability for s in several]
    assert not np.allclose(masks[0], masks[1], atol=1e-3), "the word must matter"


@pytest.mark.parametrize(("refine", "score"), [(0, "mask_probability"), (2, "iou_head")])
def test_a_list_equals_one_by_one_bit_for_bit(refine: int, score: str) -> None:
    image = picture()
    together = tiny_segmenter(score=score).segment(image, [*WORDS, "tumor"], refine=refine)
    for word, answer in zip([*WORDS, "tumor"], together, strict=True):
        alone = tiny_segmenter(score=score).segment(image, word, refine=refine)
        assert same(alone, answer), word
    if score == "mask_probability":  # an untrained IoU head may say 0 to every word
        assert len({answer.score for answer in together}) == len(WORDS)


def test_the_same_input_twice_is_the_same_bit_for_bit() -> None:
    segmenter, image = tiny_segmenter(), picture()
    first = segmenter.segment(image, "lung", refine=2)
    segmenter.segment(picture(1), WORDS)
    assert same(segmenter.segment(image.copy(), "lung", refine=2), first)
    assert same(tiny_segmenter().segment(image, "lung", refine=2), first)


def test_the_answer_is_the_models_own() -> None:
    """Preprocess, encode, decode and resize by hand."""
    image = picture(size=(48, 30))
    built = loud_model()
    merge_for_inference(built.model)
    with torch.inference_mode():
        pixels, frame = built.preprocessor(image)
        embedding = built.model.encode_image(pixels[None])
        tokens = built.model.encode_text(["lung"])
        result = decode_passes(built.model, embedding, tokens, frame, refine=[1])[-1]
        probability = frame.logits_to_image(result.logits)[0, 0].sigmoid().numpy()
    answer = tiny_segmenter(refine=1, score="iou_head").segment(image, "lung")
    np.testing.assert_allclose(answer.probability, probability, rtol=0, atol=1e-5)
    assert np.array_equal(answer.mask, probability > 0.5)
    assert answer.score == pytest.approx(min(max(result.iou.item(), 0.0), 1.0), abs=1e-5)
    averaged = tiny_segmenter(refine=1, score="mask_probability").segment(image, "lung")
    assert averaged.score == pytest.approx(probability[probability > 0.5].mean(), abs=1e-5)


@pytest.mark.parametrize(("iou", "score"), [(0.8, 0.8), (1.7, 1.0), (-0.4, 0.0)])
def test_the_score_of_the_iou_head_is_clamped(
    monkeypatch: pytest.MonkeyPatch, iou: float, score: float
) -> None:
    segmenter = tiny_segmenter(score="iou_head")
    answer_with(segmenter, monkeypatch, logit=2.0, iou=iou)
    answer = segmenter.segment(picture(), "tumor")
    assert answer.score == pytest.approx(score)
    assert answer.mask.all()


@pytest.mark.parametrize("size", [(40, 56), (56, 40), (8, 200), (64, 64), (131, 70)])
def test_probability_has_the_images_size_and_the_mask_is_its_upper_half(
    size: tuple[int, int],
) -> None:
    answer = tiny_segmenter().segment(picture(3, size), "tumor")
    assert answer.probability.shape == answer.mask.shape == size
    assert answer.probability.dtype == np.float32
    assert answer.mask.dtype == np.bool_
    assert 0 <= answer.probability.min() < answer.probability.max() <= 1
    assert np.array_equal(answer.mask, answer.probability > 0.5)


def test_mask_threshold_is_a_probability() -> None:
    image = picture()
    masks = {}
    for threshold in (0.3, 0.5, 0.7):
        answer = tiny_segmenter(mask_threshold=threshold).segment(image, "tumor", refine=0)
        clear = np.abs(answer.probability - threshold) > 1e-6
        assert np.array_equal(answer.mask[clear], (answer.probability > threshold)[clear])
        masks[threshold] = answer.mask
    assert masks[0.7].sum() < masks[0.5].sum() < masks[0.3].sum()


def test_an_image_is_encoded_once_for_all_prompts_and_repeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter, image = tiny_segmenter(), picture()
    calls = count_encodings(segmenter, monkeypatch)
    segmenter.segment(image, WORDS, refine=2)
    assert calls == [1]
    segmenter.segment(image, "tumor")
    segmenter.segment(image.copy(), ["lung", "tumor"])
    assert calls == [1]
    segmenter.segment(picture(1), "tumor")
    assert calls == [1, 1]


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: Image(a, "array")])
def test_an_array_changed_in_place_is_another_image(
    wrap: Callable[[NDArray[np.uint8]], Any],
) -> None:
    segmenter, pixels = tiny_segmenter(), picture()
    image = wrap(pixels)
    before = segmenter.segment(image, "tumor")
    pixels[5:30, 5:30] = 255 - pixels[5:30, 5:30]
    after = segmenter.segment(image, "tumor")
    assert same(after, tiny_segmenter().segment(pixels.copy(), "tumor"))
    assert not np.array_equal(before.probability, after.probability)


def test_the_same_bytes_in_another_shape_are_another_image() -> None:
    segmenter, pixels = tiny_segmenter(), picture()
    segmenter.segment(pixels, "tumor")
    turned = np.ascontiguousarray(pixels).reshape(56, 40, 3)
    assert same(segmenter.segment(turned, "tumor"), tiny_segmenter().segment(turned, "tumor"))


def test_few_embeddings_are_kept_and_forgotten_ones_are_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter = tiny_segmenter()
    calls = count_encodings(segmenter, monkeypatch)
    first = segmenter.segment(picture(0), "tumor")
    for seed in range(1, 12):
        segmenter.segment(picture(seed), "tumor")
    assert len(calls) == 12
    assert same(segmenter.segment(picture(0), "tumor"), first)
    assert len(calls) == 13
    assert len(segmenter._sides.encodings.embeddings) <= 4


@pytest.mark.parametrize(
    ("asked", "concept"),
    [
        ("Tumour", "tumor"),
        ("the TUMORS", "tumor"),
        ("a neoplasm", "tumor"),
        ("breast mass.", "tumor"),
        ("lungs", "lung"),
        ("Lung field", "lung"),
        ("nuclei", "cell nucleus"),
        ("lesion", "tumor"),  # of the two that it can mean the one that is known
    ],
)
def test_synonyms_and_spellings_get_the_concepts_answer(asked: str, concept: str) -> None:
    segmenter, image = tiny_segmenter(), picture()
    answer = segmenter.segment(image, asked, strict=True)  # and no warning, which would raise
    assert same(answer, segmenter.segment(image, concept))
    assert answer.prompt == asked
    assert answer.extra["concept"] == concept


def test_an_unknown_prompt_warns_at_the_callers_line_and_answers() -> None:
    segmenter, image = tiny_segmenter(), picture()
    with pytest.warns(UnknownPromptWarning, match="'left lung'.*did you mean lung.*tumor") as seen:
        answer = segmenter.segment(image, "left lung")
    assert seen[0].filename == __file__
    assert seen[0].category is UnknownPromptWarning
    assert answer.prompt == "left lung"
    assert answer.extra["concept"] is None
    assert not np.array_equal(answer.probability, segmenter.segment(image, "lung").probability)
    with pytest.warns(UnknownPromptWarning) as seen:
        answers = segmenter.segment(image, ["tumor", "dog", "a car"])
    assert [str(w.message).split("prompt ")[1].split(";")[0] for w in seen] == ["'dog'", "'a car'"]
    assert same(answers[0], segmenter.segment(image, "tumor"))
    with pytest.warns(UnknownPromptWarning):
        assert same(segmenter.segment(image, "the DOG!"), answers[1])
    with pytest.warns(UnknownPromptWarning, match="'nerve'"):  # which other adapters know
        assert segmenter.segment(image, "nerve").extra["concept"] is None


def test_a_misspelt_prompt_gets_the_concepts_answer_and_a_warning() -> None:
    segmenter, image = tiny_segmenter(refine=0, refine_for={"tumor": 2}), picture()
    with pytest.warns(CorrectedPromptWarning, match="'tumro'; it is answered as 'tumor'") as seen:
        answer = segmenter.segment(image, "tumro")
    assert [w.filename for w in seen] == [__file__]
    assert issubclass(CorrectedPromptWarning, UnknownPromptWarning)
    assert same(answer, segmenter.segment(image, "tumor"))
    assert (answer.prompt, answer.extra["concept"], answer.extra["refine"]) == ("tumro", "tumor", 2)
    with pytest.raises(PromptError, match=r"'tumro'; did you mean tumor\? It knows"):
        segmenter.segment(image, "tumro", strict=True)


def test_strict_raises_for_an_unknown_prompt_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter = tiny_segmenter()
    calls = count_encodings(segmenter, monkeypatch)
    with pytest.raises(PromptError, match=r"'left lung'.*did you mean lung"):
        segmenter.segment(picture(), ["tumor", "left lung"], strict=True)
    with pytest.raises(PromptError, match="knows: tumor, lung, cell nucleus"):
        segmenter.segment(picture(), "zebra", strict=True)
    assert calls == []


def test_another_configuration_leaves_what_the_model_is() -> None:
    plain = tiny_segmenter()
    cpu = torch.device("cpu")
    marks: list[dict[str, Any]] = [
        {},
        {"fingerprint": "a"},
        {"own_weights": "b"},
        {"fingerprint": "a", "own_weights": "b"},
        {"precision": torch.bfloat16},
    ]
    made = [Segmenter(plain.built, plain.config, device=cpu, **own) for own in marks]
    assert len({one.identity for one in made}) == 5
    stricter = plain.config.model_copy(update={"found_threshold": 0.9})
    for one in made:
        assert one.with_config(one.config).identity == one.identity
        assert one.with_config(stricter).identity != one.identity


def test_prompts_lists_what_the_adapter_knows() -> None:
    assert tiny_segmenter().prompts == ("tumor", "lung", "cell nucleus")
    assert tiny_segmenter(prompts=("polyp",)).prompts == ("polyp",)


def test_all_negative_logits_are_an_empty_answer_without_an_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for score in ("iou_head", "mask_probability"):
        segmenter = tiny_segmenter(score=score)
        answer_with(segmenter, monkeypatch, logit=-3.0)
        answer = segmenter.segment(picture(), "tumor", refine=2)
        assert not answer.found
        assert not answer.mask.any()
        assert answer.box is None
        assert answer.centroid is None
        assert answer.area_px == 0
        np.testing.assert_allclose(answer.probability, 1 / (1 + math.exp(3)), rtol=1e-5)
        assert answer.score == pytest.approx(0.9 if score == "iou_head" else 0.0)
        assert "rejected_area_px" not in answer.extra


def test_a_score_below_the_found_threshold_empties_the_mask() -> None:
    image = picture()
    plain = tiny_segmenter().segment(image, "tumor")
    assert plain.found
    assert plain.mask.any()
    above = tiny_segmenter(found_threshold=plain.score - 0.01).segment(image, "tumor")
    assert same(above, plain)
    for threshold in (plain.score + 0.01, 1.0):
        answer = tiny_segmenter(found_threshold=threshold).segment(image, "tumor")
        assert not answer.found
        assert not answer.mask.any()
        assert answer.score == plain.score
        assert np.array_equal(answer.probability, plain.probability)
        assert answer.extra["rejected_area_px"] == plain.area_px


def test_refinement_counts_come_from_the_call_the_concept_or_the_adapter() -> None:
    image = picture()
    expected = {n: tiny_segmenter().segment(image, WORDS, refine=n) for n in (0, 1, 2, 3)}
    assert not same(expected[0][0], expected[1][0])
    assert not same(expected[1][1], expected[2][1])
    segmenter = tiny_segmenter(refine=2, refine_for={"lung": 0, "cell nucleus": 3})
    for index, times in enumerate((2, 0, 3)):
        assert same(segmenter.segment(image, WORDS)[index], expected[times][index])
        assert segmenter.segment(image, WORDS)[index].extra["refine"] == times
        assert same(segmenter.segment(image, WORDS, refine=1)[index], expected[1][index])
    assert same(segmenter.segment(image, "lung fields"), expected[0][1])


def test_refinement_takes_what_the_call_or_else_the_adapter_says() -> None:
    image, plain, boxes = picture(), tiny_segmenter(), tiny_segmenter(refine_with="box")
    wanted, other = (plain.segment(image, "lung", refine_with=way) for way in ("box", None))
    assert not same(wanted, other)
    own = boxes.segment(image, "lung")
    (of_many,) = boxes.segment_batch([image], "lung")
    assert own.extra["refine_with"] == of_many.answers[0].extra["refine_with"] == "box"
    assert same(own, wanted)
    assert same(of_many.answers[0], wanted)
    assert same(boxes.segment(image, "lung", refine_with="box+centroid"), other)


def test_authors_frame_is_passed_on() -> None:
    image = picture()
    ours, theirs = (tiny_segmenter(authors_frame=flag) for flag in (False, True))
    assert same(ours.segment(image, "lung", refine=0), theirs.segment(image, "lung", refine=0))
    refined = [s.segment(image, "lung", refine=1) for s in (ours, theirs)]
    assert not np.array_equal(refined[0].probability, refined[1].probability)


def test_bfloat16_is_for_the_image_encoder_alone() -> None:
    exact = tiny_segmenter().segment(picture(), "tumor", refine=0)
    segmenter = tiny_segmenter(precision=torch.bfloat16)
    rough = segmenter.segment(picture(), "tumor", refine=0)
    difference = np.abs(rough.probability - exact.probability).max()
    assert 0 < difference < 0.1
    kept, fresh = (one._sides.encodings for one in (segmenter, tiny_segmenter()))
    embedding = next(iter(kept.embeddings.values()))
    assert embedding.dtype == torch.float32
    assert kept.tokens["tumor"].equal(fresh.token("tumor"))
    assert all(p.dtype == torch.float32 for p in segmenter.built.model.parameters())


def test_the_result_is_the_users_to_change() -> None:
    segmenter, image = tiny_segmenter(), picture()
    first = segmenter.segment(image, "tumor")
    kept = first.mask.copy()
    first.mask[:] = True
    first.probability[:] = 0.25
    second = segmenter.segment(image, "tumor")
    assert np.array_equal(second.mask, kept)
    assert np.array_equal(second.mask, second.probability > 0.5)


def _answer_in_child(segmenter: Segmenter, image: NDArray[np.uint8], results: Any) -> None:
    alone = segmenter.segment(image, "tumor").probability
    (many,) = segmenter.segment_batch([image], "tumor")
    threads = torch.get_num_threads()
    torch.rand(1000, 1000).exp().sum()  # more than one thread is worth
    results.put((threads, alone, many.answers[0].probability))


def _make_and_answer_in_child(other: Segmenter, image: NDArray[np.uint8], results: Any) -> None:
    made = Segmenter(other.built, other.config, device=other.device)
    _answer_in_child(made, image, results)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.parametrize("answer_in_child", [_answer_in_child, _make_and_answer_in_child])
def test_a_forked_process_answers_with_one_thread(answer_in_child: Callable[..., None]) -> None:
    segmenter = tiny_segmenter()
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.rand(1000, 1000).exp().sum()
        wanted = segmenter.segment(image, "tumor").probability
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        child = context.Process(target=answer_in_child, args=(segmenter, image, results))
        with warnings.catch_warnings():  # newer versions of Python warn of threads beside a fork
            warnings.simplefilter("ignore")
            child.start()
        child.join(30)
        hangs = child.is_alive()
        child.kill()
        assert not hangs
        threads, *probabilities = results.get()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == 1
    for probability in probabilities:
        np.testing.assert_allclose(probability, wanted, atol=1e-5)


def test_a_fork_before_the_first_image_is_known_too(monkeypatch: pytest.MonkeyPatch) -> None:
    forked._home.cache_clear()
    segmenter = tiny_segmenter()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        segmenter.prepare(picture())
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_region_is_all_the_model_sees_and_the_answer_is_of_the_whole_image() -> None:
    whole = picture(size=(60, 90))
    region = (10, 5, 65, 44)
    image = Image(whole, "scan", region_px=region)
    cut = np.ascontiguousarray(whole[5:45, 10:66])
    segmenter = tiny_segmenter()
    seen = segmenter.segment(cut, WORDS, refine=2)
    for answer, part in zip(segmenter.segment(image, WORDS, refine=2), seen, strict=True):
        assert answer.mask.shape == (60, 90)
        assert np.array_equal(answer.mask[5:45, 10:66], part.mask)
        assert np.array_equal(answer.probability[5:45, 10:66], part.probability)
        outside = np.ones((60, 90), bool)
        outside[5:45, 10:66] = False
        assert not answer.mask[outside].any()
        assert not answer.probability[outside].any()
        assert answer.score == part.score
    by_hand = segmenter.segment(image, "tumor", points=[(30, 25)], boxes=(12, 6, 40, 30))
    shifted = segmenter.segment(cut, "tumor", points=[(20, 20)], boxes=(2, 1, 30, 25))
    assert np.array_equal(by_hand.mask[5:45, 10:66], shifted.mask)
    # A box may reach beyond the region; what is meant lies inside.
    wide = segmenter.segment(image, "tumor", boxes=(0, 0, 40, 30))
    clipped = segmenter.segment(image, "tumor", boxes=(9.5, 4.5, 40, 30))
    assert np.array_equal(wide.probability, clipped.probability)
    for geometry, words in (
        (
            {"points": [(30, 25), (3, 3)]},
            r"the point \(3, 3\) is outside .* x 10 to 65 and y 5 to 44",
        ),
        ({"boxes": (70, 6, 80, 30)}, r"the box \[70\.0, .*--no-crop"),
    ):
        with pytest.raises(PromptError, match=words):
            segmenter.segment(image, "tumor", **geometry)
    # The same pixels with another region are another image.
    other = segmenter.segment(Image(whole, "scan"), "tumor", refine=2)
    assert not np.array_equal(other.probability, segmenter.segment(image, "tumor").probability)
