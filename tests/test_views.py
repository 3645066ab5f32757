"""Views: a mirror image's answer is the mirrored answer, and a mean is a mean."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import run, use_tiny_model, write_image
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from tiny import (
    LOUD,
    loud_model,
    louder,
    tiny_backbone,
    tiny_config,
    tiny_model,
    tiny_segmenter,
    tiny_text_encoder,
    tiny_vit_backbone,
    write_images_and_masks,
)

from textsam.calibrate import calibrate, decide
from textsam.data.folder import samples_from_folder
from textsam.errors import ConfigError
from textsam.export.write import export_onnx
from textsam.inference.decoded import Decoded, mean_of_views
from textsam.inference.ready import at_side, ready_segmenter
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views, views_of
from textsam.io.image import Image
from textsam.model.build import BuiltModel, assemble
from textsam.model.cpu_tinyvit import CpuTinyViT
from textsam.model.learned_tokens import LearnedTokens

CPU = torch.device("cpu")
WORDS = ["tumor", "lung"]


def vit_model(side_px: int = 64) -> BuiltModel:
    """A tiny TextSAM on LiteMedSAM's encoder, which works at any side, with the `LOUD` adapter."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        built = assemble(tiny_vit_backbone(64), tiny_text_encoder(), LOUD)
    louder(built)
    built.set_side(side_px)
    return built


def vit_segmenter(views: str = "", side_px: int = 64, **changes: Any) -> Segmenter:
    return ready_segmenter(
        vit_model(side_px),
        tiny_config(**changes),
        device=CPU,
        precision=torch.float32,
        views=views_of(views),
    )


def picture(height: int = 30, width: int = 44, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (height, width, 3), dtype=np.uint8)


def mirrored(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(pixels[:, ::-1])


@pytest.mark.parametrize(
    ("text", "views"),
    [
        (None, Views()),
        ("", Views()),
        ("mirrored", Views(mirrored=True)),
        ("112", Views((112,))),
        (" mirrored , 224,112", Views((224, 112), mirrored=True)),
        (Views((8,)), Views((8,))),
    ],
)
def test_views_are_read_as_they_are_written(text: str | None, views: Views) -> None:
    assert views_of(text) == views
    assert views_of(str(views)) == views


@pytest.mark.parametrize(
    "text",
    [
        "flipped",
        "112px",
        "-112",
        "112,,224",
        "mirrored,mirrored",
        "112,112",
        "112,0112",
        ",",
        "1.5",
        112,
        (112, 168),
    ],
)
def test_other_words_are_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match=r"views is .*; give sides .* such as '112,168,mirrored'"):
        views_of(text)


def test_a_mean_by_hand() -> None:
    def one(values: list[float], iou: float) -> Decoded:
        probability = np.array([values], dtype=np.float32)
        return Decoded(probability, probability > 0.5, iou, (1, "settled"))

    views = [one([0.9, 0.6, 0.2], 0.8), one([0.7, 0.2, 0.9], 0.4)]
    mean = mean_of_views(views, 0.5)
    assert_allclose(mean.probability, [[0.8, 0.4, 0.55]], atol=1e-6)
    assert mean.probability.dtype == np.float32
    assert_array_equal(mean.mask, [[True, False, True]])
    assert mean.iou == pytest.approx(0.6)
    assert mean.settled == (1, "settled")
    assert mean_of_views(views[:1], 0.7) is views[0]


@pytest.mark.parametrize("size", [(30, 44), (44, 30), (64, 64), (33, 200)])
def test_a_mirror_image_gets_the_mirrored_answer(size: tuple[int, int]) -> None:
    segmenter = tiny_segmenter(refine=0)
    both = ready_segmenter(
        loud_model(),
        segmenter.config,
        device=CPU,
        precision=torch.float32,
        views=Views(mirrored=True),
    )
    pixels = picture(*size)
    differ = 0.0
    for word in WORDS:
        straight, turned = both.segment(pixels, word), both.segment(mirrored(pixels), word)
        assert_allclose(turned.probability[:, ::-1], straight.probability, atol=2e-5)
        plain = segmenter.segment(pixels, word).probability
        turned_plain = segmenter.segment(mirrored(pixels), word).probability[:, ::-1]
        assert_allclose(straight.probability, (plain + turned_plain) / 2, atol=2e-5)
        assert_array_equal(straight.mask, straight.probability > 0.5)
        differ = max(differ, float(np.abs(plain - turned_plain).max()))
    assert differ > 0.05  # otherwise nothing was shown


def test_points_and_boxes_are_mirrored_with_the_image() -> None:
    segmenter = ready_segmenter(
        loud_model(),
        tiny_config(refine=0),
        device=CPU,
        precision=torch.float32,
        views=Views(mirrored=True),
    )
    # The longer side is the model's: its pixels are the image's, and mirroring is exact.
    pixels = picture(40, 64)
    straight = segmenter.segment(pixels, "tumor", points=[(10, 7, 1), (50, 30, 0)])
    turned = segmenter.segment(mirrored(pixels), "tumor", points=[(53, 7, 1), (13, 30, 0)])
    assert_allclose(turned.probability[:, ::-1], straight.probability, atol=2e-5)
    boxed = segmenter.segment(pixels, None, boxes=(5, 4, 20, 33))
    turned = segmenter.segment(mirrored(pixels), None, boxes=(43, 4, 58, 33))
    assert_allclose(turned.probability[:, ::-1], boxed.probability, atol=2e-5)
    elsewhere = segmenter.segment(pixels, None, boxes=(43, 4, 58, 33))
    assert np.abs(elsewhere.probability - boxed.probability).max() > 1e-3


def test_what_an_image_shows_alone_is_mirrored_and_laid_back() -> None:
    region = (6, 3, 37, 25)
    whole = Image(picture(), source="made up", region_px=region)
    segmenter = vit_segmenter("32,mirrored", refine=0)
    cut = picture()[3:26, 6:38]
    inside = segmenter.segment(whole, "tumor").probability
    assert_allclose(inside[3:26, 6:38], segmenter.segment(cut, "tumor").probability, atol=1e-6)
    inside = inside.copy()
    inside[3:26, 6:38] = 0
    assert not inside.any()


def test_several_sides_are_the_mean_of_models_at_these_sides() -> None:
    pixels, sides = picture(), (64, 32, 96)
    together = vit_segmenter("32,96,mirrored", refine=1)
    assert together.views == Views((32, 96), mirrored=True)
    for word in WORDS:
        answer = together.segment(pixels, word)
        alone = []
        for side_px in sides:
            single = vit_segmenter(side_px=side_px, refine=1)
            alone.append(single.segment(pixels, word).probability)
            alone.append(single.segment(mirrored(pixels), word).probability[:, ::-1])
        assert_allclose(answer.probability, np.mean(alone, axis=0), atol=1e-5)
        assert np.ptp(alone, axis=0).max() > 0.01
        assert answer.extra["views"] == "32,96,mirrored"


def test_without_views_nothing_changes() -> None:
    built = loud_model()
    ready = ready_segmenter(built, tiny_config(), device=CPU, precision=torch.float32)
    plain = tiny_segmenter()
    assert ready.identity == plain.identity
    for word in WORDS:
        one, other = ready.segment(picture(), word), plain.segment(picture(), word)
        assert_array_equal(one.mask, other.mask)
        assert "views" not in one.extra


def test_all_that_knows_no_side_is_shared() -> None:
    built = vit_model()
    built.model.learned_tokens = LearnedTokens(2, 4)
    twin = at_side(built, 32)
    assert twin.preprocessor.side_px == 32
    assert built.preprocessor.side_px == built.backbone.side_px == 64
    for part in ("text_encoder", "context", "adapter", "mask_decoder", "learned_tokens"):
        assert getattr(twin.model, part) is getattr(built.model, part)
    assert twin.backbone.mask_decoder is twin.model.mask_decoder
    assert twin.backbone.image_encoder is twin.model.image_encoder
    assert twin.model.image_encoder is not built.model.image_encoder
    assert twin.model.prompt_encoder is not built.model.prompt_encoder


def test_an_image_encoder_rearranged_for_a_cpu_is_not_kept_beside_the_new_one() -> None:
    built = vit_model()
    built.backbone.cpu_encoder = CpuTinyViT
    before = weakref.ref(built.model.image_encoder)
    ready = ready_segmenter(
        built, tiny_config(), device=CPU, precision=torch.float32, views=Views(sides_px=(32,))
    )
    gc.collect()
    assert before() is None
    for one in ready.models.values():
        assert one.backbone.image_encoder is one.model.image_encoder
        assert isinstance(one.model.image_encoder, CpuTinyViT)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_many_images_are_answered_as_one_by_one(batch_size: int) -> None:
    segmenter = vit_segmenter("32,mirrored")
    images = [picture(30 + i, 44, seed=i) for i in range(6)]
    for own, answer in zip(
        images, segmenter.segment_batch(images, WORDS, batch_size=batch_size), strict=True
    ):
        alone = vit_segmenter("32,mirrored").segment(own, WORDS)
        for one, other in zip(answer.answers, alone, strict=True):
            assert_allclose(one.probability, other.probability, atol=1e-5)


def test_views_that_a_model_cannot_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"64 px, the side the adapter works at; leave it out"):
        vit_segmenter("64")
    with pytest.raises(ConfigError, match=r"side_px is 66; .* multiples of 4"):
        vit_segmenter("66")
    built = assemble(tiny_backbone(), tiny_text_encoder(), LOUD)
    with pytest.raises(ConfigError, match=r"side_px is 32; .* squares of 64 px alone"):
        at_side(built, 32)


def test_answers_of_other_views_have_another_identity() -> None:
    kinds = {vit_segmenter(views).identity for views in ("", "mirrored", "32", "32,mirrored")}
    assert len(kinds) == 4


def test_another_configuration_keeps_the_views() -> None:
    segmenter = vit_segmenter("32,mirrored")
    other = segmenter.with_config(tiny_config(found_threshold=1.0))
    assert other.views == segmenter.views
    assert not other.segment(picture(), "tumor").found
    one, two = (own.segment(picture(), "tumor").probability for own in (segmenter, other))
    assert_array_equal(one, two)


def test_calibration_asks_by_the_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "MIN_DICE", 0.0)
    write_images_and_masks(tmp_path, count=3)
    samples = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    plain = calibrate(vit_segmenter(), samples, passes=0, progress=False)
    both = calibrate(vit_segmenter("32,mirrored"), samples, passes=0, progress=False)
    assert both.dice_without_threshold != plain.dice_without_threshold


def test_an_export_has_one_view(tmp_path: Path) -> None:
    segmenter = Segmenter(tiny_model(), tiny_config(), device=CPU, views=Views(mirrored=True))
    with pytest.raises(ConfigError, match=r"several views \(mirrored\), an export by one"):
        export_onnx(segmenter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_passes_views_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = use_tiny_model(monkeypatch)
    image = write_image(tmp_path / "scan.png")
    out = tmp_path / "out"
    result = run("segment", image, "tumor", "-o", out, "--views", "112,mirrored")
    assert result.exit_code == 0, result.output
    assert calls[-1]["views"] == Views((112,), mirrored=True)


@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_other_views_are_wrong_usage(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = use_tiny_model(monkeypatch)
    image = write_image(tmp_path / "scan.png")
    rest = [image, "tumor"] if command == "segment" else [tmp_path, "--concept", "tumor"]
    result = run(command, *rest, "-o", tmp_path / "out", "--views", "flipped")
    assert result.exit_code == 2
    assert "views is 'flipped'; give sides" in " ".join(result.output.split())
    assert not calls
    assert not (tmp_path / "out").exists()
