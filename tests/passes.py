"""Run the three passes of the paper on one image and keep everything in between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsam.inference.refine import Pass, decode_passes
from textsam.model.build import BuiltModel
from textsam.preprocess import Frame


@dataclass
class Encoded:
    """Image and text, encoded once."""

    built: BuiltModel
    embedding: Tensor
    frame: Frame
    text_features: Tensor
    tokens: Tensor


def encode(built: BuiltModel, pixels: NDArray[np.uint8]) -> Encoded:
    """Encode an image and the prompts "background" and "tumor"."""
    model = built.model
    with torch.inference_mode():
        image, frame = built.preprocessor(pixels)
        features = model.text_encoder(["background", "tumor"], model.context)
        return Encoded(
            built, model.encode_image(image[None]), frame, features, model.adapter(features)
        )


def run(encoded: Encoded, *, authors_frame: bool) -> tuple[list[Pass], list[Tensor]]:
    """Three passes of "tumor", and the sparse tokens the decoder was given in each."""
    model = encoded.built.model
    seen: list[Tensor] = []
    # The decoder's own five tokens come before those of the prompt.
    hook = model.mask_decoder.transformer.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[2][:, 5:].clone())
    )
    try:
        with torch.inference_mode():
            passes = decode_passes(
                model,
                encoded.embedding,
                encoded.tokens[1:],
                encoded.frame,
                refine=[2],
                authors_frame=authors_frame,
            )
    finally:
        hook.remove()
    return passes, seen


def relative_error(ours: Tensor, theirs: NDArray[np.floating]) -> float:
    """Largest difference over the largest magnitude."""
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks that are not both empty."""
    return float((a & b).sum() / (a | b).sum())
