"""Rows of a measurement as a CSV that survives a kill, and JSON that says what they depend on."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from textsam.data.digests import FileDigests
from textsam.data.listing import listed
from textsam.data.sample import Sample
from textsam.errors import DataError, system_reason
from textsam.evaluate.tables import csv_text
from textsam.io.atomic import save_text, told_as_output, write_json
from textsam.io.lock import locked

__all__ = [
    "ANEW",
    "CONTENTS",
    "ImageKey",
    "RowFile",
    "by_image",
    "cell_text",
    "digests_of",
    "read_lines",
    "read_settings",
]

ImageKey = tuple[str, str]
"""Data set and stem."""


class _OfImage(Protocol):
    @property
    def image(self) -> ImageKey: ...


Row = TypeVar("Row", bound=_OfImage)

CONTENTS = "contents"
"""Key of the digests in a file of settings: data set -> stem -> digest."""

_LOCK_FILE = ".measuring.lock"
_HASHES = frozenset({"identity", "fingerprint"})

ANEW = "give another folder (-o) or remove this one to start anew; from Python, resume=False does"


def cell_text(value: object) -> str:
    """A value as a cell: nothing for None, and for an empty mapping; mappings as JSON."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False) if value else ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_lines(path: Path, remedy: str) -> list[list[str]]:
    """The header and the whole lines of a CSV; a last line without an end is dropped.

    Raises:
        DataError: no such file, or none that is a CSV; ends with the remedy.
    """
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        text = whole.decode("utf-8", "surrogateescape")  # as `append` wrote it
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({system_reason(error)[1]}); {remedy}") from error


def digests_of(samples: Iterable[Sample]) -> dict[ImageKey, str]:
    """Digest of what each sample shows, 16 hexadecimal digits: enough to tell that it changed.

    Raises:
        DataError: a file cannot be read.
    """
    files = FileDigests()
    return {(s.dataset, s.stem): files.of_sample(s)[:16] for s in samples}


def read_settings(path: Path, remedy: str) -> dict[str, Any]:
    """What the rows beside a file of settings depend on.

    Raises:
        DataError: no such file, or another file; ends with the remedy.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} that says how the rows beside it were made cannot be read "
            f"({system_reason(error)[1]}); {remedy}"
        ) from error
    if not isinstance(settings, dict):
        raise DataError(f"{path} does not describe a measurement; {remedy}")
    return settings


def _by_set(contents: Mapping[ImageKey, str]) -> dict[str, dict[str, str]]:
    sets: dict[str, dict[str, str]] = {}
    for (dataset, stem), digest in contents.items():
        sets.setdefault(dataset, {})[stem] = digest
    return sets


def by_image(sets: Mapping[str, Any]) -> dict[ImageKey, Any]:
    """What a file records under `CONTENTS`, by image."""
    return {
        (dataset, stem): digest
        for dataset, stems in sets.items()
        if isinstance(stems, dict)
        for stem, digest in stems.items()
    }


def _busy(folder: Path) -> DataError:
    return DataError(
        f"{folder}: another process is measuring into this folder; wait for it, or give another "
        "folder (-o)"
    )


class RowFile(ABC, Generic[Row]):
    """Rows in a folder, appended image by image; the folder is held until `close` or a block's end.

    Opening it drops what a kill left behind: a half-written last line, and the rows of an image
    that has not got all of them. Whole images in the file are kept in `finished`.

    Args:
        folder: made if it is not there.
        settings: what the rows depend on; JSON types.
        contents: digest of what each image that is to be asked shows, annotations included. It is
            kept image by image, so that a measurement can go on with more images than before.
        resume: False throws earlier rows away.

    Raises:
        DataError: the folder is a file, another process is measuring into it, or the rows in it
            were made with other settings, of other files, are of images that do not belong to them,
            or cannot be read.
        OutputError: a file cannot be written.
    """

    rows_name: ClassVar[str]
    settings_name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        contents: Mapping[ImageKey, str],
        *,
        resume: bool,
    ) -> None:
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; give a folder for the results")
        self.path = folder / self.rows_name
        self.images = contents.keys()
        self.finished: dict[ImageKey, list[Row]] = {}
        lock_path = folder / _LOCK_FILE
        with ExitStack() as undo:
            undo.enter_context(told_as_output(folder))
            folder.mkdir(parents=True, exist_ok=True)
            # Two at a time would write every row twice.
            undo.enter_context(locked(lock_path, _busy(folder), stays=False))
            self._begin(folder / self.settings_name, settings, contents, resume)
            self._close = undo.pop_all().close

    def _begin(
        self,
        settings_path: Path,
        settings: Mapping[str, Any],
        contents: Mapping[ImageKey, str],
        resume: bool,
    ) -> None:
        earlier = self._earlier() if resume and self.path.exists() else {}
        if earlier:
            self._check(settings_path, settings, {i: contents[i] for i in earlier if i in contents})
            self.finished = {
                image: rows for image, rows in earlier.items() if self.complete(image, rows)
            }
        # In this order, so that a kill never leaves rows under settings that are not theirs.
        if not self.finished:
            self.path.unlink(missing_ok=True)
        recorded = {**settings, CONTENTS: _by_set(contents)}
        write_json(settings_path, recorded)
        kept = [self.cells(row) for rows in self.finished.values() for row in rows]
        save_text(self.path, csv_text([self.columns, *kept]))

    def close(self) -> None:
        """Let another measurement have the folder."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def cells(cls, row: Row) -> list[str]:
        """The line of a row."""
        return [cell_text(getattr(row, name)) for name in cls.columns]

    @classmethod
    @abstractmethod
    def row(cls, cells: Mapping[str, str]) -> Row:
        """The row of a line; ValueError, TypeError or IndexError if it is damaged."""

    @abstractmethod
    def complete(self, image: ImageKey, rows: Sequence[Row]) -> bool:
        """Whether an image has all its rows; DataError if they do not belong to the measurement."""

    def append(self, rows: Sequence[Row]) -> None:
        """Add all rows of one image.

        Raises:
            OutputError: they cannot be written; what was finished stays.
        """
        # A file name need not be valid UTF-8; its bytes are kept.
        with (
            told_as_output(self.path),
            self.path.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            file.write(csv_text(map(self.cells, rows)))
            file.flush()

    @classmethod
    def parse(
        cls, path: Path, columns: Sequence[str], lines: Sequence[Sequence[str]], remedy: str
    ) -> list[Row]:
        """The rows of the lines below a header.

        Raises:
            DataError: a damaged line; ends with the remedy.
        """
        rows = []
        for number, line in enumerate(lines, start=2):
            try:
                rows.append(cls.row(dict(zip(columns, line, strict=True))))
            except (ValueError, TypeError, IndexError) as error:
                raise DataError(f"{path}, row {number} is damaged ({error}); {remedy}") from error
        return rows

    def _earlier(self) -> dict[ImageKey, list[Row]]:
        lines = read_lines(self.path, ANEW)
        if lines and tuple(lines[0]) != self.columns:
            raise DataError(
                f"{self.path} has the columns {', '.join(lines[0])} instead of "
                f"{', '.join(self.columns)}, as another version of textsam wrote it; {ANEW}"
            )
        found: dict[ImageKey, list[Row]] = {}
        for row in self.parse(self.path, self.columns, lines[1:], ANEW):
            found.setdefault(row.image, []).append(row)
        return found

    def _check(
        self, path: Path, settings: Mapping[str, Any], contents: Mapping[ImageKey, str]
    ) -> None:
        before = read_settings(path, ANEW)
        recorded = before.pop(CONTENTS, None)
        now = json.loads(json.dumps(settings))
        other = [key for key in {**now, **before} if now.get(key) != before.get(key)]
        if other:
            # Hashes differ with all they are of, and say something only where nothing else does.
            told = [key for key in other if key not in _HASHES] or other
            differences = "; ".join(
                f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in told
            )
            raise DataError(
                f"{self.path} belongs to another measurement: {differences}. Measure as before to "
                f"go on, or {ANEW}"
            )
        if not isinstance(recorded, dict):
            raise DataError(
                f"{path} does not say what the images and masks of its rows were, as an earlier "
                f"version of textsam wrote it; {ANEW}"
            )
        known = by_image(recorded)
        changed = ["/".join(image) for image in contents if known.get(image) != contents[image]]
        if changed:
            raise DataError(
                f"{self.path} belongs to other data: the image, its masks or what is said of it "
                f"has changed for {listed(changed)}. Measure on the files of before to go on, or "
                f"{ANEW}"
            )
