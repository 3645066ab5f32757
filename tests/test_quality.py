"""Doubtful masks: each defect drawn by hand is found where it is, and clean masks give nothing."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import run as textsam
from numpy.typing import NDArray
from PIL import Image

from textsam.data.coco import CocoSelection, samples_from_coco
from textsam.data.defect_tile import DEFECT_COLOUR, draw_defect
from textsam.data.defects import DEFECTS, Defect, QualitySettings, mask_defects
from textsam.data.quality import assess, write_report
from textsam.data.sample import CocoTarget, Sample
from textsam.data.survey import samples_in_folder
from textsam.errors import ConfigError, DataError
from textsam.io.coco import encode_rle
from textsam.io.coco_shapes import rles_of
from textsam.overlay import DEFAULT_COLOUR

Mask = NDArray[np.bool_]
H, W = 120, 160
YS, XS = np.mgrid[:H, :W]


def disc(x: float = 80, y: float = 60, radius: float = 30) -> Mask:
    return np.asarray((XS - x) ** 2 + (YS - y) ** 2 < radius**2)


def found(mask: Mask, raw: Any = None, **settings: Any) -> list[Defect]:
    return list(mask_defects(mask, QualitySettings.model_validate(settings), raw=raw))


def kinds(mask: Mask, **settings: Any) -> list[str]:
    return [defect.kind for defect in found(mask, **settings)]


def only(mask: Mask, **settings: Any) -> Defect:
    (defect,) = found(mask, **settings)
    return defect


CLEAN = {
    "disc": disc(),
    "small disc": disc(radius=5),
    "ellipse": np.asarray(((XS - 80) / 60) ** 2 + ((YS - 60) / 9) ** 2 < 1),
    "rectangle": np.asarray((XS > 20) & (XS < 60) & (YS > 30) & (YS < 90)),
    "slanted square": np.asarray(abs(XS - 80) + abs(YS - 60) < 40),
    "two discs": disc(40) | disc(120, radius=20),
    "ring": disc(radius=40) & ~disc(radius=25),
    "vessel": np.asarray(abs(YS - 60 - 20 * np.sin(XS / 20)) < 2) & (XS > 20) & (XS < 140),
    "nothing": np.zeros((H, W), bool),
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_masks_have_no_defect(name: str) -> None:
    assert kinds(CLEAN[name]) == []
    assert found(CLEAN[name], raw=CLEAN[name].astype(np.uint8) * 255) == []


def test_small_holes_are_found_where_they_are() -> None:
    mask = disc()
    mask[60:63, 80:83] = False
    mask[41:43, 80] = False
    defect = only(mask)
    assert (defect.kind, defect.value) == ("hole", 2)
    assert defect.message == "2 hole(s) of 2 to 9 px"
    np.testing.assert_array_equal(defect.region, disc() & ~mask)
    # A ring's lumen is a hole as soon as it is asked for: 25²/(40² − 25²) = 64 %.
    assert kinds(CLEAN["ring"], hole_percent=63) == []
    assert kinds(CLEAN["ring"], hole_percent=66) == ["hole"]
    assert kinds(mask, hole_percent=0) == []


def test_a_hole_is_measured_by_the_region_around_it() -> None:
    # 9 px are 11 % of the 81 px around them, however large the other region is.
    mask = disc(120)
    mask[10:19, 10:19] = True
    mask[13:16, 13:16] = False
    assert kinds(mask, speck_percent=0, hole_percent=12) == []
    assert kinds(mask, speck_percent=0, hole_percent=13) == ["hole"]


def test_specks_are_found_beside_a_larger_region() -> None:
    mask = disc()
    mask[5, 5] = mask[6, 6] = True  # corners join
    mask[100:103, 10:13] = True
    defect = only(mask)
    assert (defect.kind, defect.value) == ("speck", 2)
    assert defect.message == "2 speck(s) of 2 to 9 px"
    np.testing.assert_array_equal(defect.region, mask & ~disc())
    assert kinds(mask, speck_percent=0.1) == ["speck"]
    assert kinds(mask, speck_percent=0.01) == []


@pytest.mark.parametrize("gap_px", [0, 5])
def test_an_outline_is_told_from_a_region(gap_px: int) -> None:
    line = disc(radius=30) & ~disc(radius=28)
    if gap_px:
        line[58 : 58 + gap_px, 100:] = False
    defect = only(line)
    assert defect.kind == "outline"
    assert ("a gap in it" in defect.message) == bool(gap_px)
    np.testing.assert_array_equal(defect.region, line)
    assert kinds(line, outline_width_px=1) == []
    if gap_px:
        assert kinds(line, outline_gap_px=2) == []


def test_tiny_and_full_masks() -> None:
    mask = np.zeros((H, W), bool)
    mask[50, 70:73] = True
    assert only(mask).kind == "tiny"  # 3 of 19,200 px are 0.016 %
    assert kinds(mask, tiny_percent=0.01) == []
    full = np.ones((H, W), bool)
    assert kinds(full) == ["full", "border"]
    full[:, :8] = False  # 95 %
    assert "full" in kinds(full)
    assert "full" not in kinds(full, full_percent=96)


def test_what_lies_along_the_border() -> None:
    defect = only(disc(x=10))
    rows = int(disc(x=10)[:, 0].sum())
    assert (defect.kind, defect.value) == ("border", rows)
    assert defect.region[:, 1:].sum() == 0
    assert kinds(disc(x=10), border_px=rows + 1) == []
    assert kinds(disc(x=30.5)) == []


def test_a_rough_edge() -> None:
    angle = np.arctan2(YS - 60, XS - 80)
    comb = np.hypot(XS - 80, YS - 60) < 30 + 4 * np.sign(np.sin(24 * angle))
    defect = only(comb)
    assert defect.kind == "jagged"
    assert defect.value > 1.4
    assert defect.region.any()
    assert not (defect.region & disc(radius=24)).any()
    assert kinds(comb, jagged_ratio=2.5) == []


@pytest.mark.parametrize("step", [3, 4, 8])
def test_an_edge_in_steps(step: int) -> None:
    small = np.zeros((H // step, W // step), bool)
    ys, xs = np.mgrid[: H // step, : W // step]
    small[(ys - 60 / step) ** 2 + (xs - 80 / step) ** 2 < (40 / step) ** 2] = True
    mask = np.zeros((H, W), bool)
    large = small.repeat(step, 0).repeat(step, 1)
    mask[2 : 2 + large.shape[0], 1 : 1 + large.shape[1]] = large[: H - 2, : W - 1]
    defect = next(d for d in found(mask) if d.kind == "blocky")
    assert defect.value == step
    assert "blocky" not in kinds(mask, blocky_px=step + 1)


def test_values_between_0_and_255() -> None:
    raw = disc().astype(np.uint8) * 255
    raw[60, 110:114] = (200, 140, 90, 30)
    (defect,) = found(raw > 127, raw)
    assert (defect.kind, defect.value) == ("soft-edge", 4)
    assert "between 30 and 200" in defect.message
    assert found(raw > 127, raw, soft_px=5) == []


def sample_of(tmp_path: Path, shapes: dict[str, list[Mask]]) -> Sample:
    Image.fromarray(np.full((H, W), 90, np.uint8)).save(tmp_path / "one.png")
    targets = tuple(
        CocoTarget(
            concept,
            tmp_path / "a.json",
            (H, W),
            tuple(code for mask in masks for code in rles_of(encode_rle(mask), (H, W))),
        )
        for concept, masks in shapes.items()
    )
    return Sample("made", "unknown", "one", tmp_path / "one.png", targets)


def test_two_polygons_of_one_annotation_claim_nothing_twice(tmp_path: Path) -> None:
    Image.fromarray(np.full((H, W), 90, np.uint8)).save(tmp_path / "one.png")
    ring = [10, 10, 60, 10, 60, 60, 10, 60]
    other = [value + 20 for value in ring]
    annotation = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "one.png", "height": H, "width": W}],
        "categories": [{"id": 1, "name": "tumor"}],
        "annotations": [{**annotation, "id": 1, "segmentation": [ring, other]}],
    }
    selection = CocoSelection(images=".", annotations="a.json")

    def kinds_found() -> set[str]:
        (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8")
        return {f.kind for f in assess(samples_from_coco(tmp_path, selection)).findings}

    assert "instance-overlap" not in kinds_found()
    (one,) = content["annotations"]
    content["annotations"] = [
        {**one, "id": number, "segmentation": [part]} for number, part in enumerate((ring, other))
    ]
    assert "instance-overlap" in kinds_found()


def test_overlaps_of_concepts_and_of_annotations(tmp_path: Path) -> None:
    shapes = {"tumor": [disc(60), disc(90)], "lung": [disc(120)]}
    report = assess([sample_of(tmp_path, shapes)])
    assert {f.kind: f.concept for f in report.findings} == {
        "instance-overlap": "tumor",
        "overlap": "tumor + lung",
    }
    areas = {f.kind: f.value for f in report.findings}
    assert areas["instance-overlap"] == (disc(60) & disc(90)).sum()
    assert areas["overlap"] == ((disc(60) | disc(90)) & disc(120)).sum()
    apart = {"tumor": [disc(40, radius=20), disc(90, radius=20)], "lung": [disc(131, radius=20)]}
    assert assess([sample_of(tmp_path, apart)]).findings == ()
    several = QualitySettings(overlap_px=10_000)
    assert assess([sample_of(tmp_path, shapes)], several).findings == ()


def write_folder(folder: Path) -> Path:
    """Two clean masks, one with holes, one with a speck, one empty."""
    holes, speck = disc(), disc()
    holes[60:63, 80:83] = False
    speck[5:7, 5:7] = True
    masks = [disc(), disc(70), holes, speck, np.zeros((H, W), bool)]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, mask in enumerate(masks):
        Image.fromarray((mask * 100 + 50).astype(np.uint8)).save(folder / f"images/{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"masks/{number}.png")
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_command_reports_and_changes_nothing(tmp_path: Path) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    before = digests(data)
    result = textsam("data", "quality", data, "--concept", "tumor", "-o", out)
    assert result.exit_code == 0, result.output
    assert "5 images, 4 masks, 2 findings" in result.output
    assert digests(data) == before
    assert sorted(path.name for path in out.iterdir()) == [
        "quality.csv", "quality.json", "quality.md", "sheet-hole-001.png", "sheet-speck-001.png",
    ]  # fmt: skip
    content = json.loads((out / "quality.json").read_text(encoding="utf-8"))
    assert content["counts"] == {"hole": 1, "speck": 1}
    assert (content["images"], content["masks"], content["empty_masks"]) == (5, 4, 1)
    assert content["settings"]["hole_percent"] == 10
    with (out / "quality.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["kind"], r["stem"], r["concept"]) for r in rows] == [
        ("hole", "2", "tumor"),
        ("speck", "3", "tumor"),
    ]
    corners = [int(rows[0][name]) for name in ("x_min", "y_min", "x_max", "y_max")]
    assert corners == [80, 60, 82, 62]
    text = (out / "quality.md").read_text(encoding="utf-8")
    assert "(sheet-hole-001.png)" in text
    # What is no longer found has no sheet left over.
    again = textsam(
        "data", "quality", data, "-o", out, "--kind", "hole", "--threshold", "hole_percent=0"
    )
    assert again.exit_code == 0, again.output
    assert sorted(p.suffix for p in out.iterdir()) == [".csv", ".json", ".md"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--threshold", "speck_percent"], 2, "NAME=VALUE"),
        (["--threshold", "specks=2"], 1, "the thresholds are hole_percent"),
        (["--threshold", "border_px=0"], 1, "border_px"),
        (["--kind", "crack"], 1, "no finding 'crack'"),
    ],
)
def test_calls_that_are_wrong(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    data = write_folder(tmp_path / "data")
    result = textsam("data", "quality", data, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == code
    assert words in result.output
    assert not (tmp_path / "out").exists()


def test_pictures_show_mask_and_defect_where_they_are() -> None:
    mask = disc()
    mask[60:63, 80:83] = False
    pixels = np.full((H, W, 3), 60, np.uint8)
    tile = np.asarray(draw_defect(pixels, mask, only(mask), "image, tumor")).astype(int)
    assert tile.shape == (194, 160, 3)
    picture = tile[:160]
    cyan = np.argwhere(np.abs(picture - DEFECT_COLOUR).sum(-1) < 60)
    assert len(cyan) > 20
    # 48 px about the hole at (81, 61) are shown, 3.33 times as large, the hole in the middle.
    np.testing.assert_allclose(cyan.mean(0), (80, 80), atol=4)
    assert np.ptp(cyan[:, 0]) < 160 * 12 / 48
    whole = draw_defect(pixels, disc(20, 20, 10), only(disc(5, 60)), "x")
    assert (np.abs(np.asarray(whole).astype(int) - DEFECT_COLOUR).sum(-1) < 60).any()
    speck = disc()
    speck[60, 130] = True
    shown = np.asarray(draw_defect(pixels, speck, only(speck), "x")).astype(int)[:160]
    orange = np.abs(shown - DEFAULT_COLOUR).sum(-1) < 60
    assert orange.any(), "the edge of the disc is in the picture"


def test_every_kind_is_named_and_limits_hold(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data")
    samples = samples_in_folder(folder, "tumor")
    report = assess(samples, pictures=0)
    assert len(report.findings) == 2
    assert not any(report.tiles.values())
    path = write_report(report, tmp_path / "out")
    assert "sheet" not in path.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="no finding 'holes'"):
        assess(samples, kinds=["holes"])
    with pytest.raises(DataError, match="no samples"):
        assess([])
    document = Path(__file__).resolve().parents[1] / "docs" / "data.md"
    text = document.read_text(encoding="utf-8")
    names = (*DEFECTS, *QualitySettings.model_fields)
    assert [name for name in names if f"`{name}`" not in text] == []
