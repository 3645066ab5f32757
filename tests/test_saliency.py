"""Prompts without labels: saliency maps, the region they mark, and what is written of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli_runs import run
from numpy.typing import NDArray
from safetensors.torch import save_file
from skimage.filters import threshold_otsu
from tiny import tiny_text_encoder, write_images_and_masks
from torch import Tensor, nn

from textsam.errors import DataError, OutputError, PromptError, WeightsError
from textsam.preprocess import MinMaxPixels, Preprocessor
from textsam.saliency import clip, method
from textsam.saliency.boxes import BoxSaliency, contrast_of, grid_boxes, stability_of
from textsam.saliency.region import prompt_of_region, salient_region
from textsam.saliency.write import write_prompts


def disc(side: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    ys, xs = np.mgrid[:side, :side]
    return np.asarray((xs - x) ** 2 + (ys - y) ** 2 < radius**2)


def picture(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(60, 5, (*mask.shape, 1))
    grey = np.clip(noise + 120 * mask[..., None], 0, 255)
    return np.repeat(grey, 3, axis=-1).astype(np.uint8)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_the_image_s_edges_bound_what_a_vague_map_marks() -> None:
    wanted, beside = disc(100, 35, 40, 14), disc(100, 80, 75, 14)
    ys, xs = np.mgrid[:100, :100]
    # A hill that is wider than the disc and not over its middle.
    vague = np.exp(-((xs - 36) ** 2 + (ys - 42) ** 2) / (2 * 14**2))
    found = salient_region(vague, picture(wanted | beside))
    assert found is not None
    assert iou(found, wanted) > 0.85
    assert iou(vague > threshold_otsu(vague), wanted) < 0.7


def test_only_the_largest_part_is_kept() -> None:
    large, small = disc(90, 25, 30, 14), disc(90, 70, 70, 6)
    both = large | small
    found = salient_region(both.astype(np.float32), picture(both))
    assert found is not None
    assert iou(found, large) > 0.85
    assert not (found & small).any()


def test_a_large_image_keeps_its_size() -> None:
    wanted = np.kron(disc(100, 35, 40, 14), np.ones((4, 5), dtype=bool))
    found = salient_region(wanted.astype(np.float64), picture(wanted))
    assert found is not None
    assert found.shape == (400, 500)
    assert iou(found, wanted) > 0.85


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e9])
def test_a_map_s_range_does_not_matter(factor: float) -> None:
    wanted = disc(100, 35, 40, 14)
    ys, xs = np.mgrid[:100, :100]
    vague = np.exp(-((xs - 36) ** 2 + (ys - 42) ** 2) / (2 * 14**2))
    found = salient_region(factor * vague, picture(wanted))
    assert found is not None
    np.testing.assert_array_equal(found, salient_region(vague, picture(wanted)))
    assert iou(found, wanted) > 0.85


def test_maps_that_mark_nothing_or_are_none() -> None:
    pixels = picture(disc(40, 20, 20, 8))
    assert salient_region(np.full((40, 40), 0.3), pixels) is None
    assert salient_region(np.zeros((40, 40)), pixels) is None
    with pytest.raises(PromptError, match=r"\(40, 39\)"):
        salient_region(np.zeros((40, 39)), pixels)
    with pytest.raises(PromptError, match="no numbers"):
        salient_region(np.full((40, 40), np.nan), pixels)
    # An image without an edge: the threshold alone decides.
    found = salient_region(disc(40, 20, 20, 8).astype(float), np.zeros((40, 40, 3), np.uint8))
    assert found is not None
    assert iou(found, disc(40, 20, 20, 8)) > 0.9


def test_box_and_points_of_a_region() -> None:
    region = np.zeros((20, 30), dtype=bool)
    region[4:9, 11:25] = True
    found = prompt_of_region(region, np.random.default_rng(0))
    assert found.box.tolist() == [11, 4, 24, 8]
    assert found.points.shape == (5, 2)
    assert all(region[int(y), int(x)] for x, y in found.points)
    again = prompt_of_region(region, np.random.default_rng(0))
    assert np.array_equal(again.points, found.points)
    with pytest.raises(PromptError, match="empty"):
        prompt_of_region(np.zeros((4, 4), dtype=bool), np.random.default_rng(0))


def small_tower() -> nn.Module:
    from open_clip.timm_model import TimmModel

    with torch.random.fork_rng():
        torch.manual_seed(3)
        tower = TimmModel("vit_tiny_patch16_224", 12, image_size=224, pool="", proj="linear")
        for parameter in tower.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return tower.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def tower() -> nn.Module:
    return small_tower()


def test_grad_cam_is_activation_times_mean_gradient(tower: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 224, 224, generator=generator)
    text = torch.randn(12, generator=generator)
    found = clip.gradient_cam(tower, image, text)
    # The network by hand, its last block begun with a leaf.
    trunk: Any = tower.trunk
    hidden = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(image)))
    for block in trunk.blocks[:-1]:
        hidden = block(hidden)
    last = trunk.blocks[-1]
    leaf = last.norm1(hidden).clone().requires_grad_(True)
    hidden = hidden + last.attn(leaf)
    hidden = hidden + last.mlp(last.norm2(hidden))
    feature = tower.head(trunk.norm(hidden)[:, 0])  # type: ignore[operator]
    assert torch.allclose(feature, tower(image), atol=1e-5)
    cosine = (feature * text).sum() / (feature.norm() * text.norm())
    cosine.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    weights = leaf.grad[0, 1:].mean(0)
    by_hand = (leaf.detach()[0, 1:] @ weights).clamp_min(0).reshape(14, 14)
    assert by_hand.max() > 0
    assert torch.allclose(found[0], by_hand, rtol=1e-3, atol=1e-6 * float(by_hand.max()))
    # The opposite text lights up the rest.
    opposite = clip.gradient_cam(tower, image, -text)
    assert ((found > 0) & (opposite > 0)).sum() == 0
    assert not tower.trunk.blocks[-1].norm1._forward_hooks  # type: ignore[index, union-attr]


def test_a_text_is_encoded_without_learned_tokens() -> None:
    encoder = tiny_text_encoder()
    found = encoder(["tumor"], clip._NoContext(encoder.hidden_size))
    ids = torch.tensor([encoder.token_ids("tumor")])
    plain = encoder.projection(encoder.bert(ids).last_hidden_state[:, 0])
    assert torch.allclose(found, plain, atol=1e-6)


def clip_config(**vision: Any) -> dict[str, Any]:
    return {
        "model_cfg": {
            "vision_cfg": {
                "timm_model_name": "vit_base_patch16_224",
                "timm_pool": "",
                "timm_proj": "linear",
                **vision,
            }
        },
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 1.0]},
    }


@pytest.fixture
def snapshot(tmp_path: Path, tower: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snapshot of both towers in small; the text tower's own loading has its own tests."""
    monkeypatch.setattr(clip, "load_biomedclip", lambda _: tiny_text_encoder())
    monkeypatch.setattr(clip, "build_biomedclip_image", small_tower)
    state = {f"visual.{n}": 2 * t.clone() for n, t in tower.state_dict().items()}
    save_file(
        {**state, "text.proj.weight": torch.zeros(2)}, tmp_path / "open_clip_model.safetensors"
    )
    (tmp_path / "open_clip_config.json").write_text(json.dumps(clip_config()), encoding="utf-8")
    return tmp_path


def test_a_snapshot_gives_both_towers(snapshot: Path, tower: nn.Module) -> None:
    saliency = clip.load_clip_saliency(snapshot)
    loaded = saliency.image_tower.state_dict()
    assert all(torch.equal(loaded[n], 2 * t) for n, t in tower.state_dict().items())
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    heat = saliency(pixels, "tumor")
    assert (heat.shape, heat.dtype) == ((60, 90), np.float32)
    assert heat.min() >= 0
    assert 0 < heat.max() <= 1
    # The very image the tower is given, normalised by the snapshot's own numbers.
    seen: list[Tensor] = []
    saliency.image_tower.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    saliency(np.full((30, 30, 3), 255, dtype=np.uint8), "tumor")
    assert seen[0][0, :, 100, 100].tolist() == pytest.approx([2.0, 1.2, 0.7])


def test_what_is_not_biomedclip_is_refused(snapshot: Path) -> None:
    path = snapshot / "open_clip_config.json"
    path.write_text(json.dumps(clip_config(timm_model_name="resnet50")), encoding="utf-8")
    with pytest.raises(WeightsError, match="'resnet50'"):
        clip.load_clip_saliency(snapshot)
    path.write_text(json.dumps({**clip_config(), "preprocess_cfg": {}}), encoding="utf-8")
    with pytest.raises(WeightsError, match="preprocess_cfg"):
        clip.load_clip_saliency(snapshot)
    path.write_text(json.dumps(clip_config()), encoding="utf-8")
    save_file({"visual.other": torch.zeros(2)}, snapshot / "open_clip_model.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        clip.load_clip_saliency(snapshot)


def test_the_image_tower_has_open_clip_s_names_and_sizes() -> None:
    with torch.device("meta"):
        real = clip.build_biomedclip_image()
    shapes = {name: tuple(tensor.shape) for name, tensor in real.state_dict().items()}
    assert shapes["trunk.patch_embed.proj.weight"] == (768, 3, 16, 16)
    assert shapes["trunk.pos_embed"] == (1, 197, 768)
    assert shapes["trunk.blocks.11.mlp.fc2.weight"] == (768, 3072)
    assert shapes["head.proj.weight"] == (512, 768)
    assert "head.proj.bias" not in shapes


def test_boxes_are_everywhere_and_inside() -> None:
    boxes = grid_boxes((40, 64))
    assert boxes.shape == (1 + 9 + 25, 4)
    assert (boxes[:, :2] >= 0).all()
    assert boxes[:, 2].max() <= 63.001
    assert boxes[:, 3].max() <= 39.001
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_stability_and_contrast_by_hand() -> None:
    logits = torch.tensor([[[3.0, 0.5, -0.5, -3.0]], [[-9.0, -9.0, -9.0, -9.0]]])
    assert stability_of(logits).tolist() == pytest.approx([1 / 3, 0])
    grey = torch.tensor([[0.0, 0.0, 4.0, 0.0, 0.0]])
    masks = torch.tensor([[[0, 0, 1, 0, 0]], [[0, 0, 0, 0, 0]], [[1, 1, 1, 1, 1]]]).bool()
    assert contrast_of(masks, grey, 1).tolist() == pytest.approx([4 / float(grey.std()), 0, 0])


def test_the_best_answer_is_the_bright_disc() -> None:
    side = 64
    wanted = disc(side, 40, 22, 9)
    answers = torch.full((35, 1, side, side), -5.0)
    answers[4, 0][torch.from_numpy(wanted)] = 5.0
    answers[7, 0, 40:55, 5:20] = 5.0  # as sure, and like what is around it
    answers[9, 0] = 5.0  # everything
    model = SimpleNamespace(
        encode_image=lambda image: image,
        prompt_tokens=lambda _text, boxes: (boxes, boxes),
        decode=lambda *_: (answers, torch.full((35, 1), 0.9)),
    )
    built: Any = SimpleNamespace(model=model, preprocessor=Preprocessor(side, MinMaxPixels()))
    pixels = picture(wanted)
    heat = BoxSaliency(built)(pixels, "anything")
    assert iou(heat > 0.5, wanted) == 1
    answers[4] = -5.0
    answers[7] = -5.0
    assert BoxSaliency(built)(pixels).max() == 0


def bright(pixels: NDArray[np.uint8], text: str) -> NDArray[np.float32]:
    if pixels[0, 0, 0] == 7:
        return np.zeros(pixels.shape[:2], dtype=np.float32)
    blurred = F.avg_pool2d(torch.from_numpy(pixels[None, ..., 0].astype(np.float32)), 5, 1, 2)
    return np.asarray(blurred[0].numpy() + len(text))


bright.name = "bright"  # type: ignore[attr-defined]


def test_prompts_of_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    write_images_and_masks(tmp_path, 2)
    images = tmp_path / "images"
    flat = np.full((48, 48), 7, dtype=np.uint8)
    Image.fromarray(flat).save(images / "flat.png")
    (images / "notes.txt").write_text("no image", encoding="utf-8")
    (images / "._000.png").write_bytes(b"what macOS leaves beside a picture")
    (images / "older.png").mkdir()
    out = tmp_path / "prompts.json"
    write_prompts(images, "tumor", out, bright)  # type: ignore[arg-type]
    content = json.loads(out.read_text(encoding="utf-8"))
    assert list(content["images"]) == ["000.png", "001.png", "flat.png"]
    assert content["images"]["flat.png"] is None
    assert content["failures"] == []
    assert (content["method"], content["text"], content["seed"]) == ("bright", "tumor", 0)
    for name in ("000.png", "001.png"):
        with Image.open(tmp_path / "masks" / name) as file:
            mask = np.asarray(file) > 127
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        tight = [columns[0], rows[0], columns[-1], rows[-1]]
        assert np.abs(np.array(content["images"][name]["box"]) - tight).max() <= 3
        assert len(content["images"][name]["points"]) == 5
    before = out.read_bytes()
    write_prompts(images, "tumor", out, bright)  # type: ignore[arg-type]
    assert out.read_bytes() == before
    with pytest.raises(DataError, match="holds no image"):
        write_prompts(tmp_path / "none", "tumor", out, bright)  # type: ignore[arg-type]


def test_an_unreadable_image_is_reported_and_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images_and_masks(tmp_path, 2)
    images, out = tmp_path / "images", tmp_path / "p.json"
    wanted = write_prompts(images, "tumor", out, bright)["images"]  # type: ignore[arg-type]
    (images / "000 broken.png").write_bytes(b"no image")
    monkeypatch.setattr(
        "textsam.cli.saliency.load_saliency", {method.SaliencyMethod.BOXES: bright}.get
    )
    written = run("saliency", images, "tumor", "-o", out, "--method", "boxes")
    assert written.exit_code == 1
    assert written.stdout == f"{out}: 2 of 3 images, 1 failed\n"
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["images"] == wanted
    (failure,) = content["failures"]
    assert failure["path"] == "000 broken.png"
    assert str(images / "000 broken.png") in failure["error"]
    assert written.stderr == f"error: {failure['error']}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_an_image_like_others(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, 1)
    images, out = tmp_path / "images", tmp_path / "p.json"
    name = os.fsdecode(b"scan\xff.png")
    (images / "000.png").rename(images / name)
    write_prompts(images, "tumor", out, bright)  # type: ignore[arg-type]
    assert len(json.loads(out.read_text(encoding="utf-8"))["images"][name]["points"]) == 5


def test_a_file_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, 1)

    def never(_pixels: NDArray[np.uint8], _text: str) -> NDArray[np.float32]:
        raise AssertionError

    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="masks is a folder; give a JSON file to write"):
        write_prompts(tmp_path / "images", "tumor", tmp_path / "masks", never)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="file is a file; give a folder"):
        write_prompts(tmp_path / "images", "tumor", tmp_path / "file" / "p.json", never)  # type: ignore[arg-type]


def test_the_command_writes_prompts_or_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsam import weights

    def missing(_name: str) -> Path:
        raise WeightsError("biomedclip is not here")

    monkeypatch.setattr(weights, "resolve", missing)
    out = tmp_path / "p.json"
    refused = run("saliency", tmp_path, "tumor", "-o", out)
    assert refused.exit_code == 1
    assert refused.stderr == "error: biomedclip is not here\n"
    assert not out.exists()
    write_images_and_masks(tmp_path, 2)
    monkeypatch.setattr(
        "textsam.cli.saliency.load_saliency", {method.SaliencyMethod.BOXES: bright}.get
    )
    written = run("saliency", tmp_path / "images", "tumor", "-o", out, "--method", "boxes")
    assert written.stdout == f"{out}: 2 of 2 images\n"
    assert json.loads(out.read_text(encoding="utf-8"))["method"] == "bright"


def test_the_stand_in_is_the_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from textsam.model import build

    asked: list[str] = []
    monkeypatch.setattr(build, "build_model", lambda preset, _shape: asked.append(preset))
    assert isinstance(method.load_saliency(method.SaliencyMethod.BOXES), BoxSaliency)
    assert asked == ["lite"]
