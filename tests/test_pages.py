"""Raster files as stacks: one image, or the pages of a TIFF."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_bytes import ramp, stretched, tiff_bytes
from numpy.typing import NDArray

from textsam.errors import ImageError, LimitError
from textsam.io.limits import Limits
from textsam.io.pages import open_raster
from textsam.io.raster import read_image


def pages_of(path: Path, pages: list[NDArray[Any]], **options: Any) -> Path:
    first, *others = [PIL.Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others, **options)
    return path


def directories(data: bytes) -> list[int]:
    """Where the directories of a little-endian classic TIFF are."""
    found = []
    (at,) = struct.unpack_from("<I", data, 4)
    while at:
        found.append(at)
        (count,) = struct.unpack_from("<H", data, at)
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * count)
    return found


def entry(data: bytes, directory: int, tag: int) -> int:
    """Where the value of a tag is."""
    (count,) = struct.unpack_from("<H", data, directory)
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            return at + 8
    raise KeyError(tag)


# --- one image ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_file_of_one_image(suffix: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(values).save(path)
    stack = open_raster(path)
    assert (len(stack), stack.format, stack.source) == (1, "raster", str(path))
    (image,) = stack
    assert np.array_equal(image.pixels, values)
    assert image.source == str(path)
    assert image.spacing_mm is None
    assert image.placement is not None
    assert (image.placement.index, image.placement.affine_mm) == (0, None)
    assert np.array_equal(stack[-1].pixels, values)
    with pytest.raises(TypeError, match="'slice' object cannot be interpreted as an integer"):
        stack[0:1]
    with pytest.raises(IndexError, match="1 images, there is no number 1"):
        stack[1]


def test_headers_are_checked_when_it_is_opened(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg", ".bmp", ".tif"):
        path = tmp_path / f"a{suffix}"
        PIL.Image.new("L", (20, 30)).save(path)
        with pytest.raises(LimitError, match="600 pixels"):
            open_raster(path, Limits(max_pixels=599))
    (tmp_path / "a.txt").write_text("no image at all")
    with pytest.raises(ImageError, match=r"a\.txt: this is not an image .* DICOM and NIfTI"):
        open_raster(tmp_path / "a.txt")


@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt", b"eXIf"])
def test_a_length_beyond_the_file_sets_no_memory_aside(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("a", "b")
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    picture.save(path, pnginfo=text, exif=b"II*\0\x08\0\0\0\0\0")
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.find(kind) - 4, 0x7FFFFFFF)
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="truncated or damaged"):
            open_raster(path)[0]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


def test_an_animation_is_no_stack(tmp_path: Path) -> None:
    frames = [np.full((9, 9), value, np.uint8) for value in (10, 20)]
    with pytest.raises(ImageError, match="several pages or frames"):
        open_raster(pages_of(tmp_path / "a.png", frames))


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "tiff_deflate", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int32"])
def test_pages_of_every_depth_each_with_its_own_scale(
    dtype: str, compression: str | None, tmp_path: Path
) -> None:
    pages = [ramp(dtype, 0, 40 * (n + 2), (10 + n, 14)) for n in range(4)]
    stack = open_raster(pages_of(tmp_path / "a.tif", pages, compression=compression))
    assert len(stack) == 4
    # Backwards, as no page needs the one before it.
    for index in (3, 1, 2, 0):
        image = stack[index]
        assert image.placement is not None
        assert image.placement.index == index
        expected = pages[index] if dtype == "uint8" else stretched(pages[index])
        np.testing.assert_allclose(image.pixels[..., 0], expected, atol=1e-3)


@pytest.mark.parametrize("variant", ["classic <", "classic >", "big <"])
@pytest.mark.parametrize(
    ("dtype", "colour"),
    [("uint8", False), ("uint8", True), ("uint16", False), ("uint16", True), ("float32", False)],
)
def test_what_tifffile_writes(variant: str, dtype: str, colour: bool, tmp_path: Path) -> None:
    shape = (3, 10, 12, 3) if colour else (3, 10, 12)
    values = np.random.default_rng(2).integers(0, 200, shape).astype(dtype)
    path = tmp_path / "a.tif"
    size, order = variant.split()
    photometric = "rgb" if colour else "minisblack"
    tifffile.imwrite(path, values, bigtiff=size == "big", byteorder=order, photometric=photometric)
    stack = open_raster(path)
    assert len(stack) == 3
    for page, image in zip(values, stack, strict=True):
        expected = page if dtype == "uint8" else stretched(page)
        shown = image.pixels if colour else image.pixels[..., 0]
        np.testing.assert_allclose(shown, expected, atol=1e-3)


def test_big_endian_bigtiff_is_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 200, (3, 10, 12), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, bigtiff=True, byteorder=">", photometric="minisblack")
    with pytest.raises(ImageError, match=r"big-endian BigTIFF.*tifffile\.imwrite"):
        open_raster(path)
    tifffile.imwrite(path, tifffile.imread(path), photometric="minisblack")
    assert np.array_equal(open_raster(path)[2].pixels[..., 0], values[2])


def test_orientation_of_a_later_page(tmp_path: Path) -> None:
    values = np.zeros((9, 14), np.uint8)
    values[0, 0] = 255
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(values)
        writer.write(values, extratags=[(274, 3, 1, 6, True)])
    upright = open_raster(path)[1].pixels
    assert upright.shape == (14, 9, 3)
    assert np.argwhere(upright[..., 0]).tolist() == [[0, 8]]


def test_previews_and_transparency_masks_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for value, kind in ((10, 0), (20, 1), (30, 2), (50, 0)):
            writer.write(np.full((16, 16), value, np.uint8), subfiletype=kind, metadata=None)
        writer.write(np.ones((16, 16), bool), subfiletype=4, photometric="mask", metadata=None)
    assert [int(image.pixels.max()) for image in open_raster(path)] == [10, 30, 50]
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.full((16, 16), 10, np.uint8), metadata=None)
        writer.write(np.full((8, 8), 20, np.uint8), subfiletype=1, metadata=None)
    assert (read_image(path).pixels == 10).all()
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), subfiletype=1)
    with pytest.raises(ImageError, match="no page to read"):
        open_raster(path)


# --- damage ---------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> Path:
    values = np.random.default_rng(3).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    return pages_of(tmp_path / "a.tif", list(values))


@pytest.fixture
def three_packed(tmp_path: Path) -> Path:
    values = np.random.default_rng(3).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    return pages_of(tmp_path / "p.tif", list(values), compression="tiff_deflate")


def change(path: Path, edit: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    edit(data)
    path.write_bytes(data)
    return path


def only_page_is_bad(path: Path, bad: int, words: str = "") -> None:
    stack = open_raster(path)
    assert len(stack) == 3
    values = np.random.default_rng(3).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    for index in range(3):
        if index == bad:
            with pytest.raises(ImageError, match=rf"\.tif, page {bad}: .*{words}"):
                stack[index]
        else:
            assert np.array_equal(stack[index].pixels[..., 0], values[index])


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_a_damaged_page_is_an_error_of_that_page_alone(
    bad: int, kind: str, three: Path, three_packed: Path
) -> None:
    path = three if kind == "plain" else three_packed
    # The page's strip begins far outside the file.
    change(
        path,
        lambda data: struct.pack_into(
            "<I", data, entry(data, directories(data)[bad], 273), 0x7FFFFFFF
        ),
    )
    only_page_is_bad(path, bad, "truncated or damaged")


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_page_over_the_limit_is_refused_alone(bad: int, three: Path) -> None:
    change(
        three,
        lambda data: struct.pack_into("<H", data, entry(data, directories(data)[bad], 256), 60_000),
    )
    stack = open_raster(three, Limits(max_pixels=10_000))
    with pytest.raises(LimitError, match=f"page {bad}: .*60000 columns"):
        stack[bad]
    assert stack[(bad + 1) % 3].size_px == (16, 16)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_directory_without_a_size_is_that_page_alone(bad: int, three: Path) -> None:
    change(
        three,
        lambda data: struct.pack_into(
            "<H", data, entry(data, directories(data)[bad], 256) - 8, 0x7777
        ),
    )
    only_page_is_bad(three, bad)


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_a_chain_in_a_circle_does_not_hang(back_to: int, three: Path) -> None:
    def edit(data: bytearray) -> None:
        offsets = directories(data)
        (count,) = struct.unpack_from("<H", data, offsets[2])
        struct.pack_into("<I", data, offsets[2] + 2 + 12 * count, offsets[back_to])

    with pytest.raises(ImageError, match=r"page after page 3 .* damaged"):
        open_raster(change(three, edit))


@pytest.mark.parametrize("target", [0x7FFFFFF0, 0xFFFFFFFF, -3])
def test_a_chain_that_leads_out_of_the_file_leaves_a_damaged_page(target: int, three: Path) -> None:
    def edit(data: bytearray) -> None:
        offsets = directories(data)
        (count,) = struct.unpack_from("<H", data, offsets[1])
        to = len(data) + target if target < 0 else target
        struct.pack_into("<I", data, offsets[1] + 2 + 12 * count, to)

    only_page_is_bad(change(three, edit), 2, "damaged or cut off")


def test_a_file_cut_in_its_last_page(three: Path) -> None:
    data = three.read_bytes()
    three.write_bytes(data[: directories(data)[2] + 20])
    only_page_is_bad(three, 2, "not all in the file")


def test_the_number_of_pages_is_checked_without_decoding(tmp_path: Path) -> None:
    # A thousand directories that all describe the same strip, each leading to the next.
    page = tiff_bytes(np.zeros((16, 16), np.uint8))
    (first,) = struct.unpack_from("<I", page, 4)
    directory = page[first:-4]
    count = 30_000
    data = bytearray(page[:first])
    for number in range(count):
        at = len(data)
        following = at + len(directory) + 4 if number + 1 < count else 0
        data += directory + struct.pack("<I", following)
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    began = time.process_time()
    with pytest.raises(LimitError, match="20,001 images, the limit is 20,000"):
        open_raster(path)
    assert time.process_time() - began < 10
    stack = open_raster(path, Limits(max_images=count))
    assert len(stack) == count
    assert (stack[count - 1].pixels == 0).all()


def test_a_header_without_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(ImageError, match="no page to read"):
        open_raster(path)
    for start in (b"II*\0", b"II*\0\x08", b"MM\0+\0\x08\0\0", b"II*\0\xff\xff\xff\xff"):
        path.write_bytes(start)
        with pytest.raises(ImageError):
            open_raster(path)[0]


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), packed=st.booleans())
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_raise_imageerror_or_give_an_image(
    position: float, value: int, packed: bool, three: Path, three_packed: Path, tmp_path: Path
) -> None:
    data = bytearray((three_packed if packed else three).read_bytes())
    data[int(position * len(data))] = value
    path = tmp_path / "damaged.tif"
    path.write_bytes(data)
    try:
        stack = open_raster(path, Limits(max_pixels=1_000_000))
    except ImageError:
        return
    for index in range(len(stack)):
        try:
            assert stack[index].pixels.ndim == 3
        except ImageError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_a_stack_with_one_page_for_all_its_slices_is_refused(tmp_path: Path) -> None:
    slices = np.arange(3 * 9 * 14, dtype=np.uint16).reshape(3, 9, 14)
    path = tmp_path / "a.tif"
    # As ImageJ does with stacks of more than 4 GB.
    tifffile.imwrite(path, slices, imagej=True, truncate=True)
    with pytest.raises(ImageError, match=r"a\.tif: an ImageJ stack of 3 slices"):
        open_raster(path)
    tifffile.imwrite(path, tifffile.imread(path), photometric="minisblack")
    assert len(open_raster(path)) == 3
    # One slice, cut out with the description of its stack.
    tifffile.imwrite(path, slices[1], description="ImageJ=1.54f\nimages=3\n", metadata=None)
    (image,) = open_raster(path)
    assert image.pixels[:, :, 0].argsort(axis=None).tolist() == list(range(9 * 14))
