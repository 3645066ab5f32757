"""The parts of a SEG instance that are not pixels: sources, segments, references.

This module needs highdicom and pydicom; `textsam.io.seg` imports it when it is used.

highdicom makes a SEG from the headers of its sources, and refuses some sources that exist all the
same: several frames without a frame of reference, CT and MR without one, unknown SOP classes, some
frames of a multi-frame file, names without a family name. So it is given stand-ins: single-frame
headers with the facts it needs, one per image. What the stand-ins stand for is put in afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from highdicom import AlgorithmIdentificationSequence
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import SecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

import textsam
from textsam.errors import ImageError
from textsam.io.codes import LOCAL_SCHEME, Code, code_for
from textsam.io.dicom.values import numbers
from textsam.io.seg_facts import SegmentFacts
from textsam.io.seg_identity import SegIdentity, derived_uid
from textsam.io.seg_source import FrameGeometry

__all__ = ["character_set", "line", "local_schemes", "restore", "segment_descriptions", "stand_in"]

# The Patient and Study attributes of an image are in these groups.
_CARRIED_GROUPS = frozenset({0x0008, 0x0010, 0x0012, 0x0020, 0x0032, 0x0038, 0x0040})
# Kept from highdicom, which raises or warns for values that archives are full of; `restore` copies
# them as they are.
_VERBATIM = ("PatientName", "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime")
_REQUIRED = ("PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName", *_VERBATIM)
_RATIO = "LossyImageCompressionRatio"
_LOSSY = ("LossyImageCompression", _RATIO, "LossyImageCompressionMethod")
_SET_HERE = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    *_VERBATIM,
)
# Orange as in overlays, then colours that differ from it and from each other also for people who do
# not tell red from green (after Okabe and Ito, 2008).
_COLOURS = ((255, 122, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))


def stand_in(
    header: Dataset,
    number: int,
    geometry: FrameGeometry | None,
    first: FrameGeometry | None,
    thickness_mm: float | None,
) -> Dataset:
    """A single-frame header for highdicom.

    Args:
        header: of the file.
        number: of the image in its instance, from 0; it becomes the stand-in's UID.
        geometry: None where the place in the patient is not known.
        first: of the first image of the instance, whose orientation and spacing all of them share.
        thickness_mm: of the slices, None where the place in the patient is not known.
    """
    made = Dataset()
    if number == 0:  # highdicom reads patient and study from the first
        for tag in header.keys():  # noqa: SIM118  # iterating would convert every element
            if tag.group in _CARRIED_GROUPS and not tag.is_private:
                made.add(deepcopy(header[tag]))
        for keyword in _LOSSY:
            if keyword in header:
                made.add(deepcopy(header[keyword]))
        try:
            numbers(made, _RATIO, "")
        except ImageError:
            delattr(made, _RATIO)  # one such as "9:25", with which no SEG can be written
    for keyword in _SET_HERE:
        if keyword in made:
            delattr(made, keyword)
    for keyword in _REQUIRED:
        if keyword not in made:
            setattr(made, keyword, "")
    made.StudyInstanceUID = header.StudyInstanceUID
    made.SeriesInstanceUID = header.SeriesInstanceUID
    made.SOPClassUID = SecondaryCaptureImageStorage
    made.SOPInstanceUID = _stand_in_uid(number)
    made.Rows, made.Columns = header.Rows, header.Columns
    # Without a place in the patient there are no pixel measures either: they need a thickness, and
    # readers take the size of a pixel from the image that is referred to.
    if geometry is not None and first is not None and thickness_mm is not None:
        made.FrameOfReferenceUID = geometry.frame_of_reference
        made.PositionReferenceIndicator = header.get("PositionReferenceIndicator")
        made.ImagePositionPatient = _decimals(geometry.position)
        made.ImageOrientationPatient = _decimals(first.orientation)
        made.PixelSpacing = _decimals(first.spacing)
        made.SliceThickness = DSfloat(thickness_mm, auto_format=True)
    return made


def _stand_in_uid(number: int) -> str:
    return f"2.25.{number + 1}"


def _decimals(values: Sequence[float]) -> list[DSfloat]:
    return [DSfloat(value, auto_format=True) for value in values]


def segment_descriptions(
    segments: Sequence[SegmentFacts], identity: SegIdentity, model_identity: str
) -> list[SegmentDescription]:
    """One description per prompt."""
    made = []
    for at, segment in enumerate(segments):
        code = code_for(segment.prompt, segment.concept)
        parameters = {"prompt": line(segment.prompt), "model": line(segment.model)}
        if model_identity:
            parameters["model_identity"] = model_identity
        described = SegmentDescription(
            segment_number=at + 1,
            segment_label=line(segment.prompt, 64),
            segmented_property_category=_coded(code.category),
            segmented_property_type=_coded(code.type),
            algorithm_type="AUTOMATIC",
            algorithm_identification=AlgorithmIdentificationSequence(
                name=line(f"textsam {segment.adapter}", 64),
                family=codes.cid7162.ArtificialIntelligence,
                version=textsam.__version__,
                source="TextSAM",
                parameters=parameters,
            ),
            tracking_uid=identity.tracking_uids[at],
            tracking_id=f"textsam {at + 1} {line(segment.prompt)}",
            anatomic_regions=None if code.region is None else [_coded(code.region)],
            display_color=CIELabColor.from_rgb(*_COLOURS[at % len(_COLOURS)]),
        )
        described.SegmentDescription = (
            f"Asked for: {line(segment.prompt)}. Found in {segment.found} of {segment.images} "
            f"images; highest score {segment.score:.2f}."
        )
        made.append(described)
    return made


def local_schemes(descriptions: Sequence[SegmentDescription]) -> list[Dataset] | None:
    """Says what the private coding scheme is, where a segment uses it."""
    used = {
        item.CodingSchemeDesignator
        for described in descriptions
        for item in described.SegmentedPropertyTypeCodeSequence
    }
    if LOCAL_SCHEME not in used:
        return None
    return [
        CodingSchemeIdentificationItem(
            LOCAL_SCHEME, name="Local codes of TextSAM", responsible_organization="TextSAM"
        )
    ]


def _coded(code: Code) -> PydicomCode:
    return PydicomCode(code.value, code.scheme, code.meaning)


def line(text: str, length: int = 1024) -> str:
    """Text that fits a DICOM line: nothing unprintable, no backslash, which separates values."""
    kept = "".join(ch if ch.isprintable() and ch != "\\" else " " for ch in text).strip()
    return kept[:length].rstrip()


def restore(made: Dataset, sources: Sequence[tuple[Dataset, int]]) -> Dataset:
    """Put what the stand-ins stand for into a finished SEG.

    Args:
        made: by highdicom, from stand-ins numbered as `sources`. It is used up.
        sources: (header, frame from 0) of each image.

    Returns:
        The instance as a plain dataset with file meta information, ready to be saved or sent.
    """
    references = {
        _stand_in_uid(number): _reference(header, (frame,))
        for number, (header, frame) in enumerate(sources)
    }
    by_file: dict[str, tuple[Dataset, list[int]]] = {}
    for header, frame in sources:
        by_file.setdefault(str(header.SOPInstanceUID), (header, []))[1].append(frame)
    made.SourceImageSequence = [_reference(header, frames) for header, frames in by_file.values()]
    series = Dataset()
    series.SeriesInstanceUID = sources[0][0].SeriesInstanceUID
    series.ReferencedInstanceSequence = [_reference(header) for header, _ in by_file.values()]
    made.ReferencedSeriesSequence = [series]
    for group in made.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            for item in derivation.SourceImageSequence:
                # Segments of one plane share the item: the second time it is the real one already.
                real = references.get(str(item.ReferencedSOPInstanceUID))
                if real is not None:
                    item.update(real)
    first = sources[0][0]
    for keyword in _VERBATIM:
        if keyword in first:
            made.add(deepcopy(first[keyword]))
    if "FrameOfReferenceUID" not in made:
        # Required, and possibly empty, where no position says how the image lies (PS3.3 C.7.6.1).
        made.PatientOrientation = deepcopy(first.get("PatientOrientation")) or ""
    # highdicom draws a new UID each time; nothing else refers to it.
    dimensions = derived_uid("dimensions", str(made.SOPInstanceUID))
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    plain = Dataset()
    for element in made:
        plain.add(element)
    plain.file_meta = made.file_meta
    plain.preamble = b"\0" * 128
    return plain


def _reference(header: Dataset, frames: Sequence[int] = ()) -> Dataset:
    """Image SOP Instance Reference (PS3.3 10.3); frames are named where a file has several."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frames and int(header.get("NumberOfFrames") or 1) > 1:
        numbers = [frame + 1 for frame in frames]
        item.add(DataElement(0x00081160, "IS", numbers[0] if len(numbers) == 1 else numbers))
    return item


def character_set(header: Dataset, prompts: Sequence[str]) -> dict[str, Any]:
    """Character set for highdicom: UTF-8 unless everything is certainly ASCII."""
    plain = all(prompt.isascii() for prompt in prompts)
    if plain and header.get("SpecificCharacterSet") in (None, "", "ISO_IR 6"):
        return {}
    return {"specific_character_set": "ISO_IR 192"}
