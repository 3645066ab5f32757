"""Images from an archive and segmentations back to it, over DICOMweb.

from textsam.pacs import connect, segment_study

client = connect("https://pacs.example/dicom-web")
summary = segment_study(textsam.load_model(), client, study_uid, ["tumor"])
"""

from __future__ import annotations

from textsam.pacs.address import Credentials
from textsam.pacs.client import PacsClient, connect
from textsam.pacs.plan import StudyPlan, plan_study
from textsam.pacs.study import segment_study
from textsam.pacs.summary import SeriesSummary, StudySummary

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
