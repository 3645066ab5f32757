"""Learned prompt tokens and iteration under badly placed boxes, beside the paper's table.

    python benchmarks/prompt_tokens.py --data data

For each set: writes the folder of objects from the data set, trains and evaluates the cells of
`configs/methods/prompt-tokens-SET.yaml` as `textsam ablate` does, and turns its rows into arms and
shifts. Kill it, and give the command again: what is finished is skipped.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textsam.ablate.run import ablate
from textsam.data.epfl import prepare_epfl
from textsam.data.folder import samples_from_folder
from textsam.data.instances import ObjectSettings, Slice, write_objects
from textsam.data.sample import Sample, load_sample
from textsam.data.selection import Selection
from textsam.data.sets import samples_from_manifest
from textsam.errors import DataError
from textsam.evaluate.cases import read_cases
from textsam.evaluate.tables import markdown
from textsam.io.atomic import atomic_path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "methods"
ARMS = {
    "decoder": "decoder tuned",
    "embedding": "learned embedding tuned",
    "tokens": "+ new tokens",
    "settle": "+ new tokens + iteration",
    "unguarded": "+ new tokens + iteration, without the guard",
}
SHIFTS = (0, 10, 20, 30, 40)
# Funai et al., tables 1 and 2: mIoU of SAM, on the sets named in `PAPER_SETS`.
PAPER: dict[str, dict[str, tuple[float, ...]]] = {
    "isbi": {
        "decoder": (0.822, 0.810, 0.774, 0.699, 0.604),
        "embedding": (0.825, 0.810, 0.777, 0.702, 0.606),
        "tokens": (0.830, 0.820, 0.785, 0.714, 0.622),
        "unguarded": (0.830, 0.817, 0.784, 0.727, 0.650),
    },
    "epfl": {
        "decoder": (0.885, 0.875, 0.844, 0.772, 0.673),
        "embedding": (0.885, 0.874, 0.844, 0.772, 0.673),
        "tokens": (0.884, 0.874, 0.845, 0.779, 0.683),
        "unguarded": (0.882, 0.867, 0.855, 0.824, 0.762),
    },
}
NOTES = """\
- mIoU: mean over objects of the test part, in the image's own pixels. A shift of s % moves each
  side of the truth's tight box by s % of its width or height, inwards or outwards by a coin toss
  per side (`textsam.evaluate.geometry.shifted_box`).
- The paper's figures are of SAM at 1024 px. It does not say which objects were boxed, nor how a box
  is shifted, so compare rows and not heights.
- The paper iterates without a guard; its figures stand beside that arm.
"""


@dataclass(frozen=True)
class Source:
    """Where the objects of a set are from.

    Attributes:
        title: of the table.
        concept: what an object is.
        settings: of tiles and objects.
        note: what was decided.
    """

    title: str
    concept: str
    settings: ObjectSettings
    note: str


SOURCES = {
    "isbi": Source(
        "Cells of ISBI 2012",
        "cell",
        ObjectSettings(grid=(2, 2), min_area_px=100, most=4),
        "30 images of 512×512 px, each cut into 4 tiles: 120, of which 72 train, 24 validate and "
        "24 test. Tiles of an image stay in one part, and parts are blocks of neighbouring "
        "slices (0 to 17, 18 to 23, 24 to 29, as in `splits.json`). An object is a connected part "
        "of what is not membrane, of 100 px or more; at most 4 per tile, drawn by seed 0.",
    ),
    "vnc": Source(
        "Mitochondria of a fly's ventral nerve cord",
        "mitochondria",
        ObjectSettings(grid=(2, 2), min_area_px=200, most=4),
        "20 slices of 1024×1024 px, each cut into 4 tiles; slices 0 to 12 train, the last 4 test "
        "(`splits.json`). An object is a connected mitochondrion in a tile, of 200 px or more; at "
        "most 4 per tile, drawn by seed 0. Another set than the paper's, of the same kind.",
    ),
    "epfl": Source(
        "Mitochondria of the EPFL Electron Microscopy Dataset",
        "mitochondria",
        ObjectSettings(grid=(1, 1), min_area_px=200, most=4),
        "Training stack to train; of the testing stack the first half validates, the second tests. "
        "An object is a connected mitochondrion in a slice, of 200 px or more; at most 4 per "
        "slice, drawn by seed 0. The paper counts 173 slices.",
    ),
}


def slices_of(samples: Sequence[Sample], name: str) -> Iterator[Slice]:
    """Images of a set with the mask of all its objects."""
    for sample in samples:
        pixels, masks = load_sample(sample)
        (mask,) = masks.values()
        # ISBI annotates what lies between the cells.
        yield sample.stem, pixels, ~mask if name == "isbi" else mask


def write_folder(name: str, data: Path, work: Path, epfl: Path | None) -> None:
    """The folder of objects of a set, unless it is there.

    Raises:
        DataError: the data are not.
    """
    target = work / "data" / f"objects-{name}"
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    parts = ("train", "val", "test")
    if name == "epfl":
        if epfl is None:
            raise DataError("the set epfl needs --epfl FOLDER with its four TIFF files")
        stacks = work / "data" / "epfl"
        if not stacks.exists():
            prepare_epfl(epfl, stacks)
        samples = {part: samples_from_folder(stacks, "mitochondria", split=part) for part in parts}
    else:
        where = {"isbi": ("isbi2012", "cell membrane"), "vnc": ("vnc_em", "mitochondria")}
        known, concept = where[name]
        samples = {
            part: samples_from_manifest(data, [Selection(set=known, split=part, classes=[concept])])
            for part in parts
        }
    content = ((part, slices_of(own, name)) for part, own in samples.items())
    counts = write_objects(content, target, SOURCES[name].settings)
    print(f"{target}: {counts}", file=sys.stderr, flush=True)


def figures_of(folder: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Arm -> shift in % -> mIoU over objects and finished seeds, their number, and seeds.

    Seeds are those in the ablation's own table: others may be left of other settings.
    """
    table = folder / f"{folder.name}.csv"
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        seeds = {row["cell"]: row["seeds"].split() for row in csv.DictReader(file)}
    found: dict[str, dict[int, dict[str, float]]] = {}
    for arm in ARMS:
        for shift in SHIFTS:
            values: list[float] = []
            finished = seeds.get(f"{arm}-{shift}", [])
            for seed in finished:
                cases, _ = read_cases(folder / "cells" / f"{arm}-{shift}" / f"seed-{seed}")
                values += [case.iou for case in cases if case.iou is not None]
            if values:
                found.setdefault(arm, {})[shift] = {
                    "miou": statistics.fmean(values),
                    "objects": len(values) / len(finished),
                    "seeds": len(finished),
                }
    return found


def table_of(name: str, figures: dict[str, dict[int, dict[str, float]]]) -> str:
    """Ours and the paper's, arms by shifts."""
    rows: list[list[object]] = []
    for arm, title in ARMS.items():
        own = figures.get(arm, {})
        rows.append([title, *(f"{own[s]['miou']:.3f}" if s in own else "–" for s in SHIFTS)])
        if arm in PAPER.get(name, {}):
            rows.append([f"{title} (paper)", *(f"{v:.3f}" for v in PAPER[name][arm])])
    return markdown(["mIoU", *(f"{s} %" for s in SHIFTS)], rows, left=1)


def write_results(out: Path, work: Path, settings: str) -> str:
    """`prompt-tokens.json` and `.md` of all sets in `work` that have something finished.

    Args:
        out: folder to write into.
        work: of this command and earlier ones.
        settings: options that the command to be told ends with.

    Returns:
        The Markdown.
    """
    folders = {name: work / "ablations" / f"prompt-tokens-{name}" for name in SOURCES}
    found = {name: figures_of(folder) for name, folder in folders.items()}
    found = {name: figures for name, figures in found.items() if figures}
    if not found:
        return "nothing is finished"
    command = f"python benchmarks/prompt_tokens.py --sets {','.join(found)}"
    command += " --epfl FOLDER" if "epfl" in found else ""
    command += settings
    content: dict[str, Any] = {"command": command, "sets": {}}
    parts = ["# Prompt tokens and iteration", f"Made by `{command}`."]
    for name, figures in found.items():
        folder, source = folders[name], SOURCES[name]
        # The ablation's table ends with seeds, machine, versions and date.
        made = (folder / f"{folder.name}.md").read_text(encoding="utf-8").rstrip().split("\n\n")[-1]
        content["sets"][name] = {
            "title": source.title,
            "note": source.note,
            "made": made,
            "arms": figures,
        }
        counts = sorted({int(one["objects"]) for arm in figures.values() for one in arm.values()})
        said = " or ".join(map(str, counts))
        parts += [f"## {source.title}", f"{source.note} {said} objects are tested."]
        parts += [table_of(name, figures), made]
    parts.append(NOTES)
    text = "\n\n".join(parts)
    for suffix, written in ((".json", json.dumps(content, indent=1) + "\n"), (".md", text)):
        with atomic_path(out / f"prompt-tokens{suffix}") as temporary:
            temporary.write_text(written, encoding="utf-8")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not done yet, and write the table of all that is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="with manifest.json")
    parser.add_argument("--sets", default="isbi,vnc", help="of isbi, vnc, epfl")
    parser.add_argument("--epfl", type=Path, help="folder of the four TIFF files")
    parser.add_argument("--work", type=Path, default=Path("runs/prompt-tokens"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/methods"))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", action="append", default=[], help="as `textsam train --set`")
    options = parser.parse_args(arguments)
    names = options.sets.split(",")
    if unknown := set(names) - SOURCES.keys():
        parser.error(f"--sets {', '.join(sorted(unknown))}: choose of {', '.join(SOURCES)}")
    settings = f" --seeds {options.seeds}"
    settings += "".join(f" --set {shlex.quote(change)}" for change in options.set)
    complete = True
    for name in names:
        write_folder(name, options.data, options.work, options.epfl)
        path = CONFIGS / f"prompt-tokens-{name}.yaml"
        result = ablate(
            path,
            out=options.work / "ablations",
            seeds=[int(seed) for seed in options.seeds.split(",")],
            overrides=[
                f"data.root={options.work / 'data'}",
                f"cache={options.work / 'cache'}",
                *options.set,
            ],
        )
        complete &= result.complete
        for outcome in result.outcomes:
            if outcome.state in ("failed", "busy"):
                print(f"{outcome.cell}: {outcome.message}", file=sys.stderr)
        print(write_results(options.out, options.work, settings))
    return 0 if complete else 1


if __name__ == "__main__":
    from textsam.allocator import keep_freed_memory

    keep_freed_memory()
    sys.exit(main())
