"""Stages of a cold start: a new process, from its start to the first mask.

    python benchmarks/speed_cold.py --preset lite --started SECONDS

`--started` is `time.monotonic()` of whoever started this process; `benchmarks/speed.py` does, and
reads the one line of JSON that is printed.
"""

from __future__ import annotations

import time

_ENTERED = time.monotonic()

import argparse  # noqa: E402
import json  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402


def main() -> None:
    """Import, load, segment; print the seconds of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--started", type=float, required=True)
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--adapter")
    parser.add_argument("--sam")
    parser.add_argument("--text")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--word", required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    began = time.monotonic()
    import textsam

    load_model = textsam.load_model  # this is when the library's heavy half is imported
    imported = time.monotonic()
    segmenter = load_model(
        arguments.preset,
        arguments.adapter,
        arguments.device,
        arguments.precision,
        sam_checkpoint=arguments.sam,
        text_encoder=arguments.text,
    )
    loaded = time.monotonic()
    encoder = timed_encoder(segmenter.built.model, arguments.device)
    answer = segmenter.segment(arguments.image, arguments.word, refine=2)
    done = time.monotonic()
    stages = {
        "total": done - arguments.started,
        "python": _ENTERED - arguments.started,
        "import": imported - began,
        "load": loaded - imported,
        "first_mask": done - loaded,
        "encoder": sum(encoder),
    }
    print(json.dumps({**stages, "found": answer.found}))


def timed_encoder(model: Any, device: str) -> list[float]:
    """Collect the seconds of every call of a model's `encode_image`."""
    from speed_clock import timed

    seconds: list[float] = []
    encode = model.encode_image

    def measured(*args: Any, **kwargs: Any) -> Any:
        took, embedding = timed(device, lambda: encode(*args, **kwargs))
        seconds.append(took)
        return embedding

    model.encode_image = measured
    return seconds


if __name__ == "__main__":
    main()
