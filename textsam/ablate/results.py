"""From the cases of finished cells to the figures of a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textsam.ablate.finished import HD95, CellCases, Finished, Values
from textsam.ablate.plan import Plan

__all__ = ["Figure", "Group", "Row", "figure_of", "groups_of", "is_percent", "paired_p"]


def is_percent(metric: str) -> bool:
    """Whether a metric is a part of 1, shown in percent; distances are not."""
    return not metric.startswith("hd95")


@dataclass(frozen=True)
class Figure:
    """One metric of one row, in the units of `cases.csv`.

    Attributes:
        mean: over cases and seeds.
        std_cases: over all values of all seeds together, divided by their number: how cases
            differ.
        n: cases.
        values: that the mean is over: cases times seeds, but for answers without a distance.
        std_seeds: of the seeds' means, divided by one less than the seeds; None for one seed.
        seed_means: seed -> mean over its cases.
        p: of a two-tailed paired t-test against the reference row, over cases, each averaged over
            the seeds that both have; None for the reference, or if there is nothing to pair.
    """

    mean: float
    std_cases: float
    n: int
    values: int
    std_seeds: float | None
    seed_means: Mapping[int, float]
    p: float | None = None


@dataclass(frozen=True)
class Row:
    """One cell's figures on one concept of one set.

    Attributes:
        cell: its name.
        figures: metric -> figure; empty if no seed is finished.
        seeds: finished.
        unasked: those of them that have no case of the concept, as their adapter does not know it;
            no figure is over them.
        missing: seed -> what is known of it.
        missed: empty answers of all seeds that were asked, which have no HD95; None without that
            metric, or if none was asked.
        trainable_parameters: of its adapter, or None.
    """

    cell: str
    figures: Mapping[str, Figure]
    seeds: tuple[int, ...]
    unasked: tuple[int, ...]
    missing: Mapping[int, str]
    missed: int | None
    trainable_parameters: int | None


@dataclass(frozen=True)
class Group:
    """The rows on one concept of one set.

    Attributes:
        dataset: name of the set; empty while nothing is finished.
        concept: what the set calls it.
        metrics: columns of the cases, in their order.
        rows: as the ablation's cells.
        records: `cell.json` of what is finished.
    """

    dataset: str
    concept: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    records: tuple[Mapping[str, Any], ...]


def figure_of(by_seed: Mapping[int, Values], reference: Mapping[int, Values] | None) -> Figure:
    """The figure of values by seed and image; see `Figure`."""
    values = [value for seed in by_seed.values() for value in seed.values()]
    means = {seed: statistics.fmean(own.values()) for seed, own in by_seed.items()}
    return Figure(
        mean=statistics.fmean(values),
        std_cases=statistics.pstdev(values),
        n=len({image for seed in by_seed.values() for image in seed}),
        values=len(values),
        std_seeds=statistics.stdev(means.values()) if len(means) > 1 else None,
        seed_means=means,
        p=None if reference is None else paired_p(by_seed, reference),
    )


def paired_p(one: Mapping[int, Values], other: Mapping[int, Values]) -> float | None:
    """p of the two-tailed paired t-test (`scipy.stats.ttest_rel`).

    Args:
        one, other: seed -> image -> value. A pair is an image with its means over the seeds that
            both have.

    Returns:
        None without two pairs, or if the images differ.
    """
    from scipy.stats import ttest_rel

    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    images = sorted(one[seeds[0]])
    if len(images) < 2 or any(
        sorted(values) != images for seed in seeds for values in (one[seed], other[seed])
    ):
        return None
    ours, theirs = (
        [statistics.fmean(side[seed][image] for seed in seeds) for image in images]
        for side in (one, other)
    )
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if max(differences) - min(differences) < 1e-9:
        # All the same but for rounding: 0/0 or a division by zero for scipy.
        return 1.0 if abs(differences[0]) < 1e-9 else 0.0
    return float(ttest_rel(ours, theirs).pvalue)


def groups_of(plan: Plan, finished: Finished) -> list[Group]:
    """The figures of all finished cells, by set and concept.

    Args:
        plan: of the ablation.
        finished: from `read_finished`.

    Returns:
        At least one group, if need be one without figures.
    """
    everything = [cases for by_seed in finished.cases.values() for cases in by_seed.values()]
    keys = sorted({key for cases in everything for key in cases.values}) or [("", "")]
    groups = []
    for key in keys:
        metrics = dict.fromkeys(
            metric for cases in everything for metric in cases.metrics if cases.values.get(key)
        )
        rows = []
        for cell_settings in plan.ablation.cells:
            name = cell_settings.name
            done = finished.cases.get(name, {})
            asked = {seed: cases for seed, cases in done.items() if key in cases.values}
            own = _by_metric(asked, key)
            against: dict[str, dict[int, Values]] = {}
            if plan.ablation.reference not in (None, name):
                against = _by_metric(finished.cases.get(str(plan.ablation.reference), {}), key)
            rows.append(
                Row(
                    cell=name,
                    figures={
                        metric: figure_of(own[metric], against.get(metric))
                        for metric in metrics
                        if metric in own
                    },
                    seeds=tuple(sorted(done)),
                    # With nothing asked anywhere there is no concept that could be unknown.
                    unasked=tuple(sorted(done.keys() - asked.keys())) if key[0] else (),
                    missing=dict(sorted(finished.missing.get(name, {}).items())),
                    missed=_missed(asked, key),
                    trainable_parameters=finished.parameters.get(name),
                )
            )
        groups.append(Group(*key, tuple(metrics), tuple(rows), finished.records))
    return groups


def _missed(by_seed: Mapping[int, CellCases], key: tuple[str, str]) -> int | None:
    counts = [cases.missed[key] for cases in by_seed.values() if HD95 in cases.metrics]
    return sum(counts) if counts else None


def _by_metric(
    by_seed: Mapping[int, CellCases], key: tuple[str, str]
) -> dict[str, dict[int, Values]]:
    found: dict[str, dict[int, Values]] = {}
    for seed, cases in by_seed.items():
        for metric, values in cases.values.get(key, {}).items():
            found.setdefault(metric, {})[seed] = values
    return found
