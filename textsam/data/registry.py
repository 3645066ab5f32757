"""Add a set to a data root: what `manifest.json` and `splits.json` say of its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from textsam.data.manifest import MANIFEST_NAME, SPLITS_NAME, read_json
from textsam.errors import DataError, TextSAMError
from textsam.io.atomic import write_json
from textsam.io.lock import locked

__all__ = ["check_name", "registering"]

_WAIT_S = 60.0
_LOCK_NAME = f".{MANIFEST_NAME}.lock"

Register = Callable[[Mapping[str, Any], Mapping[str, Sequence[str]]], None]
"""Takes a set's entry in the manifest, and part -> stems."""


def check_name(root: Path, name: str) -> None:
    """Refuse the name of a set that a data root has.

    Raises:
        DataError: it has, or its JSON files cannot be read or written anew.
    """
    _known(root, name)


@contextmanager
def registering(root: Path, name: str) -> Iterator[Register]:
    """Yield what adds a set to both files, with no other process changing them meanwhile.

    They are read when the block begins: another conversion may have added a set since
    `check_name`. Where they cannot be written, the set's folder is removed and both are as before.

    Args:
        root: data root, a folder that is there.
        name: of the set.

    Raises:
        DataError: the name is taken by now, or another process keeps the files for a minute.
        OSError: the lock cannot be written.
    """
    busy = DataError(
        f"another process has been adding a set to {root} for {_WAIT_S:.0f} s; wait for it, and "
        "convert again"
    )
    with locked(root / _LOCK_NAME, busy, stays=False, wait_s=_WAIT_S):
        manifest, splits = _known(root, name)

        def register(entry: Mapping[str, Any], stems: Mapping[str, Sequence[str]]) -> None:
            try:
                write_json(root / SPLITS_NAME, {**splits, name: stems})
                write_json(root / MANIFEST_NAME, {**manifest, name: entry})
            except BaseException:
                shutil.rmtree(root / name, ignore_errors=True)
                with suppress(TextSAMError, OSError):
                    _restore(root / SPLITS_NAME, splits)
                raise

        yield register


def _restore(path: Path, before: Mapping[str, Any]) -> None:
    if before:
        write_json(path, before)
    else:
        path.unlink(missing_ok=True)


def _known(root: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both files hold; that they do not have the set is checked."""
    manifest, splits = _read(root / MANIFEST_NAME), _read(root / SPLITS_NAME)
    if name in manifest or any(key.split("/")[0] == name for key in splits):
        raise DataError(f"{root} has a set {name!r} already; choose another name")
    if (root / name).exists():
        raise DataError(
            f"{root / name} exists already, though {MANIFEST_NAME} has no such set; remove it, or "
            "choose another name"
        )
    return manifest, splits


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.exists() else {}
    try:
        json.dumps(content, allow_nan=False)
    except ValueError as error:  # it is read, but could not be written again
        raise DataError(
            f"{path} cannot be added to ({error}); take the number that is none out of it"
        ) from error
    return content
