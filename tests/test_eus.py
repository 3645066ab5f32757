"""The EUS database in miniature: prepared, trained on, evaluated; refused when wrong."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import run as command
from PIL import Image
from runs import begin
from tiny import tiny_model

from textsam.checkpoint import load_adapter
from textsam.config import TrainConfig, read_config
from textsam.data.eus import PUBLISHED, Expected, prepare_eus
from textsam.data.folder import samples_from_folder
from textsam.data.problems import DataCheckError
from textsam.errors import ConfigError, DataError
from textsam.evaluate import evaluate
from textsam.inference.segmenter import Segmenter
from textsam.train.run import architecture_from, fit

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PATIENTS = {"train": ("C001", "C002", "C003"), "val": ("C004",), "test": ("C005", "C006")}
FRAMES = 3
MINI = {split: Expected(FRAMES * len(names), len(names)) for split, names in PATIENTS.items()}
SIZE = (46, 71)  # the database's 457 x 711, ten times smaller


def write_frame(base: Path, name: str, seed: int, suffix: str = ".tif", inside: int = 1) -> None:
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = (xs - rng.uniform(25, 45)) ** 2 + (ys - rng.uniform(18, 28)) ** 2 < 10**2
    image = np.clip(rng.normal(60, 15, SIZE) + 120 * mask, 0, 255).astype(np.uint8)
    for folder, pixels in (("images", image), ("masks", (mask * inside).astype(np.uint8))):
        path = base / folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    seed = 0
    for split, names in PATIENTS.items():
        for patient in names:
            for frame in range(FRAMES):
                seed += 1
                write_frame(tmp_path / "raw" / split, f"{patient}_{frame:04d}", seed)
    return tmp_path / "raw"


def kinds(error: DataCheckError) -> list[tuple[str, str]]:
    return [(problem.kind, problem.part) for problem in error.report.errors]


def test_the_published_numbers() -> None:
    # Spiegler, Koleilat et al. 2025, section on data.
    assert {split: (e.images, e.patients) for split, e in PUBLISHED.items()} == {
        "train": (11_363, 12),
        "val": (986, 2),
        "test": (4_185, 4),
    }


def test_a_miniature_is_laid_out_with_masks_of_0_and_255(raw: Path, tmp_path: Path) -> None:
    prepared = prepare_eus(raw, tmp_path / "data/eus", expected=MINI)
    folder = prepared.folder
    for split, names in PATIENTS.items():
        expected = {f"{patient}_{frame:04d}.png" for patient in names for frame in range(FRAMES)}
        for part in ("images", "masks"):
            assert {path.name for path in (folder / split / part).iterdir()} == expected
        for name in expected:
            before = np.asarray(Image.open(raw / split / "images" / f"{Path(name).stem}.tif"))
            after = Image.open(folder / split / "images" / name)
            assert after.mode == "L"
            np.testing.assert_array_equal(np.asarray(after), before)
            ones = np.asarray(Image.open(raw / split / "masks" / f"{Path(name).stem}.tif"))
            mask = np.asarray(Image.open(folder / split / "masks" / name))
            np.testing.assert_array_equal(mask, ones * 255)
    record = json.loads((folder / "eus.json").read_text())
    assert record == prepared.record
    assert record["splits"]["train"]["patients"] == dict.fromkeys(PATIENTS["train"], FRAMES)
    assert record["splits"]["test"]["sizes_px"] == {"71x46": 6}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["eus"]
    assert prepared.report.errors == []


def test_png_files_are_copied_and_folders_of_patients_become_part_of_the_name(
    tmp_path: Path,
) -> None:
    seed = 0
    for split, names in PATIENTS.items():
        for patient in names:
            for frame in range(FRAMES):
                seed += 1
                where = tmp_path / "raw" / split
                write_frame(where, f"{patient} a/{frame}", seed, ".png", inside=255)
    prepared = prepare_eus(tmp_path / "raw", tmp_path / "eus", expected=MINI)
    assert list(prepared.record["splits"]["val"]["patients"]) == ["C004 a"]
    image = tmp_path / "eus/val/images/C004 a__1.png"
    assert image.read_bytes() == (tmp_path / "raw/val/images/C004 a/1.png").read_bytes()


def test_a_png_that_exif_turns_is_written_upright_as_its_mask_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for number, (split, names) in enumerate(PATIENTS.items()):
        for place, patient in enumerate(names):
            for frame in range(FRAMES):
                seed = 1 + frame + FRAMES * (place + 10 * number)
                write_frame(
                    tmp_path / "raw" / split, f"{patient}/{frame}", seed, ".png", inside=255
                )
    name = f"{PATIENTS['val'][0]}/1.png"
    before = {}
    for part in ("images", "masks"):
        path = tmp_path / "raw/val" / part / name
        before[part] = np.asarray(Image.open(path))
        Image.fromarray(before[part]).save(path, exif=exif)
    prepare_eus(tmp_path / "raw", tmp_path / "eus", expected=MINI)
    for part in ("images", "masks"):
        after = Image.open(tmp_path / "eus/val" / part / name.replace("/", "__"))
        assert after.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(after), np.rot90(before[part], 2))


def test_all_that_is_wrong_is_said_at_once_and_nothing_written(raw: Path, tmp_path: Path) -> None:
    (raw / "train/masks/C001_0000.tif").unlink()
    (raw / "val/images/C004_0001.tif").unlink()
    write_frame(raw / "test", "C001_0009", 99)
    write_frame(raw / "test", "0001", 100)
    (raw / "test/masks/C006_0000.tif").write_bytes(b"II*\x00")
    out = tmp_path / "data/eus"
    with pytest.raises(DataCheckError) as caught:
        prepare_eus(raw, out, expected=MINI)
    assert sorted(kinds(caught.value)) == sorted(
        [
            ("missing-mask", "train"),
            ("mask-without-image", "val"),
            ("unknown-patient", "test"),
            ("wrong-count", "train"),
            ("wrong-count", "val"),
            ("wrong-count", "test"),
            ("wrong-count", "test"),
            ("patient-crosses", "test"),
            ("broken-mask", "test"),
        ]
    )
    text = str(caught.value)
    assert "[train] train: 8 images with masks, 9 expected: 1 missing" in text
    assert "[test] test: 8 images with masks, 6 expected: 2 too many" in text
    assert "3 patients, 2 expected; found C001 (1), C005 (3), C006 (3)" in text
    assert "C001: 1 images here, others in 'train'" in text
    assert not out.parent.exists()


def test_the_same_frame_in_two_parts_is_found(raw: Path, tmp_path: Path) -> None:
    (raw / "test/images/C005_0000.tif").write_bytes(
        (raw / "train/images/C001_0000.tif").read_bytes()
    )
    with pytest.raises(DataCheckError) as caught:
        prepare_eus(raw, tmp_path / "eus", expected=MINI)
    assert kinds(caught.value) == [("same-image", "test")]
    allowed = frozenset({"same-image"})
    prepare_eus(raw, tmp_path / "eus", expected=MINI, allowed=allowed)


def test_the_published_numbers_are_asked_of_the_miniature(raw: Path, tmp_path: Path) -> None:
    done = command("data", "prepare-eus", raw, "-o", tmp_path / "eus")
    assert done.exit_code == 1
    assert "9 images with masks, 11,363 expected: 11,354 missing" in done.stderr
    assert "1 patients, 2 expected" in done.stderr
    assert not (tmp_path / "eus").exists()


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataCheckError) as caught:
        prepare_eus(tmp_path / "nowhere", tmp_path / "eus", expected=MINI)
    text = str(caught.value)
    assert text.count("there is no such folder") >= 5
    assert "3 images" not in text


def test_patients_by_another_pattern_or_none(raw: Path, tmp_path: Path) -> None:
    # By this pattern everyone is the same patient.
    with pytest.raises(DataCheckError) as caught:
        prepare_eus(raw, tmp_path / "eus", expected=MINI, patient="C")
    assert ("patient-crosses", "val") in kinds(caught.value)
    with pytest.raises(ConfigError, match="is no pattern"):
        prepare_eus(raw, tmp_path / "eus", expected=MINI, patient="(")
    with pytest.raises(ConfigError, match="give train, val, test"):
        prepare_eus(raw, tmp_path / "eus", expected={"train": MINI["train"]})
    prepared = prepare_eus(raw, tmp_path / "eus", expected=MINI, patient=None)
    assert prepared.record["patient_pattern"] is None
    assert [facts["patients"] for facts in prepared.record["splits"].values()] == [None] * 3
    with pytest.raises(DataError, match="exists already"):
        prepare_eus(raw, tmp_path / "eus", expected=MINI)


def test_one_folder_is_divided_by_a_list_of_patients(tmp_path: Path) -> None:
    seed = 0
    for name in [*(p for names in PATIENTS.values() for p in names), "C099"]:
        for frame in range(FRAMES):
            seed += 1
            write_frame(tmp_path / "raw", f"{name}_{frame}", seed)
    patients = tmp_path / "patients.json"
    patients.write_text(json.dumps(PATIENTS))
    numbers = [
        text
        for split, e in MINI.items()
        for text in ("--expect", f"{split}={e.images}/{e.patients}")
    ]
    arguments = ("data", "prepare-eus", tmp_path / "raw", "-o", tmp_path / "eus", *numbers)
    done = command(*arguments, "--patients", patients)
    assert done.exit_code == 0, done.output
    assert "test: 6 images, 2 patients, 71x46 px (6)" in done.stdout
    assert "3 images are of patients in no part: C099 (3)" in done.stderr
    assert not list((tmp_path / "eus").rglob("C099*"))
    twice = {**PATIENTS, "val": ["C001", "C777"]}
    with pytest.raises(DataCheckError) as caught:
        prepare_eus(tmp_path / "raw", tmp_path / "two", expected=MINI, patients_of=twice)
    assert ("patient-crosses", "train") in kinds(caught.value)
    assert ("missing-image", "val") in kinds(caught.value)
    assert command(*arguments, "--patients", tmp_path / "none.json").exit_code == 1
    assert command(*arguments, "--expect", "val=1").exit_code == 2


def test_patients_that_nobody_checked_are_not_counted(raw: Path, tmp_path: Path) -> None:
    numbers = [t for split in MINI for t in ("--expect", f"{split}={MINI[split].images}/1")]
    arguments = ("data", "prepare-eus", raw, "-o", tmp_path / "eus", *numbers, "--patient", "none")
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    assert "train: 9 images, patients not checked, 71x46 px (9)" in done.stdout
    record = json.loads((tmp_path / "eus/eus.json").read_text())
    assert {facts["patients"] for facts in record["splits"].values()} == {None}
    with pytest.raises(ConfigError, match="give a pattern of patients"):
        prepare_eus(raw, tmp_path / "two", expected=MINI, patient=None, patients_of=PATIENTS)


def test_images_of_patients_that_are_in_no_part_are_told(tmp_path: Path) -> None:
    seed = 0
    others = {"C098": 1, "C099": 2}
    known = dict.fromkeys((p for names in PATIENTS.values() for p in names), FRAMES)
    for name, count in {**others, **known}.items():
        for frame in range(count):
            seed += 1
            write_frame(tmp_path / "raw", f"{name}_{frame}", seed)
    told = "3 images are of patients in no part: C098 (1), C099 (2)"
    prepared = prepare_eus(tmp_path / "raw", tmp_path / "eus", expected=MINI, patients_of=PATIENTS)
    (warning,) = prepared.report.problems
    assert (warning.kind, warning.message) == ("patient-left-out", told)
    assert prepared.record["patients_left_out"] == others
    # Where numbers are wrong for it, the error says so, too.
    fewer = {**PATIENTS, "test": ("C005",)}
    with pytest.raises(DataCheckError) as caught:
        prepare_eus(tmp_path / "raw", tmp_path / "two", expected=MINI, patients_of=fewer)
    assert set(kinds(caught.value)) == {("wrong-count", "test")}
    assert "6 images are of patients in no part: C006 (3), C098 (1), C099 (2)" in str(caught.value)


def test_files_of_other_suffixes_are_told(raw: Path, tmp_path: Path) -> None:
    (raw / "train/images/C001").mkdir()
    (raw / "train/images/C001/extra.gif").write_bytes(b"GIF89a")
    (raw / "train/images/C001_0009.webp").write_bytes(b"RIFF")
    for hidden in ("Thumbs.db", ".DS_Store"):  # put there by systems
        (raw / "val/masks" / hidden).write_bytes(b"")
    prepared = prepare_eus(raw, tmp_path / "eus", expected=MINI)
    (warning,) = prepared.report.problems
    assert (warning.kind, warning.part) == ("unsupported-file", "train")
    assert warning.path == str(raw / "train/images")
    assert "2 file(s) are none of" in warning.message
    assert "left out: C001/extra.gif, C001_0009.webp" in warning.message
    # Where an image is missing for it, the error has its name, too.
    (raw / "train/images/C001_0000.tif").rename(raw / "train/images/C001_0000.gif")
    with pytest.raises(DataCheckError) as caught:
        prepare_eus(raw, tmp_path / "two", expected=MINI)
    assert set(kinds(caught.value)) == {("wrong-count", "train"), ("mask-without-image", "train")}
    assert "C001_0000.gif" in str(caught.value)


def small(config: TrainConfig, root: Path) -> TrainConfig:
    """The same recipe for a model with three text layers, for three steps on this machine."""
    settings = config.model_dump()
    settings["preset"] = "lite"
    settings["data"]["root"] = str(root / "data")
    settings["context"]["depth"] = 3
    settings["tuning"]["rank"] = 2
    settings |= {"out": str(root / "runs"), "device": "cpu", "epochs": 3 / 9}
    return TrainConfig.model_validate(settings)


@pytest.mark.parametrize("name", ["eus", "eus-authors"])
def test_the_whole_path_on_the_miniature(raw: Path, tmp_path: Path, name: str) -> None:
    prepare_eus(raw, tmp_path / "data/eus", expected=MINI)
    config = small(read_config(CONFIGS / f"{name}.yaml"), tmp_path)
    run = fit(begin(config), progress=False)
    assert (run.state.step, run.total_steps) == (3, 3)
    assert len(run.train_set) == 9
    assert (run.folder / "best/adapter.safetensors").is_file()
    built = tiny_model(architecture_from(config))
    record = load_adapter(run.folder / "best", built)
    assert record.prompts == ("tumor",)
    segmenter = Segmenter(built, record, device=torch.device("cpu"))
    folder = tmp_path / "data/eus"
    samples = samples_from_folder(folder, "tumor", split="test", modality="endoscopic ultrasound")
    summary = evaluate(segmenter, samples, out=tmp_path / "out", negatives=0, progress=False)
    assert "eus" in summary.table()
    rows = (tmp_path / "out/cases.csv").read_text().splitlines()
    assert len(rows) == 1 + 6


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_utf8_is_prepared_as_any_other(raw: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"C001_\xff")
    for part in ("images", "masks"):
        (raw / "train" / part / "C001_0000.tif").rename(raw / "train" / part / f"{odd}.tif")
    folder = prepare_eus(raw, tmp_path / "eus", expected=MINI).folder
    assert (folder / "train/masks" / f"{odd}.png").is_file()
    assert len(samples_from_folder(folder, "tumor", split="train")) == MINI["train"].images
