"""Random numbers of a distribution that NumPy's generator does not have."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["log_uniform"]


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """A number between two positive ones whose logarithm is uniform: for factors."""
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))
