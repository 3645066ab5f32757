"""COCO in: what pycocotools draws is what a sample shows, and bad annotations are all told."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import run as command
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from runs import begin, fit, run_config
from scipy import ndimage
from skimage.draw import polygon2mask

from textsam.data import interchange, registry
from textsam.data.coco import CocoSelection, samples_from_coco
from textsam.data.folder import samples_from_folder
from textsam.data.interchange import coco_to_set, samples_to_coco
from textsam.data.problems import DataCheckError, DataReport, Problems
from textsam.data.sample import load_sample
from textsam.data.selection import Selection
from textsam.data.sets import samples_from_manifest
from textsam.data.survey import check_coco, check_root
from textsam.errors import DataError, OutputError
from textsam.io.coco import encode_rle
from textsam.io.coco_polygons import exact_polygons, pixel_outlines
from textsam.io.coco_shapes import ShapeError, cover_counts, covers_a_pixel, decode_union, rles_of

# pycocotools hands numpy arrays out in a way that numpy 2 has replaced.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

H, W = 30, 40
BOX = [10, 5, 30, 5, 30, 20, 10, 20]
TRIANGLE = [2.5, 2.5, 12.0, 2.5, 2.5, 25.5]


def box() -> NDArray[np.bool_]:
    mask = np.zeros((H, W), bool)
    mask[5:20, 10:30] = True
    return mask


def uncompressed(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Runs down the columns, counted one pixel at a time."""
    counts, value, length = [], False, 0
    for pixel in mask.T.ravel():
        if bool(pixel) != value:
            counts.append(length)
            value, length = bool(pixel), 0
        length += 1
    return {"size": [mask.shape[0], mask.shape[1]], "counts": [*counts, length]}


masks = npst.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30)))


@settings(deadline=None, max_examples=100)
@given(masks)
@example(np.ones((3, 4), bool))
@example(np.zeros((3, 4), bool))
@example(np.arange(3000).reshape(60, 50) % 2999 > 0)
def test_every_way_to_write_a_code_gives_the_mask_back(mask: NDArray[np.bool_]) -> None:
    size = (mask.shape[0], mask.shape[1])
    for code in (encode_rle(mask), uncompressed(mask)):
        np.testing.assert_array_equal(decode_union(rles_of(code, size), size), mask)


def test_polygons_are_drawn_as_pycocotools_draws_them() -> None:
    drawn = decode_union(rles_of([BOX], (H, W)), (H, W))
    np.testing.assert_array_equal(drawn, box())
    rings = [BOX, TRIANGLE]
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, H, W)))
    np.testing.assert_array_equal(decode_union(rles_of(rings, (H, W)), (H, W)), theirs > 0)
    # By another rasteriser, up to the pixels of the outline.
    ys_xs = np.array(TRIANGLE).reshape(-1, 2)[:, ::-1]
    other = polygon2mask((H, W), ys_xs)
    ours = decode_union(rles_of([TRIANGLE], (H, W)), (H, W))
    assert (ours ^ other).sum() <= 40
    assert (ours & other).sum() > 0.75 * other.sum()
    # A ring may repeat its first point.
    again = decode_union(rles_of([[*BOX, *BOX[:2]]], (H, W)), (H, W))
    np.testing.assert_array_equal(again, box())


full = "".join(encode_rle(np.ones((H, W), bool))["counts"])


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        ([[1, 1, 5, 1]], "degenerate-polygon"),
        ([[1, 1, 5, 1, 1, 1]], "degenerate-polygon"),
        ([[1, 1, 5, 1, 9, 1]], "degenerate-polygon"),
        ([[1, 1, 5, 5, 9, 9, 3, 3]], "degenerate-polygon"),
        ([[]], "degenerate-polygon"),
        ([], "degenerate-polygon"),
        (None, "degenerate-polygon"),
        ([BOX, [1, 1, 5, 1, "5", 5]], "degenerate-polygon"),
        ([[1, 1, 5, 1, float("nan"), 5]], "degenerate-polygon"),
        ([[1, 1, 5, 1, 5, 1e9]], "degenerate-polygon"),
        ([[1, 1, 5, 1, 5, 10**400]], "degenerate-polygon"),
        ([[-2, 1, 5, 1, 5, 5]], "degenerate-polygon"),
        ([[1, 1, W + 2, 1, 5, 5]], "degenerate-polygon"),
        ([[1, 1, 5, 1, 5, 5, 1]], "unclosed-polygon"),
        ({"size": [W, H], "counts": full}, "size-mismatch"),
        ({"counts": full}, "size-mismatch"),
        ({"size": [H, W]}, "bad-rle"),
        ({"size": [H, W], "counts": ""}, "bad-rle"),
        ({"size": [H, W], "counts": "é"}, "bad-rle"),
        ({"size": [H, W], "counts": "1"}, "bad-rle"),
        ({"size": [H, W], "counts": full[:-1]}, "bad-rle"),
        ({"size": [H, W], "counts": "~~~"}, "bad-rle"),
        ({"size": [H, W], "counts": "o" * 60 + "0"}, "bad-rle"),
        ({"size": [H, W], "counts": [5, 10]}, "bad-rle"),
        ({"size": [H, W], "counts": [-5, H * W + 5]}, "bad-rle"),
        ({"size": [H, W], "counts": [H * W - 1, 1.0]}, "bad-rle"),
        ({"size": [H, W], "counts": [10**30]}, "bad-rle"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_kind(segmentation: Any, kind: str) -> None:
    with pytest.raises(ShapeError) as caught:
        rles_of(segmentation, (H, W))
    assert caught.value.kind == kind


@pytest.mark.parametrize("segmentation", [None, []])
def test_a_box_alone_is_told_as_such(segmentation: Any) -> None:
    with pytest.raises(ShapeError, match="there is no segmentation; a box alone"):
        rles_of(segmentation, (H, W))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=40))
def test_no_text_is_drawn_beyond_its_image(text: bytes) -> None:
    counts = "".join(chr(48 + value % 80) for value in text)
    try:
        codes = rles_of({"size": [H, W], "counts": counts}, (H, W))
    except ShapeError:
        return
    theirs = coco_mask.decode({"size": [H, W], "counts": counts})
    np.testing.assert_array_equal(decode_union(codes, (H, W)), theirs > 0)


def test_a_polygon_on_the_very_edge_of_an_image_is_fine() -> None:
    ring = [0, 0, W + 1, 0, W + 1, H + 1, -1, H + 1]
    assert decode_union(rles_of([ring], (H, W)), (H, W)).mean() > 0.98


# --- files


def content(count: int = 4) -> dict[str, Any]:
    """Images 1…: a polygon of cat, two codes of dog, a crowd of cat, and one without anything."""
    dots = np.zeros((H, W), bool)
    dots[::7, ::5] = True
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": H, "width": W} for n in range(1, count + 1)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "x"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [BOX], "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 8, "segmentation": encode_rle(box())},
            {"id": 3, "image_id": 2, "category_id": 8, "segmentation": uncompressed(dots)},
            {"id": 4, "image_id": 3, "category_id": 3, "segmentation": uncompressed(dots)}
            | {"iscrowd": 1},
        ],
    }


def write(root: Path, what: dict[str, Any], name: str = "all.json", seed: int = 0) -> Path:
    (root / "pictures").mkdir(exist_ok=True)
    for entry in what["images"]:
        shape = (entry["height"], entry["width"])
        pixels = np.random.default_rng([seed, entry["id"]]).integers(0, 255, shape, dtype=np.uint8)
        path = root / "pictures" / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (root / name).write_text(json.dumps(what), encoding="utf-8")
    return root / name


ALL = CocoSelection(images="pictures", annotations="all.json")


def test_samples_show_what_pycocotools_reads_from_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, content())
    concepts = {"cat": "tumor", "dog": "lung"}
    selection = ALL.model_copy(update={"concepts": concepts, "modality": "brain MRI", "weight": 2})
    samples = samples_from_coco(tmp_path, selection)
    assert [s.name for s in samples] == ["all/1", "all/2", "all/3", "all/4"]
    assert {(s.modality, s.weight) for s in samples} == {("brain MRI", 2)}
    theirs = COCO(str(file))
    for sample in samples:
        image, masks = load_sample(sample)
        assert image.shape == (H, W, 3)
        assert set(masks) == {"tumor", "lung"}
        for category, concept in ((3, "tumor"), (8, "lung")):
            expected = np.zeros((H, W), bool)
            for number in theirs.getAnnIds(imgIds=[int(sample.stem)], catIds=[category]):
                expected |= theirs.annToMask(theirs.anns[number]) > 0
            np.testing.assert_array_equal(masks[concept], expected)
    areas = [int(load_sample(s)[1]["lung"].sum()) for s in samples]
    assert areas[1] > box().sum()
    assert areas[0] == areas[3] == 0


def test_two_categories_can_be_one_concept_and_others_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, content())
    one = ALL.model_copy(update={"concepts": {"cat": "animal", "dog": "animal"}})
    samples = samples_from_coco(tmp_path, one)
    assert all(set(load_sample(s)[1]) == {"animal"} for s in samples)
    assert sum(load_sample(s)[1]["animal"].any() for s in samples) == 3
    by_name = samples_from_coco(tmp_path, ALL)
    assert [t.concept for t in by_name[0].targets] == ["cat", "dog", "x"]
    with pytest.raises(DataError, match=r"no category 'horse'\. It has: cat, dog, x"):
        samples_from_coco(tmp_path, ALL.model_copy(update={"concepts": {"horse": "h"}}))


def test_a_category_whose_name_cannot_be_asked_for_can_be_named(tmp_path: Path) -> None:
    what = content()
    what["categories"][0]["name"] = "--"
    write(tmp_path, what)
    with pytest.raises(DataError, match="'--' cannot be asked for"):
        samples_from_coco(tmp_path, ALL)
    selection = ALL.model_copy(update={"concepts": {"--": "tumor"}})
    (concept,) = {t.concept for s in samples_from_coco(tmp_path, selection) for t in s.targets}
    assert concept == "tumor"


def test_where_annotations_are_not_exhaustive_nothing_is_taken_to_be_absent(
    tmp_path: Path,
) -> None:
    write(tmp_path, content())
    samples = samples_from_coco(tmp_path, ALL.model_copy(update={"exhaustive": False}))
    told = {s.stem: [t.concept for t in s.targets] for s in samples}
    assert told == {"1": ["cat"], "2": ["dog"], "3": ["cat"]}


def test_crowds_can_be_left_unknown_and_the_report_says_so(tmp_path: Path) -> None:
    what = content()
    # Image 2 shows dogs one by one, and a crowd of cats over all of it.
    everywhere = np.ones((H, W), bool)
    what["annotations"] += [
        {"id": 9, "image_id": 2, "category_id": 3, "segmentation": uncompressed(everywhere)}
        | {"iscrowd": 1},
        {"id": 10, "image_id": 1, "category_id": 8, "segmentation": encode_rle(box())}
        | {"iscrowd": 1},
    ]
    write(tmp_path, what)
    # United, as COCO's own masks of a category are.
    united = samples_from_coco(tmp_path, ALL)
    assert load_sample(united[1])[1]["cat"].all()
    wanted = ALL.model_copy(update={"concepts": {"cat": "tumor", "dog": "lung"}})
    unknown = wanted.model_copy(update={"crowd": "unknown"})
    problems = Problems()
    samples = samples_from_coco(tmp_path, unknown, problems=problems)
    known = {s.stem: sorted(t.concept for t in s.targets) for s in samples}
    assert known == {"1": ["tumor"], "2": ["lung"], "3": ["lung"], "4": ["lung", "tumor"]}
    assert [p.kind for p in problems.found] == ["crowd-left-out", "crowd-left-out"]
    assert problems.found[0].message.startswith("1 image(s) have a crowd of 'lung'")
    assert problems.found[1].message.startswith("2 image(s) have a crowd of 'tumor'")
    # A statement, no fault: without a list to put it in, nothing is raised.
    assert len(samples_from_coco(tmp_path, unknown)) == 4
    assert not DataReport(tuple(problems.found), {}).errors
    only = unknown.model_copy(update={"concepts": {"cat": "tumor"}})
    assert [s.stem for s in samples_from_coco(tmp_path, only)] == ["1", "4"]
    with pytest.raises(DataError, match="crowds united"):
        coco_to_set({"train": only}, tmp_path / "root", "made", terms="x", source=tmp_path)


def test_an_annotation_too_small_for_a_pixel_is_told(tmp_path: Path) -> None:
    what = content()
    add = what["annotations"].append
    speck = [10.1, 10.1, 10.3, 10.1, 10.3, 10.3]
    add({"id": 10, "image_id": 2, "category_id": 9, "segmentation": [speck]})
    add({"id": 11, "image_id": 4, "category_id": 9, "segmentation": [speck]})
    add({"id": 12, "image_id": 4, "category_id": 9, "segmentation": [speck, speck]})
    add({"id": 13, "image_id": 1, "category_id": 3, "segmentation": [speck]})  # beside a large one
    write(tmp_path, what)
    problems = Problems("train")
    samples = samples_from_coco(tmp_path, ALL, problems=problems)
    (told,) = problems.found
    assert (told.kind, told.part) == ("pixelless-annotation", "train")
    assert told.message.startswith("2 image(s) have annotations of 'x' that are too small")
    assert "e.g. 2.png" in told.message
    assert not DataReport((told,), {}).errors
    assert not load_sample(samples[1])[1]["x"].any()
    assert len(samples_from_coco(tmp_path, ALL)) == 4, "a remark, no fault"


def test_every_fault_of_a_file_is_in_one_report(tmp_path: Path) -> None:
    what = content(count=8)
    what["categories"].pop()
    add = what["annotations"].append
    add({"id": 10, "image_id": 99, "category_id": 3, "segmentation": [BOX]})
    add({"id": 11, "image_id": 1, "category_id": 77, "segmentation": [BOX]})
    add({"id": 12, "image_id": 1, "category_id": 3, "segmentation": [[1, 1, 5, 5]]})
    add({"id": 13, "image_id": 1, "category_id": 3, "segmentation": [[1, 1, 5, 1, 5, 5, 1]]})
    add({"id": 14, "image_id": 1, "category_id": 3, "segmentation": encode_rle(box()[:, :-1])})
    add({"id": 15, "image_id": 1, "category_id": 3, "segmentation": {"size": [H, W], "counts": []}})
    add("nothing")
    file = write(tmp_path, what)
    what["images"] += [
        {"id": 5, "file_name": "again.png", "height": H, "width": W},
        {"id": 20, "file_name": "../all.png", "height": H, "width": W},
        {"id": 21, "file_name": "1.jpg", "height": H, "width": W},
        {"id": 22, "file_name": "no-size.png"},
    ]
    what["images"][6]["width"] = W + 1
    file.write_text(json.dumps(what), encoding="utf-8")
    (tmp_path / "pictures/8.png").unlink()
    report = check_coco({"train": ALL}, tmp_path)
    found = [
        (p.kind, p.message if p.path == str(file) else Path(p.path).name) for p in report.errors
    ]
    told = "\n".join(f"{kind} {message}" for kind, message in found)
    for words in (
        "unknown-reference annotation 10 is about image 99",
        "unknown-reference annotation 11 is of category 77",
        "degenerate-polygon annotation 12 of image 1: a polygon of 2 distinct points",
        "unclosed-polygon annotation 13 of image 1: a polygon of 7 numbers",
        "size-mismatch annotation 14 of image 1: the run-length code is for [30, 39]",
        "bad-rle annotation 15 of image 1",
        "bad-annotation annotations[10] is no object",
        "bad-annotation images[8] (again.png) has the id 5 of another one",
        "bad-annotation images[9]: ../all.png lies outside",
        "duplicate-stem 1.jpg and 1.png have one name",
        "bad-annotation images[11] needs id, file_name",
        "size-mismatch 41x30 px (width x height), the image",
        "missing-image 8.png",
    ):
        assert words in told, told
    assert len(report.errors) == 13
    # Without a collector the first is raised, and how many there are.
    with pytest.raises(DataError, match=r"8\.png|again\.png.*\(and 11 more problems\)"):
        samples_from_coco(tmp_path, ALL)


def test_what_no_image_can_be_is_told_with_its_annotations(tmp_path: Path) -> None:
    what = content(count=1)
    what["annotations"] = what["annotations"][:1]
    file = write(tmp_path, what)
    million = 10**6
    what["images"] += [
        {"id": 2, "file_name": ".", "height": H, "width": W},
        {"id": 3, "file_name": "./", "height": H, "width": W},
        {"id": 4, "file_name": "4.png", "height": 10**30, "width": W},
        {"id": 5, "file_name": "5.png", "height": million, "width": million},
    ]
    code = {"size": [million, million], "counts": [0, million**2]}
    for number, image, segmentation in (
        (12, 2, [BOX]),
        (14, 4, [BOX]),
        (15, 5, code),
        (16, 1, [[1, 1, 5, 1, 5, 10**400]]),
    ):
        what["annotations"].append(
            {"id": number, "image_id": image, "category_id": 3, "segmentation": segmentation}
        )
    what["categories"] = what["categories"][:1]
    file.write_text(json.dumps(what), encoding="utf-8")
    report = check_coco({"train": ALL}, tmp_path)
    assert {p.path for p in report.errors} == {str(file)}
    large = "is said to have"
    expected = {
        ("bad-annotation", "images[1]: the file_name '.' names no file"),
        ("bad-annotation", "images[2]: the file_name './' names no file"),
        ("bad-annotation", f"images[3] (4.png) {large} 40x1e30 or more px"),
        ("bad-annotation", f"images[4] (5.png) {large} 1000000x1000000 px"),
        ("size-mismatch", f"annotation 14 of image 4: the image {large} 40x1e30 or more px"),
        ("size-mismatch", f"annotation 15 of image 5: the image {large} 1000000x1000000 px"),
        ("degenerate-polygon", "annotation 16 of image 1: a polygon has a coordinate that is no"),
    }
    assert len(report.errors) == len(expected)
    for kind, words in expected:
        assert any(p.kind == kind and p.message.startswith(words) for p in report.errors), words


def test_a_size_beyond_what_is_drawn_is_refused_whatever_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEXTSAM_MAX_PIXELS", str(10**40))
    for segmentation in ([BOX], {"size": [10**6, 10**6], "counts": [0, 10**12]}):
        with pytest.raises(ShapeError, match="1000000x1000000 px"):
            rles_of(segmentation, (10**6, 10**6))
    monkeypatch.setenv("TEXTSAM_MAX_PIXELS", str(H * W - 1))
    with pytest.raises(ShapeError, match="more than the limit of 1,199 pixels"):
        rles_of([BOX], (H, W))


def test_a_file_that_says_nothing_of_any_image_is_no_source(tmp_path: Path) -> None:
    write(tmp_path, content() | {"images": [], "annotations": []})
    nothing_looked_for = ALL.model_copy(update={"exhaustive": False, "annotations": "none.json"})
    write(tmp_path, content() | {"annotations": []}, "none.json")
    for selection in (ALL, nothing_looked_for):
        (problem,) = check_coco({"train": selection}, tmp_path).errors
        assert (problem.kind, problem.part) == ("unusable-source", "train")
        assert "gives no samples" in problem.message
        with pytest.raises(DataError, match="gives no samples"):
            samples_from_coco(tmp_path, selection)
    # After another file's fault, too.
    problems = Problems()
    problems.add("missing-image", "elsewhere", "gone")
    with pytest.raises(DataError, match="gives no samples"):
        samples_from_coco(tmp_path, ALL, problems=problems)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_image_that_exif_turns_is_written_upright_beside_its_masks(
    orientation: int, tmp_path: Path
) -> None:
    side = 32
    (tmp_path / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (side, side), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "pictures/1.tif", exif=exif)
    what = content(count=1) | {"annotations": content()["annotations"][:1]}
    what["categories"] = what["categories"][:1]
    what["images"] = [{"id": 1, "file_name": "1.tif", "height": side, "width": side}]
    (tmp_path / "all.json").write_text(json.dumps(what), encoding="utf-8")
    folder = coco_to_set({"val": ALL}, tmp_path / "root", "zoo", terms="CC0", source=tmp_path)
    (written,) = (folder / "images").iterdir()
    if orientation == 1:
        assert written.read_bytes() == (tmp_path / "pictures/1.tif").read_bytes()
    else:
        assert written.name == "1.png"
    turn = {1: 0, 3: 2, 6: -1}[orientation]
    (sample,) = samples_from_manifest(tmp_path / "root", [Selection(set="zoo", split="val")])
    image, masks = load_sample(sample)
    np.testing.assert_array_equal(image[..., 0], np.rot90(pixels, turn))
    np.testing.assert_array_equal(masks["cat"], np.pad(box(), ((0, 2), (0, 0)))[:, :side])
    assert check_root(tmp_path / "root").errors == []


def test_a_class_that_only_empty_codes_show_is_empty(tmp_path: Path) -> None:
    what = content()
    pixels = H * W
    nothing = [
        uncompressed(np.zeros((H, W), bool)),
        encode_rle(np.zeros((H, W), bool)),
        {"size": [H, W], "counts": [5, 0, pixels - 5]},
        {"size": [H, W], "counts": [pixels, 0]},
    ]
    for number, code in enumerate(nothing):
        entry = {"id": 20 + number, "image_id": 1 + number % 2, "category_id": 9}
        what["annotations"].append(entry | {"segmentation": code})
    write(tmp_path, what)
    report = check_coco({"train": ALL}, tmp_path)
    assert [(p.kind, p.path) for p in report.errors] == [("empty-class", "all/x")]
    assert not any(load_sample(s)[1]["x"].any() for s in samples_from_coco(tmp_path, ALL))
    # One pixel, the last one, in the last of the codes.
    what["annotations"][-1]["segmentation"] = {"size": [H, W], "counts": [pixels - 1, 1]}
    write(tmp_path, what)
    assert check_coco({"train": ALL}, tmp_path).errors == []


@settings(deadline=None, max_examples=50)
@given(st.lists(npst.arrays(bool, (5, 7)), max_size=5))
def test_codes_together_cover_each_pixel_as_often_as_masks_have_it(
    several: list[NDArray[np.bool_]],
) -> None:
    codes = [code for mask in several for code in rles_of(encode_rle(mask), (5, 7))]
    expected = np.sum(several, axis=0) if several else np.zeros((5, 7), int)
    np.testing.assert_array_equal(cover_counts(codes, (5, 7)), expected)


@settings(deadline=None, max_examples=50)
@given(masks)
@example(np.ones((3, 4), bool))
@example(np.zeros((3, 4), bool))
def test_a_code_covers_a_pixel_where_its_mask_has_one(mask: NDArray[np.bool_]) -> None:
    size = (mask.shape[0], mask.shape[1])
    empty = rles_of(uncompressed(np.zeros(size, bool)), size)
    assert covers_a_pixel((*empty, *rles_of(uncompressed(mask), size))) == mask.any()
    assert not covers_a_pixel(())


def test_a_ring_that_is_open_among_closed_ones_was_cut_off(tmp_path: Path) -> None:
    what = content()
    closed = {"id": 5, "image_id": 4, "category_id": 8, "segmentation": [[*BOX, 10, 5]]}
    what["annotations"] = [what["annotations"][0], closed]
    write(tmp_path, what)
    # One and one: there is no convention to break.
    assert samples_from_coco(tmp_path, ALL)
    what["annotations"].append({**closed, "id": 6, "image_id": 2})
    write(tmp_path, what)
    problems = Problems()
    samples_from_coco(tmp_path, ALL, problems=problems)
    (problem,) = problems.found
    assert problem.kind == "unclosed-polygon"
    assert problem.message.startswith("annotation 1 of image 1: the last point of 1 polygon")
    # Half a point is told as what it is.
    what["annotations"][0]["segmentation"] = [[*BOX, 10]]
    write(tmp_path, what)
    problems = Problems()
    samples_from_coco(tmp_path, ALL, problems=problems)
    (problem,) = problems.found
    assert problem.message.startswith("annotation 1 of image 1: a polygon of 9 numbers ends within")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("{", "cannot be read as JSON"),
        ("[]", "it needs the lists images, categories, annotations"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "needs an id and a name"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "--"}]}',
            "the category '--' cannot be asked for, so concepts must say",
        ),
    ],
)
def test_files_that_are_no_coco_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    (tmp_path / "pictures").mkdir()
    if text is not None:
        (tmp_path / "all.json").write_text(text)
    with pytest.raises(DataError, match=message):
        samples_from_coco(tmp_path, ALL)
    assert [p.kind for p in check_coco({"a": ALL}, tmp_path).errors] == ["unusable-source"]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    write(tmp_path, content())
    text = (tmp_path / "all.json").read_text()
    (tmp_path / "all.json").write_text(text, encoding="utf-8-sig")
    assert len(samples_from_coco(tmp_path, ALL)) == len(content()["images"])


def test_a_run_trains_and_validates_on_coco_files(tmp_path: Path) -> None:
    write(tmp_path, content())
    second = content()
    for entry in second["images"]:
        entry["file_name"] = f"val/{entry['file_name']}"
    write(tmp_path, second, "val.json", seed=1)
    part = {"images": "pictures", "annotations": "all.json", "concepts": {"cat": "tumor"}}
    data = {
        "root": str(tmp_path),
        "train_coco": [part],
        "val_coco": [{**part, "annotations": "val.json"}],
    }
    run = fit(begin(run_config(tmp_path, data=data, epochs=1)), progress=False)
    assert run.vocabulary == ("tumor",)
    assert run.state.step == 2
    config = json.loads((run.folder / "last/adapter.json").read_text())
    assert config["training"]["data"]["train_coco"][0]["annotations"] == "all.json"
    broken = content()
    broken["annotations"][0]["segmentation"] = [[1, 1]]
    (tmp_path / "all.json").write_text(json.dumps(broken))
    with pytest.raises(DataCheckError, match="degenerate-polygon"):
        begin(run_config(tmp_path, data=data, name="other"))
    assert not (tmp_path / "runs/other").exists()


# --- there and back


def test_from_coco_to_masks_and_back(tmp_path: Path) -> None:
    what = content()
    what["categories"].pop()
    what["images"][0]["file_name"] = "deep/1.png"
    write(tmp_path, what)
    root = tmp_path / "root"
    made = coco_to_set({"train": ALL}, root, "zoo", terms="CC0", source=tmp_path)
    assert made == root / "zoo"
    entry = json.loads((root / "manifest.json").read_text())["zoo"]
    assert entry["classes"] == {"masks/cat": "cat", "masks/dog": "dog"}
    assert json.loads((root / "splits.json").read_text()) == {
        "zoo": {"train": ["deep__1", "2", "3", "4"]}
    }
    assert {p.name for p in root.iterdir()} == {"zoo", "manifest.json", "splits.json"}
    assert [p.kind for p in check_root(root).problems] == []
    there = samples_from_coco(tmp_path, ALL)
    png = samples_from_manifest(root, [Selection(set="zoo", split="train")])
    file = samples_to_coco(png, tmp_path / "back.json", root)
    back = samples_from_coco(
        tmp_path, ALL.model_copy(update={"images": "root", "annotations": "back.json"})
    )
    assert len(there) == len(png) == len(back) == 4
    for first, second, third in zip(there, png, back, strict=True):
        image, masks = load_sample(first)
        for other in (second, third):
            again, others = load_sample(other)
            np.testing.assert_array_equal(image, again)
            assert set(others) == {"cat", "dog"}
            for concept, mask in masks.items():
                np.testing.assert_array_equal(mask, others[concept])
    coco = COCO(str(file))
    assert coco.anns[1]["area"] == box().sum()
    assert coco.anns[1]["bbox"] == [10, 5, 20, 15]


MASKS = npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, max_side=12))


@settings(deadline=None, max_examples=150)
@given(MASKS)
@example(np.array([[1, 0], [0, 1]], bool))
@example(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool))
@example(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], bool))
def test_outlines_enclose_the_pixels_and_exact_polygons_give_them_back(
    mask: NDArray[np.bool_],
) -> None:
    def twice_area(ring: list[tuple[int, int]]) -> int:
        return sum(
            a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, ring[1:] + ring[:1], strict=True)
        )

    rings = pixel_outlines(mask)
    # Holes run the other way, so that the areas add up to the mask's.
    assert sum(map(twice_area, rings)) == 2 * mask.sum()
    if not mask.any():
        return
    found = exact_polygons(mask)
    if found is None:
        assert any(twice_area(ring) < 0 for ring in rings), "only holes keep from polygons"
        return
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(found, *mask.shape)))
    np.testing.assert_array_equal(drawn > 0, mask)


def test_regions_and_polygons_there_and_back(tmp_path: Path) -> None:
    ring, two = box(), np.zeros((H, W), bool)
    ring[10:12, 15:18] = False
    two[2:9, 3:12] = two[15:25, 20:30] = True
    for part in ("images", "masks"):
        (tmp_path / "mine" / part).mkdir(parents=True)
    for number, mask in enumerate((ring, two, np.zeros((H, W), bool))):
        pixels = mask.astype(np.uint8) * 255
        for part in ("images", "masks"):
            Image.fromarray(pixels).save(tmp_path / "mine" / part / f"{number}.png")
    result = command(
        "data", "convert", tmp_path / "mine", "--concept", "tumor", "--instances", "--polygons",
        "-o", tmp_path / "mine.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "1 of 3 annotations are run-length codes, as they have holes" in result.output
    theirs = COCO(str(tmp_path / "mine.json"))
    entries = theirs.loadAnns(theirs.getAnnIds(imgIds=[2]))
    assert [entry["bbox"] for entry in entries] == [[3, 2, 9, 7], [20, 15, 10, 10]]
    assert [entry["area"] for entry in entries] == [63, 100]
    assert entries[0]["segmentation"] == [[3, 2, 12, 2, 12, 9, 3, 9]]
    selection = CocoSelection(images="mine", annotations="mine.json")
    samples = samples_from_coco(tmp_path, selection)
    for sample, mask in zip(samples, (ring, two, np.zeros((H, W), bool)), strict=True):
        np.testing.assert_array_equal(load_sample(sample)[1]["tumor"], mask)


def test_a_set_of_one_class_has_plain_masks_and_joins_an_existing_root(tmp_path: Path) -> None:
    write(tmp_path, content())
    root = tmp_path / "root"
    cat = ALL.model_copy(update={"concepts": {"cat": "tumor"}})
    coco_to_set({"val": cat}, root, "one", terms="CC0", source=tmp_path)
    coco_to_set({"test": cat}, root, "two", terms="CC0", source=tmp_path)
    manifest = json.loads((root / "manifest.json").read_text())
    assert {name: entry["classes"] for name, entry in manifest.items()} == {
        "one": {"255": "tumor"},
        "two": {"255": "tumor"},
    }
    assert np.array_equal(np.asarray(Image.open(root / "one/masks/1.png")) > 0, box())
    before = sorted(root.rglob("*"))
    splits = (root / "splits.json").read_text()
    (root / "splits.json").write_text(f'{{"two": {{"val": ["1"]}}, {splits.lstrip()[1:]}')
    with pytest.raises(DataError, match=r"splits\.json has the key 'two' twice"):
        coco_to_set({"val": cat}, root, "three", terms="CC0", source=tmp_path)
    (root / "splits.json").write_text(splits)
    with pytest.raises(DataError, match="has a set 'one' already"):
        coco_to_set({"val": cat}, root, "one", terms="CC0", source=tmp_path)
    with pytest.raises(DataError, match="cannot be the name of a folder"):
        coco_to_set({"val": cat}, root, "../three", terms="CC0", source=tmp_path)
    with pytest.raises(DataError, match="give train, val or test"):
        coco_to_set({"dev": cat}, root, "three", terms="CC0", source=tmp_path)
    other = content()
    for entry in other["images"]:
        entry["file_name"] = f"train-{entry['id']}.png"
    write(tmp_path, other, "other.json", seed=1)
    named = {"annotations": "other.json", "concepts": {"cat": "tumor", "dog": "dog"}}
    both = {"val": cat, "train": ALL.model_copy(update=named)}
    with pytest.raises(DataError, match="the part 'val' has no category dog, which"):
        coco_to_set(both, root, "three", terms="CC0", source=tmp_path)
    loose = cat.model_copy(update={"exhaustive": False})
    with pytest.raises(DataError, match="nothing is known of a class"):
        coco_to_set({"val": loose}, root, "three", terms="CC0", source=tmp_path)
    (tmp_path / "pictures/2.png").write_bytes(b"")
    with pytest.raises(DataCheckError, match=r"broken-image(.|\n)*Nothing was written"):
        coco_to_set({"val": cat}, root, "three", terms="CC0", source=tmp_path)
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("text", [None, "{broken"])
def test_a_part_without_a_usable_file_hides_no_fault_of_the_others(
    tmp_path: Path, text: str | None
) -> None:
    write(tmp_path, content())
    (tmp_path / "pictures/2.png").write_bytes(b"")
    if text is not None:
        (tmp_path / "val.json").write_text(text, encoding="utf-8")
    parts = {"train": ALL, "val": ALL.model_copy(update={"annotations": "val.json"})}
    with pytest.raises(DataCheckError) as caught:
        coco_to_set(parts, tmp_path / "root", "zoo", terms="CC0", source=tmp_path)
    told = {(p.kind, p.part, Path(p.path).name) for p in caught.value.report.errors}
    assert {("broken-image", "train", "2.png"), ("unusable-source", "val", "val.json")} <= told
    assert "no category" not in str(caught.value)
    assert not (tmp_path / "root").exists()


def test_a_part_without_images_is_called_that(tmp_path: Path) -> None:
    file = write(tmp_path, content())
    named = ALL.model_copy(update={"concepts": {"cat": "cat", "dog": "dog"}})
    empty = json.loads(file.read_text()) | {"images": [], "annotations": []}
    (tmp_path / "val.json").write_text(json.dumps(empty), encoding="utf-8")
    parts = {"train": named, "val": named.model_copy(update={"annotations": "val.json"})}
    with pytest.raises(DataCheckError, match=r"\[val\] .*val\.json: .* gives no samples"):
        coco_to_set(parts, tmp_path / "root", "zoo", terms="CC0", source=tmp_path)
    assert not (tmp_path / "root").exists()


def test_no_two_concepts_share_a_folder_of_masks(tmp_path: Path) -> None:
    made = content()
    for category, name in zip(made["categories"], ("a", "a-2", "A"), strict=True):
        category["name"] = name
    made["annotations"].append({**made["annotations"][0], "id": 5, "image_id": 4, "category_id": 9})
    write(tmp_path, made)
    folder = coco_to_set({"val": ALL}, tmp_path / "root", "zoo", terms="CC0", source=tmp_path)
    manifest = json.loads((tmp_path / "root" / "manifest.json").read_text())
    assert len(manifest["zoo"]["classes"]) == 3
    assert {path.name for path in (folder / "masks").iterdir()} == {"a", "a-2", "a-3"}


@pytest.mark.parametrize("polygons", [False, True])
def test_regions_are_written_as_whole_masks_of_each_would_be(
    tmp_path: Path, polygons: bool
) -> None:
    """Also at the border of the image, and for regions that lie in each other."""
    rng = np.random.default_rng(4)
    made = []
    for number in range(40):
        height, width = rng.integers(8, 15, 2)
        mask = rng.random((height, width)) < rng.uniform(0.2, 0.9)
        for part in ("images", "masks"):
            (tmp_path / "mine" / part).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(mask.astype(np.uint8) * 255)
            picture.save(tmp_path / "mine" / part / f"{number:02d}.png")
        made.append(mask)
    samples = samples_from_folder(tmp_path / "mine", "nucleus")
    file = samples_to_coco(
        samples, tmp_path / "n.json", tmp_path / "mine", instances=True, polygons=polygons
    )
    told = json.loads(file.read_text())["annotations"]
    for number, mask in enumerate(made, start=1):
        own = [entry for entry in told if entry["image_id"] == number]
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        assert len(own) == count
        for label, entry in enumerate(own, start=1):
            region = labels == label
            rings = exact_polygons(region) if polygons else None
            assert entry["segmentation"] == (encode_rle(region) if rings is None else rings)
            ys, xs = np.nonzero(region)
            size = [np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert entry["bbox"] == [xs.min(), ys.min(), *size]
            assert entry["area"] == region.sum()


def test_thousands_of_regions_are_not_as_many_whole_masks(tmp_path: Path) -> None:
    mask = np.zeros((800, 800), np.uint8)
    mask[2::8, 2::8] = 255
    for part in ("images", "masks"):
        (tmp_path / "mine" / part).mkdir(parents=True)
        Image.fromarray(mask).save(tmp_path / "mine" / part / "slide.png")
    samples = samples_from_folder(tmp_path / "mine", "nucleus")
    tracemalloc.start()
    try:
        file = samples_to_coco(samples, tmp_path / "n.json", tmp_path / "mine", instances=True)
        assert tracemalloc.get_traced_memory()[1] < 100e6  # 10,000 masks would be 6.4 GB
    finally:
        tracemalloc.stop()
    (there,) = samples_from_coco(
        tmp_path, CocoSelection(images="mine", annotations="n.json"), dataset="x"
    )
    assert len(json.loads(file.read_text())["annotations"]) == 10_000
    np.testing.assert_array_equal(load_sample(there)[1]["nucleus"], mask > 0)


def test_a_hidden_file_is_not_converted_into_one_that_is_never_found(tmp_path: Path) -> None:
    what = content()
    what["images"][0]["file_name"] = ".1.png"
    write(tmp_path, what)
    with pytest.raises(DataCheckError, match=r"begins with a dot(.|\n)*Nothing was written"):
        coco_to_set({"val": ALL}, tmp_path / "root", "zoo", terms="CC0", source=tmp_path)
    assert not (tmp_path / "root").exists()


CAT = ALL.model_copy(update={"concepts": {"cat": "cat"}})


def test_a_set_that_another_conversion_adds_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, content())
    root = tmp_path / "root"
    plain = interchange._write_sample
    inner: list[str] = ["other"]

    def written(*arguments: Any) -> None:
        if inner:
            coco_to_set({"val": CAT}, root, inner.pop(), terms="theirs", source=tmp_path)
        plain(*arguments)

    monkeypatch.setattr(interchange, "_write_sample", written)
    coco_to_set({"val": CAT}, root, "mine", terms="ours", source=tmp_path)
    manifest = json.loads((root / "manifest.json").read_text())
    assert {name: entry["terms"] for name, entry in manifest.items()} == {
        "other": "theirs",
        "mine": "ours",
    }
    assert set(json.loads((root / "splits.json").read_text())) == {"other", "mine"}
    inner.append("third")
    with pytest.raises(DataError, match="has a set 'third' already"):
        coco_to_set({"val": CAT}, root, "third", terms="ours", source=tmp_path)
    assert json.loads((root / "manifest.json").read_text())["third"]["terms"] == "theirs"
    names = {"other", "mine", "third", "manifest.json", "splits.json"}
    assert {path.name for path in root.iterdir()} == names


def test_files_that_cannot_be_added_to_cost_no_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, content())
    root = tmp_path / "root"
    root.mkdir()
    text = '{"old": {"modality": "x", "classes": {"255": "y"}, "terms": "z", "images": NaN}}'
    (root / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="take the number that is none out of it"):
        coco_to_set({"val": CAT}, root, "zoo", terms="CC0", source=tmp_path)
    assert [path.name for path in root.iterdir()] == ["manifest.json"]
    (root / "manifest.json").unlink()

    real = registry.write_json

    def full(path: Path, made: Any) -> None:
        if path.name == "manifest.json":
            raise OutputError(f"{path}: the disk is full")
        real(path, made)

    monkeypatch.setattr(registry, "write_json", full)
    with pytest.raises(OutputError, match="the disk is full"):
        coco_to_set({"val": CAT}, root, "zoo", terms="CC0", source=tmp_path)
    assert list(root.iterdir()) == []
    monkeypatch.undo()
    coco_to_set({"val": CAT}, root, "zoo", terms="CC0", source=tmp_path)
    (root / "manifest.json").unlink()
    (root / "splits.json").unlink()
    with pytest.raises(DataError, match=r"no such set; remove it, or choose another name"):
        coco_to_set({"val": CAT}, root, "zoo", terms="CC0", source=tmp_path)


def test_sets_of_other_concepts_do_not_share_a_file(tmp_path: Path) -> None:
    write(tmp_path, content())
    loose = samples_from_coco(tmp_path, ALL.model_copy(update={"exhaustive": False}))
    with pytest.raises(DataError, match="of all/1 cat are known, of all/2 dog"):
        samples_to_coco(loose, tmp_path / "out.json", tmp_path)
    with pytest.raises(DataError, match="give the folder that holds all images"):
        samples_to_coco(samples_from_coco(tmp_path, ALL), tmp_path / "out.json", tmp_path / "else")
    assert not (tmp_path / "out.json").exists()


def test_the_command_converts_both_ways(tmp_path: Path) -> None:
    file = write(tmp_path, content())
    pictures, root = tmp_path / "pictures", tmp_path / "root"
    coco = ("--coco", f"train={file},{pictures}", "--concept", "cat=tumor")
    done = command("data", "check", *coco)
    assert done.exit_code == 0, done.output
    named = ("--name", "zoo", "--terms", "CC0", "--modality", "brain MRI")
    done = command("data", "convert", *coco, "-o", root, *named)
    assert done.exit_code == 0, done.output
    assert json.loads((root / "manifest.json").read_text())["zoo"]["modality"] == "brain MRI"
    back = tmp_path / "back.json"
    done = command("data", "convert", root, "--set", "zoo/train", "-o", back)
    assert done.exit_code == 0, done.output
    assert len(COCO(str(back)).anns) == 2
    plain = command("data", "convert", root / "zoo", "--concept", "tumor", "-o", back)
    assert plain.exit_code == 0, plain.output
    for wrong in (
        ("data", "convert", root, "-o", back),
        ("data", "convert", "-o", root),
        ("data", "convert", *coco, "-o", root),
        ("data", "convert", "--coco", "train", "-o", root, *named),
        ("data", "convert", *coco, "-o", root, *named, "--allow", "everything"),
        ("data", "check", "--coco", f"train={file}"),
        ("data", "check", *coco, "--concept", "cat"),
    ):
        assert command(*wrong).exit_code == 2, wrong
