"""Ask for a thing where it is not, in what test images show beside it: each must come back empty.

    python benchmarks/beside.py --adapter generalist --set busi/fold1/test -o OUT.json

Sets of images without the thing are small; parts of test images cut beside everything annotated
are as many as the images, and from the same scanners. One part per image, in the same place at
every call (`textsam.data.absent_crop`, seeded by the image's name). Of some kinds of image also the
whole with everything annotated covered by what lies elsewhere in it (`textsam.data.heal`), where
that can be done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.api import load_model
from textsam.data.absent_crop import absent_crop
from textsam.data.heal import HealWay, healed
from textsam.data.sample import Sample, load_sample
from textsam.data.selection import selection_of
from textsam.data.sets import samples_from_manifest
from textsam.io.atomic import atomic_path

# How wholes are made, by kind of image.
HEAL: dict[str, HealWay] = {
    "brain MRI": "mirrored",
    "breast ultrasound": "beside",
    "forearm ultrasound": "beside",
}


def without(
    sample: Sample, pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], seed: int
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """How, and what an image shows without its objects."""
    digest = hashlib.sha256(f"{seed}\n{sample.name}".encode()).digest()
    crop = absent_crop(masks, np.random.default_rng(list(digest)))
    if crop is not None:
        yield "part", np.ascontiguousarray(pixels[crop])
    if sample.modality in HEAL:
        rng = np.random.default_rng(list(digest))
        whole = healed(pixels, masks, HEAL[sample.modality], rng)
        if whole is not None:
            yield "covered", whole


def main() -> None:
    """Ask and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="data")
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--set", dest="sets", action="append", required=True)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    segmenter = load_model("lite", arguments.adapter, precision=arguments.precision)
    rows: list[dict[str, Any]] = []
    for text in arguments.sets:
        for sample in samples_from_manifest(arguments.data, [selection_of(text)]):
            pixels, masks = load_sample(sample)
            asked = [concept for concept in masks if concept in segmenter.prompts]
            if not asked:
                continue
            for how, picture in without(sample, pixels, list(masks.values()), arguments.seed):
                answers = segmenter.segment(picture, asked)
                rows += [
                    {
                        "image": sample.name,
                        "how": how,
                        "concept": concept,
                        "found": answer.found,
                        "score": round(answer.score, 4),
                    }
                    for concept, answer in zip(asked, answers, strict=True)
                ]
    found: dict[tuple[str, str, str], list[bool]] = {}
    for row in rows:
        group = (row["how"], row["image"].partition("/")[0], row["concept"])
        found.setdefault(group, []).append(row["found"])
    rates = []
    for (how, name, concept), those in sorted(found.items()):
        empty = 1 - float(np.mean(those))
        rates.append(
            {"how": how, "set": name, "concept": concept, "n": len(those), "empty_rate": empty}
        )
        print(f"{name}, {concept}, {how}: {empty:.1%} of {len(those)} empty")
    record = {
        "adapter": segmenter.adapter_name,
        "fingerprint": segmenter.fingerprint,
        # The tensors do not tell a newly calibrated adapter from the one before.
        "identity": segmenter.identity,
        "seed": arguments.seed,
        "sets": arguments.sets,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "rates": rates,
        "cases": rows,
    }
    with atomic_path(arguments.out) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
