"""The cases of an evaluation: one per image and concept, and the CSV that survives a kill."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from textsam.errors import DataError
from textsam.io.atomic import atomic_path

__all__ = ["CASES_FILE", "HEADER_FILE", "Case", "CaseFile", "ImageKey", "Kind"]

CASES_FILE = "cases.csv"
HEADER_FILE = "evaluation.json"

Kind = Literal["present", "absent_annotated", "absent_modality"]
ImageKey = tuple[str, str]  # data set, stem


@dataclass(frozen=True)
class Case:
    """One prompt asked of one image; the fields are the columns of the CSV, in this order.

    Attributes:
        dataset: name of the set.
        stem: of the image.
        concept: what the set calls it; several that are one prompt are joined by " + ".
        prompt: what was asked: the adapter's word for it.
        kind: "present"; "absent_annotated": the set says it is not in this image;
            "absent_modality": cannot be in this kind of image.
        dice: in [0, 1]; None for an absent concept, as are the next two.
        iou: in [0, 1].
        nsd_3px: in [0, 1], contour, tolerance 3 px.
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
    dice: float | None
    iou: float | None
    nsd_3px: float | None
    score: float
    found: bool
    area_px: int
    truth_area_px: int
    seconds: float

    @property
    def image(self) -> ImageKey:
        """The image asked."""
        return self.dataset, self.stem


COLUMNS = tuple(field.name for field in fields(Case))


def _cells(case: Case) -> list[str]:
    def text(value: object) -> str:
        if value is None:
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return [text(getattr(case, name)) for name in COLUMNS]


def _case(cells: Sequence[str]) -> Case:
    """The case of a CSV row; ValueError if the row is damaged."""
    row = dict(zip(COLUMNS, cells, strict=True))
    kind: Any = row["kind"]
    if kind not in get_args(Kind) or row["found"] not in ("true", "false"):
        raise ValueError(f"kind {kind!r}, found {row['found']!r}")

    def metric(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return Case(
        dataset=row["dataset"],
        stem=row["stem"],
        concept=row["concept"],
        prompt=row["prompt"],
        kind=kind,
        dice=metric("dice"),
        iou=metric("iou"),
        nsd_3px=metric("nsd_3px"),
        score=float(row["score"]),
        found=row["found"] == "true",
        area_px=int(row["area_px"]),
        truth_area_px=int(row["truth_area_px"]),
        seconds=float(row["seconds"]),
    )


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
        expected: the prompts of every image that is to be evaluated.
        resume: False throws earlier cases away.

    Raises:
        DataError: the folder is a file, or the cases in it were made with another header, are of
            images that are not expected, or cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        expected: Mapping[ImageKey, Collection[str]],
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
        try:
            whole, _, _ = self.path.read_bytes().rpartition(b"\n")
            rows = list(csv.reader(io.StringIO(whole.decode("utf-8"), newline=""), strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.path} cannot be read ({error}); {_ANEW}") from error
        if not rows:
            return []
        if tuple(rows[0]) != COLUMNS:
            raise DataError(
                f"{self.path} has the columns {', '.join(rows[0])} instead of "
                f"{', '.join(COLUMNS)}; {_ANEW}"
            )
        cases = []
        for number, row in enumerate(rows[1:], start=2):
            try:
                cases.append(_case(row))
            except ValueError as error:
                raise DataError(
                    f"{self.path}, row {number} is damaged ({error}); {_ANEW}"
                ) from error
        return cases

    def _check_header(self, header: Mapping[str, Any]) -> None:
        try:
            before = json.loads(self.header_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} holds cases, and {self.header_path} that says how they were made "
                f"cannot be read ({error}); {_ANEW}"
            ) from error
        now = json.loads(json.dumps(header))
        if not isinstance(before, dict):
            raise DataError(f"{self.header_path} is not the header of an evaluation; {_ANEW}")
        other = [key for key in {**now, **before} if now.get(key) != before.get(key)]
        if other:
            differences = "; ".join(
                f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in other
            )
            raise DataError(
                f"{self.path} belongs to another evaluation: {differences}. Evaluate as before to "
                f"go on, or {_ANEW}"
            )

    def _keep(self, cases: Sequence[Case], expected: Mapping[ImageKey, Collection[str]]) -> None:
        by_image: dict[ImageKey, list[Case]] = {}
        for case in cases:
            by_image.setdefault(case.image, []).append(case)
        for image, found in by_image.items():
            asked, wanted = [case.prompt for case in found], expected.get(image, ())
            if not set(asked) <= set(wanted) or len(set(asked)) < len(asked):
                raise DataError(
                    f"{self.path} has cases of {'/'.join(image)} ({', '.join(asked)}) that do not "
                    f"belong to this evaluation ({', '.join(wanted) or 'image not in it'}); give "
                    f"the same samples to go on, or {_ANEW}"
                )
            if len(asked) == len(wanted):
                self.finished[image] = found


_ANEW = "give another folder, or resume=False to start anew"
