"""One training step's forward pass: images and prompts in, losses out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from textsam.config import GeometrySettings
from textsam.data.dataset import TrainItem
from textsam.model.build import BuiltModel
from textsam.refine import box_and_centroid
from textsam.train.cache import EmbeddingCache
from textsam.train.losses import LossParts, mask_losses
from textsam.train.order import Key

__all__ = ["Forward", "simulated_geometry"]


def simulated_geometry(
    mask: NDArray[np.bool_], jitter: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centroid and box of a mask, the box's sides and the point shifted at random.

    Args:
        mask: (h, w), not empty, in the model's frame.
        jitter: largest shift as a fraction of the box's width and height.
        rng: of this item.

    Returns:
        (2,) point (x, y) and (4,) box, inside the mask's array.
    """
    found = box_and_centroid(mask)
    if found is None:
        raise ValueError("an empty mask has no geometry")
    box, centroid = found
    size = np.array([box[2] - box[0], box[3] - box[1]]) + 1.0
    limit = np.array([mask.shape[1], mask.shape[0]]) - 1.0
    shift = rng.uniform(-jitter, jitter, 4) * np.tile(size, 2)
    moved = np.clip(box + shift, 0, np.tile(limit, 2))
    box = np.concatenate([np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])])
    point = np.clip(centroid + rng.uniform(-jitter, jitter, 2) * size / 2, 0, limit)
    return point, box


class Forward:
    """Images and prompts to losses, with the settings of a run.

    Args:
        built: model and preprocessing.
        device: where the model is.
        precision: "float32", or "bfloat16" for autocast in the image encoder.
        geometry: simulated geometric prompts.
        seed: of the run.
        cache: of embeddings, for a frozen encoder.
    """

    def __init__(
        self,
        built: BuiltModel,
        *,
        device: torch.device,
        precision: str,
        geometry: GeometrySettings,
        seed: int,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self.built = built
        self.device = device
        self.precision = precision
        self.geometry = geometry
        self.seed = seed
        self.cache = cache

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    @contextmanager
    def _text_noise(self, key: Key) -> Iterator[None]:
        """Seed the text encoder's dropout, where it is on, so that a resumed run draws the same."""
        if not self.built.model.text_encoder.training:
            yield
            return
        seed = int(np.random.SeedSequence((self.seed, *key, 0xD0)).generate_state(1)[0])
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield

    def embed(self, items: Sequence[TrainItem]) -> Tensor:
        """(B, 256, 64, 64) float32 embeddings of the items' images."""
        images = []
        for item in items:
            height, width = item.size_px
            image = item.image[:, :height, :width].to(self.device, torch.float32)
            images.append(self.built.preprocessor.normalise_and_pad(image))
        encode: Callable[[Tensor], Tensor] = self.built.model.encode_image
        if self.cache is not None:
            with torch.no_grad(), self._autocast():
                return torch.cat([self.cache(image, encode) for image in images])
        batch = torch.stack(images).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            return encode(batch).float()

    def decode(
        self, item: TrainItem, embedding: Tensor, tokens: Tensor, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode one item's prompts, some of them with simulated geometry.

        Args:
            item: with n prompts.
            embedding: (1, 256, 64, 64) of its image.
            tokens: (n, 256) of its prompts.
            rng: draws geometry; None decodes from text alone.

        Returns:
            (n, 1, h, w) logits and (n, h, w) targets over the valid part of the square, or both in
            the image's own pixels where the item carries its masks in them, and (n, 1) predicted
            IoU.
        """
        model = self.built.model
        targets = item.targets.to(self.device)
        native = None if item.native_targets is None else item.native_targets.to(self.device)
        present = targets.flatten(1).bool().any(1)
        if rng is not None and rng.random() < self.geometry.probability and bool(present.any()):
            parts = [self._decode_with_geometry(embedding, tokens[present], targets[present], rng)]
            order = [int(i) for i in torch.nonzero(present)[:, 0]]
            if not bool(present.all()):
                parts.append(model(embedding, tokens[~present]))
                order += [int(i) for i in torch.nonzero(~present)[:, 0]]
            logits = torch.cat([part[0] for part in parts])
            iou = torch.cat([part[1] for part in parts])
            targets = targets[order]
            native = None if native is None else native[order]
        else:
            logits, iou = model(embedding, tokens)
        side = targets.shape[-1]
        if logits.shape[-1] != side:
            logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        height, width = item.size_px
        logits = logits[..., :height, :width]
        if native is None:
            return logits, targets[..., :height, :width], iou
        size = native.shape[-2:]
        return F.interpolate(logits, size, mode="bilinear", align_corners=False), native, iou

    def _decode_with_geometry(
        self, embedding: Tensor, tokens: Tensor, targets: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        pairs = [
            simulated_geometry(target.cpu().numpy().astype(bool), self.geometry.jitter, rng)
            for target in targets
        ]
        points = torch.tensor(np.stack([pair[0] for pair in pairs]), dtype=torch.float32)[:, None]
        boxes = torch.tensor(np.stack([pair[1] for pair in pairs]), dtype=torch.float32)
        labels = torch.ones(len(pairs), 1)
        sparse, dense = self.built.model.prompt_tokens(
            tokens,
            (points.to(self.device), labels.to(self.device)),
            boxes.to(self.device),
        )
        return self.built.model.decode(embedding, sparse, dense)

    def losses(self, keys: Sequence[Key], items: Sequence[TrainItem]) -> list[LossParts]:
        """The losses of a batch, one entry per image.

        Args:
            keys: of the items; they seed the simulated geometry.
            items: as many.
        """
        embeddings = self.embed(items)
        prompts = [prompt for item in items for prompt in item.prompts]
        distinct = sorted(set(prompts))
        with self._text_noise(keys[0]):
            tokens = self.built.model.encode_text(distinct)
        row = {prompt: index for index, prompt in enumerate(distinct)}
        results = []
        for number, (key, item) in enumerate(zip(keys, items, strict=True)):
            own = tokens[[row[prompt] for prompt in item.prompts]]
            rng = np.random.default_rng((self.seed, *key, 0x6E0))
            with self._autocast():
                logits, targets, iou = self.decode(item, embeddings[number : number + 1], own, rng)
            results.append(mask_losses(logits.float(), iou.float(), targets))
        return results
