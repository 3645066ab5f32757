"""Finish a trained adapter: calibrate it and store it for use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from textsam.adapters import TENSORS_FILE, read_adapter_config
from textsam.calibrate.calibration import Calibration
from textsam.calibrate.cut import fit_cut
from textsam.calibrate.run import EMPTY_ANNOTATED, EMPTY_MODALITY, calibrate
from textsam.calibrate.sides import fit_sides
from textsam.checkpoint import save_adapter
from textsam.data.heal import HealWay
from textsam.data.sample import Sample
from textsam.errors import ConfigError
from textsam.inference.kinds import ImageKinds
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views
from textsam.tensors import load_tensors

__all__ = ["finish_adapter"]


def finish_adapter(
    segmenter: Segmenter,
    adapter: Path,
    samples: Sequence[Sample],
    out: Path,
    *,
    passes: int = 2,
    empty_modality: float = EMPTY_MODALITY,
    empty_annotated: float = EMPTY_ANNOTATED,
    empty_beside: float | None = None,
    heal: Mapping[str, HealWay] | None = None,
    seed: int = 0,
    kinds: ImageKinds | None = None,
    sides_px: Sequence[int] = (),
    cut: bool = False,
    progress: bool = True,
) -> Calibration:
    """Calibrate an adapter and write it with what was chosen, in half precision.

    Args:
        segmenter: with this adapter.
        adapter: its folder.
        samples: validation images.
        out: adapter folder to write.
        kinds: of image, told apart from now on; what they rule out no threshold has to. None: those
            of the adapter stay, if it has any.
        sides_px: of the model's square, at which the segmenter has models; each concept gets the
            one it wants, alone or beside the adapter's own, or keeps that; what the samples do not
            show stays at the sides it has. None given: those of the adapter stay.
        cut: decide how masks are cut lower than `mask_threshold`, or that they are not; False
            leaves that as the adapter has it.
        passes, empty_modality, empty_annotated, empty_beside, heal, seed, progress: as in
            `calibrate`.

    Raises:
        DataError, ConfigError: as `calibrate` and `fit_sides`, or `out` is the adapter itself.
        OutputError: `out` cannot be written.
    """
    if out.resolve() == adapter.resolve():
        raise ConfigError(f"{out} is the adapter to calibrate; write to another folder")
    decided: dict[str, Any] = {} if kinds is None else {"kinds": kinds}
    record = read_adapter_config(adapter)
    training = dict(record.training)
    if sides_px:
        chosen = fit_sides(segmenter, samples, sides_px, progress=progress)
        # Of a concept that these images do not show nothing was learned, and nothing changes.
        unseen = {c: own for c, own in record.sides_for.items() if c not in chosen.dice_by_sides}
        decided["sides_for"] = {**unseen, **chosen.sides_for}
        training["dice_by_sides"] = chosen.dice_by_sides
    if cut:
        with_sides = segmenter.with_config(segmenter.config.model_copy(update=decided))
        chosen_cut = fit_cut(with_sides, samples, progress=progress)
        decided["cut"] = chosen_cut.cut
        training["dice_by_cut"] = chosen_cut.dice
    telling = segmenter.with_config(segmenter.config.model_copy(update=decided), views=Views())
    result = calibrate(
        telling,
        samples,
        passes=passes,
        empty_modality=empty_modality,
        empty_annotated=empty_annotated,
        empty_beside=empty_beside,
        heal=heal,
        seed=seed,
        progress=progress,
    )
    sides_for = decided.get("sides_for", record.sides_for)
    finished = record.model_copy(
        update={
            **decided,
            # Sides of a concept that is offered no longer would cost a model each, for nothing.
            "sides_for": {c: sides for c, sides in sides_for.items() if c in result.prompts},
            "prompts": result.prompts,
            "refine": result.refine,
            "refine_for": result.refine_for,
            "score_map": result.score_map,
            "score_map_for": result.score_map_for,
            "found_threshold": result.found_threshold,
            "training": {**training, "calibration": asdict(result)},
        }
    )
    save_adapter(out, finished, load_tensors(adapter / TENSORS_FILE), dtype=torch.float16)
    return result
