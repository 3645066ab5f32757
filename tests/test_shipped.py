"""The shipped adapters, held to account on drawn images and pictures that libraries bring.

That a drawn ellipse is found says little about patients; that it is no longer found says that an
adapter, or what runs it, is broken.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

import textsam
from textsam.adapters import TENSORS_FILE, find_adapter, read_adapter_config
from textsam.errors import AdapterError
from textsam.inference.segmenter import Segmenter
from textsam.metrics import dice
from textsam.weights.checksum import sha256_of

PICTURES = Path(skimage.data.__file__).parent
SHIPPED = ("generalist", "research")


@pytest.fixture(scope="module", params=SHIPPED)
def model(request: pytest.FixtureRequest) -> Segmenter:
    return textsam.load_model("lite", adapter=request.param, device="cpu")


@pytest.fixture(scope="module")
def generalist() -> Segmenter:
    return textsam.load_model("lite", adapter="generalist", device="cpu")


@pytest.fixture(scope="module")
def research() -> Segmenter:
    return textsam.load_model("lite", adapter="research", device="cpu")


def found(
    model: Segmenter, scene: tuple[NDArray[Any], NDArray[np.bool_]], word: str, least: float
) -> None:
    image, truth = scene
    answer = model.segment(image, word)
    overlap = dice(answer.mask, truth)
    assert answer.found, f"{word}: score {answer.score:.2f}"
    assert overlap > least, f"{word}: Dice {overlap:.3f}, score {answer.score:.2f}"
    # The score is an expectation of Dice; of a plain drawing it must not expect little.
    assert answer.score > 0.5


@pytest.mark.parametrize("seed", [0, 5])
def test_a_drawn_breast_tumor_is_found(model: Segmenter, seed: int) -> None:
    found(model, phantoms.breast_ultrasound(seed=seed), "breast mass", 0.85)


def test_drawn_lungs_are_found(generalist: Segmenter) -> None:
    # Not the adapter `research`, which fails in this drawing, as its card says.
    found(generalist, phantoms.chest_x_ray(), "lungs", 0.85)


def test_a_drawn_brain_tumor_is_found(model: Segmenter) -> None:
    found(model, phantoms.brain_mri(), "brain tumour", 0.85)


def test_of_a_drawn_brain_without_a_tumor_little_is_expected(generalist: Segmenter) -> None:
    # It may draw something all the same, as its card says; then its score must be a low one.
    answer = generalist.segment(phantoms.brain_mri(tumor=False)[0], "brain tumour")
    assert not answer.found or answer.score < 0.3


def test_kinds_of_image_rule_out_and_do_not_guess_at_what_is_far(generalist: Segmenter) -> None:
    breast = generalist.segment(phantoms.breast_ultrasound()[0], "cell membrane")
    assert breast.extra["not_in"] == "ultrasound"
    tissue = generalist.segment(PICTURES / "ihc.png", "cell nucleus")
    assert tissue.extra["unfamiliar"]
    assert "not_in" not in tissue.extra


def test_a_drawn_skin_lesion_is_found(research: Segmenter) -> None:
    found(research, phantoms.skin(), "skin lesion", 0.85)


def test_vessels_of_a_photographed_retina_are_marked_where_it_is_darker(
    research: Segmenter,
) -> None:
    # The picture of the README, of a camera that no training image is of.
    path = PICTURES / "retina.jpg"
    answer = research.segment(path, "retinal vessel")
    assert answer.found
    assert not answer.extra.get("unfamiliar")
    pixels = np.asarray(Image.open(path), dtype=np.float64)
    retina = pixels.sum(axis=2) > 60
    assert 0.10 < answer.mask[retina].mean() < 0.25
    assert (answer.mask & ~retina).sum() < 0.001 * answer.mask.sum()
    green = pixels[..., 1] - gaussian_filter(pixels[..., 1], 20)
    near = binary_dilation(answer.mask, iterations=12) & retina
    beside = near & ~binary_dilation(answer.mask, iterations=3)
    # In grey levels, after what varies slowly: vessels take up green light.
    assert green[answer.mask].mean() < green[beside].mean() - 10


@pytest.mark.parametrize(
    ("scene", "absent"),
    [
        (phantoms.breast_ultrasound, ("cell nucleus", "cell membrane")),
        (phantoms.chest_x_ray, ("cell nucleus", "cell membrane")),
        (phantoms.electron_micrograph, ("tumor", "lung", "vessel")),
        (phantoms.brain_mri, ("lung", "cell membrane", "cell nucleus")),
    ],
)
def test_what_an_image_cannot_show_comes_back_empty(
    generalist: Segmenter, scene: Any, absent: tuple[str, ...]
) -> None:
    # Not the adapter `research`: its card says how often it fails in this.
    for answer in generalist.segment(scene()[0], list(absent)):
        assert not answer.found, f"{answer.prompt}: score {answer.score:.2f}"
        assert not answer.mask.any()


def test_an_adapter_of_which_a_byte_has_changed_is_refused(tmp_path: Path) -> None:
    for name in SHIPPED:
        folder = tmp_path / name
        shutil.copytree(find_adapter(name), folder)
        config = read_adapter_config(folder)
        assert config.tensors_sha256 == sha256_of(folder / TENSORS_FILE)
        content = bytearray((folder / TENSORS_FILE).read_bytes())
        content[-1] ^= 1
        (folder / TENSORS_FILE).write_bytes(content)
        with pytest.raises(AdapterError, match=r"sha256|SHA-256"):
            textsam.load_model("lite", adapter=folder, device="cpu")


def test_cards_state_terms_and_limits() -> None:
    for name in SHIPPED:
        folder = find_adapter(name)
        config = read_adapter_config(folder)
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert config.terms in card
        for concept in config.prompts:
            assert concept in card
        assert "not a medical device" in card.lower()
        assert "LiteMedSAM" in card, "that its pretraining may have seen test images"
    research = find_adapter("research")
    assert "RESEARCH" in read_adapter_config(research).terms
