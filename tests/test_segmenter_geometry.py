"""Geometry without a word: SAM's own prompt, in which no text token has a part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import loud_model, tiny_segmenter
from torch import Tensor

from textsam.errors import PromptError
from textsam.inference.refine import Geometry, decode_passes
from textsam.inference.segmenter import Segmenter, UnknownPromptWarning

PIXELS: NDArray[np.uint8] = np.random.default_rng(3).integers(0, 256, (42, 56, 3), dtype=np.uint8)
POINT, BOX = (20.0, 12.0), (8.0, 5.0, 40.0, 30.0)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return tiny_segmenter(refine=2)


def low_resolution(segmenter: Segmenter, **geometry: Any) -> Tensor:
    """SAM's own modules asked directly, with the geometry in the square by hand: × 64 / 56."""
    model = segmenter.built.model
    scale = 64 / 56
    prepared = segmenter.prepare(PIXELS)
    points = boxes = None
    if "points" in geometry:
        placed = torch.tensor([[geometry["points"]]], dtype=torch.float32) * scale
        points = (placed, torch.ones(1, 1, dtype=torch.int64))
    if "boxes" in geometry:
        boxes = torch.tensor([geometry["boxes"]], dtype=torch.float32) * scale
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder(points=points, boxes=boxes, masks=None)
        logits, _ = model.mask_decoder(
            image_embeddings=model.encode_image(prepared.pixels[None]),
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    return prepared.frame.logits_to_image(logits)[0, 0].sigmoid()


@pytest.mark.parametrize(
    "geometry", [{"boxes": BOX}, {"points": POINT}, {"points": POINT, "boxes": BOX}], ids=len
)
def test_the_answer_is_sams_own(segmenter: Segmenter, geometry: dict[str, Any]) -> None:
    answer = segmenter.segment(PIXELS, None, **geometry)
    expected = low_resolution(segmenter, **geometry).numpy()
    assert np.ptp(expected) > 0.01, "a flat answer proves nothing"
    np.testing.assert_allclose(answer.probability, expected, atol=1e-4)
    assert answer.prompt == ""
    assert answer.extra["concept"] is None
    assert answer.extra["refine"] == 0


def test_no_text_token_is_made(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = segmenter.segment(PIXELS, None, boxes=BOX)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the text encoder was asked")

    fresh = tiny_segmenter(refine=2)
    monkeypatch.setattr(fresh.built.model, "encode_text", refuse)
    again = fresh.segment(PIXELS, None, boxes=BOX, points=None)
    np.testing.assert_array_equal(again.probability, alone.probability)
    with pytest.raises(AssertionError, match="text encoder"):
        fresh.segment(PIXELS, "tumor", boxes=BOX)


def test_with_a_word_it_is_another_answer(segmenter: Segmenter) -> None:
    alone = segmenter.segment(PIXELS, None, boxes=BOX)
    worded = segmenter.segment(PIXELS, "tumor", boxes=BOX, refine=0)
    assert np.abs(alone.probability - worded.probability).max() > 0.01


def test_words_and_geometry_alone_in_one_call(segmenter: Segmenter) -> None:
    asked = ["tumor", None, "lung", None]
    boxes, points = [None, BOX, BOX, None], [None, None, None, POINT]
    answers = segmenter.segment(PIXELS, asked, boxes=boxes, points=points)
    for index, word in enumerate(asked):
        single = segmenter.segment(PIXELS, word, boxes=boxes[index], points=points[index])
        np.testing.assert_array_equal(answers[index].probability, single.probability)


def test_decoding_together_is_decoding_alone() -> None:
    """Words, boxes and points mixed; on an accelerator, queries of one kind are decoded at once."""
    model = loud_model().model.eval()
    embedding = torch.linspace(-3, 3, 256 * 8 * 8).sin().view(1, 256, 8, 8)
    frame = tiny_segmenter().prepare(PIXELS).frame
    token = torch.linspace(-1, 1, 256)
    one = Geometry(np.array([POINT]), np.ones(1, dtype=np.int64), np.array(BOX))
    box = Geometry(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), np.array(BOX))
    tokens, geometry = [token, None, None, token, None], [one, one, box, None, one]
    with torch.inference_mode():
        alone, together = (
            decode_passes(
                model,
                embedding,
                tokens,
                frame,
                refine=[1, 0, 2, 0, 1],
                manual=geometry,
                together=flag,
            )
            for flag in (False, True)
        )
    assert len(alone) == len(together) == 3
    for first, second in zip(alone, together, strict=True):
        torch.testing.assert_close(first.logits, second.logits, atol=1e-4, rtol=1e-4)
    assert not torch.equal(alone[0].logits[0], alone[0].logits[1])
    assert torch.equal(alone[0].logits[1], alone[0].logits[4])


def test_refined_when_asked_and_still_without_text() -> None:
    segmenter = tiny_segmenter(refine=2)
    seen: list[tuple[int, ...]] = []
    decode = segmenter.built.model.decode

    def noted(embedding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(sparse.shape))
        return decode(embedding, sparse, dense)

    segmenter.built.model.decode = noted  # type: ignore[method-assign]
    answer = segmenter.segment(PIXELS, None, boxes=BOX, refine=1)
    assert answer.found
    # A box is two tokens; refined, a point and a box are three. With text each would have one more.
    assert seen == [(1, 2, 256), (1, 3, 256)]


def test_the_adapters_threshold_is_about_words() -> None:
    strict = tiny_segmenter(refine=0, found_threshold=1.0)
    worded = strict.segment(PIXELS, "tumor", boxes=BOX)
    shown = strict.segment(PIXELS, None, boxes=BOX)
    assert 0 < shown.score < 1
    with pytest.warns(UnknownPromptWarning):
        unknown = strict.segment(PIXELS, "dog", boxes=BOX)
    assert (worded.found, unknown.found, shown.found) == (False, False, True)
    assert shown.mask.any()


def test_x_goes_by_the_width_and_y_by_the_height(segmenter: Segmenter) -> None:
    wide = np.zeros((40, 56), np.uint8)
    assert segmenter.segment(wide, None, points=(50, 10)).mask.shape == (40, 56)
    with pytest.raises(PromptError):
        segmenter.segment(wide, None, points=(10, 50))


def test_neither_word_nor_geometry(segmenter: Segmenter) -> None:
    with pytest.raises(PromptError, match="None and has no geometry"):
        segmenter.segment(PIXELS, [None, None], boxes=[BOX, None])
    with pytest.raises(PromptError, match="must be a string"):
        segmenter.segment_batch([PIXELS], ["tumor", None])  # type: ignore[list-item]
    with pytest.raises(PromptError, match="neither text nor geometry"):
        segmenter.built.model.prompt_tokens(None)
