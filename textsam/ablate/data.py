"""The data of an ablation's cells: found once, every file checked once, known by contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from textsam.ablate.spec import EvaluationSettings
from textsam.config import TrainConfig
from textsam.data.check import Checker, check_samples
from textsam.data.digests import FileDigests
from textsam.data.problems import WARNINGS, DataReport, Kind, Problem, Problems
from textsam.data.sample import Sample
from textsam.data.sources import CheckedData, find_samples, read_stamped, samples_in, stamp_of
from textsam.errors import ConfigError, DataError
from textsam.evaluate.plan import refuse_twice
from textsam.prompts import canonical

__all__ = ["AblationData", "evaluation_samples"]


def evaluation_samples(
    evaluation: EvaluationSettings, problems: Problems | None = None
) -> list[Sample]:
    """The samples an evaluation is about; its root must be set.

    Args:
        evaluation: its settings.
        problems: takes what is wrong, and the search goes on; None raises for the first.

    Raises:
        DataError: the data are incomplete; with `problems` never.
    """
    root = Path(str(evaluation.root))
    return samples_in(root, evaluation.sets, evaluation.folders, evaluation.coco, problems=problems)


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples of one setting.

    Attributes:
        name: "train", "val" or "test".
        cell: the first that uses them.
        samples: that were found.
        problems: of finding them.
    """

    name: str
    cell: str
    samples: list[Sample]
    problems: list[Problem]

    @property
    def complete(self) -> bool:
        """Whether all that the settings name was found."""
        return all(problem.kind in WARNINGS for problem in self.problems)

    @property
    def images(self) -> set[Path]:
        """The files, each by its one true path."""
        return {sample.image_path.resolve() for sample in self.samples}


class AblationData:
    """Data of all cells: `add` each, then `check` all, then ask for digests.

    Args:
        files: digests of files that are known already.

    Attributes:
        seen_in_validation: evaluation images that also chose the best adapter; of several cells
            the most.
    """

    def __init__(self, files: FileDigests) -> None:
        self.files = files
        self.seen_in_validation = 0
        self._parts: dict[tuple[str, str], _Part] = {}
        # Parts that must have no image in common, with the kinds of fault allowed there.
        self._groups: dict[tuple[_Part, _Part], frozenset[Kind]] = {}
        self._digests: dict[_Part, str] = {}

    def add(self, cell: str, config: TrainConfig, evaluation: EvaluationSettings) -> None:
        """Find the samples of a cell. What is wrong with files is left to `check`.

        Raises:
            ConfigError: images are trained and validated on, or trained and evaluated on; or a cell
                has none to train or to validate on.
            DataError: what is evaluated on shows nothing that is trained, or has two images of one
                set and name.
        """
        if (_training_key(config), "train") not in self._parts:
            samples, found = find_samples(config.data)
            for name, own in samples.items():
                problems = [problem for problem in found if problem.part == name]
                self._parts[_training_key(config), name] = _Part(name, cell, own, problems)
        if (_test_key(evaluation), "test") not in self._parts:
            collected = Problems("test")
            own = evaluation_samples(evaluation, collected)
            refuse_twice(own)
            part = _Part("test", cell, own, collected.found)
            self._parts[_test_key(evaluation), "test"] = part
        train, val = (self._parts[_training_key(config), name] for name in ("train", "val"))
        test = self._parts[_test_key(evaluation), "test"]
        if (train, test) in self._groups:
            return
        self._groups |= dict.fromkeys([(train, val), (train, test)], frozenset(config.data.allow))
        self.seen_in_validation = max(self.seen_in_validation, len(val.images & test.images))
        _refuse_what_cannot_be_compared(train, test)

    def check(self, folder: Path, remedy: str) -> CheckedData:
        """Read every file of all cells, as training does with its own.

        Images that are both trained and evaluated on are found by their pixels, too. Those that
        are both validated and evaluated on are no fault.

        Args:
            folder: of the ablation. If it holds the stamp of an earlier check of the same files,
                unchanged, they are not read again. Nothing is written.
            remedy: what to do, at the end of the message.

        Raises:
            DataCheckError: faults, all of them in one report.
        """
        labels = {part: self._label(part) for part in self._parts.values()}
        samples = {labels[part]: part.samples for part in labels}
        found = {
            part: [replace(problem, part=labels[part]) for problem in part.problems]
            for part in labels
        }
        counts = {label: len(own) for label, own in samples.items()}
        allowed = frozenset(kind for kinds in self._groups.values() for kind in kinds)
        groups = [
            f"{labels[one]}, {labels[other]}: {sorted(kinds)}"
            for (one, other), kinds in self._groups.items()
        ]
        stamp = stamp_of(samples, groups)
        known = all(part.complete for part in labels)
        if known and read_stamped(folder).get("stamp") == stamp:
            problems = tuple(problem for own in found.values() for problem in own)
            return CheckedData(samples, DataReport(problems, counts, allowed), stamp)
        checker = Checker(progress=True)
        reports = [
            check_samples(
                {labels[one]: one.samples, labels[other]: other.samples},
                [*found[one], *found[other]],
                allowed=kinds,
                checker=checker,
            )
            for (one, other), kinds in self._groups.items()
        ]
        names = {labels[part]: part.name for part in labels}
        errors = _each_once([p for report in reports for p in report.errors], names)
        DataReport(errors, counts).raise_errors(remedy)
        warnings = _each_once([p for report in reports for p in report.warnings], names)
        report = DataReport(warnings, counts, allowed, checker.files, checker.seconds)
        return CheckedData(samples, report, stamp)

    def training_digest(self, config: TrainConfig, name: str) -> str:
        """Of the contents of a cell's "train" or "val" part."""
        return self._digest(self._parts[_training_key(config), name])

    def evaluation_digest(self, evaluation: EvaluationSettings) -> str:
        """Of the contents of what a cell is evaluated on."""
        return self._digest(self._parts[_test_key(evaluation), "test"])

    def _digest(self, part: _Part) -> str:
        if part not in self._digests:
            self._digests[part] = self.files.of_samples(part.samples)
        return self._digests[part]

    def _label(self, part: _Part) -> str:
        """What messages call a part: with its cell, where cells have different ones."""
        alike = sum(other.name == part.name for other in self._parts.values())
        return part.name if alike == 1 else f"{part.name} of cell {part.cell!r}"


def _refuse_what_cannot_be_compared(train: _Part, test: _Part) -> None:
    if both := sorted(train.images & test.images):
        example = next(s for s in test.samples if s.image_path.resolve() == both[0])
        raise ConfigError(
            f"{len(both)} of {len(test.images)} images to evaluate on are trained on, e.g. "
            f"{example.name}; give `evaluate` another split or part"
        )
    known = {target.concept for sample in train.samples for target in sample.targets}
    wanted = {target.concept for sample in test.samples for target in sample.targets}
    # Where files are missing, that is what is told.
    complete = train.complete and test.complete
    if complete and not any(canonical(concept, known) for concept in wanted):
        raise DataError(
            f"the images to evaluate on show {', '.join(sorted(wanted)) or 'nothing'}, those "
            f"trained on {', '.join(sorted(known))}; give `evaluate` what is trained"
        )


def _each_once(problems: Sequence[Problem], names: Mapping[str, str]) -> tuple[Problem, ...]:
    """Problems without those told before: a part is in several groups, a file in several parts.

    Args:
        problems: with labels as parts.
        names: label -> name of the part; faults of a file in "train" of two cells are one.
    """
    first: dict[tuple[str, str, str, str], Problem] = {}
    for problem in problems:
        key = (problem.kind, names[problem.part], problem.path, problem.message)
        first.setdefault(key, problem)
    return tuple(first.values())


def _training_key(config: TrainConfig) -> str:
    return config.data.model_dump_json()


def _test_key(evaluation: EvaluationSettings) -> str:
    return f"{evaluation.root} {evaluation.sets} {evaluation.folders} {evaluation.coco}"
