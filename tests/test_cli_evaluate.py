"""`textsam evaluate` on a tiny model: protocols, comparison, and calls that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import run, use_tiny_model
from evaluations import rows
from PIL import Image
from tiny import tiny_model, write_images_and_masks

from textsam import api
from textsam.adapters import AdapterConfig
from textsam.data.selection import Selection
from textsam.inference.refinement import RefineWith
from textsam.inference.segmenter import Segmenter


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What models were loaded."""
    return use_tiny_model(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_images_and_masks(tmp_path / "scans", 4)
    return tmp_path / "scans"


def evaluated(data: Path, out: Path, *options: str) -> str:
    done = run("evaluate", data, "--concept", "tumor", "-o", out, *options)
    assert done.exit_code == 0, done.output
    return done.stdout


def header(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return content


def test_protocols(loaded: list[dict[str, Any]], data: Path, tmp_path: Path) -> None:
    for prompts, refine in (("text", None), ("text+geometry", 0), ("geometry", 0)):
        out = tmp_path / prompts
        text = evaluated(data, out, "--prompts", prompts, "--seed", "3", "--worst", "2")
        drawn = "" if prompts == "text" else ", seed 3"
        assert f"prompts {prompts}{drawn}; 4 images" in text
        assert "HD95 px" in text
        assert (header(out)["protocol"], header(out)["refine"]) == (prompts, refine)
        assert len(rows(out)) == 4
        assert {path.name for path in out.iterdir()} == {
            "cases.csv",
            "evaluation.json",
            "summary.json",
            "worst.png",
        }
    assert header(tmp_path / "geometry")["seed"] == 3
    again = evaluated(data, tmp_path / "again", "--prompts", "geometry", "--seed", "3")
    other = evaluated(data, tmp_path / "other", "--prompts", "geometry", "--seed", "4")
    assert again.split("prompts")[0] != other.split("prompts")[0]
    assert (tmp_path / "again" / "worst.png").is_file()


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ((), True),
        (("--modality", "brian MRI", "--negatives", "2"), True),
        (("--modality", "brain MRI"), False),
        (("--negatives", "0"), False),
        (("--prompts", "geometry"), False),
    ],
)
def test_where_nothing_absent_can_be_asked_for_that_is_said(
    loaded: list[dict[str, Any]],
    data: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    warned: bool,
) -> None:
    out = tmp_path / "out"
    call = ("--concept", "tumor", "-o", out, "--limit", "2", "--worst", "0")
    done = run("evaluate", data, *call, *options)
    assert done.exit_code == 0, done.output
    kinds = {row["kind"] for row in rows(out)}
    assert ("absent_modality" in kinds) == ("brain MRI" in options)
    assert ("warning: 2 image(s) of the kind" in done.stderr) == warned
    assert ("no concept is ruled out in them; --modality names the kind" in done.stderr) == warned
    if "brian MRI" in options:
        assert "(the closest is 'brain MRI')" in done.stderr


@pytest.mark.parametrize("measured", [(), ("--faithfulness",)])
def test_every_file_is_checked_before_anything_is_asked(
    loaded: list[dict[str, Any]], data: Path, tmp_path: Path, measured: tuple[str, ...]
) -> None:
    for name in ("images/001.png", "images/003.png", "masks/002.png"):
        path = data / name
        path.write_bytes(path.read_bytes()[:-40])
    (data / "masks/lost.png").write_bytes(b"")
    out = tmp_path / "out"
    done = run("evaluate", data, "--concept", "tumor", "-o", out, *measured)
    assert done.exit_code == 1, done.output
    assert "error: the data cannot be used: 4 problems of 3 kinds" in done.stderr
    for line in ("mask-without-image (1)", "broken-image (2)", "broken-mask (1)"):
        assert f"\n{line}: " in done.stderr
    for name in ("images/001.png", "images/003.png", "masks/002.png", "masks/lost.png"):
        assert f"  [evaluation] {data / name}: " in done.stderr
    assert "Nothing was asked." in done.stderr
    assert done.stdout == ""
    assert loaded == [], "before a model is loaded"
    assert not out.exists()


def test_what_the_check_only_remarks_is_said_on_standard_error(
    loaded: list[dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    with Image.open(data / "masks/000.png") as mask:
        size = mask.size
    for name in ("000.png", "001.png"):
        Image.new("L", size, 0).save(data / "masks" / name)
    (data / "images/003.png").write_bytes((data / "images/001.png").read_bytes())
    options = ("--worst", "0", "--negatives", "0")
    call = ("evaluate", data, "--concept", "tumor", *options)
    done = run(*call, "-o", tmp_path / "all")
    assert done.exit_code == 0, done.output
    assert "warning: the data can be used, but\nrepeated-image (1): " in done.stderr
    assert "repeated" not in done.stdout
    assert len(rows(tmp_path / "all")) == 4
    # Healthy people alone: a class without a pixel is no fault here.
    done = run(*call, "-o", tmp_path / "two", "--limit", "2")
    assert done.exit_code == 0, done.output
    assert [row["kind"] for row in rows(tmp_path / "two")] == ["absent_annotated", "present"]
    # Of four images a limit of two keeps the second and the last.
    Image.new("L", size, 0).save(data / "masks" / "003.png")
    done = run(*call, "-o", tmp_path / "healthy", "--limit", "2")
    assert done.exit_code == 0, done.output
    assert "empty-class (1)" in done.stderr
    assert "repeated-image" in done.stderr


def test_a_set_that_is_not_there_is_a_problem_like_others(
    loaded: list[dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    done = run("evaluate", data, "--set", "busi/test", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "unusable-source (1): a folder, manifest" in done.stderr
    assert "manifest.json" in done.stderr
    assert loaded == []


def test_images_the_adapter_was_trained_on_are_counted(
    loaded: list[dict[str, Any]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stems = [f"{number:03d}" for number in range(4)]
    entry = {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "made up"}
    for name, content in (
        ("manifest", {"scans": entry}),
        (
            "splits",
            {"scans": {"train": stems[:2], "test": stems[2:]}, "scans/mixed": {"test": stems[1:]}},
        ),
    ):
        (data.parent / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

    def config(*splits: str) -> AdapterConfig:
        # The limit keeps one image of the two that a split has, as it did in training.
        train = [
            Selection(
                set="scans", split=split.rstrip("!"), limit=1 if "!" in split else None
            ).model_dump()
            for split in splits
        ]
        other = Selection(set="elsewhere", split="train").model_dump()
        training = {"data": {"train": [other, *train, {"set": "scans", "age": 3}]}}
        return AdapterConfig(name="tiny", preset="lite", prompts=("tumor",), training=training)

    for splits, seen in (
        (("train",), "1 of these 3"),
        (("train", "test"), "3 of these 3"),
        (("test!",), "1 of these 3 images, e.g. scans/003;"),
        ((), ""),
    ):
        own = config(*splits)
        monkeypatch.setattr(
            api,
            "load_model",
            lambda *_, own=own, **__: Segmenter(tiny_model(), own, device=torch.device("cpu")),
        )
        out = tmp_path / f"out-{'-'.join(splits)}"
        done = run("evaluate", data.parent, "--set", "scans/mixed/test", "-o", out)
        assert done.exit_code == 0, done.output
        assert ("was trained on" in done.stderr) == bool(seen)
        assert seen in done.stderr


@pytest.mark.parametrize(
    ("recorded", "warned"),
    [
        ({"train_folders": [{"folder": "scans", "concept": "tumor", "split": None}]}, True),
        ({"train_folders": [{"folder": "../scans", "concept": "tumor", "split": None}]}, True),
        ({"train_folders": [{"folder": "scans", "concept": "tumor", "split": "train"}]}, False),
        ({"train_folders": [{"folder": "all/scans", "concept": "tumor", "split": None}]}, False),
        ({"train_folders": [{"folder": ".", "concept": "tumor", "split": None}]}, False),
        ({"train_folders": ["scans"], "train_coco": None}, False),
        ({}, False),
    ],
    ids=str,
)
def test_folders_called_as_one_trained_on_are_told(
    loaded: list[dict[str, Any]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: dict[str, Any],
    warned: bool,
) -> None:
    knows(monkeypatch, recorded)
    assert data.name == "scans"
    done = run("evaluate", data, "--concept", "tumor", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    told = (
        "'tiny' may have been trained on 4 of these 4 images, e.g. scans/000 (by the name of their "
        "folder or COCO file)"
    )
    assert (told in done.stderr) == warned
    assert ("trained on" in done.stderr) == warned


@pytest.mark.parametrize("way", ["folder", "link", "part", "coco"])
def test_what_a_manifest_tells_of_images_given_otherwise(
    loaded: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """An adapter trained on a manifest's split meets the same images without the manifest."""
    scans = tmp_path / "root/scans"
    data = scans / "test" if way == "part" else scans
    write_images_and_masks(data, 4)
    entry = {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "made up"}
    split = {"train": ["000", "002", "003"], "val": ["001"]}
    for name, content in (("manifest", {"scans": entry}), ("splits", {"scans": split})):
        (tmp_path / f"root/{name}.json").write_text(json.dumps(content), encoding="utf-8")
    own = Selection(set="scans", split="train", limit=2).model_dump()
    knows(monkeypatch, {"train": [own, Selection(set="other", split="train").model_dump()]})
    call: tuple[str | Path, ...] = ("evaluate", data, "--concept", "tumor")
    if way == "link":
        (tmp_path / "mine").symlink_to(data)
        call = ("evaluate", tmp_path / "mine", "--concept", "tumor")
    elif way == "part":
        call = ("evaluate", scans, "--split", "test", "--concept", "tumor")
    elif way == "coco":
        done = run("data", "convert", data, "--concept", "tumor", "-o", tmp_path / "some.json")
        assert done.exit_code == 0, done.output
        call = ("evaluate", "--coco", f"mine={tmp_path / 'some.json'},{data}")
    done = run(*call, "--worst", "0", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "'tiny' was trained on 2 of these 4 images, e.g. " in done.stderr
    assert "may have been" not in done.stderr


@pytest.mark.parametrize(
    ("manifest", "splits", "warned"),
    [
        (None, None, True),
        ("[]", "{}", True),
        ('{"name": "a web page"}', "{}", True),
        ('{"scans": {"modality": "CT", "classes": {"255": "tumor"}, "terms": "x"}}', "{}", True),
        (
            '{"scans": {"modality": "CT", "classes": {"255": "tumor"}, "terms": "x"}}',
            '{"scans": {"train": ["003"], "test": ["000", "001", "002"]}}',
            False,
        ),
    ],
    ids=["none", "no object", "another's", "other splits", "knows"],
)
def test_a_folder_called_as_a_set_trained_on_is_told_where_no_manifest_tells_more(
    loaded: list[dict[str, Any]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    manifest: str | None,
    splits: str | None,
    warned: bool,
) -> None:
    for name, content in (("manifest", manifest), ("splits", splits)):
        if content is not None:
            (tmp_path / f"{name}.json").write_text(content, encoding="utf-8")
    knows(monkeypatch, {"train": [Selection(set="scans", split="train").model_dump()]})
    done = run("evaluate", data, "--concept", "tumor", "--worst", "0", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert ("may have been trained on 4 of these 4 images" in done.stderr) == warned
    assert ("was trained on 1 of these 4 images, e.g. scans/003" in done.stderr) != warned


def test_the_kind_of_image_of_a_set_is_named_by_its_manifest(
    loaded: list[dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    entry = {"modality": "CT", "classes": {"255": "tumor"}, "terms": "made up"}
    for name, content in (("manifest", entry), ("splits", {"test": ["000", "001"]})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"scans": content}), encoding="utf-8")
    done = run("evaluate", tmp_path, "--set", "scans/test", "--worst", "0", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "no concept is ruled out in them; modality in the manifest names" in done.stderr


@pytest.mark.parametrize(("split", "warned"), [(None, True), ("train", False)])
def test_a_set_called_as_a_folder_trained_on_is_told(
    loaded: list[dict[str, Any]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    split: str | None,
    warned: bool,
) -> None:
    entry = {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "made up"}
    for name, content in (("manifest", entry), ("splits", {"test": ["000", "001"]})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"scans": content}), encoding="utf-8")
    knows(monkeypatch, {"train_folders": [{"folder": "scans", "concept": "tumor", "split": split}]})
    done = run("evaluate", tmp_path, "--set", "scans/test", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert ("may have been trained on 2 of these 2 images" in done.stderr) == warned


def knows(monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Any]) -> None:
    """Loaded is an adapter with this on record of the data it was trained on."""
    config = AdapterConfig(
        name="tiny", preset="lite", prompts=("tumor",), training={"data": recorded}
    )
    segmenter = Segmenter(tiny_model(), config, device=torch.device("cpu"))
    monkeypatch.setattr(api, "load_model", lambda *_, **__: segmenter)


@pytest.fixture
def coco(data: Path, tmp_path: Path) -> Path:
    """The masks of `data` as run-length codes; image 1 has no annotation, image 2 only a crowd."""
    done = run("data", "convert", data, "--concept", "tumor", "-o", tmp_path / "scans.json")
    assert done.exit_code == 0, done.output
    path = tmp_path / "some.json"
    content = json.loads((tmp_path / "scans.json").read_text())
    first, second, third = (image["id"] for image in content["images"][:3])
    kept = [entry for entry in content["annotations"] if entry["image_id"] != second]
    for entry in kept:
        entry["iscrowd"] = int(entry["image_id"] == third)
    content["annotations"] = kept
    content["categories"].append({"id": 99, "name": "marker"})
    kept.append({**kept[0], "id": 1000, "category_id": 99})
    assert kept[0]["image_id"] == first
    path.write_text(json.dumps(content))
    return path


def test_coco_files_give_the_figures_of_their_masks(
    loaded: list[dict[str, Any]], data: Path, coco: Path, tmp_path: Path
) -> None:
    options = ("--modality", "brain MRI", "--negatives", "1", "--worst", "0")
    evaluated(data, tmp_path / "png", *options)
    call = ("evaluate", "--coco", f"scans={tmp_path / 'scans.json'},{data}", *options)
    done = run(*call, "-o", tmp_path / "coco")
    assert done.exit_code == 0, done.output
    assert "| scans | tumor | 4 |" in done.stdout

    def figures(out: Path) -> list[dict[str, str]]:
        kept = ("dataset", "concept", "prompt", "kind", "dice", "nsd_3px", "truth_area_px")
        return [{name: row[name] for name in kept} for row in rows(out) if row["dice"]]

    assert len(figures(tmp_path / "png")) == 4
    assert figures(tmp_path / "coco") == figures(tmp_path / "png")
    assert {row["stem"] for row in rows(tmp_path / "coco")} == {f"images/00{n}" for n in range(4)}


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ((), {0: "present", 1: "absent_annotated", 2: "present", 3: "present"}),
        (("--not-exhaustive",), {0: "present", 2: "present", 3: "present"}),
        (("--crowd", "unknown"), {0: "present", 1: "absent_annotated", 3: "present"}),
        (("--limit", "2"), {1: "absent_annotated", 3: "present"}),
    ],
)
def test_what_a_coco_file_says(
    loaded: list[dict[str, Any]],
    data: Path,
    coco: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    kinds: dict[int, str],
) -> None:
    out = tmp_path / "out"
    call = ("evaluate", "--coco", f"mine={coco},{data}", "--concept", "tumor=lung", "-o", out)
    done = run(*call, "--worst", "0", "--negatives", "0", *options)
    assert done.exit_code == 0, done.output
    assert {int(row["stem"].removeprefix("images/")): row["kind"] for row in rows(out)} == kinds
    assert {(row["dataset"], row["prompt"]) for row in rows(out)} == {("mine", "lung")}
    assert ("crowd-left-out (1)" in done.stderr) == ("unknown" in options)


def test_a_coco_file_called_as_one_trained_on_is_told(
    loaded: list[dict[str, Any]],
    data: Path,
    coco: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = ("evaluate", "--coco", f"mine={coco},{data}", "--worst", "0", "--concept", "tumor=tumor")
    for file, warned in (("some.json", True), ("others/some.json", False)):
        knows(monkeypatch, {"train_coco": [{"images": "scans", "annotations": file}]})
        done = run(*call, "-o", tmp_path / f"out{warned}")
        assert done.exit_code == 0, done.output
        assert ("may have been trained on 4 of these 4 images" in done.stderr) == warned


def test_faults_of_coco_files_are_listed(
    loaded: list[dict[str, Any]], data: Path, coco: Path, tmp_path: Path
) -> None:
    content = json.loads(coco.read_text())
    content["annotations"][0]["image_id"] = 12345
    coco.write_text(json.dumps(content))
    (data / "images/003.png").unlink()
    out = tmp_path / "out"
    files = ("--coco", f"mine={coco},{data}", "--coco", f"gone={tmp_path / 'no.json'},{data}")
    done = run("evaluate", *files, "-o", out)
    assert done.exit_code == 1
    for kind in ("unknown-reference (1)", "missing-image (1)", "unusable-source (1)"):
        assert f"\n{kind}: " in done.stderr, done.stderr
    assert loaded == []
    assert not out.exists()


def test_a_limit_keeps_the_same_images_of_a_folder_and_of_a_set(
    loaded: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_images_and_masks(tmp_path / "scans", 7)
    stems = [f"{number:03d}" for number in range(7)]
    entry = {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "made up"}
    for name, content in (("manifest", entry), ("splits", {"test": stems})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"scans": content}), encoding="utf-8")
    evaluated(tmp_path / "scans", tmp_path / "folder", "--limit", "3", "--worst", "0")
    done = run("evaluate", tmp_path, "--set", "scans/test", "--limit", "3", "-o", tmp_path / "set")
    assert done.exit_code == 0, done.output
    kept = [{row["stem"] for row in rows(tmp_path / name)} for name in ("folder", "set")]
    # The middles of three stretches of seven.
    assert kept == [{"001", "003", "005"}] * 2


def test_random_points_an_adapter_asks_for_have_the_seed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AdapterConfig(
        name="tiny", preset="lite", prompts=("tumor",), refine=1, refine_with=RefineWith.BOX_5POINTS
    )
    segmenter = Segmenter(tiny_model(), config, device=torch.device("cpu"))
    monkeypatch.setattr(api, "load_model", lambda *_, **__: segmenter)
    told = evaluated(data, tmp_path / "own", "--seed", "3")
    assert "refine as the adapter asks with box+5points, prompts text, seed 3;" in told
    evaluated(data, tmp_path / "named", "--seed", "3", "--refine-with", "box+5points")
    evaluated(data, tmp_path / "other", "--seed", "4", "--refine-with", "box+5points")

    def areas(out: Path) -> list[str]:
        return [row["area_px"] for row in rows(out)]

    assert areas(tmp_path / "own") == areas(tmp_path / "named") != areas(tmp_path / "other")


def test_what_refinement_takes_needs_a_refinement(
    loaded: list[dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    call = ("evaluate", data, "--concept", "tumor", "-o", tmp_path / "out", "--refine-with")
    for given in (("box", "--refine", "0"), ("box", "--prompts", "geometry")):
        done = run(*call, *given)
        assert done.exit_code == 2
        assert "nothing is refined" in done.stderr
    assert not (tmp_path / "out").exists()
    for number, given in enumerate((("box", "--refine", "1"), ("none", "--refine", "0"))):
        done = run(*call[:5], tmp_path / str(number), "--refine-with", *given)
        assert done.exit_code == 0, done.output
        assert header(tmp_path / str(number))["refine_with"] == given[0]


def test_the_tolerance_of_the_slab(
    loaded: list[dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    by_two = ("--worst", "0", "--slab-tolerance-px", "2")
    assert "| slab NSD 3 px % |" in evaluated(data, tmp_path / "three", "--worst", "0")
    text = evaluated(data, tmp_path / "two", *by_two)
    assert "| NSD 3 px % | slab NSD 2 px % |" in text
    assert header(tmp_path / "two")["slab_tolerance_px"] == 2.0
    assert header(tmp_path / "two")["tolerance_px"] == 3.0
    call = ("evaluate", data, "--concept", "tumor", "--worst", "0", "-o", tmp_path / "two")
    done = run(*call)
    assert done.exit_code == 1
    assert "slab_tolerance_px was 2.0 and is 3.0" in done.stderr
    assert "give another folder (-o) or remove this one" in done.stderr
    evaluated(data, tmp_path / "again", *by_two)
    done = run("evaluate", "--compare", tmp_path / "two", tmp_path / "again")
    assert done.exit_code == 0, done.output
    assert "| slab NSD 2 px % |" in done.stdout
    done = run("evaluate", "--compare", tmp_path / "two", tmp_path / "three")
    assert done.exit_code == 1
    assert (
        f"error: slab NSD: {tmp_path / 'two'} was evaluated with a tolerance of 2.0" in done.stderr
    )


def test_box_shifts(loaded: list[dict[str, Any]], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = evaluated(
        data, out, "--prompts", "geometry", "--box-shift", "0,0.1,.4", "--worst", "0", "--limit=2"
    )
    assert header(out)["box_shifts"] == [0.0, 0.1, 0.4]
    assert [r["box_shift"] for r in rows(out)] == ["0.0", "0.1", "0.4"] * 2
    assert "| box shift % |" in text
    assert not (out / "worst.png").exists()


def test_compare(loaded: list[dict[str, Any]], data: Path, tmp_path: Path) -> None:
    evaluated(data, tmp_path / "a", "--worst", "0")
    evaluated(data, tmp_path / "b", "--prompts", "geometry", "--worst", "0")
    models = len(loaded)
    done = run("evaluate", "--compare", tmp_path / "a", tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert "| scans | tumor | Dice % | 4 |" in done.stdout
    assert "refine 0, prompts geometry, seed 0" in done.stdout
    assert not (tmp_path / "c").exists()
    done = run("evaluate", "--compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "comparison.json",
        "comparison.md",
    }
    compared = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert compared["first"]["settings"]["adapter"] == "tiny"
    assert "contents" not in compared["first"]["settings"], "a line per image helps nobody there"
    assert len(loaded) == models, "comparing loads no model"
    evaluated(data, tmp_path / "few", "--limit", "2", "--worst", "0")
    done = run("evaluate", "--compare", tmp_path / "a", tmp_path / "few", "-o", tmp_path / "d")
    assert done.exit_code == 1
    assert "error: the two evaluations are not of the same cases; only in" in done.stderr
    assert "scans/000 tumor" in done.stderr
    assert not (tmp_path / "d").exists()


def test_calls_that_are_wrong(loaded: list[dict[str, Any]], data: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    wrong: dict[str, tuple[str | Path, ...]] = {
        "give the data to evaluate on": ("--concept", "tumor", *out),
        "and -o FOLDER": (data, "--concept", "tumor"),
        "choose one of text, text+geometry, geometry": (
            (data, "--concept", "tumor", *out, "--prompts", "boxes")
        ),
        "--concept thing=--: The text prompt '--' is empty": (
            *("--coco", "zoo=file.json,pictures", "--concept", "thing=--", *out),
        ),
        "box shifts need a box": (data, "--concept", "tumor", *out, "--box-shift", "0.1"),
        "is not in [0, 0.5)": (
            (data, "--concept", "tumor", *out, "--prompts", "geometry", "--box-shift", "10")
        ),
        "write parts of the box's size": (
            (data, "--concept", "tumor", *out, "--prompts", "geometry", "--box-shift", "0;1")
        ),
        "--compare reads two folders": (data, "--compare", tmp_path, tmp_path),
        "results; leave out DATA, --set, --limit, --faithfulness": (
            (
                data,
                "--compare",
                tmp_path,
                tmp_path,
                "--set",
                "a/b",
                "--limit",
                "1",
                "--faithfulness",
            )
        ),
        "leave out --prompts, --box-shift, --refine-with, --negatives, --worst": (
            *(data, "--concept", "tumor", *out, "--faithfulness", "--prompts", "geometry"),
            *("--box-shift", "0.1", "--refine-with", "box", "--negatives", "2", "--worst", "3"),
        ),
        "give it without --settle": (
            (data, "--concept", "tumor", *out, "--faithfulness", "--settle")
        ),
        "leave out --split, --modality": (
            (data, "--set", "a/test", *out, "--split", "test", "--modality", "brain MRI")
        ),
        "a folder or --coco, and": (data, "--coco", f"a={data}/a.json,{data}", *out),
        "leave out --set, --split": (
            ("--coco", f"a={data}/a.json,{data}", *out, "--set", "a/b", "--split", "test")
        ),
        "write NAME=FILE.json,FOLDER": ("--coco", f"{data}/a.json,{data}", *out),
        "write CATEGORY=CONCEPT": (
            ("--coco", f"a={data}/a.json,{data}", "--concept", "tumor", *out)
        ),
        "choose union or unknown": ("--coco", f"a={data}/a.json,{data}", "--crowd", "no", *out),
        "leave out --not-exhaustive, --crowd": (
            (data, "--concept", "tumor", *out, "--not-exhaustive", "--crowd", "union")
        ),
        "the masks of a plain folder show one thing": (
            (data, "--concept", "tumor", "--concept", "lung", *out)
        ),
        "Invalid value for '--worst'": (data, "--concept", "tumor", *out, "--worst", "-1"),
    }
    for words, arguments in wrong.items():
        done = run("evaluate", *arguments)
        assert done.exit_code == 2, (words, done.output)
        assert words in " ".join(done.stderr.replace("│", "").split()), done.output
    assert loaded == []
    assert not (tmp_path / "out").exists()
