"""How much of a GPU the image encoder uses: images a second, and its share of the matrix rate.

    python benchmarks/speed_gpu.py --preset vit_b --work FOLDER --batches 1 8 32

Prints one line of JSON per batch size. The yardstick is a bfloat16 product of two 8192×8192
matrices on the same card in the same process. Operations are those of the packages' own encoder,
matrix products and convolutions, counted by `torch.utils.flop_counter`: what the library saves by
computing it otherwise does not lower the count.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from speed_clock import memory_mib, reset_peak, timed
from speed_models import load_ours, raw_modules, stage
from torch.utils.flop_counter import FlopCounterMode


def matmul_tflops(device: str, side: int = 8192, repeats: int = 20) -> float:
    """Measured rate of a large bfloat16 matrix product, in 10^12 operations a second."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b

    def work() -> None:
        for _ in range(repeats):
            a @ b

    seconds = statistics.median(timed(device, work)[0] for _ in range(5))
    return float(2 * side**3 * repeats / seconds / 1e12)


def encoder_tflop(preset: str, side: int) -> float:
    """10^12 operations of encoding one image; a multiplication and an addition are two."""
    encoder = raw_modules(preset)["image_encoder"].eval().to("meta")  # shapes alone are computed
    image = torch.empty(1, 3, side, side, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        encoder(image)
    return float(counter.get_total_flops()) / 1e12


def main() -> None:
    """Measure every batch size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="vit_b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--matrix-side", type=int, default=8192)
    arguments = parser.parse_args()
    device = arguments.device
    segmenter = load_ours(stage(arguments.preset, arguments.work), "bfloat16", device)
    model, side = segmenter.built.model, segmenter.built.preprocessor.side_px
    rate = matmul_tflops(device, arguments.matrix_side)
    kind = torch.device(device).type
    tflop = encoder_tflop(arguments.preset, side)
    with torch.inference_mode(), torch.autocast(kind, torch.bfloat16):
        one = torch.randn(1, 3, side, side, device=device)
        for batch in arguments.batches:
            square = one.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
            reset_peak(device)
            for _ in range(3):
                model.encode_image(square)
            took = [
                timed(device, lambda x=square: model.encode_image(x))[0]
                for _ in range(arguments.repeats)
            ]
            seconds = statistics.median(took)
            answer = {
                "batch": batch,
                "seconds": took,
                "images_per_s": batch / seconds,
                "tflop_per_image": tflop,
                "matmul_tflops": rate,
                "share_of_matmul": tflop * batch / seconds / rate,
                "peak_mib": memory_mib(device)[1],
            }
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
