"""Is this file the one the registry means? Checksums, and the memory of having checked.

Hashing hundreds of megabytes at every start would cost seconds, so a file that passed is remembered
by its path, size and modification time. Any change to the file changes one of these, and it is
hashed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from textsam.errors import WeightsError
from textsam.io.atomic import atomic_path
from textsam.weights.registry import WeightFile

__all__ = [
    "Status",
    "check_file",
    "expected_sha256",
    "forget",
    "record_path",
    "remember",
    "sha256_of",
    "sha256_of_folder",
]

Status = Literal["ok", "recorded", "missing", "corrupt"]

_BLOCK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-fA-F]{64}\b")
_log = logging.getLogger(__name__)


def sha256_of(path: Path) -> str:
    """Return the lower-case hexadecimal SHA-256 of a file, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_folder(folder: Path, digest_of: Callable[[Path], str] = sha256_of) -> str:
    """Return one digest of the names and contents of all files in a folder.

    Args:
        folder: with the folders in it.
        digest_of: of one file.
    """
    inside = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): digest_of(path) for path in inside}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def record_path(path: Path) -> Path:
    """Return where the digest of a file without a published one is kept: beside it."""
    return path.with_name(f"{path.name}.sha256")


def expected_sha256(file: WeightFile, path: Path) -> str | None:
    """Return the digest `path` must have: published, else recorded at first use, else None.

    Raises:
        WeightsError: what was recorded cannot be read, or is no digest.
    """
    if file.sha256 is not None:
        return file.sha256
    record = record_path(path)
    if not record.is_file():
        return None
    try:
        found = _DIGEST.match(record.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise WeightsError(f"{record} cannot be read ({error}); check its permissions") from error
    if found is None:
        raise WeightsError(
            f"{record} does not begin with a sha256; remove it, and the checksum of {path.name} as "
            "it is now is recorded and expected from then on"
        )
    return found[0].lower()


def record(path: Path, digest: str) -> None:
    """Write the digest of a file trusted at first use beside it.

    Raises:
        WeightsError: it cannot be written.
    """
    try:
        with atomic_path(record_path(path)) as temporary:
            temporary.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    except OSError as error:
        raise WeightsError(
            f"{record_path(path)} cannot be written ({error}), and without it nobody can tell "
            f"whether {path.name} changes; make the folder writable, or set TEXTSAM_HOME to one "
            "that is"
        ) from error


def check_file(
    file: WeightFile, path: Path, markers: Path, *, rehash: bool = False
) -> tuple[Status, str]:
    """Compare one file with the registry.

    Args:
        file: what the registry says.
        path: the file on this machine.
        markers: folder that remembers which files have been hashed before.
        rehash: hash even if the file is remembered as checked.

    Returns:
        The status and one sentence that says why:
        `ok` (digest as expected), `recorded` (no digest was known; the file's own was written
        beside it), `missing`, or `corrupt` (wrong size or digest).

    Raises:
        WeightsError: the file or its recorded digest cannot be read, or the latter not written.
    """
    if not path.is_file():
        return "missing", f"{path} does not exist"
    size = path.stat().st_size
    if file.size_bytes is not None and size != file.size_bytes:
        return "corrupt", f"{path} has {size} bytes, expected {file.size_bytes}"
    if not size:
        return "corrupt", f"{path} is empty"
    expected = expected_sha256(file, path)
    if not rehash and expected is not None and _remembered(path, markers) == expected:
        return "ok", f"sha256 {expected} (checked before, unchanged since)"
    try:
        state = _state(path)  # of what is hashed, should another take its place meanwhile
        actual = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error}); check its permissions") from error
    if expected is None:
        record(path, actual)
        _note(path, state, actual, markers)
        return "recorded", f"no published checksum; sha256 {actual} recorded as the one to expect"
    if actual != expected:
        forget(path, markers)
        source = f" ({record_path(path).name} beside it)" if file.sha256 is None else ""
        return "corrupt", f"{path} has sha256 {actual}, expected {expected}{source}"
    _note(path, state, actual, markers)
    return "ok", f"sha256 {actual}"


def _marker(path: Path, markers: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return markers / f"{name}.json"


def _state(path: Path) -> dict[str, object]:
    stat = path.stat()
    return {"path": str(path.resolve()), "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _remembered(path: Path, markers: Path) -> str | None:
    marker = _marker(path, markers)
    try:
        known = json.loads(marker.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("cannot read %s (%s); %s is checked again", marker, error, path.name)
        return None
    if not isinstance(known, dict):
        return None
    digest = known.pop("sha256", None)
    return digest if isinstance(digest, str) and known == _state(path) else None


def remember(path: Path, digest: str, markers: Path) -> None:
    """Note that `path`, as it is now, has this digest.

    A cache folder that cannot be written to is no reason to stop: the file was checked, and will
    be checked again next time. This is logged.
    """
    _note(path, _state(path), digest, markers)


def _note(path: Path, state: dict[str, object], digest: str, markers: Path) -> None:
    marker = _marker(path, markers)
    try:
        with atomic_path(marker) as temporary:
            temporary.write_text(json.dumps({**state, "sha256": digest}), encoding="utf-8")
    except OSError as error:
        _log.warning("cannot write %s (%s); %s is hashed at every start", marker, error, path.name)


def forget(path: Path, markers: Path) -> None:
    """Remove what was remembered of `path`."""
    try:
        _marker(path, markers).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("cannot remove the marker of %s: %s", path.name, error)
