"""Refinement: the mask of one pass becomes the geometric prompts of the next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsam.inference.masks import Masks
from textsam.inference.refinement import RefineWith, generator_for, points_and_box
from textsam.inference.settle import Ending, Settle, Settling
from textsam.model.textsam import TextSAM
from textsam.preprocess import Frame

__all__ = ["Geometry", "Pass", "decode_passes", "geometry_of_mask"]

# Prompts of one call of the decoder, each of which takes some 40 MB meanwhile.
_MOST_TOGETHER = 64


@dataclass(frozen=True)
class Geometry:
    """Geometric prompts of one object, in the image's frame.

    Attributes:
        points: (n, 2) of (x, y) in pixels.
        labels: (n,), 1 foreground, 0 background.
        box: (4,) of (x_min, y_min, x_max, y_max), or None.
        mask: (1, 4h, 4h) logits of an earlier pass over the model's square, or None.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    box: NDArray[np.float64] | None
    mask: Tensor | None = None


@dataclass
class Pass:
    """One pass over C prompts.

    Attributes:
        logits: (C, 1, 4h, 4h), low resolution, over the model's square.
        iou: (C, 1) predicted IoU.
        masks: C of (H, W) bool, each at its image's resolution.
        settled: index of each prompt that refines until its mask settles -> refinement passes so
            far, and why it ended (None: it has not).
    """

    logits: Tensor
    iou: Tensor
    masks: Masks
    settled: dict[int, tuple[int, Ending | None]] = field(default_factory=dict)


def geometry_of_mask(
    mask: NDArray[np.bool_],
    gives: RefineWith = RefineWith.BOX_CENTROID,
    generator: np.random.Generator | None = None,
    logits: Tensor | None = None,
) -> Geometry | None:
    """Prompts from a mask in the image's frame; arguments and None as in `points_and_box`.

    `logits` are those the mask was cut from, (1, 4h, 4h), for the kinds that give them.
    """
    found = points_and_box(mask, gives, generator)
    if found is None:
        return None
    points, box = found
    own = logits if gives.has_mask else None
    return Geometry(points=points, labels=np.ones(len(points), dtype=np.int64), box=box, mask=own)


@dataclass(frozen=True)
class _Query:
    """One prompt on one image, as the decoder is asked; without a token, by geometry alone."""

    embedding: Tensor
    token: Tensor | None
    frame: Frame
    geometry: Geometry | None


def _tokens(
    model: TextSAM, queries: Sequence[_Query], authors_frame: bool
) -> tuple[Tensor, Tensor]:
    """Sparse tokens (N, m, 256) and dense embedding of queries of one kind."""
    words = [query.token for query in queries if query.token is not None]
    text = torch.stack(words) if words else None
    device = queries[0].embedding.device

    def place(arrays: Sequence[tuple[NDArray[np.float64], Frame]]) -> Tensor:
        placed = [array if authors_frame else frame.to_model(array) for array, frame in arrays]
        return torch.tensor(np.stack(placed), dtype=torch.float32, device=device)

    given = [(query.geometry, query.frame) for query in queries if query.geometry is not None]
    if not given:
        return model.prompt_tokens(text, count=len(queries))
    points: tuple[Tensor, Tensor] | None = None
    boxes = masks = None
    if len(given[0][0].points):
        labels = torch.tensor(np.stack([g.labels for g, _ in given]), device=device)
        points = (place([(g.points, frame) for g, frame in given]), labels)
    corners = [(g.box.reshape(2, 2), frame) for g, frame in given if g.box is not None]
    if corners:
        boxes = place(corners).flatten(1)
    if given[0][0].mask is not None:
        masks = torch.stack([g.mask.float() for g, _ in given if g.mask is not None])
    return model.prompt_tokens(text, points, boxes, masks)


def _kind(query: _Query) -> tuple[bool, int, bool, bool]:
    """Queries of one kind have as many prompt tokens, so they can be decoded together."""
    worded = query.token is not None
    if query.geometry is None:
        return worded, 0, False, False
    own = query.geometry
    return worded, len(own.points), own.box is not None, own.mask is not None


def _decode(
    model: TextSAM,
    queries: Sequence[_Query],
    threshold_logit: float,
    authors_frame: bool,
    together: bool,
) -> Pass:
    groups: dict[object, list[int]] = defaultdict(list)
    for index, query in enumerate(queries):
        groups[_kind(query) if together else index].append(index)
    logits: list[Tensor] = [torch.empty(0)] * len(queries)
    iou = list(logits)
    for members in (
        alike[start : start + _MOST_TOGETHER]
        for alike in groups.values()
        for start in range(0, len(alike), _MOST_TOGETHER)
    ):
        group = [queries[index] for index in members]
        sparse, dense = _tokens(model, group, authors_frame)
        one_image = all(query.embedding is group[0].embedding for query in group)
        embedding = torch.cat([q.embedding for q in (group[:1] if one_image else group)])
        answers = model.decode(embedding, sparse, dense)
        for row, index in enumerate(members):
            logits[index], iou[index] = answers[0][row], answers[1][row]
    joined = torch.stack(logits)
    masks = Masks(joined, [query.frame for query in queries], threshold_logit)
    return Pass(joined, torch.stack(iou), masks)


def decode_passes(
    model: TextSAM,
    embedding: Tensor | Sequence[Tensor],
    text_tokens: Tensor | Sequence[Tensor | None],
    frame: Frame | Sequence[Frame],
    *,
    refine: Sequence[int | Settle],
    manual: Sequence[Geometry | None] | None = None,
    threshold_logit: float = 0.0,
    authors_frame: bool = False,
    together: bool | None = None,
    gives: RefineWith = RefineWith.BOX_CENTROID,
    draws: Sequence[tuple[int, str, str]] | None = None,
) -> list[Pass]:
    """Decode C prompts on embedded images, then refine each as often as asked.

    The first pass uses the text and any manual geometry. Each further pass uses the text and what
    `gives` takes from the mask before, by default its centroid and box (TextSAM-EUS, refinement
    stage). A prompt without text is geometry alone in every pass. A prompt whose mask is empty, or
    whose refinements are done, keeps what it has: nothing is made up for it.

    Args:
        model: in eval mode.
        embedding: (1, 256, h, h) of the image all prompts are about, or C of these.
        text_tokens: (C, 256), or C of (256,) or None; None needs manual geometry, unless the model
            takes no text.
        frame: of the image, or C of these.
        refine: (C,) refinement passes per prompt, or when its mask has settled.
        manual: (C,) geometry in its image's frame, or None.
        threshold_logit: logit above which a pixel belongs to the mask.
        authors_frame: leave refinement prompts, and manual ones, in the image's frame, as the
            authors' code does. For checkpoints judged that way only; the prompts are misplaced
            unless the image's longer side is the model's.
        together: decode prompts together where they have as many tokens, a few dozen at once.
            Matrix products round differently for another batch size, so an answer then depends, in
            its last bits, on what else is asked. None does so except on a CPU, where it saves
            nothing.
        gives: what refinement takes from a mask.
        draws: (C,) of (seed, image, prompt), from which `gives` draws its random points, if any;
            see `generator_for`.

    Returns:
        1 + max(refine) passes, each over all prompts, or more where a mask takes longer to settle;
        the last holds the result.

    Raises:
        PromptError: a prompt with neither text nor geometry.
        ValueError: `gives` draws random points and `draws` is None.
    """
    count = len(text_tokens)
    embeddings = [embedding] * count if isinstance(embedding, Tensor) else list(embedding)
    frames = [frame] * count if isinstance(frame, Frame) else list(frame)
    geometries = list(manual) if manual is not None else [None] * count
    queries = [
        _Query(*parts) for parts in zip(embeddings, text_tokens, frames, geometries, strict=True)
    ]
    if together is None:
        together = any(own.device.type != "cpu" for own in embeddings)
    if gives.random_points and draws is None:
        raise ValueError(f"{gives.value!r} draws points; say from what with draws=")
    passes = [_decode(model, queries, threshold_logit, authors_frame, together)]
    settling = {
        index: Settling(rule, passes[0].masks[index])
        for index, rule in enumerate(refine)
        if isinstance(rule, Settle) and gives is not RefineWith.NONE
    }
    counted = {index: rule for index, rule in enumerate(refine) if isinstance(rule, int)}
    passes[0].settled = {index: (0, own.ending) for index, own in settling.items()}
    number = 0
    while number < max(counted.values(), default=0) or any(
        own.ending is None for own in settling.values()
    ):
        number += 1
        before = passes[-1]
        current_logits, current_iou = before.logits.clone(), before.iou.clone()
        masks = before.masks
        due = [
            i
            for i in range(count)
            if counted.get(i, 0) >= number or (i in settling and settling[i].ending is None)
        ]
        found = {
            i: geometry_of_mask(
                before.masks[i],
                gives,
                None if draws is None else generator_for(*draws[i], number),
                before.logits[i],
            )
            for i in due
        }
        due = [i for i in due if found[i] is not None]
        if due:
            refined = [replace(queries[i], geometry=found[i]) for i in due]
            again = _decode(model, refined, threshold_logit, authors_frame, together)
            rows = {}
            for row, index in enumerate(due):
                own = settling.get(index)
                if own is None or own.take(before.masks[index], again.masks[row]):
                    current_logits[index], current_iou[index] = again.logits[row], again.iou[row]
                    rows[index] = row
            masks = masks.replaced(current_logits, again.masks, rows)
            before.masks.forget()  # those of a large image, of every pass, would fill gigabytes
        ended = {index: (own.passes, own.ending) for index, own in settling.items()}
        passes.append(Pass(current_logits, current_iou, masks, ended))
    return passes
