"""Manifests, folders, samples and training items, on data made here."""

from __future__ import annotations

import json
import os
import re
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.ImageFile
import pytest
import tifffile
import torch
from image_bytes import tiff_bytes
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import ValidationError

from textsam.data.ask import Ask, PromptConfig, PromptSampler
from textsam.data.augment import Augment
from textsam.data.dataset import TrainDataset, TrainItem, epoch_order
from textsam.data.folder import samples_from_folder
from textsam.data.manifest import read_manifest, read_split, split_names
from textsam.data.sample import Sample, Target, load_sample, read_mask
from textsam.data.selection import Selection, kept, selection_of
from textsam.data.sets import samples_from_manifest
from textsam.errors import ConfigError, DataError
from textsam.frame import SquareGeometry
from textsam.prompts import CONCEPTS, certainly_absent, distractors_for, meanings

MANIFEST: dict[str, Any] = {
    "bus": {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "CC0"},
    "bus_normal": {"modality": "breast ultrasound", "classes": {}, "terms": "CC0", "images": 2},
    "em": {
        "modality": "electron microscopy",
        "classes": {"masks/mito": "mitochondria", "masks/syn": "synapse"},
        "terms": "CC BY-NC-SA 3.0",
        "note": "one folder per class",
    },
    "heart": {
        "modality": "cardiac MRI",
        "classes": {"1": "right ventricle", "2": "myocardium", "3": "left ventricle"},
        "terms": "research",
    },
}
SPLITS: dict[str, Any] = {
    "bus/fold1": {"train": ["b1", "b2"], "test": ["b3"]},
    "bus/fold2": {"train": ["b3", "b2"], "test": ["b1"]},
    "bus_normal": {"train": ["n1", "n2"]},
    "em": {"train": ["00"], "test": ["01"]},
    "heart": {"train": ["h1"], "val": ["h2"], "test": ["h3"]},
}


def save(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(pixels).save(path)
    return path


def square(
    shape: tuple[int, int], top: int, left: int, side: int, value: int = 255
) -> NDArray[np.uint8]:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[top : top + side, left : left + side] = value
    return mask


def grey(shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 255, shape, dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "splits.json").write_text(json.dumps(SPLITS))
    for i, stem in enumerate(("b1", "b2", "b3")):
        save(tmp_path / f"bus/images/{stem}.jpg", grey((40, 60), i))
        save(tmp_path / f"bus/masks/{stem}.png", square((40, 60), 10, 20, 10 + i))
    for stem in ("n1", "n2"):
        save(tmp_path / f"bus_normal/images/{stem}.jpg", grey((32, 32)))
    for stem in ("00", "01"):
        save(tmp_path / f"em/images/{stem}.png", grey((64, 64)))
        save(tmp_path / f"em/masks/mito/{stem}.png", square((64, 64), 0, 0, 16))
        save(tmp_path / f"em/masks/syn/{stem}.png", square((64, 64), 40, 40, 4))
    # Validation lies in the train folder; h1 has no right ventricle.
    for part, stem in (("train", "h1"), ("train", "h2"), ("test", "h3")):
        labels = square((48, 32), 10, 10, 12, 2)
        labels[13:19, 13:19] = 3
        if stem != "h1":
            labels[30:36, 2:8] = 1
        save(tmp_path / f"heart/{part}/images/{stem}.jpg", grey((48, 32)))
        save(tmp_path / f"heart/{part}/masks/{stem}.png", labels)
    return tmp_path


def rewrite(root: Path, name: str, change: Any) -> None:
    content = json.loads((root / name).read_text())
    change(content)
    (root / name).write_text(json.dumps(content))


# --- manifest and splits


def test_manifest_values(root: Path) -> None:
    sets = read_manifest(root)
    assert list(sets) == ["bus", "bus_normal", "em", "heart"]
    assert sets["heart"].classes == {
        "1": "right ventricle",
        "2": "myocardium",
        "3": "left ventricle",
    }
    assert sets["heart"].modality == "cardiac MRI"
    assert sets["em"].terms == "CC BY-NC-SA 3.0"
    assert sets["em"].note == "one folder per class"
    assert sets["bus"].absent == ()
    assert sets["bus_normal"].absent == ("tumor",)


def test_absent_concepts_can_be_listed(root: Path) -> None:
    rewrite(root, "manifest.json", lambda m: m["em"].update(absent=["cell nucleus"]))
    assert read_manifest(root)["em"].absent == ("cell nucleus",)
    rewrite(root, "manifest.json", lambda m: m["em"].update(absent=["synapse"]))
    with pytest.raises(DataError, match="synapse cannot be both a class and absent"):
        read_manifest(root)


def test_splits(root: Path) -> None:
    assert read_split(root, "bus/fold2/train") == ["b3", "b2"]
    assert read_split(root, "heart/val") == ["h2"]
    assert split_names(root)[:3] == ["bus/fold1/train", "bus/fold1/test", "bus/fold2/train"]
    with pytest.raises(DataError, match=r"no split 'heart/dev'.*heart/train, heart/val"):
        read_split(root, "heart/dev")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["heart"]["test"].append("h1"), "'h1' is listed in 'heart/train' and again"),
        (lambda s: s["em"]["train"].append("00"), "'00' is listed"),
        (lambda s: s["heart"].update(train=[]), "'heart/train' .* is empty"),
        (lambda s: s["heart"].update(train=[1]), "list of stems"),
        (lambda s: s.update(heart=["h1"]), "must map split names"),
    ],
)
def test_bad_splits_are_refused(root: Path, change: Any, message: str) -> None:
    rewrite(root, "splits.json", change)
    with pytest.raises(DataError, match=message):
        read_split(root, "heart/train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["bus"].pop("modality"), "'bus' needs a text 'modality'"),
        (lambda m: m["bus"].update(classes=["tumor"]), "'classes' must map"),
        (lambda m: m["bus"].update(classes={"tumor": "255"}), "class key 'tumor' is neither"),
        (lambda m: m["bus"].update(classes={"0": "tumor"}), "class key '0'"),
        (lambda m: m["bus"].update(classes={"../x/y": "tumor"}), "class key '../x/y'"),
        (lambda m: m["bus"].update(classes={"1" * 5000: "tumor"}), "is neither a positive"),
        (
            lambda m: m["heart"].update(classes={"1": "myocardium", "01": "lung"}),
            "class keys '1' and '01' are the same",
        ),
        (
            lambda m: m["em"].update(classes={"masks/mito": "cell", "masks//mito/": "lung"}),
            "class keys 'masks/mito' and 'masks//mito/' are the same",
        ),
        (lambda m: m["bus"].update(absent=["Tumours"]), "Tumours cannot be both a class and"),
        (lambda m: m["bus"].update(absent="tumor"), "'absent' must be a list"),
        (lambda m: m.update(bus=3), "'bus' must be a JSON object"),
        (
            lambda m: m["bus"].update(classes={"255": "---"}),
            "set 'bus': the concept '---' cannot be asked for",
        ),
        (
            lambda m: m["bus"].update(absent=["lung", "a" * 201]),
            "'a{201}' cannot be asked for. The text prompt has 201 characters",
        ),
        (
            lambda m: m["bus"].update(absnet=["lung"]),
            "'bus' has a key 'absnet', which means nothing; did you mean 'absent'",
        ),
        (lambda m: m["bus"].update(Modality=m["bus"].pop("modality")), "did you mean 'modality'"),
        (lambda m: m["bus"].update(zzz=1), "nothing; There are modality, classes, absent, terms"),
    ],
)
def test_bad_manifests_are_refused(root: Path, change: Any, message: str) -> None:
    rewrite(root, "manifest.json", change)
    with pytest.raises(DataError, match=message):
        read_manifest(root)


def test_missing_and_broken_json(root: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(root / "nowhere")
    (root / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_manifest(root)
    (root / "manifest.json").write_text('{"bus": ' + "1" * 5000 + "}")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_manifest(root)
    (root / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_manifest(root)
    for name in ("manifest.json", "splits.json"):  # as editors on Windows save it
        content = MANIFEST if name == "manifest.json" else SPLITS
        (root / name).write_text(json.dumps(content), encoding="utf-8-sig")
    assert list(read_manifest(root)) == list(MANIFEST)
    assert "em/train" in split_names(root)
    (root / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="must hold a JSON object, not a list"):
        read_manifest(root)


def test_a_key_given_twice_is_refused(root: Path) -> None:
    # Of two equal keys JSON keeps the last: label 1 would be the myocardium alone.
    (root / "manifest.json").write_text(
        '{"heart": {"modality": "cardiac MRI", "terms": "none", '
        '"classes": {"1": "right ventricle", "1": "myocardium"}}}'
    )
    with pytest.raises(DataError, match=r"manifest\.json has the key '1' twice"):
        read_manifest(root)
    (root / "splits.json").write_text('{"bus": {"train": ["a"]}, "bus": {"test": ["b"]}}')
    with pytest.raises(DataError, match=r"splits\.json has the key 'bus' twice"):
        read_split(root, "bus/test")


# --- samples of a manifest


def test_samples_of_a_binary_set(root: Path) -> None:
    samples = samples_from_manifest(root, [Selection(set="bus", split="fold1/train", weight=2.5)])
    assert [s.name for s in samples] == ["bus/b1", "bus/b2"]
    assert samples[0] == Sample(
        "bus",
        "breast ultrasound",
        "b1",
        root / "bus/images/b1.jpg",
        (Target("tumor", root / "bus/masks/b1.png"),),
        weight=2.5,
    )
    image, masks = load_sample(samples[1])
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(masks["tumor"], square((40, 60), 10, 20, 11) > 0)


def test_a_normal_set_has_no_mask_and_an_absent_concept(root: Path) -> None:
    (sample, _) = samples_from_manifest(root, [Selection(set="bus_normal", split="train")])
    assert sample.targets == ()
    assert sample.absent == ("tumor",)
    assert load_sample(sample)[1] == {}


def test_a_set_about_which_nothing_is_known_is_refused(root: Path) -> None:
    rewrite(root, "manifest.json", lambda m: m.pop("bus"))
    with pytest.raises(DataError, match="'bus_normal' has no classes and no absent concepts"):
        samples_from_manifest(root, [Selection(set="bus_normal", split="train")])


def test_label_maps_are_found_whatever_the_folder_and_may_lack_a_class(root: Path) -> None:
    parts = [Selection(set="heart", split=s) for s in ("train", "val", "test")]
    first, second, third = samples_from_manifest(root, parts)
    assert second.image_path == root / "heart/train/images/h2.jpg"
    assert third.image_path == root / "heart/test/images/h3.jpg"
    assert [(t.concept, t.label) for t in first.targets] == [
        ("right ventricle", 1),
        ("myocardium", 2),
        ("left ventricle", 3),
    ]
    counts = {c: int(m.sum()) for c, m in load_sample(first)[1].items()}
    assert counts == {"right ventricle": 0, "myocardium": 144 - 36, "left ventricle": 36}
    assert load_sample(second)[1]["right ventricle"].sum() == 36


def test_one_mask_folder_per_class(root: Path) -> None:
    (sample,) = samples_from_manifest(root, [Selection(set="em", split="test")])
    assert [t.mask_path for t in sample.targets] == [
        root / "em/masks/mito/01.png",
        root / "em/masks/syn/01.png",
    ]
    assert {c: int(m.sum()) for c, m in load_sample(sample)[1].items()} == {
        "mitochondria": 256,
        "synapse": 16,
    }


def test_255_is_a_label_like_others_where_there_are_others(root: Path) -> None:
    rewrite(
        root,
        "manifest.json",
        lambda m: m["bus"].update(classes={"200": "tumor", "255": "vessel"}),
    )
    labels = square((40, 60), 10, 20, 10, 200)
    labels[0, :5] = 255
    save(root / "bus/masks/b3.png", labels)
    (sample,) = samples_from_manifest(root, [Selection(set="bus", split="fold1/test")])
    assert {c: int(m.sum()) for c, m in load_sample(sample)[1].items()} == {
        "tumor": 100,
        "vessel": 5,
    }


def test_classes_restrict_a_selection(root: Path) -> None:
    pick = Selection(set="heart", split="val", classes=["myocardium"])
    (sample,) = samples_from_manifest(root, [pick])
    assert [t.concept for t in sample.targets] == ["myocardium"]
    assert load_sample(sample)[1]["myocardium"].sum() == 108
    with pytest.raises(DataError, match=r"no class 'tumor'\. It has: right ventricle, myocardium"):
        samples_from_manifest(root, [Selection(set="heart", split="val", classes=["tumor"])])


def test_selections_as_users_write_them() -> None:
    assert selection_of("busi/fold1/test") == Selection(set="busi", split="fold1/test")
    wanted = Selection(set="ph2", split="test", part=(0.1, 1.0), limit=3)
    assert selection_of("ph2/test@0.1:1", 3) == wanted


@pytest.mark.parametrize(
    "text",
    ["busi", "/test", "busi/", "", "busi/test@a:b", "busi/test@1", "busi/test@0.5:0.5"],
)
def test_other_selections_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}: write SET/SPLIT, e.g. busi/fold1/test, or"):
        selection_of(text)


def test_numbers_keep_names_that_are_such_numbers() -> None:
    stems = ["7", "08", "9", "10", "11", "100", "x9", "9a", "-9", "²", "٩"]

    def of(*numbers: int, **more: Any) -> list[str]:
        return kept(stems, Selection(set="a", split="b", numbers=numbers, **more))

    assert of(8, 10) == ["08", "9", "10", "٩"]
    assert of(0, 7) == ["7"]
    assert of(11, 11) == ["11"]
    assert of(7, 100, prefix="1") == ["10", "11", "100"]
    assert of(9, 100, limit=1) == ["11"]
    for wrong in ((3, 2), (-1, 2)):
        with pytest.raises(ValidationError, match=r"is not \[low, high\] with 0 <= low"):
            of(*wrong)


def test_a_selection_without_numbers_is_written_as_before_there_were_any() -> None:
    # What a run is recognised by is written so.
    plain, numbered = (Selection(set="a", split="b", numbers=n) for n in (None, (1, 2)))
    assert "numbers" not in plain.model_dump()
    assert numbered.model_dump(mode="json")["numbers"] == [1, 2]
    assert Selection.model_validate(numbered.model_dump()) == numbered


def test_limit_spreads_evenly(root: Path) -> None:
    stems = [f"x{i:02d}" for i in range(12)]
    rewrite(root, "splits.json", lambda s: s.update(bus={"all": stems}))
    for stem in stems:
        save(root / f"bus/images/{stem}.png", grey((16, 16)))
        save(root / f"bus/masks/{stem}.png", square((16, 16), 2, 2, 4))
    few = samples_from_manifest(root, [Selection(set="bus", split="all", limit=3)])
    assert [s.stem for s in few] == ["x02", "x06", "x10"]
    assert len(samples_from_manifest(root, [Selection(set="bus", split="all", limit=99)])) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_stem_that_is_no_utf8_is_selected_as_any_other(root: Path) -> None:
    odd = os.fsdecode(b"b\xff")
    (root / "bus/images/b1.jpg").rename(root / f"bus/images/{odd}.jpg")
    (root / "bus/masks/b1.png").rename(root / f"bus/masks/{odd}.png")
    rewrite(root, "splits.json", lambda s: s.update({"bus/odd": {"train": [odd]}}))
    (sample,) = samples_from_manifest(root, [Selection(set="bus", split="odd/train")])
    assert load_sample(sample)[1]["tumor"].any()


def test_missing_files_are_named_and_counted(root: Path) -> None:
    (root / "bus/images/b1.jpg").unlink()
    with pytest.raises(DataError, match=r"bus/fold1/train: 1 images are not below .*: b1\."):
        samples_from_manifest(root, [Selection(set="bus", split="fold1/train")])
    (root / "em/masks/syn/00.png").unlink()
    with pytest.raises(DataError, match=r"em/train: 1 masks are missing: .*masks/syn/00\.png"):
        samples_from_manifest(root, [Selection(set="em", split="train")])


def test_an_ambiguous_stem_is_refused(root: Path) -> None:
    save(root / "heart/test/images/h1.jpg", grey((48, 32)))
    with pytest.raises(DataError, match="'h1' is ambiguous"):
        samples_from_manifest(root, [Selection(set="heart", split="train")])
    save(root / "bus/masks/b1.bmp", square((40, 60), 0, 0, 5))
    with pytest.raises(DataError, match=r"'b1' is ambiguous: .*b1\.bmp, .*b1\.png"):
        samples_from_manifest(root, [Selection(set="bus", split="fold1/train")])


def test_wrong_selections_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"no set 'lung' .* bus, bus_normal, em, heart"):
        samples_from_manifest(root, [Selection(set="lung", split="train")])
    twice = [Selection(set="bus", split=s) for s in ("fold1/train", "fold2/train")]
    with pytest.raises(DataError, match="bus/b2 is selected by 'bus/fold1/train' and again"):
        samples_from_manifest(root, twice)
    with pytest.raises(DataError, match="No samples are selected"):
        samples_from_manifest(root, [])
    for wrong in ({"weight": 0}, {"limit": 0}, {"clases": ["tumor"]}):
        with pytest.raises(ValidationError):
            Selection.model_validate({"set": "bus", "split": "train", **wrong})
    rewrite(root, "manifest.json", lambda m: m.update(new=m["bus"]))
    with pytest.raises(DataError, match="has no images"):
        samples_from_manifest(root, [Selection(set="new", split="train")])
    rewrite(root, "splits.json", lambda s: s["em"].update(train=["00.png"]))
    with pytest.raises(DataError, match=r"00\.png \(names are listed without suffix\)"):
        samples_from_manifest(root, [Selection(set="em", split="train")])


# --- reading


def one(root: Path, mask: NDArray[Any], label: int | None = None, **more: Any) -> Sample:
    image = save(root / "i.png", grey(mask.shape[:2]))
    target = Target("tumor", save(root / "m.png", mask), label, **more)
    return Sample("set", "unknown", "i", image, (target,))


def test_a_lossy_mask_is_cut_at_the_middle(tmp_path: Path) -> None:
    truth = square((64, 64), 20, 20, 24)
    path = tmp_path / "m.jpg"
    PILImage.fromarray(truth).save(path, quality=60)
    assert len(np.unique(read_mask(path))) > 2
    image = save(tmp_path / "i.png", grey((64, 64)))
    sample = Sample("set", "unknown", "i", image, (Target("tumor", path),))
    np.testing.assert_array_equal(load_sample(sample)[1]["tumor"], truth > 0)


def test_foreground_begins_above_127(tmp_path: Path) -> None:
    steps = np.arange(256, dtype=np.uint8).reshape(16, 16)
    mask = load_sample(one(tmp_path, steps))[1]["tumor"]
    np.testing.assert_array_equal(mask, steps >= 128)


def test_mask_encodings(tmp_path: Path) -> None:
    truth = square((32, 32), 4, 6, 10) > 0
    encodings = {
        "bool": truth,
        "grey": truth.astype(np.uint8) * 255,
        "16 bit": truth.astype(np.uint16) * 65535,
        "colour": np.repeat(truth[..., None].astype(np.uint8) * 255, 3, axis=2),
        "alpha": np.stack([truth * np.uint8(255)] * 3 + [np.full_like(truth, 255, np.uint8)], 2),
    }
    for name, mask in encodings.items():
        read = load_sample(one(tmp_path, mask))[1]["tumor"]
        np.testing.assert_array_equal(read, truth, err_msg=name)


@pytest.mark.parametrize(("mode", "value"), [("LA", 0), ("LA", 255), ("RGBA", 0), ("RGBA", 255)])
def test_a_mask_drawn_by_transparency_alone_is_refused(
    tmp_path: Path, mode: str, value: int
) -> None:
    shape = square((20, 20), 2, 2, 5)
    grey_only = PILImage.new("L", (20, 20), value).convert(mode)
    grey_only.putalpha(PILImage.fromarray(shape))
    grey_only.save(tmp_path / "m.png")
    with pytest.raises(DataError, match="drawn by its transparency alone"):
        read_mask(tmp_path / "m.png")
    # Where grey values differ they say what is inside, whatever is transparent.
    both = PILImage.merge("LA", [PILImage.fromarray(shape)] * 2).convert(mode)
    both.save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png") == shape).all()
    PILImage.new("L", (20, 20), value).convert(mode).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png") == value).all()


def test_a_palette_mask_gives_its_indices(tmp_path: Path) -> None:
    picture = PILImage.fromarray(square((32, 32), 0, 0, 8, 2)).convert("L")
    palette = PILImage.new("P", picture.size)
    palette.putdata(list(picture.tobytes()))
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "p.png")
    assert np.unique(read_mask(tmp_path / "p.png")).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_are_turned_by_exif_as_images_are(
    orientation: int, turn: Any, suffix: str, tmp_path: Path
) -> None:
    stored = square((40, 64), 4, 30, 12)
    stored[4, 0] = 255
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    for name in ("i", "m"):
        PILImage.fromarray(stored).save(tmp_path / f"{name}{suffix}", exif=exif)
    target = Target("tumor", tmp_path / f"m{suffix}")
    image, masks = load_sample(Sample("set", "unknown", "i", tmp_path / f"i{suffix}", (target,)))
    np.testing.assert_array_equal(masks["tumor"], turn(stored) > 0)
    np.testing.assert_array_equal(image[..., 0] > 0, masks["tumor"])


def test_a_mask_of_several_pages_is_refused_and_not_cut_to_the_first(tmp_path: Path) -> None:
    first, second = (PILImage.fromarray(square((40, 64), 4, 30, side)) for side in (0, 12))
    path = tmp_path / "m.tif"
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(DataError, match=r"m\.\w+ holds several pages or frames \(2\)"):
        read_mask(path)
    second.save(path)
    assert (read_mask(path) > 0).sum() == 144
    path = tmp_path / "m.png"
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(DataError, match=r"m\.png .*several pages or frames .*; .* a grey PNG file"):
        read_mask(path)


def test_a_smaller_copy_in_a_tiff_is_no_page_of_a_mask(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    small, whole = (PILImage.fromarray(square(s, 0, 0, 6)) for s in ((20, 32), (40, 64)))
    small.save(path, save_all=True, append_images=[whole], tiffinfo={254: 0})
    # NewSubfileType (tag 254, one 32-bit number) of the first page: bit 0 says it is a small copy.
    page, copy = (struct.pack("<HHII", 254, 4, 1, kind) for kind in (0, 1))
    data = path.read_bytes()
    assert data.count(page) == 2
    path.write_bytes(data.replace(page, copy, 1))
    assert read_mask(path).shape == (40, 64)


def test_a_mask_that_is_a_volume_is_refused_and_not_read_as_one_of_its_slices(
    tmp_path: Path,
) -> None:
    shown = square((32, 48), 4, 4, 8)
    volume = np.stack([0 * shown, shown, 0 * shown])
    tifffile.imwrite(tmp_path / "m.tif", volume, volumetric=True, photometric="minisblack")
    with pytest.raises(DataError, match=r"m\.tif cannot be read: .* a volume of 3 slices"):
        read_mask(tmp_path / "m.tif")


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "uint32"])
def test_label_maps_of_either_byte_order_are_read(
    kind: str, order: Literal["<", ">"], deflate: bool, tmp_path: Path
) -> None:
    labels = square((32, 48), 4, 4, 8, 3).astype(kind)
    (tmp_path / "m.tif").write_bytes(tiff_bytes(labels, order=order, deflate=deflate))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), labels)


def test_masks_that_the_target_does_not_explain_are_refused(tmp_path: Path) -> None:
    labels = square((32, 32), 4, 4, 8, 1)
    with pytest.raises(DataError, match=r"values 0, 1 and none above 127.*class in a manifest"):
        load_sample(one(tmp_path, labels))
    assert load_sample(one(tmp_path, labels, 1))[1]["tumor"].sum() == 64
    # Of 300 numbered nuclei those above 127 would be inside, and the others not.
    objects = np.arange(320, dtype=np.uint16).reshape(16, 20)
    with pytest.raises(DataError, match=r"0, 1, .* and 312 more, as a map of labels or objects"):
        load_sample(one(tmp_path, objects))
    # As resizing leaves it, in 16 bits, in 12, and in 8 that were moved up.
    for full in (65535, 4095, 65280):
        soft = np.array([[0, full // 2, full]] * 8, dtype=np.uint16).repeat(8, axis=1)
        assert load_sample(one(tmp_path, soft))[1]["tumor"].sum() == 128
    labels[0, 0] = 7
    assert load_sample(one(tmp_path, labels, 1))[1]["tumor"].sum() == 64
    with pytest.raises(DataError, match=r"values 7, which are not among the labels .*: 1, 2"):
        load_sample(one(tmp_path, labels, 1, labels=(1, 2)))
    red = np.zeros((32, 32, 3), dtype=np.uint8)
    red[:8, :8, 0] = 255
    with pytest.raises(DataError, match="is a colour image"):
        load_sample(one(tmp_path, red))


def test_an_empty_mask_is_a_statement(tmp_path: Path) -> None:
    mask = load_sample(one(tmp_path, np.zeros((16, 16), np.uint8)))[1]["tumor"]
    assert not mask.any()


def test_sizes_must_agree(tmp_path: Path) -> None:
    sample = one(tmp_path, square((32, 40), 0, 0, 4))
    save(tmp_path / "i.png", grey((32, 41)))
    with pytest.raises(DataError, match=r"40x32 px \(width x height\), the image 41x32 px"):
        load_sample(sample)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    sample = one(tmp_path, square((32, 32), 0, 0, 4))
    (tmp_path / "m.png").write_bytes(b"not a mask")
    with pytest.raises(
        DataError, match=r"m\.png cannot be read: this is not .*save it as a grey PNG"
    ):
        load_sample(sample)
    (tmp_path / "m.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"m\.png cannot be read: the file is empty"):
        load_sample(sample)
    (tmp_path / "m.png").unlink()
    with pytest.raises(DataError, match=r"m\.png does not exist"):
        load_sample(sample)
    (tmp_path / "i.png").write_bytes((tmp_path / "i.png").read_bytes()[:200])
    with pytest.raises(DataError, match="The image of set/i cannot be used"):
        load_sample(sample)


def test_what_other_code_has_told_pillow_is_nothing_to_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "m.png", square((300, 300), 250, 0, 40))
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 1000)
    assert (read_mask(path) > 0).sum() == 1600
    monkeypatch.setenv("TEXTSAM_MAX_PIXELS", "80000")
    with pytest.raises(DataError, match=r"m\.png cannot be read: .* more than the limit of 80,000"):
        read_mask(path)
    monkeypatch.delenv("TEXTSAM_MAX_PIXELS")
    path.write_bytes(path.read_bytes()[:-60])  # what is cut off would be filled with zeros
    with pytest.raises(DataError, match=r"m\.png cannot be read: .* truncated or damaged"):
        read_mask(path)


def test_two_targets_of_a_concept_are_united(tmp_path: Path) -> None:
    labels = square((32, 32), 0, 0, 4, 1)
    labels[20:24, 20:24] = 2
    sample = one(tmp_path, labels, 1)
    both = (sample.targets[0], Target("tumor", sample.targets[0].mask_path, 2))
    joined = Sample("set", "unknown", "i", sample.image_path, both)
    assert load_sample(joined)[1]["tumor"].sum() == 32


# --- plain folders


def test_a_plain_folder(tmp_path: Path) -> None:
    for stem in ("b", "a.1"):
        save(tmp_path / f"images/{stem}.jpg", grey((20, 20)))
        save(tmp_path / f"masks/{stem}.png", square((20, 20), 2, 2, 5))
    (tmp_path / "images/Thumbs.db").write_bytes(b"")
    samples = samples_from_folder(tmp_path, "pancreatic tumor", dataset="eus", weight=3)
    assert [s.name for s in samples] == ["eus/a.1", "eus/b"]
    assert samples[0].modality == "unknown"
    assert samples[0].weight == 3
    assert load_sample(samples[0])[1]["pancreatic tumor"].sum() == 25
    assert samples_from_folder(tmp_path, "x")[0].dataset == tmp_path.name


def test_names_pair_however_their_accents_are_written(tmp_path: Path) -> None:
    one, two = "m\u00fcller", "mu\u0308ller"  # as Linux and Windows write it, as a Mac does
    for folder in (tmp_path / "plain", tmp_path / "root/bus"):
        save(folder / f"images/{one}.png", grey((20, 20)))
        save(folder / f"masks/{two}.png", square((20, 20), 2, 2, 5))
    samples = samples_from_folder(tmp_path / "plain", "tumor")
    assert [s.stem for s in samples] == [one]
    (tmp_path / "root/manifest.json").write_text(json.dumps({"bus": MANIFEST["bus"]}))
    (tmp_path / "root/splits.json").write_text(json.dumps({"bus": {"train": [two]}}))
    samples += samples_from_manifest(tmp_path / "root", [Selection(set="bus", split="train")])
    assert [load_sample(sample)[1]["tumor"].sum() for sample in samples] == [25, 25]


def test_a_folder_with_parts_and_labels(tmp_path: Path) -> None:
    save(tmp_path / "train/images/a.png", grey((20, 20)))
    save(tmp_path / "train/masks/a.png", square((20, 20), 2, 2, 5, 3))
    (sample,) = samples_from_folder(tmp_path, "x", split="train", label=3, modality="brain MRI")
    assert sample.modality == "brain MRI"
    assert load_sample(sample)[1]["x"].sum() == 25
    with pytest.raises(DataError, match=r"no folder 'images'\. Its parts are: train"):
        samples_from_folder(tmp_path, "x")
    with pytest.raises(DataError, match="no folder 'images'"):
        samples_from_folder(tmp_path, "x", split="val")
    with pytest.raises(DataError, match="Unknown split 'dev'"):
        samples_from_folder(tmp_path, "x", split="dev")


def test_a_folder_whose_files_do_not_pair_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        samples_from_folder(tmp_path, "x")
    for i in range(7):
        save(tmp_path / f"images/{i}.png", grey((20, 20)))
    with pytest.raises(DataError, match="7 of 7 images have no mask: 0, 1, 2, 3, 4 and 2 more"):
        samples_from_folder(tmp_path, "x")
    for i in range(8):
        save(tmp_path / f"masks/{i}.png", square((20, 20), 2, 2, 5))
    with pytest.raises(DataError, match="1 of 8 masks have no image: 7"):
        samples_from_folder(tmp_path, "x")
    (tmp_path / "masks/7.png").unlink()
    save(tmp_path / "images/3.bmp", grey((20, 20)))
    with pytest.raises(DataError, match="'3' is ambiguous"):
        samples_from_folder(tmp_path, "x")
    with pytest.raises(DataError, match=r"the concept '\?' cannot be asked for"):
        samples_from_folder(tmp_path, "?")


def test_what_is_no_plain_folder_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "mine/train/images").mkdir(parents=True)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/images").write_text("x")
    for folder, split, message in (
        ("gone", None, "gone has no folder 'images', as it does not exist. A plain folder holds"),
        ("a.json", None, "a.json is a file. A plain folder holds images/ and masks/"),
        ("a.json", None, "A COCO file is named as such: --coco"),
        ("odd", None, "odd/images is a file, not a folder"),
        ("mine", None, "mine has no folder 'images'. Its parts are: train; name one as the split"),
        ("mine", "val", "mine/val has no folder 'images', as it does not exist. The parts of"),
        ("mine", "val", "mine are: train; name one as the split"),
        ("mine", "train", "mine/train has no folder 'masks'. A plain folder holds"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            samples_from_folder(tmp_path / folder, "x", split=split)


# --- prompts of a training image


def bare(modality: str, *concepts: str, absent: tuple[str, ...] = (), weight: float = 1) -> Sample:
    targets = tuple(Target(c, Path("m.png")) for c in concepts)
    return Sample("set", modality, "s", Path("i.png"), targets, absent, weight)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_negatives_are_never_things_that_may_be_there() -> None:
    sampler = PromptSampler(list(CONCEPTS))
    legal = sampler.negative_texts(bare("breast ultrasound", "tumor"), ["tumor"], [])
    assert {"vessel", "tumor", "lung"}.isdisjoint(legal)
    assert {"nerve", "cell nucleus", "left ventricle", "retinal vessel"} <= set(legal)
    # "lesion" would be true of the tumor.
    assert "lesion" not in legal["skin lesion"]
    assert "cutaneous lesion" in legal["skin lesion"]
    fundus = bare("retinal fundus", "retinal vessel")
    assert "vessel" not in sampler.negative_texts(fundus, ["retinal vessel"], [])
    micrograph = bare("electron microscopy", "cell membrane")
    legal = sampler.negative_texts(micrograph, ["cell membrane"], [])
    assert {"mitochondria", "synapse", "cell nucleus"}.isdisjoint(legal)
    assert "tumor" in legal
    assert "lesion" in legal["tumor"]


def test_what_the_set_knows_to_be_absent_is_a_legal_negative() -> None:
    sampler = PromptSampler(["tumor"])
    normal = bare("breast ultrasound", absent=("tumor",))
    assert set(sampler.negative_texts(normal, [], [])) == {"tumor"}
    assert "breast mass" in sampler.negative_texts(normal, [], [])["tumor"]
    arm = bare("forearm ultrasound", "nerve", "vessel")
    assert set(sampler.negative_texts(arm, ["nerve"], ["vessel"])) == {"vessel", "tumor"}
    assert set(sampler.negative_texts(arm, ["nerve", "vessel"], [])) == {"tumor"}


def test_another_wording_of_what_is_there_is_no_negative() -> None:
    # Two categories that a file has both of; one is without a pixel in this image.
    sample = bare("unknown", "cyst", "Cysts", "stone")
    sampler = PromptSampler(["cyst", "Cysts", "stone"])
    assert sampler.negative_texts(sample, ["cyst"], ["Cysts", "stone"]) == {"stone": ["stone"]}
    assert sampler.negative_texts(sample, ["Cysts"], ["cyst"]) == {}
    assert set(sampler.negative_texts(sample, [], ["cyst", "Cysts"])) == {"cyst", "Cysts"}


def test_negatives_of_the_same_kind_of_image_can_be_asked_more_often() -> None:
    # "tumor" is of breasts, which are seen by ultrasound as forearms are; "polyp" is not.
    vocabulary = ("tumor", "polyp", "lung", "cell nucleus")
    sample = bare("forearm ultrasound", "nerve")
    counts = {}
    for weight in (1.0, 7.0):
        config = PromptConfig(negatives=1, distractor_p=0.0, synonym_p=0.0, kin_weight=weight)
        sampler = PromptSampler(vocabulary, config)
        asked = [sampler(sample, ["nerve"], [], rng(seed))[1].text for seed in range(600)]
        kin = [c for c in vocabulary if "breast ultrasound" in CONCEPTS[c].modalities]
        assert "tumor" in kin
        counts[weight] = sum(text in kin for text in asked) / 600, len(kin)
    (even, n), (more, _) = counts[1.0], counts[7.0]
    assert even == pytest.approx(n / 4, abs=0.06)
    assert more == pytest.approx(7 * n / (7 * n + 4 - n), abs=0.06)


def test_the_augmentation_of_a_modality_comes_before_the_common_one(root: Path) -> None:
    seen: list[str] = []

    def change(name: str) -> Any:
        def apply(image: Any, masks: Any, _: np.random.Generator) -> Any:
            seen.append(name)
            return image, list(masks)

        return apply

    for modality in ("breast ultrasound", "dermoscopy"):
        own = {modality: change("own")}
        train_set(root, size_px=32, augment=change("common"), augment_for=own)[(0, 0)]
    assert seen == ["own", "common"]


def test_nothing_is_assumed_of_an_unknown_modality_or_concept() -> None:
    sampler = PromptSampler([*CONCEPTS, "pancreatic tumor"])
    assert sampler.negative_texts(bare("EUS", "pancreatic tumor"), ["pancreatic tumor"], []) == {}
    asks = sampler(bare("EUS", "pancreatic tumor"), ["pancreatic tumor"], [], rng())
    assert (asks[0].text, asks[0].present) == ("pancreatic tumor", True)
    assert asks[1].text in distractors_for("EUS")
    other = sampler.negative_texts(bare("brain MRI", "tumor"), ["tumor"], [])
    assert "pancreatic tumor" not in other


def test_a_concept_of_ones_own_is_asked_by_its_name_alone() -> None:
    sampler = PromptSampler(["stone"], PromptConfig(distractor_p=0.0, synonym_p=1.0))
    for seed in range(5):
        (ask,) = sampler(bare("EUS", absent=("stone",)), [], [], rng(seed))
        assert ask == Ask("stone", "stone", False)


def test_negatives_are_worded_as_often_as_asked() -> None:
    names = CONCEPTS["nerve"].names
    for share, wanted in ((0.0, set(names[:1])), (1.0, set(names[1:]))):
        sampler = PromptSampler(["nerve"], PromptConfig(distractor_p=0.0, synonym_p=share))
        asks = [sampler(bare("breast ultrasound"), [], [], rng(seed)) for seed in range(40)]
        assert {ask.text for (ask,) in asks} == wanted
        assert {ask.concept for (ask,) in asks} == {"nerve"}


def test_where_few_things_are_known_to_be_absent_each_is_asked_once() -> None:
    asks = PromptSampler([], PromptConfig(negatives=30))(bare("EUS"), [], [], rng())
    assert sorted(ask.text for ask in asks) == sorted(distractors_for("EUS"))


def test_a_word_that_can_mean_what_may_be_there_is_never_asked() -> None:
    # A set of its own words: its images have no "lesion", and yet may show a tumor.
    sampler = PromptSampler(["lesion"], PromptConfig(distractor_p=0.0))
    sample = bare("breast ultrasound", absent=("lesion",))
    for seed in range(5):
        (ask,) = sampler(sample, [], [], rng(seed))
        assert ask.text in distractors_for("breast ultrasound")
    # Where neither a tumor nor a lesion of the skin can be, it is asked.
    (ask,) = sampler(bare("forearm ultrasound", absent=("lesion",)), [], [], rng())
    assert ask == Ask("lesion", "lesion", False)


def test_what_is_trained_is_no_distractor() -> None:
    sampler = PromptSampler(["prostate"], PromptConfig(negatives=5, distractor_p=1.0))
    assert sampler.negative_texts(bare("brain MRI", "tumor"), ["tumor"], []) == {}
    for seed in range(30):
        texts = [a.text for a in sampler(bare("brain MRI", "tumor"), ["tumor"], [], rng(seed))]
        assert "prostate" not in texts
        assert len(set(texts)) == 6


def test_positive_prompts_are_drawn_in_the_words_of_the_modality() -> None:
    sampler = PromptSampler(list(CONCEPTS), PromptConfig(negatives=0))
    texts = Counter(
        sampler(bare("brain MRI", "tumor"), ["tumor"], [], rng(s))[0].text for s in range(600)
    )
    assert set(texts) == set(CONCEPTS["tumor"].names_in("brain MRI"))
    assert "breast mass" not in texts
    assert 240 < texts["tumor"] < 360  # half of them by the canonical name
    plain = PromptSampler(list(CONCEPTS), PromptConfig(negatives=0, synonym_p=0.0))
    assert plain(bare("brain MRI", "tumor"), ["tumor"], [], rng())[0].text == "tumor"


def test_how_many_prompts_are_asked() -> None:
    three = ["right ventricle", "myocardium", "left ventricle"]
    config = PromptConfig(max_positives=2, negatives=3, distractor_p=0.2)
    sampler = PromptSampler(list(CONCEPTS), config)
    chosen: Counter[str] = Counter()
    for seed in range(200):
        asks = sampler(bare("cardiac MRI", *three), three, [], rng(seed))
        assert [a.present for a in asks] == [True, True, False, False, False]
        assert len({a.concept for a in asks}) == 5
        chosen.update(a.concept for a in asks[:2])
        for ask in asks[2:]:
            assert certainly_absent(ask.text, "cardiac MRI")
            assert ask.concept == ask.text or ask.concept in meanings(ask.text)
    assert min(chosen.values()) > 100  # of 133 expected
    only = PromptSampler(list(CONCEPTS), PromptConfig(negatives=0))
    assert len(only(bare("cardiac MRI", *three), three, [], rng())) == 2
    # Nothing is in the image: one negative all the same.
    (ask,) = only(bare("breast ultrasound", absent=("tumor",)), [], [], rng())
    assert not ask.present


@pytest.mark.parametrize(
    ("name", "allowed", "wrong"),
    [
        ("max_positives", 1, 0),
        ("negatives", 0, -1),
        ("synonym_p", 1.0, 1.01),
        ("synonym_p", 0.0, -0.01),
        ("distractor_p", 1.0, 1.01),
        ("distractor_p", 0.0, -0.01),
        ("hard_weight", 0.01, 0.0),
        ("kin_weight", 0.01, 0.0),
    ],
)
def test_how_to_ask_is_checked(name: str, allowed: float, wrong: float) -> None:
    PromptConfig(**{name: allowed})
    with pytest.raises(ValidationError, match=name):
        PromptConfig(**{name: wrong})


def test_hard_negatives_and_distractors_come_as_often_as_asked() -> None:
    config = PromptConfig(negatives=1, distractor_p=0.25, hard_weight=1000.0, synonym_p=0.0)
    sampler = PromptSampler(list(CONCEPTS), config)
    normal = bare("breast ultrasound", absent=("tumor",))
    texts = Counter(sampler(normal, [], [], rng(s))[0].text for s in range(400))
    assert 260 < texts["tumor"] < 340  # 300 expected
    assert sum(texts[t] for t in distractors_for("breast ultrasound")) > 60


# --- training items


def train_set(root: Path, **settings: Any) -> TrainDataset:
    parts = [("bus", "fold1/train"), ("bus_normal", "train"), ("em", "train"), ("heart", "train")]
    samples = samples_from_manifest(root, [Selection(set=s, split=p) for s, p in parts])
    values: dict[str, Any] = {
        "size_px": 64,
        "prompts": PromptSampler(list(CONCEPTS)),
        "augment": Augment(),
        "seed": 3,
    }
    return TrainDataset(samples, **{**values, **settings})


def same(a: TrainItem, b: TrainItem) -> bool:
    return (
        a.prompts == b.prompts
        and a.size_px == b.size_px
        and torch.equal(a.image, b.image)
        and torch.equal(a.targets, b.targets)
    )


def test_items_depend_on_their_key_alone(root: Path) -> None:
    data = train_set(root)
    forward = [data[(2, i)] for i in range(len(data))]
    backward = [train_set(root)[(2, i)] for i in reversed(range(len(data)))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert same(data[1], data[(0, 1)])
    assert same(data[(2, 1, 0)], forward[1])
    assert not same(data[(3, 1)], forward[1])
    assert not same(data[(2, 1, 1)], forward[1])
    assert not same(train_set(root, seed=4)[(2, 1)], forward[1])


def test_an_item_without_augmentation_has_known_pixels(root: Path) -> None:
    save(root / "bus/images/b1.png", np.full((40, 60), 77, np.uint8))
    (root / "bus/images/b1.jpg").unlink()
    plain = PromptSampler(list(CONCEPTS), PromptConfig(negatives=1, synonym_p=0.0))
    item = train_set(root, size_px=120, augment=None, prompts=plain)[(0, 0)]
    assert item.dataset == "bus"
    assert item.size_px == (80, 120)
    assert item.image.dtype == item.targets.dtype == torch.uint8
    assert item.image.shape == (3, 120, 120)
    assert (item.image[:, :80] == 77).all()
    assert (item.image[:, 80:] == 0).all()
    expected = np.zeros((120, 120), np.uint8)
    expected[20:40, 40:60] = 1  # the square of side 10 at row 10, column 20, twice as large
    assert item.prompts[0] == item.concepts[0] == "tumor"
    np.testing.assert_array_equal(item.targets[0].numpy(), expected)
    assert item.targets[1:].sum() == 0
    assert len(item.prompts) == len(item.concepts) == len(item.targets) == 2


def test_a_reduced_mask_is_where_half_of_the_area_is(root: Path) -> None:
    plain = PromptSampler(["tumor"], PromptConfig(negatives=0))
    item = train_set(root, size_px=30, augment=None, prompts=plain)[(0, 1)]
    # Rows 10..20, columns 20..30 (side 11) at half size: 5.5 pixels, the last one half covered.
    expected = np.zeros((30, 30), np.uint8)
    expected[5:11, 10:16] = 1
    expected[10, 15] = 0  # a quarter
    np.testing.assert_array_equal(item.targets[0].numpy(), expected)


def test_a_small_object_does_not_vanish(root: Path) -> None:
    plain = PromptSampler(["synapse"], PromptConfig(max_positives=2, negatives=0))
    thin = np.zeros((64, 64), np.uint8)
    thin[41, 5:40] = 255
    save(root / "em/masks/syn/00.png", thin)
    item = train_set(root, size_px=8, augment=None, prompts=plain)[(0, 4)]
    assert item.dataset == "em"
    target = item.targets[item.concepts.index("synapse")].numpy()
    assert np.unique(np.nonzero(target)[0]).tolist() == [5]
    assert 3 <= target.sum() <= 5
    dot = np.zeros((64, 64), np.uint8)
    dot[63, 63] = 255
    save(root / "em/masks/syn/00.png", dot)
    item = train_set(root, size_px=8, augment=None, prompts=plain)[(0, 4)]
    target = item.targets[item.concepts.index("synapse")].numpy()
    assert np.argwhere(target).tolist() == [[7, 7]]


def test_absent_concepts_have_empty_targets_and_present_ones_do_not(root: Path) -> None:
    data = train_set(root, prompts=PromptSampler(list(CONCEPTS), PromptConfig(negatives=2)))
    seen: dict[str, set[str]] = {}
    for epoch in range(25):
        for index in range(len(data)):
            item = data[(epoch, index)]
            truth = load_sample(item.sample)[1]
            for concept, target in zip(item.concepts, item.targets, strict=True):
                there = concept in truth and bool(truth[concept].any())
                assert bool(target.any()) == there
                if not there:
                    seen.setdefault(item.dataset, set()).add(concept)
            height, width = item.size_px
            assert item.targets[:, height:].sum() == item.targets[:, :, width:].sum() == 0
            assert item.image[:, height:].sum() == item.image[:, :, width:].sum() == 0
    assert "tumor" in seen["bus_normal"]
    assert "tumor" not in seen["bus"]
    assert "right ventricle" in seen["heart"]


def test_large_images_are_reduced_before_augmentation(root: Path) -> None:
    sizes: list[tuple[int, ...]] = []

    def spy(
        image: NDArray[np.uint8], masks: Any, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
        sizes.append(image.shape[:2])
        return image, list(masks)

    data = train_set(root, size_px=16, augment=spy)
    item = data[(0, 0)]  # 40 x 60
    assert sizes == [(21, 32)]
    # As at inference: 40 · 16 / 60 is 10.67.
    assert item.size_px == (11, 16) == SquareGeometry((40, 60), 16).valid_px
    train_set(root, size_px=32, augment=spy)[(0, 0)]
    assert sizes[1] == (40, 60)


def test_wrong_data_sets_and_keys_are_refused(root: Path) -> None:
    prompts = PromptSampler(["tumor"])
    with pytest.raises(DataError, match="at least one sample"):
        TrainDataset([], size_px=64, prompts=prompts)
    samples = [bare("brain MRI", "tumor")]
    with pytest.raises(DataError, match="got 4"):
        TrainDataset(samples, size_px=4, prompts=prompts)
    with pytest.raises(DataError, match="seed"):
        TrainDataset(samples, size_px=64, prompts=prompts, seed=-1)
    data = train_set(root)
    for index in (-1, len(data)):
        with pytest.raises(IndexError):
            data[(0, index)]


# --- order


def test_an_epoch_of_equal_weights_is_a_shuffle() -> None:
    samples = [bare("brain MRI", "tumor", weight=0.7) for _ in range(50)]
    first = epoch_order(samples, 0, seed=1)
    assert sorted(first) == [(0, i, 0) for i in range(50)]
    assert first == epoch_order(samples, 0, seed=1)
    assert first != sorted(first)
    assert [k[1] for k in first] != [k[1] for k in epoch_order(samples, 1, seed=1)]
    assert first != epoch_order(samples, 0, seed=2)


def test_weights_and_length_decide_how_often_a_sample_is_seen() -> None:
    samples = [bare("brain MRI", "tumor", weight=w) for w in (1, 1, 2, 6)]
    keys = epoch_order(samples, 5, seed=0, length=20)
    assert Counter(k[1] for k in keys) == {0: 2, 1: 2, 2: 4, 3: 12}
    assert sorted(k for k in keys if k[1] == 2) == [(5, 2, r) for r in range(4)]
    # Half an appearance for a weight of 1: never exact in one epoch, right on average.
    total: Counter[int] = Counter()
    for epoch in range(400):
        keys = epoch_order(samples, epoch, seed=0, length=5)
        assert len(keys) == 5
        total.update(k[1] for k in keys)
    for index, expected in enumerate((200, 200, 400, 1200)):
        assert total[index] == pytest.approx(expected, abs=45)
    with pytest.raises(DataError, match="at least one sample"):
        epoch_order([], 0, seed=0)
