"""Frozen BERT text encoders that carry learnable context tokens: BiomedCLIP's and MiniLM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from textsam.errors import PromptError, WeightsError
from textsam.model.context import ContextTokens
from textsam.model.state import load_exactly
from textsam.tensors import load_tensors

__all__ = [
    "TextEncoder",
    "build_biomedclip_text",
    "load_biomedclip",
    "load_minilm",
    "load_tokenizer",
]

Pooling = Literal["cls", "mean"]


class TextEncoder(nn.Module):
    """A frozen BERT with its tokeniser, pooling and projection.

    Prompts are encoded on their real length: where several of different lengths go through
    together, padding is never attended to.

    Args:
        bert: transformer whose `embeddings` and `encoder.layer` are used.
        tokenizer: WordPiece tokeniser with `[CLS]` and `[SEP]`.
        projection: from the pooled hidden state to the text features.
        pooling: "cls" takes the first position, "mean" all positions.
        out_features: width of the text features.
        max_tokens: longest sequence, context tokens included.

    Attributes:
        trains_with_dropout: BERT's dropout is on in training mode, as in the authors' code.
    """

    def __init__(
        self,
        bert: BertModel,
        tokenizer: PreTrainedTokenizerFast,
        projection: nn.Module,
        *,
        pooling: Pooling,
        out_features: int,
        max_tokens: int = 256,
    ) -> None:
        super().__init__()
        self.bert = bert
        self.tokenizer = tokenizer
        self.projection = projection
        self.pooling = pooling
        self.out_features = out_features
        self.max_tokens = max_tokens
        self.trains_with_dropout = False
        self.eval()

    def train(self, mode: bool = True) -> TextEncoder:
        """Stay as at inference: the encoder is frozen, and its dropout would only add noise.

        With `trains_with_dropout` the noise is wanted.
        """
        return super().train(mode and self.trains_with_dropout)

    @property
    def hidden_size(self) -> int:
        """Width of the transformer."""
        return int(self.bert.config.hidden_size)

    @property
    def n_layers(self) -> int:
        """Number of transformer layers."""
        return int(self.bert.config.num_hidden_layers)

    def digest(self) -> str:
        """SHA-256 of its numbers, the same from whatever file they came.

        The table of words is left out: one that was cut to the words in use is as good, and another
        encoder has other layers.
        """
        found = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            if not name.endswith("word_embeddings.weight"):
                found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                found.update(tensor.cpu().contiguous().numpy())
        return found.hexdigest()

    def token_ids(self, text: str) -> list[int]:
        """Token ids of `[CLS] text . [SEP]`, without context tokens, however many there are."""
        name = text.strip().rstrip(".")
        ids: list[int] = self.tokenizer(f"{name}.")["input_ids"]
        return ids

    def forward(self, texts: Sequence[str], context: ContextTokens) -> Tensor:
        """Encode prompts with the context tokens behind `[CLS]`.

        Args:
            texts: C prompts, at least one, e.g. "tumor"; a full stop is added as in the authors'
                template.
            context: the learnable tokens.

        Returns:
            (C, out_features) text features, not normalised.

        Raises:
            PromptError: a prompt has too many tokens.
        """
        ids = [self.token_ids(text) for text in texts]
        for text, sequence in zip(texts, ids, strict=True):
            if len(sequence) + context.n_tokens > self.max_tokens:
                raise PromptError(
                    f"the prompt {text[:60]!r}… has {len(sequence)} tokens; with "
                    f"{context.n_tokens} context tokens at most "
                    f"{self.max_tokens - context.n_tokens} fit: shorten it"
                )
        # All at once, whatever their lengths: many small kernels cost a GPU more than padding does.
        # Nothing attends to that; it is an id the prompt has, whose row in the table is sure to be.
        longest = max(map(len, ids))
        filled = [sequence + sequence[-1:] * (longest - len(sequence)) for sequence in ids]
        lengths = torch.tensor([len(sequence) + context.n_tokens for sequence in ids])
        device = context.tokens.device
        return self._encode(torch.tensor(filled, device=device), lengths, context)

    def _encode(self, ids: Tensor, lengths: Tensor, context: ContextTokens) -> Tensor:
        """Encode (C, L) token ids, of which with the context `lengths` (C,) count."""
        words = self.bert.embeddings.word_embeddings(ids)
        hidden = self.bert.embeddings(inputs_embeds=context.insert(words))
        counts = torch.arange(hidden.shape[1]) < lengths[:, None]
        # None where there is no padding: a word alone goes through without a mask.
        mask = None
        if not bool(counts.all()):
            nothing = torch.finfo(hidden.dtype).min
            mask = hidden.new_zeros(counts.shape)
            mask = mask.masked_fill(~counts.to(hidden.device), nothing)[:, None, None]
        for number, layer in enumerate(self.bert.encoder.layer, start=1):
            if number > 1:
                hidden = context.replace(hidden, number)
            hidden = layer(hidden, mask)
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        elif mask is None:
            pooled = hidden.mean(dim=1)
        else:
            share = (counts / counts.sum(1, keepdim=True)).to(hidden)
            pooled = (hidden * share[:, :, None]).sum(1)
        projected: Tensor = self.projection(pooled)
        return projected


def build_biomedclip_text(tokenizer: PreTrainedTokenizerFast) -> TextEncoder:
    """BiomedCLIP's text tower with untrained weights: PubMedBERT and the 768→640→512 projection.

    Args:
        tokenizer: its WordPiece tokeniser.
    """
    # open_clip takes seconds to import, and the preset `lite` does without it.
    from open_clip.hf_model import HFTextEncoder

    config = BertConfig(vocab_size=30522)  # all else is BERT-base, which is BertConfig's default
    tower = HFTextEncoder(
        model_name_or_path="",
        output_dim=512,
        config=config,
        pooler_type="cls_last_hidden_state_pooler",
        proj_type="mlp",
        pretrained=False,
    )
    tower.transformer.pooler = None  # the tower pools [CLS] itself; these weights do not exist
    return TextEncoder(
        tower.transformer,
        _checked_tokenizer(tokenizer),
        tower.proj,
        pooling="cls",
        out_features=512,
    )


def _checked_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Check that a tokeniser puts a word between `[CLS]` and `[SEP]`, as BERT's does.

    Which ids words have it does not check: BiomedCLIP's vocabulary is another one than MiniLM's.

    Raises:
        WeightsError: it does not.
    """
    ids = tokenizer("tumor.")["input_ids"]
    if len(ids) < 4 or ids[0] != tokenizer.cls_token_id or ids[-1] != tokenizer.sep_token_id:
        raise WeightsError(
            f"the tokeniser turns 'tumor.' into {ids}, without [CLS] … [SEP]: the tokenizer.json "
            "beside the weights is not the one of this text encoder; download it again"
        )
    return tokenizer


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """WordPiece from a local folder's `tokenizer.json`, or else from its `vocab.txt`.

    Raises:
        WeightsError: the folder has neither, or it is damaged.
    """
    files = [Path(folder) / name for name in ("tokenizer.json", "vocab.txt")]
    path = next((path for path in files if path.is_file()), None)
    if path is None:
        raise WeightsError(
            f"{folder} has neither tokenizer.json nor vocab.txt; download the tokeniser files of "
            "the repository too"
        )
    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_file(str(path))
        else:
            # transformers' BertTokenizerFast(vocab_file=…) gives other ids; this one is checked.
            tokenizer = BertWordPieceTokenizer(str(path), lowercase=True)._tokenizer
    except Exception as error:  # the package raises nothing narrower
        raise WeightsError(
            f"{path} is no tokeniser ({str(error).partition(chr(10))[0]}); download it again"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
    )


def _settings_in(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file beside weights.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise WeightsError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no settings; download it again")
    return content


def load_minilm(folder: str | Path) -> TextEncoder:
    """all-MiniLM-L6-v2 from a local folder: BERT with 6 layers of width 384 and mean pooling.

    Args:
        folder: holds `config.json`, `model.safetensors` and `tokenizer.json`.

    Raises:
        WeightsError: a file is missing or does not fit.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise WeightsError(f"{folder} has no config.json; give the folder of all-MiniLM-L6-v2")
    settings = _settings_in(config_path)
    try:
        config = BertConfig(**settings)
        bert = BertModel(config, add_pooling_layer=False)
    except Exception as error:  # the package checks little, and stumbles in many ways
        raise WeightsError(
            f"{config_path} does not describe a BERT ({' '.join(str(error).split())}); download it "
            "again"
        ) from error
    state = load_tensors(folder / "model.safetensors")
    # The pooler and the position buffer are stored with the weights but not used by mean pooling.
    unused = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
    load_exactly(bert, {k: v for k, v in state.items() if k not in unused}, source=str(folder))
    return TextEncoder(
        bert,
        _checked_tokenizer(load_tokenizer(folder)),
        nn.Identity(),
        pooling="mean",
        out_features=int(config.hidden_size),
    )


def load_biomedclip(folder: str | Path) -> TextEncoder:
    """BiomedCLIP's text tower from a snapshot of its hub repository; never touches the network.

    Args:
        folder: holds `open_clip_config.json`, `open_clip_pytorch_model.bin` (or
            `open_clip_model.safetensors`) and `tokenizer.json`. BERT's own `config.json` is not
            needed: the tower is BERT-base, which the shapes of the weights confirm.

    Raises:
        WeightsError: a file is missing, unsafe, or not BiomedCLIP's.
    """
    folder = Path(folder)
    config_path = folder / "open_clip_config.json"
    if not config_path.is_file():
        raise WeightsError(
            f"{folder} has no open_clip_config.json; give the folder of a BiomedCLIP snapshot "
            "(open_clip_config.json, open_clip_pytorch_model.bin, tokenizer.json)"
        )
    text_config: Any = _settings_in(config_path)
    for part in ("model_cfg", "text_cfg"):
        text_config = text_config.get(part, {})
        if not isinstance(text_config, dict):
            raise WeightsError(f"{config_path}: {part} holds no settings; download it again")
    expected = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    for key, value in expected.items():
        if text_config.get(key) != value:
            raise WeightsError(
                f"{config_path}: text_cfg.{key} is {text_config.get(key)!r}, BiomedCLIP's is "
                f"{value!r}; this is another model"
            )
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        if (folder / name).is_file():
            state = load_tensors(folder / name)
            break
    else:
        raise WeightsError(
            f"{folder} has no open_clip_pytorch_model.bin or open_clip_model.safetensors"
        )
    encoder = build_biomedclip_text(load_tokenizer(folder))
    load_exactly(encoder, _biomedclip_text_state(state), source=str(folder))
    return encoder


def _biomedclip_text_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pick the text tower out of open_clip's state dict and name it as `TextEncoder` does."""
    picked: dict[str, Tensor] = {}
    for name, tensor in state.items():
        # Older exports carry BERT's position buffer, newer ones do not; it is a constant range.
        if name.endswith("embeddings.position_ids") or ".pooler." in name:
            continue
        if name.startswith("text.transformer."):
            picked["bert." + name.removeprefix("text.transformer.")] = tensor
        elif name.startswith("text.proj."):
            picked["projection." + name.removeprefix("text.proj.")] = tensor
    return picked
