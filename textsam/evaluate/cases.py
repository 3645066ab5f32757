"""The cases of an evaluation: one per image and concept, and the CSV that survives a kill."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from textsam.errors import DataError
from textsam.evaluate.row_file import (
    ANEW,
    CONTENTS,
    ImageKey,
    RowFile,
    by_image,
    read_lines,
    read_settings,
)

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
    "column_title",
    "read_cases",
    "read_header",
    "slab_tolerance_px",
]

CASES_FILE = "cases.csv"
HEADER_FILE = "evaluation.json"
SUMMARY_FILE = "summary.json"

Kind = Literal["present", "absent_annotated", "absent_modality", "not_asked"]
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
        nsd_slab: in [0, 1], the authors' variant, with the tolerance that the settings record.
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

_TITLES = {"dice": "Dice %", "iou": "IoU %", "nsd_3px": "NSD 3 px %", "hd95_px": "HD95 px"}

# Version 0.1 wrote no others. What it wrote can be compared, and not gone on with.
_ADDED_COLUMNS = {"box_shift", "nsd_slab", "hd95_px"}


class CaseFile(RowFile[Case]):
    """`cases.csv` in a folder, with `evaluation.json` beside it; see `RowFile`.

    Args:
        folder: made if it is not there.
        header: what the cases depend on; JSON types.
        expected: what is asked of every image that is to be evaluated.
        contents: digest of what each of these shows.
        resume: False throws earlier cases away.

    Raises:
        DataError: as `RowFile`.
    """

    rows_name = CASES_FILE
    settings_name = HEADER_FILE
    columns = COLUMNS

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        expected: Mapping[ImageKey, Collection[QuestionKey]],
        contents: Mapping[ImageKey, str],
        *,
        resume: bool,
    ) -> None:
        self.expected = expected
        super().__init__(folder, header, contents, resume=resume)

    @classmethod
    def row(cls, cells: Mapping[str, str]) -> Case:
        """The case of a line; ValueError if it is damaged. Columns may be missing."""
        kind: Any = cells["kind"]
        if kind not in get_args(Kind) or cells["found"] not in ("true", "false"):
            raise ValueError(f"kind {kind!r}, found {cells['found']!r}")

        def number(name: str) -> float | None:
            cell = cells.get(name)
            value = float(cell) if cell else None
            if value is not None and math.isnan(value):
                raise ValueError(f"{name} is {cell}")
            return value

        return Case(
            dataset=cells["dataset"],
            stem=cells["stem"],
            concept=cells["concept"],
            prompt=cells["prompt"],
            kind=kind,
            box_shift=number("box_shift"),
            dice=number("dice"),
            iou=number("iou"),
            nsd_3px=number("nsd_3px"),
            nsd_slab=number("nsd_slab"),
            hd95_px=number("hd95_px"),
            score=float(cells["score"]),
            found=cells["found"] == "true",
            area_px=int(cells["area_px"]),
            truth_area_px=int(cells["truth_area_px"]),
            seconds=float(cells["seconds"]),
        )

    def complete(self, image: ImageKey, rows: Sequence[Case]) -> bool:
        """Whether everything was asked of the image; DataError for what is not asked of it."""
        asked, wanted = [case.question for case in rows], self.expected.get(image, ())
        if not set(asked) <= set(wanted) or len(set(asked)) < len(asked):
            raise DataError(
                f"{self.path} has cases of {'/'.join(image)} ({_listed(asked)}) that do not "
                f"belong to this evaluation ({_listed(wanted) or 'image not in it'}); give "
                f"the same samples to go on, or {ANEW}"
            )
        return len(asked) == len(wanted)


def _listed(questions: Collection[QuestionKey]) -> str:
    return ", ".join(
        prompt if shift is None else f"{prompt} at {shift:g}" for prompt, shift in questions
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
    lines = read_lines(path, "evaluate again") or [list(COLUMNS)]
    columns = tuple(lines[0])
    if not set(COLUMNS) - _ADDED_COLUMNS <= set(columns) <= set(COLUMNS):
        raise DataError(
            f"{path} has the columns {', '.join(columns)}; the cases of an evaluation have "
            f"{', '.join(COLUMNS)}"
        )
    return CaseFile.parse(path, columns, lines[1:], "evaluate again"), columns


def slab_tolerance_px(settings: Mapping[str, Any]) -> float | None:
    """The tolerance of `nsd_slab` that the settings of an evaluation record, old ones too.

    Earlier versions used one tolerance for both NSD; None: nothing is recorded.
    """
    tolerance = settings.get("slab_tolerance_px", settings.get("tolerance_px"))
    return float(tolerance) if isinstance(tolerance, int | float) else None


def column_title(metric: str, settings: Mapping[str, Any]) -> str:
    """Head of a table's column: "slab NSD 3 px %" for `nsd_slab` by an evaluation's settings."""
    if metric != "nsd_slab":
        return _TITLES.get(metric, metric)
    tolerance = slab_tolerance_px(settings)
    return "slab NSD %" if tolerance is None else f"slab NSD {tolerance:g} px %"


def read_header(folder: Path) -> tuple[dict[str, Any], dict[ImageKey, str]]:
    """What the cases of an evaluation depend on, and the digests of its images and masks.

    Of an evaluation made before digests were kept there are none.

    Raises:
        DataError: no such file, or another file.
    """
    header = read_settings(folder / HEADER_FILE, "evaluate again")
    recorded = header.pop(CONTENTS, None)
    return header, by_image(recorded) if isinstance(recorded, dict) else {}
