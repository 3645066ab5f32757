"""Runs over folders: what is written, what a killed or failed run leaves, what is done again."""

from __future__ import annotations

import csv
import errno
import gc
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from cli_runs import write_image
from dicom_files import bundled
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny import tiny_segmenter

import textsam
from textsam.errors import ConfigError, DataError, ImageError, PromptError
from textsam.folder import (
    FolderSummary,
    InputRecord,
    LeftoverWarning,
    Listener,
    Options,
    OutputError,
    make_plan,
    run_plan,
    segment_folder,
)
from textsam.folder.held import HeldAnswers
from textsam.folder.manifest import Manifest
from textsam.folder.opened import Opened
from textsam.folder.sheet import TILES_PER_PAGE, write_sheets
from textsam.folder.summary import write_summary
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views
from textsam.io.image import Image, Placement
from textsam.io.limits import Limits
from textsam.io.open import open_stack
from textsam.result import Segmentation

ROOT = Path(textsam.__file__).parents[1]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return tiny_segmenter()


def write_pages(path: Path, count: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    pages = [
        PIL.Image.fromarray(rng.integers(0, 255, (24, 32), dtype=np.uint8)) for _ in range(count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def files_in(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def mask_of(path: Path) -> Any:
    with PIL.Image.open(path) as file:
        return np.asarray(file) > 0


def rows_of(summary: FolderSummary) -> list[dict[str, str]]:
    with summary.summary.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Counting(Listener):
    def __init__(self) -> None:
        self.began: list[str] = []
        self.over: list[str] = []
        self.left_out: list[str] = []

    def answered(self, item: Any, result: dict[str, Any]) -> None:
        if item.name not in self.began:
            self.began.append(item.name)

    def finished(self, record: InputRecord) -> None:
        self.over.append(record.input)

    def skipped(self, record: InputRecord) -> None:
        self.left_out.append(record.input)


def test_a_tree_of_images_with_one_that_is_bad(segmenter: Segmenter, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(("b.png", "deep/er/a.png")):
        write_image(source / name, seed=seed)
    (source / "c.png").write_bytes(b"not a picture")
    summary = segment_folder(segmenter, source, ["tumor", "lung"], out, recursive=True)
    assert (summary.done, summary.failed, summary.skipped, summary.images) == (2, 1, 0, 2)
    masks = {f"{base}_{prompt}.png" for base in ("b", "deep/er/a") for prompt in ("tumor", "lung")}
    records = {"manifest-1-of-1.jsonl", "summary.csv", "report.json"}
    assert files_in(out) == masks | records
    rows = rows_of(summary)
    assert [(row["path"], row["prompt"], row["status"]) for row in rows] == [
        ("b.png", "tumor", "done"), ("b.png", "lung", "done"),
        ("c.png", "tumor", "failed"), ("c.png", "lung", "failed"),
        ("deep/er/a.png", "tumor", "done"), ("deep/er/a.png", "lung", "done"),
    ]  # fmt: skip
    assert "c.png" in rows[2]["error"]
    for row in (rows[0], rows[1], rows[4], rows[5]):
        answer = segmenter.segment(source / row["path"], row["prompt"])
        mask = mask_of(out / f"{row['path'].removesuffix('.png')}_{row['prompt']}.png")
        assert np.array_equal(mask, answer.mask)
        assert (row["found"], float(row["score"])) == (
            str(answer.found).lower(), round(answer.score, 4)
        )  # fmt: skip
        assert int(row["area_px"]) == answer.area_px == np.count_nonzero(mask)
        box = tuple(int(row[name]) for name in ("x_min_px", "y_min_px", "x_max_px", "y_max_px"))
        assert box == answer.box
        assert answer.centroid is not None
        centroid = float(row["centroid_x_px"]), float(row["centroid_y_px"])
        assert centroid == pytest.approx(answer.centroid, abs=1e-3)
        assert float(row["seconds"]) > 0
        assert (row["frame"], row["area_mm2"], row["error"]) == ("", "", "")
    records_made = list(summary.records())
    assert [record.status for record in records_made] == ["done", "failed", "done"]
    assert records_made[0].outputs == {
        name: (out / name).stat().st_size for name in ("b_tumor.png", "b_lung.png")
    }


def test_pages_get_numbers_and_one_can_be_chosen(segmenter: Segmenter, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_pages(source / "stack.tif", 3)
    write_pages(source / "single.tif", 1)
    summary = segment_folder(segmenter, source, "tumor", tmp_path / "all")
    names = {f"stack_tumor_{n:04d}.png" for n in range(3)} | {"single_tumor.png"}
    assert {name for name in files_in(tmp_path / "all") if name.endswith(".png")} == names
    assert [(row["path"], row["frame"]) for row in rows_of(summary)] == [
        ("single.tif", ""), ("stack.tif", "0"), ("stack.tif", "1"), ("stack.tif", "2"),
    ]  # fmt: skip
    chosen = segment_folder(segmenter, source, "tumor", tmp_path / "one", Options(frame=2))
    assert (chosen.done, chosen.failed) == (1, 1)
    assert "stack_tumor_0002.png" in files_in(tmp_path / "one")
    whole = mask_of(tmp_path / "all" / "stack_tumor_0002.png")
    assert np.array_equal(mask_of(tmp_path / "one" / "stack_tumor_0002.png"), whole)
    (failure,) = next(chosen.records()).failures
    assert "no image 2; it has 1" in failure["error"]


def test_formats_and_pictures(segmenter: Segmenter, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    options = Options(formats=("tiff", "png"), overlay=True, sheet=True)
    summary = segment_folder(segmenter, tmp_path / "in", "tumor", tmp_path / "out", options)
    (result,) = next(summary.records()).results
    assert result["files"] == {
        "mask": "a_tumor.tiff",
        "png": "a_tumor.png",
        "overlay": "a_tumor_overlay.png",
        "thumbnail": "thumbnails/a_tumor.jpg",
    }
    out = tmp_path / "out"
    assert np.array_equal(mask_of(out / "a_tumor.tiff"), mask_of(out / "a_tumor.png"))
    assert files_in(out) >= {*result["files"].values(), "sheet-001.png"}
    assert summary.sheets == (out / "sheet-001.png",)


def test_a_format_that_no_input_can_have(segmenter: Segmenter, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    refused = segment_folder(segmenter, tmp_path / "in", "tumor", out, Options(formats=("seg",)))
    assert (refused.done, refused.failed) == (0, 1)
    (failure,) = next(refused.records()).failures
    assert "none of the formats asked for (seg)" in failure["error"]
    mixed = Options(formats=("seg", "png"))
    taken = segment_folder(segmenter, tmp_path / "in", "tumor", out, mixed, resume=True)
    assert (taken.done, taken.failed) == (1, 0)


def test_dicom_files_as_segmentations(segmenter: Segmenter, tmp_path: Path) -> None:
    import pydicom

    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(bundled("CT_small.dcm"), source / "ct")
    shutil.copy(bundled("reportsi.dcm"), source / "report.dcm")
    options = Options(formats=("png", "seg"), fractional=True)
    summary = segment_folder(segmenter, source, ["tumor", "lung"], out, options)
    assert (summary.done, summary.failed, summary.no_picture) == (1, 0, 1)
    first, second = summary.records()
    assert (first.status, second.status) == ("done", "no picture")
    assert first.results[0]["files"] == {"mask": "ct_tumor.png", "seg": "ct_seg.dcm"}
    assert set(first.outputs) == {"ct_tumor.png", "ct_lung.png", "ct_seg.dcm"}
    made = pydicom.dcmread(out / "ct_seg.dcm")
    assert made.SegmentationType == "FRACTIONAL"
    answers = segmenter.segment(source / "ct", ["tumor", "lung"])
    for frame, item in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        stored = np.rint(answers[number - 1].probability * 255)
        assert np.abs(frame.astype(int) - stored).max() <= 1
    row = rows_of(summary)[0]
    assert float(row["area_mm2"]) == pytest.approx(answers[0].area_mm2)
    assert float(row["centroid_z_mm"]) == pytest.approx(answers[0].centroid_mm[2], abs=1e-3)
    again = segment_folder(segmenter, source, ["tumor", "lung"], out, options, resume=True)
    assert (again.done, again.skipped) == (0, 2)


def test_volumes_come_back_as_volumes(segmenter: Segmenter, tmp_path: Path) -> None:
    import nibabel

    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    values = np.random.default_rng(0).integers(0, 900, (20, 24, 9), dtype=np.int16)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    nibabel.Nifti1Image(values, affine).to_filename(source / "brain.nii.gz")
    options = Options(formats=("nifti", "png"))
    summary = segment_folder(segmenter, source, ["tumor", "lung"], out, options)
    assert (summary.done, summary.images) == (1, 9)
    results = next(summary.records()).results
    assert results[0]["files"] == {
        "mask": "brain_tumor_0000.png",
        "nifti": "brain_tumor.nii.gz",
    }
    for prompt in ("tumor", "lung"):
        volume = nibabel.load(out / f"brain_{prompt}.nii.gz")
        assert np.array_equal(volume.affine, affine)
        made = np.asarray(volume.dataobj)
        assert made.shape == values.shape
        areas = [result["area_px"] for result in results if result["prompt"] == prompt]
        assert [np.count_nonzero(made[:, :, n]) for n in range(9)] == areas
    shutil.copy(bundled("examples_ybr_color.dcm"), source / "clip.dcm")
    both = Options(formats=("nifti", "seg"))
    mixed = segment_folder(segmenter, source, "tumor", tmp_path / "both", both)
    volume, clip = mixed.records()
    assert (volume.status, clip.status) == ("done", "failed")
    assert "make no volume" in clip.failures[0]["error"]
    assert [result["files"] for result in clip.results[:2]] == [{"seg": "clip_seg"}] * 2
    assert len(clip.outputs) == len(clip.results) == 30
    (source / "clip.dcm").unlink()
    other = segment_folder(segmenter, source, "tumor", tmp_path / "x", Options(axis=0))
    assert other.images == 20


def test_a_volume_with_a_bad_slice_is_not_written(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nibabel

    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).integers(0, 900, (20, 24, 3), dtype=np.int16)
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "in" / "brain.nii")
    read = Opened.read

    def damaged(self: Opened, frame: int) -> Image:
        if frame == 1:
            raise ImageError("slice 1 is damaged")
        return read(self, frame)

    monkeypatch.setattr(Opened, "read", damaged)
    options = Options(formats=("png", "nifti"))
    out = tmp_path / "out"
    summary = segment_folder(segmenter, tmp_path / "in", "tumor", out, options)
    (failed,) = summary.records()
    assert (failed.status, [failure["frame"] for failure in failed.failures]) == (
        "failed", [1, None]
    )  # fmt: skip
    assert "no nifti file is written, as 1 of its images failed" in failed.failures[1]["error"]
    assert set(failed.outputs) == {"brain_tumor_0000.png", "brain_tumor_0002.png"}
    rows = [(row["frame"], row["status"]) for row in rows_of(summary)]
    assert rows == [("0", "done"), ("2", "done"), ("1", "failed"), ("", "failed")]
    (entry,) = json.loads(summary.report.read_text(encoding="utf-8"))["failures"]
    assert entry["error"].startswith("image 1: slice 1 is damaged; ")
    monkeypatch.setattr(Opened, "read", read)
    again = segment_folder(segmenter, tmp_path / "in", "tumor", out, options, resume=True)
    assert again.done == 1
    assert (out / "brain_tumor.nii.gz").is_file()


def test_a_coco_file_of_the_whole_run(segmenter: Segmenter, tmp_path: Path) -> None:
    from textsam.io.coco import CocoWriter

    source = tmp_path / "in"
    write_image(source / "a.png")
    write_pages(source / "deep" / "b.tif", 2)
    options = Options(formats=("coco",))
    prompts = ["tumor", "lung"]
    summary = segment_folder(segmenter, source, prompts, tmp_path / "out", options, recursive=True)
    assert summary.coco == tmp_path / "out" / "coco.json"
    made = json.loads(summary.coco.read_text(encoding="utf-8"))
    writer = CocoWriter(tmp_path / "other.json", prompts)
    for name in ("a.png", "deep/b.tif"):
        for image in open_stack(source / name):
            writer.add(segmenter.segment(image, prompts), file_name=name)
    wanted = json.loads(json.dumps(writer.to_dict()))
    assert len(made["images"]) == 3
    assert made["annotations"]
    for part in ("licenses", "images", "categories", "annotations"):
        assert made[part] == wanted[part]
    assert made["info"].keys() == wanted["info"].keys()


def test_the_report_of_a_run(segmenter: Segmenter, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_image(source / "a.png")
    (source / "b.png").write_bytes(b"no picture")
    shutil.copy(bundled("reportsi.dcm"), source / "c.dcm")
    out = tmp_path / "out"
    summary = segment_folder(segmenter, source, ["tumor", "lung"], out, Options(refine=0))
    text = summary.report.read_text(encoding="utf-8")
    report = json.loads(text)
    assert text == json.dumps(report, indent=2) + "\n"
    assert report["format"] == 1
    assert report["versions"] == {
        "textsam": textsam.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    assert report["adapter"] == {"name": segmenter.adapter_name, "sha256": None}
    assert report["model"] == {
        "preset": "lite", "base": {}, "device": "cpu", "precision": "float32",
    }  # fmt: skip
    assert report["identity"] == segmenter.identity
    assert report["prompts"] == ["tumor", "lung"]
    begun, ended = (datetime.fromisoformat(report[name]) for name in ("started", "finished"))
    assert report["started"].endswith("Z")
    assert timedelta(seconds=-1) <= ended - begun < timedelta(seconds=60)
    assert abs(datetime.now(UTC) - ended) < timedelta(seconds=60)
    a, b = report["inputs"][0], report["failures"][0]
    found = sum(result["found"] for result in a["results"])
    assert report["counts"] == {
        "inputs": 3, "done": 1, "failed": 1, "no_picture": 1, "images": 1, "results": 2,
        "found": found,
    }  # fmt: skip
    assert report["options"]["refine"] == 0
    assert (a["path"], a["status"], b["path"], b["status"]) == ("a.png", "done", "b.png", "failed")
    assert a["sha256"] == hashlib.sha256((source / "a.png").read_bytes()).hexdigest()
    assert a["files"] == ["a_tumor.png", "a_lung.png"]
    assert (report["inputs"][1]["status"], report["inputs"][1]["results"]) == ("no picture", [])
    assert "b.png" in b["error"]


def test_the_report_tells_how_the_model_was_asked_for(tmp_path: Path) -> None:
    segmenter = tiny_segmenter(authors_frame=True)
    segmenter.own_weights, segmenter.views = "56" * 32, Views(mirrored=True)
    write_image(tmp_path / "a.png")
    summary = segment_folder(segmenter, tmp_path / "a.png", "tumor", tmp_path / "out")
    model = json.loads(summary.report.read_text(encoding="utf-8"))["model"]
    assert model["authors_frame"] is True
    assert (model["views"], model["own_weights"]) == ("mirrored", "56" * 32)


def test_a_series_is_one_segmentation(segmenter: Segmenter, tmp_path: Path) -> None:
    import pydicom

    source = tmp_path / "in"
    source.mkdir()
    for number in range(3):
        dataset = pydicom.dcmread(bundled("CT_small.dcm"))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}"
        dataset.ImagePositionPatient = [0, 0, 5 * (2 - number)]
        dataset.InstanceNumber = number
        dataset.save_as(source / f"IM{number}")
    options = Options(formats=("seg",))
    summary = segment_folder(segmenter, source, "tumor", tmp_path / "out", options, series=True)
    assert (summary.done, summary.images) == (1, 3)
    made = pydicom.dcmread(tmp_path / "out" / "IM0_seg.dcm")
    (record,) = summary.records()
    found = [result["area_px"] for result in record.results]
    # Slices go from feet to head, and files here from head to feet.
    assert [record.results[0]["centroid_mm"][2], record.results[2]["centroid_mm"][2]] == [0, 10]
    areas = np.count_nonzero(made.pixel_array.reshape(-1, 128 * 128), axis=1)
    assert sorted(areas.tolist()) == sorted(found)


def test_a_coco_file_names_the_own_file_of_each_image_of_a_series(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    import pydicom

    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    stored = pydicom.dcmread(bundled("CT_small.dcm"))
    for number in range(3):  # from head to feet, while slices go from feet to head
        stored.SOPInstanceUID = stored.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}"
        stored.ImagePositionPatient = [0, 0, 5 * (2 - number)]
        stored.PixelData = np.roll(stored.pixel_array, 9 * number).tobytes()
        stored.save_as(folder / f"IM{number}")
    out, options = tmp_path / "out", Options(formats=("coco", "png"))
    summary = segment_folder(
        segmenter, tmp_path / "in", "tumor", out, options, recursive=True, series=True
    )
    (record,) = summary.records()
    for result in record.results:
        alone = open_stack(tmp_path / "in" / result["in_file"]["name"])
        assert alone[result["in_file"]["frame"]].sha256() == result["image"]["sha256"]
    assert summary.coco is not None
    images = json.loads(summary.coco.read_text(encoding="utf-8"))["images"]
    assert [(one["file_name"], one["frame_index"]) for one in images] == [
        ("deep/IM2", 0), ("deep/IM1", 0), ("deep/IM0", 0),
    ]  # fmt: skip


def test_an_object_without_a_picture_does_not_cost_its_series(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    import pydicom

    source = tmp_path / "in"
    source.mkdir()
    (source / "reports").mkdir()
    for number in range(3):
        dataset = pydicom.dcmread(bundled("CT_small.dcm"))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}"
        dataset.ImagePositionPatient = [0, 0, 5 * number]
        if number == 0:
            dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66"  # Raw Data Storage
            for keyword in ("PixelData", "Rows", "Columns"):
                delattr(dataset, keyword)
        dataset.save_as(source / f"IM{number}")
        report = pydicom.dcmread(bundled("reportsi.dcm"))
        report.save_as(source / "reports" / f"SR{number}")
    summary = segment_folder(
        segmenter, source, "tumor", tmp_path / "out", recursive=True, series=True
    )
    assert (summary.done, summary.failed, summary.no_picture, summary.images) == (1, 0, 1, 2)
    series, reports = summary.records()
    assert [entry["name"] for entry in series.files] == ["IM0", "IM1", "IM2"]
    assert set(series.outputs) == {"IM0_tumor_0000.png", "IM0_tumor_0001.png"}
    assert (reports.input, reports.status) == ("reports/SR0", "no picture")


def resume_cases() -> dict[str, Callable[[Path, Path], Any]]:
    def rewrite(source: Path, out: Path) -> None:
        before = (source / "a.bmp").stat()
        write_image(source / "a.bmp", size=(16, 16), seed=5)
        os.utime(source / "a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (source / "a.bmp").stat().st_size == before.st_size

    return {
        "content": rewrite,
        "missing": lambda source, out: (out / "a_tumor.png").unlink(),
        "cut off": lambda source, out: (out / "a_tumor.png").write_bytes(b"x"),
    }


@pytest.mark.parametrize("case", resume_cases())
def test_only_what_changed_is_done_again(segmenter: Segmenter, tmp_path: Path, case: str) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(("a.bmp", "b.bmp")):
        write_image(source / name, size=(16, 16), seed=seed)
    segment_folder(segmenter, source, "tumor", out)
    resume_cases()[case](source, out)
    told = Counting()
    summary = segment_folder(segmenter, source, "tumor", out, resume=True, listener=told)
    assert (told.over, told.left_out) == (["a.bmp"], ["b.bmp"])
    assert (summary.done, summary.skipped) == (1, 1)
    assert np.array_equal(
        mask_of(out / "a_tumor.png"), segmenter.segment(source / "a.bmp", "tumor").mask
    )
    assert len(rows_of(summary)) == 2
    told = Counting()
    segment_folder(segmenter, source, "tumor", out, resume=True, listener=told)
    assert (told.over, told.left_out) == ([], ["a.bmp", "b.bmp"])


def test_another_question_is_asked_again(segmenter: Segmenter, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_image(source / "a.png")
    other = tiny_segmenter(found_threshold=0.123)
    calls: list[tuple[Segmenter, Sequence[str], Options]] = [
        (segmenter, ["tumor"], Options()),
        (segmenter, ["tumor", "lung"], Options()),
        (segmenter, ["tumor", "lung"], Options(refine=0)),
        (other, ["tumor", "lung"], Options(refine=0)),
        (other, ["tumor", "lung"], Options(refine=0, formats=("tiff",))),
    ]
    for model, prompts, options in calls:
        for done in (1, 0):
            summary = segment_folder(model, source, prompts, out, options, resume=True)
            assert (summary.done, summary.skipped) == (done, 1 - done)
    assert len(lines_of(out / "manifest-1-of-1.jsonl")) == len(calls)
    # The answers to the first question were written over by those to the second.
    assert segment_folder(segmenter, source, ["tumor"], out, resume=True).done == 1


def test_what_is_too_large_is_not_read_to_be_hashed(segmenter: Segmenter, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    options = Options(limits=Limits(max_bytes=image.stat().st_size - 1))
    (record,) = segment_folder(segmenter, image, "tumor", tmp_path / "out", options).records()
    assert (record.status, record.files) == ("failed", [])
    assert "--max-bytes" in record.failures[0]["error"]


def test_a_failed_input_is_tried_again(segmenter: Segmenter, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_image(source / "a.png", size=(40, 40))
    small = Options(limits=Limits(max_pixels=100))
    assert segment_folder(segmenter, source, "tumor", out, small).failed == 1
    assert segment_folder(segmenter, source, "tumor", out, resume=True).done == 1


def test_what_is_done_again_counts_though_the_clock_went_back(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.png").write_bytes(b"no image")
    clock = time.time
    monkeypatch.setattr("textsam.folder.process.time.time", lambda: clock() + 3600)
    assert segment_folder(segmenter, source, "tumor", out).failed == 1
    monkeypatch.setattr("textsam.folder.process.time.time", clock)
    write_image(source / "a.png")
    again = segment_folder(segmenter, source, "tumor", out, resume=True)
    assert (again.done, again.failed) == (1, 0)
    assert [row["status"] for row in rows_of(again)] == ["done"]
    assert segment_folder(segmenter, source, "tumor", out, resume=True).skipped == 1


def test_masks_of_pages_that_are_gone_are_warned_of(segmenter: Segmenter, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_pages(source / "a.tif", 4)
    segment_folder(segmenter, source, "tumor", out)
    write_pages(source / "a.tif", 2, seed=1)
    with pytest.warns(
        LeftoverWarning, match=r"a\.tif has changed.*: a_tumor_0002\.png and 1 more;"
    ):
        summary = segment_folder(segmenter, source, "tumor", out, resume=True)
    assert [row["frame"] for row in rows_of(summary)] == ["0", "1"]
    assert {"a_tumor_0002.png", "a_tumor_0003.png"} <= files_in(out)
    # Neither an answer to another question nor an input that cannot be read makes them old.
    (out / "a_tumor_0002.png").unlink()
    (out / "a_tumor_0003.png").unlink()
    segment_folder(segmenter, source, "tumor", out, Options(formats=("tiff",)), resume=True)
    (source / "a.tif").rename(source / "b.tif")
    (source / "a.tif").symlink_to(source / "gone.tif")
    assert segment_folder(segmenter, source, "tumor", out, resume=True).failed == 1


def test_a_run_is_not_begun_over_another(segmenter: Segmenter, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_image(source / "a.png")
    segment_folder(segmenter, source, "tumor", out)
    before = (out / "manifest-1-of-1.jsonl").read_bytes()
    for shard in ((1, 1), (1, 2)):
        with pytest.raises(ConfigError, match="--resume"):
            segment_folder(segmenter, source, "lung", out, shard=shard)
    assert (out / "manifest-1-of-1.jsonl").read_bytes() == before
    assert "a_lung.png" not in files_in(out)


def test_shards_share_a_folder_and_can_be_joined(segmenter: Segmenter, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(5):
        write_image(source / f"{seed}.png", seed=seed)
    for number in (2, 1):
        segment_folder(segmenter, source, "tumor", out, shard=(number, 2))
    records = {
        f"{name}-{number}-of-2.{end}"
        for number in (1, 2)
        for name, end in (("manifest", "jsonl"), ("summary", "csv"), ("report", "json"))
    }
    assert files_in(out) == records | {f"{seed}_tumor.png" for seed in range(5)}
    told = Counting()
    summary = segment_folder(segmenter, source, "tumor", out, resume=True, listener=told)
    assert (summary.done, summary.skipped, told.over) == (0, 5, [])
    assert [row["path"] for row in rows_of(summary)] == [f"{seed}.png" for seed in range(5)]


def test_outputs_between_the_inputs_are_not_taken_for_inputs(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    write_image(tmp_path / "a.png")
    options = Options(overlay=True, sheet=True)
    for word in ("tumor", "lung"):
        told = Counting()
        summary = segment_folder(
            segmenter, tmp_path, word, tmp_path, options, recursive=True, resume=True, listener=told
        )
        assert (told.over, summary.failed) == (["a.png"], 0)


def test_a_full_disk_ends_the_run_at_once(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(4):
        write_image(source / f"{seed}.png", seed=seed)
    saved = PIL.Image.Image.save
    attempts: list[str] = []

    def save(self: PIL.Image.Image, path: Any, **options: Any) -> None:
        attempts.append(str(path))
        if len(attempts) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved(self, path, **options)

    monkeypatch.setattr(PIL.Image.Image, "save", save)
    told = Counting()
    with pytest.raises(OutputError) as caught:
        segment_folder(segmenter, source, "tumor", out, listener=told)
    assert str(caught.value) == (
        f"{out / '1_tumor.png'}: cannot be written (No space left on device); free space, then go "
        "on with --resume"
    )
    assert (len(attempts), told.over) == (2, ["0.png"])
    assert [line["input"] for line in lines_of(out / "manifest-1-of-1.jsonl")] == ["0.png"]
    monkeypatch.setattr(PIL.Image.Image, "save", saved)
    summary = segment_folder(segmenter, source, "tumor", out, resume=True)
    assert (summary.done, summary.skipped) == (3, 1)


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG])
@pytest.mark.parametrize("name", ["png", "nifti"])
def test_a_name_the_disk_cannot_have_is_one_failure(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int, name: Any
) -> None:
    for seed in range(3):
        write_image(tmp_path / "in" / f"{seed}.png", seed=seed)
    replaced = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if Path(target).name.startswith("1_"):
            raise OSError(reason, os.strerror(reason))
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    options = Options(formats=(name,))
    summary = segment_folder(segmenter, tmp_path / "in", "tumor", tmp_path / "out", options)
    assert (summary.done, summary.failed) == (2, 1)
    (row,) = (row for row in rows_of(summary) if row["status"] == "failed")
    assert row["path"] == "1.png"
    assert os.strerror(reason) in row["error"]


@pytest.mark.parametrize("name", ["png", "nifti"])
def test_a_name_that_is_taken_is_one_failure(
    segmenter: Segmenter, tmp_path: Path, name: Any
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for path in ("1.png", "2.png", "sub/3.png"):
        write_image(source / path)
    end = {"png": ".png", "nifti": ".nii.gz"}[name]
    (out / f"1_tumor{end}").mkdir(parents=True)
    (out / "sub").write_bytes(b"a file")
    options = Options(formats=(name,))
    summary = segment_folder(segmenter, source, "tumor", out, options, recursive=True)
    assert (summary.done, summary.failed) == (1, 2)
    told = {row["path"]: row["error"] for row in rows_of(summary) if row["status"] == "failed"}
    assert set(told) == {"1.png", "sub/3.png"}
    assert f"1_tumor{end}: the file cannot be written (Is a directory)" in told["1.png"]
    assert "3_tumor" in told["sub/3.png"]
    (out / f"1_tumor{end}").rmdir()
    (out / "sub").unlink()
    again = segment_folder(segmenter, source, "tumor", out, options, recursive=True, resume=True)
    assert (again.done, again.failed, again.skipped) == (2, 0, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_manifest_that_the_disk_does_not_take(tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def run_out_of_space() -> None:
        with Manifest(tmp_path, "1-of-1") as manifest:
            manifest.add(record("a.png"))
            room = manifest.path.stat().st_size + 10
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            manifest.add(record("b.png"))

    try:
        with pytest.raises(OutputError, match=r"manifest-1-of-1\.jsonl.*cannot be written"):
            run_out_of_space()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Manifest(tmp_path, "1-of-1") as manifest:
        assert manifest.get("b.png") is None
        manifest.add(record("c.png"))
    assert [line["input"] for line in lines_of(manifest.path)] == ["a.png", "c.png"]


def test_a_manifest_that_is_gone_is_not_told_as_a_table_that_cannot_be_written(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    write_image(tmp_path / "in" / "a.png")
    summary = segment_folder(segmenter, tmp_path / "in", "tumor", tmp_path / "out")
    summary.manifest.unlink()
    with pytest.raises(DataError, match=r"manifest-1-of-1\.jsonl cannot be read \(No such file"):
        write_summary(tmp_path / "table.csv", summary.records())
    assert not (tmp_path / "table.csv").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe and signals")
def test_a_pipe_called_like_an_image_fails_at_once(segmenter: Segmenter, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    # A run that waits for the pipe gets what is no image after a while, and fails here.
    waited = threading.Event()
    timer = threading.Timer(240, lambda: (waited.set(), (tmp_path / "in/pipe.png").open("r+b")))
    timer.start()
    try:
        summary = segment_folder(segmenter, tmp_path / "in", "tumor", tmp_path / "out")
    finally:
        timer.cancel()
    assert not waited.is_set()
    assert (summary.done, summary.failed) == (1, 1)
    assert "not a regular file" in rows_of(summary)[1]["error"]


def test_names_are_no_formulas_in_the_table(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["+1.png", "-2.png", "=1+1.png", "@SUM(A1).png", "a.png"]
    for name in names:
        write_image(tmp_path / name)
    (tmp_path / "=bad.png").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    rows = rows_of(segment_folder(segmenter, ".", "tumor", tmp_path / "out"))
    assert [row["path"] for row in rows] == [
        "./+1.png", "./-2.png", "./=1+1.png", "./=bad.png", "./@SUM(A1).png", "a.png",
    ]  # fmt: skip
    assert all(Path(row["path"]).is_file() for row in rows)
    assert not any(value.startswith(tuple("=+-@")) for row in rows for value in row.values())
    assert rows[3]["error"].startswith("'=bad.png: ")


def test_an_output_folder_that_is_a_file(segmenter: Segmenter, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match=r"out.*give a folder, and not a file$"):
        segment_folder(segmenter, tmp_path / "in", "tumor", tmp_path / "out")


def test_a_name_that_is_too_long_concerns_one_input(segmenter: Segmenter, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / f"{'x' * 250}.png")  # with the prompt's name, over 255 bytes
    write_image(tmp_path / "in" / "y.png")
    summary = segment_folder(segmenter, tmp_path / "in", "tumor", tmp_path / "out")
    assert (summary.done, summary.failed) == (1, 1)


def test_a_prompt_nobody_knows_is_one_error(segmenter: Segmenter, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    with pytest.raises(PromptError, match="'dog'"):
        segment_folder(segmenter, tmp_path / "in", "dog", tmp_path / "out", Options(strict=True))
    # Nothing was begun that had to be gone on with.
    assert segment_folder(segmenter, tmp_path / "in", "tumor", tmp_path / "out").done == 1


def test_one_mask_file_does_not_hold_several_pages(segmenter: Segmenter, tmp_path: Path) -> None:
    write_pages(tmp_path / "in" / "stack.tif", 2)
    out = tmp_path / "out"
    plan = make_plan(tmp_path / "in" / "stack.tif", "tumor", out, mask_file=out / "m.png")
    run_plan(segmenter, plan)
    with Manifest(out, plan.label) as manifest:
        record = manifest.get("stack.tif")
    assert record is not None
    told = [(one["frame"], "holds several images" in one["error"]) for one in record.failures]
    assert told == [(0, True), (1, True)]
    assert not (out / "m.png").exists()


def test_memory_does_not_grow_with_the_number_of_images(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pages(tmp_path / "in" / "stack.tif", 30)
    for seed in range(30):
        write_image(tmp_path / "in" / f"{seed:02d}.png", seed=seed)
    alive: weakref.WeakSet[Image] = weakref.WeakSet()
    most = 0
    read = Opened.read

    def counted(self: Opened, frame: int) -> Image:
        nonlocal most
        image = read(self, frame)
        alive.add(image)
        gc.collect(0)
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(Opened, "read", counted)
    summary = segment_folder(segmenter, tmp_path / "in", "tumor", tmp_path / "out")
    assert summary.images == 60
    assert most <= 8


# Never comes to its end: it is killed at work or, where that takes long, while it waits for it
# after so many inputs.
DRIVER = """
import sys
import threading
from pathlib import Path
from tiny import tiny_segmenter
from textsam.folder import Listener, Options, segment_folder
source, out = map(Path, sys.argv[1:3])

class Waits(Listener):
    left = int(sys.argv[3])

    def finished(self, record):
        self.left -= 1
        if self.left == 0:
            threading.Event().wait()

segment_folder(
    tiny_segmenter(), source, ["tumor", "lung"], out, Options(sheet=True), resume=True,
    recursive=True, listener=Waits(),
)
"""


def killed_run(source: Path, out: Path, lines: int) -> int:
    """Start a run and kill it once its manifest has that many lines; how many it has then."""
    manifest = out / "manifest-1-of-1.jsonl"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(source), str(out), "8"],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    try:
        until = time.monotonic() + 480
        while time.monotonic() < until and process.poll() is None:
            if manifest.exists() and manifest.read_bytes().count(b"\n") >= lines:
                break
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"
    return manifest.read_bytes().count(b"\n")


def test_a_killed_run_loses_nothing_and_repeats_nothing(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(40):
        write_image(source / f"{seed % 3}" / f"{seed:02d}.png", seed=seed)
    first = killed_run(source, out, 3)
    second = killed_run(source, out, first + 4)
    assert 3 <= first < second < 40
    with (out / "manifest-1-of-1.jsonl").open("ab") as file:
        file.write(b'{"format": 1, "input": "0/00.png", "ba')
    options = Options(sheet=True)
    told = Counting()
    summary = segment_folder(
        segmenter, source, ["tumor", "lung"], out, options,
        recursive=True, resume=True, listener=told,
    )  # fmt: skip
    assert (len(told.left_out), len(told.over)) == (second, 40 - second)
    lines = lines_of(summary.manifest)
    assert sorted(line["input"] for line in lines) == sorted(
        f"{seed % 3}/{seed:02d}.png" for seed in range(40)
    )
    whole = segment_folder(
        segmenter, source, ["tumor", "lung"], tmp_path / "whole", options, recursive=True
    )
    assert files_in(out) == files_in(tmp_path / "whole")
    for name in files_in(out):
        if name.endswith((".png", ".jpg")):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

    def without_time(summary: FolderSummary) -> list[dict[str, str]]:
        return [{**row, "seconds": ""} for row in rows_of(summary)]

    assert without_time(summary) == without_time(whole)


def record(name: str, **changes: Any) -> InputRecord:
    return replace(
        InputRecord(
            input=name, base=name, files=[], prompts=["tumor"], adapter="tiny", model="m",
            options="o",
        ),
        **changes,
    )  # fmt: skip


def test_the_manifest_says_what_was_written_last(tmp_path: Path) -> None:
    with Manifest(tmp_path, "1-of-2") as first:
        first.add(record("a", seconds=1.0, finished=10.0))
        first.add(record("b", seconds=2.0, finished=40.0))
        assert first.get("a") == record("a", seconds=1.0, finished=10.0)
        first.add(record("a", seconds=3.0, finished=30.0))
    with Manifest(tmp_path, "2-of-2") as second:
        second.add(record("a", seconds=4.0, finished=20.0))
        second.add(record("b", seconds=5.0, finished=50.0))
    with Manifest(tmp_path, "1-of-1") as third:
        assert third.get("a") == record("a", seconds=3.0, finished=30.0)
        assert third.get("b") == record("b", seconds=5.0, finished=50.0)
        assert third.get("c") is None


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(1, 10_000))
def test_a_line_counts_when_its_end_is_there(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    with Manifest(folder, "1-of-1") as manifest:
        for name in ("a", "b", "ü\udcff"):
            manifest.add(record(name, results=[{"x": "\n"}]))
        path = manifest.path
    whole = path.read_bytes()
    kept = whole[: len(whole) - cut % len(whole)]
    path.write_bytes(kept)
    with Manifest(folder, "1-of-1") as manifest:
        there = [name for name in ("a", "b", "ü\udcff") if manifest.get(name) is not None]
        assert len(there) == kept.count(b"\n")
        manifest.add(record("d"))
        assert manifest.get("d") is not None
    assert [line["input"] for line in lines_of(path)] == [*there, "d"]


@pytest.mark.parametrize("bad", [b"{}\n", b"no json\n", b'{"format": 2}\n', b"[1]\n", b"\xff\n"])
def test_a_damaged_line_is_named(tmp_path: Path, bad: bytes) -> None:
    with Manifest(tmp_path, "1-of-1") as manifest:
        manifest.add(record("a"))
    offset = manifest.path.stat().st_size
    manifest.path.write_bytes(manifest.path.read_bytes() + bad)
    with pytest.raises(DataError, match=rf"byte {offset}|format 2"):
        Manifest(tmp_path, "1-of-1")


@pytest.mark.parametrize(
    "change",
    [
        {"finished": "yesterday"}, {"finished": None}, {"seconds": True}, {"input": ["a"]},
        {"files": None}, {"results": ["x"]}, {"outputs": ["a_tumor.png"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_line_with_values_of_another_kind_is_named(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    with Manifest(tmp_path, "1-of-1") as manifest:
        manifest.add(record("a"))
    (line,) = lines_of(manifest.path)
    with manifest.path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, **change}) + "\n")
    (name,) = change
    with pytest.raises(DataError, match=rf"byte \d+ is damaged \({name} .*delete that line"):
        Manifest(tmp_path, "1-of-1")


def test_two_runs_of_one_shard_do_not_mix(tmp_path: Path) -> None:
    with (
        Manifest(tmp_path, "1-of-2"),
        Manifest(tmp_path, "2-of-2"),
        pytest.raises(ConfigError, match="another process"),
    ):
        Manifest(tmp_path, "1-of-2")
    Manifest(tmp_path, "1-of-2").close()


@settings(deadline=None, max_examples=40)
@given(
    mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)),
    fractional=st.booleans(),
)
def test_held_answers_come_back(mask: Any, fractional: bool) -> None:
    probability = np.linspace(0, 1, mask.size, dtype=np.float32).reshape(mask.shape)
    placement = Placement(3, np.diag([1.0, 2.0, 3.0, 1.0]))
    pixels = np.zeros((*mask.shape, 3), dtype=np.uint8)
    image = Image(pixels, "scan", (2.0, 1.0), placement, None)
    answer = Segmentation(mask, probability, 0.5, True, "tumor", image, "tiny", "lite", {"a": 1})
    held = HeldAnswers(fractional=fractional)
    held.hold(3, [answer])
    assert (list(held), len(held)) == ([3], 1)
    (back,) = held[3]
    assert np.array_equal(back.mask, mask)
    assert np.array_equal(held.masks(0)[3], mask)
    wanted = probability if fractional else 0
    assert np.abs(back.probability - wanted).max() <= 0.5 / 255 + 1e-6
    ours, theirs = back.to_dict(), answer.to_dict()
    assert ours == theirs
    assert back.image.placement is placement


def test_pages_of_a_contact_sheet(tmp_path: Path) -> None:
    tiles = []
    for number in range(TILES_PER_PAGE + 1):
        tiles.append(tmp_path / f"{number}.jpg")
        PIL.Image.new("RGB", (160, 194), (number, 0, 0)).save(tiles[-1], quality=100)
    out = tmp_path / "out"
    pages = write_sheets(tiles, out)
    assert [page.name for page in pages] == ["sheet-001.png", "sheet-002.png"]
    with PIL.Image.open(pages[0]) as page:
        assert page.size == (8 * 166 + 6, 6 * 200 + 6)
        red = [page.getpixel((6 + 166 * x + 80, 6 + 200 * y + 80))[0]
               for y in range(6) for x in range(8)]  # fmt: skip
        assert np.abs(np.array(red) - np.arange(48)).max() <= 2
    with PIL.Image.open(pages[1]) as page:
        assert page.size == (172, 206)
    (out / "sheet-of-my-own.png").write_bytes(b"")
    (out / "sheet-2024.png").write_bytes(b"")
    assert len(write_sheets(tiles[:1], out)) == 1
    own = {"sheet-of-my-own.png", "sheet-2024.png"}
    assert {path.name for path in out.iterdir()} == {"sheet-001.png", *own}
