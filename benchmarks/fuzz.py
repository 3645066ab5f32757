"""Read damaged files of every format, and count what comes of them.

    python benchmarks/fuzz.py --files 10000 --seed 0 --out benchmarks/results/fuzz.json

Small sound files (`fuzz_seeds`) are damaged (`fuzz_mutate`) and opened with `textsam.io.open`, and
their images are read, in a worker process with 2 GiB of memory and 20 seconds a file. What must
come of each is images or an error of TextSAM's own; anything else is a crash or a hang. The same
seed gives the same files, and `--keep` keeps those that crash or hang.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fuzz_mutate import mutated
from fuzz_seeds import seeds
from fuzz_worker import Worker

SUFFIXES = {"nifti": ".nii", "nifti-gz": ".nii.gz", "dicom": ".dcm", "dicom-made": ".dcm"}
COUNTED = {"result": "results", "refused": "refused", "crash": "crashes", "hang": "hangs"}


def run(files: int, seed: int, first: int = 0, keep: Path | None = None) -> dict[str, Any]:
    """Read files `first` to `first + files - 1` of a seed; what came of them, as for the report."""
    sound = seeds()
    counts: collections.Counter[str] = collections.Counter()
    by_format: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    problems: list[dict[str, Any]] = []
    peak_mib, slowest_s, slowest_cpu_s = 0, 0.0, 0.0
    worker = Worker()
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(first, first + files):
                name, data = mutated(sound, seed, number)
                kind = name.split("/")[0]
                path = Path(folder) / f"damaged{SUFFIXES.get(kind, '.' + kind)}"
                path.write_bytes(data)
                answer = worker.read(path)
                counts[COUNTED[answer.outcome]] += 1
                by_format[kind][COUNTED[answer.outcome]] += 1
                peak_mib = max(peak_mib, answer.rss_mib)
                slowest_s = max(slowest_s, answer.seconds)
                slowest_cpu_s = max(slowest_cpu_s, answer.cpu_s)
                if answer.outcome in ("crash", "hang"):
                    words = answer.words.replace(folder, "")
                    problems.append({"number": number, "made_of": name, "words": words})
                    print(f"{number} {name}: {answer.outcome} {words}", flush=True)
                    if keep is not None:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{seed}-{number}{path.suffix}").write_bytes(data)
                if (number - first + 1) % 1000 == 0:
                    print(f"{number - first + 1} files {dict(counts)}", flush=True)
    finally:
        worker.close()
    return {
        "files": files,
        **{name: counts[name] for name in COUNTED.values()},
        "max_rss_mib": peak_mib,
        "slowest_s": round(slowest_s, 2),
        "slowest_cpu_s": round(slowest_cpu_s, 2),
        "seconds": round(time.perf_counter() - began, 1),
        "seed": seed,
        "first": first,
        "seed_files": len(sound),
        "by_format": {kind: dict(found) for kind, found in sorted(by_format.items())},
        "problems": problems,
    }


def main() -> None:
    """Read, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--keep", type=Path, help="folder for files that crash or hang")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = run(arguments.files, arguments.seed, arguments.first, arguments.keep)
    packages = ("pillow", "pydicom", "nibabel", "numpy", "pylibjpeg", "tifffile")
    result["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    result["versions"] = {name: version(name) for name in packages}
    result["command"] = shlex.join(["python", "benchmarks/fuzz.py", *sys.argv[1:]])
    result["date"] = datetime.now(UTC).date().isoformat()
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if result["crashes"] or result["hangs"] else 0)


if __name__ == "__main__":
    main()
