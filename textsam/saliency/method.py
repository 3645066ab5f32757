"""Saliency by the name of its method, with the weights that are here."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textsam.saliency.write import Saliency

__all__ = ["SaliencyMethod", "load_saliency"]


class SaliencyMethod(StrEnum):
    """Where a saliency map comes from.

    Attributes:
        BIOMEDCLIP: what BiomedCLIP finds alike in text and image.
        BOXES: the most object-like region by LiteMedSAM, whatever the text says.
    """

    BIOMEDCLIP = "biomedclip"
    BOXES = "boxes"


def load_saliency(method: SaliencyMethod) -> Saliency:
    """A method, ready.

    Raises:
        WeightsError: what it needs is not here.
    """
    if method is SaliencyMethod.BIOMEDCLIP:
        from textsam import weights
        from textsam.saliency.clip import load_clip_saliency

        return load_clip_saliency(weights.resolve("biomedclip"))
    from textsam.model.build import Architecture, build_model
    from textsam.saliency.boxes import BoxSaliency

    return BoxSaliency(build_model("lite", Architecture(context_depth=1)))
