"""What a model has encoded lately: embeddings of images by content, tokens of words."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsam.inference.kinds import mean_embedding
from textsam.inference.prepare import Prepared
from textsam.model.textsam import TextSAM

__all__ = ["Encodings", "means_of"]

_KEPT_EMBEDDINGS = 4
# More than an adapter has words; a server's clients may ask any.
_KEPT_TOKENS = 256


def means_of(embeddings: Sequence[Tensor], images: Sequence[Prepared]) -> list[NDArray[np.float64]]:
    """The (256,) means of images' embeddings, over the part of the square that is image."""
    return [
        mean_embedding(embedding[0].float().cpu().numpy(), image.frame)
        for embedding, image in zip(embeddings, images, strict=True)
    ]


class Encodings:
    """Encode images and words, each once as long as it is kept: the last few images, many words.

    Args:
        model: merged, in eval mode and on `device`.
        device: where the model is.
        precision: of the image encoder.
    """

    def __init__(self, model: TextSAM, device: torch.device, precision: torch.dtype) -> None:
        self.model = model
        self.device = device
        self.precision = precision
        self.tokens: OrderedDict[str, Tensor] = OrderedDict()
        self.embeddings: OrderedDict[str, Tensor] = OrderedDict()
        # Of both, which several threads may ask at once.
        self._kept = Lock()

    def token(self, text: str) -> Tensor:
        """The (256,) token of a text."""
        with self._kept:
            known = self.tokens.get(text)
        if known is None:
            known = self.model.encode_text([text])[0]
            with self._kept:
                self.tokens[text] = known
                while len(self.tokens) > _KEPT_TOKENS:
                    self.tokens.popitem(last=False)
        return known

    def embed(self, images: Sequence[Prepared]) -> list[Tensor]:
        """The (1, 256, h, h) embeddings of images; those seen lately are not encoded again."""
        known: dict[str, Tensor] = {}
        new: dict[str, Prepared] = {}
        with self._kept:
            for image in images:
                if image.key in self.embeddings:
                    known[image.key] = self.embeddings[image.key]
                    self.embeddings.move_to_end(image.key)
                else:
                    new[image.key] = image
        if new:
            batch = torch.stack([image.pixels for image in new.values()])
            batch = batch.to(self.device, memory_format=torch.channels_last)
            with self._autocast():
                encoded = self.model.encode_image(batch).float()
            # Copies of their own: a view would keep the whole batch in memory.
            fresh = {k: one.clone() for k, one in zip(new, encoded[:, None], strict=True)}
            known |= fresh
            with self._kept:
                self.embeddings |= fresh
                while len(self.embeddings) > _KEPT_EMBEDDINGS:
                    self.embeddings.popitem(last=False)
        return [known[image.key] for image in images]

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)
