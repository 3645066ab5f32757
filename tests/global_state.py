"""Everything a well-behaved library leaves as it found it."""

from __future__ import annotations

import ast
import importlib
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def global_state() -> dict[str, Any]:
    """Random generators, threads, precision and filters of this process."""
    import torch

    return {
        "torch rng": torch.get_rng_state().tolist(),
        "numpy rng": str(np.random.get_state()),  # noqa: NPY002 - the global one is meant
        "python rng": random.getstate(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "matmul": torch.get_float32_matmul_precision(),
        "warnings": list(warnings.filters),
        "numpy errors": np.geterr(),
    }


def libraries_imported_by(package: Path) -> set[str]:
    """Other libraries' modules that the files of a package import when they are imported."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Import):
                found |= {alias.name for alias in statement.names}
            elif isinstance(statement, ast.ImportFrom) and statement.module:
                found.add(statement.module)
    return {name for name in found if name.split(".")[0] not in (package.name, "__future__")}


def check_imports() -> None:
    """Import every module of textsam and compare; run in a fresh interpreter."""
    import textsam

    heavy = {"torch", "transformers", "peft", "monai", "scipy"} & sys.modules.keys()
    assert not heavy, f"import textsam imports {heavy}"
    package = Path(textsam.__file__).parent
    for name in sorted(libraries_imported_by(package)):
        importlib.import_module(name)  # what these do to the process is theirs
    before = global_state()
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            importlib.import_module(".".join(part for part in parts if part != "__init__"))
    after = global_state()
    assert "textsam.inference.segmenter" in sys.modules
    assert "textsam.train.run" in sys.modules
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"importing textsam changes: {changed}"


if __name__ == "__main__":
    check_imports()
