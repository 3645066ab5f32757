"""The exported `lite` in ONNX Runtime beside PyTorch: one image, in turns, and a cold start.

    python benchmarks/onnx_speed.py --out benchmarks/results/onnx.json

Both answer the same new images in float32 with all cores. A cold start is a new process from its
first line to its first mask; its peak is the process's largest resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsam.metrics import iou

SEED = 0
PROMPT = "cell nucleus"

_COLD = {
    "pytorch": "import textsam; m = textsam.load_model('lite', device='cpu', precision='float32')",
    "onnx": "from textsam.export import OnnxSegmenter; m = OnnxSegmenter(sys.argv[1])",
}
_COLD_REST = """
import numpy
m.segment(numpy.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=numpy.uint8), "tumor")
seconds = time.perf_counter() - began
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print(seconds, int(peak) // 1024)
"""


def main() -> None:
    """Export, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/onnx.json"))
    arguments = parser.parse_args()

    import onnxruntime
    import torch

    import textsam
    from textsam.export import OnnxSegmenter
    from textsam.export.write import export_onnx

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "lite"
        plain = textsam.load_model("lite", device="cpu", precision="float32", plain=True)
        export_onnx(plain, folder)
        ours = textsam.load_model("lite", device="cpu", precision="float32")
        cores = os.cpu_count() or 1
        runtime = OnnxSegmenter(folder, threads=cores)
        contenders = {"pytorch": ours, "onnx": runtime}
        rows = warm(contenders, arguments.repeats)
        rows += cold(folder, arguments.starts)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    facts = {
        "command": "python benchmarks/onnx_speed.py",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cores} CPU cores",
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "seed": SEED,
        "bytes": sizes,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")
    lines = ["| what | PyTorch | ONNX Runtime | masks agree |", "|---|---|---|---|"]
    for row in rows:
        agree = f"{row['iou_min']:.4f}" if "iou_min" in row else "–"
        lines.append(f"| {row['case']} | {row['pytorch']} | {row['onnx']} | {agree} |")
    text = "\n".join(lines) + "\n"
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def picture(number: int) -> NDArray[np.uint8]:
    """A dark field with bright blobs, another for each number."""
    rng = np.random.default_rng((SEED, number))
    y, x = np.mgrid[:480, :640]
    field = rng.normal(12, 3, y.shape)
    for _ in range(25):
        cx, cy, radius = rng.uniform(20, 620), rng.uniform(20, 460), rng.uniform(8, 22)
        field += 150 * (((x - cx) ** 2 + (y - cy) ** 2) < radius**2)
    return np.repeat(np.clip(field, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def warm(contenders: dict[str, Any], repeats: int) -> list[dict[str, Any]]:
    """Image to mask without and with two refinements, and a further word."""
    cases = {"image to mask, s": ("first", 0), "image to mask, 2 refinements, s": ("first", 2)}
    cases["a further word on the same image, s"] = ("further", 0)
    rows = []
    for case, (kind, refine) in cases.items():
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        ious = []
        for number in range(repeats + 1):
            image = picture(number + 1000 * len(rows))
            masks = []
            for name, model in list(contenders.items())[:: 1 if number % 2 else -1]:
                if kind == "further":
                    model.segment(image, "lung", refine=0)
                began = time.perf_counter()
                answer = model.segment(image, PROMPT, refine=refine)
                seconds[name].append(time.perf_counter() - began)
                masks.append(answer.probability > 0.5)
            ious.append(iou(*masks))
        row: dict[str, Any] = {"case": case, "n": repeats, "iou_min": min(ious)}
        for name, values in seconds.items():  # the first round warms up
            row[name] = round(statistics.median(values[1:]), 4)
            row[name + "_fastest"] = round(min(values[1:]), 4)
        rows.append(row)
    return rows


def cold(folder: Path, starts: int) -> list[dict[str, Any]]:
    """Seconds and MiB of new processes, in turns."""
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in _COLD}
    for _ in range(starts):
        for name, load in _COLD.items():
            code = f"import time; began = time.perf_counter()\nimport sys\n{load}\n{_COLD_REST}"
            command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, peak = done.stdout.split()
            taken[name].append((float(seconds), int(peak)))
    medians = {
        name: [statistics.median(value) for value in zip(*values, strict=True)]
        for name, values in taken.items()
    }
    return [
        {
            "case": case,
            "n": starts,
            **{name: round(value[index], 2) for name, value in medians.items()},
        }
        for index, case in enumerate(("cold start to first mask, s", "peak memory of that, MiB"))
    ]


if __name__ == "__main__":
    main()
