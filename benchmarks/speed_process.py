"""Processes of the speed benchmark, and the machine they run on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["HERE", "Worker", "available_mib", "code_digest", "environment", "machine"]

HERE = Path(__file__).resolve().parent
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
# What decides the speed; other parts of the library may change between two commands.
MEASURED = (
    "model",
    "inference",
    "train",
    "api.py",
    "preprocess.py",
)


class Worker:
    """A contender's process.

    Args:
        contender: of `speed_worker.py`.
        options: its command line options.
    """

    def __init__(self, contender: str, options: Sequence[str]) -> None:
        self.name = contender
        command = [sys.executable, str(HERE / "speed_worker.py"), contender, *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        self.hello = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """One piece of work."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    described: dict[str, Any] = {"processor": platform.processor() or platform.machine()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        fields = dict(
            (part.strip() for part in line.split(":", 1))
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if ":" in line
        )
        described["processor"] = fields.get("model name", described["processor"])
        flags = fields.get("flags", "").split()
        described["flags"] = " ".join(flag for flag in FLAGS if flag in flags)
    described["cores"] = os.cpu_count()
    described["python"] = platform.python_version()
    for package in ("torch", "segment-anything", "transformers"):
        described[package] = version(package)
    return described


def available_mib() -> int | None:
    """Memory that can be had without swapping, where the system tells."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    lines = info.read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    return int(line.split()[1]) // 1024


def code_digest() -> str:
    """Digest of the code that is measured."""
    package = HERE.parent / "textsam"
    files = [HERE / "authors_procedure.py"]
    for name in MEASURED:
        place = package / name
        files += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    text = b"".join(path.read_bytes() for path in files if path.is_file())
    return hashlib.sha256(text).hexdigest()[:16]


def environment() -> dict[str, str]:
    """For the processes measured: this checkout first, whatever is installed."""
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
