"""The manifest: one line per finished input, so that a run can go on where it was stopped.

A line is written after all outputs of its input are in place, and it counts once its line end is
there. So whatever moment a run is killed at, an input is either finished, with a line, or done
again; its outputs then replace what was left of them.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from textsam.errors import ConfigError, DataError, OutputError, TextSAMError
from textsam.folder.find import real_path
from textsam.folder.names import SHEET_NAME, sheet_of
from textsam.io.lock import locked

__all__ = ["InputRecord", "Manifest", "file_identity", "outputs_before"]

MANIFEST_FORMAT = 1
_BLOCK_BYTES = 1 << 20
_KINDS: tuple[tuple[tuple[str, ...], type | tuple[type, ...]], ...] = (
    (("input", "base", "adapter", "model", "options", "status"), str),
    (("files", "prompts", "failures", "results"), list),
    (("outputs",), dict),
    (("seconds", "finished"), (int, float)),
)


@dataclass
class InputRecord:
    """What became of one input: one line of a manifest.

    Attributes:
        input: its name in the run, a relative path.
        base: where its outputs went, relative to the output folder.
        files: of each of its files the name, the size in bytes and the sha256 of its content.
        prompts: as asked.
        adapter: name of the adapter.
        model: hash of the model, the adapter and its settings.
        options: hash of what decides how inputs are read and outputs written.
        outputs: of each file written, its path relative to the output folder and its size in bytes.
        status: "done"; "failed" if any of its images failed; "no picture" for a sound DICOM file
            of a folder that holds something else, such as a report.
        failures: what failed: {"frame": number or None, "error": message}.
        results: one entry per image and prompt: `Segmentation.to_dict()` and "frame" (from 0; None
            where the input is one picture), "files" (paths relative to the output folder),
            "seconds" (of the image, for all its prompts), of an image of a series "in_file" (its
            file's "name", as inputs are named, and the "frame" in it, from 0) and, with the format
            "coco", "rle" (the mask as `encode_rle` gives it, where it is not empty).
        seconds: model time of all its images.
        finished: when, in seconds since 1970.
    """

    input: str
    base: str
    files: list[dict[str, Any]]
    prompts: list[str]
    adapter: str
    model: str
    options: str
    outputs: dict[str, int] = field(default_factory=dict)
    status: Literal["done", "failed", "no picture"] = "done"
    failures: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    finished: float = field(default_factory=time.time)

    def is_complete(self, out: Path) -> bool:
        """Whether it did not fail and all it wrote is still there, in the size it was written."""
        return self.status != "failed" and all(
            _size_of(out / name) == size for name, size in self.outputs.items()
        )


def file_identity(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size in bytes and sha256 of files, to tell later whether they are the same.

    Raises:
        OSError: a file cannot be read, or is none: a pipe might never come to an end.
    """
    identities: list[dict[str, Any]] = []
    for path in paths:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        digest, size_bytes = hashlib.sha256(), 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                size_bytes += len(block)
        identities.append({"name": path.name, "bytes": size_bytes, "sha256": digest.hexdigest()})
    return identities


def outputs_before(out: Path) -> frozenset[Path]:
    """The files that earlier runs wrote into a folder, as resolved paths.

    Raises:
        DataError: a manifest in it is damaged.
    """
    names: set[str] = set()
    sheets: set[str] = set()
    for path in _manifests(out):
        for _, record in _lines(path):
            names.update(record.outputs)
            if any("thumbnail" in result["files"] for result in record.results):
                sheets.add(f"{record.base}_sheet")
    if sheets:
        for path in out.iterdir():
            if SHEET_NAME.fullmatch(path.name) or sheet_of(path.name) in sheets:
                names.add(path.name)
    root = real_path(out)
    return frozenset(root / name for name in names)


class Manifest:
    """The manifest of one shard, and what all manifests in the same folder say.

    Of several lines about one input the one finished last counts, so a folder may be gone on with
    in other shards than it was begun in.

    Args:
        out: the output folder, which is made.
        label: of the shard, part of the file's name.

    Raises:
        ConfigError: another process is at work on the same shard.
        DataError: a line other than the last of a file is damaged.
        OutputError: the folder or the file cannot be written.
    """

    def __init__(self, out: Path, label: str) -> None:
        self.path = self.file_for(out, label)
        self._where: dict[str, tuple[Path, int, float]] = {}
        with ExitStack() as undo:
            try:
                out.mkdir(parents=True, exist_ok=True)
                undo.enter_context(locked(out / f".{self.path.stem}.lock", _busy(out)))
                # Without a buffer, as what a full disk did not take would be written by closing.
                self._file: FileIO = undo.enter_context(self.path.open("ab", buffering=0))
                self._file.truncate(_whole_bytes(self.path))
            except OSError as error:
                raise OutputError.of(self.path, error) from error
            for path in _manifests(out):
                for offset, record in _lines(path):
                    self._note(record, path, offset)
            self._close = undo.pop_all().close

    @staticmethod
    def file_for(out: Path, label: str) -> Path:
        """Where the manifest of a shard lies."""
        return out / f"manifest-{label}.jsonl"

    def add(self, record: InputRecord) -> None:
        """Append a line and wait until it is on the disk.

        Raises:
            OutputError: it cannot be written.
        """
        line = json.dumps({"format": MANIFEST_FORMAT, **dataclasses.asdict(record)})
        left = memoryview(line.encode("utf-8") + b"\n")
        try:
            offset = self._file.seek(0, os.SEEK_END)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError.of(self.path, error) from error
        self._note(record, self.path, offset)

    def get(self, name: str) -> InputRecord | None:
        """What the last line about an input says, None if there is none.

        Raises:
            DataError: the line is damaged, or the file cannot be read any more.
        """
        if name not in self._where:
            return None
        path, offset, _ = self._where[name]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                line = file.readline()
        except OSError as error:
            # Not left to those who write a table from this: it would be told of their file.
            raise DataError(
                f"{path} cannot be read ({error.strerror}); check the folder and its permissions"
            ) from error
        return _parsed(line, path, offset)

    def close(self) -> None:
        """Close the file, and let another run have it."""
        self._close()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note(self, record: InputRecord, path: Path, offset: int) -> None:
        before = self._where.get(record.input)
        if before is None or record.finished >= before[2]:
            self._where[record.input] = (path, offset, record.finished)


def _whole_bytes(path: Path) -> int:
    """Bytes up to the last line end; what follows was being written when a run was killed."""
    with path.open("rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))


def _busy(out: Path) -> ConfigError:
    return ConfigError(
        f"{out}: another process is at work on the same shard of it; wait for it, or give each "
        "process another -o or, of a folder, a --shard of its own"
    )


def _manifests(out: Path) -> list[Path]:
    return sorted(out.glob("manifest-*-of-*.jsonl"))


def _lines(path: Path) -> Iterator[tuple[int, InputRecord]]:
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # torn: the run was killed while it wrote it, or another is writing it now
            yield offset, _parsed(line, path, offset)
            offset += len(line)


def _parsed(line: bytes, path: Path, offset: int) -> InputRecord:
    try:
        content = json.loads(line)
        version = content.pop("format")
        if version != MANIFEST_FORMAT:
            raise DataError(
                f"{path}: a line has the format {version!r}, this version reads {MANIFEST_FORMAT}; "
                "give another -o"
            )
        record = InputRecord(**content)
        _check_types(record)
        return record
    except TextSAMError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: the line at byte {offset} is damaged ({error}); delete that line, and the "
            "input it is about is done again, or give another -o"
        ) from error


def _check_types(record: InputRecord) -> None:
    """Raise TypeError for what JSON can hold and a line cannot, such as a date for `finished`."""
    for names, kind in _KINDS:
        for name in names:
            value = getattr(record, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"{name} is {str(value)[:40]!r}")
    for name in ("files", "failures", "results"):
        if not all(isinstance(entry, dict) for entry in getattr(record, name)):
            raise TypeError(f"{name} holds something else than objects")


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
