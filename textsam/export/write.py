"""Write a model as ONNX files: encoder, decoder, the prompts' tokens and a record."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from textsam import __version__
from textsam.errors import ConfigError, TextSAMError
from textsam.export.graphs import DecoderGraph
from textsam.export.plain import plain_blocks
from textsam.export.record import (
    DECODER_FILE,
    ENCODER_FILE,
    TOKENS_FILE,
    ExportRecord,
    Normalisation,
    Parity,
    graph_file,
    write_record,
)
from textsam.export.session import check_name, open_session
from textsam.inference.refinement import RefineWith
from textsam.inference.segmenter import Segmenter
from textsam.model.build import BuiltModel
from textsam.preprocess import MinMaxPixels, PixelNormaliser, StandardPixels
from textsam.prompts import canonical, normalise
from textsam.spelling import corrected
from textsam.weights.checksum import sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_OPSET", "MIN_OPSET", "check_target", "export_onnx"]

# PyTorch's exporter writes opset 18 and converts to newer ones.
MIN_OPSET, MAX_OPSET = 18, 23

# Protocol buffers end at 2 GB; the weights of a larger model go to a file of their own.
_INLINE_BYTES = 1_500_000_000

# An export that differs more than this from PyTorch, relative to the largest value, is refused.
_TOLERANCE = 1e-3


def export_onnx(
    segmenter: Segmenter,
    folder: str | Path,
    *,
    prompts: str | Sequence[str] = (),
    opset: int = MIN_OPSET,
    refine: int | None = None,
) -> Path:
    """Write `encoder.onnx`, `decoder.onnx`, `tokens.safetensors` and `export.json`.

    Where the adapter looks for concepts at other sides, there are two graphs for each of these as
    well (`encoder-448.onnx`).

    The text encoder is not exported: the tokens of all the adapter's concepts, and of `prompts`,
    are computed once and stored. Both graphs are checked with onnx's checker, and against PyTorch
    on random input, before the folder appears.

    Args:
        segmenter: on the CPU and in float32, as from
            `load_model(device="cpu", precision="float32", plain=True)`.
        folder: to write; must not exist or be empty. It appears complete or not at all.
        prompts: a further text to store a token for, or several. Those that mean one of the
            adapter's concepts, misspelt or not, are there already.
        opset: of the ONNX graphs, 18 to 23.
        refine: refinement passes to record; None takes what the adapter asks for.

    Returns:
        The folder.

    Raises:
        TextSAMError: onnx, onnxscript or onnxruntime is not installed; the graphs do not agree
            with PyTorch; the folder cannot be written.
        ConfigError: the folder is in use, an opset that cannot be written, a segmenter on another
            device or in another precision, or one that takes no words or refines in a way that an
            export does not.
        PromptError: a prompt that is empty or too long.
    """
    target = Path(folder)
    if not (isinstance(opset, int) and MIN_OPSET <= opset <= MAX_OPSET):
        raise ConfigError(f"opset is {opset!r}; give {MIN_OPSET} to {MAX_OPSET}")
    if refine is not None and not (isinstance(refine, int | np.integer) and refine >= 0):
        raise ConfigError(f"refine is {refine!r}; give 0 or more passes, a whole number")
    if segmenter.device.type != "cpu" or segmenter.precision != torch.float32:
        raise ConfigError(
            f"the model is on {segmenter.device} in {segmenter.precision}; load it with "
            'device="cpu", precision="float32" to export it'
        )
    if segmenter.built.model.fast_decoder is not None:
        raise ConfigError(
            "the model's modules were rearranged for a CPU, which makes a graph of thousands of "
            "pieces; load it with plain=True to export it"
        )
    if str(segmenter.views):
        raise ConfigError(
            f"the model answers by several views ({segmenter.views}), an export by one; load it "
            "without views to export it"
        )
    config = segmenter.config
    asked = [config.refine, *config.refine_for.values()] if refine is None else [refine]
    if any(asked) and config.refine_with is not RefineWith.BOX_CENTROID:
        raise ConfigError(
            f"the adapter refines with {config.refine_with.value!r}, an export with "
            f"{RefineWith.BOX_CENTROID.value!r} alone; export it with refine=0"
        )
    if not segmenter.built.model.takes_text:
        raise ConfigError(
            "the adapter was trained without words, and an export answers words alone"
        )
    rule = _normalisation(segmenter.built.preprocessor.normalise)
    _require_libraries()
    further = [prompts] if isinstance(prompts, str) else prompts
    words = _further_words(further, segmenter.prompts)
    with _folder_in_one_piece(target) as temporary, torch.inference_mode():
        side_px = segmenter.own_side_px
        _write_tokens(temporary / TOKENS_FILE, segmenter, words)
        parities = [
            _write_graphs(temporary, built, None if at_px == side_px else at_px, opset)
            for at_px, built in segmenter.models.items()
        ]
        record = ExportRecord(
            preset=segmenter.preset,
            adapter=segmenter.adapter_name,
            fingerprint=segmenter.fingerprint,
            terms=config.terms,
            prompts=config.prompts,
            words=words,
            side_px=side_px,
            sides_for=config.sides_for,
            normalise=rule,
            refine=config.refine if refine is None else int(refine),
            refine_for=config.refine_for if refine is None else {},
            refine_with=config.refine_with,
            mask_threshold=config.mask_threshold,
            cut=config.cut,
            found_threshold=config.found_threshold,
            score=config.score,
            score_map=config.score_map,
            score_map_for=config.score_map_for,
            kinds=config.kinds,
            authors_frame=config.authors_frame,
            opset=opset,
            versions=_versions(),
            parity=_worst(parities),
            files={path.name: sha256_of(path) for path in sorted(temporary.iterdir())},
        )
        write_record(temporary, record)
    return target


def _require_libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise TextSAMError(
            f'exporting needs {error.name}, which is not installed: pip install "textsam[export]"'
        ) from error


def _normalisation(rule: PixelNormaliser) -> Normalisation:
    if isinstance(rule, MinMaxPixels):
        return Normalisation(kind="min_max")
    if isinstance(rule, StandardPixels):
        mean, std = (tuple(values.flatten().tolist()) for values in (rule.mean, rule.std))
        return Normalisation(kind="standard", mean=mean, std=std)
    raise ConfigError(
        f"the pixel normalisation {type(rule).__name__} has no name in an export; use MinMaxPixels "
        "or StandardPixels"
    )


def _further_words(prompts: Sequence[str], concepts: Sequence[str]) -> tuple[str, ...]:
    """The texts to store beside the concepts: normalised, each once, in the order given."""
    texts = [
        normalise(prompt)
        for prompt in prompts
        # A segmenter answers a misspelling as the concept, and so must the export.
        if canonical(prompt, concepts) is None and corrected(prompt, concepts) is None
    ]
    return tuple(dict.fromkeys(texts))


def _versions() -> dict[str, str]:
    others = ("torch", "onnx", "onnxscript", "onnxruntime")
    return {"textsam": __version__, **{name: importlib.metadata.version(name) for name in others}}


def _write_tokens(path: Path, segmenter: Segmenter, words: Sequence[str]) -> None:
    from safetensors.torch import save

    # One at a time, as when segmenting: a batch rounds differently.
    rows = [segmenter.built.model.encode_text([text]) for text in (*segmenter.prompts, *words)]
    path.write_bytes(save({"tokens": torch.cat(rows).contiguous()}))


def _worst(parities: Sequence[Parity]) -> Parity:
    """Of all sides, the largest of each difference."""
    rows = [parity.model_dump() for parity in parities]
    return Parity(**{name: max(row[name] for row in rows) for name in rows[0]})


def _write_graphs(folder: Path, built: BuiltModel, side_px: int | None, opset: int) -> Parity:
    """Write both graphs of a model and compare them with PyTorch on the same input.

    Args:
        folder: to write to.
        built: the model.
        side_px: of its square; None for the adapter's own, which no file name needs.
        opset: of the graphs.
    """
    generator = torch.Generator().manual_seed(0)
    side = built.preprocessor.side_px
    encoder, decoder = built.model.image_encoder, DecoderGraph(built.model, side)
    paths = [folder / graph_file(name, side_px) for name in (ENCODER_FILE, DECODER_FILE)]
    image = torch.rand((1, 3, side, side), generator=generator)
    embedding = encoder(image)
    token = torch.randn((2, 256), generator=generator)
    points = torch.rand((2, 3, 2), generator=generator) * side
    labels = torch.tensor([[1, 2, 3], [0, 1, -1]])
    prompt = (embedding, token, points, labels)
    # Named once each: PyTorch finds out by itself that the other inputs share them.
    several, any_number, same = "prompts", "points", torch.export.Dim.DYNAMIC
    with plain_blocks(encoder):
        _write_graph(paths[0], encoder, (image,), ("image",), ("embedding",), None, opset)
    _write_graph(
        paths[1],
        decoder.eval(),
        prompt,
        ("embedding", "text_tokens", "points", "labels"),
        ("logits", "iou"),
        ({}, {0: several}, {0: same, 1: any_number}, {0: same, 1: same}),
        opset,
    )
    encode, decode = (open_session(path) for path in paths)
    found = encode.run(None, {"image": image.numpy()})[0]
    worst = {"embedding": _difference("embedding", found, embedding)}
    # With and without geometry, which the example above fixes neither in number nor in kind.
    for chosen in (points, points[:, :0]):
        given = (embedding, token, chosen, labels[:, : chosen.shape[1]])
        names = ("embedding", "text_tokens", "points", "labels")
        feed = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        for name, got, wanted in zip(
            ("logits", "iou"), decode.run(None, feed), decoder(*given), strict=True
        ):
            worst[name] = max(worst.get(name, 0.0), _difference(name, got, wanted))
    return Parity(**worst)


def _difference(name: str, found: NDArray[np.float32], wanted: Tensor) -> float:
    expected = wanted.numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise TextSAMError(
            f"the exported graph differs from PyTorch by {difference:g} in {name}: nothing was "
            "written; use other versions of torch, onnxscript and onnxruntime, or another opset"
        )
    return difference


def _write_graph(
    path: Path,
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: tuple[dict[int, Any], ...] | None,
    opset: int,
) -> None:
    import onnx

    program = torch.onnx.export(
        module,
        example,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=dynamic,
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    if program is None:  # only the old exporter, which writes the file itself
        raise TextSAMError(f"PyTorch returned no graph for {path.name}")
    _forget_source(program.model)
    size_bytes = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    program.save(path, external_data=size_bytes > _INLINE_BYTES)
    onnx.checker.check_model(str(path), full_check=True)


def _forget_source(model: Any) -> None:
    """Drop the Python stack traces that PyTorch puts into every node: paths of this machine."""
    for node in model.graph:
        node.metadata_props.clear()


def check_target(target: Path) -> None:
    """Refuse to write over what is there.

    Raises:
        ConfigError: there is something else than an empty folder, it is the current folder, or a
            name in its path is no UTF-8.
    """
    target = target.resolve()
    check_name(target)
    if target == Path.cwd():
        raise ConfigError(f"{target} is the current folder; give a folder to make in it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not an empty folder; give another, or remove it")


@contextmanager
def _folder_in_one_piece(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target` that becomes `target` when the block succeeds."""
    check_target(target)
    target = target.resolve()  # a link stays, and what it leads to is written
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.exists():
            target.rmdir()
        temporary.replace(target)
    except OSError as error:
        raise TextSAMError(
            f"{target}: the folder cannot be written ({error}); check its parent, the permissions "
            "and the free space"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
