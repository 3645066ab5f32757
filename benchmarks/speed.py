"""The speed of textsam beside the authors' procedure, measured in one run, in turns.

    python benchmarks/speed.py --out benchmarks/results/speed-cpu.json
    python benchmarks/speed.py --cases a --presets lite --quick --out /tmp/speed.json
    python benchmarks/speed.py --device cuda --cases a,b,c,e,g --out speed-gpu.json

Cases:
    a  image to mask with two refinements: ours (float32, bfloat16), the authors' procedure, and the
       packages' plain modules with the image encoded once; do the masks agree?
    b  each further word on the same image, with 0 and 2 refinements, as a share of the first
    c  a training step, batch 1, and its peak memory
    d  a cold start: new process to first mask, split into the image encoder and all else
    e  a folder of images: images a second, and memory against their number
    g  (GPU only) the image encoder's share of the card's matrix rate, by batch size

Every contender runs in a process of its own and they take turns, after a warm-up. A command stops
before `--minutes` are over and keeps what it has; the same command goes on from there and exits
with 75 while something is left to do:

    until python benchmarks/speed.py --out FILE; [ $? -ne 75 ]; do :; done

Samples of other code, or of another machine, are never mixed: the former are dropped, the latter
are an error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))
from speed_cases import Benchmark  # noqa: E402

UNFINISHED = 75


def main() -> None:
    """Measure what is asked for and not yet there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="a,b,c,d,e", type=lambda text: text.split(","))
    parser.add_argument("--presets", default="lite,vit_b", type=lambda text: text.split(","))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, nargs="+", default=[20, 100, 500])
    parser.add_argument("--quick", action="store_true", help="one repeat, small folders")
    parser.add_argument("--threads", type=int, help="of torch; default: as it chooses")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop before")
    parser.add_argument("--fresh", action="store_true", help="forget earlier samples")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "textsam-speed", help="files"
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(arguments)
    steps = {
        "a": benchmark.masks,
        "b": benchmark.prompts,
        "c": benchmark.training,
        "d": benchmark.cold,
        "e": benchmark.folder,
        "g": benchmark.gpu,
    }
    for case in arguments.cases:
        for preset in arguments.presets:
            # A folder of vit_b is as many times case a as it has images.
            if case == "e" and preset != "lite" and not arguments.device.startswith("cuda"):
                continue
            steps[case](preset)
    benchmark.save()
    print(arguments.out.with_suffix(".md").read_text(encoding="utf-8"))
    if benchmark.unfinished:
        print(f"left to do, run this again: {', '.join(benchmark.unfinished)}")
        sys.exit(UNFINISHED)


if __name__ == "__main__":
    main()
