"""What an ablation file says: base configuration, cells, seeds, what is evaluated and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from textsam.data.coco import CocoSelection
from textsam.data.selection import Selection
from textsam.data.settings import FolderSelection
from textsam.errors import ConfigError
from textsam.inference.refinement import RefineWith
from textsam.inference.settle import Settle
from textsam.invalid import invalid_fields
from textsam.sections import Section, read_sections

__all__ = [
    "AblationConfig",
    "CellSettings",
    "EvaluationChanges",
    "EvaluationSettings",
    "PaperFigures",
    "read_ablation",
]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$"


class EvaluationChanges(Section):
    """How adapters are evaluated; in a cell, what differs from the ablation's.

    Attributes:
        refine: refinement passes; None takes what the adapter asks for.
        refine_with: what refinement takes from a mask; None takes what the adapter asks for.
        settle: refine until the mask changes no more, instead of a number of passes.
        prompts: what is given: "text", "text+geometry" or "geometry", as in `textsam evaluate`.
        box_shift: part of its size by which the truth's box is moved, given without a point; None
            gives a point and a loose box. Needs geometry.
        negatives: absent concepts asked per image.
        precision: of the image encoder: "auto", "float32" or "bfloat16".
        seed: of absent concepts and random points.
    """

    refine: int | None = Field(None, ge=0)
    refine_with: RefineWith | None = None
    settle: Settle | None = None
    prompts: Literal["text", "text+geometry", "geometry"] = "text"
    box_shift: float | None = Field(None, ge=0, lt=0.5)
    negatives: int = Field(0, ge=0)
    precision: str = Field("auto", pattern="^(auto|float32|bfloat16)$")
    seed: int = Field(0, ge=0)

    def facts(self) -> dict[str, Any]:
        """What results depend on, but for the images; what came later only where it is used."""
        later = {"settle": None, "prompts": "text", "box_shift": None}
        unused = {name for name, default in later.items() if getattr(self, name) == default}
        return self.model_dump(mode="json", exclude={"root", *unused})


class EvaluationSettings(EvaluationChanges):
    """What is evaluated, and how.

    Attributes:
        root: folder of the data; None takes the base configuration's `data.root`.
        sets: from the manifest, e.g. `{set: busi, split: fold1/test}`.
        folders: plain folders.
        coco: COCO files, as `data.val_coco` of a training.
    """

    root: str | None = None
    sets: tuple[Selection, ...] = ()
    folders: tuple[FolderSelection, ...] = ()
    coco: tuple[CocoSelection, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> EvaluationSettings:
        if not (self.sets or self.folders or self.coco):
            raise ValueError("evaluate.sets, evaluate.folders and evaluate.coco are all empty")
        return self

    def facts(self) -> dict[str, Any]:
        """As of the changes, with what is evaluated; `coco` came later, too."""
        facts = super().facts()
        return facts if self.coco else {n: value for n, value in facts.items() if n != "coco"}

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigError: a shift of a box that is not given, or two ways of refining.
        """
        if self.box_shift is not None and self.prompts == "text":
            raise ConfigError('evaluate.box_shift needs a box: set evaluate.prompts to "geometry"')
        if self.settle is not None and self.refine is not None:
            raise ConfigError("evaluate has both refine and settle; give one of them")


class PaperFigures(Section):
    """A paper's mean for a cell, in percent, shown beside ours."""

    dice: float = Field(ge=0, le=100)
    nsd: float = Field(ge=0, le=100)


class CellSettings(Section):
    """One row of the table.

    Attributes:
        name: of the row and of its folder.
        label: what the table shows; default: the name.
        set: assignments `a.b=value` to the base configuration, as `--set` of `textsam train`.
        evaluate: evaluation settings that differ; the cell shares its training with the cells of
            the same `set`.
        paper: figures shown beside.
    """

    name: str = Field(pattern=_NAME)
    label: str = ""
    set: tuple[str, ...] = ()
    evaluate: EvaluationChanges = EvaluationChanges()
    paper: PaperFigures | None = None

    @field_validator("name", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        # A bare 16 in YAML is a number.
        return str(value) if isinstance(value, int | float) else value

    @property
    def title(self) -> str:
        """What the table shows."""
        return self.label or self.name


class AblationConfig(Section):
    """One table.

    Attributes:
        name: of the ablation and of its folder.
        title: over the table.
        column: head of the column that tells cells apart.
        base: training configuration that cells change; relative to the ablation's file.
        seeds: of training; each makes a run per cell.
        calibrate: refinement passes tried by a calibration between training and evaluation, as
            `textsam calibrate --passes`; None evaluates what training left.
        evaluate: on what, and how.
        reference: name of the cell the others are tested against; None tests nothing.
        paper: where the paper's figures are from and on what data; shown under the table.
        cells: rows, in this order.
    """

    name: str = Field(pattern=_NAME)
    title: str
    column: str = "setting"
    base: str
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = (0,)  # as of a training
    calibrate: int | None = Field(None, ge=0)
    evaluate: EvaluationSettings
    reference: str | None = None
    paper: str = ""
    cells: tuple[CellSettings, ...] = Field(min_length=1)

    @field_validator("reference", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _consistent(self) -> AblationConfig:
        names = [cell.name for cell in self.cells]
        # Folders of names that differ in case alone are one folder on some systems.
        folded = [name.casefold() for name in names]
        if twice := sorted({name for name in names if folded.count(name.casefold()) > 1}):
            raise ValueError(f"cells of the same name: {', '.join(twice)}")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference is {self.reference!r}; the cells are {', '.join(names)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; give different ones, 0 or more")
        if not self.paper and any(cell.paper for cell in self.cells):
            raise ValueError("cells have a paper's figures; say in `paper` on what data they are")
        return self

    def evaluation_of(self, cell: CellSettings) -> EvaluationSettings:
        """The evaluation of one cell: the ablation's with what the cell changes.

        Raises:
            ConfigError: it contradicts itself.
        """
        changes = cell.evaluate.model_dump(exclude_unset=True)
        evaluation = self.evaluate.model_copy(
            update={name: getattr(cell.evaluate, name) for name in changes}
        )
        evaluation.check()
        return evaluation


def read_ablation(path: str | Path, changes: Mapping[str, Any] | None = None) -> AblationConfig:
    """Read and check an ablation's file.

    Args:
        path: YAML file.
        changes: top-level settings that replace the file's.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not describe an ablation; every wrong
            field is named.
    """
    path = Path(path)
    missing = f"no ablation at {path}; the ready ones are in configs/ablations/"
    settings = read_sections(path, missing)
    try:
        return AblationConfig.model_validate({**settings, **(changes or {})})
    except ValidationError as error:
        problems = invalid_fields(error, "ablation", model=AblationConfig)
        raise ConfigError(f"{path}: {problems}") from error
