"""Adapters on test images as other machines may show them, beside the images as they are.

    python benchmarks/changed.py configs/generalist.yaml weights/generalist --data data \\
        --set busi/fold1/test@0:0.5 --set busi_normal/train@0.1:0.3 -o OUT.md

Images of other hospitals are not here. So each is also changed a few times in tone, sharpness,
noise and marks, as the configuration's `augment` changes training images, nothing moved: the same
changes at every call, by the image's name. Asked is what an image shows and what the data say it
does not, with the adapter's own threshold. Adapters that differ in their calibration alone can be
compared so: whoever finds more of what is there finds more of what is not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from textsam.adapters import read_adapter_config
from textsam.api import load_model
from textsam.config import read_config
from textsam.data.augment import Augment
from textsam.data.named import by_prompt
from textsam.data.sample import Sample, load_sample
from textsam.data.selection import selection_of
from textsam.data.sets import samples_from_manifest
from textsam.evaluate.tables import markdown
from textsam.inference.segmenter import Segmenter
from textsam.io.atomic import save_text
from textsam.metrics import dice
from textsam.metrics.reliability import reliability
from textsam.progress import with_bar
from textsam.prompts import canonical

LOOKS = ("as it is", "changed")


class Answer(NamedTuple):
    """Its Dice where the concept is there, else None; its score; whether it was found."""

    dice: float | None
    score: float
    found: bool


Found = dict[tuple[str, str], dict[str, list[list[Answer]]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask all adapters the same questions and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path, help="whose augment changes the images")
    parser.add_argument("adapters", type=Path, nargs="+", help="adapter folders")
    parser.add_argument("--data", default="data", help="folder with manifest.json and splits.json")
    parser.add_argument("--set", action="append", required=True, help="SET/SPLIT[@LOW:HIGH]")
    parser.add_argument("--times", type=int, default=3, help="that each image is changed")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own choice")
    parser.add_argument("-o", "--out", type=Path, required=True, help="Markdown to write")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    change = Augment(read_config(options.config).augment.in_place())
    samples = samples_from_manifest(options.data, [selection_of(text) for text in options.set])
    asked = [
        load_model(read_adapter_config(folder).preset, folder, "cpu", "bfloat16")
        for folder in options.adapters
    ]
    found: Found = defaultdict(lambda: {look: [[] for _ in asked] for look in LOOKS})
    for sample in with_bar(samples, "asking", shown=True):
        for look, image, masks in looks(sample, change, options.times):
            for number, segmenter in enumerate(asked):
                for concept, truth in questions(segmenter, sample, masks):
                    answer = segmenter.segment(image, concept)
                    overlap = None if truth is None else dice(answer.mask, truth)
                    answers = found[sample.dataset, concept][look][number]
                    answers.append(Answer(overlap, answer.score, answer.found))
    shown = " ".join(folder.as_posix() for folder in options.adapters)
    command = f"python benchmarks/changed.py {options.config.as_posix()} {shown} --data data"
    command += "".join(f" --set {text}" for text in options.set)
    made = (
        f"`{command} --times {options.times}`, {os.cpu_count()} CPU cores, {platform.machine()}, "
        f"{datetime.now(UTC).date()}, image encoder in bfloat16. Adapter after adapter; found from "
        f"{', '.join(f'{s.config.found_threshold:.3f}' for s in asked)}. n and what is counted are "
        "answers, of changed images several to each."
    )
    save_text(options.out, f"{made}\n\n{table(found)}\n")
    print(f"wrote {options.out}")
    return 0


def looks(
    sample: Sample, change: Augment, times: int
) -> Iterator[tuple[str, NDArray[np.uint8], dict[str, NDArray[np.bool_]]]]:
    """(name of the look, image, masks): the image as it is, and each time it is changed."""
    image, masks = load_sample(sample)
    yield LOOKS[0], image, masks
    for again in range(times):
        digest = hashlib.sha256(f"{again}\n{sample.name}".encode()).digest()
        changed, same = change(image, list(masks.values()), np.random.default_rng(list(digest)))
        yield LOOKS[1], changed, dict(zip(masks, same, strict=True))


def questions(
    segmenter: Segmenter, sample: Sample, masks: dict[str, NDArray[np.bool_]]
) -> Iterator[tuple[str, NDArray[np.bool_] | None]]:
    """What the adapter knows of what the data say about an image; None for what is absent."""
    prompts = segmenter.prompts
    for concept, mask in by_prompt(masks, prompts).items():
        if concept in prompts:
            yield concept, mask if mask.any() else None
    absent = {canonical(concept, prompts) or concept for concept in sample.absent}
    yield from ((concept, None) for concept in sorted(absent) if concept in prompts)


def table(found: Found) -> str:
    """A row per set, concept and look; adapter after adapter in each cell: 70.1 → 75.2."""

    def row(name: str, concept: str, look: str, of_adapters: list[list[Answer]]) -> list[str]:
        there = [[a for a in own if a.dice is not None] for own in of_adapters]
        absent = [[a for a in own if a.dice is None] for own in of_adapters]
        cells = (
            [f"{100 * np.mean([a.dice or 0.0 for a in own]):.1f}" if own else "–" for own in there],
            [f"{sum(not a.found for a in own)}" if own else "–" for own in there],
            [f"{100 * error(own):.1f}" if own else "–" for own in of_adapters],
            [f"{sum(not a.found for a in own)}" if own else "–" for own in absent],
        )
        overlaps, missed, off, empty = (" → ".join(own) for own in cells)
        n, asked = max(map(len, there)), max(map(len, absent))
        known = [str(n), overlaps, missed] if n else ["0", "–", "–"]
        return [name, concept, look, *known, off, f"{empty} of {asked}" if asked else "–"]

    head = ["set", "concept", "image", "n", "Dice %", "missed", "ECE %", "absent, empty"]
    rows = [
        row(*group, look, by_look[look])
        for group, by_look in sorted(found.items())
        for look in LOOKS
    ]
    return markdown(head, rows, left=3)


def error(answers: Sequence[Answer]) -> float:
    """Expected calibration error of the scores; what is absent has a Dice of 0."""
    found = reliability([a.score for a in answers], [a.dice or 0.0 for a in answers])
    return 0.0 if found is None else found.ece


if __name__ == "__main__":
    sys.exit(main())
