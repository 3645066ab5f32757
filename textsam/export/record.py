"""`export.json`: what an exported folder holds and how its answers are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from textsam.adapters import SidesPx
from textsam.errors import AdapterError, WeightsError
from textsam.inference.cut import Cut
from textsam.inference.kinds import ImageKinds
from textsam.inference.refinement import RefineWith
from textsam.inference.score import CheckedScoreMap
from textsam.invalid import invalid_fields
from textsam.io.atomic import atomic_path
from textsam.io.readable_json import readable_json
from textsam.sections import Section
from textsam.weights.checksum import sha256_of

__all__ = [
    "DECODER_FILE",
    "ENCODER_FILE",
    "RECORD_FILE",
    "TOKENS_FILE",
    "ExportRecord",
    "Normalisation",
    "Parity",
    "check_files",
    "graph_file",
    "read_record",
    "write_record",
]

RECORD_FILE = "export.json"
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
TOKENS_FILE = "tokens.safetensors"

_Triple = tuple[float, float, float]


class Normalisation(Section):
    """How pixels in [0, 255] are normalised before padding with zeros.

    Attributes:
        kind: "standard" subtracts `mean` and divides by `std`, per channel; "min_max" maps the
            image's smallest value to 0 and its largest to 1, all channels together.
        mean: of "standard", in [0, 255].
        std: of "standard", in [0, 255].
    """

    kind: Literal["standard", "min_max"]
    mean: _Triple = (0.0, 0.0, 0.0)
    std: _Triple = (1.0, 1.0, 1.0)


class Parity(Section):
    """Largest absolute differences between ONNX Runtime and PyTorch, float32, when exporting."""

    embedding: float
    logits: float
    iou: float


class ExportRecord(Section):
    """Contents of `export.json`. Thresholds and refinement are the adapter's, see `AdapterConfig`.

    Attributes:
        format: version of this file's layout.
        preset: of the model.
        adapter: name of the adapter.
        fingerprint: SHA-256 of the adapter's tensors; empty where the model has none.
        terms: terms of the adapter's training data.
        prompts: concepts of the adapter; rows 0 … of the token table.
        words: further texts, normalised; the rows after those of `prompts`.
        side_px: side of the encoder's square input.
        sides_for: concepts looked for at other sides, by graphs of their own (see `graph_file`);
            the answers of several are averaged.
        normalise: pixel normalisation.
        refine: refinement passes.
        refine_for: exceptions per concept.
        refine_with: what the adapter's refinement takes from a mask; where it is not box and
            centroid, the export does not refine.
        mask_threshold: probability above which a pixel belongs to the mask.
        cut: of masks lower than that; see `AdapterConfig`.
        found_threshold: score below which the answer is "not there".
        score: where the score comes from.
        score_map: knots that turn it into the score of an answer; see `textsam.inference.score`.
        score_map_for: concepts with knots of their own.
        kinds: tells kinds of image apart; see `AdapterConfig`.
        authors_frame: refinement prompts stay in the image's frame.
        opset: of the ONNX graphs.
        versions: of the libraries that wrote the files.
        parity: measured on random input when the files were written.
        files: name -> SHA-256 of every other file of the folder.
    """

    format: Literal[1] = 1
    preset: str
    adapter: str
    fingerprint: str = ""
    terms: str = ""
    prompts: tuple[str, ...]
    words: tuple[str, ...] = ()
    side_px: int = Field(gt=0)
    sides_for: Mapping[str, SidesPx] = Field(default_factory=dict)
    normalise: Normalisation
    refine: int = Field(ge=0)
    refine_for: Mapping[str, int] = Field(default_factory=dict)
    refine_with: RefineWith = RefineWith.BOX_CENTROID
    mask_threshold: float = Field(gt=0, lt=1)
    cut: Cut | None = None
    found_threshold: float = Field(ge=0, le=1)
    score: Literal["iou_head", "mask_probability"]
    score_map: CheckedScoreMap = ()
    score_map_for: Mapping[str, CheckedScoreMap] = Field(default_factory=dict)
    kinds: ImageKinds | None = None
    authors_frame: bool = False
    opset: int
    versions: Mapping[str, str] = Field(default_factory=dict)
    parity: Parity
    files: Mapping[str, str]

    @property
    def sides_px(self) -> tuple[int, ...]:
        """All sides there are graphs for, the adapter's own first."""
        others = (side for sides in self.sides_for.values() for side in sides)
        return tuple(dict.fromkeys((self.side_px, *others)))

    def graph_file(self, name: str, side_px: int) -> str:
        """The file of a graph at a side, which is in the name of all but the adapter's own."""
        return graph_file(name, None if side_px == self.side_px else side_px)


def graph_file(name: str, side_px: int | None) -> str:
    """`encoder.onnx` at the adapter's own side (None), `encoder-448.onnx` at another."""
    if side_px is None:
        return name
    stem, _, ending = name.rpartition(".")
    return f"{stem}-{side_px}.{ending}"


def read_record(folder: str | Path) -> ExportRecord:
    """Read `export.json`.

    Raises:
        AdapterError: missing, not JSON, or not an export's record.
    """
    path = Path(folder) / RECORD_FILE
    remedy = "give the folder that `textsam export` wrote, or export again"
    try:
        return ExportRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdapterError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise AdapterError(f"{path} is not an export's record: it is not text; {remedy}") from error
    except ValidationError as error:
        problems = invalid_fields(error, "file", model=ExportRecord)
        raise AdapterError(f"{path} is not an export's record: {problems}; {remedy}") from error


def write_record(folder: str | Path, record: ExportRecord) -> Path:
    """Write `export.json` atomically."""
    path = Path(folder) / RECORD_FILE
    with atomic_path(path) as temporary:
        text = readable_json(record.model_dump(mode="json"))
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def check_files(folder: str | Path, record: ExportRecord) -> None:
    """Compare every file of an export with its record.

    Raises:
        WeightsError: a file is missing or is not the one that was written.
    """
    folder = Path(folder)
    graphs = [
        record.graph_file(n, s) for s in record.sides_px for n in (ENCODER_FILE, DECODER_FILE)
    ]
    for name in (*graphs, TOKENS_FILE):
        if name not in record.files:
            raise WeightsError(
                f"{folder / RECORD_FILE} names no checksum of {name}; export the model again"
            )
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file():
            raise WeightsError(
                f"{path} is missing; copy the whole folder again, or export the model again"
            )
        actual = sha256_of(path)
        if actual != expected:
            raise WeightsError(
                f"{path} has sha256 {actual[:16]}…, the export wrote {expected[:16]}…: it was cut "
                "short or changed; copy the folder again, or export the model again"
            )
