"""Grey DICOM pixels: modality, VOI, polarity, padding, signs and bits, worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import item, items, make, ramp, save
from numpy.typing import NDArray
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from textsam.errors import ConfigError, ImageError
from textsam.io.dicom import open_dicom


def shown(path: Path, window: int = 0) -> NDArray[Any]:
    """The grey values of the first frame, (H, W)."""
    pixels = open_dicom(path, window=window).read(0).pixels
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def with_values(*values: float, dtype: Any = np.int16) -> NDArray[Any]:
    """(8, 8) pixels that begin with `values` and repeat the first after that."""
    pixels = np.full(64, values[0], dtype=dtype)
    pixels[: len(values)] = values
    return pixels.reshape(8, 8)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_eight_bits_without_window_are_kept_in_every_encoding(tmp_path: Path, syntax: Any) -> None:
    pixels = ramp(9, 15, np.uint8, start=40)
    path = save(tmp_path / "a.dcm", pixels, syntax=syntax)
    assert shown(path).dtype == np.uint8
    np.testing.assert_array_equal(shown(path), pixels)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_sixteen_bits_without_window_span_their_range(tmp_path: Path, syntax: Any) -> None:
    pixels = ramp(8, 16, np.uint16, start=1000, step=3)
    path = save(tmp_path / "a.dcm", pixels, syntax=syntax)
    assert shown(path).dtype == np.float32
    np.testing.assert_allclose(shown(path), np.arange(128).reshape(8, 16) / 127 * 255, atol=1e-3)


def test_fewer_stored_bits_span_their_range(tmp_path: Path) -> None:
    pixels = with_values(0, 15, 30, 63, dtype=np.uint8)
    path = save(tmp_path / "a.dcm", pixels, BitsStored=6, HighBit=5)
    assert shown(path)[0, :4].tolist() == [0, 61, 121, 255]


def test_monochrome1_is_white_where_it_is_zero(tmp_path: Path) -> None:
    pixels = ramp(8, 8, np.uint8)
    path = save(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(shown(path), 255 - pixels)
    deep = save(
        tmp_path / "b.dcm",
        with_values(-1000, 0, 1000),
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=0,
        WindowWidth=1000,
        VOILUTFunction="LINEAR_EXACT",
    )
    np.testing.assert_allclose(shown(deep)[0, :3], [255, 127.5, 0])


# PS3.3 C.11.2.1.2.1, for centre 2048 and width 4096: black up to 0, white above 4095.
def test_linear_window_is_the_standards_formula(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm",
        with_values(-5, 0, 1, 2047, 4094, 4095, 5000),
        WindowCenter=2048,
        WindowWidth=4096,
    )
    expected = [0, 0, 255 / 4095, 2047 / 4095 * 255, 4094 / 4095 * 255, 255, 255]
    np.testing.assert_allclose(shown(path)[0, :7], expected, rtol=1e-5)


def test_narrowest_linear_window_is_a_threshold(tmp_path: Path) -> None:
    # Up to centre - 0.5 black, above white.
    path = save(tmp_path / "a.dcm", with_values(98, 99, 100, 101), WindowCenter=100, WindowWidth=1)
    assert shown(path)[0, :4].tolist() == [0, 0, 255, 255]


def test_exact_window(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm",
        with_values(-160, -60, 40, 140, 240, 300),
        WindowCenter=40,
        WindowWidth=400,
        VOILUTFunction="LINEAR_EXACT",
    )
    np.testing.assert_allclose(shown(path)[0, :6], [0, 63.75, 127.5, 191.25, 255, 255])


def test_sigmoid_window(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm",
        with_values(40, 140, -60, -32768, 32767),
        WindowCenter=40,
        WindowWidth=100,
        VOILUTFunction="SIGMOID",
    )
    expected = [255 / (1 + math.exp(-4 * x / 100)) for x in (0, 100, -100)]
    np.testing.assert_allclose(shown(path)[0, :5], [*expected, 0, 255], atol=1e-4)


def test_rescale_comes_before_the_window(tmp_path: Path) -> None:
    # Stored 0 to 4095 as in CT, with Hounsfield units 0, 40, 80 at 1024, 1064, 1104.
    path = save(
        tmp_path / "a.dcm",
        with_values(1024, 1064, 1104, dtype=np.uint16),
        BitsStored=12,
        HighBit=11,
        RescaleIntercept=-1024,
        RescaleSlope=1,
        WindowCenter=40,
        WindowWidth=80,
        VOILUTFunction="LINEAR_EXACT",
    )
    np.testing.assert_allclose(shown(path)[0, :3], [0, 127.5, 255])


def test_negative_slope_turns_the_picture_around(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", ramp(8, 8), RescaleSlope=-2, RescaleIntercept=5)
    np.testing.assert_allclose(shown(path), (63 - ramp(8, 8)) / 63 * 255, atol=1e-3)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 40, "WindowWidth": 400}])
def test_a_slope_of_0_is_refused(tmp_path: Path, window: dict[str, Any]) -> None:
    # It would show one grey all over, in which nothing is ever found.
    path = save(tmp_path / "a.dcm", ramp(), RescaleSlope=0, RescaleIntercept=-1024, **window)
    with pytest.raises(ImageError, match=r"a\.dcm: the rescale slope is 0"):
        open_dicom(path)[0]


def test_slope_of_a_multiple_is_applied(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm",
        with_values(0, 100, 200),
        RescaleSlope="0.5",
        RescaleIntercept="10",
        WindowCenter=60,
        WindowWidth=100,
        VOILUTFunction="LINEAR_EXACT",
    )
    np.testing.assert_allclose(shown(path)[0, :3], [0, 127.5, 255])


def lookup(first: int, data: list[int], bits: int = 16, **more: Any) -> Any:
    vr = "SS" if first < 0 else "US"
    table = item()
    table.add_new("LUTDescriptor", vr, [len(data), first, bits])
    table.add_new("LUTData", "US", data)
    for keyword, value in more.items():
        setattr(table, keyword, value)
    return table


def test_modality_table_comes_before_the_window(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm",
        with_values(5, 10, 11, 12, 13, 60, dtype=np.uint16),
        ModalityLUTSequence=items(lookup(10, [0, 500, 1000, 250])),
        WindowCenter=500,
        WindowWidth=1000,
        VOILUTFunction="LINEAR_EXACT",
    )
    # Below the first and above the last entry, the nearest one counts.
    np.testing.assert_allclose(shown(path)[0, :6], [0, 0, 127.5, 255, 63.75, 63.75])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_table_in_words_of_the_files_byte_order(tmp_path: Path, syntax: Any) -> None:
    table = lookup(0, [0])
    order = "<" if syntax.is_little_endian else ">"
    table.add_new("LUTDescriptor", "US", [3, 0, 12])
    table.add_new("LUTData", "OW", np.array([0, 4095, 1365], dtype=f"{order}u2").tobytes())
    path = save(
        tmp_path / "a.dcm",
        with_values(0, 1, 2, dtype=np.uint16),
        syntax=syntax,
        VOILUTSequence=items(table),
    )
    np.testing.assert_allclose(shown(path)[0, :3], [0, 255, 85], rtol=1e-6)


def test_voi_table_of_negative_values(tmp_path: Path) -> None:
    # Stored values are unsigned, but those the table is for are not.
    path = save(
        tmp_path / "a.dcm",
        with_values(0, 1, 2, 3, dtype=np.uint16),
        RescaleSlope=1,
        RescaleIntercept=-2,
        VOILUTSequence=items(lookup(-2, [255, 51, 0, 102], bits=8)),
    )
    np.testing.assert_allclose(shown(path)[0, :4], [255, 51, 0, 102], atol=1e-4)


def test_a_voi_tables_first_input_has_one_sign_whatever_a_slice_holds(tmp_path: Path) -> None:
    table = lookup(-1024, [min(value // 10, 255) for value in range(2048)], bits=8)
    for name, stored in (("air.dcm", 0), ("bone.dcm", 1500)):
        path = save(
            tmp_path / name,
            with_values(stored, stored + 500, dtype=np.uint16),
            RescaleSlope=1,
            RescaleIntercept=-1024,
            VOILUTSequence=items(table),
        )
        expected = [stored // 10, (stored + 500) // 10]
        np.testing.assert_allclose(shown(path)[0, :2], expected, rtol=1e-5)


def test_what_a_modality_table_gives_has_no_sign(tmp_path: Path) -> None:
    # Signed pixels, but the VOI table is for the outputs of the modality table.
    path = save(
        tmp_path / "a.dcm",
        with_values(-2, -1, 0, dtype=np.int16),
        ModalityLUTSequence=items(lookup(-2, [40000, 40001, 40002])),
        VOILUTSequence=items(lookup(40000, [51, 102, 255], bits=8)),
    )
    np.testing.assert_allclose(shown(path)[0, :3], [51, 102, 255], rtol=1e-5)


def test_tables_are_counted_before_windows_and_choice_is_by_number(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm",
        with_values(0, 1, 2, dtype=np.uint16),
        VOILUTSequence=items(lookup(0, [255, 0, 0], bits=8), lookup(0, [0, 255, 0], bits=8)),
        WindowCenter=[1, 10],
        WindowWidth=[2, 20],
        VOILUTFunction="LINEAR_EXACT",
    )
    assert shown(path)[0, :3].tolist() == [255, 0, 0]
    assert shown(path, 1)[0, :3].tolist() == [0, 255, 0]
    np.testing.assert_allclose(shown(path, 2)[0, :3], [0, 127.5, 255])
    np.testing.assert_allclose(shown(path, 3)[0, :3], [0, 12.75, 25.5], rtol=1e-6)
    # All values, as without any of them.
    np.testing.assert_allclose(shown(path, -1)[0, :3], [0, 127.5, 255])


def test_window_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm", with_values(0, 9), WindowCenter=[40, 300.5], WindowWidth=[80, 1500]
    )
    with pytest.raises(ImageError, match=r"no window 2, the file has 2.* 0: 40/80, 1: 300.5/1500"):
        open_dicom(path, window=2).read(0)
    plain = save(tmp_path / "b.dcm", with_values(0, 9))
    with pytest.raises(ImageError, match=r"no window 1, the file has 0"):
        open_dicom(plain, window=1).read(0)
    for wrong in (-2, 1.0, True, "1"):
        with pytest.raises(ConfigError, match="window must be a whole number from 0, or -1"):
            open_dicom(path, window=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (0, "LINEAR_EXACT"), (-3, "SIGMOID")]
)
def test_impossible_window_is_refused_and_can_be_passed_by(
    tmp_path: Path, width: float, function: str
) -> None:
    path = save(
        tmp_path / "a.dcm",
        with_values(0, 9),
        WindowCenter=4,
        WindowWidth=width,
        VOILUTFunction=function,
    )
    with pytest.raises(ImageError, match=r"window of width .* window=-1"):
        open_dicom(path).read(0)
    assert shown(path, -1)[0, :2].tolist() == [0, 255]


def test_unknown_voi_function_is_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm", with_values(0, 9), WindowCenter=4, WindowWidth=4, VOILUTFunction="CUBIC"
    )
    with pytest.raises(ImageError, match="'CUBIC' is not one of LINEAR"):
        open_dicom(path).read(0)


def test_signed_values_of_twelve_bits_whose_upper_bits_hold_something_else(tmp_path: Path) -> None:
    # An overlay in bit 12, and no sign extension: -1 is 0x0FFF (PS3.5 8.1.1).
    stored = np.array([-2048, -1, 0, 2047])
    words = (stored & 0x0FFF).astype(np.uint16) | np.array([0, 1 << 12, 1 << 12, 0], np.uint16)
    pixels = with_values(*words.view(np.int16), dtype=np.int16)
    path = save(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=11)
    np.testing.assert_allclose(shown(path)[0, :4], (stored + 2048) / 4095 * 255, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_values_in_the_upper_bits(tmp_path: Path, dtype: Any) -> None:
    # 12 bits up to bit 15; the lower four hold an overlay.
    stored = np.array([0, 1, 1000, 2047])
    words = (stored << 4 | np.array([0, 15, 15, 15])).astype(dtype)
    pixels = with_values(*words, dtype=dtype)
    path = save(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=15)
    np.testing.assert_allclose(shown(path)[0, :4], stored / 2047 * 255, atol=1e-3)
    # Run lengths are of bytes, and leave the bits where they are.
    dataset = make(pixels)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.BitsStored = 12
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_allclose(shown(path)[0, :4], stored / 2047 * 255, atol=1e-3)


@pytest.mark.parametrize("written_unsigned", [False, True])
def test_padding_is_black_and_outside_the_range(tmp_path: Path, written_unsigned: bool) -> None:
    dataset = make(with_values(-2000, 0, 50, 100))
    value = 65536 - 2000 if written_unsigned else -2000
    dataset.add_new("PixelPaddingValue", "US" if written_unsigned else "SS", value)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_allclose(shown(path)[0, :4], [0, 0, 127.5, 255])


def test_range_of_padding_is_black_in_monochrome1_too(tmp_path: Path) -> None:
    dataset = make(with_values(4095, 4090, 4000, 2000, 0, dtype=np.uint16))
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.add_new("PixelPaddingValue", "US", 4095)
    dataset.add_new("PixelPaddingRangeLimit", "US", 4090)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_allclose(shown(path)[0, :5], [0, 0, 0, 127.5, 255], atol=1e-4)


def test_all_padding_is_black(tmp_path: Path) -> None:
    dataset = make(np.full((8, 8), 7, np.uint16))
    dataset.add_new("PixelPaddingValue", "US", 7)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert (shown(path) == 0).all()


def test_constant_image_is_black(tmp_path: Path) -> None:
    assert (shown(save(tmp_path / "a.dcm", np.full((8, 8), 700, np.uint16))) == 0).all()


# Frames of 81 bits, so that the second begins within a byte; of frames of 99 bits some end in the
# byte that another begins in.
@pytest.mark.parametrize("shape", [(2, 9, 9), (8, 9, 11)])
def test_one_bit_is_black_and_white(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    bits = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    dataset = make(bits)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    stack = open_dicom(path)
    for number in reversed(range(len(bits))):
        np.testing.assert_array_equal(stack.read(number).pixels[..., 1], bits[number] * 255)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_pixels(tmp_path: Path, dtype: Any) -> None:
    pixels = with_values(-1.5, 0.5, 2.5, dtype=dtype)
    path = save(tmp_path / "a.dcm", pixels)
    np.testing.assert_allclose(shown(path)[0, :3], [0, 127.5, 255])
    pixels[3, 3] = np.nan
    save(path, pixels)
    with pytest.raises(ImageError, match="1 of 64 pixels are NaN or infinite"):
        open_dicom(path).read(0)
    save(path, pixels, WindowCenter=0, WindowWidth=2)
    with pytest.raises(ImageError, match="1 of 64 pixels are NaN or infinite"):
        open_dicom(path).read(0)


def test_numbers_of_any_size(tmp_path: Path) -> None:
    huge = with_values(-1.7e308, 0, 1.7e308, dtype=np.float64)
    np.testing.assert_allclose(shown(save(tmp_path / "a.dcm", huge))[0, :3], [0, 127.5, 255])
    tiny = {"WindowCenter": 1, "WindowWidth": "1e-300", "VOILUTFunction": "LINEAR_EXACT"}
    path = save(tmp_path / "b.dcm", with_values(0, 1, 2), **tiny)
    assert shown(path)[0, [0, 2]].tolist() == [0, 255]
    path = save(tmp_path / "c.dcm", with_values(0, 1, 2), RescaleSlope="1e300", RescaleIntercept=0)
    with pytest.raises(ImageError, match="rescale slope and intercept lead to values"):
        open_dicom(path).read(0)


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.int8])
def test_other_depths(tmp_path: Path, dtype: Any) -> None:
    info = np.iinfo(dtype)
    pixels = with_values(info.min, info.max // 2 + info.min // 2, info.max, dtype=dtype)
    np.testing.assert_allclose(
        shown(save(tmp_path / "a.dcm", pixels))[0, :3],
        [0, 127.5, 255],
        atol=1.01 if info.bits == 8 else 1e-3,
    )


def test_window_of_a_frames_own_group(tmp_path: Path) -> None:
    pixels = np.stack([with_values(0, 50, 100), with_values(0, 50, 100)]).astype(np.uint16)

    def group(centre: float, slope: float) -> Any:
        return item(
            FrameVOILUTSequence=items(
                item(WindowCenter=centre, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
            ),
            PixelValueTransformationSequence=items(
                item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")
            ),
        )

    path = save(
        tmp_path / "a.dcm",
        pixels,
        PerFrameFunctionalGroupsSequence=items(group(50, 1), group(100, 2)),
    )
    stack = open_dicom(path)
    np.testing.assert_allclose(stack.read(0).pixels[0, :3, 0], [0, 127.5, 255])
    # 0, 100, 200 in a window from 50 to 150.
    np.testing.assert_allclose(stack.read(1).pixels[0, :3, 0], [0, 127.5, 255])
    save(
        path,
        pixels,
        SharedFunctionalGroupsSequence=items(group(100, 1)),
        PerFrameFunctionalGroupsSequence=items(item(), item()),
    )
    np.testing.assert_allclose(open_dicom(path).read(1).pixels[0, :3, 0], [0, 0, 127.5])


def test_burned_in_annotation_decides_nothing(tmp_path: Path) -> None:
    pixels = ramp(8, 8, np.uint8)
    for value in ("YES", "NO", "MAYBE"):
        path = save(tmp_path / f"{value}.dcm", pixels, BurnedInAnnotation=value)
        np.testing.assert_array_equal(shown(path), pixels)
