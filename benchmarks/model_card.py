"""Write the model card of a shipped adapter from its own files and its evaluations.

    python benchmarks/model_card.py weights/generalist benchmarks/results/generalist

The first folder holds `adapter.json` and `log.csv`, the second what `benchmarks/adapters.py` makes:
`summary.json` and `worst.png` of `textsam evaluate`, `faithfulness/` of `textsam evaluate
--faithfulness`, and `beside.json`. A part that is not there is named as missing in the card.

No number of the card is written by hand; `notes.md` beside the adapter, if there is one, is put in
as it stands for what numbers do not say.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from curves import draw_curves, read_curves
from PIL import Image
from scipy.stats import binomtest

from textsam.adapters import AdapterConfig, read_adapter_config


def main() -> None:
    """Read, compose, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument(
        "--no-pictures", action="store_true", help="of test images whose terms do not allow it"
    )
    arguments = parser.parse_args()
    config = json.loads((arguments.adapter / "adapter.json").read_text(encoding="utf-8"))
    summary = json.loads((arguments.evaluation / "summary.json").read_text(encoding="utf-8"))
    _refuse_others(config, summary, arguments)
    notes = arguments.adapter / "notes.md"
    parts = [
        f"# {config['name']}",
        _what(config, arguments.adapter),
        "## Results on test images",
        _results(summary, arguments),
        "## Whether the word decides",
        _faithfulness(arguments.evaluation / "faithfulness"),
        _beside(arguments.evaluation / "beside.json"),
        _failures(arguments),
        "## How it was made",
        _recipe(config, read_curves(arguments.adapter / "log.csv")),
        _curves(arguments.adapter),
        "## Data and terms",
        _data(config),
        notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    (arguments.adapter / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote {arguments.adapter / 'README.md'}")


def _refuse_others(
    config: dict[str, Any], summary: dict[str, Any], arguments: argparse.Namespace
) -> None:
    """Stop where figures are of another adapter, or of this one as it was calibrated before.

    Faithfulness records all that answers depend on; what the others record of it is a digest, which
    is compared with that of faithfulness.
    """
    faithfulness = _json(arguments.evaluation / "faithfulness" / "faithfulness.json")
    beside = _json(arguments.evaluation / "beside.json")
    made = {"summary.json": {"identity": None, **summary["settings"]}}
    if beside is not None:
        made["beside.json"] = beside
    measured: dict[str, Any] | None = None
    if faithfulness is not None:
        measured = made["faithfulness/faithfulness.json"] = faithfulness["settings"]
        now = read_adapter_config(arguments.adapter).model_copy(
            update={"training": {}, "terms": ""}
        )
        as_now = AdapterConfig.model_validate(measured["config"]) == now

    def is_other(facts: dict[str, Any]) -> bool:
        if facts["fingerprint"] != config["tensors_sha256"]:
            return True
        if measured is None or "identity" not in facts:
            return False
        alike = facts["identity"] == measured["identity"]
        return not alike if as_now else alike

    others = [name for name, facts in made.items() if is_other(facts)]
    if summary["settings"]["prompts"] != config["prompts"]:
        others.append("summary.json")
    if others:
        raise SystemExit(
            f"{arguments.evaluation}: {', '.join(dict.fromkeys(others))}: not of the adapter in "
            f"{arguments.adapter} as it is now; evaluate it again (benchmarks/adapters.py)"
        )


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


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _faithfulness(folder: Path) -> str:
    found = _json(folder / "faithfulness.json")
    if found is None:
        return f"Not measured: `{folder.as_posix()}` has no results."
    how = "[metrics](../../docs/metrics.md#faithfulness) says what is counted how."
    lines = [
        f"`textsam evaluate --faithfulness` on {found['images']} test images; {how}",
        "",
        "| | |",
        "|---|---|",
    ]
    loss = next((w for w in found["wordings"] if w["wording"] is None), None)
    if loss is not None:
        asked = (
            f"Dice points lost by other wordings ({loss['texts']} pairs of set and text), as users "
            "ask: of the lexicon, which knows them all"
        )
        lines.append(f"| {asked} | {loss['product_mean']:.2f}, worst {loss['product_worst']:.2f} |")
        lines.append(
            "| the same, past the lexicon: what the network itself makes of them "
            f"| {loss['network_mean']:.2f}, worst {loss['network_worst']:.2f} "
            f"({loss['worst_text']}) |"
        )
    names = {
        "absent_modality": "things that this kind of image cannot show: empty",
        "absent_annotated": "things that the annotation says are absent: empty",
        "distractor": "things outside the vocabulary: empty",
    }
    for rate in found["empty"]:
        where = "" if rate["dataset"] is None else f", {rate['dataset']}"
        if rate["dataset"] is None or rate["kind"] == "absent_annotated":
            told = _share(rate["rate"], rate["n"])
            if rate["dataset"] is None and rate["rate"] < 1:
                told += (
                    f"; each pair of set and concept alike: {100 * rate['group_mean']:.1f} %, "
                    f"the worst {100 * rate['worst']:.0f} % ({rate['worst_group']})"
                )
            lines.append(f"| {names[rate['kind']]}{where} | {told} |")
    for name, title in (
        ("balanced", "expected calibration error of the score, present and absent balanced"),
        ("present", "the same, present things alone"),
        ("found", "the same, answers with a mask alone"),
    ):
        own = found["score"][name]
        if own is not None:
            lines.append(f"| {title} | {own['ece']:.3f} |")
    threshold = found["threshold"]
    if threshold is not None:
        lines.append(
            f"| found from score {found['found_threshold']:.3f} "
            f"| {100 * threshold['found_rate']:.1f} % of present things are found; mean Dice "
            f"{100 * threshold['dice']:.1f}, without a threshold "
            f"{100 * threshold['dice_without']:.1f} |"
        )
    lines += ["", f"![reliability]({_to(folder / 'reliability.png')})"]
    if found["confusion"]:
        lines += ["", "Several classes in one image: mean Dice of the answer (rows: asked) with"]
        lines += ["each annotated class, times 100.", ""]
    for dataset in dict.fromkeys(row["dataset"] for row in found["confusion"]):
        rows = [row for row in found["confusion"] if row["dataset"] == dataset]
        classes = list(dict.fromkeys(c["annotated"] for row in rows for c in row["cells"]))
        lines += [f"| {dataset} | " + " | ".join(classes) + " |", "|---" * (1 + len(classes)) + "|"]
        for row in rows:
            dice = {cell["annotated"]: 100 * cell["dice"] for cell in row["cells"]}
            cells = (f"{dice[c]:.1f}" if c in dice else "–" for c in classes)
            lines.append(f"| {row['asked']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _share(rate: float, n: int) -> str:
    """A share, and where few say it Wilson's interval of 95 %."""
    told = f"{100 * rate:.1f} % of {n}"
    if n >= 100:
        return told
    sure = binomtest(round(rate * n), n).proportion_ci(0.95, "wilson")
    return f"{told} (95 % interval {100 * sure.low:.0f}–{100 * sure.high:.0f} %)"


def _to(path: Path) -> str:
    """As a card in weights/NAME refers to it."""
    return Path(os.path.relpath(path, Path("weights") / "NAME")).as_posix()


def _beside(path: Path) -> str:
    found = _json(path)
    if found is None:
        return f"Images without the thing asked for: not measured, no `{path.as_posix()}`."
    told = []
    for how, what in (
        ("part", "Parts of test images cut out beside the thing asked for"),
        ("covered", "Whole test images in which it is covered by what lies elsewhere in them"),
    ):
        rates = ", ".join(
            f"{r['set']} ({r['concept']}) {_share(r['empty_rate'], r['n'])}"
            for r in found["rates"]
            if r.get("how", "part") == how  # files of before have parts alone
        )
        told.append(f"{what}, that come back empty (`benchmarks/beside.py`): {rates or 'none'}.")
    return "\n\n".join(told)


def _failures(arguments: argparse.Namespace) -> str:
    sheet = arguments.evaluation / "worst.png"
    if arguments.no_pictures:
        return (
            "Failures are not shown: the terms of some of these images do not allow it. "
            f"The evaluation draws them into `{sheet.as_posix()}`."
        )
    smaller = sheet.with_name("worst.jpg")
    if sheet.is_file():
        with Image.open(sheet) as picture:
            small = picture.convert("RGB")
        small.thumbnail((1400, 2400))
        small.save(smaller, quality=82)
    if not smaller.is_file():
        return f"No pictures of failures: `{sheet.as_posix()}` is missing."
    title = "The worst cases of each set (truth green, answer orange):"
    return f"{title}\n\n![worst cases]({_to(smaller)})"


def _curves(adapter: Path) -> str:
    draw_curves(adapter / "log.csv").save(adapter / "curves.png", optimize=True)
    return "![training curves](curves.png)"


def _shares(averaged: list[dict[str, Any]]) -> str:
    """Of what, in words; of a part that is itself an average of this adapter's runs, that too."""
    parts = []
    for number, one in enumerate(averaged):
        inner = one.get("averaged")
        # The first is what the training goes on from: its card or configuration tells of it.
        told = f" ({_shares(inner)})" if inner and number else ""
        parts.append(f"{one['weight']:.3g} of {one['name']}{told}")
    return " and ".join(parts)


def _recipe(config: dict[str, Any], curves: dict[str, dict[int, float]]) -> str:
    training = config["training"]
    calibration = training.get("calibration")
    first = training.get("continued_from")
    losses = curves.get("val_loss", {})
    command = f"`textsam train configs/{config['name']}.yaml`, seed {training['config']['seed']}"
    step, total = training["step"], training["total_steps"]
    how = f"best of {total} steps at step {step}, chosen on validation images."
    if training["config"].get("select") == "last":
        how = f"{step} of {total} steps; the last are taken."
    lines = [
        (f"Begun from {first}; then " if first else "")
        + (
            f"{command}: {how}"
            if losses
            else f"{command}: stopped after {step} of {total} steps, before any validation."
        )
        + " `log.csv` has every step."
    ]
    if losses:
        lines += [
            "",
            "| step | validation loss | mean Dice | masks where nothing is |",
            "|---|---|---|---|",
        ]
    for step, loss in sorted(losses.items()):
        dice, answered = (
            curves.get(name, {}).get(step) for name in ("val_dice", "val_false_positive_rate")
        )
        told = "–" if dice is None else f"{dice:.3f}"
        rate = "–" if answered is None else f"{100 * answered:.0f} %"
        lines.append(f"| {step} | {loss:.3f} | {told} | {rate} |")
    if averaged := training.get("averaged"):
        mean = f"`textsam average` then took the mean: {_shares(averaged)}"
        lines += ["", f"{mean}, the last being this run's."]
    if kinds := config.get("kinds"):
        told = ", ".join(kinds["names"])
        lines += ["", f"From training images it learned to tell kinds of image apart: {told}."]
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
    data = config["training"]["data"]
    train = [_selection(s) for s in data["train"]]
    chosen = [_selection(s) for s in data["val"]]
    lines = ["Trained on:", "", *train, "", "Chosen on:", "", *chosen, ""]
    return "\n".join([*lines, f"Terms: {config['terms']}."])


def _selection(selection: dict[str, Any]) -> str:
    """One line of what a set gave, by the range of the hashes of its names among others."""
    line = f"- `{selection['set']}` {selection['split']}"
    low, high = selection["part"]
    if (low, high) != (0, 1):
        line += f", hashes of names in {low:g}–{high:g}"
    if selection["prefix"]:
        line += f", names in {selection['prefix']}*"
    if numbers := selection.get("numbers"):  # adapters of before have none
        line += f", {numbers[0]} to {numbers[1]}"
    if selection["limit"]:
        line += f", {selection['limit']} of them"
    return line if selection["weight"] == 1 else f"{line}, weight {selection['weight']:g}"


if __name__ == "__main__":
    main()
