"""Files and Pillow images in: every depth, mode and rotation."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import tifffile
from image_bytes import GREY, GREY_ALPHA, RGB, RGB_ALPHA, png_bytes, ramp, stretched, tiff_bytes
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.raster import read_image


@pytest.fixture(autouse=True)
def _no_limit_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTSAM_MAX_PIXELS", raising=False)


# --- files: depth and mode ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("shape", [(9, 14), (9, 14, 3)])
def test_lossless_8_bit_files_are_read_exactly(
    suffix: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(values).save(path)
    image = read_image(path)
    assert image.source == str(path)
    assert image.pixels.dtype == np.uint8
    expected = values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)
    assert np.array_equal(image.pixels, expected)
    assert np.array_equal(read_image(str(path)).pixels, expected)


def test_jpeg_is_read_within_its_loss(tmp_path: Path) -> None:
    values = np.zeros((32, 32, 3), dtype=np.uint8)
    values[:, :] = (200, 120, 40)
    path = tmp_path / "a.jpg"
    PIL.Image.fromarray(values).save(path, quality=95)
    assert np.abs(read_image(path).pixels.astype(int) - values).max() <= 4


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_not_clipped(suffix: str, tmp_path: Path) -> None:
    values = ramp("uint16", 500, 4095)
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(values).save(path)
    pixels = read_image(path).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[:, :, 1], stretched(values), atol=1e-3)
    # A clipped image would be white wherever the value is over 255.
    assert len(np.unique(pixels)) == values.size


@pytest.mark.parametrize(("colour_type", "channels"), [(RGB, 3), (GREY_ALPHA, 2), (RGB_ALPHA, 4)])
def test_16_bit_colour_png_keeps_the_lower_byte(
    colour_type: int, channels: int, tmp_path: Path
) -> None:
    # 12-bit values in 16-bit channels: the upper byte alone has 16 levels.
    values = np.random.default_rng(3).integers(0, 4096, (16, 18, channels)).astype(np.uint16)
    if channels in (2, 4):
        values[..., -1] = 65535
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(values, colour_type))
    colour = values[..., :3] if channels > 2 else values[..., :1]
    expected = np.broadcast_to(stretched(colour), (16, 18, 3))
    np.testing.assert_allclose(read_image(path).pixels, expected, atol=1e-3)


def test_16_bit_png_alpha_is_composited_at_full_depth(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 2), dtype=np.uint16)
    values[..., 0] = ramp("uint16", 0, 4000, (8, 8))
    values[..., 1] = 257
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(values, GREY_ALPHA))
    expected = stretched(values[..., 0]) * (257 / 65535)
    np.testing.assert_allclose(read_image(path).pixels[..., 0], expected, atol=1e-4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("uint16", (10, 12)),
        ("uint16", (10, 12, 3)),
        ("uint16", (10, 12, 4)),
        ("int16", (10, 12)),
        ("int32", (10, 12)),
        ("float32", (10, 12)),
    ],
)
def test_deep_tiff_in_either_byte_order(
    order: Literal["<", ">"], deflate: bool, dtype: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    low = 0 if dtype == "uint16" else -2000
    values = ramp(dtype, low, 4095, shape)
    if shape[-1] == 4:
        values[..., 3] = 65535
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(values, order=order, deflate=deflate))
    colour = values[..., :3] if values.ndim == 3 else values[..., None]
    expected = np.broadcast_to(stretched(colour), (10, 12, 3))
    np.testing.assert_allclose(read_image(path).pixels, expected, atol=1e-3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_uint32_tiff_does_not_wrap_to_negative(
    order: Literal["<", ">"], deflate: bool, tmp_path: Path
) -> None:
    values = ramp("uint32", 1_000_000_000, 4_000_000_000)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(values, order=order, deflate=deflate))
    np.testing.assert_allclose(read_image(path).pixels[..., 0], stretched(values), atol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_zero_tiff_is_inverted(dtype: str, tmp_path: Path) -> None:
    values = ramp(dtype, 0, np.iinfo(dtype).max)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(values, white_is_zero=True))
    expected = 255.0 - stretched(values)
    np.testing.assert_allclose(read_image(path).pixels[..., 0], expected, atol=1e-3)


def test_white_is_zero_float_tiff_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(ramp("float32", 0, 1), white_is_zero=True))
    with pytest.raises(ImageError, match="white-is-zero"):
        read_image(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_signed_bytes_are_no_unsigned_ones(
    order: Literal["<", ">"], deflate: bool, tmp_path: Path
) -> None:
    values = ramp("int8", -100, 50)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(values, order=order, deflate=deflate))
    pixels = read_image(path).pixels
    np.testing.assert_allclose(pixels[..., 0], stretched(values), atol=1e-3)
    np.testing.assert_allclose(pixels, read_image(values).pixels, atol=1e-3)
    for other in (
        tiff_bytes(values, white_is_zero=True),
        tiff_bytes(np.repeat(values[..., None], 3, axis=2)),
    ):
        path.write_bytes(other)
        with pytest.raises(ImageError, match="not an image that can be read here"):
            read_image(path)


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (2, {"photometric": "minisblack", "extrasamples": ["unspecified"]}),
        (5, {"photometric": "rgb", "extrasamples": ["unspecified", "unspecified"]}),
    ],
)
def test_channels_of_no_meaning_are_not_dropped(
    channels: int, options: dict[str, Any], tmp_path: Path
) -> None:
    values = np.random.default_rng(4).integers(0, 256, (10, 12, channels), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, planarconfig="contig", **options)
    with pytest.raises(ImageError, match=rf"a\.tif: the TIFF has {channels} channels.* save the"):
        read_image(path)


def test_a_fourth_channel_of_no_meaning_is_padding(tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 256, (10, 12, 4), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unspecified"])
    assert np.array_equal(read_image(path).pixels, values[..., :3])


def test_8_bit_planes_are_read_and_16_bit_planes_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.random.default_rng(4).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    path.write_bytes(tiff_bytes(values, separate_planes=True))
    assert np.array_equal(read_image(path).pixels, values)
    path.write_bytes(tiff_bytes(values.astype(np.uint16), separate_planes=True))
    with pytest.raises(ImageError, match="separate planes"):
        read_image(path)


def test_float_tiff_in_unit_range(tmp_path: Path) -> None:
    values = ramp("float32", 0.0, 0.5)
    path = tmp_path / "a.tif"
    PIL.Image.fromarray(values).save(path)
    np.testing.assert_allclose(read_image(path).pixels[..., 0], values * 255.0, rtol=1e-6)


def test_nan_in_float_tiff(tmp_path: Path) -> None:
    values = ramp("float32", 0.0, 0.5)
    values[0, 0] = np.nan
    path = tmp_path / "a.tif"
    PIL.Image.fromarray(values).save(path)
    with pytest.raises(ImageError, match=r"a\.tif: 1 of 240 values are NaN"):
        read_image(path)


def solid(mode: str, colour: Any) -> PIL.Image.Image:
    return PIL.Image.new(mode, (10, 9), colour)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (solid("1", 1), (255, 255, 255)),
        (solid("L", 77), (77, 77, 77)),
        (solid("LA", (200, 255)), (200, 200, 200)),
        (solid("LA", (200, 51)), (40, 40, 40)),
        (solid("RGB", (10, 20, 30)), (10, 20, 30)),
        (solid("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (solid("RGBA", (100, 200, 50, 51)), (20, 40, 10)),
        (solid("RGBX", (10, 20, 30, 0)), (10, 20, 30)),
        (solid("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
        (solid("CMYK", (0, 0, 0, 255)), (0, 0, 0)),
        (solid("HSV", (0, 0, 90)), (90, 90, 90)),
        (solid("YCbCr", (90, 128, 128)), (90, 90, 90)),
        (solid("RGB", (9, 8, 7)).convert("P", palette=PIL.Image.Palette.ADAPTIVE), (9, 8, 7)),
        (solid("RGBA", (100, 200, 50, 51)).convert("RGBa"), (20, 40, 10)),
        (solid("LA", (200, 51)).convert("La"), (40, 40, 40)),
    ],
    ids=lambda value: value.mode if isinstance(value, PIL.Image.Image) else None,
)
def test_pillow_modes(picture: PIL.Image.Image, expected: tuple[int, int, int]) -> None:
    image = read_image(picture)
    assert image.source == "PIL"
    assert image.pixels.dtype == np.uint8
    assert image.size_px == (9, 10)
    np.testing.assert_allclose(
        image.pixels.astype(int), np.broadcast_to(expected, (9, 10, 3)), atol=1
    )


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_deep_pillow_modes_are_scaled(mode: str) -> None:
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "i4", "F": "f4"}[mode]
    values = ramp(dtype, 100, 5000)
    picture = PIL.Image.frombytes(mode, (20, 12), values.tobytes())
    np.testing.assert_allclose(read_image(picture).pixels[..., 0], stretched(values), atol=1e-3)


def test_mode_without_conversion_is_refused() -> None:
    with pytest.raises(ImageError, match=r"mode 'LAB'.*convert"):
        read_image(solid("LAB", (50, 0, 0)))


def test_palette_with_transparency(tmp_path: Path) -> None:
    picture = PIL.Image.new("P", (10, 10), 0)
    picture.putpalette([250, 0, 0, 0, 240, 0])
    picture.putpixel((3, 2), 1)
    path = tmp_path / "a.png"
    picture.save(path, transparency=bytes([0, 255]))
    pixels = read_image(path).pixels
    assert pixels[2, 3].tolist() == [0, 240, 0]
    assert pixels[0, 0].tolist() == [0, 0, 0]


def test_transparent_colour_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    grey = np.full((8, 8), 60, np.uint8)
    grey[1, 1] = 61
    path.write_bytes(png_bytes(grey, GREY, chunks=((b"tRNS", struct.pack(">H", 60)),)))
    pixels = read_image(path).pixels
    assert pixels[1, 1].tolist() == [61, 61, 61]
    assert pixels.sum() == 3 * 61
    deep = ramp("uint16", 0, 6300, (8, 8))
    path.write_bytes(png_bytes(deep, GREY, chunks=((b"tRNS", struct.pack(">H", 6300)),)))
    pixels = read_image(path).pixels
    assert pixels[7, 7].tolist() == [0.0, 0.0, 0.0]
    assert pixels[7, 6, 0] == pytest.approx(255 * 6200 / 6300)
    colour = np.repeat(deep[..., None], 3, axis=2)
    key = struct.pack(">HHH", 6300, 6300, 6300)
    path.write_bytes(png_bytes(colour, RGB, chunks=((b"tRNS", key),)))
    assert np.array_equal(read_image(path).pixels, pixels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_few_bits(bits: int, tmp_path: Path) -> None:
    top = 2**bits - 1
    grey = np.full((8, 16), top, np.uint8)
    grey[3, 5] = 0
    digits = (grey[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(digits.reshape(8, -1).astype(np.uint8), axis=1)
    key = ((b"tRNS", struct.pack(">H", top)),)
    content = bytearray(png_bytes(packed, GREY, size=(8, 16), chunks=key))
    content[24] = bits
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path = tmp_path / "a.png"
    path.write_bytes(bytes(content))
    assert not read_image(path).pixels.any(), "transparent white lies over black"
    without = bytes(content).replace(b"tRNS", b"teXt", 1)
    start = without.index(b"teXt")
    crc = struct.pack(">I", zlib.crc32(without[start : start + 6]))
    path.write_bytes(without[: start + 6] + crc + without[start + 10 :])
    assert (read_image(path).pixels[..., 0] == np.where(grey == top, 255, 0)).all()


def test_planes_that_pillow_cannot_join_are_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    planes = ramp("uint8", 0, 250, (2, 12, 20))
    options: dict[str, Any] = {"planarconfig": "separate", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, planes, photometric="minisblack", metadata=None, **options)
    with pytest.raises(ImageError, match=r"how the channels are stored.*save the image as PNG"):
        read_image(path)
    # Compressed ones it decodes, to wrong values.
    tifffile.imwrite(
        path, planes, photometric="minisblack", metadata=None, compression="deflate", **options
    )
    with pytest.raises(ImageError, match=r"a\.tif: a TIFF of grey and alpha in separate planes"):
        read_image(path)
    with PIL.Image.open(path) as picture, pytest.raises(ImageError, match="in separate planes"):
        read_image(picture)


@pytest.mark.parametrize("tile", [None, (2, 16, 16)])
def test_a_page_that_is_a_volume_is_not_read_as_one_of_its_slices(
    tile: tuple[int, ...] | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    volume = ramp("uint8", 0, 250, (4, 32, 48))
    tifffile.imwrite(path, volume, volumetric=True, tile=tile, photometric="minisblack")
    with pytest.raises(ImageError, match=r"a\.tif: a TIFF page that is a volume of 4 slices.*each"):
        read_image(path)
    with PIL.Image.open(path) as picture, pytest.raises(ImageError, match="volume of 4 slices"):
        read_image(picture)


# --- rotation -------------------------------------------------------------------------------------

# EXIF 2.32 says, for every orientation, which corner of the scene the stored first row and column
# are; these are the same statements as array operations that bring the scene upright.
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, 1),
    0: lambda a: a,
    9: lambda a: a,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_applied(orientation: int, suffix: str, tmp_path: Path) -> None:
    stored = np.full((16, 24, 3), 20, np.uint8)
    stored[:8, :8] = 230
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(stored).save(path, exif=exif)
    expected = UPRIGHT[orientation](stored).astype(int)
    for source in (path, PIL.Image.open(path)):
        pixels = read_image(source).pixels
        assert pixels.shape == expected.shape
        assert np.abs(pixels - expected).max() < 25


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_orientation_is_applied_once(orientation: int, dtype: str, tmp_path: Path) -> None:
    stored = np.zeros((9, 14, 3), dtype)
    stored[:4, :3] = 255
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(stored, orientation=orientation))
    assert np.array_equal(read_image(path).pixels, UPRIGHT[orientation](stored))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_grey_tiff_opened_with_pillow_is_upright(
    orientation: int, dtype: str, tmp_path: Path
) -> None:
    # Pillow maps uncompressed grey into memory, and mixes up rows of what it turns by a quarter.
    stored = np.arange(9 * 14, dtype=dtype).reshape(9, 14)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(stored, orientation=orientation))
    with PIL.Image.open(path) as picture:
        pixels = read_image(picture).pixels
        assert picture.filename == str(path)
    assert np.array_equal(pixels, read_image(path).pixels)
    upright = UPRIGHT[orientation](stored)
    assert np.array_equal(pixels[:, :, 0].argsort(axis=None), upright.argsort(axis=None))
