"""What each rearrangement for speed is worth alone: the image encoder, one image, on a CPU.

    python benchmarks/candidates.py lite vit_b --out benchmarks/results/candidates.json

Every candidate runs in a process of its own, once as the system allocates memory and once with
freed memory kept (`textsam.allocator`). Reported are the median of the repeats, the ratio to the
plain module, and how far the embedding moves, relative to the plain one's spread. `lite` has its
real weights; `vit_b` has random ones, which cost the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SEED = 0
CANDIDATES = {
    "lite": {
        "plain": "the module as it is, float32",
        "folded": "batch norms folded into convolutions",
        "channels_last": "folded, channels last",
        "compiled": "folded, channels last, torch.compile",
        "int8": "folded, linear layers in dynamic int8",
        "strips": "CpuTinyViT: strips, in place (what textsam runs)",
        "bfloat16": "folded, channels last, bfloat16 autocast",
        "strips_bfloat16": "CpuTinyViT in bfloat16 (what textsam runs)",
    },
    "vit_b": {
        "plain": "the module as it is, float32",
        "fused": "scaled-dot-product attention, positions as further dimensions",
        "chunks": "attention by chunks",
        "chunks_mlp": "attention and perceptron by chunks (what textsam runs)",
        "int8": "linear layers in dynamic int8",
        "bfloat16": "the module as it is, bfloat16 autocast",
        "chunks_mlp_bfloat16": "by chunks, bfloat16 autocast (what textsam runs)",
    },
}


def main() -> None:
    """Run every candidate of the presets asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="+", choices=sorted(CANDIDATES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="candidates to run; the others are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/candidates.json"))
    parser.add_argument("--worker", nargs=2, metavar=("CANDIDATE", "KEEP"), help="internal")
    arguments = parser.parse_args()
    if arguments.worker:
        candidate, keep = arguments.worker
        print(json.dumps(measure(arguments.presets[0], candidate, keep == "1", arguments.repeats)))
        return
    known = {name for preset in arguments.presets for name in CANDIDATES[preset]}
    if unknown := sorted(set(arguments.only or ()) - known):
        parser.error(f"--only {', '.join(unknown)}: choose from {', '.join(sorted(known))}")
    measured = [
        (preset, candidate)
        for preset in arguments.presets
        for candidate in CANDIDATES[preset]
        if not arguments.only or candidate in arguments.only
    ]
    rows = kept_rows(arguments.out, measured)
    for preset in arguments.presets:
        for candidate, what in CANDIDATES[preset].items():
            if (preset, candidate) not in measured:
                continue
            row: dict[str, Any] = {"preset": preset, "candidate": candidate, "what": what}
            for keep in ("0", "1"):
                command = [sys.executable, __file__, preset, "--worker", candidate, keep]
                command += ["--repeats", str(arguments.repeats)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    row["failed"] = done.stderr.strip().splitlines()[-1]
                    continue
                facts = json.loads(done.stdout.splitlines()[-1])
                row["moved"] = facts.pop("moved")
                suffix = "_kept" if keep == "1" else ""
                row.update({name + suffix: value for name, value in facts.items()})
            rows[preset, candidate] = row
            print(row, flush=True)
            order = [(p, name) for p in CANDIDATES for name in CANDIDATES[p]]
            write(arguments.out, [rows[key] for key in order if key in rows])


def conditions() -> dict[str, Any]:
    """What times depend on besides the candidate."""
    import torch

    return {
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "torch": str(torch.__version__),
        "seed": SEED,
    }


def kept_rows(
    out: Path, measured: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """(preset, candidate) -> row of earlier commands, of what this one does not measure.

    Args:
        out: JSON of earlier commands; may be missing.
        measured: presets and candidates of this command.

    Raises:
        SystemExit: such rows were measured on another machine or with another torch.
    """
    if not out.exists():
        return {}
    earlier = json.loads(out.read_text(encoding="utf-8"))
    rows = {(row["preset"], row["candidate"]): row for row in earlier["rows"]}
    rows = {key: row for key, row in rows.items() if key not in measured}
    now = conditions()
    made = {name: earlier.get(name) for name in now}
    if rows and made != now:
        raise SystemExit(
            f"{out} has rows of {', '.join(f'{p} {name}' for p, name in rows)} that were measured "
            f"with {made}, and here it is {now}: measure these again too, or give another --out"
        )
    return rows


def encoder_of(preset: str) -> Any:
    """The image encoder as its library builds it."""
    import torch
    from segment_anything import sam_model_registry

    from textsam import weights
    from textsam.model.backbones import build_litemedsam, load_backbone

    torch.manual_seed(SEED)
    if preset == "lite":
        return load_backbone(build_litemedsam, weights.resolve("litemedsam")).image_encoder.eval()
    encoder = sam_model_registry["vit_b"]().image_encoder.eval()
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    return encoder


def candidate_of(preset: str, name: str, encoder: Any) -> tuple[Any, Any]:
    """The encoder changed as the candidate says, and the context it runs in."""
    import torch
    from torch import nn

    from textsam.model import backbones, relpos_attention
    from textsam.model.cpu_tinyvit import CpuTinyViT
    from textsam.model.tuning import fold_batch_norms

    context: Any = nullcontext()
    if name.endswith("bfloat16"):
        context = torch.autocast("cpu", torch.bfloat16)
    if preset == "lite" and name != "plain":
        fold_batch_norms(encoder)
    if name.startswith("strips"):
        half = name.endswith("bfloat16")
        return CpuTinyViT(encoder, torch.bfloat16 if half else torch.float32), context
    if name in ("channels_last", "compiled", "bfloat16") and preset == "lite":
        encoder = encoder.to(memory_format=torch.channels_last)
    if name == "compiled":
        encoder = torch.compile(encoder)
    if name == "int8":
        encoder = torch.ao.quantization.quantize_dynamic(encoder, {nn.Linear}, torch.qint8)
    if name.startswith("chunks_mlp"):
        backbones.use_fast_blocks(encoder)
    if name in ("chunks", "fused"):
        if name == "fused":
            relpos_attention.attend_by_chunks = relpos_attention.attend_fused
        for block in encoder.blocks:
            block.attn = relpos_attention.RelativePositionAttention(block.attn)
    return encoder, context


def measure(preset: str, name: str, keep: bool, repeats: int) -> dict[str, float]:
    """Seconds per image and how far the embedding moves from the plain module's."""
    import torch

    from textsam.allocator import keep_freed_memory

    warnings.simplefilter("ignore")
    if keep:
        keep_freed_memory()
    side = 256 if preset == "lite" else 1024
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(SEED))
    encoder = encoder_of(preset)
    with torch.inference_mode():
        wanted = encoder(image)
        changed, context = candidate_of(preset, name, encoder)
        given = image.to(memory_format=torch.channels_last) if preset == "lite" else image
        if name in ("plain", "folded"):
            given = image
        with context:
            began = time.perf_counter()
            got = changed(given)
            first = time.perf_counter() - began
            seconds = [timed(lambda: changed(given)) for _ in range(repeats)]
    moved = float((got.float() - wanted).std() / wanted.std())
    return {
        "seconds": round(statistics.median(seconds), 4),
        "fastest": round(min(seconds), 4),
        "first": round(first, 3),
        "moved": round(moved, 7),
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """JSON and, beside it, a Markdown table."""
    from textsam.io.atomic import atomic_path

    presets = sorted({row["preset"] for row in rows})
    plain = {row["preset"]: row for row in rows if row["candidate"] == "plain"}
    lines = ["| preset | candidate | s | × | s, memory kept | × | embedding moved |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [row["preset"], row["what"]]
        for name in ("seconds", "seconds_kept"):
            base = plain.get(row["preset"], {}).get(name)
            known = name in row and base
            cells += [f"{row[name]:.2f}", f"{base / row[name]:.2f}"] if known else ["–", "–"]
        cells.append(f"{row['moved']:.1e}" if "moved" in row else row.get("failed", "–"))
        lines.append("| " + " | ".join(cells) + " |")
    facts = {
        "command": "python benchmarks/candidates.py " + " ".join(presets),
        "date": datetime.now(UTC).date().isoformat(),
        **conditions(),
        "rows": rows,
    }
    written = {out: json.dumps(facts, indent=1), out.with_suffix(".md"): "\n".join(lines)}
    for path, text in written.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
