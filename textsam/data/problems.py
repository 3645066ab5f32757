"""What is wrong with a data set, collected file by file and told all at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from textsam.errors import DataError, TextSAMWarning
from textsam.io.atomic import write_json

__all__ = [
    "ALLOWABLE",
    "KINDS",
    "WARNINGS",
    "DataCheckError",
    "DataReport",
    "DataWarning",
    "Kind",
    "Problem",
    "Problems",
]

Kind = Literal[
    "unusable-source",
    "missing-image",
    "missing-mask",
    "mask-without-image",
    "duplicate-stem",
    "broken-image",
    "broken-mask",
    "size-mismatch",
    "orientation-mismatch",
    "unknown-label",
    "not-a-mask",
    "unknown-reference",
    "bad-annotation",
    "unclosed-polygon",
    "degenerate-polygon",
    "bad-rle",
    "wrong-count",
    "unknown-patient",
    "patient-crosses",
    "patient-left-out",
    "empty-class",
    "same-image",
    "all-foreground",
    "odd-mask-values",
    "repeated-image",
    "crowd-left-out",
    "pixelless-annotation",
    "unknown-modality",
    "unsupported-file",
    "unread-folder",
]

KINDS: Mapping[Kind, str] = MappingProxyType(
    {
        "unusable-source": "a folder, manifest or annotation file that cannot be used at all",
        "missing-image": "images that are listed and not there",
        "missing-mask": "images without a mask",
        "mask-without-image": "masks without an image",
        "duplicate-stem": "several files of one name: which one is meant is not known",
        "broken-image": "images that cannot be read, or not to their end",
        "broken-mask": "masks that cannot be read, have several pages, or are no grey image",
        "size-mismatch": "masks or annotations of another size than their image",
        "orientation-mismatch": "masks that EXIF turns otherwise than their image",
        "unknown-label": "pixel values that no class of the set has",
        "not-a-mask": "masks of labels or small values where 0 and 255 are expected; write 255 "
        'inside, or give the value as a class in a manifest, as in "classes": {"1": CONCEPT}',
        "unknown-reference": "annotations of an image or a category that the file does not list",
        "bad-annotation": "entries of an annotation file that are incomplete or of a wrong type",
        "unclosed-polygon": "polygons whose outline does not close",
        "degenerate-polygon": "polygons that enclose nothing, or lie outside their image",
        "bad-rle": "run-length codes that are damaged or do not fill their image",
        "wrong-count": "other numbers of images or patients than were published",
        "unknown-patient": "names that do not say whose image it is",
        "patient-crosses": "patients with images in two parts",
        "patient-left-out": "images of patients that no part lists",
        "empty-class": "classes that are annotated and have no pixel in a whole part",
        "same-image": "one image, by its pixels, in two parts",
        "all-foreground": "masks that cover their whole image",
        "odd-mask-values": "0/255 masks with values between, as JPEG leaves them",
        "repeated-image": "one image, by its pixels, under two names in one part",
        "crowd-left-out": "concepts that are not asked where a crowd of them is",
        "pixelless-annotation": "annotated concepts without a pixel, which count as absent",
        "unknown-modality": "kinds of image of which it is not known what cannot be in them",
        "unsupported-file": "files beside images or masks that are left out for their suffix",
        "unread-folder": "folders of images inside images/, which are not looked into",
    }
)
"""Kind of problem -> what it is, in words."""

WARNINGS: frozenset[Kind] = frozenset(
    {
        "all-foreground",
        "odd-mask-values",
        "repeated-image",
        "crowd-left-out",
        "pixelless-annotation",
        "patient-left-out",
        "unknown-modality",
        "unsupported-file",
        "unread-folder",
    }
)
"""Kinds that keep no data from being used."""

ALLOWABLE: frozenset[Kind] = frozenset({"empty-class", "same-image"})
"""Kinds with which a run can be trained all the same, where its settings say so."""


@dataclass(frozen=True)
class Problem:
    """One offending file.

    Attributes:
        kind: a key of `KINDS`.
        part: of the data, such as "train"; empty where it belongs to none.
        path: the file, or what stands for it (a set, an annotation file).
        message: what is wrong with it.
    """

    kind: Kind
    part: str
    path: str
    message: str


class Problems:
    """Collects problems of one part. Finding samples goes on after each."""

    def __init__(self, part: str = "") -> None:
        self.part = part
        self.found: list[Problem] = []

    def add(self, kind: Kind, path: str | Path, message: str) -> None:
        """Record one offending file."""
        self.found.append(Problem(kind, self.part, str(path), message))

    @contextmanager
    def source(self, path: str | Path) -> Iterator[None]:
        """Record a `DataError` of the block as a source that cannot be used."""
        try:
            yield
        except DataError as error:
            self.add("unusable-source", path, str(error).removeprefix(f"{path}: "))


@dataclass(frozen=True)
class DataReport:
    """What a check found.

    Attributes:
        problems: all of them, in the order of `KINDS`.
        samples: part -> number of images in it.
        allowed: kinds of `ALLOWABLE` that count as warnings.
        files: number of files read; 0 where an earlier check was believed.
        seconds: how long that took.
    """

    problems: tuple[Problem, ...]
    samples: Mapping[str, int]
    allowed: frozenset[Kind] = frozenset()
    files: int = 0
    seconds: float = 0.0

    def is_error(self, problem: Problem) -> bool:
        """Whether a problem keeps the data from being used."""
        return problem.kind not in WARNINGS and problem.kind not in self.allowed

    @property
    def errors(self) -> list[Problem]:
        """Problems that keep the data from being used."""
        return [problem for problem in self.problems if self.is_error(problem)]

    @property
    def warnings(self) -> list[Problem]:
        """Problems to know of."""
        return [problem for problem in self.problems if not self.is_error(problem)]

    def text(self, most_per_kind: int = 5, *, errors_only: bool = False) -> str:
        """The problems by kind, in lines; of each kind at most so many files."""
        shown = self.errors if errors_only else list(self.problems)
        return "\n".join(_lines(shown, most_per_kind))

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON report: every problem, grouped by kind."""
        grouped: dict[str, list[dict[str, str]]] = defaultdict(list)
        for problem in _sorted(self.problems):
            grouped[problem.kind].append(
                {"part": problem.part, "path": problem.path, "message": problem.message}
            )
        return {
            "format": 1,
            "samples": dict(self.samples),
            "files_read": self.files,
            "seconds": round(self.seconds, 3),
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "allowed": sorted(self.allowed),
            "problems": grouped,
        }

    def write(self, path: str | Path) -> Path:
        """Write the JSON report, complete or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        path = Path(path)
        write_json(path, self.to_dict())
        return path

    def raise_errors(self, remedy: str = "") -> None:
        """Raise `DataCheckError` if there is an error among the problems."""
        if self.errors:
            raise DataCheckError(self, remedy)


class DataWarning(TextSAMWarning):
    """What a check remarks on data that can be used: files left out, the same image twice, …"""


class DataCheckError(DataError):
    """A data set has faults; `report` lists every offending file.

    Args:
        report: of the check.
        remedy: what to do, at the end of the message.
    """

    def __init__(self, report: DataReport, remedy: str = "") -> None:
        errors = report.errors
        kinds = len({problem.kind for problem in errors})
        head = (
            f"the data cannot be used: {_count(len(errors), 'problem')} of {_count(kinds, 'kind')}"
        )
        lines = [head, report.text(errors_only=True)]
        super().__init__("\n".join([*lines, remedy] if remedy else lines))
        self.report = report


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    rank = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(problems, key=lambda problem: rank[problem.kind])


def _lines(problems: Sequence[Problem], most: int) -> Iterable[str]:
    by_kind: dict[Kind, list[Problem]] = defaultdict(list)
    for problem in _sorted(problems):
        by_kind[problem.kind].append(problem)
    for kind, members in by_kind.items():
        yield f"{kind} ({len(members)}): {KINDS[kind]}"
        for problem in members[:most]:
            part = f"[{problem.part}] " if problem.part else ""
            yield f"  {part}{problem.path}: {problem.message}"
        if len(members) > most:
            yield f"  … and {len(members) - most} more"
