"""Look masks over for defects, and tell and show what was found. Nothing in the data is changed."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

import textsam
from textsam.data.defect_tile import draw_defect
from textsam.data.defects import (
    DEFECTS,
    Defect,
    DefectKind,
    QualitySettings,
    mask_defects,
    overlap_defect,
)
from textsam.data.sample import CocoTarget, Sample, Target, load_sample, read_mask
from textsam.errors import ConfigError, DataError
from textsam.evaluate.tables import markdown
from textsam.folder.sheet import lay_sheets
from textsam.io.atomic import save_text
from textsam.io.coco_shapes import cover_counts
from textsam.progress import with_bar

__all__ = ["Finding", "QualityReport", "assess", "write_report"]


@dataclass(frozen=True)
class Finding:
    """One defect of one mask.

    Attributes:
        kind: key of `textsam.data.defects.DEFECTS`.
        dataset, stem, concept: which mask; two concepts of an overlap are joined by " + ".
        image: path of the image.
        value, unit, message: how much of it, and in words.
        box: (x_min, y_min, x_max, y_max) of the place, in pixels, inclusive.
    """

    kind: DefectKind
    dataset: str
    stem: str
    concept: str
    image: str
    value: float
    unit: str
    message: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class QualityReport:
    """What was found.

    Attributes:
        settings: thresholds.
        images: looked at.
        masks: with a pixel.
        empty_masks: without one: the concept is not in the image.
        findings: all of them, image by image.
        tiles: kind -> small pictures of the first findings.
    """

    settings: QualitySettings
    images: int
    masks: int
    empty_masks: int
    findings: tuple[Finding, ...]
    tiles: dict[DefectKind, list[PIL.Image.Image]]

    def counts(self) -> dict[DefectKind, int]:
        """Kind -> findings, in the order of `DEFECTS`; those that were not found are left out."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in DEFECTS if found[kind]}

    def to_dict(self) -> dict[str, Any]:
        """Content of the JSON report."""
        return {
            "format": 1,
            "textsam": textsam.__version__,
            "settings": self.settings.model_dump(),
            "images": self.images,
            "masks": self.masks,
            "empty_masks": self.empty_masks,
            "counts": self.counts(),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def table(self) -> str:
        """Markdown: kind, number of findings and of images with one, and what it is."""
        images: dict[DefectKind, set[str]] = defaultdict(set)
        for finding in self.findings:
            images[finding.kind].add(finding.image)
        rows = [(k, DEFECTS[k], n, len(images[k])) for k, n in self.counts().items()]
        return markdown(("finding", "what", "masks", "images"), rows, left=2)


def assess(
    samples: Sequence[Sample],
    settings: QualitySettings | None = None,
    *,
    kinds: Collection[str] = (),
    pictures: int = 48,
    progress: bool = False,
) -> QualityReport:
    """Look at every mask of some samples.

    Args:
        samples: readable ones; `textsam data check` says which are not.
        settings: thresholds; default: `QualitySettings()`.
        kinds: of findings to look for; empty: all of `DEFECTS`.
        pictures: most small pictures made of each kind.
        progress: show a bar on standard error.

    Raises:
        ConfigError: a kind that does not exist.
        DataError: no samples, or one that cannot be read.
    """
    settings = settings or QualitySettings()
    if unknown := sorted(set(kinds) - set(DEFECTS)):
        raise ConfigError(f"there is no finding {unknown[0]!r}; choose from {', '.join(DEFECTS)}")
    if not samples:
        raise DataError("there are no samples to look at")
    findings: list[Finding] = []
    tiles: dict[DefectKind, list[PIL.Image.Image]] = defaultdict(list)
    counts = [0, 0]
    for sample in with_bar(samples, "looking at masks", shown=progress, stays=False):
        pixels, masks = load_sample(sample)
        for mask in masks.values():
            counts[bool(mask.any())] += 1
        for concept, mask, defect in _defects(sample, masks, settings):
            if kinds and defect.kind not in kinds:
                continue
            findings.append(_finding(sample, concept, defect))
            if len(tiles[defect.kind]) < pictures:
                name = f"{sample.stem}, {concept}"
                tiles[defect.kind].append(draw_defect(pixels, mask, defect, name))
    return QualityReport(settings, len(samples), counts[1], counts[0], tuple(findings), dict(tiles))


def _defects(
    sample: Sample, masks: dict[str, NDArray[np.bool_]], settings: QualitySettings
) -> Iterator[tuple[str, NDArray[np.bool_], Defect]]:
    """Concept, its mask and a defect of it."""
    for concept, mask in masks.items():
        own = [target for target in sample.targets if target.concept == concept]
        binary = [t for t in own if isinstance(t, Target) and t.label is None]
        raw = read_mask(binary[0].mask_path) if binary else None
        for defect in mask_defects(mask, settings, raw=raw):
            yield concept, mask, defect
        codes = [code for t in own if isinstance(t, CocoTarget) for code in t.rles]
        if len(codes) > 1:
            count = cover_counts(codes, (mask.shape[0], mask.shape[1]))
            claims = f"{len(codes)} annotations of {concept}"
            twice = overlap_defect(count, settings, "instance-overlap", claims)
            if twice is not None:
                yield concept, mask, twice
    names = [name for name, mask in masks.items() if mask.any()]
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            count = masks[one].astype(np.int32) + masks[other]
            both = overlap_defect(count, settings, "overlap", f"{one} and {other}")
            if both is not None:
                yield f"{one} + {other}", masks[one] | masks[other], both


def _finding(sample: Sample, concept: str, defect: Defect) -> Finding:
    ys, xs = np.nonzero(defect.region)
    return Finding(
        kind=defect.kind,
        dataset=sample.dataset,
        stem=sample.stem,
        concept=concept,
        image=str(sample.image_path),
        value=round(float(defect.value), 4),
        unit=defect.unit,
        message=defect.message,
        box=(int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())),
    )


def write_report(report: QualityReport, out: str | Path, *, most_per_kind: int = 20) -> Path:
    """Write `quality.json`, `quality.csv`, `quality.md` and a contact sheet per kind of finding.

    Args:
        report: from `assess`.
        out: folder.
        most_per_kind: lines of each kind in the Markdown; the other files have all.

    Returns:
        The Markdown file. Sheets of an earlier report in the folder are removed.

    Raises:
        OutputError: a file cannot be written; ImageError: a sheet.
    """
    out = Path(out)
    sheets = {
        kind: lay_sheets(report.tiles.get(kind, []), out, f"sheet-{kind}") for kind in DEFECTS
    }
    files = {
        "quality.json": json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n",
        "quality.csv": _csv(report.findings),
        "quality.md": _markdown(report, sheets, most_per_kind),
    }
    for name, content in files.items():
        save_text(out / name, content)
    return out / "quality.md"


def _csv(findings: Sequence[Finding]) -> str:
    buffer = io.StringIO()
    head = ("kind", "dataset", "stem", "concept", "value", "unit", "message")
    corners = ("x_min", "y_min", "x_max", "y_max")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*head, *corners, "image"])
    for finding in findings:
        own = [getattr(finding, name) for name in head]
        writer.writerow([*own, *finding.box, finding.image])
    return buffer.getvalue()


def _markdown(
    report: QualityReport, sheets: dict[DefectKind, list[Path]], most_per_kind: int
) -> str:
    summary = (
        f"{report.images} images, {report.masks} masks and {report.empty_masks} empty ones, which "
        f"say that the thing is not there. {len(report.findings)} findings. A finding is a reason "
        "to look, not a proof. Nothing was changed."
    )
    parts = ["# Quality of masks", summary]
    if report.findings:
        parts.append(report.table())
    for kind in report.counts():
        own = [finding for finding in report.findings if finding.kind == kind]
        parts.append(f"## {kind}: {DEFECTS[kind]}")
        parts += [f"![{kind}]({page.name})" for page in sheets[kind]]
        lines = [f"- {f.dataset}/{f.stem}, {f.concept}: {f.message}" for f in own[:most_per_kind]]
        if len(own) > most_per_kind:
            lines.append(f"- … and {len(own) - most_per_kind} more in quality.csv")
        parts.append("\n".join(lines))
    settings = ", ".join(f"{n} {v:g}" for n, v in report.settings.model_dump().items())
    parts.append(f"Thresholds: {settings}.")
    return "\n\n".join(parts) + "\n"
