"""Words and geometry of one image's prompts, as the decoder takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from textsam.model.textsam import TextSAM
from textsam.train.simulate import Given

__all__ = ["Asking"]


class Asking:
    """Asks a model's decoder for several objects in one image.

    Args:
        model: on the device.
        device: where it is.
    """

    def __init__(self, model: TextSAM, device: torch.device) -> None:
        self.model = model
        self.device = device

    def ask(
        self,
        embedding: Tensor,
        tokens: Tensor | None,
        given: Sequence[Given | None],
        worded: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """(n, 1, 4h, 4h) logits over the model's square and (n, 1) predicted IoU of n prompts.

        Args:
            embedding: (1, 256, h, h).
            tokens: (n, 256) or None.
            given: geometry of each, all of one kind, or None.
            worded: whether prompts with geometry get their words; the others do.
        """
        logits, iou, places = [], [], []
        for members, sparse, dense in self.groups(tokens, given, worded):
            answer = self.model.decode(embedding, sparse, dense)
            logits.append(answer[0])
            iou.append(answer[1])
            places += members
        if len(logits) == 1:
            return logits[0], iou[0]
        back = torch.tensor(places, device=embedding.device).argsort()
        return torch.cat(logits)[back], torch.cat(iou)[back]

    def groups(
        self, tokens: Tensor | None, given: Sequence[Given | None], worded: bool
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Sparse and dense prompts in groups of one shape: first those with geometry.

        Arguments as of `ask`. Yields the places of a group's prompts, and their two parts.
        """
        groups = [
            [i for i, own in enumerate(given) if own is not None],
            [i for i, own in enumerate(given) if own is None],
        ]
        for members, geometric in zip(groups, (True, False), strict=True):
            if not members:
                continue
            own = tokens if tokens is None or len(members) == len(given) else tokens[members]
            if geometric:
                prompts = [one for one in given if one is not None]
                yield members, *self._tokens(own if worded else None, prompts)
            else:
                yield members, *self.model.prompt_tokens(own, count=len(members))

    def _tokens(self, words: Tensor | None, given: Sequence[Given]) -> tuple[Tensor, Tensor]:
        """Sparse and dense prompt of objects whose geometry is of one kind."""
        points: tuple[Tensor, Tensor] | None = None
        boxes: Tensor | None = None
        masks: Tensor | None = None
        if len(given[0].points):
            places = np.stack([own.points for own in given])
            labels = torch.ones(places.shape[:2])
            points = (
                torch.tensor(places, dtype=torch.float32).to(self.device),
                labels.to(self.device),
            )
        if given[0].box is not None:
            corners = np.stack([own.box for own in given if own.box is not None])
            boxes = torch.tensor(corners, dtype=torch.float32).to(self.device)
        if given[0].mask is not None:
            masks = torch.stack([own.mask for own in given if own.mask is not None])
        return self.model.prompt_tokens(words, points, boxes, masks)
