"""Learning rate as a function of the step alone, so that a resumed run continues exactly."""

from __future__ import annotations

import math

__all__ = ["rate_factor"]


def rate_factor(
    step: int,
    total_steps: int,
    *,
    warmup_steps: int,
    schedule: str,
    final_fraction: float,
) -> float:
    """Factor on the base rate at optimiser step `step`, counted from 0.

    Linear warm-up, then constant, or a cosine from 1 that would be `final_fraction` one step after
    the last. A warm-up that is longer than the schedule never comes to 1.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return final_fraction + (1 - final_fraction) * cosine
