"""Refinement: the mask of one pass becomes the centroid and box prompts of the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsam.model.textsam import TextSAM
from textsam.preprocess import Frame

__all__ = ["Geometry", "Pass", "box_and_centroid", "decode_passes", "geometry_of_mask"]


@dataclass(frozen=True)
class Geometry:
    """Geometric prompts of one object, in the image's frame.

    Attributes:
        points: (n, 2) of (x, y) in pixels.
        labels: (n,), 1 foreground, 0 background.
        box: (4,) of (x_min, y_min, x_max, y_max), or None.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    box: NDArray[np.float64] | None


@dataclass
class Pass:
    """One pass over C prompts of an image.

    Attributes:
        logits: (C, 1, 256, 256), low resolution, over the model's square.
        iou: (C, 1) predicted IoU.
        masks: (C, H, W) bool at the image's resolution.
    """

    logits: Tensor
    iou: Tensor
    masks: NDArray[np.bool_]


def box_and_centroid(
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Inclusive bounds (x_min, y_min, x_max, y_max) and centre of mass (x, y) of a mask.

    Returns:
        (4,) and (2,), in pixels, or None for an empty mask.
    """
    columns, rows = mask.any(0), mask.any(1)
    if not columns.any():
        return None
    xs, ys = np.flatnonzero(columns), np.flatnonzero(rows)
    per_row, per_column = mask.sum(1, dtype=np.float64), mask.sum(0, dtype=np.float64)
    total = per_row.sum()
    centroid = np.array(
        [
            (per_column * np.arange(mask.shape[1])).sum() / total,
            (per_row * np.arange(mask.shape[0])).sum() / total,
        ]
    )
    return np.array([xs[0], ys[0], xs[-1], ys[-1]], dtype=np.float64), centroid


def geometry_of_mask(mask: NDArray[np.bool_]) -> Geometry | None:
    """Centroid and box prompts from a mask in the image's frame; None when it is empty."""
    found = box_and_centroid(mask)
    if found is None:
        return None
    box, centroid = found
    return Geometry(points=centroid[None], labels=np.ones(1, dtype=np.int64), box=box)


def _tokens(
    model: TextSAM, text_token: Tensor, geometry: Geometry | None, frame: Frame, authors_frame: bool
) -> tuple[Tensor, Tensor]:
    """Sparse tokens and dense embedding of one prompt; `text_token` is (1, 256)."""

    def place(points: NDArray[np.float64]) -> Tensor:
        placed = points if authors_frame else frame.to_model(points)
        return torch.tensor(placed[None], dtype=torch.float32, device=text_token.device)

    if geometry is None:
        return model.prompt_tokens(text_token)
    points: tuple[Tensor, Tensor] | None = None
    boxes: Tensor | None = None
    if len(geometry.points):
        labels = torch.tensor(geometry.labels[None], device=text_token.device)
        points = (place(geometry.points), labels)
    if geometry.box is not None:
        boxes = place(geometry.box.reshape(2, 2)).flatten(1)
    return model.prompt_tokens(text_token, points, boxes)


def _decode(
    model: TextSAM,
    embedding: Tensor,
    text_tokens: Tensor,
    geometries: Sequence[Geometry | None],
    frame: Frame,
    threshold_logit: float,
    authors_frame: bool,
) -> Pass:
    """Decode prompts one at a time, so that no answer depends on what else is asked.

    Matrix products round differently for another batch size. On a CPU a batch would save nothing:
    the decoder repeats the image's embedding for every prompt.
    """
    logits, iou = [], []
    for index, geometry in enumerate(geometries):
        text_token = text_tokens[index : index + 1]
        sparse, dense = _tokens(model, text_token, geometry, frame, authors_frame)
        answer = model.decode(embedding, sparse, dense)
        logits.append(answer[0])
        iou.append(answer[1])
    joined = torch.cat(logits)
    masks = (frame.logits_to_image(joined.float())[:, 0] > threshold_logit).cpu().numpy()
    return Pass(joined, torch.cat(iou), masks)


def decode_passes(
    model: TextSAM,
    embedding: Tensor,
    text_tokens: Tensor,
    frame: Frame,
    *,
    refine: Sequence[int],
    manual: Sequence[Geometry | None] | None = None,
    threshold_logit: float = 0.0,
    authors_frame: bool = False,
) -> list[Pass]:
    """Decode C prompts on one embedded image, then refine each as often as asked.

    The first pass uses the text and any manual geometry. Each further pass uses the text, the
    centroid and the box of the mask before (TextSAM-EUS, refinement stage). A prompt whose mask is
    empty, or whose refinements are done, keeps what it has: nothing is made up for it.

    Args:
        model: in eval mode.
        embedding: (1, 256, 64, 64) of the image.
        text_tokens: (C, 256).
        frame: of the image.
        refine: (C,) refinement passes per prompt.
        manual: (C,) geometry in the image's frame, or None.
        threshold_logit: logit above which a pixel belongs to the mask.
        authors_frame: leave refinement prompts in the image's frame, as the authors' code does.
            For checkpoints judged that way only; the prompts are misplaced unless the image's
            longer side is the model's.

    Returns:
        1 + max(refine) passes, each over all prompts; the last holds the result.
    """
    count = len(text_tokens)
    geometries = list(manual) if manual is not None else [None] * count
    passes = [
        _decode(model, embedding, text_tokens, geometries, frame, threshold_logit, authors_frame)
    ]
    for number in range(1, max(refine, default=0) + 1):
        before = passes[-1]
        current = Pass(before.logits.clone(), before.iou.clone(), before.masks.copy())
        found = [geometry_of_mask(mask) for mask in before.masks]
        due = [i for i in range(count) if refine[i] >= number and found[i] is not None]
        if due:
            again = _decode(
                model,
                embedding,
                text_tokens[due],
                [found[i] for i in due],
                frame,
                threshold_logit,
                authors_frame,
            )
            current.logits[due], current.iou[due] = again.logits, again.iou
            current.masks[due] = again.masks
        passes.append(current)
    return passes
