"""The cases of an evaluation: one per image and concept, and the CSV that survives a kill."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from textsam.errors import DataError
from textsam.io.atomic import atomic_path

__all__ = [
    "CASES_FILE",
    "HEADER_FILE",
    "METRICS",
    "SUMMARY_FILE",
    "Case",
    "CaseFile",
    "ImageKey",
    "Kind",
    "QuestionKey",
    "read_cases",
    "read_header",
]

CASES_FILE = "cases.csv"
HEADER_FILE = "evaluation.json"
SUMMARY_FILE = "summary.json"

Kind = Literal["present", "absent_annotated", "absent_modality", "not_asked"]
ImageKey = tuple[str, str]  # data set, stem
QuestionKey = tuple[str, float | None]  # prompt, box shift


@dataclass(frozen=True)
class Case:
    """One prompt asked of one image; the fields are the columns of the CSV, in this order.

    Attributes:
        dataset: name of the set.
        stem: of the image.
        concept: what the set calls it; several that are one prompt are joined by " + ".
        prompt: what was asked: the adapter's word for it.
        kind: "present"; "absent_annotated": the set says it is not in this image;
            "absent_modality": cannot be in this kind of image; "not_asked": annotated without a
            pixel, so that there is no geometry to ask with, in an evaluation that needs it.
        box_shift: part of its size that the truth's box was moved by; None without a shift.
        dice: in [0, 1]; None for an absent concept, as are the next four.
        iou: in [0, 1].
        nsd_3px: in [0, 1], contour, tolerance 3 px.
        nsd_slab: in [0, 1], the authors' variant, tolerance 3 px.
        hd95_px: in pixels; infinite for an empty answer.
        score: of the answer, in [0, 1].
        found: of the answer.
        area_px: pixels in the answer's mask.
        truth_area_px: pixels in the truth; 0 for an absent concept.
        seconds: wall time of the one call that answered all prompts of this image.
    """

    dataset: str
    stem: str
    concept: str
    prompt: str
    kind: Kind
    box_shift: float | None
    dice: float | None
    iou: float | None
    nsd_3px: float | None
    nsd_slab: float | None
    hd95_px: float | None
    score: float
    found: bool
    area_px: int
    truth_area_px: int
    seconds: float

    @property
    def image(self) -> ImageKey:
        """The image asked."""
        return self.dataset, self.stem

    @property
    def question(self) -> QuestionKey:
        """What was asked of the image."""
        return self.prompt, self.box_shift


COLUMNS = tuple(field.name for field in fields(Case))
METRICS = ("dice", "iou", "nsd_3px", "nsd_slab", "hd95_px")
"""The columns that say how well a present concept was answered."""

# Version 0.1 wrote no others. What it wrote can be compared, and not gone on with.
_ADDED_COLUMNS = {"box_shift", "nsd_slab", "hd95_px"}


def _cells(case: Case) -> list[str]:
    def text(value: object) -> str:
        if value is None:
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return [text(getattr(case, name)) for name in COLUMNS]


def _case(columns: Sequence[str], cells: Sequence[str]) -> Case:
    """The case of a CSV row; ValueError if the row is damaged."""
    row = dict(zip(columns, cells, strict=True))
    kind: Any = row["kind"]
    if kind not in get_args(Kind) or row["found"] not in ("true", "false"):
        raise ValueError(f"kind {kind!r}, found {row['found']!r}")

    def number(name: str) -> float | None:
        cell = row.get(name)
        value = float(cell) if cell else None
        if value is not None and math.isnan(value):
            raise ValueError(f"{name} is {cell}")
        return value

    return Case(
        dataset=row["dataset"],
        stem=row["stem"],
        concept=row["concept"],
        prompt=row["prompt"],
        kind=kind,
        box_shift=number("box_shift"),
        dice=number("dice"),
        iou=number("iou"),
        nsd_3px=number("nsd_3px"),
        nsd_slab=number("nsd_slab"),
        hd95_px=number("hd95_px"),
        score=float(row["score"]),
        found=row["found"] == "true",
        area_px=int(row["area_px"]),
        truth_area_px=int(row["truth_area_px"]),
        seconds=float(row["seconds"]),
    )


def read_cases(folder: Path) -> tuple[list[Case], tuple[str, ...]]:
    """All cases of a finished evaluation, and the columns its file has.

    Files of version 0.1, which lack some of the columns, are read; the cases then have None there.

    Raises:
        DataError: no such file, another file, a damaged one, or an evaluation that is not finished.
    """
    path = folder / CASES_FILE
    if path.exists() and not (folder / SUMMARY_FILE).exists():
        raise DataError(
            f"{folder} has no {SUMMARY_FILE}: its evaluation is not finished; start it again, and "
            "it goes on where it stopped"
        )
    columns, cases = _read_file(path, "evaluate again")
    if not set(COLUMNS) - _ADDED_COLUMNS <= set(columns) <= set(COLUMNS):
        raise DataError(
            f"{path} has the columns {', '.join(columns)}; the cases of an evaluation have "
            f"{', '.join(COLUMNS)}"
        )
    return cases, columns


def read_header(folder: Path) -> dict[str, Any]:
    """What the cases of an evaluation depend on.

    Raises:
        DataError: no such file, or another file.
    """
    path = folder / HEADER_FILE
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} that says how the cases beside it were made cannot be read ({error})"
        ) from error
    if not isinstance(header, dict):
        raise DataError(f"{path} is not the header of an evaluation")
    return header


def _read_file(path: Path, remedy: str) -> tuple[tuple[str, ...], list[Case]]:
    """Columns and whole rows of a file of cases; a last line without an end is dropped."""
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        rows = list(csv.reader(io.StringIO(whole.decode("utf-8"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); {remedy}") from error
    if not rows:
        return COLUMNS, []
    columns, cases = tuple(rows[0]), []
    if not set(COLUMNS) - _ADDED_COLUMNS <= set(columns):
        return columns, []
    for number, row in enumerate(rows[1:], start=2):
        try:
            cases.append(_case(columns, row))
        except ValueError as error:
            raise DataError(f"{path}, row {number} is damaged ({error}); {remedy}") from error
    return columns, cases


def _lines(rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


class CaseFile:
    """`cases.csv` in a folder, appended image by image, with `evaluation.json` beside it.

    Opening it drops what a kill left behind: a half-written last line, and the cases of an image
    that has not got all of them. Whole images in the file are kept in `finished`.

    Args:
        folder: made if it is not there.
        header: what the cases depend on; JSON types.
        expected: what is asked of every image that is to be evaluated.
        resume: False throws earlier cases away.

    Raises:
        DataError: the folder is a file, or the cases in it were made with another header, are of
            images that are not expected, or cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        expected: Mapping[ImageKey, Collection[QuestionKey]],
        *,
        resume: bool,
    ) -> None:
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; give a folder for the results")
        self.path = folder / CASES_FILE
        self.header_path = folder / HEADER_FILE
        self.finished: dict[ImageKey, list[Case]] = {}
        earlier = self._read() if resume and self.path.exists() else []
        if earlier:
            self._check_header(header)
            self._keep(earlier, expected)
        # In this order, so that a kill never leaves cases under a header that is not theirs.
        if not self.finished:
            self.path.unlink(missing_ok=True)
        with atomic_path(self.header_path) as temporary:
            text = json.dumps(header, indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        kept = [case for cases in self.finished.values() for case in cases]
        with atomic_path(self.path) as temporary:
            temporary.write_text(
                _lines([COLUMNS, *map(_cells, kept)]), encoding="utf-8", newline=""
            )

    def append(self, cases: Sequence[Case]) -> None:
        """Add all cases of one image."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines(map(_cells, cases)))
            file.flush()

    def _read(self) -> list[Case]:
        columns, cases = _read_file(self.path, _ANEW)
        if columns != COLUMNS:
            raise DataError(
                f"{self.path} has the columns {', '.join(columns)} instead of "
                f"{', '.join(COLUMNS)}, as another version of textsam wrote it; {_ANEW}"
            )
        return cases

    def _check_header(self, header: Mapping[str, Any]) -> None:
        try:
            before = read_header(self.header_path.parent)
        except DataError as error:
            raise DataError(f"{error}; {_ANEW}") from error
        now = json.loads(json.dumps(header))
        other = [key for key in {**now, **before} if now.get(key) != before.get(key)]
        if other:
            differences = "; ".join(
                f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in other
            )
            raise DataError(
                f"{self.path} belongs to another evaluation: {differences}. Evaluate as before to "
                f"go on, or {_ANEW}"
            )

    def _keep(
        self, cases: Sequence[Case], expected: Mapping[ImageKey, Collection[QuestionKey]]
    ) -> None:
        by_image: dict[ImageKey, list[Case]] = {}
        for case in cases:
            by_image.setdefault(case.image, []).append(case)
        for image, found in by_image.items():
            asked, wanted = [case.question for case in found], expected.get(image, ())
            if not set(asked) <= set(wanted) or len(set(asked)) < len(asked):
                raise DataError(
                    f"{self.path} has cases of {'/'.join(image)} ({_listed(asked)}) that do not "
                    f"belong to this evaluation ({_listed(wanted) or 'image not in it'}); give "
                    f"the same samples to go on, or {_ANEW}"
                )
            if len(asked) == len(wanted):
                self.finished[image] = found


def _listed(questions: Collection[QuestionKey]) -> str:
    return ", ".join(
        prompt if shift is None else f"{prompt} at {shift:g}" for prompt, shift in questions
    )


_ANEW = "give another folder, or resume=False to start anew"
