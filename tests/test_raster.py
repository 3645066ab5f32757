"""Arrays in: every dtype and shape, the size limit, and the scaling of values."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from image_bytes import ramp, stretched
from numpy.typing import NDArray

from textsam.errors import ConfigError, ImageError
from textsam.io.limits import DEFAULT_MAX_PIXELS, max_pixels_limit
from textsam.io.raster import read_image


@pytest.fixture(autouse=True)
def _no_limit_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTSAM_MAX_PIXELS", raising=False)


# --- arrays ---------------------------------------------------------------------------------------


def test_uint8_colour_is_kept_and_copied() -> None:
    source = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    image = read_image(source)
    assert image.pixels.dtype == np.uint8
    assert np.array_equal(image.pixels, source)
    before = image.pixels.copy()
    source[:] = 0
    assert np.array_equal(image.pixels, before)
    assert (image.height, image.width, image.size_px, image.source) == (9, 11, (9, 11), "array")
    assert image.spacing_mm is None


def test_low_contrast_uint8_is_not_stretched() -> None:
    source = np.full((8, 8), 100, dtype=np.uint8)
    source[0, 0] = 101
    assert np.array_equal(read_image(source).pixels[:, :, 1], source)


@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 1)])
def test_grey_is_repeated_to_three_channels(shape: tuple[int, ...]) -> None:
    source = np.arange(120, dtype=np.uint8).reshape(shape)
    pixels = read_image(source).pixels
    assert pixels.shape == (10, 12, 3)
    for channel in range(3):
        assert np.array_equal(pixels[:, :, channel], source.reshape(10, 12))


def test_bool_becomes_0_and_255() -> None:
    source = np.zeros((8, 8), dtype=bool)
    source[2, 3] = True
    pixels = read_image(source).pixels
    assert pixels.dtype == np.uint8
    assert pixels[2, 3].tolist() == [255, 255, 255]
    assert pixels.sum() == 3 * 255


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_unit_floats_are_multiplied_by_255_not_stretched(dtype: str) -> None:
    source = ramp(dtype, 0.25, 0.75)
    pixels = read_image(source).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[:, :, 0], source.astype(np.float64) * 255.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint16", 300, 4095),
        ("int16", -1024, 3071),
        ("int32", -2_000_000_000, 2_000_000_000),
        ("uint32", 4_000_000_000, 4_294_967_000),
        ("int64", -(2**60), 2**60),
        ("int8", -128, 127),
        ("float16", -60000.0, 60000.0),
        ("float32", -3.0e38, 3.0e38),
        ("float64", -1.7e308, 1.7e308),
        ("float64", 0.0, 1.5),
        ("float64", -0.5, 1.0),
        (">u2", 0, 65535),
    ],
)
def test_other_values_are_stretched_over_the_whole_image(
    dtype: str, low: float, high: float
) -> None:
    source = ramp(dtype, low, high) if high < 1e300 else np.tile([low, 0.0, high, high / 2], (8, 3))
    source = source.astype(dtype)
    pixels = read_image(source).pixels
    assert pixels.dtype == np.float32
    # Halves, so that the expectation itself does not overflow.
    half = source.astype(np.float64) / 2
    expected = (half - half.min()) / (half.max() - half.min()) * 255.0
    np.testing.assert_allclose(pixels[:, :, 2], expected, atol=1e-3)
    assert pixels.min() == 0.0
    assert pixels.max() == 255.0


def test_colour_channels_share_one_scale() -> None:
    source = np.zeros((8, 8, 3), dtype=np.uint16)
    source[..., 0], source[..., 1], source[..., 2] = 1000, 2000, 3000
    assert read_image(source).pixels[4, 4].tolist() == [0.0, 127.5, 255.0]


@pytest.mark.parametrize("value", [0, 7, -3, 1e30])
def test_constant_images_become_zero(value: float) -> None:
    pixels = read_image(np.full((8, 9), value, dtype=np.float64)).pixels
    assert not pixels.any()


def test_constant_unit_float_keeps_its_brightness() -> None:
    assert (read_image(np.full((8, 8), 0.5)).pixels == 127.5).all()


def test_images_larger_than_one_scaling_block_match_the_formula() -> None:
    source = np.arange(1100 * 2000, dtype=np.int32).reshape(1100, 2000)
    np.testing.assert_allclose(read_image(source).pixels[:, :, 0], stretched(source), atol=1e-4)


def test_opaque_alpha_is_dropped_and_other_alpha_composited_over_black() -> None:
    source = np.full((8, 8, 4), 200, dtype=np.uint8)
    source[..., 3] = 255
    assert (read_image(source).pixels == 200).all()
    source[0, :3, 3] = 0, 51, 127
    pixels = read_image(source).pixels
    assert pixels.dtype == np.uint8
    assert pixels[0, :4, 0].tolist() == [0, 40, 100, 200]


def test_alpha_of_16_bits_and_of_floats() -> None:
    deep = np.zeros((8, 8, 4), dtype=np.uint16)
    deep[..., 0] = 5000
    deep[..., 3] = 65535
    assert read_image(deep).pixels[0, 0].tolist() == [255.0, 0.0, 0.0]
    deep[0, 0, 3] = 13107
    assert read_image(deep).pixels[0, 0].tolist() == pytest.approx([51.0, 0.0, 0.0])
    unit = np.full((8, 8, 4), 0.5, dtype=np.float32)
    assert read_image(unit).pixels[0, 0].tolist() == pytest.approx([63.75] * 3)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_fourth_channel_that_is_no_alpha_is_refused(dtype: str) -> None:
    with pytest.raises(ImageError, match=r"no alpha channel.*image\[\.\.\., :3\]"):
        read_image(np.full((8, 8, 4), 200, dtype=dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinity_are_counted_and_refused(bad: float, dtype: str) -> None:
    source = np.zeros((8, 10), dtype=dtype)
    source[3, 4] = source[3, 5] = bad
    with pytest.raises(ImageError, match=r"2 of 80 values are NaN or infinite.*nan_to_num"):
        read_image(source)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 64, 64), "channels-first.*moveaxis"),
        ((1, 64, 64), "channels-first"),
        ((4, 64, 60), "channels-first"),
        ((64, 64, 2), "two channels"),
        ((40, 64, 64), "volume"),
        ((2, 64, 64, 3), "batch"),
        ((64,), "two-dimensional"),
        ((), "two-dimensional"),
        ((0, 64), "is empty"),
        ((64, 0, 3), "is empty"),
        ((1, 1), "at least 8"),
        ((7, 100), "at least 8"),
        ((100, 7, 3), "at least 8"),
    ],
)
def test_wrong_shapes_name_the_likely_mistake(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((8, 8), dtype=np.complex64), r"numpy\.abs"),
        (np.empty((8, 8), dtype=object), r"numpy\.stack"),
        (np.zeros((8, 8), dtype="U3"), "astype"),
        (np.zeros((8, 8), dtype="datetime64[s]"), "astype"),
        (np.zeros((8, 8), dtype=[("r", "u1")]), "astype"),
    ],
)
def test_wrong_dtypes_are_refused_with_a_remedy(array: NDArray[Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(array)


def test_huge_array_is_refused_without_allocating() -> None:
    huge = np.broadcast_to(np.float32(0.5), (20_000, 20_000, 3))
    tracemalloc.start()
    try:
        with pytest.raises(
            ImageError, match=r"400,000,000 pixels.*100,000,000.*TEXTSAM_MAX_PIXELS"
        ):
            read_image(huge)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_masked_arrays() -> None:
    plain = np.ma.masked_array(np.arange(64, dtype=np.uint8).reshape(8, 8), mask=False)
    assert np.array_equal(read_image(plain).pixels[..., 0], np.arange(64).reshape(8, 8))
    plain[0, 0] = np.ma.masked
    with pytest.raises(ImageError, match="filled"):
        read_image(plain)


def test_torch_tensor_message_names_numpy() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ImageError, match=r"\(3, 8, 9\).*permute|permute.*\.numpy\(\)") as caught:
        read_image(torch.zeros(3, 8, 9))
    assert ".numpy()" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([[1, 2], [3, 4]], "list of 2.*asarray"),
        ((1, 2, 3), "tuple of 3"),
        (None, "NoneType"),
        (b"\x89PNG", r"PIL\.Image\.open"),
        (5, r"builtins\.int"),
        ({}, "dict"),
    ],
)
def test_other_types_are_refused(source: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(source)


# --- the size limit -------------------------------------------------------------------------------


def test_limit_comes_from_argument_then_environment_then_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = np.zeros((10, 10), dtype=np.uint8)
    assert max_pixels_limit() == DEFAULT_MAX_PIXELS == 100_000_000
    monkeypatch.setenv("TEXTSAM_MAX_PIXELS", "99")
    with pytest.raises(ImageError, match="100 pixels, more than the limit of 99"):
        read_image(image)
    assert read_image(image, max_pixels=100).size_px == (10, 10)
    with pytest.raises(ImageError, match="limit of 99"):
        read_image(read_image(image, max_pixels=100))


@pytest.mark.parametrize("text", ["many", "0", "-5", "1e6"])
def test_unusable_environment_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTSAM_MAX_PIXELS", text)
    with pytest.raises(ConfigError, match=f"TEXTSAM_MAX_PIXELS is '{text}'"):
        read_image(np.zeros((10, 10), dtype=np.uint8))


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "7"])
def test_unusable_limit_argument(limit: Any) -> None:
    with pytest.raises(ConfigError, match="max_pixels"):
        read_image(np.zeros((10, 10), dtype=np.uint8), max_pixels=limit)


# --- scaling, for any image -----------------------------------------------------------------------

numeric = st.sampled_from(["u1", "u2", "i2", "i4", "u4", "i8", "f2", "f4", "f8", ">i2", ">f4"])


@settings(deadline=None, max_examples=120)
@given(data=st.data(), dtype=numeric)
def test_scaling_keeps_order_and_range(data: st.DataObject, dtype: str) -> None:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        elements = npst.from_dtype(kind, allow_nan=False, allow_infinity=False)
    else:
        elements = npst.from_dtype(kind)
    values = data.draw(npst.arrays(dtype, (8, 9), elements=elements))
    pixels = read_image(values).pixels
    assert pixels.shape == (8, 9, 3)
    assert pixels.dtype == (np.uint8 if dtype == "u1" else np.float32)
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    scaled = pixels[..., 0].ravel()
    in_order = scaled[np.argsort(values.ravel(), kind="stable")]
    assert (np.diff(in_order.astype(np.float64)) >= 0).all()
    for channel in (1, 2):
        assert np.array_equal(pixels[..., channel], pixels[..., 0])


@settings(deadline=None, max_examples=60)
@given(values=npst.arrays("u2", (8, 8, 3)), offset=st.integers(-1000, 1000))
def test_stretching_ignores_offset(values: NDArray[Any], offset: int) -> None:
    moved = values.astype(np.int32) + offset
    assert np.array_equal(read_image(values).pixels, read_image(moved).pixels)
