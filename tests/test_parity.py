"""Our `vit_b` computes what the authors' code computes, in both coordinate frames.

`TEXTSAM_PARITY` names the folder with the authors' numbers; without it, a reduced copy of our own,
made by `python tests/golden/make_golden.py` after parity held, keeps watch.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from golden.make_golden import GOLDEN, phantom
from name_seeded import seeded_vit_b
from numpy.typing import NDArray
from passes import Encoded, encode, mask_iou, relative_error, run
from PIL import Image

from textsam import weights
from textsam.model.build import BuiltModel
from textsam.model.text_encoders import load_tokenizer

FRAMES = {"official_frame": True, "model_frame": False}
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def built() -> BuiltModel:
    return seeded_vit_b(load_tokenizer(weights.resolve("minilm")))


@pytest.fixture(scope="module")
def theirs() -> dict[str, NDArray[np.generic]]:
    folder = parity_folder()
    with np.load(folder / "expected.npz") as file:
        return dict(file)


def parity_folder() -> Path:
    folder = Path(os.environ.get("TEXTSAM_PARITY", "parity"))
    if not (folder / "expected.npz").is_file():
        pytest.skip("the authors' numbers are not here: set TEXTSAM_PARITY to their folder")
    return folder


@pytest.fixture(scope="module")
def encoded_theirs(built: BuiltModel) -> Encoded:
    with Image.open(parity_folder() / "image.png") as file:
        return encode(built, np.asarray(file.convert("RGB")))


def test_tokens_text_and_image_match_the_authors(
    encoded_theirs: Encoded, theirs: dict[str, NDArray[np.generic]]
) -> None:
    encoder = encoded_theirs.built.model.text_encoder
    for prompt, row in zip(("background", "tumor"), theirs["token_ids"], strict=True):
        ids = encoder.token_ids(prompt)
        # Theirs hold four placeholders for the context and are padded to 256.
        assert [101, *[1060] * 4, *ids[1:]] == [int(i) for i in row if i != 0]
    assert relative_error(encoded_theirs.text_features, theirs["clip_text_features"]) <= TOLERANCE
    embedding = encoded_theirs.embedding
    assert relative_error(embedding[:, ::8, ::8, ::8], theirs["image_embedding_sub"]) <= TOLERANCE
    stats = np.array([embedding.mean(), embedding.std(), embedding.abs().max()])
    np.testing.assert_allclose(stats, theirs["image_embedding_stats"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("frame", FRAMES)
def test_all_passes_match_the_authors(
    encoded_theirs: Encoded, theirs: dict[str, NDArray[np.generic]], frame: str
) -> None:
    passes, sparse = run(encoded_theirs, authors_frame=FRAMES[frame])
    assert len(passes) == len(sparse) == 3
    height, width = encoded_theirs.frame.image_px
    for i, (result, tokens) in enumerate(zip(passes, sparse, strict=True)):
        assert relative_error(tokens, theirs[f"{frame}_sparse{i}"]) <= TOLERANCE
        logits = result.logits[..., ::4, ::4]
        assert relative_error(logits, theirs[f"{frame}_lowres{i}"]) <= TOLERANCE
        assert relative_error(result.iou, theirs[f"{frame}_iou{i}"]) <= TOLERANCE
        bits = np.unpackbits(theirs[f"{frame}_mask{i}"].astype(np.uint8).ravel())
        expected = bits[: height * width].reshape(height, width).astype(bool)
        assert mask_iou(result.masks[0], expected) >= 0.999


@pytest.mark.parametrize("frame", FRAMES)
def test_golden_numbers(built: BuiltModel, frame: str) -> None:
    with np.load(GOLDEN) as file:
        golden = dict(file)
    encoded = _encoded_phantom(built)
    assert relative_error(encoded.text_features[:, ::8], golden["text_features"]) <= TOLERANCE
    assert relative_error(encoded.embedding[:, ::32, ::8, ::8], golden["embedding"]) <= TOLERANCE
    passes, sparse = run(encoded, authors_frame=FRAMES[frame])
    for i, (result, tokens) in enumerate(zip(passes, sparse, strict=True)):
        assert relative_error(tokens[..., ::8], golden[f"{frame}_sparse{i}"]) <= TOLERANCE
        logits = result.logits[..., ::16, ::16]
        assert relative_error(logits, golden[f"{frame}_lowres{i}"]) <= TOLERANCE
        assert relative_error(result.iou, golden[f"{frame}_iou{i}"]) <= TOLERANCE
        mask = np.unpackbits(golden[f"{frame}_mask{i}"])[: result.masks[0].size]
        assert mask_iou(result.masks[0], mask.reshape(result.masks[0].shape).astype(bool)) >= 0.999


_PHANTOM: dict[int, Encoded] = {}


def _encoded_phantom(built: BuiltModel) -> Encoded:
    # Encoding takes half a minute on slow cores: once for both frames.
    if id(built) not in _PHANTOM:
        _PHANTOM[id(built)] = encode(built, phantom())
    return _PHANTOM[id(built)]
