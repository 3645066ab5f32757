"""Whether an adapter knows what kind of image it sees when the image is from elsewhere.

    python benchmarks/kinds.py configs/generalist.yaml generalist --data data \\
        --set busi/fold1/test --set usgra/test -o OUT.md

An adapter with `kinds` answers that there is no lung in what it takes for an ultrasound scan; where
it is wrong a good mask is lost. So kinds of image are fitted as by `textsam calibrate --kinds 40`,
with all sets and again without the one asked about (and those whose names begin like it), where
others of its kind remain: then it is as one of another hospital, though not to the image encoder,
which has learned from it. Asked are test images as they are and once changed as in training. *Ruled
out* is the image's own kind.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from textsam.api import load_model
from textsam.calibrate.kinds import both_means, chosen_of, fit_means
from textsam.config import read_config
from textsam.data.sample import Sample
from textsam.data.selection import selection_of
from textsam.data.sets import samples_from_manifest
from textsam.data.sources import samples_of
from textsam.evaluate.tables import markdown
from textsam.inference.kinds import ImageKinds
from textsam.io.atomic import save_text
from textsam.vocabulary import IMAGE_KINDS

LOOKS = ("as it is", "changed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit with and without each set, look at its test images and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path, help="of the adapter's training")
    parser.add_argument("adapter", help="name or folder")
    parser.add_argument("--data", default="data", help="folder with manifest.json and splits.json")
    parser.add_argument("--set", dest="sets", action="append", required=True, help="SET/test")
    parser.add_argument("--limit", type=int, default=40, help="test images of a set, evenly spread")
    parser.add_argument("--covered", type=float, default=0.95, help="as calibrate --kinds-covered")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own choice")
    parser.add_argument("-o", "--out", type=Path, required=True, help="Markdown to write")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    config = read_config(options.config, [f"data.root={options.data}"])
    segmenter = load_model("lite", options.adapter, "cpu", "bfloat16")

    def seen(samples: Sequence[Sample]) -> NDArray[np.float64]:
        return both_means(segmenter, samples, config.augment, config.seed, progress=True)

    known = chosen_of(samples_of(config.data, "train"), 40)
    means = seen(known)
    of_all = fit_means(known, means, covered=options.covered)
    rows = []
    for name in options.sets:
        asked = samples_from_manifest(options.data, [selection_of(name, options.limit)])
        kind, there = IMAGE_KINDS[asked[0].modality], seen(asked)
        fits = {"known": of_all} if kind in of_all.names else {}
        rest = [i for i, s in enumerate(known) if not s.dataset.startswith(asked[0].dataset)]
        others = [known[i] for i in rest]
        # Without another set of its kind there would be nothing right to take it for.
        kinds = {IMAGE_KINDS[sample.modality] for sample in others}
        if kind in kinds and len(others) < len(known):
            fits["left out"] = fit_means(others, means[rest], covered=options.covered)
        for of_set, fit in fits.items():
            for number, look in enumerate(LOOKS):
                told = shares(fit, there[:, number], kind)
                rows.append([name, of_set, look, str(len(asked)), *told])
    header = ["images", "their set", "image", "n", "far from every kind", "ruled out"]
    command = (
        f"python benchmarks/kinds.py {options.config.as_posix()} {options.adapter} --data data"
    )
    command += "".join(f" --set {name}" for name in options.sets)
    command += f" --limit {options.limit} --covered {options.covered:g}"
    made = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores, {platform.machine()}"
    lines = [
        f"# Kinds of image told from elsewhere, {segmenter.adapter_name}",
        f"`{command}`, {made}.",
        "Nothing is ruled out in an image that is far from every kind.",
        markdown(header, rows, 3),
    ]
    save_text(options.out, "\n\n".join(lines) + "\n")
    print("\n\n".join(lines))
    return 0


def shares(fit: ImageKinds, means: NDArray[np.float64], kind: str) -> list[str]:
    """How many of (N, C) means are far from every kind, and of how many `kind` is ruled out."""
    told = [fit.look(mean).probabilities for mean in means]
    far = np.mean([not known for known in told])
    out = np.mean([bool(known) and known[kind] < fit.threshold for known in told])
    return [f"{far:.0%}", f"{out:.1%}"]


if __name__ == "__main__":
    raise SystemExit(main())
