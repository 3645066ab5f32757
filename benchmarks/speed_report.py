"""Samples of the speed benchmark to rows, JSON and a Markdown table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FIELDS", "TARGETS", "Target", "markdown", "read", "rows_of", "spread", "write"]

Row = dict[str, Any]
Samples = Mapping[str, Any]

# Every row has these; None where it does not apply.
FIELDS = (
    "case",
    "name",
    "ours_s",
    "authors_s",
    "ratio",
    "peak_mib_ours",
    "peak_mib_authors",
    "loaded_mib_ours",
    "loaded_mib_authors",
    "ours_min_s",
    "ours_q25_s",
    "ours_q75_s",
    "ours_n",
    "authors_min_s",
    "authors_q25_s",
    "authors_q75_s",
    "authors_n",
    "agreement",
    "target",
    "met",
    "notes",
)

INTRODUCTION = (
    "Made by `python benchmarks/speed.py`; the numbers are in the JSON file beside this one, the "
    "single samples in `….samples.json`. Seconds are medians with quartiles. *Theirs* is the "
    "authors' procedure on the same weights (`benchmarks/authors_procedure.py`)."
)


@dataclass(frozen=True)
class Target:
    """A promise about a row and how to see whether it is kept."""

    text: str
    kept: Callable[[Row], bool | None]


def _faster(ratio: float, iou: float) -> Callable[[Row], bool]:
    return lambda row: row["ratio"] >= ratio and row["agreement"]["iou"] >= iou


TARGETS: Mapping[str, Target] = {
    "a vit_b float32": Target("≥ 3× the authors' speed, IoU ≥ 0.999", _faster(3, 0.999)),
    "a vit_b bfloat16": Target("≥ 5× the authors' speed, IoU ≥ 0.99", _faster(5, 0.99)),
    "a lite bfloat16 against plain": Target(
        "≤ 0.45 of the plain float32 modules' time", lambda row: row["ratio"] >= 1 / 0.45
    ),
    "b": Target("≤ 5 % of the first prompt", lambda row: row["share_of_first"] <= 0.05),
    "c vit_b bfloat16": Target(
        "≥ 2× the authors' speed, peak memory ≤ 50 %",
        lambda row: row["ratio"] >= 2 and row["peak_mib_ours"] <= 0.5 * row["peak_mib_authors"],
    ),
    "d lite": Target("≤ 6 s besides the encoder", lambda row: row["ours_s"] <= 6),
    "e": Target(
        "memory flat: ≤ 5 MiB more per 100 images in the second half",
        lambda row: None if row["images"] < 100 else row["growth_mib_per_100"] <= 5,
    ),
}


def spread(seconds: Sequence[float]) -> dict[str, float | int]:
    """Median, minimum, quartiles and count."""
    ordered = sorted(seconds)
    low = high = ordered[0]
    if len(ordered) > 1:
        low, _, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return {
        "median": round(statistics.median(ordered), 4),
        "min": round(ordered[0], 4),
        "q25": round(low, 4),
        "q75": round(high, 4),
        "n": len(ordered),
    }


def _row(case: str, name: str, ours: Samples, authors: Samples | None = None) -> Row:
    row: Row = dict.fromkeys(FIELDS)
    row |= {"case": case, "name": name, "notes": ""}
    for who, samples in (("ours", ours), ("authors", authors)):
        if not samples or not samples.get("seconds"):
            continue
        values = spread(samples["seconds"])
        row[f"{who}_s"] = values["median"]
        row |= {f"{who}_{key}_s": values[key] for key in ("min", "q25", "q75")}
        row[f"{who}_n"] = values["n"]
        for kind in ("peak", "loaded"):
            numbers = [value for value in samples.get(f"{kind}_mib", []) if value is not None]
            row[f"{kind}_mib_{who}"] = round(max(numbers), 1) if numbers else None
    if row["ours_s"] and row["authors_s"]:
        row["ratio"] = round(row["authors_s"] / row["ours_s"], 2)
    return row


def _judge(row: Row, target: str) -> Row:
    if target in TARGETS:
        row["target"] = TARGETS[target].text
        try:
            row["met"] = TARGETS[target].kept(row)
        except TypeError:  # something the target needs was not measured
            row["met"] = None
    return row


def rows_of(samples: Mapping[str, Mapping[str, Samples]]) -> list[Row]:
    """Rows from samples: group ("a vit_b") -> contender ("ours float32") -> lists of numbers."""
    rows: list[Row] = []
    for group in sorted(samples):
        case, _, name = group.partition(" ")
        contenders = samples[group]
        rows += {
            "a": _mask_rows,
            "b": _prompt_rows,
            "c": _training_rows,
            "d": _cold_rows,
            "e": _folder_rows,
            "g": _gpu_rows,
        }[case](name, contenders)
    first = {row["name"]: row for row in rows if row["case"] == "a"}
    for row in rows:
        if row["case"] == "b" and row["refine"] == 2 and row["ours_s"]:
            theirs = first.get(f"{row['preset']} {row['precision']}", {}).get("authors_s")
            if theirs:
                row["authors_s"] = theirs
                row["ratio"] = round(theirs / row["ours_s"], 1)
    return rows


def _mask_rows(preset: str, contenders: Mapping[str, Samples]) -> list[Row]:
    rows = []
    for who, theirs, suffix in (
        ("ours float32", "authors", ""),
        ("ours bfloat16", "authors", ""),
        ("ours float32", "plain", " against plain"),
        ("ours bfloat16", "plain", " against plain"),
    ):
        if who not in contenders or theirs not in contenders:
            continue
        name = f"{preset} {who.removeprefix('ours ')}{suffix}"
        row = _row("a", name, contenders[who], contenders[theirs])
        row["agreement"] = contenders[who].get(f"agreement with {theirs}")
        row["notes"] = "image to mask, two refinements"
        if suffix:
            row["notes"] += "; authors_s is the packages' modules with the image encoded once"
        rows.append(_judge(row, f"a {name}"))
    return rows


def _prompt_rows(name: str, contenders: Mapping[str, Samples]) -> list[Row]:
    preset = name
    rows = []
    for who, samples in contenders.items():
        _, precision, refine, kind = who.split(" ", 3)
        row = _row("b", f"{preset} {precision}, {refine[-1]} refinements, {kind} word", samples)
        row |= {"preset": preset, "precision": precision, "refine": int(refine[-1])}
        first = statistics.median(samples["first"])
        row["first_prompt_s"] = round(first, 4)
        row["share_of_first"] = round(row["ours_s"] / first, 4)
        row["notes"] = "each further word on an encoded image; theirs encodes it again"
        rows.append(_judge(row, "b"))
    return rows


def _training_rows(preset: str, contenders: Mapping[str, Samples]) -> list[Row]:
    rows = []
    for who in ("ours float32", "ours bfloat16"):
        if who not in contenders:
            continue
        name = f"{preset} {who.removeprefix('ours ')}"
        row = _row("c", name, contenders[who], contenders.get("authors"))
        row["losses_ours"] = contenders[who].get("loss")
        row["losses_authors"] = contenders.get("authors", {}).get("loss")
        row["notes"] = "one step, batch 1: forward, loss, backward, optimiser"
        rows.append(_judge(row, f"c {name}"))
    return rows


def _cold_rows(name: str, contenders: Mapping[str, Samples]) -> list[Row]:
    rows = []
    for who, samples in contenders.items():
        row = _row("d", f"{name} {who.removeprefix('ours ')}", samples)
        for stage, values in samples["stages"].items():
            row[f"{stage}_s"] = round(statistics.median(values), 4)
        row["notes"] = (
            "a new process from start to first mask, files in the system's cache; ours_s is all "
            "but the image encoder"
        )
        rows.append(_judge(row, f"d {name}"))
    return rows


def _folder_rows(name: str, contenders: Mapping[str, Samples]) -> list[Row]:
    rows = []
    preset, _, count = name.partition(" ")
    for who, samples in contenders.items():
        row = _row("e", f"{preset} {who.removeprefix('ours ')}, {int(count)} images", samples)
        row["images"] = samples["done"][-1]
        row["failed"] = samples["failed"][-1]
        row["images_per_s"] = round(1 / row["ours_s"], 3)
        row["memory_mib"] = [round(value, 1) for value in samples["memory_mib"][-1] if value]
        row["growth_mib_per_100"] = growth(row["memory_mib"], row["images"])
        row["notes"] = "ours_s is per image"
        rows.append(_judge(row, "e"))
    return rows


def _gpu_rows(name: str, contenders: Mapping[str, Samples]) -> list[Row]:
    rows = []
    for who, samples in contenders.items():
        row = _row("g", f"{name} encoder, {who}", samples)
        for key in ("images_per_s", "tflop_per_image", "matmul_tflops", "share_of_matmul"):
            row[key] = round(samples[key][-1], 4)
        row["notes"] = "image encoder in bfloat16; the share is of the rate of a large product"
        rows.append(row)
    return rows


def growth(memory_mib: Sequence[float], images: int) -> float | None:
    """MiB per 100 images over the second half of a series, by least squares."""
    half = memory_mib[len(memory_mib) // 2 :]
    if len(half) < 3:
        return None
    step = images / len(memory_mib)
    positions = [step * index for index in range(len(half))]
    return round(100 * statistics.linear_regression(positions, half).slope, 2)


def read(path: Path) -> dict[str, Any]:
    """What earlier commands measured, or an empty record."""
    samples = samples_file(path)
    if not samples.is_file():
        return {"header": {}, "rows": [], "samples": {}}
    content: dict[str, Any] = json.loads(samples.read_text(encoding="utf-8"))
    return {**content, "rows": []}


def samples_file(path: Path) -> Path:
    """Where the single samples behind the rows in `path` lie."""
    return path.with_suffix(".samples.json")


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write the rows as a JSON list and, beside it, the samples and a Markdown table."""
    from textsam.io.atomic import atomic_path

    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in record.items() if key != "rows"}
    for target, text in (
        (path, json.dumps(record["rows"], indent=1, ensure_ascii=False) + "\n"),
        (samples_file(path), json.dumps(kept, indent=1, ensure_ascii=False) + "\n"),
        (path.with_suffix(".md"), markdown(record)),
    ):
        with atomic_path(target) as temporary:
            temporary.write_text(text, encoding="utf-8")


def markdown(record: Mapping[str, Any]) -> str:
    """A table of the rows under what was measured where."""
    header = record["header"]
    lines = [
        "# Speed",
        "",
        INTRODUCTION,
        "",
        *(f"- {key.replace('_', ' ')}: {_shown(value)}" for key, value in header.items()),
        "",
        "| case | what | ours | theirs | ratio | peak MiB, ours : theirs | more | target | kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        kept = {True: "yes", False: "**no**", None: ""}[row["met"]]
        cells = (
            row["case"],
            row["name"],
            _seconds(row, "ours"),
            _seconds(row, "authors"),
            "" if row["ratio"] is None else f"{row['ratio']:g}×",
            _memory(row),
            _more(row),
            row["target"] or "",
            kept,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(f"`{item}`" for item in value)
    return str(value)


def _seconds(row: Row, who: str) -> str:
    if row[f"{who}_s"] is None:
        return ""
    text = f"{row[f'{who}_s']:.3g} s"
    if row[f"{who}_n"]:
        text += f" ({row[f'{who}_q25_s']:.3g}–{row[f'{who}_q75_s']:.3g}, n = {row[f'{who}_n']})"
    return text


def _memory(row: Row) -> str:
    ours, theirs = row["peak_mib_ours"], row["peak_mib_authors"]
    return " : ".join(f"{value:.0f}" for value in (ours, theirs) if value is not None)


def _more(row: Row) -> str:
    parts = []
    if row["agreement"]:
        parts.append(f"IoU {row['agreement']['iou']:.5f}")
        parts.append(f"logits differ by ≤ {row['agreement']['max_logit_difference']:.2g}")
    if row["case"] == "b":
        parts.append(
            f"{100 * row['share_of_first']:.1f} % of the first ({row['first_prompt_s']} s)"
        )
    if row["case"] == "d":
        stages = ("total", "python", "import", "load", "encoder")
        parts += [f"{name} {row[f'{name}_s']:.2f} s" for name in stages]
    if row["case"] == "e":
        parts.append(f"{row['images_per_s']:g} images/s, {row['images']} images")
        parts.append(f"{row['growth_mib_per_100']} MiB per 100 images")
    if row["case"] == "g":
        parts.append(f"{row['images_per_s']:g} images/s")
        parts.append(f"{100 * row['share_of_matmul']:.0f} % of {row['matmul_tflops']:.0f} TFLOP/s")
    return ", ".join(parts)
