"""COCO: what pycocotools decodes is the mask that was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]
from pycocotools.coco import COCO  # type: ignore[import-untyped]

import textsam
from textsam.errors import TextSAMError
from textsam.io.coco import CocoWriter, encode_rle, write_coco
from textsam.io.image import Image, Placement
from textsam.result import Segmentation

# pycocotools hands numpy arrays out in a way that numpy 2 has replaced.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def image(source: str = "a.png", index: int | None = None, grey: int = 9) -> Image:
    placement = None if index is None else Placement(index)
    return Image(np.full((10, 12, 3), grey, np.uint8), source, placement=placement)


def answer(picture: Image, prompt: str, mask: NDArray[np.bool_] | None = None) -> Segmentation:
    if mask is None:
        mask = np.zeros(picture.size_px, bool)
    return Segmentation(
        mask, mask.astype(np.float32), 0.71239, bool(mask.any()), prompt, picture, "a", "m"
    )


def block() -> NDArray[np.bool_]:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 5:9] = True
    mask[2, 5] = False
    return mask


def decoded(rle: dict[str, Any]) -> NDArray[np.bool_]:
    return np.asarray(coco_mask.decode(rle), bool)


masks = npst.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@settings(deadline=None, max_examples=150)
@given(masks)
@example(np.zeros((3, 4), bool))
@example(np.ones((3, 4), bool))
@example(np.eye(7, dtype=bool))
@example(~np.eye(7, dtype=bool))
def test_rle_is_that_of_pycocotools(mask: NDArray[np.bool_]) -> None:
    ours = encode_rle(mask)
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert np.array_equal(decoded(ours), mask)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 400), st.floats(0, 1))
def test_rle_of_large_and_sparse_masks(seed: int, side: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    mask = draw.random((side, side + 7)) < share**4
    assert np.array_equal(decoded(encode_rle(mask)), mask)
    mask = np.zeros((side, 300), bool)
    mask[:, 20:250] = True  # runs over 2 ** 15 pixels
    assert np.array_equal(decoded(encode_rle(mask)), mask)


def test_rle_by_hand() -> None:
    mask = np.zeros((2, 3), bool)
    mask[1, 1] = True  # down the columns: three outside, one inside, two outside
    assert encode_rle(mask) == {"size": [2, 3], "counts": "312"}


def test_other_arrays_are_not_encoded() -> None:
    with pytest.raises(TextSAMError, match=r"uint8 \(2, 3\)"):
        encode_rle(np.zeros((2, 3), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(TextSAMError, match=r"bool \(2, 3, 1\)"):
        encode_rle(np.zeros((2, 3, 1), bool))


def test_a_file_as_pycocotools_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = image("scans/a.png"), image("b.dcm", 3)
    corner = np.zeros((10, 12), bool)
    corner[9, 11] = True
    answers = [
        answer(first, "tumor", block()),
        answer(first, "lung"),
        answer(second, "tumor", corner),
        answer(second, "lung", ~corner),
    ]
    path = write_coco(tmp_path / "out" / "coco.json", iter(answers))
    coco = COCO(str(path))
    capsys.readouterr()
    assert [one["file_name"] for one in coco.loadImgs([1, 2])] == ["scans/a.png", "b.dcm"]
    assert [(one["width"], one["height"]) for one in coco.loadImgs([1, 2])] == [(12, 10)] * 2
    assert coco.loadImgs([2])[0]["frame_index"] == 3
    assert "frame_index" not in coco.loadImgs([1])[0]
    assert [one["name"] for one in coco.loadCats([1, 2])] == ["tumor", "lung"]
    by_image = {number: coco.loadAnns(coco.getAnnIds(number)) for number in (1, 2)}
    (tumor,) = by_image[1]
    assert tumor["category_id"] == 1
    assert tumor["bbox"] == [5, 2, 4, 3]
    assert tumor["area"] == 11
    assert tumor["iscrowd"] == 0
    assert tumor["score"] == 0.7124
    assert np.array_equal(coco.annToMask(tumor), block())
    assert [one["category_id"] for one in by_image[2]] == [1, 2]
    assert by_image[2][0]["bbox"] == [11, 9, 1, 1]
    assert np.array_equal(coco.annToMask(by_image[2][1]), ~corner)
    for one in (*by_image[1], *by_image[2]):
        assert one["bbox"] == coco_mask.toBbox(one["segmentation"]).tolist()
        assert one["area"] == coco_mask.area(one["segmentation"])
    assert [one["id"] for one in coco.dataset["annotations"]] == [1, 2, 3]
    info = coco.dataset["info"]
    assert info["version"] == textsam.__version__
    made = datetime.fromisoformat(info["date_created"])
    assert abs((datetime.now(UTC) - made).total_seconds()) < 600


def test_images_with_nothing_in_them_stay(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "c.json", [answer(image(), "polyp")], prompts=["lung"])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert len(content["images"]) == 1
    assert content["annotations"] == []
    assert [one["name"] for one in content["categories"]] == ["lung", "polyp"]
    empty = json.loads(write_coco(tmp_path / "e.json", []).read_text(encoding="utf-8"))
    assert (empty["images"], empty["categories"], empty["annotations"]) == ([], [], [])


def test_a_name_that_is_no_utf8_is_written_as_json_escapes_it(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "c.json", [answer(image("caf\udce9.png"), "tumor", block())])
    (entry,) = json.loads(path.read_text(encoding="utf-8"))["images"]
    assert entry["file_name"] == "caf\udce9.png"


def test_arrays_and_frames_are_told_apart(tmp_path: Path) -> None:
    answers = [
        answer(image("array", grey=1), "tumor"),
        answer(image("array", grey=2), "tumor"),
        answer(image("array", grey=2), "lung"),  # an equal image is the same one
        answer(image("cine.dcm", 0), "tumor"),
        answer(image("cine.dcm", 1), "tumor"),
    ]
    content = json.loads(write_coco(tmp_path / "c.json", answers).read_text(encoding="utf-8"))
    assert len(content["images"]) == 4
    assert [one.get("frame_index") for one in content["images"]] == [None, None, 0, 1]


def test_an_image_of_a_series_is_a_frame_of_its_own_file(tmp_path: Path) -> None:
    third = replace(image("series/3.dcm"), placement=Placement(2, frame=0))
    content = json.loads(write_coco(tmp_path / "c.json", [answer(third, "tumor")]).read_text())
    (entry,) = content["images"]
    assert (entry["file_name"], entry["frame_index"]) == ("series/3.dcm", 0)


def test_only_the_answers_of_one_image_are_held(tmp_path: Path) -> None:
    alive: set[int] = set()
    most = 0

    class Counted(Segmentation):
        def __del__(self) -> None:
            alive.discard(id(self))

    def stream() -> Iterator[Segmentation]:
        nonlocal most
        for number in range(40):
            picture = image(f"{number}.png", grey=number)
            one = answer(picture, "tumor", block())
            counted = Counted(**{name: getattr(one, name) for name in one.__dataclass_fields__})
            alive.add(id(counted))
            most = max(most, len(alive))
            yield counted
            del counted

    write_coco(tmp_path / "c.json", stream())
    assert most <= 3


def test_a_writer_names_files_and_writes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with CocoWriter(path, ["tumor"]) as writer:
        writer.add([answer(image(), "tumor", block())], file_name="images/a.png")
        assert not path.exists()
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["images"][0]["file_name"] == "images/a.png"
    with pytest.raises(RuntimeError), CocoWriter(tmp_path / "d.json") as writer:
        raise RuntimeError
    assert not (tmp_path / "d.json").exists()


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    writer = CocoWriter(tmp_path / "c.json")
    with pytest.raises(TextSAMError, match="an image without answers"):
        writer.add([])
    with pytest.raises(TextSAMError, match=r"answers about a\.png and another image"):
        writer.add([answer(image(), "tumor"), answer(image("b.png"), "lung")])
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(TextSAMError, match=r"c\.json: the file cannot be written"):
        write_coco(tmp_path / "file" / "c.json", [])
