"""Choose, on validation images, how often to refine each concept, what a score is worth, and when
to say "not there".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from textsam.calibrate.ask import Answer, Kind, ask
from textsam.calibrate.calibration import Calibration
from textsam.calibrate.decide import decide
from textsam.data.heal import HealWay
from textsam.data.sample import Sample
from textsam.errors import ConfigError
from textsam.inference.segmenter import Segmenter
from textsam.progress import with_bar

__all__ = ["EMPTY_ANNOTATED", "EMPTY_MODALITY", "calibrate"]

# Shares of absent things that must come back empty: of those that the kind of image cannot show,
# and of those that the data say are not in this very image.
EMPTY_MODALITY = 0.95
EMPTY_ANNOTATED = 0.85
# Parts of each image, beside what it shows, where such are asked.
_BESIDE = 2


def calibrate(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    *,
    passes: int = 2,
    empty_modality: float = EMPTY_MODALITY,
    empty_annotated: float = EMPTY_ANNOTATED,
    empty_beside: float | None = None,
    heal: Mapping[str, HealWay] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    """Decide refinement, the score map and the found threshold on validation images.

    Every pair of concept and kind of image has the same weight in the map and in the shares that
    must come back empty, so that a large set does not hide a small one; a pair of fewer than
    `threshold.FULL_SAY` answers has less.

    Args:
        segmenter: its own score maps and found threshold are set aside.
        samples: validation images, not those reported on.
        passes: most refinements tried.
        empty_modality: share of the concepts that the kind of image cannot show that must come back
            empty, in [0, 1].
        empty_annotated: the same for concepts that the data say are not in the image.
        empty_beside: the same for what an image shows, asked of parts beside it: the same kind of
            image without the thing, of which there are many more than of images known not to show
            it. None: these are not asked.
        heal: as in `ask`: whole images without the thing, which count as parts beside it do.
        seed: of these parts and images.
        progress: show a bar.

    Raises:
        ConfigError: a share outside [0, 1], or fewer than 0 passes.
        DataError: the samples hold nothing the adapter knows.
    """
    if passes < 0:
        raise ConfigError(f"passes is {passes}; give the most refinements to try, 0 or more")
    rates: Mapping[Kind, float] = {
        "absent_modality": empty_modality,
        "absent_annotated": empty_annotated,
    }
    if empty_beside is not None:
        rates = {**rates, "absent_beside": empty_beside}
    for kind, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ConfigError(f"the share of {kind} answers to come back empty is {rate}; give 0…1")
    config = segmenter.config.model_copy(
        update={"found_threshold": 0.0, "score_map": (), "score_map_for": {}}
    )
    open_minded = segmenter.with_config(config)
    answers: list[Answer] = []
    beside = 0 if empty_beside is None else _BESIDE
    with torch.inference_mode():
        for number, sample in enumerate(with_bar(samples, "calibrating", shown=progress)):
            rng = np.random.default_rng((seed, number))
            answers += ask(open_minded, sample, passes, beside=beside, heal=heal or {}, rng=rng)
    return decide(answers, config.prompts, rates)
