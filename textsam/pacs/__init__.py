"""Images from an archive and segmentations back to it, over DICOMweb.

from textsam.pacs import connect, segment_study

client = connect("https://pacs.example/dicom-web")
summary = segment_study(textsam.load_model(), client, study_uid, ["tumor"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from textsam.pacs.address import Credentials
from textsam.pacs.client import PacsClient, connect
from textsam.pacs.plan import StudyPlan, plan_study
from textsam.pacs.summary import SeriesSummary, StudySummary

if TYPE_CHECKING:
    from textsam.pacs.study import segment_study

__all__ = [
    "Credentials",
    "PacsClient",
    "SeriesSummary",
    "StudyPlan",
    "StudySummary",
    "connect",
    "plan_study",
    "segment_study",
]


def __getattr__(name: str) -> Any:
    # It needs torch, which asking an archive does not.
    if name == "segment_study":
        return import_module("textsam.pacs.study").segment_study
    raise AttributeError(f"module 'textsam.pacs' has no attribute {name!r}")
