"""Scores of a BUSI image at the published benchmark's size and at its own, and a fold's figures.

The published networks get image and mask stretched to 256×256. Here the prediction is made on the
image as every arm sees it (longer side 256, the rest padded: no pixel more than theirs), and then
stretched to 256×256 to be compared with the truth stretched in the same way. Stretching alone
changes neither Dice nor IoU, as areas all change by one factor; only the sampling differs.

Two kinds of mean are given. `dice_256` is the mean over images, what this benchmark goes by and
what the published figures must be (the report says why). `dice_256_pooled` counts the pixels of
eight images at a time together, so that large tumours weigh more, and averages these ratios, as
the published code does today.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from textsam.io.atomic import atomic_path
from textsam.metrics import dice, iou, nsd

SIDE_PX = 256
POOLED_IMAGES = 8
TOLERANCE_PX = 3.0


@dataclass(frozen=True)
class Case:
    """One image's scores, in [0, 1], and its pixel counts at 256×256."""

    stem: str
    dice_256: float
    iou_256: float
    dice_native: float
    iou_native: float
    nsd_3px: float
    overlap_256_px: int
    predicted_256_px: int
    truth_256_px: int
    seconds: float


def score(
    stem: str,
    probability: NDArray[np.float32],
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    seconds: float = 0.0,
) -> Case:
    """Compare a prediction with the truth.

    Args:
        stem: of the image.
        probability: (H, W) in [0, 1], for 256×256.
        mask: (H, W), for the image's own size.
        truth: (H, W).
        seconds: that the prediction took.
    """
    size = (SIDE_PX, SIDE_PX)
    stretched = PILImage.fromarray(np.ascontiguousarray(probability, dtype=np.float32))
    small = np.asarray(stretched.resize(size, PILImage.Resampling.BILINEAR)) > 0.5
    picture = PILImage.fromarray(truth.astype(np.uint8))
    small_truth = np.asarray(picture.resize(size, PILImage.Resampling.NEAREST)) > 0
    return Case(
        stem=stem,
        dice_256=round(dice(small, small_truth), 6),
        iou_256=round(iou(small, small_truth), 6),
        dice_native=round(dice(mask, truth), 6),
        iou_native=round(iou(mask, truth), 6),
        nsd_3px=round(nsd(mask, truth, TOLERANCE_PX), 6),
        overlap_256_px=int(np.count_nonzero(small & small_truth)),
        predicted_256_px=int(np.count_nonzero(small)),
        truth_256_px=int(np.count_nonzero(small_truth)),
        seconds=round(seconds, 4),
    )


def append_case(path: Path, case: Case) -> None:
    """Add a line to the CSV of a fold."""
    names = [field.name for field in fields(Case)]
    begun = path.exists() and path.stat().st_size > 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        if not begun:
            writer.writeheader()
        writer.writerow(asdict(case))


def write_cases(path: Path, cases: Mapping[tuple[str, int], Iterable[Case]]) -> None:
    """Write the cases of several folds into one CSV, whole or not at all.

    Args:
        path: of the CSV.
        cases: (arm, fold) -> cases; they are written in this order.
    """
    names = ["arm", "fold", *(field.name for field in fields(Case))]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for (arm, fold), own in cases.items():
            writer.writerows({"arm": arm, "fold": fold, **asdict(case)} for case in own)


def read_cases(path: Path) -> dict[str, Case]:
    """Stem -> case of what is complete in a CSV; a line that a kill cut short is removed."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return {row["stem"]: _case(row) for row in csv.DictReader(whole.splitlines())}


def read_cases_by_fold(path: Path) -> dict[tuple[str, int], list[Case]]:
    """(arm, fold) -> cases, in their order, of what `write_cases` wrote."""
    found: dict[tuple[str, int], list[Case]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault((row.pop("arm"), int(row.pop("fold"))), []).append(_case(row))
    return found


def _case(row: Mapping[str, str]) -> Case:
    kinds = {field.name: field.type for field in fields(Case)}
    make = {"str": str, "int": int, "float": float}
    return Case(**{name: make[str(kinds[name])](value) for name, value in row.items()})


def pooled(cases: Sequence[Case]) -> tuple[float, float]:
    """Dice and IoU as the published code means them, of cases in the split's order."""
    dices, ious, counts = [], [], []
    for start in range(0, len(cases), POOLED_IMAGES):
        part = cases[start : start + POOLED_IMAGES]
        overlap = sum(case.overlap_256_px for case in part)
        total = sum(case.predicted_256_px + case.truth_256_px for case in part)
        dices.append(2 * overlap / total if total else 1.0)
        ious.append(overlap / (total - overlap) if total else 1.0)
        counts.append(len(part))
    return (
        statistics.fmean(dices, weights=counts),
        statistics.fmean(ious, weights=counts),
    )


def fold_figures(cases: Sequence[Case]) -> dict[str, Any]:
    """A fold's figures in percent: means over its images, and the pooled ones."""

    def mean(name: str) -> float:
        return _percent(statistics.fmean(getattr(case, name) for case in cases))

    dice_pooled, iou_pooled = pooled(cases)
    names = ("dice_256", "iou_256", "dice_native", "iou_native", "nsd_3px")
    return {
        "n": len(cases),
        **{name: mean(name) for name in names},
        "dice_256_pooled": _percent(dice_pooled),
        "iou_256_pooled": _percent(iou_pooled),
        "missed": sum(case.predicted_256_px == 0 for case in cases),
    }


def over_folds(folds: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """NAME_mean and NAME_std over folds; the deviation divides by their number, None for one."""
    rows = list(folds)
    figures: dict[str, float | None] = {}
    for name in (
        "dice_256",
        "iou_256",
        "dice_256_pooled",
        "iou_256_pooled",
        "dice_native",
        "iou_native",
        "nsd_3px",
    ):
        values = [row[name] for row in rows]
        figures[f"{name}_mean"] = round(statistics.fmean(values), 4) if values else None
        figures[f"{name}_std"] = round(statistics.pstdev(values), 4) if len(values) > 1 else None
    return figures


def _percent(value: float) -> float:
    return round(100 * value, 4)
