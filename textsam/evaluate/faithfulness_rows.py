"""A faithfulness run's answers: a row per image and text, and the CSV that survives a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from textsam.errors import DataError
from textsam.evaluate.row_file import ANEW, ImageKey, RowFile

__all__ = ["ANSWERS_FILE", "RUN_FILE", "AnswerFile", "AnswerRow", "Kind", "Wording"]

ANSWERS_FILE = "faithfulness.csv"
RUN_FILE = "faithfulness-run.json"

Kind = Literal["present", "absent_annotated", "absent_modality", "distractor"]
Wording = Literal["name", "synonym", "British", "plural", "upper case", "article"]


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
    def image(self) -> ImageKey:
        """The image asked."""
        return self.dataset, self.stem


COLUMNS = tuple(field.name for field in fields(AnswerRow))


class AnswerFile(RowFile[AnswerRow]):
    """`faithfulness.csv` in a folder, with its settings beside it; see `RowFile`."""

    rows_name = ANSWERS_FILE
    settings_name = RUN_FILE
    columns = COLUMNS

    @classmethod
    def row(cls, cells: Mapping[str, str]) -> AnswerRow:
        """The row of a line; ValueError, TypeError or IndexError if it is damaged."""
        kind: Any = cells["kind"]
        wording: Any = cells["wording"]
        known = kind in get_args(Kind) and wording in get_args(Wording)
        if not known or cells["found"] not in ("true", "false"):
            raise ValueError(f"kind {kind!r}, wording {wording!r}, found {cells['found']!r}")

        def metric(name: str) -> float | None:
            return float(cells[name]) if cells[name] else None

        pairs = json.loads(cells["lies_in"]) if cells["lies_in"] else {}
        return AnswerRow(
            dataset=cells["dataset"],
            stem=cells["stem"],
            rows=int(cells["rows"]),
            kind=kind,
            concept=cells["concept"],
            wording=wording,
            text=cells["text"],
            meaning=cells["meaning"],
            dice=metric("dice"),
            product_dice=metric("product_dice"),
            proposed_dice=metric("proposed_dice"),
            score=float(cells["score"]),
            found=cells["found"] == "true",
            area_px=int(cells["area_px"]),
            proposed_area_px=int(cells["proposed_area_px"]),
            lies_in={name: (own[0], own[1]) for name, own in pairs.items()},
        )

    def complete(self, image: ImageKey, rows: Sequence[AnswerRow]) -> bool:
        """Whether the image has as many rows as its rows say; DataError for another image."""
        if image not in self.images:
            raise DataError(
                f"{self.path} has answers about {'/'.join(image)}, which is not among the "
                f"samples; give the same samples to go on, or {ANEW}"
            )
        return len(rows) == rows[0].rows
