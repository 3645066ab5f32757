"""Which views to average for BUSI, on the validation images of the three folds.

    python benchmarks/busi_views.py --data data --work runs/busi

asks the adapters that `busi.py` has trained about the tenth of the training images they did not
learn from, once per side and mirror image, and writes the Dice of averages of these answers to
`--out`. No fold is asked about its own test images. `busi_arms.VIEWS` is what came out best over
all three together; the folds overlap, so that some of these are test images of another fold.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from busi import REPOSITORY, machine, read_facts
from busi_arms import CONCEPT, Job, fold_config, segmenter_of
from busi_unet import UNetSettings

from textsam.data.sample import load_sample
from textsam.data.sources import samples_of
from textsam.errors import TextSAMError
from textsam.inference.segmenter import Segmenter
from textsam.inference.views import Views, views_of
from textsam.io.atomic import atomic_path
from textsam.metrics import dice

SIDES_PX = (112, 224)
CANDIDATES = ("", "mirrored", "112", "112,mirrored", "112,224", "112,224,mirrored")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the candidates and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="data", help="folder with manifest.json and splits.json")
    parser.add_argument("--work", type=Path, default=Path("runs/busi"), help="of busi.py")
    results = REPOSITORY / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "busi-views.md")
    options = parser.parse_args(arguments)
    try:
        jobs = [finished_job(options, fold) for fold in (1, 2, 3)]
    except TextSAMError as error:
        print(f"error: {error}")
        return 2
    scores: list[dict[str, list[float]]] = []
    for job in jobs:
        scores.append(scores_of(job))
        print(f"fold {job.fold}: {len(scores[-1][''])} images", flush=True)
    table = table_of(scores)
    made = f"`python benchmarks/busi_views.py --data data`, {machine(jobs[0])}, "
    made += f"{datetime.now(UTC).date()}, the adapters of busi.json, seed {jobs[0].config.seed}."
    with atomic_path(options.out) as temporary:
        temporary.write_text(f"{table}\n{made}\n", encoding="utf-8")
    print(table)
    return 0


def finished_job(options: argparse.Namespace, fold: int) -> Job:
    """The `text` of a fold; raises `TextSAMError` if it is not done, or of other settings."""
    overrides = [f"data.root={options.data}"]
    config = fold_config(REPOSITORY / "configs/busi.yaml", fold, "text", options.work, overrides)
    job = Job("text", fold, config, UNetSettings())
    if read_facts(job)["state"] != "done":
        raise TextSAMError(
            f"{job.folder}: `text` on fold {fold} is not done; run `python benchmarks/busi.py "
            "--data data --only text` until it exits with 0, or give its --work"
        )
    return job


def scores_of(job: Job) -> dict[str, list[float]]:
    """Candidate -> Dice of the fold's validation images, at their own size."""
    several = segmenter_of(job, ",".join(map(str, SIDES_PX)))
    by_side = {
        model.preprocessor.side_px: Segmenter(
            model, several.config, device=several.device, precision=several.precision
        )
        for model in (several.built, *several.further)
    }
    own = several.built.preprocessor.side_px
    scores: dict[str, list[float]] = {candidate: [] for candidate in CANDIDATES}
    for sample in samples_of(job.config.data, "val"):
        pixels, masks = load_sample(sample)
        seen = {}
        for side_px, segmenter in by_side.items():
            turned = np.ascontiguousarray(pixels[:, ::-1])
            seen[side_px, False] = segmenter.segment(pixels, CONCEPT, refine=0).probability
            seen[side_px, True] = segmenter.segment(turned, CONCEPT, refine=0).probability[:, ::-1]
        for candidate, values in scores.items():
            mean = np.mean([seen[view] for view in single_views(views_of(candidate), own)], axis=0)
            values.append(dice(mean > several.config.mask_threshold, masks[CONCEPT]))
    return scores


def single_views(views: Views, own_px: int) -> list[tuple[int, bool]]:
    """(side, whether mirrored) of each view."""
    ways = (False, True) if views.mirrored else (False,)
    return [(side_px, way) for side_px in (own_px, *views.sides_px) for way in ways]


def table_of(scores: Sequence[dict[str, list[float]]]) -> str:
    """The Markdown table, in percent, by fold and over all images; misses are below 0.5."""
    lines = [
        "# Views averaged for BUSI, validation images",
        "",
        "Dice in percent at the image's own size; missed: images below 50.",
        "",
        "| `--views` | views | fold 1 | fold 2 | fold 3 | all | missed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for candidate in CANDIDATES:
        folds = [own[candidate] for own in scores]
        together = [value for own in folds for value in own]
        cells = [f"{100 * statistics.fmean(own):.2f}" for own in (*folds, together)]
        count = len(single_views(views_of(candidate), 0))
        missed = sum(value < 0.5 for value in together)
        name = f"`{candidate}`" if candidate else "none"
        lines.append(f"| {name} | {count} | {' | '.join(cells)} | {missed} |")
    images = ", ".join(str(len(own[""])) for own in scores)
    return "\n".join([*lines, "", f"Images per fold: {images}.", ""])


if __name__ == "__main__":
    raise SystemExit(main())
