"""Text encoders load from plain folders, with the network off, and refuse what does not fit."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from name_seeded import seeded_text_encoder
from safetensors.torch import save_file
from torch import Tensor

from textsam import weights
from textsam.errors import WeightsError
from textsam.model.context import ContextTokens
from textsam.model.text_encoders import (
    TextEncoder,
    build_biomedclip_text,
    load_biomedclip,
    load_minilm,
    load_tokenizer,
)

CONFIG = {
    "model_cfg": {
        "embed_dim": 512,
        "text_cfg": {
            "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    }
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def seeded() -> TextEncoder:
    return seeded_text_encoder(build_biomedclip_text(load_tokenizer(weights.resolve("minilm"))))


def open_clip_state(encoder: TextEncoder) -> dict[str, Tensor]:
    """The state dict as open_clip saves it: both towers, and BERT's position buffer."""
    state = {}
    for name, tensor in encoder.state_dict().items():
        open_clip_name = re.sub(r"^bert\.", "text.transformer.", name)
        state[re.sub(r"^projection\.", "text.proj.", open_clip_name)] = tensor
    state["text.transformer.embeddings.position_ids"] = torch.arange(512)[None]
    state["visual.trunk.cls_token"] = torch.zeros(1, 1, 768)
    state["logit_scale"] = torch.tensor(4.6)
    return state


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory, seeded: TextEncoder) -> Path:
    """A hub snapshot as people download it: no BERT config.json."""
    folder = tmp_path_factory.mktemp("biomedclip")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    shutil.copy(weights.resolve("minilm") / "tokenizer.json", folder)
    shutil.copy(weights.resolve("minilm") / "vocab.txt", folder)
    torch.save(open_clip_state(seeded), folder / "open_clip_pytorch_model.bin")
    return folder


def copied(snapshot: Path, target: Path) -> Path:
    """A copy of the small files of a snapshot, to be spoiled."""
    target.mkdir()
    for path in snapshot.iterdir():
        if path.suffix != ".bin":
            shutil.copy(path, target)
    return target


@pytest.mark.usefixtures("no_network")
def test_snapshot_gives_the_same_features(snapshot: Path, seeded: TextEncoder) -> None:
    loaded = load_biomedclip(snapshot)
    context = ContextTokens(4, 12, 768, 12)
    prompts = ["tumor", "right ventricle"]
    with torch.inference_mode():
        assert torch.equal(loaded(prompts, context), seeded.eval()(prompts, context))


@pytest.mark.usefixtures("no_network")
def test_vocabulary_alone_is_enough(snapshot: Path, tmp_path: Path) -> None:
    folder = copied(snapshot, tmp_path / "copy")
    by_json = load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    by_vocabulary = load_tokenizer(folder)
    for text in ("tumor.", "Nébuleuse of the LV: 3-mm.", "mitochondria", "腫瘍."):
        assert by_vocabulary(text)["input_ids"] == by_json(text)["input_ids"]
    assert by_vocabulary("tumor.")["input_ids"] == [101, 13656, 1012, 102]
    (folder / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"neither tokenizer\.json nor vocab\.txt"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "open_clip_config.json").unlink(), r"no open_clip_config\.json"),
        (
            lambda f: (f / "open_clip_config.json").write_text(
                json.dumps({"model_cfg": {"text_cfg": {"hf_proj_type": "linear"}}})
            ),
            "hf_proj_type is 'linear'",
        ),
        (
            lambda f: (f / "open_clip_config.json").write_text('{"model_cfg": '),
            r"open_clip_config\.json is not JSON \(.*\); download it again",
        ),
        (
            lambda f: (f / "open_clip_config.json").write_text("[]"),
            r"open_clip_config\.json holds no settings; download it again",
        ),
        (
            lambda f: (f / "open_clip_config.json").write_text('{"model_cfg": null}'),
            r"open_clip_config\.json: model_cfg holds no settings; download it again",
        ),
        (
            lambda f: (f / "open_clip_config.json").write_text('{"model_cfg": {"text_cfg": "x"}}'),
            r"open_clip_config\.json: text_cfg holds no settings; download it again",
        ),
        (lambda _: None, r"no open_clip_pytorch_model\.bin"),
        (
            lambda f: save_file(
                {"text.proj.0.weight": torch.zeros(640, 768)}, f / "open_clip_model.safetensors"
            ),
            r"missing: bert\.embeddings",
        ),
    ],
)
def test_refusals_name_what_is_wrong(
    snapshot: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = copied(snapshot, tmp_path / "copy")
    spoil(folder)
    with pytest.raises(WeightsError, match=message):
        load_biomedclip(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"version": "1.0", "tru', "is no tokeniser"),
        ("vocab.txt", b"tumor\n", "is no tokeniser"),
        ("config.json", b'{"hidden_size": 384', "is not JSON"),
        ("config.json", b"\xff\xfe", "is not JSON"),
        ("config.json", b"7", "holds no settings"),
        ("config.json", b'{"hidden_size": "wide"}', "does not describe a BERT"),
        ("config.json", b'{"hidden_act": "nope"}', "does not describe a BERT"),
        ("config.json", b'{"num_attention_heads": 7}', "does not describe a BERT"),
    ],
)
def test_a_damaged_file_beside_weights_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    source = weights.resolve("minilm")
    for path in source.iterdir():
        if path.name != "tokenizer.json" or name != "vocab.txt":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name} {message}.*; download it again"):
        load_minilm(tmp_path)


@pytest.mark.usefixtures("no_network")
def test_minilm_reads_sentences_as_published() -> None:
    """Mean-pooled MiniLM puts synonyms nearer than strangers; its ids are BERT's."""
    encoder = load_minilm(weights.resolve("minilm")).eval()
    assert encoder.token_ids("tumor") == [101, 13656, 1012, 102]
    assert encoder.token_ids("tumor.") == encoder.token_ids(" tumor ")
    words = encoder.bert.embeddings.word_embeddings

    def feature(text: str) -> Tensor:
        hidden = encoder.bert(input_ids=torch.tensor([encoder.token_ids(text)]))
        return torch.nn.functional.normalize(hidden.last_hidden_state.mean(1)[0], dim=0)

    assert words.weight.shape == (30522, 384)
    with torch.inference_mode():
        near = feature("tumor") @ feature("neoplasm")
        far = feature("tumor") @ feature("bicycle")
    assert near > far + 0.2
