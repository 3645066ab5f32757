"""Files that cannot be used: missing, truncated, damaged, too large, of several pages."""

from __future__ import annotations

import threading
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_bytes import GREY, RGB, png_bytes, ramp

from textsam.errors import ImageError
from textsam.io.raster import read_image


@pytest.fixture(autouse=True)
def _no_limit_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTSAM_MAX_PIXELS", raising=False)


# --- bombs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [10_500, 30_000])
def test_bomb_is_refused_from_its_header_without_a_warning(side: int, tmp_path: Path) -> None:
    # 110 megapixels is in the range where Pillow warns, 900 where it raises its own error.
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(np.zeros((8, 8), np.uint8), GREY, size=(side, side)))
    before = PIL.Image.MAX_IMAGE_PIXELS
    tracemalloc.start()
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with pytest.raises(ImageError, match=rf"{side} rows x {side} columns"):
                read_image(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == []
    assert peak < 2_000_000
    assert before == PIL.Image.MAX_IMAGE_PIXELS


def test_images_over_pillows_own_limit_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    PIL.Image.fromarray(np.full((30, 30), 9, np.uint8)).save(path)
    # Pillow would raise for anything over twice its limit.
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    assert (read_image(path).pixels == 9).all()
    assert PIL.Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
@pytest.mark.parametrize("limit", [100, 800])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiffs_over_pillows_own_limit_are_read(
    dtype: type, limit: int, compression: str | None, tmp_path: Path, monkeypatch: Any
) -> None:
    # Pillow compares the size of a TIFF again when it decodes: over the limit it warns, over twice
    # the limit it raises.
    path = tmp_path / "a.tif"
    colours = np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(dtype)
    colours[0, 0, 0], colours[0, 0, 1] = 0, np.iinfo(dtype).max
    if dtype == np.uint8:
        PIL.Image.fromarray(colours).save(path, compression=compression)
    else:
        tifffile.imwrite(path, colours, compression="zlib" if compression else None)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    expected = colours * (255.0 / np.iinfo(dtype).max)
    np.testing.assert_allclose(read_image(path).pixels, expected, rtol=1e-6)
    assert limit == PIL.Image.MAX_IMAGE_PIXELS


def test_pillow_image_size_is_checked_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(png_bytes(np.zeros((8, 8), np.uint8), GREY, size=(9000, 9000)))
    with PIL.Image.open(path) as picture, pytest.raises(ImageError, match="81,000,000 pixels"):
        read_image(picture, max_pixels=80_000_000)


def test_pillow_settings_survive_concurrent_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    values = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    PIL.Image.fromarray(values).save(path)
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 12345)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(20):
            if not np.array_equal(read_image(path).pixels[..., 0], values):
                wrong.append("values")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert PIL.Image.MAX_IMAGE_PIXELS == 12345


# --- files that cannot be used --------------------------------------------------------------------


def test_missing_empty_folder_and_text_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no\.png: there is no such file"):
        read_image(tmp_path / "no.png")
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match="0 bytes"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not an image at all")
    with pytest.raises(ImageError, match="not an image that can be read here"):
        read_image(tmp_path / "text.png")
    PIL.Image.new("L", (9, 9)).save(tmp_path / "a.gif")
    with pytest.raises(ImageError, match="not an image that can be read here"):
        read_image(tmp_path / "a.gif")


def test_special_files_are_refused() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no device files here")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image("/dev/zero")


@pytest.mark.parametrize("tolerated", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_truncated_files_are_refused(
    suffix: str, tolerated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", tolerated)
    values = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(values).save(path)
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ImageError, match=r"a\.[a-z]+: "):
            read_image(path)
    assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is tolerated


def test_truncated_16_bit_colour_png(tmp_path: Path) -> None:
    values = np.random.default_rng(5).integers(0, 65536, (64, 64, 3)).astype(np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(values, RGB)[:9000])
    with pytest.raises(ImageError, match="truncated or damaged"):
        read_image(path)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    suffix=st.sampled_from([".png", ".jpg", ".bmp", ".tif"]),
    position=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
def test_damaged_bytes_never_raise_anything_but_imageerror(
    suffix: str, position: float, value: int, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(ramp("uint8", 0, 255, (16, 16))).save(path)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] = value
    path.write_bytes(data)
    with warnings.catch_warnings():
        # Pillow warns of damaged metadata, which is not what is tested here.
        warnings.simplefilter("ignore")
        try:
            image = read_image(path, max_pixels=1_000_000)
        except ImageError:
            return
    assert image.pixels.shape[2] == 3


def test_several_pages_are_refused_and_one_page_can_be_chosen(tmp_path: Path) -> None:
    pages = [PIL.Image.new("L", (9, 9), value) for value in (10, 20, 30)]
    path = tmp_path / "stack.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match=r"several pages.*seek"):
        read_image(path)
    with PIL.Image.open(path) as picture:
        picture.seek(1)
        assert (read_image(picture).pixels == 20).all()


def test_camera_jpeg_with_preview_is_read(tmp_path: Path) -> None:
    first, preview = PIL.Image.new("L", (32, 32), 200), PIL.Image.new("L", (32, 32), 10)
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert np.abs(read_image(tmp_path / "a.jpg").pixels.astype(int) - 200).max() <= 2


def test_truncated_pillow_image(tmp_path: Path) -> None:
    values = np.random.default_rng(5).integers(0, 256, (64, 64), dtype=np.uint8)
    PIL.Image.fromarray(values).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with (
        PIL.Image.open(tmp_path / "a.png") as picture,
        pytest.raises(ImageError, match="PIL: the image data is truncated"),
    ):
        read_image(picture)
