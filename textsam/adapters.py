"""Adapter folders, without torch: what an adapter knows and asks for, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError

from textsam.errors import AdapterError
from textsam.inference.cut import Cut
from textsam.inference.kinds import ImageKinds
from textsam.inference.refinement import RefineWith
from textsam.inference.score import CheckedScoreMap
from textsam.invalid import invalid_fields
from textsam.io.readable_json import readable_json
from textsam.sections import Section
from textsam.weights.checksum import sha256_of

__all__ = [
    "CONFIG_FILE",
    "TENSORS_FILE",
    "AdapterConfig",
    "ArchitectureRecord",
    "SidesPx",
    "Written",
    "adapter_json",
    "as_written",
    "check_base",
    "check_tensors",
    "find_adapter",
    "read_adapter_config",
    "shipped_adapters",
]

CONFIG_FILE = "adapter.json"
TENSORS_FILE = "adapter.safetensors"
_PACKAGED = Path(__file__).parent / "adapters_data"
_CHECKOUT = Path(__file__).parent.parent / "weights"


class ArchitectureRecord(Section):
    """The trainable shape an adapter belongs to; see `textsam.model.build.Architecture`."""

    context_tokens: int = Field(4, ge=1)
    context_depth: int = Field(12, ge=1)
    normalise: bool = True
    token_scale: float = Field(1.0, gt=0)
    rank: int = Field(16, ge=1)
    encoder: Literal["lora", "full", "frozen"] = "lora"
    encoder_targets: tuple[str, ...] = ("qkv.q", "qkv.v")
    decoder: Literal["lora", "heads", "full"] = "lora"
    side_px: int | None = Field(None, ge=4)
    prompt_embeddings: bool = False
    prompt_tokens: int = Field(0, ge=0)
    prompt_token_width: int = Field(128, ge=1)
    takes_text: bool = True


Written: TypeAlias = tuple[tuple[int, int], ...]
"""Time in ns and size in bytes of an adapter's files."""

SidesPx = Annotated[tuple[Annotated[int, Field(ge=4)], ...], Field(min_length=1)]
"""Sides of a model's square."""


class AdapterConfig(Section):
    """Contents of `adapter.json`.

    Attributes:
        format: version of this file's layout.
        name: of the adapter.
        preset: model it belongs to.
        architecture: its trainable shape.
        prompts: concepts it was trained for.
        refine: refinement steps it asks for.
        refine_with: what they take from a mask.
        refine_for: exceptions per concept.
        sides_for: concepts looked for at other sides of the model's square than
            `architecture.side_px` alone, in pixels; the answers of several are averaged.
        mask_threshold: probability above which a pixel belongs to the mask.
        cut: where the word alone asks, masks are cut lower than that where it promises a larger
            Dice, image by image; see `textsam.inference.cut`. None: they are not.
        found_threshold: score, after `score_map`, below which the answer is "not there"; the mask
            is then empty.
        score: where the score comes from: the decoder's trained IoU head, or the mean probability
            inside the mask when that head was not trained.
        score_map: knots (raw score, expected Dice) that turn that into the score an answer has; see
            `textsam.inference.score`. Empty: it is the raw score.
        score_map_for: concepts with knots of their own.
        kinds: tells kinds of image apart, and so what cannot be in one; None: nothing is ruled out.
        authors_frame: refinement prompts stay in the image's frame, as in the authors' code.
        base: registry name -> sha256 of the base weights it was trained on: of the image encoder's
            file, and of the text encoder's numbers (`TextEncoder.digest`). What is missing, or
            "unknown", is not compared.
        terms: terms of its training data.
        tensors_sha256: lower-case hexadecimal SHA-256 of `adapter.safetensors`; None in folders
            written before it was recorded, which are then not checked.
        training: how it was made; free form.
    """

    format: Literal[1] = 1
    name: str
    preset: str
    architecture: ArchitectureRecord = ArchitectureRecord()
    prompts: tuple[str, ...]
    refine: int = Field(2, ge=0)
    refine_with: RefineWith = RefineWith.BOX_CENTROID
    refine_for: Mapping[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    sides_for: Mapping[str, SidesPx] = Field(default_factory=dict)
    mask_threshold: float = Field(0.5, gt=0, lt=1)
    cut: Cut | None = None
    found_threshold: float = Field(0.0, ge=0, le=1)
    score: Literal["iou_head", "mask_probability"] = "mask_probability"
    score_map: CheckedScoreMap = ()
    score_map_for: Mapping[str, CheckedScoreMap] = Field(default_factory=dict)
    kinds: ImageKinds | None = None
    authors_frame: bool = False
    base: Mapping[str, str] = Field(default_factory=dict)
    terms: str = ""
    tensors_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    training: Mapping[str, Any] = Field(default_factory=dict)


def shipped_adapters() -> dict[str, Path]:
    """Name -> folder of the adapters that come with the package."""
    found: dict[str, Path] = {}
    for place in (_PACKAGED, _CHECKOUT):
        if place.is_dir():
            for folder in sorted(place.iterdir()):
                if (folder / CONFIG_FILE).is_file():
                    found.setdefault(folder.name, folder)
    return found


def find_adapter(name_or_path: str | Path) -> Path:
    """The folder of an adapter, by the name of a shipped one or by path.

    Raises:
        AdapterError: neither a shipped adapter nor an adapter folder.
    """
    shipped = shipped_adapters()
    if isinstance(name_or_path, str) and name_or_path in shipped:
        return shipped[name_or_path]
    folder = Path(name_or_path)
    if (folder / CONFIG_FILE).is_file() and (folder / TENSORS_FILE).is_file():
        return folder
    known = ", ".join(shipped) or "none"
    if not folder.exists():
        raise AdapterError(
            f"no adapter {str(name_or_path)!r}: not a folder, and the shipped adapters are: {known}"
        )
    lacking = [name for name in (CONFIG_FILE, TENSORS_FILE) if not (folder / name).is_file()]
    raise AdapterError(
        f"{folder} is not an adapter folder: it lacks {' and '.join(lacking)}; give the folder "
        "that training or `textsam convert` wrote"
    )


def as_written(name_or_path: str | Path) -> tuple[Path, Written | None]:
    """The folder of an adapter, and when it was written: another value once it was again.

    Args:
        name_or_path: as for `find_adapter`.

    Returns:
        The second is None for a folder without tensors, which cannot be loaded.

    Raises:
        AdapterError: as `find_adapter`, or a file of it cannot be looked at.
    """
    folder = find_adapter(name_or_path).resolve()
    if not (folder / TENSORS_FILE).is_file():
        return folder, None
    try:
        states = [(folder / name).stat() for name in (CONFIG_FILE, TENSORS_FILE)]
    except OSError as error:
        raise AdapterError(
            f"{folder} cannot be read ({error.strerror}); give an adapter folder, or check its "
            "permissions"
        ) from error
    return folder, tuple((state.st_mtime_ns, state.st_size) for state in states)


def read_adapter_config(folder: str | Path) -> AdapterConfig:
    """Read `adapter.json`.

    Raises:
        AdapterError: missing, not JSON, or not an adapter's configuration.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        return AdapterConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AdapterError(f"{path} is not an adapter's configuration: it is not text") from error
    except ValidationError as error:
        problems = invalid_fields(error, "file", model=AdapterConfig)
        raise AdapterError(
            f"{path} is not an adapter's configuration: {problems}; correct the file, or use the "
            "version of textsam that wrote it"
        ) from error


def check_base(config: AdapterConfig, weights_name: str, digest: str) -> None:
    """Refuse base weights that an adapter was not trained on: its masks would be noise.

    Args:
        config: of the adapter. Where it does not know its base, any will do.
        weights_name: of the base weights in the registry.
        digest: of those at hand.

    Raises:
        AdapterError: they are others.
    """
    wanted = config.base.get(weights_name, "unknown")
    if wanted not in ("unknown", digest):
        raise AdapterError(
            f"the adapter {config.name!r} was trained on {weights_name} with sha256 "
            f"{wanted[:16]}…, the weights at hand have {digest[:16]}…; use the former"
        )


def check_tensors(folder: str | Path, config: AdapterConfig) -> str:
    """Compare `adapter.safetensors` with what `adapter.json` says of it.

    Args:
        folder: of the adapter.
        config: its configuration.

    Returns:
        The file's SHA-256. Without `config.tensors_sha256` there is nothing to compare it with.

    Raises:
        AdapterError: the file is missing, or is not the one the configuration was written for.
    """
    path = Path(folder) / TENSORS_FILE
    try:
        found = sha256_of(path)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from error
    expected = config.tensors_sha256
    if expected is not None and found != expected:
        raise AdapterError(
            f"{path} has sha256 {found}, {CONFIG_FILE} beside it expects {expected}: one of the "
            "two was damaged, cut short or exchanged; copy the whole adapter folder again, or "
            "write it again with `textsam train`, `calibrate` or `convert`"
        )
    return found


def adapter_json(config: AdapterConfig) -> str:
    """What stands in `adapter.json`, in ASCII."""
    return readable_json(config.model_dump(mode="json"), ensure_ascii=True) + "\n"
