"""`textsam data`: options that would have no say are refused, faults are told all at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_runs import run
from PIL import Image
from runs import run_config, write_data
from tiny import write_images_and_masks


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a plain folder, a data root and a configuration."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "plain", train=2, val=1)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "root/splits.json").write_text("{}", encoding="utf-8")
    settings = run_config(tmp_path / "plain").model_dump(mode="json")
    (tmp_path / "run.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return tmp_path


COCO = "--coco train=file.json,pictures"
NEW = "-o new --name zoo --terms CC0"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("check run.yaml --folder plain", "leave out --folder"),
        ("check run.yaml --concept tumor", "leave out --concept"),
        (f"check {COCO} --folder plain --set a/train", "leave out --set, --folder"),
        ("check root --concept tumor", "the manifest says what the masks show"),
        ("check root --set a/train --concept tumor", "leave out --concept"),
        ("check plain --concept tumor --concept lung", "give one name"),
        ("quality run.yaml -o new --concept tumor", "leave out --concept"),
        (f"quality {COCO} -o new --set a/train", "leave out --set"),
        ("quality root -o new --concept tumor", "leave out --concept"),
        ("quality plain -o new --concept tumor --concept lung", "give one name"),
        ("convert plain -o new --concept tumor --concept lung", "give one name"),
        ("convert plain -o new --concept tumor --name zoo --terms CC0", "out --name, --terms"),
        ("convert plain -o new --concept tumor --modality unknown", "leave out --modality"),
        ("convert root -o new --set a/train --allow same-image", "leave out --allow"),
        ("convert root -o new --set a/train --split train", "leave out --split"),
        (f"convert {COCO} {NEW} --set a/train --split train", "leave out --set, --split"),
        (f"convert {COCO} {NEW} --instances --polygons", "leave out --instances, --polygons"),
    ],
)
def test_options_without_a_say_are_refused(place: Path, call: str, words: str) -> None:
    done = run("data", *call.split())
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    "call",
    [
        "check run.yaml --set seed=1",
        "check plain --concept tumor",
        "check . --folder plain --concept tumor",
        "check root --folder ../plain --concept tumor",
        "quality plain -o new --concept tumor --pictures 0",
        "quality run.yaml -o new --set seed=1 --pictures 0",
        "convert plain -o new.json --concept tumor --split train",
    ],
)
def test_options_that_are_used_are_not(place: Path, call: str) -> None:
    done = run("data", *call.split())
    assert done.exit_code == 0, done.output


def test_several_folders_are_one_data_set_and_every_count_is_kept(place: Path) -> None:
    write_images_and_masks(place / "flat", 3, seed=7)
    write_images_and_masks(place / "other/train", 4, seed=8)
    folders = ("--folder", "plain", "--folder", "flat", "--folder", "other/")
    done = run("data", "check", place, *folders, "--json", "report.json")
    assert done.exit_code == 0, done.output
    counts = {"plain/train": 2, "plain/val": 1, "flat": 3, "other/train": 4}
    report = json.loads((place / "report.json").read_text())
    assert report["samples"] == counts
    assert report["files_read"] == 2 * sum(counts.values())
    assert "plain/train 2, plain/val 1, flat 3, other/train 4: 0 errors" in done.stdout
    # One image in two of the folders.
    shutil.copyfile(place / "flat/images/001.png", place / "other/train/images/002.png")
    done = run("data", "check", place, *folders, "--json", "report.json")
    assert done.exit_code == 1, done.output
    (found,) = json.loads((place / "report.json").read_text())["problems"].pop("same-image")
    assert found["part"] == "other/train"
    assert "001.png in 'flat'" in found["message"]
    # A single one needs no name.
    done = run("data", "check", place, "--folder", "plain", "--json", "report.json")
    assert done.exit_code == 0, done.output
    assert json.loads((place / "report.json").read_text())["samples"] == {"train": 2, "val": 1}


def test_folders_and_sets_of_one_name_are_counted_together(place: Path) -> None:
    root = place / "root"
    write_images_and_masks(root / "zoo/train", 4, seed=8)
    write_images_and_masks(root / "flat", 2, seed=9)
    entry = {"modality": "unknown", "classes": {"255": "tumor"}, "terms": "CC0"}
    (root / "manifest.json").write_text(json.dumps({"zoo": entry}), encoding="utf-8")
    splits = {"zoo": {"train": ["000", "001", "002"]}}
    (root / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    sources = ("--set", "zoo/train", "--folder", "zoo", "--folder", "flat")
    done = run("data", "check", root, *sources, "--json", "report.json")
    assert done.exit_code == 0, done.output
    report = json.loads((place / "report.json").read_text())
    assert report["samples"] == {"zoo/train": 3 + 4, "flat": 2}


def test_a_report_that_cannot_be_written_costs_no_reading(place: Path) -> None:
    (place / "plain/train/masks/000.png").unlink()
    (place / "report").mkdir()
    done = run("data", "check", "plain", "--json", "report")
    assert done.exit_code == 1, done.output
    assert "plain/train/images/000.png: plain/train/masks has no 000.*" in done.stdout
    assert "error: report: cannot be written" in done.stderr
    assert not list(place.glob("report/*"))


def test_every_fault_of_masks_that_become_a_coco_file_is_told(place: Path) -> None:
    folder = place / "zoo"
    write_images_and_masks(folder, 4)
    (folder / "masks/000.png").unlink()
    (folder / "images/001.png").write_bytes(b"no image")
    (folder / "masks/002.png").write_bytes(b"no mask")
    done = run("data", "convert", "zoo", "--concept", "tumor", "-o", "new/zoo.json")
    assert done.exit_code == 1, done.output
    for path in ("images/000.png", "images/001.png", "masks/002.png"):
        assert f"  zoo/{path}: " in done.stderr
    assert done.stderr.startswith("error: the data cannot be used: 3 problems of 3 kinds\n")
    assert done.stderr.endswith("Nothing was written.\n")
    assert not (place / "new").exists()


def test_what_is_left_out_of_a_coco_file_is_told(place: Path) -> None:
    write_images_and_masks(place / "zoo", 2)
    for kind in ("images", "masks"):
        Image.new("L", (48, 48)).save(place / f"zoo/{kind}/late.webp")
    done = run("data", "convert", "zoo", "--concept", "tumor", "-o", "zoo.json")
    assert done.exit_code == 0, done.output
    assert done.stdout == "zoo.json\n"
    assert done.stderr.startswith("warning: the data can be used, but\nunsupported-file (2): ")
    assert "  zoo/images: 1 file(s) are none of " in done.stderr
    content = json.loads((place / "zoo.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in content["images"]] == [
        "images/000.png",
        "images/001.png",
    ]


def test_what_is_allowed_of_a_coco_file_is_told(place: Path) -> None:
    write_images_and_masks(place / "zoo", 2)
    for path in (place / "zoo/masks").iterdir():
        Image.new("L", (48, 48)).save(path)
    made = run("data", "convert", "zoo", "--concept", "tumor", "-o", "zoo.json")
    assert made.stderr == ""  # a category without an annotation is what COCO has for it
    coco = ("--coco", "train=zoo.json,zoo", "--name", "set", "--terms", "CC0")
    done = run("data", "convert", *coco, "-o", "made", "--allow", "empty-class")
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("warning: the data can be used, but\nempty-class (1): ")
    assert "[train] zoo/tumor: annotated in 2 image(s), without a pixel in any" in done.stderr


def test_masks_without_a_pixel_become_a_category_without_annotations(place: Path) -> None:
    write_images_and_masks(place / "zoo", 2)
    for path in (place / "zoo/masks").iterdir():
        Image.new("L", (48, 48)).save(path)
    done = run("data", "convert", "zoo", "--concept", "tumor", "-o", "zoo.json")
    assert done.exit_code == 0, done.output
    content = json.loads((place / "zoo.json").read_text(encoding="utf-8"))
    assert [category["name"] for category in content["categories"]] == ["tumor"]
    assert (len(content["images"]), content["annotations"]) == (2, [])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (f"convert {COCO} -o run.yaml --name zoo --terms CC0", "-o run.yaml is a file"),
        ("convert plain --concept tumor --split val -o root", "-o root is a folder; give a file"),
        ("convert plain --concept tumor --split val -o run.yaml/a.json", "-o run.yaml is a file"),
        ("prepare-eus plain -o run.yaml/eus", "-o run.yaml/eus cannot be made, as "),
    ],
)
def test_places_that_take_no_output_are_refused_before_anything_is_read(
    place: Path, call: str, words: str
) -> None:
    done = run("data", *call.split())
    assert done.exit_code == 2, done.output
    assert words in done.stderr


def test_a_set_without_a_split_is_named_as_it_was_given(place: Path) -> None:
    write_images_and_masks(place / "root/zoo", 1)
    entry = {"modality": "unknown", "classes": {"255": "tumor"}, "terms": "CC0"}
    (place / "root/manifest.json").write_text(json.dumps({"zoo": entry}), encoding="utf-8")
    splits = {"zoo": {"train": ["000"]}}
    (place / "root/splits.json").write_text(json.dumps(splits), encoding="utf-8")
    done = run("data", "check", "root", "--set", "zoo")
    assert done.exit_code == 1, done.output
    assert "There is no split 'zoo' in root/splits.json. Choose from: zoo/train." in done.stdout
