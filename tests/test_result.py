"""Segmentation: measures by hand-counted masks, stable JSON, and pictures one can read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion  # type: ignore[import-untyped]

from textsam.errors import ConfigError, ImageError, TextSAMError
from textsam.io.image import Image, Placement
from textsam.io.open import open_stack
from textsam.overlay import DEFAULT_COLOUR
from textsam.result import Segmentation

GREY = 100


def segmentation(mask: NDArray[np.bool_], **changes: Any) -> Segmentation:
    spacing = changes.pop("spacing_mm", None)
    pixels = changes.pop("pixels", np.full((*mask.shape, 3), GREY, np.uint8))
    parts: dict[str, Any] = {
        "mask": mask,
        "probability": mask.astype(np.float32),
        "score": 0.93218,
        "found": bool(mask.any()),
        "prompt": "tumor",
        "image": Image(pixels, "scan.png", spacing),
        "adapter": "busi",
        "model": "sam-b",
    }
    return Segmentation(**{**parts, **changes})


def block(height: int = 10, width: int = 12) -> NDArray[np.bool_]:
    """Rows 2 to 4, columns 5 to 8, without the corner at row 2, column 5: 11 pixels."""
    mask = np.zeros((height, width), bool)
    mask[2:5, 5:9] = True
    mask[2, 5] = False
    return mask


# --- measures -----------------------------------------------------------------------------------


def test_measures_of_a_counted_mask() -> None:
    result = segmentation(block(), spacing_mm=(0.5, 0.2))
    assert result.box == (5, 2, 8, 4)
    assert result.area_px == 11
    assert result.area_mm2 == pytest.approx(1.1)
    # Columns: 5 twice, 6, 7 and 8 three times; rows: 2 three times, 3 and 4 four times.
    assert result.centroid == pytest.approx((73 / 11, 34 / 11))


def test_single_corner_pixels() -> None:
    for row, column in ((0, 0), (9, 11), (0, 11), (9, 0)):
        mask = np.zeros((10, 12), bool)
        mask[row, column] = True
        result = segmentation(mask)
        assert result.box == (column, row, column, row)
        assert result.centroid == (column, row)
        assert result.area_px == 1


def test_empty_mask() -> None:
    result = segmentation(np.zeros((10, 12), bool), spacing_mm=(1.0, 1.0))
    assert (result.box, result.centroid, result.area_px, result.area_mm2) == (None, None, 0, 0.0)
    assert result.found is False


def test_area_of_slanted_pixels(tmp_path: Path) -> None:
    # A gantry tilted by 30 degrees: each slice lies a little further to the front than the one
    # before, so that rows and columns of sagittal slices are not perpendicular.
    tilt = np.radians(30)
    affine = np.diag([2.0, 1.5, 0.0, 1.0])
    affine[:3, 2] = 4.0 * np.array([0.0, np.sin(tilt), np.cos(tilt)])
    kind: Any = nibabel.Nifti1Image
    kind(np.zeros((9, 10, 12), np.uint8), affine).to_filename(tmp_path / "tilted.nii")
    for axis, pixel_mm2 in ((2, 2 * 1.5), (1, 2 * 4), (0, 1.5 * 4 * np.cos(tilt))):
        image = open_stack(tmp_path / "tilted.nii", axis=axis)[0]
        mask = np.ones(image.size_px, bool)
        result = segmentation(mask, image=image)
        assert result.area_mm2 == pytest.approx(mask.size * pixel_mm2)


@pytest.mark.parametrize(("spacing", "told"), [((0.3, 0.7), 2.31), ((3e-4, 1e-3), 3.3e-6)])
def test_area_in_json_has_no_digits_of_chance(spacing: tuple[float, float], told: float) -> None:
    result = segmentation(block(), spacing_mm=spacing)
    assert result.area_mm2 != told
    assert result.to_dict()["area_mm2"] == told


def test_area_without_spacing_is_unknown() -> None:
    assert segmentation(block()).area_mm2 is None


@settings(deadline=None, max_examples=60)
@given(mask=npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=15)))
def test_measures_agree_with_the_list_of_pixels(mask: NDArray[np.bool_]) -> None:
    result = segmentation(mask)
    points = [(x, y) for y, row in enumerate(mask.tolist()) for x, on in enumerate(row) if on]
    assert result.area_px == len(points)
    if not points:
        assert result.box is None
        return
    xs, ys = [x for x, _ in points], [y for _, y in points]
    assert result.box == (min(xs), min(ys), max(xs), max(ys))
    assert result.centroid == pytest.approx((sum(xs) / len(xs), sum(ys) / len(ys)))


# --- parts that contradict each other -----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": np.zeros((10, 12), np.uint8)}, "mask must be bool"),
        ({"mask": np.zeros((12, 10), bool)}, r"size \(10, 12\), got bool \(12, 10\)"),
        ({"probability": np.zeros((10, 12))}, "float64"),
        ({"probability": np.zeros((5, 6), np.float32)}, r"\(5, 6\)"),
        ({"probability": np.full((10, 12), 1.5, np.float32)}, "sigmoid"),
        ({"probability": np.full((10, 12), -0.1, np.float32)}, "sigmoid"),
        ({"probability": np.full((10, 12), np.nan, np.float32)}, "nan"),
        ({"score": 1.2}, "1.2"),
        ({"score": float("nan")}, "nan"),
        ({"found": False}, "'tumor': found is False but the mask has 11 pixels"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    parts = {**vars(segmentation(block())), **changes}
    with pytest.raises(TextSAMError, match=words):
        Segmentation(**parts)


def test_numpy_scalars_become_plain_numbers() -> None:
    result = segmentation(block(), score=np.float32(0.5), found=np.bool_(True))
    assert type(result.score) is float
    assert type(result.found) is bool


def test_repr_is_short_and_has_no_arrays() -> None:
    text = repr(segmentation(np.ones((500, 500), bool)))
    assert "tumor" in text
    assert "area_px=250000" in text
    assert len(text) < 250


# --- JSON ---------------------------------------------------------------------------------------


def test_to_dict_is_exactly_the_documented_schema() -> None:
    result = segmentation(block(), spacing_mm=(0.5, 0.2), extra={"refine": 1})
    assert result.to_dict() == {
        "prompt": "tumor",
        "found": True,
        "score": 0.9322,
        "box": [5, 2, 8, 4],
        "centroid": [6.636, 3.091],
        "centroid_mm": None,
        "area_px": 11,
        "area_mm2": pytest.approx(1.1),
        "image": {
            "source": "scan.png",
            "index": 0,
            "height": 10,
            "width": 12,
            "sha256": result.image.sha256(),
        },
        "model": "sam-b",
        "adapter": "busi",
        "extra": {"refine": 1},
    }
    order = "prompt found score box centroid centroid_mm area_px area_mm2 image model adapter extra"
    assert " ".join(result.to_dict()) == order


def test_the_centroid_in_the_patient_by_hand() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 5:9] = True  # centroid (6.5, 3)
    affine = np.eye(4)
    # Columns run to the back at 0.5 mm, rows to the head at 2 mm, from (100, 20, -30).
    affine[:3] = [[0, 0, 1, 100], [0.5, 0, 0, 20], [0, 2, 0, -30]]
    result = segmentation(mask)
    image = replace(result.image, placement=Placement(3, affine))
    placed = replace(result, image=image)
    assert result.centroid_mm is None
    assert placed.centroid_mm == (100.0, 20 + 3.25, -30 + 6.0)
    facts = placed.to_dict()
    assert facts["centroid_mm"] == [100.0, 23.25, -24.0]
    assert facts["image"]["index"] == 3
    empty = replace(placed, mask=np.zeros_like(mask), found=False)
    assert empty.centroid_mm is None


def test_to_dict_of_nothing_found() -> None:
    facts = segmentation(np.zeros((10, 12), bool)).to_dict()
    assert facts["found"] is False
    assert facts["box"] is None
    assert facts["centroid"] is None
    assert facts["area_px"] == 0
    assert facts["area_mm2"] is None
    assert facts["extra"] == {}


def test_extra_becomes_plain_json(tmp_path: Path) -> None:
    extra = {
        "seconds": np.float32(0.5),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "points": ((1, 2), [3.5]),
        "file": Path("a") / "b",
        "nested": {"none": None, "text": "Größe"},
        "undefined": float("nan"),
        "endless": np.float64("inf"),
    }
    path = segmentation(block(), extra=extra).save_json(tmp_path / "deep" / "r.json")
    assert path == tmp_path / "deep" / "r.json"
    text = path.read_text(encoding="utf-8")
    assert "Größe" in text
    assert text.endswith("}\n")
    assert json.loads(text)["extra"] == {
        "seconds": 0.5,
        "count": 3,
        "flag": True,
        "points": [[1, 2], [3.5]],
        "file": str(Path("a") / "b"),
        "nested": {"none": None, "text": "Größe"},
        "undefined": None,
        "endless": None,
    }


def test_a_file_name_that_is_no_utf8_goes_into_json(tmp_path: Path) -> None:
    source = os.fsdecode(b"scan-\xff.png")
    result = segmentation(disc(10, 12))
    odd = replace(result, image=replace(result.image, source=source))
    path = odd.save_json(tmp_path / "result.json")
    assert json.loads(path.read_text(encoding="utf-8"))["image"]["source"] == source


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"logits": np.zeros(3)}, r"extra\['logits'\] is a ndarray"),
        ({"a": [1, {"b": object()}]}, r"extra\['a'\]\[1\]\['b'\] is a object"),
        ({3: "x"}, "key 3"),
    ],
)
def test_extra_that_json_cannot_hold_is_named(
    extra: dict[Any, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(TextSAMError, match=words):
        segmentation(block(), extra=extra).save_json(tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_save_json_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TextSAMError, match="cannot be written"):
        segmentation(block()).save_json(tmp_path / "file" / "r.json")


def test_save_writes_the_mask(tmp_path: Path) -> None:
    result = segmentation(block())
    with PIL.Image.open(result.save(tmp_path / "mask.png")) as stored:
        assert np.array_equal(np.asarray(stored), np.where(result.mask, 255, 0))
    with pytest.raises(ImageError, match=r"\.png"):
        result.save(tmp_path / "mask.jpg")


# --- pictures -----------------------------------------------------------------------------------


def disc(height: int, width: int, row: float = 0.5, column: float = 0.5) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width]
    radius = 0.2 * min(height, width)
    mask: NDArray[np.bool_] = np.hypot(rows - row * height, columns - column * width) < radius
    return mask


def test_overlay_tints_inside_outlines_the_edge_and_leaves_the_rest() -> None:
    result = segmentation(disc(400, 600))
    picture = result.overlay(alpha=0.45)
    assert (picture.mode, picture.size) == ("RGB", (600, 400))
    shown = np.asarray(picture)
    tinted = [round(GREY * 0.55 + value * 0.45) for value in DEFAULT_COLOUR]
    assert shown[200, 300].tolist() == tinted
    assert shown[370, 550].tolist() == [GREY] * 3
    exact = (shown == DEFAULT_COLOUR).all(axis=2)
    rows, columns = np.nonzero(exact)
    from_centre = np.hypot(rows - 200, columns - 300)
    assert exact.sum() > 400
    assert from_centre.min() > 76
    assert from_centre.max() < 84


def test_overlay_colour_and_strength() -> None:
    result = segmentation(disc(400, 400))
    full = np.asarray(result.overlay(alpha=1.0, colour="#0000ff"))
    assert full[200, 200].tolist() == [0, 0, 255]
    none = np.asarray(result.overlay(alpha=0.0, colour=(0, 255, 0)))
    assert none[200, 200].tolist() == [GREY] * 3
    assert (none == (0, 255, 0)).all(axis=2).sum() > 300


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 1.1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": "0.5"}, "alpha must lie in \\[0, 1\\], got '0.5'"),
        ({"colour": "sort of red"}, "sort of red"),
        ({"colour": (0, 0, 300)}, "300"),
        ({"colour": (0, 0)}, "red, green, blue"),
        ({"colour": 5}, "the colour 5 is not usable"),
        ({"colour": "rgb(300,0,0)"}, "red, green, blue in 0 to 255"),
    ],
)
def test_overlay_refuses_unusable_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        segmentation(disc(64, 64)).overlay(**options)


def test_overlay_leaves_the_result_unchanged() -> None:
    result = segmentation(disc(300, 300))
    before = result.image.sha256()
    result.overlay()
    assert result.image.sha256() == before
    assert (result.image.pixels == GREY).all()


def test_overlay_of_a_float_image_rounds() -> None:
    pixels = np.full((300, 300, 3), 99.6, np.float32)
    shown = np.asarray(segmentation(disc(300, 300), pixels=pixels).overlay())
    assert shown[290, 290].tolist() == [100] * 3


def caption_area(shown: NDArray[np.uint8]) -> NDArray[np.bool_]:
    black, white = (shown == 0).all(axis=2), (shown == 255).all(axis=2)
    return np.asarray(black | white)


@pytest.mark.parametrize(
    "size", [(8, 8), (8, 4000), (4000, 8), (64, 64), (256, 300), (700, 500), (2500, 3000)]
)
def test_caption_is_readable_at_any_size(size: tuple[int, int]) -> None:
    mask = np.zeros(size, bool)
    picture = segmentation(mask, score=0.07).overlay()
    shown = np.asarray(picture)
    height, width = size
    if min(size) >= 256:
        assert picture.size == (width, height)
    assert picture.width >= 192
    rows = np.flatnonzero((shown.min(axis=2) >= 250).max(axis=1))
    # The image is mid-grey, so anything white is text: its height is what must be legible, and
    # that of larger images grows with them.
    text_height = int(rows[-1] - rows[0] + 1)
    assert text_height >= max(9, min(picture.size) // 60)
    assert text_height <= max(40, picture.height // 10)


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    mask = np.zeros((64, 64), bool)
    mask[40:50, 40:50] = True
    shown = np.asarray(segmentation(mask).overlay(alpha=1.0))
    assert shown.shape == (256, 256, 3)
    # Rows and columns 40 to 49 become 160 to 199; the outline reaches two pixels to either side.
    assert (shown[163:197, 163:197] == DEFAULT_COLOUR).all()
    for outside in (shown[150:157], shown[203:210], shown[:, 150:157], shown[:, 203:210]):
        assert (outside == GREY).all()


def test_caption_avoids_the_mask() -> None:
    for row, column in ((0.1, 0.1), (0.1, 0.9), (0.9, 0.1)):
        mask = disc(500, 500, row, column)
        shown = np.asarray(segmentation(mask).overlay(alpha=0.3))
        # The outline has black beside its colour, so its surroundings do not count.
        inside = binary_erosion(np.pad(mask, 1), iterations=5)[1:-1, 1:-1]
        assert inside.sum() > 10_000
        assert not caption_area(shown)[inside].any()
    shown = np.asarray(segmentation(np.zeros((500, 500), bool)).overlay())
    assert (shown[:4, :4] == 0).all()


def test_long_prompts_are_shortened_but_the_score_stays() -> None:
    mask = np.zeros((300, 400), bool)
    endings = []
    for prompt in ("mass " * 200, "x" * 900):
        picture = segmentation(mask, prompt=prompt, score=0.5).overlay()
        assert picture.width == 400
        assert picture.height < 400
        endings.append(caption_area(np.asarray(picture)).sum())
    assert all(endings)
    from textsam.overlay import _fit

    font = PIL.ImageFont.load_default(size=14)
    text = _fit("mass " * 200, "0.50 not found", font, 380)
    assert text.replace("\n", " ").endswith("… 0.50 not found")
    assert len(text.split("\n")) == 3
    assert all(font.getlength(line) <= 380 for line in text.split("\n"))
    assert _fit("tumor", "0.93", font, 380) == "tumor 0.93"


def test_caption_tells_prompts_scores_and_absence_apart() -> None:
    mask = np.zeros((300, 300), bool)
    pictures = [
        segmentation(mask, prompt="tumor", score=0.11).overlay().tobytes(),
        segmentation(mask, prompt="nerve", score=0.11).overlay().tobytes(),
        segmentation(mask, prompt="tumor", score=0.19).overlay().tobytes(),
        segmentation(mask, prompt="tumor", score=0.11, found=True).overlay().tobytes(),
    ]
    assert len(set(pictures)) == 4


def test_prompts_with_line_breaks_and_other_scripts() -> None:
    mask = disc(300, 300)
    one = segmentation(mask, prompt="left\n\tlung").overlay().tobytes()
    assert one == segmentation(mask, prompt="left lung").overlay().tobytes()
    assert segmentation(mask, prompt="опухоль").overlay().size == (300, 300)


def test_large_overlays_keep_their_size_and_touching_masks_are_outlined() -> None:
    mask = np.zeros((3000, 2600), bool)
    mask[2500:, 2000:] = True
    picture = segmentation(mask).overlay(alpha=0.0)
    assert picture.size == (2600, 3000)
    shown = np.asarray(picture)
    # The outline runs along the image's edge too, half a pixel outside it.
    assert (shown[2700, 2594:] == DEFAULT_COLOUR).all(axis=1).any()
    assert (shown[2994:, 2300] == DEFAULT_COLOUR).all(axis=1).any()
    assert (shown[2494:2506, 2300] == DEFAULT_COLOUR).all(axis=1).any()


def test_importing_results_does_not_import_torch_or_skimage() -> None:
    import subprocess
    import sys

    code = (
        "import sys, textsam.result; print([m for m in ('torch', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
