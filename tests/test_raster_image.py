"""The Image itself, and masks and pictures out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.image import Image, Placement
from textsam.io.raster import read_image, write_mask, write_picture


@pytest.fixture(autouse=True)
def _no_limit_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTSAM_MAX_PIXELS", raising=False)


# --- Image ----------------------------------------------------------------------------------------


def test_image_is_returned_as_it_is() -> None:
    image = Image(np.zeros((8, 8, 3), np.uint8), "made", spacing_mm=(0.5, 0.25))
    assert read_image(image) is image
    assert image.spacing_mm == (0.5, 0.25)


@pytest.mark.parametrize(
    ("pixels", "spacing", "words"),
    [
        (np.zeros((8, 8), np.uint8), None, r"\(H, W, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), None, r"\(H, W, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), None, "empty"),
        ([1, 2], None, "list"),
        (np.zeros((8, 8, 3), np.float64), None, "float64"),
        (np.full((8, 8, 3), 256, np.float32), None, "256"),
        (np.full((8, 8, 3), np.nan, np.float32), None, "nan"),
        (np.zeros((8, 8, 3), np.uint8), (0.0, 1.0), "spacing_mm"),
        (np.zeros((8, 8, 3), np.uint8), (1.0, 1.0, 1.0), "spacing_mm"),
        (np.zeros((8, 8, 3), np.uint8), (1.0, float("nan")), "spacing_mm"),
        (np.zeros((8, 8, 3), np.uint8), 0.1, "two positive numbers, .*got 0.1"),
        (np.zeros((8, 8, 3), np.uint8), ("a", "b"), "two positive numbers"),
    ],
)
def test_image_refuses_what_the_model_could_not_use(pixels: Any, spacing: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        Image(pixels, "made", spacing)


@pytest.mark.parametrize(
    "region", [5, (0, 0, 3), (0, 0, 3.5, 3), ("a", 0, 1, 1), (0, 0, float("inf"), 3)]
)
def test_a_region_is_four_whole_numbers(region: Any) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ImageError, match="four whole numbers"):
        Image(pixels, "made", region_px=region)
    with pytest.raises(ImageError, match="not inside the image of 8 x 8 px"):
        Image(pixels, "made", region_px=(0, 0, 8, 3))
    kept = Image(pixels, "made", region_px=np.array([0.0, 1.0, 7.0, 3.0]))  # type: ignore[arg-type]
    assert kept.region_px == (0, 1, 7, 3)


def test_a_placement_is_a_number_and_an_affine() -> None:
    index: Any
    for index in (-1, "1", 1.0, None):
        with pytest.raises(ImageError, match=f"Placement.index is {index!r}"):
            Placement(index)
    with pytest.raises(ImageError, match=r"Placement\.frame is -1"):
        Placement(0, frame=-1)
    assert (Placement(5).index_in_file, Placement(5, frame=0).index_in_file) == (5, 0)
    assert json.dumps(Placement(np.int64(3)).index) == "3"  # type: ignore[arg-type]
    affine: Any
    for affine in ("x", [[1, 2], [3]], np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(ImageError, match="4 x 4 finite numbers"):
            Placement(0, affine)


def test_sha256_follows_content_shape_and_dtype() -> None:
    values = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)
    image = Image(values, "one")
    assert image.sha256() == hashlib.sha256(b"uint8 (8, 16, 3)\n" + values.tobytes()).hexdigest()
    assert image.sha256() == Image(np.asfortranarray(values), "two").sha256()
    assert image.sha256() != Image(values.reshape(16, 8, 3), "one").sha256()
    assert image.sha256() != Image(values.astype(np.float32), "one").sha256()
    changed = values.copy()
    changed[3, 3, 1] ^= 1
    assert image.sha256() != Image(changed, "one").sha256()


# --- masks out ------------------------------------------------------------------------------------


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    mask=npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)),
    name=st.sampled_from(["m.png", "m.tif", "m.TIFF", "deep/er/m.PNG"]),
)
def test_masks_survive_saving(mask: NDArray[np.bool_], name: str, tmp_path: Path) -> None:
    path = write_mask(mask, tmp_path / name)
    assert path == tmp_path / name
    with PIL.Image.open(path) as stored:
        assert stored.mode == "L"
        values = np.asarray(stored)
    assert set(np.unique(values)) <= {0, 255}
    assert np.array_equal(values == 255, mask)
    assert [item.name for item in path.parent.iterdir() if item.is_file()].count(path.name) == 1
    assert not [item for item in path.parent.iterdir() if item.name.startswith(".")]


def test_mask_read_back_as_an_image(tmp_path: Path) -> None:
    mask = np.eye(12, dtype=bool)
    pixels = read_image(write_mask(mask, str(tmp_path / "m.png"))).pixels
    assert np.array_equal(pixels[..., 0] == 255, mask)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((4, 4), np.uint8), "mask > 0"),
        (np.zeros((4, 4, 1), bool), r"\(4, 4, 1\)"),
        (np.zeros((0, 4), bool), "empty"),
        ([[True]], "list"),
    ],
)
def test_write_mask_refuses_other_arrays(mask: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=words):
        write_mask(mask, tmp_path / "m.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.jpg", "m", "m.npy"])
def test_write_mask_refuses_lossy_and_unknown_types(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"\.png, \.tif, \.tiff"):
        write_mask(np.ones((4, 4), bool), tmp_path / name)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_mask(np.ones((4, 4), bool), tmp_path / "m.png")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PIL.Image.Image, "save", full)
    with pytest.raises(ImageError, match=r"m\.png: the file cannot be written.*No space left"):
        write_mask(np.zeros((4, 4), bool), path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["m.png"]


def test_write_over_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.png").mkdir()
    with pytest.raises(ImageError, match="cannot be written"):
        write_mask(np.ones((4, 4), bool), tmp_path / "m.png")


def test_write_picture(tmp_path: Path) -> None:
    picture = PIL.Image.new("RGB", (10, 9), (200, 30, 10))
    with PIL.Image.open(write_picture(picture, tmp_path / "o.png")) as stored:
        assert stored.getpixel((3, 3)) == (200, 30, 10)
    with PIL.Image.open(write_picture(picture, tmp_path / "o.jpg")) as stored:
        assert stored.format == "JPEG"
    with pytest.raises(ImageError, match="file type"):
        write_picture(picture, tmp_path / "o.svg")
