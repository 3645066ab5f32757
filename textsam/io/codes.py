"""What a prompt is called in coded terms: SNOMED CT codes for the concepts of the vocabulary.

Every SNOMED CT code here is one that DICOM PS3.16 lists, under the meaning given there, as found in
the code dictionary of pydicom 3.0; a test compares them one by one. Where that dictionary has no
code for a concept, a local code of the private scheme `LOCAL_SCHEME` says its name instead: a wrong
code is worse than one that other systems do not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from textsam.prompts import canonical, normalise

__all__ = ["CONCEPT_CODES", "LOCAL_SCHEME", "Code", "SegmentCode", "code_for"]

LOCAL_SCHEME = "99TEXTSAM"
"""Designator of the private coding scheme; PS3.16 section 8 reserves "99" for private schemes."""

_MAX_MEANING_CHARS = 64  # value representation LO, PS3.5 section 6.2


@dataclass(frozen=True)
class Code:
    """A coded term: value, scheme ("SCT" is SNOMED CT) and its meaning in words."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class SegmentCode:
    """What a segment is.

    Attributes:
        category: segmented property category, of CID 7150.
        type: segmented property type.
        region: anatomic region it lies in, None where the prompt does not say.
    """

    category: Code
    type: Code
    region: Code | None = None


ANATOMICAL = Code("91723000", "SCT", "Anatomical Structure")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
SPATIAL = Code("309825002", "SCT", "Spatial and Relational Concept")

_BREAST = Code("76752008", "SCT", "Breast")
_BRAIN = Code("12738006", "SCT", "Brain")
_RETINA = Code("5665001", "SCT", "Retina")
_MASS = Code("4147007", "SCT", "Mass")
_LESION = Code("52988006", "SCT", "Lesion")
_NODULE = Code("27925004", "SCT", "Nodule")
_LEFT_VENTRICULAR_MYOCARDIUM = Code("49848007", "SCT", "Left Ventricle Myocardium")
_BLOOD_VESSEL = Code("59820001", "SCT", "Blood Vessel")

CONCEPT_CODES: Mapping[str, SegmentCode] = MappingProxyType(
    {
        "tumor": SegmentCode(ABNORMAL, Code("108369006", "SCT", "Neoplasm")),
        "cell nucleus": SegmentCode(ANATOMICAL, Code("84640000", "SCT", "Nucleus")),
        "lung": SegmentCode(ANATOMICAL, Code("39607008", "SCT", "Lung")),
        # DICOM lists the nerve among the tissues (CID 7191), not among the organs (CID 7192).
        "nerve": SegmentCode(TISSUE, Code("91728009", "SCT", "Nerve")),
        "vessel": SegmentCode(ANATOMICAL, _BLOOD_VESSEL),
        "cell membrane": SegmentCode(
            ANATOMICAL, Code("CELL-MEMBRANE", LOCAL_SCHEME, "Cell membrane")
        ),
        "polyp": SegmentCode(ABNORMAL, Code("68496003", "SCT", "Polyp of colon")),
        "skin lesion": SegmentCode(ABNORMAL, Code("95324001", "SCT", "Skin lesion")),
        "retinal vessel": SegmentCode(ANATOMICAL, _BLOOD_VESSEL, _RETINA),
        "right ventricle": SegmentCode(ANATOMICAL, Code("53085002", "SCT", "Right ventricle")),
        "left ventricle": SegmentCode(ANATOMICAL, Code("87878005", "SCT", "Left ventricle")),
        "myocardium": SegmentCode(TISSUE, Code("122448007", "SCT", "Cardiac muscle")),
        "mitochondria": SegmentCode(
            ANATOMICAL, Code("MITOCHONDRION", LOCAL_SCHEME, "Mitochondrion")
        ),
        "synapse": SegmentCode(ANATOMICAL, Code("SYNAPSE", LOCAL_SCHEME, "Synapse")),
    }
)
"""Concept of `textsam.prompts.CONCEPTS` -> its code."""

# The concept "tumor" is also asked for by words that say less. They keep their own code: a mass or
# a lesion that somebody asked for must not arrive in an archive as a neoplasm.
_LESS_THAN_TUMOR = {
    "mass": _MASS,
    "masses": _MASS,
    "lesion": _LESION,
    "lesions": _LESION,
    "nodule": _NODULE,
    "nodules": _NODULE,
}
_TUMOR_WORDS = frozenset({"tumor", "tumors", "tumour", "tumours", "neoplastic"})
_REGIONS = {"breast": _BREAST, "brain": _BRAIN}


def code_for(prompt: str, concept: str | None = None) -> SegmentCode:
    """The code of what `prompt` asks for.

    Args:
        prompt: as the user wrote it.
        concept: what the adapter took it for (`Segmentation.extra["concept"]`); None looks it up in
            the vocabulary.

    Returns:
        The concept's entry of `CONCEPT_CODES`, narrowed by words of the prompt: "mass", "lesion"
        and "nodule" are coded as such and not as "Neoplasm", "breast" and "brain" give the region
        of a tumor, and a "left ventricular" myocardium has a code of its own.
        A word outside the vocabulary gets a local code: a digest of the normalised prompt as its
        value, the prompt as its meaning (the first 64 characters), and the category "Spatial and
        Relational Concept", the one of CID 7150 that says of a segment no more than where it is.

    Raises:
        PromptError: an empty prompt, or one that is not text.
    """
    text = normalise(prompt)
    name = concept if concept is not None else canonical(text)
    if name is None or name not in CONCEPT_CODES:
        digest = hashlib.sha256(text.encode()).hexdigest()[:12].upper()
        meaning = text[:_MAX_MEANING_CHARS].rstrip()
        return SegmentCode(SPATIAL, Code(f"W-{digest}", LOCAL_SCHEME, meaning))
    found = CONCEPT_CODES[name]
    words = text.split()
    if name == "tumor":
        region = next((_REGIONS[word] for word in words if word in _REGIONS), None)
        said = next((_LESS_THAN_TUMOR[word] for word in words if word in _LESS_THAN_TUMOR), None)
        if said is None or not _TUMOR_WORDS.isdisjoint(words):
            said = found.type
        return SegmentCode(found.category, said, region)
    if name == "myocardium" and ("lv" in words or "left" in words):
        return SegmentCode(found.category, _LEFT_VENTRICULAR_MYOCARDIUM)
    return found
