"""`textsam segment`: what it writes, what it prints, and its exit codes."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from cli_runs import run, use_tiny_model, write_image
from click.testing import Result
from dicom_files import bundled
from PIL import Image
from typer.testing import CliRunner

import textsam
from textsam import api
from textsam.cli import app
from textsam.inference.kinds import ImageKinds, Spread
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views

RESULT_KEYS = {
    "prompt", "found", "score", "box", "centroid", "centroid_mm", "area_px", "area_mm2", "image",
    "model", "adapter", "extra", "frame", "files", "seconds",
}  # fmt: skip
REPORT_KEYS = {
    "format", "textsam", "model", "adapter", "inputs", "warnings", "results", "failures",
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`load_model` gives a tiny segmenter; what it was asked for is kept."""
    return use_tiny_model(monkeypatch)


def mask_values(path: str | Path) -> set[int]:
    with Image.open(path) as file:
        assert file.mode == "L"
        return set(np.unique(np.asarray(file)).tolist())


def report_of(result: Result) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.stdout == json.dumps(report, indent=2) + "\n"
    assert report.keys() == REPORT_KEYS
    assert (report["format"], report["textsam"]) == (1, textsam.__version__)
    return report


def test_one_image_and_one_word(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    result = run("segment", image, "tumor", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["scan_tumor.png"]
    with Image.open(tmp_path / "out" / "scan_tumor.png") as file:
        assert file.size == (40, 30)
    assert mask_values(tmp_path / "out" / "scan_tumor.png") <= {0, 255}
    assert "scan.png: tumor:" in result.stdout
    assert "scan_tumor.png" in result.stdout
    assert asked == [
        {
            "model": "lite", "adapter": None, "device": "auto", "precision": "auto",
            "sam_checkpoint": None, "text_encoder": None, "authors_frame": None, "views": Views(),
        }
    ]  # fmt: skip


def test_options_reach_the_model(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    options = (
        "--model vit_b --adapter mine --device cpu --precision float32 --sam-checkpoint sam.pth "
        "--text-encoder clip --authors-frame --views 112,mirrored --refine 2 --json"
    )
    result = run("segment", image, "tumor", "-o", tmp_path / "out", *options.split())
    assert asked == [
        {
            "model": "vit_b", "adapter": "mine", "device": "cpu", "precision": "float32",
            "sam_checkpoint": Path("sam.pth"), "text_encoder": Path("clip"), "authors_frame": True,
            "views": Views((112,), mirrored=True),
        }
    ]  # fmt: skip
    assert report_of(result)["results"][0]["extra"]["refine"] == 2


def test_the_report_is_stable_and_true(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for seed, name in enumerate(("b.png", "a.JPG")):
        write_image(folder / name, seed=seed)
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    write_image(folder / ".hidden.png")
    out = tmp_path / "out"
    result = run("segment", folder, "tumor", "lungs", "-o", out, "--overlay", "--json")
    assert result.exit_code == 0, result.output
    report = report_of(result)
    assert (report["model"], report["adapter"], report["failures"]) == ("lite", "tiny", [])
    assert [(Path(r["image"]["source"]).name, r["prompt"]) for r in report["results"]] == [
        ("a.JPG", "tumor"), ("a.JPG", "lungs"), ("b.png", "tumor"), ("b.png", "lungs"),
    ]  # fmt: skip
    for entry in report["results"]:
        assert entry.keys() == RESULT_KEYS
        assert entry["image"].keys() == {"source", "index", "height", "width", "sha256"}
        assert entry["files"].keys() == {"mask", "overlay"}
        with Image.open(entry["files"]["mask"]) as file:
            assert np.count_nonzero(np.asarray(file)) == entry["area_px"]
        with Image.open(entry["files"]["overlay"]) as file:
            assert file.mode == "RGB"
        assert entry["seconds"] > 0
    names = {f"{stem}_{slug}{end}.png" for stem in "ab" for slug in ("tumor", "lungs")
             for end in ("", "_overlay")}  # fmt: skip
    assert {path.name for path in out.glob("*.png")} == names
    records = {"manifest-1-of-1.jsonl", "summary.csv", "report.json"}
    assert {path.name for path in out.glob("[!.]*")} == names | records
    assert [r["extra"]["concept"] for r in report["results"][:2]] == ["tumor", "lung"]


def test_the_same_answers_as_the_interface(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    report = report_of(run("segment", image, "tumor", "lung", "-o", tmp_path / "o", "--json"))
    segmenter = api.load_model("lite", None, "auto", "auto")
    for entry, answer in zip(
        report["results"], segmenter.segment(image, ["tumor", "lung"]), strict=True
    ):
        with Image.open(entry["files"]["mask"]) as file:
            assert np.array_equal(np.asarray(file) > 0, answer.mask)
        assert {k: entry[k] for k in answer.to_dict()} == json.loads(json.dumps(answer.to_dict()))


def test_a_mask_s_own_file_name(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    target = tmp_path / "deep" / "mask.png"
    result = run("segment", image, "tumor", "-o", target, "--overlay")
    assert result.exit_code == 0, result.output
    assert {p.name for p in target.parent.iterdir()} == {"mask.png", "mask_overlay.png"}
    assert mask_values(target) <= {0, 255}


@pytest.mark.parametrize(
    ("names", "bases"),
    [
        (("a.png", "a.jpg", "b.png"), {"a_png", "a_jpg", "b"}),
        (("a.png", "a.jpg", "a_png.png"), {"a_png", "a_jpg", "a_png-2"}),
    ],
)
def test_files_of_one_stem_do_not_overwrite_each_other(
    asked: list[dict[str, Any]], tmp_path: Path, names: Sequence[str], bases: set[str]
) -> None:
    for seed, name in enumerate(names):
        write_image(tmp_path / "in" / name, seed=seed)
    report = report_of(run("segment", tmp_path / "in", "tumor", "-o", tmp_path / "out", "--json"))
    written = [Path(entry["files"]["mask"]).name for entry in report["results"]]
    assert len(set(written)) == len(names)
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == set(written)
    assert set(written) == {f"{base}_tumor.png" for base in bases}


@pytest.mark.parametrize(
    ("prompts", "slugs"),
    [
        (("Lung!", "lung"), ["lung", "lung-2"]),
        (("lung", "lung-3", "lung "), ["lung", "lung-3", "lung-2"]),
        (("cell nucleus", "腫瘍", "…a/b_c…"), ["cell-nucleus", "腫瘍", "a-b-c"]),
    ],
)
def test_prompts_do_not_overwrite_each_other(
    asked: list[dict[str, Any]], tmp_path: Path, prompts: Sequence[str], slugs: list[str]
) -> None:
    image = write_image(tmp_path / "scan.png")
    report = report_of(run("segment", image, *prompts, "-o", tmp_path / "out", "--json"))
    written = [Path(entry["files"]["mask"]).name for entry in report["results"]]
    assert written == [f"scan_{slug}.png" for slug in slugs]
    assert [entry["prompt"] for entry in report["results"]] == list(prompts)


def test_one_bad_image_does_not_stop_the_others(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    result = run("segment", tmp_path / "in", "tumor", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    report = report_of(result)
    assert [Path(r["image"]["source"]).name for r in report["results"]] == ["a.png", "c.png"]
    (failure,) = report["failures"]
    assert failure.keys() == {"input", "frame", "error"}
    assert failure["input"] == str(tmp_path / "in" / "b.png")
    assert failure["error"]
    assert "b.png" in result.stderr
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"a_tumor.png", "c_tumor.png"}


def test_a_missing_image(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    missing = tmp_path / "none.png"
    result = run("segment", missing, "tumor", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    report = report_of(result)
    assert report["results"] == []
    assert [failure["input"] for failure in report["failures"]] == [str(missing)]
    assert report["inputs"] == {"done": 0, "failed": 1, "skipped": 0, "no picture": 0}
    assert (report["model"], report["adapter"]) == ("lite", "generalist")
    assert result.stderr.count(str(missing)) == 1
    assert not (tmp_path / "out").exists()
    assert asked == [], "no model is loaded for nothing"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--frame", "3"), "there is no image 3; it has 3"),
        (("--max-bytes", "9"), "the limit is 9"),
        (("--format", "seg"), "none of the formats asked for"),
        (("--max-bytes", "9", "--resume"), "the limit is 9"),
    ],
)
def test_a_bad_input_is_found_before_a_model_is_loaded(
    asked: list[dict[str, Any]], tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    stack = write_tiff(tmp_path / "stack.tif", 3)
    result = run("segment", stack, "tumor", "-o", tmp_path / "out", *options)
    assert (result.exit_code, words in result.stderr) == (1, True), result.output
    assert result.stderr.count("error:") == 1
    assert asked == []
    assert not (tmp_path / "out").exists()
    mask = run("segment", stack, "tumor", "-o", tmp_path / "m.png", "--frame", "3")
    assert (mask.exit_code, asked) == (1, [])


def write_volume(path: Path) -> Path:
    voxels = np.random.default_rng(0).integers(0, 255, (12, 10, 9)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


def test_options_without_a_say_on_the_file(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image, stack = write_image(tmp_path / "a.png"), write_tiff(tmp_path / "stack.tif", 2)
    volume, dicom = write_volume(tmp_path / "v.nii.gz"), bundled("CT_small.dcm")
    out = tmp_path / "out"
    for source, useless in (
        (image, ("--recursive", "--series", "--axis 2", "--window 3", "--window=-1", "--no-crop")),
        (image, ("--frame 0",)),
        (stack, ("--recursive", "--series", "--axis 0", "--window 0", "--no-crop")),
        (volume, ("--recursive", "--series", "--window 1", "--no-crop")),
        (dicom, ("--recursive", "--series", "--axis 2")),
        (tmp_path / "missing.png", ("--recursive", "--series")),
    ):
        for option in useless:
            result = run("segment", source, "tumor", "-o", out, *option.split())
            assert result.exit_code == 2, (source, option, result.output)
            name = option.split()[0].split("=")[0]
            assert result.stderr.startswith(f"error: {source} ")
            assert result.stderr.endswith(f"; leave out {name}\n")
    both = run("segment", image, "tumor", "-o", out, "--window", "3", "--no-crop")
    assert both.stderr == f"error: {image} is no DICOM file; leave out --window, --no-crop\n"
    assert (asked, out.exists()) == ([], False)


def test_options_with_a_say_on_the_file(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    stack, volume = write_tiff(tmp_path / "stack.tif", 2), write_volume(tmp_path / "v.nii.gz")
    out, dicom = tmp_path / "out", bundled("CT_small.dcm")
    for source, options in (
        (stack, ("--frame", "1")),
        (volume, ("--axis", "0", "--frame", "1")),
        (dicom, ("--window", "-1", "--no-crop", "--frame", "0")),
    ):
        result = run("segment", source, "tumor", "-o", out, *options)
        assert result.exit_code == 0, (source, result.output)
    # A folder may hold files of every kind.
    write_image(tmp_path / "in" / "a.png")
    options = ("--recursive", "--series", "--axis", "0", "--window", "0", "--no-crop")
    result = run("segment", tmp_path / "in", "tumor", "-o", tmp_path / "all", *options)
    assert result.exit_code == 0, result.output


def test_what_is_not_there_is_an_answer(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = api.load_model

    def strict_about_finding(*args: Any, **others: Any) -> Segmenter:
        segmenter = tiny(*args, **others)
        segmenter.config = segmenter.config.model_copy(update={"found_threshold": 1.0})
        return segmenter

    monkeypatch.setattr(api, "load_model", strict_about_finding)
    image = write_image(tmp_path / "scan.png")
    result = run("segment", image, "tumor", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0
    (entry,) = report_of(result)["results"]
    assert (entry["found"], entry["area_px"], entry["box"]) == (False, 0, None)
    assert mask_values(entry["files"]["mask"]) == {0}
    spoken = run("segment", image, "tumor", "-o", tmp_path / "out")
    assert "not found" in spoken.stdout


@pytest.mark.parametrize(
    ("reach", "remark"),
    [(1e9, "not found (score 0.000), taken for dermoscopy"), (1.0, "unlike the images")],
)
def test_the_kind_of_image_is_remarked_upon(
    asked: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reach: float,
    remark: str,
) -> None:
    tiny = api.load_model
    kinds = ImageKinds(
        names=("dermoscopy", "X-ray"),
        weights=((0.0,) * 256,) * 2,
        biases=(9.0, 0.0),
        threshold=0.05,
        spread=Spread(centres=((99.0, 99.0),) * 2, precision=((1, 0), (0, 1)), reach=reach),
    )

    def knowing_kinds(*args: Any, **others: Any) -> Segmenter:
        segmenter = tiny(*args, **others)
        segmenter.config = segmenter.config.model_copy(update={"kinds": kinds})
        return segmenter

    monkeypatch.setattr(api, "load_model", knowing_kinds)
    image = write_image(tmp_path / "scan.png")
    spoken = run("segment", image, "lung", "-o", tmp_path / "out")
    assert remark in spoken.stdout.replace("\n", "")


def test_a_word_the_adapter_does_not_know(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    result = run("segment", image, "dog", "dog", "tumro", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0
    report = report_of(result)
    assert [entry["extra"]["concept"] for entry in report["results"]] == [None, None, "tumor"]
    # One line for each message, without a place in the code, and the same in the report.
    unknown, misspelt = report["warnings"]
    assert result.stderr == f"warning: {unknown}\nwarning: {misspelt}\n"
    assert "was not trained for the prompt 'dog'" in unknown
    assert "'tumro'; it is answered as 'tumor'" in misspelt
    result = run("segment", image, "tumor", "-o", tmp_path / "known", "--json")
    assert (result.stderr, report_of(result)["warnings"]) == ("", [])
    result = run("segment", image, "dog", "-o", tmp_path / "strict", "--strict")
    assert result.exit_code == 1
    assert "tumor, lung" in result.stderr
    assert not (tmp_path / "strict").exists()


def test_a_bad_prompt_is_one_error(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name)
    result = run("segment", tmp_path / "in", " ", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_masks_may_not_replace_the_images_of_a_folder(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_image(tmp_path / "in" / "a.png")
    other = write_image(tmp_path / "in" / "a_tumor.png", seed=1)
    before = other.read_bytes()
    result = run("segment", tmp_path / "in", "tumor", "-o", tmp_path / "in")
    assert result.exit_code == 2
    assert "would overwrite" in result.stderr
    assert other.read_bytes() == before
    assert run("segment", tmp_path / "in", "lung", "-o", tmp_path / "in").exit_code == 0


def write_tiff(path: Path, count: int) -> Path:
    pages = [
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (24, 32), dtype=np.uint8))
        for n in range(count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def test_a_folder_is_gone_on_with(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    for seed, name in enumerate(("a.png", "deep/b.png")):
        write_image(tmp_path / "in" / name, seed=seed)
    call = ("segment", tmp_path / "in", "tumor", "-o", tmp_path / "out")
    first = run(*call)
    assert first.exit_code == 0, first.output
    assert "1 done, 0 failed, 0 skipped" in first.stderr
    refused = run(*call, "--recursive")
    assert (refused.exit_code, "--resume" in refused.stderr) == (2, True)
    again = run(*call, "--recursive", "--resume", "--json")
    assert again.exit_code == 0, again.output
    assert "1 done, 0 failed, 1 skipped" in again.stderr
    report = report_of(again)
    assert report["inputs"] == {"done": 1, "failed": 0, "skipped": 1, "no picture": 0}
    masks = [str(tmp_path / "out" / name) for name in ("a_tumor.png", "deep/b_tumor.png")]
    assert [entry["files"]["mask"] for entry in report["results"]] == masks


def test_another_mask_file_is_another_output(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image, out = write_image(tmp_path / "a.png"), tmp_path / "out"
    again = "0 done, 0 failed, 1 skipped"
    for name in ("x.png", "y.png", "a_tumor2.tif", "a_tumor2.tiff", ""):
        call = ("segment", image, "tumor", "-o", out / name, "--resume")
        first = run(*call)
        assert first.exit_code == 0, first.output
        assert "1 done, 0 failed, 0 skipped" in first.stderr
        assert mask_values(out / (name or "a_tumor.png")) <= {0, 255}
        assert again in run(*call).stderr
    # The name it would have had anyway is the same output.
    assert again in run("segment", image, "tumor", "-o", out / "a_tumor.png", "--resume").stderr


def test_calls_for_one_file_each_keep_what_the_others_said(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for seed, name in enumerate("ab"):
        image = write_image(tmp_path / f"{name}.png", seed=seed)
        call = ("segment", image, "tumor", "-o", out, "--resume", "--format", "coco", "--sheet")
        for _ in range(2):
            result = run(*call)
            assert result.exit_code == 0, result.output
            assert f"{name}_summary.csv" in result.stderr
    for name in "ab":
        coco = json.loads((out / f"{name}_coco.json").read_text(encoding="utf-8"))
        assert [entry["file_name"] for entry in coco["images"]] == [f"{name}.png"]
        report = json.loads((out / f"{name}_report.json").read_text(encoding="utf-8"))
        assert [entry["path"] for entry in report["inputs"]] == [f"{name}.png"]
        _, row = (out / f"{name}_summary.csv").read_text(encoding="utf-8").splitlines()
        assert row.startswith(f"{name}.png,")
        assert (out / f"{name}_sheet-001.png").is_file()
    for name in ("coco.json", "summary.csv", "report.json", "sheet-001.png"):
        assert not (out / name).exists()
    # They are one run all the same, which can be summed up.
    for stray in ("a.png", "b.png"):
        (tmp_path / stray).rename(out / stray)
    options = ("--format", "coco", "--sheet")
    summed = run("segment", out, "tumor", "-o", out, "--resume", *options)
    assert summed.exit_code == 0, summed.output
    assert "0 done, 0 failed, 2 skipped" in summed.stderr
    coco = json.loads((out / "coco.json").read_text(encoding="utf-8"))
    assert [entry["file_name"] for entry in coco["images"]] == ["a.png", "b.png"]


def test_one_page_as_a_mask_file_is_gone_on_with(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    image, out = write_tiff(tmp_path / "b.tif", 2), tmp_path / "out"
    for place in (out / "x.png", out):
        call = ("segment", image, "tumor", "-o", place, "--frame", "1", "--resume")
        for counted in ("1 done, 0 failed, 0 skipped", "0 done, 0 failed, 1 skipped"):
            assert counted in run(*call).stderr
    assert (out / "b_tumor_0001.png").is_file()


def test_shards_of_a_folder(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    for seed in range(3):
        write_image(tmp_path / "in" / f"{seed}.png", seed=seed)
    out = tmp_path / "out"
    for number, names in ((1, ["0.png", "2.png"]), (2, ["1.png"])):
        result = run(
            "segment", tmp_path / "in", "tumor", "-o", out, "--shard", f"{number}/2", "--json"
        )
        assert result.exit_code == 0, result.output
        sources = [Path(entry["image"]["source"]).name for entry in report_of(result)["results"]]
        assert sources == names
    assert {path.name for path in out.glob("*.png")} == {f"{n}_tumor.png" for n in range(3)}


def test_a_shard_without_an_input_says_so(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    result = run("segment", tmp_path / "in", "tumor", "-o", out, "--shard", "2/2")
    assert result.exit_code == 0, result.output
    assert "no input falls in this shard (2/2 of " in result.stderr
    assert "0/0" not in result.output
    assert result.stdout == ""
    # The others go on as if it had not been.
    first = run("segment", tmp_path / "in", "tumor", "-o", out, "--shard", "1/2")
    assert (first.exit_code, "no input" in first.stderr) == (0, False)
    whole = run("segment", tmp_path / "in", "tumor", "-o", out, "--resume")
    assert "0 done, 0 failed, 1 skipped" in whole.stderr


def test_a_file_of_several_images(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    stack = write_tiff(tmp_path / "stack.tif", 3)
    out = tmp_path / "out"
    result = run("segment", stack, "tumor", "-o", out, "--json", "--batch-size", "2")
    assert result.exit_code == 0, result.output
    results = report_of(result)["results"]
    assert [entry["frame"] for entry in results] == [0, 1, 2]
    names = {f"stack_tumor_{n:04d}.png" for n in range(3)}
    assert {path.name for path in out.iterdir()} == names, "one file in, no records"
    spoken = run("segment", stack, "tumor", "-o", out, "--frame", "1")
    assert [line.split(":")[0] for line in spoken.stdout.splitlines()] == ["stack.tif [1]"]
    one = run("segment", stack, "tumor", "-o", tmp_path / "one.png", "--frame", "1")
    assert one.exit_code == 0, one.output
    written = (tmp_path / "one.png").read_bytes()
    assert written == (out / "stack_tumor_0001.png").read_bytes()


def test_limits_can_be_given(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    stack = write_tiff(tmp_path / "stack.tif", 3)
    call = ("segment", stack, "tumor", "-o", tmp_path / "out")
    for option, words in (
        ("--max-pixels", "limit of 2"), ("--max-images", "the limit is 2"),
        ("--max-bytes", "the limit is 2"),
    ):  # fmt: skip
        result = run(*call, option, "2")
        assert (result.exit_code, words in result.stderr) == (1, True), (option, result.output)


def test_what_cannot_be_asked_for(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    stack = write_tiff(tmp_path / "stack.tif", 3)
    folder, out, mask = tmp_path / "in", tmp_path / "out", tmp_path / "m.png"
    wrong: dict[str, tuple[str | Path, ...]] = {
        "'gif' is unknown": (folder, "tumor", "-o", out, "--format", "gif"),
        "give I/N": (folder, "tumor", "-o", out, "--shard", "2"),
        f"and {stack} is none": (stack, "tumor", "-o", out, "--shard", "2/2"),
        "and nowhere.png is none": ("nowhere.png", "tumor", "-o", out, "--shard", "1/1"),
        "3/2 does not exist": (folder, "tumor", "-o", out, "--shard", "3/2"),
        "add the format seg": (folder, "tumor", "-o", out, "--fractional"),
        "says the format": (image, "tumor", "-o", mask, "--format", "tiff"),
        "holds 3 images": (stack, "tumor", "-o", mask),
        "--axis": (folder, "tumor", "-o", out, "--axis", "3"),
        "all its slices": (stack, "tumor", "-o", out, "--format", "nifti", "--frame", "0"),
    }
    for words, arguments in wrong.items():
        result = run("segment", *arguments)
        assert result.exit_code == 2, (words, result.output)
        assert words in " ".join(result.stderr.replace("│", "").split()), result.output
    assert asked == []
    assert {path.name for path in tmp_path.iterdir()} == {"in", "stack.tif"}


@pytest.mark.parametrize(
    ("name", "format_"),
    [("seg.dcm", "seg"), ("mask.nii", "nifti"), ("Mask.NII.gz", "nifti"), ("out.json", "coco"),
     ("mask.jpg", "png")],
)  # fmt: skip
def test_no_folder_is_made_that_is_named_like_a_file(
    asked: list[dict[str, Any]], tmp_path: Path, name: str, format_: str
) -> None:
    image, out = write_image(tmp_path / "in" / "a.png"), tmp_path / "out" / name
    call = ("segment", image, "tumor", "-o", out)
    for more in ((), ("--format", format_)):
        result = run(*call, *more)
        assert result.exit_code == 2, result.output
        said = " ".join(result.stderr.replace("│", "").split())
        assert "a mask as .png, .tif, .tiff" in said
        assert "or a folder" in said
    assert asked == []
    assert not out.parent.exists()
    out.mkdir(parents=True)  # whoever has such a folder may use it
    assert run(*call).exit_code == 0
    assert (out / "a_tumor.png").is_file()


def test_a_single_dicom_image(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    call = ("segment", bundled("CT_small.dcm"), "tumor", "-o", tmp_path)
    options = ("--format", "png", "--format", "seg", "--format", "coco", "--sheet", "--json")
    result = run(*call, *options)
    assert result.exit_code == 0, result.output
    (entry,) = report_of(result)["results"]
    assert entry["files"].keys() == {"mask", "seg", "thumbnail"}
    assert all(Path(path).is_file() for path in entry["files"].values())
    assert entry["area_mm2"] is not None
    assert (tmp_path / "CT_small_sheet-001.png").is_file()
    assert (tmp_path / "CT_small_coco.json").is_file()
    report = run("segment", bundled("reportsi.dcm"), "tumor", "-o", tmp_path)
    assert (report.exit_code, "no pixel data" in report.stderr) == (1, True)


def test_a_clip_that_makes_no_volume_is_told_before_the_model(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    clip, out = bundled("examples_ybr_color.dcm"), tmp_path / "out"
    call = ("segment", clip, "tumor", "-o", out, "--format", "nifti")
    result = run(*call)
    assert result.exit_code == 1
    assert "its 30 images have no places in the patient, so they make no volume" in result.stderr
    (failure,) = report_of(run(*call, "--json"))["failures"]
    assert failure["frame"] is None
    assert asked == []
    assert not out.exists()


def test_a_full_disk_is_one_error(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        write_image(tmp_path / "in" / f"{seed}.png", seed=seed)

    def full(self: Image.Image, path: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    result = run("segment", tmp_path / "in", "tumor", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.count("No space left") == 1

    (tmp_path / "one").mkdir()
    alone = run("segment", tmp_path / "in" / "0.png", "tumor", "-o", tmp_path / "one")
    # Nothing is kept that could be gone on with.
    assert (alone.exit_code, "--resume" in alone.stderr) == (1, False)
    assert alone.stderr == (
        f"error: {tmp_path / 'one' / '0_tumor.png'}: cannot be written (No space left on device); "
        "free space\n"
    )


def test_closed_streams_do_not_stop_a_run(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"nothing")
    call = ["segment", str(tmp_path / "in"), "tumor", "-o", str(tmp_path / "out")]
    # As Python has them in a process that was started with `>&- 2>&-`.
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert app(call, standalone_mode=False) == 1
    assert (tmp_path / "out" / "a_tumor.png").is_file()
    lines = (tmp_path / "out" / "manifest-1-of-1.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["done", "failed"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("option", [(), ("--json",)])
def test_a_full_standard_output_is_one_error(
    asked: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: tuple[str, ...],
) -> None:
    write_image(tmp_path / "in" / "a.png")
    call = ["segment", str(tmp_path / "in"), "tumor", "-o", str(tmp_path / "out"), *option]
    full = os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(full, "wb", buffering=0) as raw:
        stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
        monkeypatch.setattr(sys, "stdout", stream)
        assert app(call, standalone_mode=False) == 1
        stream.detach()
    resume = "" if option else ", then go on with --resume"
    assert capsys.readouterr().err == (
        f"error: standard output: cannot be written (No space left on device); free space{resume}\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="such names are not allowed there")
def test_names_cannot_fake_lines_or_stop_a_run(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    names = ["b\nerror: all is lost.png", "c\x1b[2J.png", "\udcff.png", "\u00fc.png"]
    for name in names:
        write_image(tmp_path / "in" / "a.png").rename(tmp_path / "in" / name)
    arguments = ["segment", str(tmp_path / "in"), "tumor", "-o", str(tmp_path / "out")]
    result = CliRunner(charset="ascii").invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert sorted(line.split(": tumor")[0] for line in result.stdout.splitlines()) == sorted(
        [r"b\x0aerror: all is lost.png", r"c\x1b[2J.png", r"\udcff.png", r"\xfc.png"]
    )
