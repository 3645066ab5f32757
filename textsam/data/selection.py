"""Part of a manifest's set: which of its images are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import Field, field_validator

from textsam.draws import number_of
from textsam.errors import ConfigError
from textsam.sections import Section

__all__ = ["Selection", "kept", "place_of", "selection_of", "spread"]

_Item = TypeVar("_Item")


class Selection(Section):
    """Part of a manifest's set.

    set: its name. split: "train", or "fold1/train" for a set with folds.
    classes: concepts to keep; None keeps all.
    weight: how often its samples are wanted in training, relative to other selections' samples.
    part: keep the samples whose place, drawn from a hash of the stem, lies in [low, high) of 0…1:
        (0.1, 1) to train and (0, 0.1) to validate divide a split without a file saying so.
    prefix: keep stems that begin so, e.g. one hospital of a set.
    numbers: keep stems that are a whole number in [low, high], as slices and frames are; None keeps
        all.
    limit: keep this many samples, evenly spread over the split (neighbours are often alike).
    """

    set: str
    split: str
    classes: list[str] | None = None
    weight: float = Field(default=1.0, gt=0.0)
    part: tuple[float, float] = (0.0, 1.0)
    prefix: str = ""
    # Where it is not given, dumps are as before it existed, and runs are recognised.
    numbers: tuple[int, int] | None = Field(default=None, exclude_if=lambda given: given is None)
    limit: int | None = Field(default=None, ge=1)

    @field_validator("part")
    @classmethod
    def _is_a_range(cls, part: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= part[0] < part[1] <= 1:
            raise ValueError(f"{list(part)} is not [low, high] with 0 <= low < high <= 1")
        return part

    @field_validator("numbers")
    @classmethod
    def _is_an_interval(cls, numbers: tuple[int, int] | None) -> tuple[int, int] | None:
        if numbers is not None and not 0 <= numbers[0] <= numbers[1]:
            raise ValueError(f"{list(numbers)} is not [low, high] with 0 <= low <= high")
        return numbers


def selection_of(text: str, limit: int | None = None) -> Selection:
    """A selection as users write it: "SET/SPLIT", or "SET/SPLIT@LOW:HIGH" for a part of the split.

    Args:
        text: such as "busi/fold1/test" or "busi/fold1/test@0:0.1".
        limit: as of `Selection`.

    Raises:
        ConfigError: something else.
    """
    where, _, part = text.partition("@")
    name, _, split = where.partition("/")
    try:
        low, high = (float(edge) for edge in part.split(":")) if part else (0.0, 1.0)
    except ValueError:
        split = ""
    if not name or not split or not 0 <= low < high <= 1:
        raise ConfigError(
            f"{text}: write SET/SPLIT, e.g. busi/fold1/test, or SET/SPLIT@LOW:HIGH with "
            "0 <= LOW < HIGH <= 1"
        )
    return Selection(set=name, split=split, part=(low, high), limit=limit)


def spread(items: Sequence[_Item], limit: int | None) -> list[_Item]:
    """At most this many, evenly spread: the middles of as many stretches. None keeps all."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * limit)] for i in range(limit)]


def place_of(stem: str) -> float:
    """A number in [0, 1) that depends on the stem alone, on every machine."""
    return number_of(stem) / 2**32


def kept(stems: list[str], selection: Selection) -> list[str]:
    """The stems of a split that a selection wants, in their order."""
    low, high = selection.part
    stems = [s for s in stems if s.startswith(selection.prefix) and low <= place_of(s) < high]
    if selection.numbers is not None:
        first, last = selection.numbers
        stems = [s for s in stems if s.isdecimal() and first <= int(s) <= last]
    return spread(stems, selection.limit)
