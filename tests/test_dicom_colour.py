"""Colour and palettes of DICOM."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import make, ramp, save
from pydicom import Dataset
from pydicom.pixels import apply_color_lut

from textsam.errors import ImageError
from textsam.io.dicom import open_dicom

COLOURS = np.random.default_rng(3).integers(0, 256, (10, 12, 3), dtype=np.uint8)


def test_colour_by_pixel_and_by_plane(tmp_path: Path) -> None:
    image = open_dicom(save(tmp_path / "a.dcm", COLOURS)).read(0)
    np.testing.assert_array_equal(image.pixels, COLOURS)
    planes = np.ascontiguousarray(COLOURS.transpose(2, 0, 1)).tobytes()
    path = save(tmp_path / "b.dcm", COLOURS, PlanarConfiguration=1, PixelData=planes)
    np.testing.assert_array_equal(open_dicom(path).read(0).pixels, COLOURS)


def test_frames_of_colour(tmp_path: Path) -> None:
    frames = np.random.default_rng(4).integers(0, 256, (3, 8, 9, 3), dtype=np.uint8)
    stack = open_dicom(save(tmp_path / "a.dcm", frames))
    for number in (2, 0, 1):
        np.testing.assert_array_equal(stack[number].pixels, frames[number])


def test_sixteen_bit_colour_is_scaled_by_its_bits(tmp_path: Path) -> None:
    deep = COLOURS.astype(np.uint16) * 8
    image = open_dicom(save(tmp_path / "a.dcm", deep, BitsStored=12, HighBit=11)).read(0)
    np.testing.assert_allclose(image.pixels, deep / 4095 * 255, atol=1e-3)


def test_ybr_full_becomes_rgb(tmp_path: Path) -> None:
    # PS3.3 C.7.6.3.1.2, the other way round: pure red is (76, 85, 255).
    ybr = np.zeros((8, 8, 3), np.uint8)
    ybr[:4] = (76, 85, 255)
    ybr[4:] = (150, 128, 128)
    path = save(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    pixels = open_dicom(path).read(0).pixels.astype(int)
    assert abs(pixels[0, 0] - (255, 0, 0)).max() <= 2
    assert pixels[7, 7].tolist() == [150, 150, 150]


@pytest.mark.parametrize("frames", [1, 2])
def test_colours_of_all_pixels_are_not_read_as_of_every_second(frames: int, tmp_path: Path) -> None:
    pixels = np.stack([COLOURS] * frames)
    path = save(tmp_path / "a.dcm", pixels, PhotometricInterpretation="YBR_FULL_422")
    with pytest.raises(ImageError, match=r"a\.dcm: the header says YBR_FULL_422.*as RGB"):
        open_dicom(path)
    halves = pixels.reshape(-1)[: pixels.size // 3 * 2].tobytes()
    path = save(
        tmp_path / "b.dcm", pixels, PhotometricInterpretation="YBR_FULL_422", PixelData=halves
    )
    assert len(open_dicom(path)) == frames


def test_colour_has_no_windows(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", COLOURS)
    with pytest.raises(ImageError, match="no window 1, a colour image has none"):
        open_dicom(path, window=1).read(0)
    np.testing.assert_array_equal(open_dicom(path, window=-1).read(0).pixels, COLOURS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PhotometricInterpretation": "HSV"}, "'HSV' is not supported"),
        ({"PhotometricInterpretation": "MONOCHROME2"}, "MONOCHROME2 with 3 samples"),
        ({"PixelRepresentation": 1}, "signed"),
        ({"PlanarConfiguration": 7}, "planar configuration 7"),
        ({"PhotometricInterpretation": "YBR_RCT"}, "YBR_RCT cannot be converted"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "a.dcm", COLOURS, **changes)
    with pytest.raises(ImageError, match=message):
        open_dicom(path).read(0)


def palette(
    pixels: np.ndarray, tables: list[bytes], descriptor: list[int], *, segmented: bool = False
) -> Dataset:
    dataset = make(pixels, PhotometricInterpretation="PALETTE COLOR")
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        name = f"{colour}PaletteColorLookupTable"
        dataset.add_new(f"{name}Descriptor", "US", descriptor)
        dataset.add_new(f"{'Segmented' if segmented else ''}{name}Data", "OW", table)
    return dataset


def pixels_of(dataset: Dataset, path: Path) -> np.ndarray:
    dataset.save_as(path, enforce_file_format=True)
    return open_dicom(path).read(0).pixels


def words(*values: int) -> bytes:
    return np.array(values, dtype="<u2").tobytes()


def test_palette_of_sixteen_bits(tmp_path: Path) -> None:
    pixels = ramp(8, 8, np.uint8)
    tables = [words(*(v * k for v in range(50))) for k in (1310, 655, 13)]
    got = pixels_of(palette(pixels, tables, [50, 4, 16]), tmp_path / "a.dcm")
    # Indices begin at 4; those outside take the first or last entry.
    entry = np.clip(pixels.astype(int) - 4, 0, 49)
    expected = np.stack([entry * k for k in (1310, 655, 13)], -1) / 65535 * 255
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_palette_of_eight_bits_in_bytes_or_words(tmp_path: Path) -> None:
    pixels = ramp(8, 8, np.uint8)
    flat = [bytes(range(100, 164)), bytes(range(64)), bytes(range(63, -1, -1))]
    wide = [words(*table) for table in flat]
    expected = np.stack([np.frombuffer(table, np.uint8)[pixels] for table in flat], -1)
    for tables in (flat, wide):
        got = pixels_of(palette(pixels, tables, [64, 0, 8]), tmp_path / "a.dcm")
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, expected)


def test_segmented_palette_as_by_pydicom(tmp_path: Path) -> None:
    pixels = ramp(8, 8, np.uint8)
    # Discrete 2, linear 14, discrete 1, linear 7, and all but the last again: 48 entries.
    first = (0, 2, 100, 200, 1, 14, 60000, 0, 1, 5)
    table = words(*first, 1, 7, 41, 2, 3, 0, 0, 1, 7, 65535)
    dataset = palette(
        pixels, [table, table, words(0, 1, 0, 1, 47, 65535)], [48, 0, 16], segmented=True
    )
    got = pixels_of(dataset, tmp_path / "a.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = apply_color_lut(pixels, dataset)
    np.testing.assert_allclose(got, expected / 65535 * 255, atol=5e-3)
    # By hand: the third entry is the first of 14 steps from 200 to 60000.
    assert got[0, 2, 0] == pytest.approx(round(200 + 59800 / 14) / 65535 * 255, abs=1e-3)


def test_segmented_palette_of_eight_bits(tmp_path: Path) -> None:
    # Discrete 2, linear 4, and both again: the offset is of four bytes.
    table = bytes([0, 2, 10, 20, 1, 4, 60, 2, 2, 0, 0, 0, 0])
    got = pixels_of(
        palette(ramp(8, 8, np.uint8), [table] * 3, [12, 0, 8], segmented=True), tmp_path / "a.dcm"
    )
    assert got[0, :, 0].tolist() == [10, 20, 30, 40, 50, 60, 10, 20]
    assert got[1, :5, 2].tolist() == [30, 40, 50, 60, 60]


@pytest.mark.parametrize(
    "table",
    [
        words(0, 2, 1, 2),  # too few
        words(0, 90, *range(90)),  # too many
        words(1, 48, 7),  # a line from nowhere
        words(2, 65535, 0, 0),  # itself, for ever
        words(7, 1, 1),  # unknown
        words(0, 1, 5, 1, 65535, 9, 2, 65535, 0, 0),  # a bomb
        b"",
    ],
)
def test_damaged_segments_are_refused(tmp_path: Path, table: bytes) -> None:
    dataset = palette(ramp(8, 8, np.uint8), [table] * 3, [48, 0, 16], segmented=True)
    with pytest.raises(ImageError, match=r"palette|PaletteColorLookupTable"):
        pixels_of(dataset, tmp_path / "a.dcm")


def test_missing_or_short_palette_is_refused(tmp_path: Path) -> None:
    dataset = palette(ramp(8, 8, np.uint8), [words(*range(64))] * 3, [64, 0, 16])
    del dataset.GreenPaletteColorLookupTableData
    with pytest.raises(ImageError, match="no GreenPaletteColorLookupTableData"):
        pixels_of(dataset, tmp_path / "a.dcm")
    dataset = palette(ramp(8, 8, np.uint8), [words(*range(30))] * 3, [64, 0, 16])
    with pytest.raises(ImageError, match="30 entries, its descriptor says 64"):
        pixels_of(dataset, tmp_path / "b.dcm")
    dataset = palette(ramp(8, 8, np.uint8), [words(*range(64))] * 3, [64, 0, 99])
    with pytest.raises(ImageError, match="8 to 16 bits"):
        pixels_of(dataset, tmp_path / "c.dcm")
