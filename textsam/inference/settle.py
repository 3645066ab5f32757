"""Refine until the mask settles: when to go on, when to stop, and which mask is the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from textsam.errors import PromptError
from textsam.invalid import invalid_fields
from textsam.sections import Section

__all__ = ["Ending", "Settle", "Settling", "settle_of"]

Ending = Literal["settled", "cap", "shrinking", "empty"]
"""Why refinement ended: the mask changed no more; the most passes were made; the mask shrank again
and again; or it was empty, so that there was nothing to ask with."""


class Settle(Section):
    """Refine while the mask still changes (Funai et al., equation 1).

    Pass t asks with what the mask of pass t − 1 gives, until Σ|M_t − M_{t−1}| ≤ τ.

    A small object can run away: its mask comes out a little too small, so does the next box, and so
    on until little is left, as the authors report. The guard lets a mask shrink, as it must where
    the first box was too large, but not again and again: when it has lost more than τ pixels in
    `falls` passes on end, the mask before the last of them is the answer. So is the mask before a
    pass that leaves nothing.

    Attributes:
        tolerance_px: τ, in pixels of the image; 2 in the paper.
        most_passes: refinement passes after which the mask is taken as it is.
        falls: of the guard, at least 1; None refines without it, as in the paper.
    """

    tolerance_px: int = Field(2, ge=0)
    most_passes: int = Field(10, ge=1)
    falls: int | None = Field(2, ge=1)


def settle_of(value: object) -> Settle | None:
    """What users write for refining until the mask settles; None where it is something else.

    Args:
        value: "settle" for the defaults, a `Settle`, or its fields by name.

    Raises:
        PromptError: fields that do not exist or have a wrong value.
    """
    if isinstance(value, Settle):
        return value
    if isinstance(value, str) and value == "settle":
        return Settle()
    if not isinstance(value, Mapping):
        return None
    fields: Mapping[str, Any] = value
    try:
        return Settle.model_validate(dict(fields))
    except ValidationError as error:
        raise PromptError(f"refine: {invalid_fields(error, 'settle', model=Settle)}") from error


class Settling:
    """One prompt on its way to a mask that no longer changes.

    Args:
        rule: when to stop.
        first: (H, W) mask of the pass before refinement.
    """

    def __init__(self, rule: Settle, first: NDArray[np.bool_]) -> None:
        self.rule = rule
        self.passes = 0
        self.ending: Ending | None = None if first.any() else "empty"
        self._falls = 0

    def take(self, before: NDArray[np.bool_], now: NDArray[np.bool_]) -> bool:
        """Note one more pass; afterwards `ending` says whether it was the last.

        Args:
            before: (H, W) mask of the pass before.
            now: (H, W) mask of this pass.

        Returns:
            Whether this pass's mask counts; False leaves the one before as the answer.
        """
        self.passes += 1
        if self.rule.falls is not None and not now.any():
            self.ending = "shrinking"
            return False
        changed = int(np.count_nonzero(before != now))
        if changed <= self.rule.tolerance_px:
            self.ending = "settled"
            return True
        lost = int(np.count_nonzero(before)) - int(np.count_nonzero(now))
        self._falls = self._falls + 1 if lost > self.rule.tolerance_px else 0
        if self.rule.falls is not None and self._falls >= self.rule.falls:
            self.ending = "shrinking"
            return False
        if not now.any():
            self.ending = "empty"
        elif self.passes >= self.rule.most_passes:
            self.ending = "cap"
        return True
