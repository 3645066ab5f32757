"""What `textsam calibrate` says of the adapter it has finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from textsam.adapters import AdapterConfig
from textsam.calibrate import Calibration
from textsam.calibrate.kinds import MIN_IMAGES
from textsam.calibrate.scores import MIN_ANSWERS
from textsam.calibrate.threshold import FULL_SAY

__all__ = ["print_calibration"]

# Below this share of what is there, an adapter is hardly what was wanted.
_FEW_FOUND = 0.75


def print_calibration(
    out: Path,
    before: AdapterConfig,
    finished: AdapterConfig,
    result: Calibration,
    wanted: Mapping[str, tuple[float | None, float]],
    *,
    cut_tried: bool,
    kinds_tried: bool,
    kinds_fitted: bool,
) -> None:
    """What was chosen and what it costs on standard output, and warnings on standard error.

    Args:
        out: folder of the finished adapter.
        before: its configuration before the calibration.
        finished: and after.
        result: of the calibration.
        wanted: kind of absence, in words -> share that comes back empty, None where nothing was
            asked, and the share asked for.
        cut_tried: whether ways of cutting masks were compared.
        kinds_tried: whether kinds of image were to be told apart anew.
        kinds_fitted: and are.
    """
    for concept, sides_px in finished.sides_for.items():
        typer.echo(f"{out}: {concept} at {' and '.join(map(str, sides_px))} px")
    if cut_tried:
        _print_cut(out, finished)
    typer.echo(
        f"{out}: refine {result.refine} {result.refine_for or ''}, found from score "
        f"{result.found_threshold}; {result.found_rate:.1%} of {result.n_present} present found, "
        f"{result.empty_rate:.1%} of {result.n_absent} absent empty"
    )
    _warn(before, result)
    if kinds_tried or finished.kinds:
        none = f"none; that takes two kinds, with {MIN_IMAGES} training images of each"
        names = ", ".join(finished.kinds.names) if finished.kinds else none
        as_before = " (as before)" if finished.kinds and not kinds_fitted else ""
        typer.echo(f"  kinds of image told apart: {names}{as_before}")
    for name, (reached, share) in wanted.items():
        if reached is None:
            typer.echo(f"  {name}: nothing was asked, so nothing is known")
        else:
            short = "" if reached >= share - 1e-9 else ", NOT REACHED"
            typer.echo(f"  {name}: {reached:.1%} empty, {share:.1%} asked for{short}")
    typer.echo(
        f"  the threshold takes away {result.lost_rate:.1%} of what is there: mean Dice "
        f"{result.dice_without_threshold:.3f} without it, {result.dice_with_threshold:.3f} with it"
    )
    typer.echo(
        f"  expected calibration error {result.ece_before:.3f} of the raw score, "
        f"{result.ece_after:.3f} mapped ({len(result.score_map) or 'no'} knots, "
        f"{len(result.score_map_for)} concepts with their own)"
    )
    for concept, means in result.dice_by_passes.items():
        dices = ", ".join(f"{mean:.3f}" for mean in means)
        typer.echo(f"  {concept}: Dice {dices} after 0 … {len(means) - 1} passes")
    if dropped := [concept for concept in before.prompts if concept not in result.prompts]:
        typer.echo(f"  no longer offered, too poor: {', '.join(dropped)}")


def _print_cut(out: Path, finished: AdapterConfig) -> None:
    fixed = f"a fixed threshold (another takes {FULL_SAY} objects, and no loss on whole images)"
    how = f"sharpness {finished.cut.sharpness:g}" if finished.cut else fixed
    typer.echo(f"{out}: masks cut by {how}; mean Dice on whole images and closer looks:")
    for way, (whole, closer) in finished.training["dice_by_cut"].items():
        near = "none" if closer is None else f"{closer:.3f}"
        typer.echo(f"  {way}: {whole:.3f}, {near}")


def _warn(before: AdapterConfig, result: Calibration) -> None:
    if result.found_rate < _FEW_FOUND:
        typer.echo(
            f"warning: {1 - result.found_rate:.0%} of what is there is called not there by this "
            "threshold; ask for less with --empty-modality, --empty-annotated or --empty-beside, "
            "or give more validation images",
            err=True,
        )
    if unseen := [word for word in result.prompts if word not in result.dice_by_passes]:
        typer.echo(
            f"warning: no validation image shows {', '.join(unseen)}: passes, score and threshold "
            "of these words are what the others want; give images that show them",
            err=True,
        )
    if before.score_map and not result.score_map:
        typer.echo(
            "warning: the adapter had a score map, and too few masks were found to fit another "
            f"({MIN_ANSWERS} at least): its scores are raw from now on, and no Dice to expect; "
            "give more validation images",
            err=True,
        )
