"""Boxes from no label at all: how often they are about the thing that was wanted.

    python benchmarks/saliency.py --data data

Every test image is given a box and five points by `textsam.saliency`; the base model, untrained,
answers them. Beside it stand the same model with the box of the truth, and with a box around the
whole image, which is what a user has who knows nothing. Figures are written to `--out` as Markdown
and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from textsam.adapters import AdapterConfig
from textsam.checkpoint import record_of
from textsam.data.sample import Sample, load_sample
from textsam.data.selection import selection_of
from textsam.data.sets import samples_from_manifest
from textsam.errors import DataError
from textsam.evaluate.tables import markdown
from textsam.frame import box_and_centroid
from textsam.inference.refinement import generator_for
from textsam.inference.segmenter import Segmenter
from textsam.io.atomic import atomic_path
from textsam.metrics import dice, iou
from textsam.model.build import Architecture, build_model
from textsam.saliency.method import SaliencyMethod, load_saliency
from textsam.saliency.region import prompt_of_region, salient_region
from textsam.saliency.write import Saliency


@dataclass(frozen=True)
class Row:
    """One image: Dice of the answer to each prompt, and how good the found box is."""

    image: str
    box_iou: float
    centre_inside: bool
    salient: float
    truth_box: float
    whole_image: float


def measure(
    sample: Sample, concept: str, saliency: Saliency, segmenter: Segmenter, seed: int
) -> Row:
    """All figures of one image."""
    pixels, masks = load_sample(sample)
    truth = masks[concept]
    region = salient_region(saliency(pixels, concept), pixels)
    height, width = truth.shape

    def answered(box: NDArray[np.floating], points: NDArray[np.floating] | None = None) -> float:
        given = {} if points is None else {"points": points}
        answer = segmenter.segment(pixels, None, boxes=box, **given)
        return dice(answer.mask, truth)

    geometry = box_and_centroid(truth)
    if geometry is None:
        raise DataError(f"{sample.name} shows no {concept}; choose a set in which every image does")
    own = geometry[0]
    box_iou, inside, salient = 0.0, False, 0.0
    if region is not None:
        found = prompt_of_region(region, generator_for(seed, sample.name, concept, 1))
        box_iou = iou(filled(found.box, truth.shape), filled(own, truth.shape))
        x, y = (found.box[:2] + found.box[2:]) / 2
        inside = bool(truth[round(y), round(x)])
        salient = answered(found.box, found.points)
    whole = answered(np.array([0.0, 0.0, width - 1.0, height - 1.0]))
    return Row(sample.name, box_iou, inside, salient, answered(own), whole)


def filled(box: NDArray[np.floating], size_px: tuple[int, ...]) -> NDArray[np.bool_]:
    """(H, W) mask of a box (x_min, y_min, x_max, y_max), inclusive."""
    mask = np.zeros(size_px, dtype=bool)
    x_min, y_min, x_max, y_max = np.rint(box).astype(int)
    mask[y_min : y_max + 1, x_min : x_max + 1] = True
    return mask


def table(rows: Sequence[Row], method: str, machine: str, command: str) -> str:
    """Markdown of all images together."""

    def spread(values: Sequence[float]) -> str:
        return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"

    lines = [
        (f"saliency (`{method}`): box and five points", spread([row.salient for row in rows])),
        ("a box around the whole image", spread([row.whole_image for row in rows])),
        ("the box of the truth", spread([row.truth_box for row in rows])),
    ]
    boxes = [row.box_iou for row in rows]
    inside = np.mean([row.centre_inside for row in rows])
    return (
        f"# Prompts without labels\n\nMade by `{command}`.\n\n"
        f"{markdown(('prompt', 'Dice'), lines, 1)}\n\n"
        f"{len(rows)} images. Boxes found: IoU with the box of the truth {spread(boxes)}, above "
        f"0.5 in {100 * np.mean(np.array(boxes) > 0.5):.0f} %; the centre lies in the truth in "
        f"{100 * inside:.0f} %. ± is over images, divided by their number. The model is "
        f"LiteMedSAM as it came. {machine}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", default="data", help="with manifest.json")
    parser.add_argument("--set", dest="where", default="busi/fold1/test")
    parser.add_argument("--concept", default="tumor")
    parser.add_argument("--method", choices=list(SaliencyMethod), default="boxes")
    parser.add_argument("--limit", type=int, help="of images, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/methods"))
    options = parser.parse_args(arguments)
    selection = selection_of(options.where, options.limit)
    saliency = load_saliency(SaliencyMethod(options.method))
    rows, begun = [], time.monotonic()
    segmenter = untrained()
    for sample in samples_from_manifest(options.data, [selection]):
        rows.append(measure(sample, options.concept, saliency, segmenter, options.seed))
        sys.stderr.write(f"\r{len(rows)}")
    sys.stderr.write("\n")
    machine = (
        f"Seed {options.seed}; {platform.platform()}, {os.cpu_count()} cores; torch "
        f"{torch.__version__}; {datetime.now(UTC).date()}; "
        f"{(time.monotonic() - begun) / 60:.1f} min."
    )
    command = (
        f"python benchmarks/saliency.py --data data --set {options.where} --concept "
        f"{shlex.quote(options.concept)} --method {options.method} --seed {options.seed}"
    )
    command += f" --limit {options.limit}" if options.limit else ""
    text = table(rows, options.method, machine, command)
    content = {"command": command, "machine": machine, "images": [asdict(row) for row in rows]}
    for suffix, written in ((".md", text), (".json", json.dumps(content, indent=1) + "\n")):
        with atomic_path(options.out / f"saliency{suffix}") as temporary:
            temporary.write_text(written, encoding="utf-8")
    sys.stdout.write(text)
    return 0


def untrained() -> Segmenter:
    """The base model of `lite`, which answers boxes."""
    shape = Architecture(context_depth=1, takes_text=False)
    record = AdapterConfig(
        name="none", preset="lite", architecture=record_of(shape), prompts=(), refine=0
    )
    return Segmenter(build_model("lite", shape), record, device=torch.device("cpu"))


if __name__ == "__main__":
    sys.exit(main())
