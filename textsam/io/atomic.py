"""Write a file under a temporary name, then move it into place: readers never see half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textsam.errors import OutputError, TextSAMError, remedy_of, system_reason
from textsam.io.readable_json import readable_json

__all__ = ["atomic_path", "save_text", "told_as", "told_as_output", "write_json"]


@contextmanager
def atomic_path(target: str | Path, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `target`; move it onto `target` when the block succeeds.

    Args:
        target: the file to write; parent folders are made.
        suffix: kept at the end of the temporary name, for writers that choose a format by it.

    The temporary file is removed when the block raises, and `target` is then left as it was. Errors
    stay what they are: one of something the block reads cannot be told from one of writing.
    `told_as` and `told_as_output` are for blocks that do nothing but write.

    Raises:
        OutputError: the target is no name that a file can have.
    """
    target = Path(target)
    if not target.name or "\0" in str(target):
        raise OutputError(f"{str(target)!r} is no name of a file; give a path such as out/mask.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not longer than the target's name may be: the longest names a file system takes are legal.
    stem = target.name[:32] if target.name.isascii() else ""
    temporary = target.with_name(f".{stem}.{os.getpid()}.{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def told_as_output(path: str | Path, *kinds: type[Exception]) -> Iterator[None]:
    """Raise what keeps a file from being written as an `OutputError` that names it.

    Args:
        path: of the file, or the folder, that the block writes.
        kinds: what its writer raises for that beside `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise OutputError.of(Path(path), error) from error
    except kinds as error:
        why = str(error).partition("\n")[0]
        raise OutputError(
            f"{path}: cannot be written ({why}); check the folder, its permissions and the space"
        ) from error


@contextmanager
def told_as(kind: type[TextSAMError], path: Path) -> Iterator[None]:
    """Raise an `OSError` as an error of another kind that names the file that the block writes."""
    try:
        yield
    except OSError as error:
        number, why = system_reason(error)
        raise kind(f"{path}: the file cannot be written ({why}); {remedy_of(number)}") from error


def save_text(path: str | Path, text: str) -> Path:
    """Write text as UTF-8, complete or not at all, and return the path.

    Lines end as the text says, on every system. The lone surrogates of a file name that is no UTF-8
    are written as "\\udcff", which JSON reads as what they were.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    with told_as(OutputError, path):
        _write(path, text)
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as `readable_json` in UTF-8, complete or not at all.

    Line ends and lone surrogates are written as by `save_text`.

    Raises:
        ValueError: a number that is not finite: JSON has none.
        TypeError: something else that JSON has not.
        OutputError: the file cannot be written.
    """
    text = readable_json(content, allow_nan=False)
    with told_as_output(path):
        _write(path, text + "\n")


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
