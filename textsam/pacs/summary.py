"""What was done with a study, as values and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import textsam
from textsam.pacs.plan import Skipped, StudyPlan

__all__ = ["REPORT_FORMAT", "SeriesSummary", "Status", "StudySummary", "plan_to_dict"]

REPORT_FORMAT = 1

Status = Literal["stored", "already there", "failed"]


@dataclass(frozen=True)
class SeriesSummary:
    """What was done with one series.

    Attributes:
        series_uid: of the images.
        modality: such as "US".
        images: how many, each frame counted; 0 where it failed before they were known.
        status: "stored"; "already there", when this question had been answered before; "failed".
        seg_series_uid: the series of the segmentations, "" where it failed before it had one.
        seg_instance_uids: their UIDs.
        found: prompt -> number of images in which it was found; empty unless stored now.
        warnings: of the archive, "UID: code".
        error: why it failed, "" otherwise.
        seconds: time it took, fetching and storing included.
    """

    series_uid: str
    modality: str
    images: int
    status: Status
    seg_series_uid: str = ""
    seg_instance_uids: tuple[str, ...] = ()
    found: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class StudySummary:
    """What was done with a study.

    Attributes:
        server: host and port of the archive.
        study_uid: its UID.
        prompts: asked of every image.
        model: name of the base model.
        adapter: name of the adapter.
        fractional: whether probabilities were stored, not masks.
        series: with images, in the archive's order; those refused before any was fetched first.
        skipped: series, or parts of one, without images.
    """

    server: str
    study_uid: str
    prompts: tuple[str, ...]
    model: str
    adapter: str
    fractional: bool
    series: tuple[SeriesSummary, ...]
    skipped: tuple[Skipped, ...]

    @property
    def failed(self) -> tuple[SeriesSummary, ...]:
        """The series that failed."""
        return tuple(one for one in self.series if one.status == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; it holds UIDs and prompts, and no other data of the study."""
        return {
            "format": REPORT_FORMAT,
            "textsam": textsam.__version__,
            "server": self.server,
            "study_uid": self.study_uid,
            "dry_run": False,
            "prompts": list(self.prompts),
            "model": self.model,
            "adapter": self.adapter,
            "fractional": self.fractional,
            "series": [
                {
                    "series_uid": one.series_uid,
                    "modality": one.modality,
                    "images": one.images,
                    "status": one.status,
                    "seg_series_uid": one.seg_series_uid or None,
                    "seg_instance_uids": list(one.seg_instance_uids),
                    "found": dict(one.found),
                    "warnings": list(one.warnings),
                    "error": one.error or None,
                    "seconds": round(one.seconds, 3),
                }
                for one in self.series
            ],
            "skipped": _skipped(self.skipped),
        }


def plan_to_dict(plan: StudyPlan, server: str) -> dict[str, Any]:
    """A plan ready for JSON, in the shape of `StudySummary.to_dict`."""
    return {
        "format": REPORT_FORMAT,
        "textsam": textsam.__version__,
        "server": server,
        "study_uid": plan.study_uid,
        "dry_run": True,
        "series": [
            {
                "series_uid": one.series_uid,
                "modality": one.modality,
                "images": one.frames,
                "status": "would segment",
                "error": None,
            }
            for one in plan.chosen
        ]
        + [
            {
                "series_uid": one.series_uid,
                "modality": one.modality,
                "images": 0,
                "status": "failed",
                "error": one.error,
            }
            for one in plan.refused
        ],
        "skipped": _skipped(plan.skipped),
    }


def _skipped(skipped: tuple[Skipped, ...]) -> list[dict[str, str]]:
    return [
        {"series_uid": one.series_uid, "modality": one.modality, "reason": one.reason}
        for one in skipped
    ]
