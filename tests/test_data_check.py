"""The check of data before training: every fault is found, all in one report, nothing written."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import run as command
from numpy.typing import NDArray
from PIL import Image
from runs import begin, run_config, train, write_data
from tiny import write_images_and_masks

from textsam.data import check as check_module
from textsam.data.check import check_samples
from textsam.data.folder import samples_from_folder
from textsam.data.problems import DataCheckError, DataReport
from textsam.data.sample import Sample, Target
from textsam.data.sources import STAMP_FILE, checked_data, stamp_of
from textsam.data.survey import check_folder, check_root
from textsam.errors import ConfigError, DataError
from textsam.train.run import fit


def save(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def noise(seed: int, shape: tuple[int, int] = (32, 40)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def blob(value: int = 255, shape: tuple[int, int] = (32, 40)) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    mask[8:20, 10:30] = value
    return mask


def kinds(report: DataReport) -> dict[str, int]:
    return dict(Counter(problem.kind for problem in report.problems))


def sample(folder: Path, stem: str, *targets: tuple[str, int | None, tuple[int, ...]]) -> Sample:
    made = tuple(Target(c, folder / f"masks/{stem}.png", label, all_) for c, label, all_ in targets)
    return Sample("set", "unknown", stem, folder / f"images/{stem}.png", made)


LABELS = (("one", 1, (1, 2)), ("two", 2, (1, 2)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        save(tmp_path / f"images/{number}.png", noise(number))
        save(tmp_path / f"masks/{number}.png", blob())
    return tmp_path


def test_sound_data_have_no_problem(folder: Path) -> None:
    report = check_folder(folder, "tumor")
    assert report.problems == ()
    assert report.samples == {"": 4}
    assert report.files == 8


def test_every_fault_of_a_folder_is_in_one_report(folder: Path) -> None:
    (folder / "masks/0.png").unlink()
    save(folder / "masks/orphan.png", blob())
    save(folder / "masks/1.png", blob(shape=(32, 41)))
    content = (folder / "images/2.png").read_bytes()
    (folder / "images/2.png").write_bytes(content[: len(content) // 2])
    (folder / "masks/3.png").write_bytes(b"no image")
    save(folder / "images/4.png", noise(4))
    save(folder / "masks/4.png", np.dstack([blob(), blob(), 255 - blob()]))
    save(folder / "images/5.png", noise(5))
    save(folder / "masks/5.png", blob(1))
    save(folder / "images/6.png", noise(6))
    save(folder / "images/6.bmp", noise(7))
    save(folder / "masks/6.png", blob())
    report = check_folder(folder, "tumor")
    found = {(p.kind, Path(p.path).name) for p in report.problems}
    assert found == {
        ("missing-mask", "0.png"),
        ("mask-without-image", "orphan.png"),
        ("size-mismatch", "1.png"),
        ("broken-image", "2.png"),
        ("broken-mask", "3.png"),
        ("broken-mask", "4.png"),
        ("not-a-mask", "5.png"),
        ("duplicate-stem", "6.bmp"),
    }
    message = next(p.message for p in report.problems if p.kind == "size-mismatch")
    assert message.startswith("41x32 px (width x height), the image ")
    assert message.endswith("40x32 px")
    with pytest.raises(DataCheckError, match="8 problems of 7 kinds") as caught:
        report.raise_errors()
    assert isinstance(caught.value, DataError)
    assert caught.value.report is report


def test_masks_of_several_pages_are_broken(folder: Path) -> None:
    (folder / "masks/1.png").unlink()
    pages = [Image.fromarray(blob(value)) for value in (0, 255)]
    pages[0].save(folder / "masks/1.tif", save_all=True, append_images=pages[1:])
    (problem,) = check_folder(folder).errors
    assert (problem.kind, Path(problem.path).name) == ("broken-mask", "1.tif")
    assert "several pages or frames (2)" in problem.message


def save_turned(path: Path, pixels: NDArray[Any], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize(
    ("image", "mask", "shape", "mask_shape", "kind"),
    [
        # Alike, or turned in the same way.
        (6, 6, (40, 40), (40, 40), None),
        (3, 3, (32, 40), (32, 40), None),
        (9, 1, (40, 40), (40, 40), None),
        # Sizes tell: the mask was drawn on the image upright, or as it is stored.
        (6, 1, (32, 40), (40, 32), None),
        (1, 8, (40, 32), (32, 40), None),
        (6, 1, (32, 40), (32, 40), "size-mismatch"),
        # Sizes do not tell.
        (6, 1, (40, 40), (40, 40), "orientation-mismatch"),
        (1, 6, (40, 40), (40, 40), "orientation-mismatch"),
        (3, 1, (32, 40), (32, 40), "orientation-mismatch"),
        (6, 8, (32, 40), (32, 40), "orientation-mismatch"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_mask_that_is_turned_otherwise_than_its_image_is_told_where_sizes_are_silent(
    image: int,
    mask: int,
    shape: tuple[int, int],
    mask_shape: tuple[int, int],
    kind: str | None,
    suffix: str,
    tmp_path: Path,
) -> None:
    save_turned(tmp_path / f"images/a{suffix}", noise(1, shape), image)
    save_turned(tmp_path / f"masks/a{suffix}", blob(shape=mask_shape), mask)
    report = check_folder(tmp_path)
    assert kinds(report) == ({} if kind is None else {kind: 1})
    for problem in report.errors:
        assert Path(problem.path) == tmp_path / f"masks/a{suffix}"
        assert f"EXIF orientation {mask}" in problem.message
        assert f"{image} (1 turns nothing)" in problem.message
    assert len(report.errors) == (kind is not None)


def test_a_folder_that_may_not_be_listed_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method, told in (("iterdir", "masks"), ("is_dir", ".")):
        whole = getattr(Path, method)

        def refused(path: Path, whole: Any = whole) -> Any:
            if path.name == "masks":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return whole(path)

        with monkeypatch.context() as patched:
            patched.setattr(Path, method, refused)
            (problem,) = check_folder(folder).problems
        assert problem.kind == "unusable-source"
        why = "cannot be listed (Permission denied); check its permissions"
        assert problem.message == f"{folder / told} {why}"


def test_files_of_other_kinds_are_told_and_never_denied(folder: Path) -> None:
    # An image for 0's mask and a mask for 1's image that cannot be read here, and a whole pair.
    (folder / "images/0.png").rename(folder / "images/0.webp")
    (folder / "masks/1.png").rename(folder / "masks/1.gif")
    for part in ("images", "masks"):
        (folder / part / "9.dcm").write_bytes(b"")
        (folder / part / ".DS_Store").write_bytes(b"")
        (folder / part / "Thumbs.db").write_bytes(b"")
        (folder / part / "inside").mkdir()
    report = check_folder(folder)
    suffixes = ".bmp, .jpeg, .jpg, .png, .tif, .tiff"
    assert [(p.kind, p.path, p.message) for p in report.errors] == [
        (
            "missing-mask",
            str(folder / "images/1.png"),
            f"{folder / 'masks'} has 1.gif alone, none of {suffixes}; save it as PNG",
        ),
        (
            "mask-without-image",
            str(folder / "masks/0.png"),
            f"{folder / 'images'} has 0.webp alone, none of {suffixes}; save it as PNG",
        ),
    ]
    assert [(p.kind, p.path, p.message) for p in report.warnings] == [
        (
            "unsupported-file",
            str(folder / part),
            f"2 file(s) are none of {suffixes} and left out: {names}",
        )
        for part, names in (("images", "0.webp, 9.dcm"), ("masks", "1.gif, 9.dcm"))
    ]
    with pytest.raises(DataError, match=r"1 of 3 images have no mask: 1 \(but .*1\.gif, none of"):
        samples_from_folder(folder, "tumor")
    for path in (folder / "images").glob("*.png"):
        path.rename(path.with_suffix(".webp"))
    (problem,) = check_folder(folder).errors
    assert "holds no image" in problem.message
    assert "5 other file(s): 0.webp, 1.webp, 2.webp, 3.webp, 9.dcm" in problem.message


def test_folders_of_images_beside_images_are_told(folder: Path) -> None:
    (folder / "images/notes").mkdir()
    (folder / "images/notes/read.txt").write_text("of no picture")
    (folder / "images/P01/left").mkdir(parents=True)
    Image.new("L", (48, 48)).save(folder / "images/P01/left/7.png")
    (warning,) = check_folder(folder).problems
    assert (warning.kind, warning.path) == ("unread-folder", str(folder / "images"))
    assert "1 folder(s) in it have images that are left out: P01" in warning.message
    for path in (folder / "images").glob("*.png"):
        path.unlink()
    (problem,) = check_folder(folder).errors
    assert "folders in it are not looked into: P01" in problem.message


def test_files_of_other_kinds_in_a_set_of_a_manifest(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for part in ("images", "masks"):
        (root / "bus").mkdir(exist_ok=True)
        (folder / part).rename(root / "bus" / part)
    entry = {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "CC0"}
    (root / "manifest.json").write_text(json.dumps({"bus": entry}))
    (root / "splits.json").write_text(json.dumps({"bus": {"train": ["0", "1"], "test": ["2"]}}))
    (root / "bus/images/0.png").rename(root / "bus/images/0.gif")
    (root / "bus/masks/1.png").rename(root / "bus/masks/1.gif")
    report = check_root(root)
    # Once for each folder, not for each split.
    assert [(p.kind, p.path) for p in report.warnings] == [
        ("unsupported-file", str(root / "bus/images")),
        ("unsupported-file", str(root / "bus/masks")),
    ]
    told = {p.kind: p.message for p in report.errors}
    assert f"(but {root / 'bus/images/0.gif'}, none of" in told["missing-image"]
    assert f"(but {root / 'bus/masks/1.gif'}, none of" in told["missing-mask"]


def test_what_is_said_of_masks_of_ones_can_be_done(folder: Path) -> None:
    save(folder / "masks/0.png", blob(1))
    text = check_folder(folder).text()
    assert (
        "not-a-mask (1): masks of labels or small values where 0 and 255 are expected; write 255"
        in text
    )
    assert '"classes": {"1": CONCEPT}' in text


def test_labels_that_no_class_explains_are_found_once_per_file(folder: Path) -> None:
    for number in range(3):
        labels = blob(1)
        labels[0, :5] = 2
        save(folder / f"masks/{number}.png", labels)
    save(folder / "masks/3.png", blob(9))
    samples = [sample(folder, str(n), *LABELS) for n in range(4)]
    report = check_samples({"train": samples})
    assert kinds(report) == {"unknown-label": 1}
    assert report.problems[0].message == "holds 9; the labels are 0, 1, 2"
    assert report.problems[0].path.endswith("3.png")


def test_a_class_without_a_pixel_in_a_whole_part_is_an_error_that_can_be_allowed(
    folder: Path,
) -> None:
    for number in range(4):
        save(folder / f"masks/{number}.png", blob(1))
    samples = [sample(folder, str(n), *LABELS) for n in range(4)]
    report = check_samples({"train": samples})
    assert [(p.kind, p.path) for p in report.errors] == [("empty-class", "set/two")]
    allowed = check_samples({"train": samples}, allowed=frozenset({"empty-class"}))
    assert allowed.errors == []
    assert len(allowed.warnings) == 1
    # One pixel in one image is enough, and only where the class is annotated.
    mask = blob(1)
    mask[0, 0] = 2
    save(folder / "masks/2.png", mask)
    assert check_samples({"train": samples}).problems == ()
    parts = {"train": samples[:2], "val": samples[2:]}
    assert [(p.kind, p.part) for p in check_samples(parts).errors] == [("empty-class", "train")]


def test_the_same_pixels_in_two_parts_are_found_whatever_the_file(folder: Path) -> None:
    save(folder / "images/3.bmp", noise(0))
    (folder / "images/3.png").unlink()
    third = sample(folder, "3", ("tumor", None, ()))
    third = Sample("set", "unknown", "3", folder / "images/3.bmp", third.targets)
    samples = [sample(folder, str(n), ("tumor", None, ())) for n in range(3)]
    report = check_samples({"train": samples, "test": [third]})
    (problem,) = report.errors
    assert (problem.kind, problem.part) == ("same-image", "test")
    assert "0.png in 'train'" in problem.message
    report = check_samples({"train": [*samples, third]})
    assert report.errors == []
    assert kinds(report) == {"repeated-image": 1}


def test_suspicious_masks_are_warnings(folder: Path) -> None:
    save(folder / "masks/0.png", np.full((32, 40), 255, np.uint8))
    save(folder / "masks/1.png", blob(200))
    report = check_folder(folder)
    assert report.errors == []
    assert {(p.kind, Path(p.path).name) for p in report.warnings} == {
        ("all-foreground", "0.png"),
        ("odd-mask-values", "1.png"),
    }
    report.raise_errors()


@pytest.mark.parametrize(
    ("modality", "said"),
    [
        ("brest ultrasound", "(the closest is 'breast ultrasound')"),
        ("chest x-ray", "(the closest is 'chest X-ray')"),
        ("CT", "(breast ultrasound, forearm ultrasound, endoscopic ultrasound, brain MRI, "),
        ("breast ultrasound", None),
        ("unknown", None),
    ],
)
def test_a_kind_of_image_that_is_not_known_is_a_warning(
    folder: Path, modality: str, said: str | None
) -> None:
    samples = [Sample("mine", modality, str(n), folder / f"images/{n}.png", ()) for n in range(3)]
    report = check_samples({"train": samples})
    assert report.errors == []
    if said is None:
        assert report.warnings == []
        return
    (found,) = report.warnings
    assert (found.kind, found.part, found.path) == ("unknown-modality", "train", "mine")
    assert found.message.startswith(f"3 image(s) of the kind {modality!r}")
    assert said in found.message


def test_training_shows_the_warnings_of_the_check_and_begins(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"folder": ".", "concept": "tumor", "modality": "brest ultrasound"}
    data = {
        "root": str(root),
        "train_folders": [{**one, "split": "train"}],
        "val_folders": [{**one, "split": "val", "modality": "unknown"}],
    }
    run = fit(begin(run_config(root, data=data)), stop_after=1)
    assert run.state.step == 1
    told = capsys.readouterr().err
    assert "unknown-modality (1): " in told
    assert "6 image(s) of the kind 'brest ultrasound'" in told


def test_the_text_shows_some_files_and_the_json_all(folder: Path, tmp_path: Path) -> None:
    for number in range(10, 22):
        save(folder / f"images/{number}.png", noise(number))
    report = check_folder(folder)
    text = report.text(3)
    assert "missing-mask (12): images without a mask" in text
    assert text.count("has no 1") == 3
    assert "… and 9 more" in text
    path = report.write(tmp_path / "deep" / "report.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert len(content["problems"]["missing-mask"]) == 12
    assert content["errors"] == 12


def test_folds_may_share_images_and_the_splits_of_one_may_not(tmp_path: Path) -> None:
    for stem, seed in (("a", 0), ("b", 1), ("c", 2), ("d", 1)):
        save(tmp_path / f"bus/images/{stem}.png", noise(seed))
        save(tmp_path / f"bus/masks/{stem}.png", blob())
    entry = {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "CC0"}
    (tmp_path / "manifest.json").write_text(json.dumps({"bus": entry}))
    folds = {"bus/one": {"train": ["a", "b"], "test": ["c"]}, "bus/two": {"train": ["c", "d"]}}
    (tmp_path / "splits.json").write_text(json.dumps(folds))
    assert check_root(tmp_path).problems == ()
    folds["bus/one"]["test"].append("d")
    folds["bus/two"]["train"].append("gone")
    (tmp_path / "splits.json").write_text(json.dumps(folds))
    report = check_root(tmp_path)
    assert [(p.kind, p.part) for p in report.errors] == [
        ("same-image", "bus/one/test"),
        ("missing-image", "bus/two/train"),
    ]
    assert check_root(tmp_path, ["bus/one/train"]).problems == ()
    assert kinds(check_root(tmp_path, ["bux/one/train", "bus/one/train"])) == {"unusable-source": 1}


# --- in front of a run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def test_a_faulty_data_set_stops_a_run_before_anything_is_written(root: Path) -> None:
    (root / "train/masks/001.png").unlink()
    (root / "val/images/000.png").write_bytes(b"")
    save(root / "train/masks/003.png", blob())
    config = run_config(root)
    before = sorted(root.rglob("*"))
    with pytest.raises(DataCheckError, match="Nothing was written") as caught:
        begin(config)
    text = str(caught.value)
    for part, name in (("train", "001.png"), ("val", "000.png"), ("train", "003.png")):
        assert any(f"[{part}] " in line and name in line for line in text.splitlines())
    assert sorted(root.rglob("*")) == before


def test_weights_that_are_missing_leave_no_folder_either(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from textsam.errors import TextSAMError
    from textsam.train.run import setup

    with pytest.raises(TextSAMError):
        setup(run_config(root), sam_checkpoint=tmp_path / "nowhere.pth")
    assert not (root / "runs").exists()


def test_an_image_in_both_parts_can_be_allowed(root: Path) -> None:
    image = root / "val/images/000.png"
    image.write_bytes((root / "train/images/002.png").read_bytes())
    with pytest.raises(DataCheckError, match="same-image"):
        begin(run_config(root))
    data = run_config(root).data.model_dump()
    begin(run_config(root, data={**data, "allow": ["same-image"]}))
    with pytest.raises(ValueError, match="allow"):
        run_config(root, data={**data, "allow": ["broken-image"]})


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_has_a_stamp(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, 1)
    for folder in ("images", "masks"):
        (tmp_path / folder / "000.png").rename(tmp_path / folder / os.fsdecode(b"scan\xff.png"))
    samples = samples_from_folder(tmp_path, concept="tumor")
    stamp = stamp_of({"train": samples}, ())
    os.utime(samples[0].image_path, ns=(1, 1))
    assert stamp_of({"train": samples}, ()) != stamp


def test_what_was_checked_is_not_read_again_until_it_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(root)
    run = train(config, stop_after=3)
    content = json.loads((run.folder / STAMP_FILE).read_text(encoding="utf-8"))
    assert content["files_read"] == 18
    read: list[Path] = []
    image_facts = check_module._image_facts

    def counting(path: Path) -> Any:
        read.append(path)
        return image_facts(path)

    monkeypatch.setattr(check_module, "_image_facts", counting)
    assert train(config).state.step == 6
    assert read == []
    mask = root / "train/masks/000.png"
    status = mask.stat()
    os.utime(mask, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    checked_data(config.data, run.folder)
    assert len(read) == 9
    save(root / "train/masks/000.png", blob(shape=(9, 9)))
    with pytest.raises(DataCheckError, match="9x9"):
        begin(config)
    # Damage to the stamp means no more than a check.
    mask.unlink()
    write_images_and_masks(root / "train", 6)
    (run.folder / STAMP_FILE).write_text("[]", encoding="utf-8")
    checked_data(config.data, run.folder)


# --- the command


def test_the_command_checks_folders_configurations_and_splits(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command("data", "check", root)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("train 6, val 3: 0 errors, 0 warnings (18 files read in")
    (root / "val/masks/001.png").unlink()
    report = tmp_path / "report.json"
    done = command("data", "check", root, "--json", report)
    assert done.exit_code == 1
    assert "missing-mask (1)" in done.stdout
    assert done.stderr.startswith("error: 1 problem in the data, listed on standard output; ")
    assert json.loads(report.read_text())["problems"]["missing-mask"][0]["part"] == "val"
    config = tmp_path / "run.yaml"
    settings = run_config(root).model_dump(mode="json")
    config.write_text(json.dumps(settings), encoding="utf-8")
    done = command(
        "data", "check", config, "--set", "data.val_folders=[{folder: ., split: train, concept: x}]"
    )
    assert done.exit_code == 1
    assert "6 images are in training and validation" in done.stderr
    assert not (root / "runs").exists()
    done = command("data", "check", config)
    assert done.exit_code == 1
    assert "001.png" in done.stdout
    done = command("data", "check", tmp_path, "--folder", "nowhere")
    assert "unusable-source (1)" in done.stdout
    assert command("data", "check").exit_code == 2


def test_warnings_fail_the_command_only_when_asked(folder: Path) -> None:
    save(folder / "masks/0.png", np.full((32, 40), 255, np.uint8))
    assert command("data", "check", folder).exit_code == 0
    strict = command("data", "check", folder, "--strict")
    assert strict.exit_code == 1
    assert strict.stderr.startswith("error: 1 problem in the data")


def test_files_in_both_parts_are_the_selection_s_fault(root: Path) -> None:
    same = [{"folder": ".", "split": "train", "concept": "tumor"}]
    data = {"root": str(root), "train_folders": same, "val_folders": same}
    with pytest.raises(ConfigError, match="6 images are in training and validation"):
        begin(run_config(root, data=data))
    assert not (root / "runs").exists()
