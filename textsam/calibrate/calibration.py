"""What calibration chose, and what that does."""

from __future__ import annotations

from dataclasses import dataclass

from textsam.inference.score import ScoreMap

__all__ = ["Calibration"]


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and what it does on the images it was chosen on.

    Rates and means marked "weighted" give every pair of concept and kind of image the same say,
    however many images it has; those of fewer than `threshold.FULL_SAY` answers have less.

    Attributes:
        prompts: concepts the adapter knows: those trained whose mean Dice is not below
            `decide.MIN_DICE`.
        refine: passes that are best for most concepts.
        refine_for: concepts that want another number.
        score_map: knots from raw score to expected Dice; see `textsam.inference.score`.
        score_map_for: concepts with knots of their own.
        found_threshold: score, after the map, below which an answer counts as "not there"; where
            there is a map, at least `decide.MIN_SCORE`.
        dice_by_passes: concept -> mean Dice after 0, 1, … refinements.
        found_rate: share of present concepts that are found.
        empty_rate: share of absent concepts that come back empty.
        empty_modality: that share for what the kind of image cannot show, weighted; None if nothing
            of the kind was asked.
        empty_annotated: that share for what the data say is absent, weighted; or None.
        empty_beside: that share for parts of images beside what they show, weighted; or None.
        lost_rate: share of present concepts whose mask the threshold takes away, weighted.
        found_by_concept: concept -> share found where it is present.
        dice_without_threshold: mean Dice where present, weighted, if every mask counts.
        dice_with_threshold: the same with the threshold.
        ece_before: expected calibration error of the raw score, weighted, absent things half.
        ece_after: of the mapped score.
        n_present: answers behind `found_rate`.
        n_absent: answers behind `empty_rate`.
    """

    prompts: tuple[str, ...]
    refine: int
    refine_for: dict[str, int]
    score_map: ScoreMap
    score_map_for: dict[str, ScoreMap]
    found_threshold: float
    dice_by_passes: dict[str, tuple[float, ...]]
    found_rate: float
    empty_rate: float
    empty_modality: float | None
    empty_annotated: float | None
    empty_beside: float | None
    lost_rate: float
    found_by_concept: dict[str, float]
    dice_without_threshold: float
    dice_with_threshold: float
    ece_before: float
    ece_after: float
    n_present: int
    n_absent: int
