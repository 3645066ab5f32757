"""The default product with its real weights: LiteMedSAM, MiniLM and the shipped adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.filters import gaussian

import textsam
from textsam import weights
from textsam.adapters import TENSORS_FILE, find_adapter, read_adapter_config, shipped_adapters
from textsam.checkpoint import architecture_of, load_adapter
from textsam.inference.segmenter import Segmenter
from textsam.metrics import dice
from textsam.model.backbones import build_litemedsam, load_backbone
from textsam.model.build import build_model
from textsam.model.text_encoders import load_minilm
from textsam.model.tuning import merge_for_inference
from textsam.preprocess import Preprocessor
from textsam.weights.checksum import sha256_of

IMAGES = Path(skimage.data.__file__).parent


@pytest.fixture(scope="module")
def cells() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A drawn fluorescence image: blurred bright nuclei on a dark, noisy ground, and their mask."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :320]
    truth = np.zeros(y.shape, dtype=bool)
    for row in range(30, 250, 48):
        for column in range(30, 310, 52):
            cy, cx = row + rng.uniform(-6, 6), column + rng.uniform(-6, 6)
            a, b = rng.uniform(9, 14, 2)
            truth |= ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
    light = ndimage.gaussian_filter(truth * 110.0, 1.5) + rng.normal(14, 3, truth.shape)
    return np.clip(light, 0, 255).astype(np.uint8), truth


@pytest.fixture(scope="module")
def lite() -> Segmenter:
    return textsam.load_model("lite", device="cpu")


def test_base_weights_outline_a_boxed_object() -> None:
    """LiteMedSAM as loaded by us finds a coin from its box: weights, pixels and frame are right."""
    backbone = load_backbone(build_litemedsam, weights.resolve("litemedsam"))
    with Image.open(IMAGES / "coins.png") as file:
        pixels = np.asarray(file.convert("RGB"))
    bright = ndimage.binary_fill_holes(gaussian(pixels[..., 0] / 255, 2) > 0.5)
    labels, _ = ndimage.label(bright)
    sizes = ndimage.sum_labels(bright, labels, range(1, labels.max() + 1))
    coin = labels == 1 + int(np.argmax(sizes * (sizes < 6000)))
    ys, xs = np.nonzero(coin)
    box = np.array([[xs.min(), ys.min()], [xs.max(), ys.max()]], dtype=np.float64)
    image, frame = Preprocessor(backbone.side_px, backbone.normalise)(pixels)
    corners = torch.tensor(frame.to_model(box).reshape(1, 4), dtype=torch.float32)
    with torch.inference_mode():
        sparse, dense = backbone.prompt_encoder(points=None, boxes=corners, masks=None)
        logits, _ = backbone.mask_decoder(
            image_embeddings=backbone.image_encoder(image[None]),
            image_pe=backbone.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        mask = (frame.logits_to_image(logits)[0, 0] > 0).numpy()
    assert dice(mask, coin) > 0.9


def test_shipped_adapters_are_complete_small_and_fit_their_base_weights() -> None:
    adapters = shipped_adapters()
    assert "generalist" in adapters
    # Of text encoders it is the numbers that count, whatever file they come from.
    text = load_minilm(weights.resolve("minilm")).digest()
    for name, folder in adapters.items():
        config = read_adapter_config(folder)
        assert config.name == name
        assert config.tensors_sha256 == sha256_of(folder / TENSORS_FILE)
        assert (folder / TENSORS_FILE).stat().st_size <= 16 * 10**6
        for entry, identity in config.base.items():
            assert identity == (text if entry == "minilm" else weights.entry(entry).identity)
        for document in ("README.md", "log.csv"):
            assert (folder / document).stat().st_size > 0


def test_the_word_finds_nuclei(
    lite: Segmenter, cells: tuple[NDArray[np.uint8], NDArray[np.bool_]]
) -> None:
    image, truth = cells
    seg = lite.segment(image, "cell nucleus")
    assert seg.found
    assert seg.score > 0.8
    assert dice(seg.mask, truth) > 0.9


def test_the_word_decides(
    lite: Segmenter, cells: tuple[NDArray[np.uint8], NDArray[np.bool_]]
) -> None:
    """What a microscope cannot show comes back empty, in any wording; the nuclei do not."""
    nuclei, lungs, field = lite.segment(cells[0], ["the nuclei", "Lungs", "a lung field"])
    assert nuclei.found
    for absent in (lungs, field):
        assert not absent.found
        assert not absent.mask.any()


def test_list_single_repeat_and_shortcut_agree_bit_for_bit(
    lite: Segmenter, cells: tuple[NDArray[np.uint8], NDArray[np.bool_]]
) -> None:
    crop = cells[0][:200, :300]
    both = lite.segment(crop, ["lung", "cell nucleus"])
    alone = textsam.segment(crop, "cell nucleus", device="cpu")
    again = lite.segment(crop.copy(), "cell nucleus")
    for other in (alone, again):
        assert np.array_equal(both[1].mask, other.mask)
        assert np.array_equal(both[1].probability, other.probability)
        assert both[1].score == other.score


def test_merging_changes_nothing_but_speed(
    cells: tuple[NDArray[np.uint8], NDArray[np.bool_]],
) -> None:
    """Merged LoRA and folded batch norms agree with the model as trained to 1e-4."""
    folder = find_adapter("generalist")
    built = build_model("lite", architecture_of(read_adapter_config(folder).architecture))
    load_adapter(folder, built)
    model = built.model
    image, _ = built.preprocessor(np.stack([cells[0]] * 3, axis=-1))

    def outputs() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            embedding = model.encode_image(image[None])
            logits, _ = model(embedding, model.encode_text(["cell nucleus", "tumor"]))
            return embedding, logits

    before = outputs()
    parameters_before = sum(p.numel() for p in model.parameters())
    merge_for_inference(model)
    after = outputs()
    for a, b in zip(before, after, strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * max(1.0, float(a.abs().max()))
    assert sum(p.numel() for p in model.parameters()) < parameters_before
