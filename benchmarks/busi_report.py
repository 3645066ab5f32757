"""The report of the BUSI benchmark: JSON and, beside it, the table with the published figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from busi_arms import VIEWS
from busi_score import Case, over_folds, read_cases_by_fold

from textsam.io.atomic import atomic_path

SOURCE = "https://github.com/FengheTan9/Medical-2D-Image-Segmentation-Benchmarks"
# Name, Dice, its deviation over the three splits, IoU, its deviation; from the README of SOURCE.
PUBLISHED: tuple[tuple[str, float, float, float, float | None], ...] = (
    ("SwinUnet", 65.46, 1.91, 54.11, 2.29),
    ("MedT", 73.37, 1.63, 63.36, 1.56),
    ("UNeXt", 74.16, 2.84, 65.04, 2.71),
    ("Attention U-Net", 76.88, 3.50, 68.55, 3.22),
    ("U-Net3+", 76.88, 3.68, 68.38, 3.35),
    ("U-Net", 76.97, 3.10, 68.61, 2.86),
    ("U-Net++", 78.06, 3.25, 69.49, 2.94),
    ("CMU-Net", 79.49, 2.92, 71.42, 2.65),
    ("TransUnet", 79.85, 2.59, 71.39, 2.37),
    ("CMUNeXt", 79.86, 2.58, 71.56, 2.43),
    ("Mobile U-ViT", 81.18, 3.05, 72.88, None),
)
TITLES = {
    "text": 'TextSAM `lite`, asked "tumor"',
    "further": "the same, trained on (`configs/busi-further.yaml`)",
    "averaged": f"`text`, mean of six views (`--views {VIEWS}`)",
    "no-text": "the same backbone, trained alike, asked nothing",
    "unet": "MONAI U-Net, trained by this script",
    "box": "LiteMedSAM, given the box of the truth (not comparable)",
}
NOTES = f"""\
How to read it:

- Published figures are those of [{SOURCE.rsplit("/", 1)[-1]}]({SOURCE}), on the same
  three splits (452 images to train, 195 to test). Its code stretches images to 256×256 and keeps
  the epoch that is best **on the test images**. Here nothing is chosen on test images: weights are
  those at the end of the schedule (of the U-Net the best on a tenth of the training images), and
  such a tenth chooses the refinement.
- Published networks look at an image once, as `text` and `further` do; `averaged` looks six times.
  Which six was chosen once, on the validation images of all three folds together; as the folds
  overlap, 83 of these 158 images are test images of another fold.
- Published figures stand beside our means over images, though the code published today counts the
  pixels of a batch of test images together before it divides (of eight, with its own command).
  They cannot come from that: between the mean IoU and the IoU that the mean Dice would have if all
  images were alike, D / (2 − D), lie 4.6 to 6.1 points in the published rows,
  {{gaps}}. So they are means over single images, as the
  older code of [CMUNeXt](https://github.com/FengheTan9/CMUNeXt/blob/main/main.py) takes them, in
  batches of one. "Pooled" is what today's code would say of our masks.
- Every arm sees the image with its longer side at 256 px at most (`text`, `further` and `no-text`:
  at the `side_px` of their configuration; `averaged`: there and at 112 and 224 px, each also
  mirrored, a choice made on validation images by benchmarks/busi_views.py); its answer is
  stretched to 256×256 and compared with the truth stretched likewise. "Native" is at the image's
  own size.
- **LiteMedSAM's pretraining (MedSAM's collection of public data) may have included BUSI images,
  test images of these folds among them.** All rows of this benchmark but the U-Net share that
  advantage; published networks do not have it.{{word}}
- Fold 2 leaks a little, as published: its test image benign-433 has exactly the pixels of its
  training image malignant-145.
- The row with a box is told by the truth where the tumour is; it says what the backbone can draw.
- ± is over folds, divided by their number. NSD is on 2-D contours, tolerance 3 px at native size.
"""


def write_report(out: Path, results: Mapping[str, Sequence[dict[str, Any]]], facts: Any) -> None:
    """Write `out` and the Markdown beside it.

    Args:
        out: path that ends in .json.
        results: arm -> finished folds, as in the JSON.
        facts: what else the JSON says: command, seed, date, machine.
    """
    arms = {
        arm: {"folds": list(folds), **over_folds(folds)} for arm, folds in results.items() if folds
    }
    text = arms.get("text", {"folds": [], **over_folds(())})
    content = {
        "benchmark": "BUSI, the three published folds",
        "units": "percent",
        "protocol": (
            "longer side of the image at the side_px of its configuration (box, unet: 256 px); "
            "answer and truth stretched to 256x256; means over test images, then over folds; "
            "*_pooled counts eight images together"
        ),
        **facts,
        **text,
        "minutes": round(sum(row["minutes"] for arm in arms.values() for row in arm["folds"]), 1),
        "arms": arms,
        "published": [
            {"name": name, "dice_mean": d, "dice_std": ds, "iou_mean": i, "iou_std": is_}
            for name, d, ds, i, is_ in PUBLISHED
        ],
        "published_source": SOURCE,
    }
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    with atomic_path(out.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(content), "utf-8")


def cases_path_of(out: Path) -> Path:
    """Where the cases of a report are."""
    return out.with_name(f"{out.stem}-cases.csv")


def read_report(out: Path) -> Iterator[tuple[str, dict[str, Any], list[Case]]]:
    """(arm, figures of a fold, its cases in the split's order) of a report written before."""
    cases = read_cases_by_fold(cases_path_of(out))
    for arm, own in json.loads(out.read_text(encoding="utf-8"))["arms"].items():
        for row in own["folds"]:
            yield arm, row, cases[arm, row["fold"]]


def markdown(content: Mapping[str, Any]) -> str:
    """The table, the folds and the notes."""
    head = ["", "Dice", "IoU", "Dice, native", "NSD 3 px, native", "Dice, pooled", "IoU, pooled"]
    lines = ["# BUSI, three published folds", "", "Figures in percent.", ""]
    lines.append(f"| {' | '.join(head)} |")
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for name, dice, dice_std, iou, iou_std in PUBLISHED:
        cells = [_spread(dice, dice_std), _spread(iou, iou_std), "–", "–", "–", "–"]
        lines.append(f"| {name} (published) | {' | '.join(cells)} |")
    names = ("dice_256", "iou_256", "dice_native", "nsd_3px", "dice_256_pooled", "iou_256_pooled")
    for arm, title in TITLES.items():
        if arm in content["arms"]:
            own = content["arms"][arm]
            cells = [_spread(own[f"{name}_mean"], own[f"{name}_std"]) for name in names]
            shown = f"**{title}**" if arm == "text" else title
            lines.append(f"| {shown}{_folds(own['folds'])} | {' | '.join(cells)} |")
    lines += [
        "",
        "| arm | fold | n | Dice | IoU | Dice, native | NSD | missed | epochs | passes |",
    ]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for arm, own in content["arms"].items():
        for row in own["folds"]:
            figures = [f"{row[n]:.2f}" for n in ("dice_256", "iou_256", "dice_native", "nsd_3px")]
            last = [row["missed"], _or_dash(row["epochs"]), _or_dash(row["refine"])]
            cells = [arm, row["fold"], row["n"], *figures, *last]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    made = f"`{content['command']}`, seed {content['seed']}, {content['machine']}, "
    lines += ["", f"{made}{content['date']}, {content['minutes']} minutes.", "", _notes(content)]
    return "\n".join(lines)


def _notes(content: Mapping[str, Any]) -> str:
    """How to read the arms there are."""
    shown = "text" if "text" in content["arms"] else next(iter(content["arms"]))
    own = content["arms"][shown]
    gaps = " and ".join(
        f"{_gap(own[f'dice_256{kind}_mean'], own[f'iou_256{kind}_mean']):.1f} in {words}"
        for kind, words in (("", "ours"), ("_pooled", "ours when pooled"))
    )
    word = ""
    if {"text", "no-text"} <= content["arms"].keys():
        word = " What the word adds\n  is the difference between the rows with and without it."
    return NOTES.format(gaps=gaps, word=word)


def _gap(dice: float, iou: float) -> float:
    """Percent by which a mean IoU exceeds the IoU that belongs to a mean Dice."""
    return iou - 100 * dice / (200 - dice)


def _spread(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _folds(rows: Sequence[Mapping[str, Any]]) -> str:
    numbers = [str(row["fold"]) for row in rows]
    if len(numbers) == 3:
        return ""
    return f", fold{'s' if len(numbers) > 1 else ''} {', '.join(numbers)} only"


def _or_dash(value: object) -> str:
    return "–" if value is None else f"{value}"
