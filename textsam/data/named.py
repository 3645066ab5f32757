"""Names of what masks show: those that can be asked for, and those that an adapter has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from textsam.errors import PromptError
from textsam.prompts import canonical, normalise

__all__ = ["ConceptName", "by_prompt", "unaskable"]


def unaskable(name: str) -> str:
    """Why a name cannot be asked for; empty where it can."""
    try:
        normalise(name)
    except PromptError as error:
        return str(error)
    return ""


def _askable(name: str) -> str:
    if fault := unaskable(name):
        raise ValueError(fault)
    return name


ConceptName = Annotated[str, AfterValidator(_askable)]
"""Of a setting that says what masks show: a text that can be asked for."""


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
