"""Adapters on validation images, whole and as a narrower field of view would show them.

    python benchmarks/looks.py configs/generalist.yaml weights/generalist-stage9 \\
        weights/generalist --data data -o benchmarks/results/generalist/looks.md

Around every object that is in an image a square is cut out whose side is so many times the object's
longer side, where that is clearly less than the image (`textsam.data.close_crop`). The word alone
is asked, without threshold and kinds of image; nothing is chosen here. With `--set` other images
are asked, and with `--fixed` every adapter that cuts its masks (`textsam.inference.cut`) is asked
first as it is without that:

    python benchmarks/looks.py configs/generalist.yaml weights/generalist --fixed \\
        --set busi/fold1/test@0:0.3 --data data -o benchmarks/results/generalist/cut.md
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from textsam.adapters import read_adapter_config
from textsam.api import load_model
from textsam.config import read_config
from textsam.data.close_crop import close_crop
from textsam.data.named import by_prompt
from textsam.data.sample import Sample, load_sample
from textsam.data.selection import selection_of
from textsam.data.sets import samples_from_manifest
from textsam.data.sources import samples_of
from textsam.evaluate.tables import markdown
from textsam.inference.segmenter import Segmenter
from textsam.io.atomic import save_text
from textsam.metrics import dice
from textsam.progress import with_bar

FACTORS = (1.2, 1.8, 2.7)
WHOLE = "whole"

Look = tuple[str, str, NDArray[np.uint8], NDArray[np.bool_]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask all adapters the same questions and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path, help="whose validation images are asked")
    parser.add_argument("adapters", type=Path, nargs="+", help="adapter folders")
    parser.add_argument("--data", default="data", help="folder with manifest.json and splits.json")
    parser.add_argument(
        "--set", action="append", default=[], help="SET/SPLIT[@LOW:HIGH] in their place"
    )
    parser.add_argument("--fixed", action="store_true", help="also masks at a fixed threshold")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own choice")
    parser.add_argument("-o", "--out", type=Path, required=True, help="Markdown to write")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    config = read_config(options.config, [f"data.root={options.data}"])
    samples = samples_of(config.data, "val")
    if options.set:
        chosen = [selection_of(text) for text in options.set]
        samples = samples_from_manifest(options.data, chosen)
    # (set, concept) -> look -> a list of Dice for each adapter
    found: dict[tuple[str, str], dict[str, list[list[float]]]] = {}
    asked = [one for folder in options.adapters for one in open_minded(folder, options.fixed)]
    for number, segmenter in enumerate(asked):
        for place, sample in enumerate(with_bar(samples, segmenter.adapter_name, shown=True)):
            for concept, look, pixels, mask in looks(sample, segmenter.prompts, place):
                answer = segmenter.segment(pixels, concept, refine=0)
                row = found.setdefault((sample.dataset, concept), {})
                of_adapters = row.setdefault(look, [[] for _ in asked])
                of_adapters[number].append(dice(answer.mask, mask))
    shown = " ".join(folder.as_posix() for folder in options.adapters)
    command = f"python benchmarks/looks.py {options.config.as_posix()} {shown} --data data"
    command += "".join(f" --set {text}" for text in options.set)
    command += " --fixed" if options.fixed else ""
    made = (
        f"`{command}`, {os.cpu_count()} CPU cores, {platform.machine()}, "
        f"{datetime.now(UTC).date()}. Mean Dice in percent, adapter after adapter, and the number "
        "of looks; of a few it says little."
    )
    save_text(options.out, f"{made}\n\n{table(found)}\n")
    print(f"wrote {options.out}")
    return 0


def open_minded(folder: Path, fixed: bool) -> list[Segmenter]:
    """The adapter, which answers whatever its network draws; before it the same without its cut."""
    record = read_adapter_config(folder)
    segmenter = load_model(record.preset, folder, device="cpu", precision="bfloat16")
    ways = [{"cut": None}] if fixed and segmenter.config.cut is not None else []
    return [
        segmenter.with_config(
            segmenter.config.model_copy(update={"found_threshold": 0.0, "kinds": None, **way})
        )
        for way in (*ways, {})
    ]


def looks(sample: Sample, prompts: Sequence[str], seed: int) -> Iterator[Look]:
    """(concept, name of the look, pixels, mask): the whole image, then closer and closer ones."""
    image, masks = load_sample(sample)
    for concept, mask in by_prompt(masks, prompts).items():
        if concept not in prompts or not mask.any():
            continue
        yield concept, WHOLE, image, mask
        for factor in FACTORS:
            rng = np.random.default_rng((seed, round(10 * factor)))
            part = close_crop([mask], (factor, factor), rng)
            if part is not None:
                yield concept, f"{factor} x", np.ascontiguousarray(image[part]), mask[part]


def table(found: dict[tuple[str, str], dict[str, list[list[float]]]]) -> str:
    """A row per set and concept, a column per look: 70.1 → 75.2 (24).

    "–" stands for an adapter that does not know the concept.
    """
    names = (WHOLE, *(f"{factor} x" for factor in FACTORS))
    rows = []
    for (dataset, concept), by_look in sorted(found.items()):
        cells = [dataset, concept]
        for name in names:
            of_adapters = by_look.get(name, [])
            means = " → ".join(f"{100 * np.mean(own):.1f}" if own else "–" for own in of_adapters)
            cells.append(f"{means} ({max(map(len, of_adapters))})" if of_adapters else "–")
        rows.append(cells)
    return markdown(["set", "concept", *names], rows, left=2)


if __name__ == "__main__":
    sys.exit(main())
