"""Which series of a study can be segmented, and why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass

from textsam.errors import LimitError, PacsError
from textsam.pacs.answers import InstanceEntry, SeriesEntry
from textsam.pacs.client import PacsClient, check_uid
from textsam.pacs.guard import PassingError

__all__ = ["Chosen", "Refused", "Skipped", "StudyPlan", "plan_study"]

# Objects that hold no images; their instances are not even listed.
_NO_IMAGES = {
    "SEG": "segmentations",
    "SR": "structured reports",
    "PR": "presentation states",
    "KO": "key object notes",
    "RTSTRUCT": "structure sets",
    "RTPLAN": "treatment plans",
    "RTDOSE": "dose maps",
    "RTRECORD": "treatment records",
    "REG": "registrations",
    "FID": "fiducials",
    "RWV": "value mappings",
    "DOC": "documents",
    "AU": "sound",
    "ECG": "waveforms",
    "HD": "waveforms",
    "EPS": "waveforms",
    "EEG": "waveforms",
    "PLAN": "plans",
    "ANN": "annotations",
}
_ENHANCED_US_VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"


@dataclass(frozen=True)
class Chosen:
    """A series to segment.

    Attributes:
        series_uid: its UID.
        modality: such as "US".
        instances: the images in it, in the archive's order.
    """

    series_uid: str
    modality: str
    instances: tuple[InstanceEntry, ...]

    @property
    def frames(self) -> int:
        """Number of images, each frame counted, as far as the archive says."""
        return sum(instance.frames for instance in self.instances)


@dataclass(frozen=True)
class Skipped:
    """A series, or a part of one, that is left alone.

    Attributes:
        series_uid: its UID.
        modality: such as "SR".
        reason: in words.
    """

    series_uid: str
    modality: str
    reason: str


@dataclass(frozen=True)
class Refused:
    """A series that may hold images and cannot be segmented.

    Attributes:
        series_uid: its UID.
        modality: such as "CT".
        error: why: more images than the limit, a list that lacks some, an archive that fails at it.
    """

    series_uid: str
    modality: str
    error: str


@dataclass(frozen=True)
class StudyPlan:
    """What would be done with a study.

    Attributes:
        study_uid: its UID.
        chosen: series to segment.
        skipped: series, or parts of one, without images.
        refused: series that fail before anything is fetched.
    """

    study_uid: str
    chosen: tuple[Chosen, ...]
    skipped: tuple[Skipped, ...]
    refused: tuple[Refused, ...] = ()


def plan_study(client: PacsClient, study_uid: str, series_uid: str | None = None) -> StudyPlan:
    """Ask the archive what a study holds; nothing is downloaded.

    A series is chosen when it holds instances of a class that is an image by its name in DICOM
    PS3.6 table A-1. Segmentations, reports, presentation states, structure sets and the like are
    skipped, and so are classes this list does not have. A series that is over a limit, or that the
    archive fails to list, does not keep the others from being chosen.

    Args:
        client: of the archive.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID to take alone; None takes every series with images.

    Raises:
        PacsError: the archive cannot be asked, has no such study or series, nothing in it is an
            image, or every series with images is refused; the message says why.
    """
    entries = client.series(check_uid(study_uid, "study"))
    if not entries:
        raise PacsError(
            f"{client.address.label}: there is no study {study_uid}, or it is not open to these "
            "credentials; check the UID"
        )
    if series_uid is not None:
        check_uid(series_uid, "series")
        entries = [entry for entry in entries if entry.series_uid == series_uid]
        if not entries:
            raise PacsError(
                f"{client.address.label}: study {study_uid} has no series {series_uid}; leave the "
                "series out for all of them"
            )
    chosen: list[Chosen] = []
    skipped: list[Skipped] = []
    refused: list[Refused] = []
    for entry in entries:
        try:
            images, reason = _images(client, study_uid, entry)
        except PassingError:
            raise  # not of this series: the archive is away
        except (PacsError, LimitError) as error:
            refused.append(Refused(entry.series_uid, entry.modality, str(error)))
            continue
        if images:
            chosen.append(Chosen(entry.series_uid, entry.modality, tuple(images)))
        if reason:
            skipped.append(Skipped(entry.series_uid, entry.modality, reason))
    if refused and not chosen:
        raise PacsError("; ".join(one.error for one in refused))
    if not chosen:
        named = "; ".join(f"{s.modality or 'series'} {s.series_uid}: {s.reason}" for s in skipped)
        raise PacsError(
            f"{client.address.label}: study {study_uid} has no images to segment; skipped {named}"
        )
    return StudyPlan(study_uid, tuple(chosen), tuple(skipped), tuple(refused))


def is_image_class(sop_class_uid: str) -> bool:
    """Whether instances of a SOP class are images, by its name in PS3.6 table A-1."""
    from pydicom.uid import UID

    name = UID(sop_class_uid).name  # the UID itself where it is not in the table
    return sop_class_uid == _ENHANCED_US_VOLUME or "Image Storage" in name


def _images(
    client: PacsClient, study_uid: str, entry: SeriesEntry
) -> tuple[list[InstanceEntry], str]:
    """The images of a series, and why the rest of it is skipped, "" for no rest."""
    if entry.modality in _NO_IMAGES:
        return [], f"holds {_NO_IMAGES[entry.modality]}, not images"
    instances = client.instances(study_uid, entry.series_uid)
    if len(instances) < entry.instances:
        raise PacsError(
            f"{client.address.label}: series {entry.series_uid} has {entry.instances} instances, "
            f"but the server lists {len(instances)}; raise the limit on its search results"
        )
    images = [instance for instance in instances if is_image_class(instance.sop_class_uid)]
    frames = sum(instance.frames for instance in images)
    client.limits.check_images(frames, f"series {entry.series_uid}")
    others = sorted({i.sop_class_uid for i in instances} - {i.sop_class_uid for i in images})
    if not others:
        return images, "" if images else "has no instances"
    from pydicom.uid import UID

    count = len(instances) - len(images)
    return images, f"{count} of class {', '.join(UID(uid).name for uid in others)}, not images"
