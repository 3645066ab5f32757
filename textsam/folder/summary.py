"""`summary.csv`: one row per image and prompt of a run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from textsam.folder.manifest import InputRecord
from textsam.io.atomic import atomic_path, told_as_output

__all__ = ["COLUMNS", "rows_of", "write_summary"]

COLUMNS = (
    "path", "frame", "prompt", "found", "score", "area_px", "area_mm2", "centroid_x_px",
    "centroid_y_px", "centroid_x_mm", "centroid_y_mm", "centroid_z_mm", "x_min_px", "y_min_px",
    "x_max_px", "y_max_px", "seconds", "status", "error",
)  # fmt: skip
"""Of the table. Coordinates in pixels as in `Segmentation`, in mm to the patient's left, back and
head; empty where there is nothing to say. `seconds` is the image's model time for all prompts.
Text that a spreadsheet would take for a formula is made harmless: a path gets "./" before it, other
text an apostrophe (owasp.org, "CSV Injection")."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_summary(path: Path, records: Iterable[InputRecord]) -> Path:
    """Write the table of some inputs, row by row, complete or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    # A file name need not be valid UTF-8; its bytes are kept.
    with (
        told_as_output(path),
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for record in records:
            table.writerows(rows_of(record))
    return path


def rows_of(record: InputRecord) -> Iterator[dict[str, Any]]:
    """The rows of one input: its answers, then, per prompt, what failed."""
    for result in record.results:
        centroid = result["centroid"] or ("", "")
        place = result.get("centroid_mm") or ("", "", "")
        box = result["box"] or ("", "", "", "")
        yield {
            "path": _harmless(record.input, "./"),
            "frame": _text(result["frame"]),
            "prompt": _harmless(result["prompt"], "'"),
            "found": "true" if result["found"] else "false",
            "score": result["score"],
            "area_px": result["area_px"],
            "area_mm2": _text(result["area_mm2"]),
            **dict(zip(COLUMNS[7:9], centroid, strict=True)),
            **dict(zip(COLUMNS[9:12], place, strict=True)),
            **dict(zip(COLUMNS[12:16], box, strict=True)),
            "seconds": result["seconds"],
            "status": "done",
        }
    for failure in record.failures:
        for prompt in record.prompts:
            yield {
                "path": _harmless(record.input, "./"),
                "frame": _text(failure["frame"]),
                "prompt": _harmless(prompt, "'"),
                "status": record.status,
                "error": _harmless(failure["error"], "'"),
            }


def _text(value: object) -> object:
    return "" if value is None else value


def _harmless(text: str, before: str) -> str:
    return before + text if text.startswith(_FORMULA_STARTS) else text
