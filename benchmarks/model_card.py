"""Write the model card of a shipped adapter from its own files and an evaluation's summary.

    python benchmarks/model_card.py weights/lite-generalist benchmarks/results/lite-generalist

The first folder holds `adapter.json` and `log.csv`, the second `summary.json` of

    textsam evaluate data --adapter weights/lite-generalist -o FOLDER --set … (each test split)

No number of the card is written by hand; `notes.md` beside the adapter, if there is one, is put in
as it stands for what numbers do not say.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any


def main() -> None:
    """Read, compose, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("evaluation", type=Path)
    arguments = parser.parse_args()
    config = json.loads((arguments.adapter / "adapter.json").read_text(encoding="utf-8"))
    summary = json.loads((arguments.evaluation / "summary.json").read_text(encoding="utf-8"))
    with (arguments.adapter / "log.csv").open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    notes = arguments.adapter / "notes.md"
    parts = [
        f"# {config['name']}",
        _what(config, arguments.adapter),
        "## Results on test images",
        _results(summary, arguments),
        "## How it was made",
        _recipe(config, log),
        "## Data and terms",
        _data(config),
        notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    (arguments.adapter / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote {arguments.adapter / 'README.md'}")


def _what(config: dict[str, Any], folder: Path) -> str:
    size = (folder / "adapter.safetensors").stat().st_size / 1e6
    return (
        f"An adapter for the preset `{config['preset']}` ({size:.1f} MB, half precision). It knows "
        f"{', '.join(config['prompts'])}. For research; not a medical device."
    )


def _percent(spread: dict[str, float]) -> str:
    return f"{100 * spread['mean']:.1f} ± {100 * spread['std']:.1f}"


def _results(summary: dict[str, Any], arguments: argparse.Namespace) -> str:
    rows = [
        "| set | concept | n | Dice | median | NSD 3 px | missed |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {r['dataset']} | {r['concept']} | {r['n']} | {_percent(r['dice'])} "
        f"| {100 * r['dice']['median']:.1f} | {_percent(r['nsd_3px'])} | {r['missed']} |"
        for r in summary["concepts"]
    ]
    absent = ["| set | asked for something that | n | answered with a mask |", "|---|---|---|---|"]
    reasons = {
        "absent_annotated": "the annotation says is absent",
        "absent_modality": "this kind of image cannot show",
    }
    for r in [*summary["absences"], *summary["all_absences"]]:
        rate = f"{r['false_positives']} ({100 * r['false_positive_rate']:.1f} %)"
        absent.append(f"| {r['dataset'] or '**all**'} | {reasons[r['kind']]} | {r['n']} | {rate} |")
    settings, machine = summary["settings"], summary["machine"]
    seconds = summary["seconds_per_image"]["median"]
    where = ", ".join(str(value) for value in machine.values())
    return "\n".join(
        [
            "Text alone, native resolution, mean ± standard deviation over images, times 100. A",
            "missed object counts as 0. NSD is on the 2-D contour.",
            "",
            *rows,
            "",
            *absent,
            "",
            "Refinement passes: "
            + (
                "what the adapter asks for"
                if settings["refine"] is None
                else str(settings["refine"])
            )
            + f"; absent concepts per image: {settings['negatives']}; seed {settings['seed']}; "
            f"{seconds:.2f} s per image (median) on {where}; {summary['date'][:10]}. Every case is "
            f"in `{arguments.evaluation.as_posix()}/cases.csv`.",
        ]
    )


def _recipe(config: dict[str, Any], log: list[dict[str, str]]) -> str:
    training = config["training"]
    calibration = training.get("calibration")
    first = training.get("continued_from")
    made = (f"Begun from {first}; then " if first else "") + (
        f"`textsam train configs/{config['name']}.yaml`, seed {training['config']['seed']}: best "
        f"of {training['total_steps']} steps at step {training['step']}, chosen on validation "
        "images. `log.csv` has every step."
    )
    lines = [
        made,
        "",
        "| step | validation loss | mean Dice | masks where nothing is |",
        "|---|---|---|---|",
    ]
    values: dict[int, dict[str, float]] = {}
    for row in log:
        if row["name"].startswith("val_"):
            values.setdefault(int(row["step"]), {})[row["name"]] = float(row["value"])
    for step, found in sorted(values.items()):
        lines.append(
            f"| {step} | {found['val_loss']:.3f} | {found['val_dice']:.3f} "
            f"| {100 * found['val_false_positive_rate']:.0f} % |"
        )
    if calibration:
        chosen = (
            "`textsam calibrate` then chose, on the same validation images, refinement "
            f"({calibration['refine']}, exceptions: {calibration['refine_for'] or 'none'}) and "
            f"the score from which something counts as found ({calibration['found_threshold']}): "
            f"{100 * calibration['found_rate']:.1f} % of {calibration['n_present']} present things "
            f"were found, {100 * calibration['empty_rate']:.1f} % of {calibration['n_absent']} "
            "absent ones came back empty."
        )
        lines += ["", chosen]
    return "\n".join(lines)


def _data(config: dict[str, Any]) -> str:
    sets = [
        f"- `{s['set']}` {s['split']}" + (f", names in {s['prefix']}*" if s["prefix"] else "")
        for s in config["training"]["data"]["train"]
    ]
    return "\n".join(["Trained on:", "", *sets, "", f"Terms: {config['terms']}."])


if __name__ == "__main__":
    main()
