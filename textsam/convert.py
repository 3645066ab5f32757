"""Turn a checkpoint of the authors' code (HealthX-Lab/TextSAM-EUS) into an adapter folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from textsam import weights
from textsam.adapters import AdapterConfig, read_adapter_config
from textsam.checkpoint import record_of, save_adapter
from textsam.errors import AdapterError
from textsam.model.build import Architecture, assemble, load_parts
from textsam.model.state import not_finite
from textsam.model.text_encoders import TextEncoder
from textsam.model.tuning import Tuning, load_trainable
from textsam.presets import preset
from textsam.tensors import load_tensors
from textsam.weights.checksum import sha256_of

__all__ = ["OfficialCheckpoint", "convert_checkpoint", "read_official"]

_LEARNED: tuple[tuple[str, str], ...] = (
    (r"prompt_encoder\.prompt_learner\.ctx", "context.tokens"),
    (r"prompt_encoder\.prompt_learner\.deep_prompts\.(\d+)", r"context.deep.\1"),
    (r"prompt_encoder\.text_head\.0\.(weight|bias)", r"adapter.fc1.\1"),
    (r"prompt_encoder\.text_head\.2\.(weight|bias)", r"adapter.fc2.\1"),
    (
        r"(image_encoder\.blocks\.\d+\.attn\.qkv)\.linear_a_([qv])\.weight",
        r"\1.\2.lora_A.weight",
    ),
    (
        r"(image_encoder\.blocks\.\d+\.attn\.qkv)\.linear_b_([qv])\.weight",
        r"\1.\2.lora_B.weight",
    ),
    (r"(mask_decoder\.transformer\..+\.[qv]_proj)\.w_a\.weight", r"\1.lora_A.weight"),
    (r"(mask_decoder\.transformer\..+\.[qv]_proj)\.w_b\.weight", r"\1.lora_B.weight"),
    (r"(mask_decoder\.(?!transformer\.).+)", r"\1"),
)
# Where the checkpoint keeps frozen tensors, and what SAM or the text encoder calls them.
_SAM: tuple[tuple[str, str], ...] = (
    (r"(image_encoder\.blocks\.\d+\.attn\.qkv)\.qkv\.(weight|bias)", r"\1.\2"),
    (r"(image_encoder\.(?:pos_embed|patch_embed\..+|blocks\..+|neck\..+))", r"\1"),
    (r"(mask_decoder\.transformer\..+\.[qv]_proj)\.proj\.(weight|bias)", r"\1.\2"),
    (r"(mask_decoder\.transformer\..+)", r"\1"),
    (
        (
            r"(prompt_encoder\.(?:pe_layer|point_embeddings|not_a_point_embed|mask_downscaling"
            r"|no_mask_embed)\..+)"
        ),
        r"\1",
    ),
)
_TEXT: tuple[tuple[str, str], ...] = (
    (r"prompt_encoder\.(?:text_encoder|clip_model\.text_model)\.transformer\.(.+)", r"bert.\1"),
    (r"prompt_encoder\.(?:text_encoder|clip_model\.text_model)\.proj\.(.+)", r"projection.\1"),
)
_UNUSED = re.compile(
    r"prompt_encoder\.(?:clip_model\.vision_model\..+|image_encoder\..+|(?:clip_model\.)?logit_scale"
    r"|prompt_learner\.token_(?:prefix|suffix))|.+\.embeddings\.position_ids|pixel_(?:mean|std)"
)
# What their model holds twice: a checkpoint that has a tensor under one name has it under both.
_TWINS = (
    ("prompt_encoder.clip_model.text_model.", "prompt_encoder.text_encoder."),
    ("prompt_encoder.clip_model.vision_model.", "prompt_encoder.image_encoder."),
    ("prompt_encoder.clip_model.logit_scale", "prompt_encoder.logit_scale"),
)
_BLOCKS: Mapping[int, Literal["vit_b", "vit_l", "vit_h"]] = {12: "vit_b", 24: "vit_l", 32: "vit_h"}


@dataclass(frozen=True)
class OfficialCheckpoint:
    """An authors' checkpoint, sorted.

    Attributes:
        preset: by the number of encoder blocks.
        rank: LoRA rank.
        n_tokens: b.
        depth: t in our (the paper's) sense; one less than theirs, whose last deep prompt is
            never used.
        learned: our names -> tensors of the adapter.
        sam: official name, SAM's name and tensor of all that is frozen of SAM.
        text: official name, `TextEncoder`'s name and tensor of the text tower; it is there twice.
        suffix: (C, L, d) word embeddings that follow the context, from which class names are read.
    """

    preset: Literal["vit_b", "vit_l", "vit_h"]
    rank: int
    n_tokens: int
    depth: int
    learned: Mapping[str, Tensor]
    sam: Sequence[tuple[str, str, Tensor]]
    text: Sequence[tuple[str, str, Tensor]]
    suffix: Tensor | None


def _listed(names: Iterable[str], limit: int = 12) -> str:
    ordered = sorted(names)
    more = f"\n  … and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return "\n  " + "\n  ".join(ordered[:limit]) + more


def _renamed(name: str, table: Sequence[tuple[str, str]]) -> str | None:
    for pattern, replacement in table:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def _lacking_twins(state: Mapping[str, Tensor]) -> list[str]:
    """Names that should be there because their twin is."""
    lacking = []
    for pair in _TWINS:
        for here, there in (pair, pair[::-1]):
            names = [name for name in state if name.startswith(here)]
            lacking += [t for name in names if (t := there + name.removeprefix(here)) not in state]
    return lacking


def read_official(path: str | Path) -> OfficialCheckpoint:
    """Read and sort an authors' checkpoint, `{"model": state_dict, …}` or the state dict alone.

    Raises:
        WeightsError: not a safe checkpoint file.
        AdapterError: keys that do not belong to the authors' model, or that lack, or learned
            tensors with values that are not finite; all listed.
    """
    path = Path(path)
    state = load_tensors(path)
    learned: dict[str, Tensor] = {}
    sam: list[tuple[str, str, Tensor]] = []
    text: list[tuple[str, str, Tensor]] = []
    unknown = []
    for name, tensor in state.items():
        if _UNUSED.fullmatch(name):
            continue
        if (ours := _renamed(name, _LEARNED)) is not None:
            learned[ours] = tensor
        elif (ours := _renamed(name, _TEXT)) is not None:
            text.append((name, ours, tensor))
        elif (ours := _renamed(name, _SAM)) is not None:
            sam.append((name, ours, tensor))
        else:
            unknown.append(name)
    if unknown:
        raise AdapterError(
            f"{path} has {len(unknown)} keys that are not of the authors' model:{_listed(unknown)}"
        )
    if lacking := _lacking_twins(state):
        raise AdapterError(
            f"{path} lacks {len(lacking)} keys of the authors' model:{_listed(lacking)}"
        )
    tokens, first = learned.get("context.tokens"), "image_encoder.blocks.0.attn.qkv.q.lora_A.weight"
    if tokens is None or first not in learned:
        lacking = [n for n in ("context.tokens", first) if n not in learned]
        raise AdapterError(
            f"{path} is not a checkpoint of the authors' model: it lacks{_listed(lacking)}"
        )
    blocks = 1 + max(
        int(name.split(".")[2]) for name in learned if name.startswith("image_encoder.blocks.")
    )
    if blocks not in _BLOCKS:
        raise AdapterError(f"{path} has an image encoder of {blocks} blocks; known are 12, 24, 32")
    n_deep = sum(name.startswith("context.deep.") for name in learned)
    depth = max(1, n_deep)
    # Their loop stops one layer early: the last deep prompt was never read, nor trained.
    learned = {
        name: tensor for name, tensor in learned.items() if name != f"context.deep.{n_deep - 1}"
    }
    if broken := not_finite(learned):
        raise AdapterError(
            f"{path} has NaN or infinite values in {len(broken)} learned tensors, as of a training "
            f"that ran away; give a checkpoint from before that:{_listed(broken)}"
        )
    return OfficialCheckpoint(
        preset=_BLOCKS[blocks],
        rank=int(learned[first].shape[0]),
        n_tokens=int(tokens.shape[0]),
        depth=depth,
        learned=learned,
        sam=sam,
        text=text,
        suffix=state.get("prompt_encoder.prompt_learner.token_suffix"),
    )


def _check_same(
    what: str, own: Mapping[str, Tensor], given: Iterable[tuple[str, str, Tensor]], source: Path
) -> None:
    """Refuse a checkpoint whose frozen tensors are not those of the base weights."""
    given = list(given)
    unknown = [official for official, name, _ in given if name not in own]
    missing = own.keys() - {name for _, name, _ in given}
    different = [
        official
        for official, name, tensor in given
        if name in own
        and (
            own[name].shape != tensor.shape
            or not torch.allclose(own[name], tensor.to(own[name].dtype), rtol=1e-5, atol=1e-6)
        )
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing:{_listed(missing)}")
    if unknown:
        problems.append(f"{len(unknown)} tensors are unknown:{_listed(unknown)}")
    if different:
        problems.append(f"{len(different)} frozen tensors differ:{_listed(different)}")
    if problems:
        raise AdapterError(
            f"{source} was not trained on these {what} weights; give the ones it was trained on.\n"
            + "\n".join(problems)
        )


def _class_names(suffix: Tensor, encoder: TextEncoder) -> list[str]:
    """Read class names back from the word embeddings the checkpoint keeps of them."""
    table = encoder.bert.embeddings.word_embeddings.weight.detach()
    tokenizer = encoder.tokenizer
    names = []
    for rows in suffix.to(table.dtype):
        ids = [int(torch.cdist(row[None], table).argmin()) for row in rows[:32]]
        if tokenizer.sep_token_id in ids:
            ids = ids[: ids.index(tokenizer.sep_token_id)]
        names.append(str(tokenizer.decode(ids)).strip().rstrip(".").strip())
    return names


def convert_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    sam_checkpoint: str | Path | None = None,
    text_encoder: str | Path | None = None,
    authors_frame: bool = False,
) -> AdapterConfig:
    """Write an adapter folder from an authors' checkpoint.

    The class names are read from the checkpoint; "background" is not offered as a prompt. Nothing
    is written when the checkpoint does not fit.

    Args:
        checkpoint: `.pth` with the full state dict.
        out: adapter folder to write, about 7 MB for `vit_b` at rank 16.
        name: of the adapter; default: the folder's.
        sam_checkpoint: SAM weights it was trained on; default: the registry's.
        text_encoder: BiomedCLIP folder; default: the registry's.
        authors_frame: ask for refinement prompts in the image's frame, as in their code.

    Raises:
        WeightsError: an unsafe or corrupt file.
        AdapterError: keys or base weights do not match; everything that does not is listed.
        OutputError: `out` cannot be written.
    """
    checkpoint = Path(checkpoint)
    official = read_official(checkpoint)
    info = preset(official.preset)
    backbone, encoder = load_parts(
        official.preset, sam_checkpoint=sam_checkpoint, text_encoder=text_encoder
    )
    base = {
        f"{part}.{key}": tensor
        for part, module in (
            ("image_encoder", backbone.image_encoder),
            ("prompt_encoder", backbone.prompt_encoder),
            ("mask_decoder.transformer", backbone.mask_decoder.transformer),
        )
        for key, tensor in module.state_dict().items()
    }
    _check_same("SAM", base, official.sam, checkpoint)
    _check_same("text encoder", encoder.state_dict(), official.text, checkpoint)
    names = _class_names(official.suffix, encoder) if official.suffix is not None else []
    prompts = tuple(dict.fromkeys(n for n in names if n and n != "background"))
    if not prompts:
        raise AdapterError(
            f"{checkpoint} names no class: prompt_encoder.prompt_learner.token_suffix is missing "
            "or holds nothing but the background"
        )
    architecture = Architecture(
        context_tokens=official.n_tokens,
        context_depth=official.depth,
        tuning=Tuning(rank=official.rank),
    )
    built = assemble(backbone, encoder, architecture)
    learned = dict(official.learned)
    load_trainable(built.model, learned, source=str(checkpoint))
    image_identity = weights.identity_of(info.image_weights, sam_checkpoint)
    config = AdapterConfig(
        name=name or Path(out).resolve().name,
        preset=official.preset,
        architecture=record_of(architecture),
        prompts=prompts,
        authors_frame=authors_frame,
        base={info.image_weights: image_identity, info.text_weights: encoder.digest()},
        training={"converted_from": checkpoint.name, "sha256": sha256_of(checkpoint)},
    )
    save_adapter(out, config, learned)
    return read_adapter_config(out)
