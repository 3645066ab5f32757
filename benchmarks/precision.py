"""How far bfloat16 moves the Dice of a shipped adapter from float32's, on a CPU.

    python benchmarks/precision.py --data data --limit 16 --out benchmarks/results/precision.json

The same images, words and refinement in both; `docs/training.md` says where the data sets belong.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path

SETS = (
    "busi/fold1/test",
    "braintumor/test",
    "dsb2018/test",
    "cxr_lung/test",
    "usgra/test",
    "isbi2012/test",
)


def main() -> None:
    """Segment, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--adapter", default="generalist")
    parser.add_argument("--limit", type=int, default=16, help="images of each set, evenly spread")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/precision.json"))
    arguments = parser.parse_args()

    import textsam
    from textsam.allocator import keep_freed_memory
    from textsam.data.sample import load_sample
    from textsam.data.selection import selection_of
    from textsam.data.sets import samples_from_manifest
    from textsam.io.atomic import atomic_path
    from textsam.metrics import dice

    keep_freed_memory()
    models = {
        name: textsam.load_model("lite", arguments.adapter, device="cpu", precision=name)
        for name in ("float32", "bfloat16")
    }
    known = set(models["float32"].prompts)
    rows = []
    for where in SETS:
        scores: dict[str, dict[str, list[float]]] = {}
        for sample in samples_from_manifest(arguments.data, [selection_of(where, arguments.limit)]):
            pixels, truths = load_sample(sample)
            asked = [concept for concept in truths if concept in known and truths[concept].any()]
            if not asked:
                continue
            for precision, model in models.items():
                for concept, answer in zip(asked, model.segment(pixels, asked), strict=True):
                    kept = scores.setdefault(concept, {}).setdefault(precision, [])
                    kept.append(dice(answer.mask, truths[concept]))
        for concept, both in scores.items():
            means = {precision: sum(values) / len(values) for precision, values in both.items()}
            points = 100 * (means["bfloat16"] - means["float32"])
            row = {"set": where, "concept": concept, "n": len(both["float32"])}
            row |= {f"dice_{precision}": round(mean, 4) for precision, mean in means.items()}
            rows.append({**row, "points": round(points, 3)})
            print(rows[-1], flush=True)
    if not rows:
        raise SystemExit(
            f"{arguments.adapter} knows nothing that the sets show, only "
            f"{', '.join(sorted(known))}; choose another --adapter"
        )
    total = sum(row["n"] for row in rows)
    overall = sum(row["points"] * row["n"] for row in rows) / total
    facts = {
        "command": (
            f"python benchmarks/precision.py --adapter {arguments.adapter} "
            f"--limit {arguments.limit}"
        ),
        "adapter": arguments.adapter,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores",
        "cases": total,
        "points_overall": round(overall, 3),
        "points_largest": max((abs(row["points"]) for row in rows), default=0.0),
        "rows": rows,
    }
    with atomic_path(arguments.out) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"{overall:+.3f} Dice points over {total} cases")


if __name__ == "__main__":
    main()
