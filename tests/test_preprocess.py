"""Pixels into the model's square, coordinates there and back, logits out again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PILImage
from segment_anything.utils.transforms import ResizeLongestSide

from textsam.frame import resize_pixels
from textsam.preprocess import Frame, MinMaxPixels, Preprocessor, StandardPixels

SIDES = st.integers(1, 5000)
MODEL_SIDES = st.sampled_from([64, 256, 1024])


@given(SIDES, SIDES, MODEL_SIDES)
@example(1, 5000, 256)
@example(457, 711, 1024)
def test_size_inside_the_square_is_sams(height: int, width: int, side: int) -> None:
    valid = Frame((height, width), side).valid_px
    assert max(valid) == side
    assert min(valid) >= 1
    sams = ResizeLongestSide.get_preprocess_shape(height, width, side)
    assert valid == tuple(max(1, pixels) for pixels in sams)


@pytest.mark.parametrize(
    ("image", "side", "valid"),
    [
        ((457, 711), 1024, (658, 1024)),  # 658.19 down
        ((100, 300), 64, (21, 64)),  # 21.33 down
        ((200, 300), 64, (43, 64)),  # 42.67 up
        ((1, 128), 64, (1, 64)),  # 0.5 up
        ((1, 5000), 64, (1, 64)),  # 0.01 up to 1: an image never vanishes
        ((5000, 1), 64, (64, 1)),
        ((64, 64), 64, (64, 64)),
        ((8, 4), 64, (64, 32)),
    ],
)
def test_size_inside_the_square_by_hand(
    image: tuple[int, int], side: int, valid: tuple[int, int]
) -> None:
    assert Frame(image, side).valid_px == valid


@given(SIDES, SIDES, MODEL_SIDES, st.lists(st.tuples(*[st.floats(-100, 6000)] * 2), min_size=1))
def test_points_go_to_the_model_as_sams_do(
    height: int, width: int, side: int, points: list[tuple[float, float]]
) -> None:
    frame = Frame((height, width), side)
    array = np.array(points)
    there = frame.to_model(array)
    if frame.valid_px == ResizeLongestSide.get_preprocess_shape(height, width, side):
        sams = ResizeLongestSide(side).apply_coords(array, (height, width))
        np.testing.assert_allclose(there, sams, rtol=1e-12)


def test_points_by_hand() -> None:
    frame = Frame((50, 200), 64)  # rows × 0.32 (16 px), columns × 0.32 (64 px)
    assert frame.to_model(np.array([[100.0, 25.0], [0.0, 50.0]])).tolist() == [[32, 8], [0, 16]]
    uneven = Frame((100, 300), 64)  # 21 px of 100 rows: the ratios differ
    np.testing.assert_allclose(uneven.to_model(np.array([300.0, 100.0])), [64, 21])


@pytest.mark.parametrize("image", [(30, 100), (100, 30), (300, 64), (1, 64), (7, 5000)])
def test_constant_logits_stay_constant(image: tuple[int, int]) -> None:
    logits = torch.stack([torch.full((1, 16, 16), v) for v in (-3.25, 0.5)])
    out = Frame(image, 64).logits_to_image(logits)
    assert out.shape == (2, 1, *image)
    torch.testing.assert_close(out, logits[:, :, :1, :1].expand_as(out))


@pytest.mark.parametrize("image", [(30, 100), (100, 30), (64, 64), (300, 200), (11, 17)])
def test_a_ramp_stays_a_ramp(image: tuple[int, int]) -> None:
    """Cell (i, j) says i + 100·j at its centre; between centres the value is in between."""
    frame = Frame(image, 64)
    cells = torch.arange(16.0)
    out = frame.logits_to_image((cells[:, None] + 100 * cells)[None, None])[0, 0]
    # Pixel centres of the image in cells, by way of the square.
    rows, columns = (
        (torch.arange(size) + 0.5) * valid / size / 4 - 0.5
        for size, valid in zip(image, frame.valid_px, strict=True)
    )
    # Nothing is known beyond the centres of the outer cells, nor of the outer pixels.
    ends = [min(14.8, valid / 4 - 0.7) for valid in frame.valid_px]
    inside = ((rows > 0.2) & (rows < ends[0]))[:, None] & (columns > 0.2) & (columns < ends[1])
    expected = rows[:, None] + 100 * columns
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(out[inside], expected[inside], rtol=0, atol=1e-2)


@pytest.mark.parametrize("image", [(50, 150), (150, 50), (100, 100), (128, 32), (25, 640)])
@pytest.mark.parametrize("cells", [2, 4])
@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_the_edge_of_a_half_plane_lands_on_its_pixel(
    image: tuple[int, int], cells: int, axis: str
) -> None:
    """The first `cells` of 16 low-resolution cells are inside: `4 * cells` of the square's px."""
    frame = Frame(image, 64)
    logits = -torch.ones(1, 1, 16, 16)
    along, size, valid = (
        (3, image[1], frame.valid_px[1]) if axis == "columns" else (2, image[0], frame.valid_px[0])
    )
    logits.narrow(along, 0, cells).fill_(1.0)
    mask = frame.logits_to_image(logits)[0, 0] > 0
    line = mask[image[0] // 2] if axis == "columns" else mask[:, image[1] // 2]
    assert torch.equal(
        mask, line.expand(image) if axis == "columns" else line[:, None].expand(image)
    )
    edge = 4 * cells * size / valid
    centres = torch.arange(size) + 0.5
    clear = (centres - edge).abs() > 0.51 * size / valid  # rounding may decide at the edge itself
    assert torch.equal(line[clear], (centres < edge)[clear])
    assert clear.sum() >= size - 2 * (size // valid + 1)


def test_padding_does_not_reach_the_image() -> None:
    frame = Frame((32, 128), 64)  # 16 of 64 rows
    logits = torch.full((1, 1, 16, 16), 100.0)
    logits[:, :, :4] = -1.0
    out = frame.logits_to_image(logits)[0, 0]
    # Enlarging mixes in the padding's nearest cell within half a cell, 2 px or 4 image rows, and
    # the resizing after it one row more.
    torch.testing.assert_close(out[:27], torch.full((27, 128), -1.0))


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


@settings(deadline=None, max_examples=30)
@given(*[st.integers(1, 40)] * 4)
def test_uint8_resize_is_pillows_bilinear(h: int, w: int, to_h: int, to_w: int) -> None:
    pixels = picture(h, w)
    out = resize_pixels(pixels, (to_h, to_w))
    assert out.dtype == np.uint8
    expected = PILImage.fromarray(pixels).resize((to_w, to_h), PILImage.Resampling.BILINEAR)
    assert np.array_equal(out, np.asarray(expected))


@pytest.mark.parametrize("to", [(13, 29), (80, 20), (25, 40)])
def test_float_resize_is_the_same_but_for_rounding(to: tuple[int, int]) -> None:
    pixels = picture(25, 40)
    out = resize_pixels(pixels.astype(np.float32), to)
    assert out.dtype == np.float32
    # Pillow rounds uint8 after each of its two passes.
    assert np.abs(out - resize_pixels(pixels, to)).max() <= 1.01
    assert len(np.unique(out % 1)) > 100 or to == (25, 40)


def test_halving_averages_with_a_triangle() -> None:
    row = np.array([0, 80, 160, 8, 240, 40, 16, 96], dtype=np.float32)
    pixels = np.repeat(row[None, :, None], 8, axis=0) * np.array([1, 0.5, 0], dtype=np.float32)
    out = resize_pixels(np.ascontiguousarray(pixels), (4, 4))
    a, b = (80 + 3 * 160 + 3 * 8 + 240) / 8, (8 + 3 * 240 + 3 * 40 + 16) / 8
    np.testing.assert_allclose(out[1, 1:3], [[a, a / 2, 0], [b, b / 2, 0]], rtol=1e-5)


def test_same_size_is_left_alone() -> None:
    pixels = picture(9, 11)
    assert resize_pixels(pixels, (9, 11)) is pixels


def test_standard_normalisation_by_hand_and_zeros_beyond() -> None:
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[10, 20] = (124, 116, 104)
    tensor, frame = Preprocessor(64, StandardPixels())(pixels)
    assert frame == Frame((32, 64), 64)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 64, 64)
    black = [-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375]
    lit = [(124 - 123.675) / 58.395, (116 - 116.28) / 57.12, (104 - 103.53) / 57.375]
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor(black))
    torch.testing.assert_close(tensor[:, 10, 20], torch.tensor(lit), rtol=1e-4, atol=1e-6)
    assert torch.equal(tensor[:, 32:], torch.zeros(3, 32, 64)), "padding follows normalisation"


def test_min_max_is_over_the_image_and_padding_is_zero() -> None:
    pixels = np.full((64, 16, 3), 100, dtype=np.uint8)
    pixels[3, 5] = (50, 100, 150)
    tensor, _ = Preprocessor(64, MinMaxPixels())(pixels)
    torch.testing.assert_close(tensor[:, 3, 5], torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([0.5, 0.5, 0.5]))
    assert torch.equal(tensor[:, :, 16:], torch.zeros(3, 64, 48))


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_image_becomes_zero(value: int) -> None:
    tensor, _ = Preprocessor(64, MinMaxPixels())(np.full((20, 30, 3), value, dtype=np.uint8))
    assert torch.equal(tensor, torch.zeros(3, 64, 64))


def test_the_longer_side_fills_the_square_at_any_size() -> None:
    ramp = np.linspace(0, 255, 150, dtype=np.float32)
    pixels = np.repeat(np.repeat(ramp[None, :, None], 50, axis=0), 3, axis=2)
    tensor, frame = Preprocessor(64, MinMaxPixels())(pixels)
    assert frame.valid_px == (21, 64)
    row = tensor[0, 10]
    assert (row.diff() > 0).all(), "columns stay columns, in order"
    assert (tensor[:, :21] == row).all()
    assert not tensor[:, 21:].any()


def test_a_line_of_pixels_is_prepared() -> None:
    tensor, frame = Preprocessor(64, MinMaxPixels())(picture(1, 500))
    assert frame.valid_px == (1, 64)
    assert tensor[:, 0].std() > 0.01
    assert not tensor[:, 1:].any()
