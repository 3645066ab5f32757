"""Masks under the names that an adapter has for what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from textsam.prompts import canonical

__all__ = ["by_prompt"]


def by_prompt(
    masks: Mapping[str, NDArray[np.bool_]], prompts: Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """The masks by the adapter's word for each concept; several that are one word are united.

    Args:
        masks: the data set's concept -> (H, W), all of one size.
        prompts: the adapter's words. A concept that is none of them keeps its name.
    """
    named: dict[str, NDArray[np.bool_]] = {}
    for concept, mask in masks.items():
        name = canonical(concept, prompts) or concept
        named[name] = named[name] | mask if name in named else mask
    return named
