"""Save an adapter and load it back, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from textsam.adapters import (
    CONFIG_FILE,
    TENSORS_FILE,
    AdapterConfig,
    ArchitectureRecord,
    adapter_json,
    check_tensors,
    read_adapter_config,
)
from textsam.io.atomic import atomic_path, told_as_output
from textsam.model.build import Architecture, BuiltModel
from textsam.model.tuning import Tuning, load_trainable
from textsam.tensors import load_tensors
from textsam.weights.checksum import sha256_of

__all__ = ["architecture_of", "load_adapter", "load_learned", "record_of", "save_adapter"]


def architecture_of(record: ArchitectureRecord) -> Architecture:
    """The architecture an adapter's record describes."""
    values = record.model_dump()
    tuning = Tuning(**{part.name: values.pop(part.name) for part in fields(Tuning)})
    return Architecture(tuning=tuning, **values)


def record_of(architecture: Architecture) -> ArchitectureRecord:
    """The record an adapter keeps of its architecture."""
    values = asdict(architecture)
    return ArchitectureRecord(**values.pop("tuning"), **values)


def save_adapter(
    folder: str | Path,
    config: AdapterConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write `adapter.safetensors` and `adapter.json`, moved into place when both are complete.

    Args:
        folder: made if needed.
        config: what `adapter.json` will say, with the digest of the tensors' file added.
        tensors: from `trainable_state`.
        dtype: to store in; float16 halves the file for shipping.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = Path(folder)
    stored = {name: t.detach().to("cpu", dtype).contiguous() for name, t in tensors.items()}
    path = folder / TENSORS_FILE
    # Both are written before either is moved: where there is no room, both stay as they were.
    with (
        told_as_output(path, SafetensorError),
        atomic_path(folder / CONFIG_FILE) as record,
        atomic_path(path) as temporary,
    ):
        # One entry: safetensors writes several in an order of chance, and with it the digest.
        save_file(stored, temporary, metadata={"format": "textsam-adapter-1"})
        temporary.chmod(0o644)  # safetensors writes for its owner alone
        config = config.model_copy(update={"tensors_sha256": sha256_of(temporary)})
        record.write_bytes(adapter_json(config).encode())
    return folder


def load_adapter(folder: str | Path, built: BuiltModel) -> AdapterConfig:
    """Load an adapter's tensors into a model built from its architecture.

    Raises:
        AdapterError: the folder is incomplete, the tensors' file is not the one its configuration
            names, or the tensors do not fit.
        WeightsError: the tensors' file is corrupt.
    """
    config = read_adapter_config(folder)
    check_tensors(folder, config)
    load_learned(folder, built)
    return config


def load_learned(folder: str | Path, built: BuiltModel) -> None:
    """Load the tensors of an adapter folder whose file has been checked.

    Raises:
        AdapterError: the tensors do not fit.
        WeightsError: the tensors' file is corrupt.
    """
    path = Path(folder) / TENSORS_FILE
    load_trainable(built.model, load_tensors(path), source=str(folder))
