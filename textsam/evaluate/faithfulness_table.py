"""A faithfulness summary as Markdown that people read."""

from __future__ import annotations

from collections.abc import Sequence

from textsam.evaluate.faithfulness_summary import ConfusionRow, FaithfulnessSummary
from textsam.evaluate.tables import markdown, not_asked
from textsam.metrics.reliability import Reliability, ReliabilityBin

__all__ = ["faithfulness_table"]

_WORST_TEXTS = 10
_BECAUSE = {
    "absent_modality": "another kind of image",
    "absent_annotated": "annotated as absent",
    "distractor": "outside the vocabulary",
}


def faithfulness_table(summary: FaithfulnessSummary) -> str:
    """Sections on wording, absence, neighbouring classes and score, rates and Dice times 100."""
    settings = summary.settings
    about = (
        f"adapter {settings.get('adapter')}, preset {settings.get('preset')}, {summary.images} "
        f"images, found threshold {summary.found_threshold:g}"
    )
    parts = [about]
    parts += _wording(summary)
    parts += _absence(summary)
    for dataset in dict.fromkeys(row.dataset for row in summary.confusion):
        own = [row for row in summary.confusion if row.dataset == dataset]
        parts += [
            f"### Several classes in one image: {dataset}",
            "Dice with the annotated class %, in brackets the share of the answer's area in it %",
            _confusion(own),
        ]
    parts += _score(summary)
    if summary.skipped:
        parts.append(not_asked(summary.skipped))
    return "\n\n".join(parts) + "\n"


def _wording(summary: FaithfulnessSummary) -> list[str]:
    if not summary.wordings:
        return []
    lines = [
        (
            loss.wording or "all",
            loss.texts,
            f"{loss.product_mean:.2f}",
            f"{loss.product_worst:.2f}",
            f"{loss.network_mean:.2f}",
            f"{loss.network_worst:.2f}",
            loss.worst_text,
        )
        for loss in summary.wordings
    ]
    head = (
        "wording",
        "texts",
        "product mean",
        "product worst",
        "network mean",
        "network worst",
        "at",
    )
    worst = sorted(summary.texts, key=lambda text: -text.network_lost)[:_WORST_TEXTS]
    lost = [
        (t.dataset, t.concept, t.text, t.n, f"{100 * t.name_dice:.2f}", f"{t.network_lost:.2f}")
        for t in worst
        if t.network_lost > 0
    ]
    parts = ["### Wording: Dice points lost against the concept's name", markdown(head, lines, 1)]
    if lost:
        columns = ("set", "concept", "text", "n", "Dice of the name %", "lost in the network")
        parts += ["The texts that lose most:", markdown(columns, lost, 3)]
    return parts


def _absence(summary: FaithfulnessSummary) -> list[str]:
    if not summary.empty:
        return []
    lines = [
        (
            _BECAUSE[rate.kind],
            rate.dataset or "all sets",
            rate.n,
            _percent(rate.rate),
            _percent(rate.mask_alone),
            _percent(rate.group_mean),
            f"{_percent(rate.worst)} ({rate.worst_group})",
        )
        for rate in summary.empty
    ]
    head = (
        "absent because",
        "set",
        "n",
        "empty %",
        "by mask alone %",
        "mean over groups %",
        "worst",
    )
    return ["### What is not there comes back empty", markdown(head, lines, 2)]


def _confusion(rows: Sequence[ConfusionRow]) -> str:
    columns = sorted({cell.annotated for row in rows for cell in row.cells})
    lines = []
    for row in rows:
        cells = {cell.annotated: cell for cell in row.cells}
        line: list[object] = [row.asked, max(cell.n for cell in row.cells)]
        for column in columns:
            cell = cells.get(column)
            if cell is None:
                line.append("")
            else:
                share = "–" if cell.share is None else f"{100 * cell.share:.0f}"
                line.append(f"{100 * cell.dice:.1f} ({share})")
        lines.append(line)
    return markdown(("asked", "n", *columns), lines, 1)


def _score(summary: FaithfulnessSummary) -> list[str]:
    score = summary.score
    kinds: tuple[tuple[str, Reliability | None], ...] = (
        ("present and absent, balanced", score.balanced),
        ("present and absent, every answer alike", score.pooled),
        ("present", score.present),
        ("found", score.found),
    )
    lines = [(name, own.n, f"{own.ece:.3f}") for name, own in kinds if own is not None]
    parts = ["### Score against true Dice", markdown(("answers", "n", "ECE"), lines, 1)]
    if score.balanced is not None:
        present = score.present.bins if score.present is not None else ()
        bins = [
            (
                f"{b.low:.1f}–{b.high:.1f}",
                *_bin(b),
                *(_bin(present[index]) if present else ("0", "", "")),
            )
            for index, b in enumerate(score.balanced.bins)
        ]
        head = (
            "score",
            "n",
            "mean score",
            "mean Dice",
            "n present",
            "mean score",
            "mean Dice",
        )
        parts += ["Balanced, and present alone:", markdown(head, bins, 1)]
    if summary.threshold is not None:
        t = summary.threshold
        parts.append(
            f"Of {t.n} things that are there {_percent(t.mask_rate)} % have a mask and "
            f"{_percent(t.found_rate)} % are found at the threshold {summary.found_threshold:g}; "
            f"mean Dice {100 * t.dice_without:.2f} % without the threshold, {100 * t.dice:.2f} % "
            "with it (means over set and concept)."
        )
    return parts


def _bin(own: ReliabilityBin) -> tuple[str, str, str]:
    return (
        str(own.n),
        "" if own.mean_score is None else f"{own.mean_score:.3f}",
        "" if own.mean_dice is None else f"{own.mean_dice:.3f}",
    )


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"
