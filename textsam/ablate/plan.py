"""From an ablation's file to independent jobs; all is checked before the first one starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from textsam.ablate.data import AblationData
from textsam.ablate.identity import (
    Facts,
    base_facts,
    digest_of,
    training_facts,
)
from textsam.ablate.spec import AblationConfig, CellSettings, EvaluationSettings
from textsam.config import TrainConfig, read_config
from textsam.data.digests import FileDigests
from textsam.data.sources import CheckedData
from textsam.errors import ConfigError, TextSAMError

__all__ = ["CellJob", "Job", "Plan", "make_plan"]

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

    def problem(self, cell: CellJob | None = None) -> Path:
        """Where the traceback goes if the training fails, or the evaluation of a cell."""
        name = self.key if cell is None else f"{cell.cell}-seed-{cell.seed}"
        return self.problems / f"{name}.txt"


@dataclass(frozen=True)
class Plan:
    """All jobs of an ablation, those of seeds found on disk included.

    Attributes:
        ablation: its settings.
        root: folder of all ablations.
        jobs: each training once.
        seen_in_validation: evaluation images that also chose the best adapter.
        checked: the data of all cells, which are without a fault.
    """

    ablation: AblationConfig
    root: Path
    jobs: tuple[Job, ...]
    seen_in_validation: int
    checked: CheckedData

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


def _check_common(cells: Sequence[CellSettings], common: Sequence[str], where: str) -> None:
    """Refuse an assignment for every cell that none would have, as each has its own."""
    for assignment in common:
        setting = assignment.partition("=")[0].strip()
        own = [{own.partition("=")[0].strip() for own in cell.set} for cell in cells]
        if all(setting in names for names in own):
            raise ConfigError(
                f"--set {assignment}: every cell of {where} sets {setting} itself, so that this "
                "would have no effect; leave it out, or change the cells"
            )


def _cell_evaluation(
    ablation: AblationConfig, cell: CellSettings, config: TrainConfig
) -> EvaluationSettings:
    """The evaluation of a cell with what it leaves to the training's configuration."""
    evaluation = ablation.evaluation_of(cell)
    if evaluation.root is None:
        evaluation = evaluation.model_copy(update={"root": config.data.root})
    if evaluation.refine_with is None:
        # Named, so that results are known by what was done and not by who chose it.
        evaluation = evaluation.model_copy(update={"refine_with": config.inference[1]})
    return evaluation


def _seeds_on_disk(folder: Path) -> set[int]:
    found = (re.fullmatch(r"seed-(\d+)", path.name) for path in folder.glob("cells/*/seed-*"))
    return {int(match[1]) for match in found if match}


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
            evaluated on; the message names the cell. Or every cell replaces one of `common`.
        DataCheckError: files that cannot be trained, validated or evaluated on; all are listed.
        DataError: what is trained and what is evaluated on have nothing in common.
    """
    _check_common(ablation.cells, common, str(path))
    base = path.parent / ablation.base
    configs = {cell.name: _cell_config(base, cell, common, str(path)) for cell in ablation.cells}
    files = FileDigests()
    data = AblationData(files)
    evaluations: dict[str, EvaluationSettings] = {}
    for cell in ablation.cells:
        try:
            evaluations[cell.name] = _cell_evaluation(ablation, cell, configs[cell.name])
            data.add(cell.name, configs[cell.name], evaluations[cell.name])
        except TextSAMError as error:
            raise type(error)(f"{path}, cell {cell.name!r}: {error}") from error
    remedy = (
        f"Nothing was trained for {path}. `textsam data check` lists every file of a "
        "configuration, a set or a folder."
    )
    checked = data.check(root / ablation.name, remedy)
    seeds = sorted({*ablation.seeds} | _seeds_on_disk(root / ablation.name))
    jobs: dict[str, Job] = {}
    for cell in ablation.cells:
        config, evaluation = configs[cell.name], evaluations[cell.name]
        try:
            contents = {part: data.training_digest(config, part) for part in ("train", "val")}
            weights = base_facts(config.preset, sam_checkpoint, text_encoder, files)
            asked = evaluation.facts()
            asked["contents"] = data.evaluation_digest(evaluation)
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
    return Plan(ablation, root, tuple(ordered), data.seen_in_validation, checked)
