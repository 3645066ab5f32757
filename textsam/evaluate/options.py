"""Options of an evaluation from Python, checked before anything is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

from textsam.errors import ConfigError

__all__ = ["check_box_shift", "shifts_of", "tolerance_of", "whole_number"]

# Below this part of its size, opposite sides of a box that both move inwards do not meet.
_MAX_BOX_SHIFT = 0.5


def whole_number(name: str, value: object) -> int:
    """A number of things, or a seed, as an int that JSON can hold.

    Raises:
        ConfigError: no whole number, or below 0.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{name} is {value!r}; give a whole number, 0 or more")
    return int(value)


def tolerance_of(name: str, value: object) -> float:
    """A distance as a float.

    Raises:
        ConfigError: no number, infinite, or below 0.
    """
    number = _number(value)
    if not 0 <= number < math.inf:
        raise ConfigError(f"{name} is {value!r}; give a finite 0 or more")
    return number


def _number(value: object) -> float:
    """A number as a float; what is none is NaN, which lies in no range."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def check_box_shift(fraction: object) -> float:
    """The shift as a float.

    Raises:
        ConfigError: no number, or not in [0, 0.5).
    """
    part = _number(fraction)
    if not 0 <= part < _MAX_BOX_SHIFT:
        raise ConfigError(
            f"the box shift {fraction!r} is not in [0, {_MAX_BOX_SHIFT}); give parts of the box's "
            "size, such as 0.1 for 10 %"
        )
    return part


def shifts_of(value: object) -> tuple[float, ...]:
    """Box shifts as floats.

    Raises:
        ConfigError: no sequence of numbers in [0, 0.5).
    """
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise ConfigError(
            f"box_shifts is {value!r}; give a sequence of parts of the box's size, such as (0.1,)"
        )
    return tuple(map(check_box_shift, value))
