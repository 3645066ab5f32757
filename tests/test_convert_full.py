"""A checkpoint of the authors' full size, converted with base weights given by path."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from name_seeded import LORA_SCALE, official_name, seeded
from safetensors.torch import load_file
from torch import Tensor

from textsam import weights
from textsam.convert import convert_checkpoint
from textsam.model.text_encoders import load_biomedclip
from textsam.weights.checksum import sha256_of

LORA = (".linear_a_", ".linear_b_", ".w_a.", ".w_b.")


def parity_json(name: str) -> dict[str, Any]:
    path = Path(os.environ.get("TEXTSAM_PARITY", "")) / name
    if not path.is_file():
        pytest.skip(f"no {name}: set TEXTSAM_PARITY to the folder of the parity data")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def official_state(keys: dict[str, Any], vocabulary: dict[str, int]) -> dict[str, Tensor]:
    """Official name -> tensor; names of one source share one storage, as when saved by them."""
    by_source: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, entry in keys.items():
        source = entry["source"]
        if source is None:
            continue
        if source not in by_source:
            factor = LORA_SCALE if any(part in name for part in LORA) else 1.0
            by_source[source] = seeded(source, entry["shape"]) * factor
        state[name] = by_source[source]
    table = by_source["text.transformer.embeddings.word_embeddings.weight"]
    suffix_length = keys["prompt_encoder.prompt_learner.token_suffix"]["shape"][1]
    suffixes = []
    for word in ("background", "tumor"):
        ids = [vocabulary[piece] for piece in (word, ".", "[SEP]")]
        ids += [vocabulary["[PAD]"]] * (suffix_length - len(ids))
        suffixes.append(table[torch.tensor(ids)])
    state["prompt_encoder.prompt_learner.token_suffix"] = torch.stack(suffixes)
    state["prompt_encoder.prompt_learner.token_prefix"] = table[
        torch.full((2, 1), vocabulary["[CLS]"])
    ]
    assert {n: list(t.shape) for n, t in state.items()} == {n: e["shape"] for n, e in keys.items()}
    return state


def write_biomedclip(folder: Path, state: dict[str, Tensor], keys: dict[str, Any]) -> Path:
    """A hub snapshot: no BERT `config.json`, weights in one `.bin` with both towers."""
    folder.mkdir()
    tower = {
        entry["source"]: state[name]
        for name, entry in keys.items()
        if name.startswith("prompt_encoder.clip_model.")
    }
    torch.save(tower, folder / "open_clip_pytorch_model.bin")
    text = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"embed_dim": 512, "text_cfg": text}}), encoding="utf-8"
    )
    shutil.copy(weights.resolve("minilm") / "tokenizer.json", folder)
    return folder


@pytest.mark.slow
def test_a_full_checkpoint_becomes_seven_megabytes(tmp_path: Path) -> None:
    keys, sam_shapes = parity_json("official_state_dict.json"), parity_json("sam_vit_b_keys.json")
    assert len(keys) == 1110
    tokenizer = json.loads(
        (weights.resolve("minilm") / "tokenizer.json").read_text(encoding="utf-8")
    )
    state = official_state(keys, tokenizer["model"]["vocab"])
    checkpoint = tmp_path / "official.pth"
    torch.save({"model": state, "epoch": 5, "optimizer": {}, "best_loss": 0.1}, checkpoint)
    sam = tmp_path / "sam_vit_b.pth"
    torch.save({name: seeded(name, shape) for name, shape in sam_shapes.items()}, sam)
    text_encoder = write_biomedclip(tmp_path / "biomedclip", state, keys)

    out = tmp_path / "eus"
    config = convert_checkpoint(
        checkpoint, out, sam_checkpoint=sam, text_encoder=text_encoder, authors_frame=True
    )
    size = sum(file.stat().st_size for file in out.iterdir())
    assert 6.0e6 <= size <= 7.5e6
    assert (config.preset, config.prompts, config.authors_frame) == ("vit_b", ("tumor",), True)
    architecture = config.architecture
    assert (architecture.rank, architecture.context_tokens) == (16, 4)
    assert architecture.context_depth == 11
    assert config.base == {
        "sam_vit_b": sha256_of(sam),
        "biomedclip": load_biomedclip(text_encoder).digest(),
    }
    tensors = load_file(out / "adapter.safetensors")
    # 1,685,092 are trained; the last deep prompt, 4 × 768 numbers, is never read.
    assert sum(tensor.numel() for tensor in tensors.values()) == 1_685_092 - 4 * 768
    assert all(torch.equal(tensor, state[official_name(n)]) for n, tensor in tensors.items())
