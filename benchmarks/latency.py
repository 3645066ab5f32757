"""Seconds from image to mask, for a preset on this machine.

    python benchmarks/latency.py --model lite --repeats 7 --out latency.json

Measures, with fresh images so that no embedding is reused: loading the model, the first mask in the
process, further images (median and spread), and each further prompt on an image already encoded.
The image is a 600×800 speckle pattern made by formula; the time does not depend on its content.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--adapter")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--refine", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    began = time.perf_counter()
    import torch

    import textsam

    imported = time.perf_counter() - began
    rng = np.random.default_rng(0)

    def image() -> np.ndarray:
        return rng.integers(0, 255, (600, 800, 3), dtype=np.uint8)

    began = time.perf_counter()
    model = textsam.load_model(arguments.model, arguments.adapter, precision=arguments.precision)
    loaded = time.perf_counter() - began
    known = list(model.prompts)

    def ask(picture: np.ndarray, prompt: str) -> object:
        return model.segment(picture, prompt, refine=arguments.refine)

    first = seconds(lambda: ask(image(), known[0]))
    further = [seconds(lambda: ask(image(), known[0])) for _ in range(arguments.repeats)]
    picture = image()
    ask(picture, known[0])
    # Each prompt's text is encoded once per process; warm that, then measure the decoder.
    for prompt in known:
        ask(picture, prompt)
    prompts = [seconds(lambda p=p: ask(picture, p)) for p in known]  # type: ignore[misc]
    result = {
        "model": arguments.model,
        "adapter": model.adapter_name,
        "precision": arguments.precision,
        "refine": arguments.refine,
        "import_s": round(imported, 3),
        "load_s": round(loaded, 3),
        "first_mask_s": round(first, 3),
        "image_to_mask_s": {
            "median": round(statistics.median(further), 3),
            "min": round(min(further), 3),
            "max": round(max(further), 3),
            "n": len(further),
        },
        "further_prompt_s": round(statistics.median(prompts), 3),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.now(UTC).date().isoformat(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
