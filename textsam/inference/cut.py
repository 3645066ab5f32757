"""Where a map of probabilities is cut into a mask, so that the Dice to expect is largest.

Half is the place where most pixels are right. The Dice of a mask is largest elsewhere: at half of
that Dice (Lipton et al., "Optimal thresholding of classifiers to maximize F1 measure", ECML 2014;
F1 is Dice). So what the model is sure of is cut near one half; where it hesitates, as on images
unlike those of its training, lower, and the mask is less of a fragment.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from textsam.sections import Section

__all__ = ["STEPS", "Cut", "expected_dice", "histogram"]

# Probabilities are told apart to this part of 1.
STEPS = 200
# Pixels to count, about. A larger map is an enlargement of 256 x 256 numbers, and a part of it
# tells as much.
_PIXELS = 2**20


class Cut(Section):
    """How an adapter's probabilities are cut.

    Attributes:
        sharpness: exponent on the odds of a probability before it is believed; 1 takes it at its
            word. Averages over pixels are not calibrated, and validation says how much to believe.
        least: where no probability exceeds this the mask is not cut lower.
        lowest: no mask is cut lower.
    """

    sharpness: float = Field(gt=0)
    least: float = Field(0.3, gt=0, lt=1)
    lowest: float = Field(0.1, gt=0, lt=1)

    def threshold(self, counts: NDArray[np.int64], highest: float) -> float:
        """The probability, between `lowest` and `highest`, above which to take pixels.

        Args:
            counts: of probabilities, from `histogram`.
            highest: what is taken where nothing lower promises a larger Dice.
        """
        first, last = round(self.lowest * STEPS), min(round(highest * STEPS), STEPS - 1)
        if first >= last:
            return highest
        expected = expected_dice(counts, self.sharpness)[first : last + 1]
        # Of alike ones the highest.
        return (last - int(np.argmax(expected[::-1]))) / STEPS


def histogram(probability: NDArray[np.floating]) -> NDArray[np.int64]:
    """(STEPS,) pixels whose probability lies in each part of [0, 1], without its lower end.

    Args:
        probability: (H, W). Of more than four million pixels every second, third … row and column
            is counted.
    """
    step = max(1, math.isqrt(probability.size // _PIXELS))
    probability = probability[::step, ::step]
    places = np.clip(np.ceil(probability * STEPS).astype(np.int64) - 1, 0, STEPS - 1)
    return np.bincount(places.ravel(), minlength=STEPS)


def expected_dice(counts: NDArray[np.int64], sharpness: float) -> NDArray[np.float64]:
    """(STEPS,) Dice to expect of the mask of all pixels in this part or above.

    Twice the expected overlap by the pixels of the mask and those expected of the thing, pixels
    taken as independent.

    Args:
        counts: from `histogram`.
        sharpness: as of `Cut`.
    """
    middle = (np.arange(STEPS) + 0.5) / STEPS
    with np.errstate(over="ignore"):  # exp of a lot is inf, and what is believed then 0
        believed = counts / (1 + np.exp(-sharpness * np.log(middle / (1 - middle))))
    taken = np.cumsum(counts[::-1])[::-1]
    overlap = np.cumsum(believed[::-1])[::-1]
    return np.asarray(2 * overlap / np.maximum(taken + believed.sum(), np.finfo(float).tiny))
