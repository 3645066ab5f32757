"""Ask for a thing in parts of test images that lie beside it: each must come back empty.

    python benchmarks/beside.py --adapter generalist --set busi/fold1/test -o OUT.json

Sets of images without the thing are small; parts of test images cut beside everything annotated
are as many as the images, and from the same scanners. One part per image, in the same place at
every call (`textsam.data.absent_crop`, seeded by the image's name).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from textsam.api import load_model
from textsam.data.absent_crop import absent_crop
from textsam.data.sample import load_sample
from textsam.data.selection import selection_of
from textsam.data.sets import samples_from_manifest
from textsam.io.atomic import atomic_path


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
            digest = hashlib.sha256(f"{arguments.seed}\n{sample.name}".encode()).digest()
            crop = absent_crop(list(masks.values()), np.random.default_rng(list(digest)))
            asked = [concept for concept in masks if concept in segmenter.prompts]
            if crop is None or not asked:
                continue
            answers = segmenter.segment(np.ascontiguousarray(pixels[crop]), asked)
            rows += [
                {
                    "image": sample.name,
                    "concept": concept,
                    "rows_px": [crop[0].start, crop[0].stop],
                    "columns_px": [crop[1].start, crop[1].stop],
                    "found": answer.found,
                    "score": round(answer.score, 4),
                }
                for concept, answer in zip(asked, answers, strict=True)
            ]
    groups = sorted({(row["image"].partition("/")[0], row["concept"]) for row in rows})
    rates = []
    for name, concept in groups:
        found = [
            row["found"]
            for row in rows
            if row["concept"] == concept and row["image"].startswith(name + "/")
        ]
        empty = 1 - float(np.mean(found))
        rates.append({"set": name, "concept": concept, "n": len(found), "empty_rate": empty})
        print(f"{name}, {concept}: {empty:.1%} of {len(found)} empty")
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
