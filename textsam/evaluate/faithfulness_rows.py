"""A faithfulness run's answers: a row per image and text, and the CSV that survives a kill."""

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

__all__ = ["ANSWERS_FILE", "RUN_FILE", "AnswerFile", "AnswerRow", "Kind", "Wording"]

ANSWERS_FILE = "faithfulness.csv"
RUN_FILE = "faithfulness-run.json"

Kind = Literal["present", "absent_annotated", "absent_modality", "distractor"]
Wording = Literal["name", "synonym", "British", "plural", "upper case", "article"]
_Image = tuple[str, str]  # data set, stem


@dataclass(frozen=True)
class AnswerRow:
    """The network's answer to one text about one image; the fields are the columns of the CSV.

    Attributes:
        dataset: name of the set.
        stem: of the image.
        rows: how many rows the image has, so that a half-written image is known as one.
        kind: whether it is there; if not, how that is known. "distractor": outside the vocabulary.
        concept: the adapter's name for it; the text itself for a distractor.
        wording: how the text differs from the concept's name.
        text: as given to the text encoder.
        meaning: the concept that the product takes the text for; empty if none.
        dice: of the network's answer, 0 if it is "not there"; None where nothing is there, as are
            the next two.
        product_dice: of the product's answer to the same text.
        proposed_dice: of the network's mask before the found threshold.
        score: of the answer.
        found: of the answer.
        area_px: of the answer's mask.
        proposed_area_px: of the mask before the found threshold.
        lies_in: annotated class -> (Dice of the answer with it, share of the answer's area in it or
            None for an empty answer), for names asked of images that show several classes.
    """

    dataset: str
    stem: str
    rows: int
    kind: Kind
    concept: str
    wording: Wording
    text: str
    meaning: str
    dice: float | None
    product_dice: float | None
    proposed_dice: float | None
    score: float
    found: bool
    area_px: int
    proposed_area_px: int
    lies_in: Mapping[str, tuple[float, float | None]]

    @property
    def image(self) -> _Image:
        """The image asked."""
        return self.dataset, self.stem


COLUMNS = tuple(field.name for field in fields(AnswerRow))


def _cells(row: AnswerRow) -> list[str]:
    def text(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, Mapping):
            return json.dumps(value, ensure_ascii=False) if value else ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return [text(getattr(row, name)) for name in COLUMNS]


def _row(cells: Sequence[str]) -> AnswerRow:
    """The row of CSV cells; ValueError if they are damaged."""
    cell = dict(zip(COLUMNS, cells, strict=True))
    kind: Any = cell["kind"]
    wording: Any = cell["wording"]
    known = kind in get_args(Kind) and wording in get_args(Wording)
    if not known or cell["found"] not in ("true", "false"):
        raise ValueError(f"kind {kind!r}, wording {wording!r}, found {cell['found']!r}")

    def metric(name: str) -> float | None:
        return float(cell[name]) if cell[name] else None

    pairs = json.loads(cell["lies_in"]) if cell["lies_in"] else {}
    return AnswerRow(
        dataset=cell["dataset"],
        stem=cell["stem"],
        rows=int(cell["rows"]),
        kind=kind,
        concept=cell["concept"],
        wording=wording,
        text=cell["text"],
        meaning=cell["meaning"],
        dice=metric("dice"),
        product_dice=metric("product_dice"),
        proposed_dice=metric("proposed_dice"),
        score=float(cell["score"]),
        found=cell["found"] == "true",
        area_px=int(cell["area_px"]),
        proposed_area_px=int(cell["proposed_area_px"]),
        lies_in={name: (own[0], own[1]) for name, own in pairs.items()},
    )


def _lines(rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


class AnswerFile:
    """`faithfulness.csv` in a folder, appended image by image.

    Opening it keeps the images that are complete in it, in `finished`, and drops the rest.

    Args:
        folder: made if it is not there.
        settings: what the answers depend on, JSON types; kept beside the CSV.
        images: that are to be asked.
        resume: False throws earlier answers away.

    Raises:
        DataError: the folder is a file, or the answers in it cannot be read, were made with other
            settings, or are of images not among `images`.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        images: Collection[_Image],
        *,
        resume: bool,
    ) -> None:
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; give a folder for the results")
        self.path = folder / ANSWERS_FILE
        run = folder / RUN_FILE
        self.finished: dict[_Image, list[AnswerRow]] = {}
        if resume and self.path.exists():
            self._check(run, settings)
            for row in self._read():
                self.finished.setdefault(row.image, []).append(row)
            strange = [image for image in self.finished if image not in images]
            if strange:
                raise DataError(
                    f"{self.path} has answers about {'/'.join(strange[0])}, which is not among the "
                    f"samples; give the same samples to go on, or {_ANEW}"
                )
            self.finished = {
                image: rows for image, rows in self.finished.items() if len(rows) == rows[0].rows
            }
        # In this order, so that a kill never leaves answers under settings that are not theirs.
        if not self.finished:
            self.path.unlink(missing_ok=True)
        with atomic_path(run) as temporary:
            text = json.dumps(settings, indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        kept = [row for rows in self.finished.values() for row in rows]
        with atomic_path(self.path) as temporary:
            temporary.write_text(
                _lines([COLUMNS, *map(_cells, kept)]), encoding="utf-8", newline=""
            )

    def append(self, rows: Sequence[AnswerRow]) -> None:
        """Add all rows of one image."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines(map(_cells, rows)))
            file.flush()

    def _read(self) -> list[AnswerRow]:
        try:
            whole, _, _ = self.path.read_bytes().rpartition(b"\n")
            lines = list(csv.reader(io.StringIO(whole.decode("utf-8"), newline=""), strict=True))
            if lines and tuple(lines[0]) != COLUMNS:
                raise ValueError(f"its columns are {', '.join(lines[0])}")
            return [_row(cells) for cells in lines[1:]]
        except (OSError, ValueError, csv.Error, TypeError, IndexError) as error:
            raise DataError(f"{self.path} cannot be read ({error}); {_ANEW}") from error

    def _check(self, run: Path, settings: Mapping[str, Any]) -> None:
        try:
            before = json.loads(run.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} holds answers, and {run} that says how they were made cannot be read "
                f"({error}); {_ANEW}"
            ) from error
        if not isinstance(before, dict):
            raise DataError(f"{run} does not describe a run; {_ANEW}")
        now = json.loads(json.dumps(settings))
        differ = [key for key in {**now, **before} if before.get(key) != now.get(key)]
        if differ:
            raise DataError(
                f"{self.path} belongs to another run, which differs in {', '.join(differ)}; "
                f"measure as before to go on, or {_ANEW}"
            )


_ANEW = "give another folder, or resume=False to start anew"
