"""Which images are unfamiliar to an adapter: of sets it knows, of others, everyday pictures?

    python benchmarks/unfamiliar.py generalist --data data --set busi/fold1/test --set ph2/test \\
        -o benchmarks/results/generalist/unfamiliar.md

An image is unfamiliar whose mean embedding lies far from every kind (`spread` in adapter.json), or
near one and has something that no kind has (`remainder`). The everyday pictures are those that
scikit-image's package brings along; they are also asked for all that the adapter knows, and what it
finds there is not there.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import skimage
import torch
from numpy.typing import NDArray

from textsam.api import load_model
from textsam.data.sample import load_sample
from textsam.data.selection import selection_of
from textsam.data.sets import samples_from_manifest
from textsam.evaluate.tables import markdown
from textsam.inference.kinds import ImageKinds
from textsam.io.atomic import save_text
from textsam.progress import with_bar

PICTURES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "chessboard_GRAY.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "logo.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "rocket.jpg",
    "text.png",
)
EVERYDAY = "everyday pictures"


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at all images and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("adapter", help="name or folder of an adapter that tells kinds apart")
    parser.add_argument("--data", default="data", help="folder with manifest.json and splits.json")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="SET/SPLIT")
    parser.add_argument("--limit", type=int, default=40, help="images of a set, evenly spread")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own choice")
    parser.add_argument("-o", "--out", type=Path, required=True, help="Markdown to write")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    segmenter = load_model("lite", options.adapter)
    kinds = segmenter.config.kinds
    if kinds is None:
        parser.error(f"{options.adapter} tells no kinds of image apart; calibrate it with --kinds")
    rows = []
    for name in options.sets:
        images = _images_of(options.data, name, options.limit)
        rows.append([name, *_shares(kinds, map(segmenter.mean_embedding, images)), ""])
    folder = Path(skimage.__file__).parent / "data"
    means, answered = [], []
    for picture in with_bar([str(folder / name) for name in PICTURES], EVERYDAY, shown=True):
        means.append(segmenter.mean_embedding(picture))
        # At once: the segmenter still has the picture's embedding.
        answers = segmenter.segment(picture, list(segmenter.prompts))
        answered.append(any(answer.found for answer in answers))
    rows.append([EVERYDAY, *_shares(kinds, means), f"{np.mean(answered):.0%}"])
    header = ["images", "n", "far from every kind", "something else", "unfamiliar", "answered"]
    lines = [
        f"# Unfamiliar to {segmenter.adapter_name}",
        f"`python benchmarks/unfamiliar.py {options.adapter} --data data "
        + " ".join(f"--set {name}" for name in options.sets)
        + (f" --limit {options.limit}`, " if options.limit != 40 else "`, ")
        + f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores, {platform.machine()}.",
        "Shares of the images. *Answered*: something was found that the adapter knows a word for.",
        markdown(header, rows, 1),
    ]
    save_text(options.out, "\n\n".join(lines) + "\n")
    print("\n\n".join(lines))
    return 0


def _images_of(root: str, name: str, limit: int) -> Iterator[np.ndarray]:
    samples = samples_from_manifest(root, [selection_of(name, limit)])
    for sample in with_bar(samples, name, shown=True):
        yield load_sample(sample)[0]


def _shares(kinds: ImageKinds, means: Iterable[NDArray[np.float64]]) -> list[str]:
    """How many there are, and the shares that are far, have something else, and are unfamiliar."""
    ways = [
        kinds.model_copy(update={"remainder": None}),
        kinds.model_copy(update={"spread": None}),
        kinds,
    ]
    told = [[way.look(mean).unfamiliar for way in ways] for mean in means]
    return [str(len(told)), *(f"{share:.0%}" for share in np.mean(told, axis=0))]


if __name__ == "__main__":
    raise SystemExit(main())
