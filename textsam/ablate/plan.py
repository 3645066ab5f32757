"""From an ablation's file to independent jobs; all is checked before the first one starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from textsam.ablate.identity import (
    Facts,
    base_facts,
    digest_of,
    training_facts,
)
from textsam.ablate.spec import AblationConfig, CellSettings, EvaluationSettings
from textsam.config import TrainConfig, read_config
from textsam.data.digests import FileDigests
from textsam.data.folder import samples_from_folder, samples_from_manifest
from textsam.data.sample import Sample
from textsam.errors import ConfigError, DataError, TextSAMError
from textsam.prompts import canonical

__all__ = ["CellJob", "Job", "Plan", "evaluation_samples", "make_plan"]

# What a cell must not say, and who says it.
_TAKEN = {"name": "the ablation", "out": "--out", "seed": "`seeds` or --seeds"}


@dataclass(frozen=True)
class CellJob:
    """One cell of one seed.

    Attributes:
        cell: its name.
        seed: of the training.
        folder: of its results.
        evaluation: with its root.
        facts: what the results depend on.
    """

    cell: str
    seed: int
    folder: Path
    evaluation: EvaluationSettings
    facts: Facts

    @property
    def identity(self) -> str:
        """Digest of the facts."""
        return digest_of(self.facts)

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.cell}, seed {self.seed}"


@dataclass(frozen=True)
class Job:
    """One training with the cells that use its adapter: what a worker is given.

    Attributes:
        root: folder of all ablations; holds `trainings/` and `locks/`.
        key: of the training: the name of its folder and of its adapter.
        config: of the training.
        calibrate: passes of the calibration, or None.
        facts: what the adapter depends on.
        cells: that use it.
        problems: folder for tracebacks.
    """

    root: Path
    key: str
    config: TrainConfig
    calibrate: int | None
    facts: Facts
    cells: tuple[CellJob, ...]
    problems: Path

    @property
    def identity(self) -> str:
        """Digest of the facts."""
        return digest_of(self.facts)

    @property
    def training(self) -> Path:
        """Folder of the training."""
        return self.root / "trainings" / self.key


@dataclass(frozen=True)
class Plan:
    """All jobs of an ablation, those of seeds found on disk included.

    Attributes:
        ablation: its settings.
        root: folder of all ablations.
        jobs: each training once.
        seen_in_validation: evaluation images that also chose the best adapter.
    """

    ablation: AblationConfig
    root: Path
    jobs: tuple[Job, ...]
    seen_in_validation: int

    @property
    def folder(self) -> Path:
        """Of this ablation's table and cells."""
        return self.root / self.ablation.name

    @property
    def cells(self) -> dict[tuple[str, int], CellJob]:
        """Name and seed -> cell."""
        return {(cell.cell, cell.seed): cell for job in self.jobs for cell in job.cells}

    def jobs_for(self, names: Iterable[str], seeds: Iterable[int]) -> list[Job]:
        """The jobs, each cut down to the cells of these names and seeds."""
        wanted_names, wanted_seeds = set(names), set(seeds)
        cut = []
        for job in self.jobs:
            cells = tuple(c for c in job.cells if c.cell in wanted_names and c.seed in wanted_seeds)
            if cells:
                cut.append(replace(job, cells=cells))
        return cut


def evaluation_samples(evaluation: EvaluationSettings) -> list[Sample]:
    """The samples an evaluation is about; its root must be set.

    Raises:
        DataError: the data are incomplete.
    """
    root = Path(str(evaluation.root))
    samples = samples_from_manifest(root, list(evaluation.sets)) if evaluation.sets else []
    for item in evaluation.folders:
        samples += samples_from_folder(
            root / item.folder, item.concept, split=item.split, modality=item.modality
        )
    return samples


def _cell_config(base: Path, cell: CellSettings, common: Sequence[str], where: str) -> TrainConfig:
    for assignment in (*common, *cell.set):
        setting = assignment.partition("=")[0].strip()
        if setting in _TAKEN:
            raise ConfigError(
                f"{where}, cell {cell.name!r}: {assignment!r} cannot be set here; it comes from "
                f"{_TAKEN[setting]}"
            )
    try:
        return read_config(base, [*common, *cell.set])
    except ConfigError as error:
        raise ConfigError(f"{where}, cell {cell.name!r}: {error}") from error


def _seeds_on_disk(folder: Path) -> set[int]:
    found = (re.fullmatch(r"seed-(\d+)", path.name) for path in folder.glob("cells/*/seed-*"))
    return {int(match[1]) for match in found if match}


class _Data:
    """Samples and digests of data settings, each read once, and checked against each other."""

    def __init__(self, files: FileDigests) -> None:
        self.files = files
        self.seen_in_validation = 0
        self._parts: dict[str, tuple[list[Sample], str]] = {}
        self._checked: set[tuple[str, str]] = set()

    def training(self, config: TrainConfig, part: str) -> tuple[list[Sample], str]:
        key = f"{part} {config.data.model_dump_json()}"
        if key not in self._parts:
            # Imports torch, which reading an ablation does not need.
            from textsam.data.sources import samples_of

            samples = samples_of(config.data, part)
            self._parts[key] = samples, self.files.of_samples(samples)
        return self._parts[key]

    def evaluation(self, evaluation: EvaluationSettings) -> tuple[list[Sample], str]:
        key = f"{evaluation.root} {evaluation.sets} {evaluation.folders}"
        if key not in self._parts:
            samples = evaluation_samples(evaluation)
            self._parts[key] = samples, self.files.of_samples(samples)
        return self._parts[key]

    def check(self, config: TrainConfig, evaluation: EvaluationSettings) -> None:
        train, train_digest = self.training(config, "train")
        val, _ = self.training(config, "val")
        test, test_digest = self.evaluation(evaluation)
        if (train_digest, test_digest) in self._checked:
            return
        self._checked.add((train_digest, test_digest))
        asked = {s.image_path.resolve(): s for s in test}
        if both := sorted({s.image_path.resolve() for s in train} & asked.keys()):
            raise ConfigError(
                f"{len(both)} of {len(asked)} images to evaluate on are trained on, e.g. "
                f"{asked[both[0]].name}; give `evaluate` another split or part"
            )
        chosen_by = len({s.image_path.resolve() for s in val} & asked.keys())
        self.seen_in_validation = max(self.seen_in_validation, chosen_by)
        known = {target.concept for sample in train for target in sample.targets}
        wanted = {target.concept for sample in test for target in sample.targets}
        if not any(canonical(concept, known) for concept in wanted):
            raise DataError(
                f"the images to evaluate on show {', '.join(sorted(wanted)) or 'nothing'}, those "
                f"trained on {', '.join(sorted(known))}; give `evaluate` what is trained"
            )


def make_plan(
    ablation: AblationConfig,
    path: Path,
    root: Path,
    *,
    common: Sequence[str] = (),
    sam_checkpoint: Path | None = None,
    text_encoder: Path | None = None,
) -> Plan:
    """Resolve and check all cells of all seeds, those with results on disk included.

    Args:
        ablation: its settings.
        path: of its file, from which the base configuration is found.
        root: folder of all ablations.
        common: assignments `a.b=value` for every cell, before its own.
        sam_checkpoint, text_encoder: base weights instead of the registry's.

    Raises:
        ConfigError: an assignment names no setting or a wrong value, images are trained and
            evaluated on; the message names the cell.
        DataError: data are missing, or have nothing in common.
    """
    base = path.parent / ablation.base
    configs = {cell.name: _cell_config(base, cell, common, str(path)) for cell in ablation.cells}
    files = FileDigests()
    data = _Data(files)
    seeds = sorted({*ablation.seeds} | _seeds_on_disk(root / ablation.name))
    jobs: dict[str, Job] = {}
    for cell in ablation.cells:
        config = configs[cell.name]
        try:
            evaluation = ablation.evaluation_of(cell)
        except ConfigError as error:
            raise ConfigError(f"{path}, cell {cell.name!r}: {error}") from error
        if evaluation.root is None:
            evaluation = evaluation.model_copy(update={"root": config.data.root})
        if evaluation.refine_with is None:
            # Named, so that results are known by what was done and not by who chose it.
            own_way = config.inference[1]
            evaluation = evaluation.model_copy(update={"refine_with": own_way})
        try:
            data.check(config, evaluation)
            contents = {part: data.training(config, part)[1] for part in ("train", "val")}
            weights = base_facts(config.preset, sam_checkpoint, text_encoder, files)
            asked = evaluation.facts()
            asked["contents"] = data.evaluation(evaluation)[1]
        except TextSAMError as error:
            raise type(error)(f"{path}, cell {cell.name!r}: {error}") from error
        for seed in seeds:
            own = config.model_copy(update={"seed": seed})
            facts = training_facts(own, ablation.calibrate, contents, weights)
            key = f"{config.preset}-seed{seed}-{digest_of(facts)[:12]}"
            place = {"name": key, "out": str(root / "trainings")}
            job = jobs.setdefault(
                key,
                Job(
                    root=root,
                    key=key,
                    config=own.model_copy(update=place),
                    calibrate=ablation.calibrate,
                    facts=facts,
                    cells=(),
                    problems=root / ablation.name / "failures",
                ),
            )
            result = CellJob(
                cell=cell.name,
                seed=seed,
                folder=root / ablation.name / "cells" / cell.name / f"seed-{seed}",
                evaluation=evaluation,
                facts={"training": facts, "evaluation": asked},
            )
            jobs[key] = replace(job, cells=(*job.cells, result))
    # Seed by seed, so that an interrupted table has whole columns of one seed first.
    ordered = sorted(jobs.values(), key=lambda job: job.config.seed)
    return Plan(ablation, root, tuple(ordered), data.seen_in_validation)
