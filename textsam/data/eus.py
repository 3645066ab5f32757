"""The Endoscopic Ultrasound Database of the Pancreas, laid out for `configs/eus.yaml`.

Jaramillo et al. 2020. TextSAM-EUS (Spiegler, Koleilat et al. 2025) divides its images with a tumor
by patient: 12 patients with 11,363 images to train on, 2 with 986 to validate, 4 with 4,185 to
test.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image

from textsam.data.check import Checker, check_samples
from textsam.data.listing import IMAGE_SUFFIXES, PARTS, is_system_file, tell_unsupported
from textsam.data.problems import DataReport, Kind, Problem, Problems
from textsam.data.sample import Sample, Target, read_mask
from textsam.data.staging import staged_folder
from textsam.errors import ConfigError, DataError
from textsam.io.pillow import stored_orientation
from textsam.io.raster import read_image, write_mask, write_picture

__all__ = ["PATIENT_PATTERN", "PUBLISHED", "Expected", "PreparedEus", "prepare_eus"]

CONCEPT, MODALITY = "tumor", "endoscopic ultrasound"
RECORD_FILE = "eus.json"

PATIENT_PATTERN = r"([^/]+)/|([A-Za-z]+[-_ ]?\d+)"
"""Whose image it is: its folder inside `images/`, else what a name begins with, as in C012_0007."""


@dataclass(frozen=True)
class Expected:
    """How many images of how many patients a split should have."""

    images: int
    patients: int


PUBLISHED: Mapping[str, Expected] = MappingProxyType(
    {"train": Expected(11_363, 12), "val": Expected(986, 2), "test": Expected(4_185, 4)}
)


@dataclass(frozen=True)
class PreparedEus:
    """What was prepared.

    Attributes:
        folder: with `train/`, `val/`, `test/` and `eus.json`.
        record: content of `eus.json`.
        report: of the check, with its warnings.
    """

    folder: Path
    record: Mapping[str, Any]
    report: DataReport


@dataclass(frozen=True)
class _Pair:
    """An image with its mask: name is its path inside `images/` without suffix."""

    name: str
    image: Path
    mask: Path
    patient: str

    @property
    def stem(self) -> str:
        return self.name.replace("/", "__")


def prepare_eus(
    raw: str | Path,
    out: str | Path,
    *,
    patient: str | None = PATIENT_PATTERN,
    expected: Mapping[str, Expected] = PUBLISHED,
    patients_of: Mapping[str, Sequence[str]] | None = None,
    allowed: frozenset[Kind] = frozenset(),
    progress: bool = False,
) -> PreparedEus:
    """Check the raw images and write them as `out`/{train,val,test}/{images,masks}/NAME.png.

    Images become 8-bit PNG, upright (PNG files without an EXIF orientation are copied as they are),
    masks 0 and 255; masks of 0 and 1 are accepted. A file in a folder inside
    `images/` gets the folder's name before its own.

    Args:
        raw: holds {train,val,test}/{images,masks}/; with `patients_of`, images/ and masks/.
        out: folder to make; must not exist.
        patient: pattern searched for at the beginning of an image's path inside `images/`; its
            first group that matches, or all of it, is the patient. None checks no patients.
        expected: split -> numbers, the published ones by default.
        patients_of: split -> patients, to divide images that lie in one folder. Images of other
            patients are left out; a warning of the report and `eus.json` say which.
        allowed: kinds of `textsam.data.problems.ALLOWABLE` that are no errors here.
        progress: show a bar while files are read.

    Raises:
        DataCheckError: everything that is missing or wrong, listed; nothing is written.
        DataError: `out` exists or cannot be written.
        ConfigError: the pattern is none, or there is none to divide by patients with; or the parts
            are not train, val and test.
    """
    raw, out = Path(raw), Path(out)
    if out.exists():
        raise DataError(f"{out} exists already; remove it, or choose another place")
    pattern = _compiled(patient)
    for named in (expected, patients_of or expected):
        if set(named) != set(PARTS):
            raise ConfigError(f"the parts are {', '.join(named)}; give {', '.join(PARTS)}")
    if patients_of is not None and pattern is None:
        raise ConfigError(
            "images are divided by patient, and no patients are to be read from their names; give "
            "a pattern of patients, or lay the images out in train, val and test"
        )
    found: list[Problem] = []
    left_out: dict[str, int] = {}
    if patients_of is None:
        pairs = {split: _pairs(raw / split, split, pattern, found) for split in PARTS}
    else:
        those = _pairs(raw, "", pattern, found)
        pairs = _divided(those, patients_of, found)
        left_out = _left_out(those, patients_of)
    remedy = f"Nothing was written to {out}. Complete or correct {raw}, or say what it should hold."
    if left_out:
        told = f"{sum(left_out.values()):,} images are of patients in no part: {_counts(left_out)}"
        found.append(Problem("patient-left-out", "", str(raw / "images"), told))
        remedy = f"{told}\n{remedy}"
    # Numbers may be wrong for these, and errors are told without the warnings.
    others = [f"{p.path}: {p.message}" for p in found if p.kind == "unsupported-file"]
    remedy = "\n".join([*others, remedy])
    _check_counts(pairs, expected, pattern is not None, found)
    parts = {split: [_sample(pair) for pair in pairs[split]] for split in PARTS}
    checker = Checker(progress=progress)
    report = check_samples(parts, found, allowed=allowed, checker=checker)
    report = _with_ones(report, checker)
    report.raise_errors(remedy)
    record = _record(pairs, checker, patient, left_out)
    with staged_folder(out) as staged:
        for split in PARTS:
            for pair in pairs[split]:
                _write(pair, staged / split, checker)
        (staged / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return PreparedEus(out, record, report)


def _compiled(patient: str | None) -> re.Pattern[str] | None:
    if patient is None:
        return None
    try:
        return re.compile(patient)
    except re.error as error:
        raise ConfigError(f"the pattern of patients {patient!r} is no pattern: {error}") from error


def _files(folder: Path, problems: Problems) -> dict[str, Path]:
    """Path inside the folder without suffix -> file; files of other suffixes are told of."""
    files: dict[str, Path] = {}
    others: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            if path.is_file() and not is_system_file(path):
                others.append(path.relative_to(folder).as_posix())
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        name = unicodedata.normalize("NFC", name)
        if name in files:
            problems.add("duplicate-stem", path, f"{files[name]} has the same name; keep one file")
        else:
            files[name] = path
    tell_unsupported(folder, others, problems)
    return files


def _pairs(
    base: Path, split: str, pattern: re.Pattern[str] | None, found: list[Problem]
) -> list[_Pair]:
    problems = Problems(split)
    for folder in ("images", "masks"):
        if not (base / folder).is_dir():
            problems.add("unusable-source", base / folder, "there is no such folder")
    images, masks = _files(base / "images", problems), _files(base / "masks", problems)
    pairs: list[_Pair] = []
    stems: dict[str, Path] = {}
    for name, image in images.items():
        patient = _patient(name, pattern)
        if patient is None:
            assert pattern is not None
            problems.add("unknown-patient", image, f"{name!r} does not match {pattern.pattern!r}")
        if name not in masks:
            problems.add("missing-mask", image, f"{base / 'masks'} has no {name}.*")
            continue
        pair = _Pair(name, image, masks[name], patient or "")
        if pair.stem in stems:
            problems.add("duplicate-stem", image, f"{stems[pair.stem]} would get the same name")
        stems[pair.stem] = image
        pairs.append(pair)
    for name in masks:
        if name not in images:
            problems.add("mask-without-image", masks[name], f"{base / 'images'} has no {name}.*")
    found += problems.found
    return pairs


def _patient(name: str, pattern: re.Pattern[str] | None) -> str | None:
    """The patient of an image; empty where nobody is to know."""
    if pattern is None:
        return ""
    match = pattern.match(name)
    if match is None:
        return None
    return next((group for group in match.groups() if group), match.group(0)) or None


def _divided(
    pairs: Sequence[_Pair], patients_of: Mapping[str, Sequence[str]], found: list[Problem]
) -> dict[str, list[_Pair]]:
    own = {patient: split for split in PARTS for patient in patients_of[split]}
    divided: dict[str, list[_Pair]] = {split: [] for split in PARTS}
    for pair in pairs:
        if pair.patient in own:
            divided[own[pair.patient]].append(pair)
    there = {pair.patient for pair in pairs}
    for split in PARTS:
        problems = Problems(split)
        for patient in patients_of[split]:
            if own[patient] != split:
                problems.add("patient-crosses", patient, f"listed in {own[patient]!r}, too")
            if patient not in there:
                problems.add("missing-image", patient, "there is no image of this patient")
        found += problems.found
    return divided


def _left_out(pairs: Sequence[_Pair], patients_of: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Patient that no split lists -> number of images; who is not known is a fault of its own."""
    listed = {patient for split in PARTS for patient in patients_of[split]}
    others = Counter(p.patient for p in pairs if p.patient and p.patient not in listed)
    return dict(sorted(others.items()))


def _counts(images: Mapping[str, int]) -> str:
    return ", ".join(f"{patient} ({number:,})" for patient, number in images.items())


def _check_counts(
    pairs: Mapping[str, Sequence[_Pair]],
    expected: Mapping[str, Expected],
    with_patients: bool,
    found: list[Problem],
) -> None:
    seen: dict[str, str] = {}
    for split in PARTS:
        problems = Problems(split)
        count, wanted = len(pairs[split]), expected[split]
        if count != wanted.images:
            problems.add(
                "wrong-count",
                split,
                f"{count:,} images with masks, {wanted.images:,} expected: "
                + _difference(count, wanted.images),
            )
        images = Counter(pair.patient for pair in pairs[split] if pair.patient)
        if with_patients and len(images) != wanted.patients:
            shown = ", ".join(f"{name} ({number})" for name, number in sorted(images.items())[:12])
            problems.add(
                "wrong-count",
                split,
                f"{len(images):,} patients, {wanted.patients} expected; found {shown or 'none'}"
                f"{' and more' if len(images) > 12 else ''}. If these are no patients, give "
                "another pattern",
            )
        for patient, number in sorted(images.items()):
            if patient in seen:
                problems.add(
                    "patient-crosses", patient, f"{number} images here, others in {seen[patient]!r}"
                )
            seen.setdefault(patient, split)
        found += problems.found


def _difference(count: int, wanted: int) -> str:
    return f"{wanted - count:,} missing" if count < wanted else f"{count - wanted:,} too many"


def _sample(pair: _Pair) -> Sample:
    return Sample("eus", MODALITY, pair.stem, pair.image, (Target(CONCEPT, pair.mask),))


def _with_ones(report: DataReport, checker: Checker) -> DataReport:
    """The report without complaints about masks of 0 and 1, which are understood here."""
    ones = [p for p in report.problems if p.kind == "not-a-mask" and _of_ones(checker, p.path)]
    full = {p.part for p in ones}
    kept = [
        problem
        for problem in report.problems
        # By values of 0 and 1 nothing is above 127, so the class looked empty.
        if problem not in ones and not (problem.kind == "empty-class" and problem.part in full)
    ]
    return DataReport(tuple(kept), report.samples, report.allowed, report.files, report.seconds)


def _of_ones(checker: Checker, path: str | Path) -> bool:
    return checker.mask_values(Path(path)) in ((0, 1), (1,))


def _record(
    pairs: Mapping[str, Sequence[_Pair]],
    checker: Checker,
    patient: str | None,
    left_out: Mapping[str, int],
) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split in PARTS:
        digest = hashlib.sha256()
        sizes: Counter[str] = Counter()
        for pair in sorted(pairs[split], key=lambda pair: pair.stem):
            # A file name need not be valid UTF-8.
            line = f"{pair.stem} {checker.image_digest(pair.image)}\n"
            digest.update(line.encode(errors="surrogatepass"))
            height, width = checker.image_size_px(pair.image)
            sizes[f"{width}x{height}"] += 1
        patients = dict(sorted(Counter(pair.patient for pair in pairs[split]).items()))
        splits[split] = {
            "images": len(pairs[split]),
            "patients": None if patient is None else patients,
            "sizes_px": dict(sizes.most_common()),
            "sha256_of_images": digest.hexdigest(),
        }
    return {
        "format": 1,
        "patient_pattern": patient,
        "splits": splits,
        "patients_left_out": dict(left_out),
    }


def _write(pair: _Pair, folder: Path, checker: Checker) -> None:
    image = folder / "images" / f"{pair.stem}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    # Masks are written upright and without a tag that says how, so images must be, too.
    if pair.image.suffix.lower() == ".png" and stored_orientation(pair.image) == 1:
        shutil.copyfile(pair.image, image)
    else:
        pixels = np.rint(read_image(pair.image).pixels).astype(np.uint8)
        grey = (pixels == pixels[..., :1]).all()
        write_picture(PIL.Image.fromarray(pixels[..., 0] if grey else pixels), image)
    raw = read_mask(pair.mask)
    write_mask(raw > (0 if _of_ones(checker, pair.mask) else 127), folder / "masks" / image.name)
