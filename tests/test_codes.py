"""Codes: each SNOMED CT code is in pydicom's dictionary of DICOM's context groups, as written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.sr.codedict import codes

from textsam.errors import PromptError
from textsam.io.codes import (
    ABNORMAL,
    ANATOMICAL,
    CONCEPT_CODES,
    LOCAL_SCHEME,
    SPATIAL,
    TISSUE,
    Code,
    SegmentCode,
    code_for,
)
from textsam.prompts import CONCEPTS

# Keyword of the same code in pydicom's dictionary, which is generated from DICOM PS3.16.
KEYWORDS = {
    "Anatomical Structure": "AnatomicalStructure",
    "Morphologically Abnormal Structure": "MorphologicallyAbnormalStructure",
    "Tissue": "Tissue",
    "Spatial and Relational Concept": "SpatialAndRelationalConcept",
    "Neoplasm": "Neoplasm",
    "Nucleus": "Nucleus",
    "Lung": "Lung",
    "Nerve": "Nerve",
    "Blood Vessel": "BloodVessel",
    "Polyp of colon": "PolypOfColon",
    "Skin lesion": "SkinLesion",
    "Right ventricle": "RightVentricle",
    "Left ventricle": "LeftVentricle",
    "Cardiac muscle": "CardiacMuscle",
    "Left Ventricle Myocardium": "LeftVentricleMyocardium",
    "Mass": "Mass",
    "Lesion": "Lesion",
    "Nodule": "Nodule",
    "Breast": "Breast",
    "Brain": "Brain",
    "Retina": "Retina",
}


def all_codes() -> list[Code]:
    segments = [
        *CONCEPT_CODES.values(),
        *(code_for(name) for concept in CONCEPTS.values() for name in concept.names),
        code_for("mass", "tumor"),
        code_for("brain lesion", "tumor"),
        code_for("breast nodule", "tumor"),
        code_for("banana"),
    ]
    parts = [part for s in segments for part in (s.category, s.type, s.region) if part]
    return sorted(set(parts), key=lambda code: (code.scheme, code.value))


def test_every_concept_has_a_code_and_nothing_else_has() -> None:
    assert set(CONCEPT_CODES) == set(CONCEPTS)


def test_every_snomed_code_is_in_the_dictionary_with_its_meaning() -> None:
    snomed = [code for code in all_codes() if code.scheme == "SCT"]
    assert {code.meaning for code in snomed} == set(KEYWORDS)
    for code in snomed:
        known = getattr(codes.SCT, KEYWORDS[code.meaning])
        assert (known.value, known.scheme_designator) == (code.value, code.scheme)
        assert known.meaning == code.meaning


def test_other_codes_are_local_and_fit_their_fields() -> None:
    local = [code for code in all_codes() if code.scheme != "SCT"]
    assert {code.scheme for code in local} == {LOCAL_SCHEME}
    assert {code.meaning for code in local} >= {"Cell membrane", "Mitochondrion", "Synapse"}
    for code in all_codes():  # SH: 16 characters; LO: 64
        assert 0 < len(code.value) <= 16
        assert 0 < len(code.scheme) <= 16
        assert 0 < len(code.meaning) <= 64


def test_categories_are_of_the_context_group_for_categories() -> None:
    group = {getattr(codes.cid7150, name).value for name in codes.cid7150.dir()}
    assert {code.value for code in (ANATOMICAL, ABNORMAL, TISSUE, SPATIAL)} <= group
    assert {segment.category.value for segment in CONCEPT_CODES.values()} <= group


@pytest.mark.parametrize(
    ("concept", "context_group"),
    [
        ("tumor", "cid7194"),  # of abnormal structures
        ("lung", "cid7192"),  # of anatomical structures
        ("vessel", "cid7192"),
        ("left ventricle", "cid7192"),
        ("right ventricle", "cid7192"),
        ("nerve", "cid7191"),  # of tissues
        ("cell nucleus", "cid8135"),  # of microscopy
    ],
)
def test_types_are_of_the_context_group_of_their_category(concept: str, context_group: str) -> None:
    group = getattr(codes, context_group)
    values = {getattr(group, name).value for name in group.dir()}
    assert CONCEPT_CODES[concept].type.value in values


@pytest.mark.parametrize(
    ("prompt", "concept", "meaning", "region"),
    [
        ("tumor", None, "Neoplasm", None),
        ("a tumour", "tumor", "Neoplasm", None),
        ("mass", "tumor", "Mass", None),
        ("Breast masses", None, "Mass", "Breast"),
        ("breast tumor", None, "Neoplasm", "Breast"),
        ("brain lesion", None, "Lesion", "Brain"),
        ("tumor mass", None, "Neoplasm", None),
        ("neoplastic lesion", None, "Neoplasm", None),
        ("breast nodule", None, "Nodule", "Breast"),
        # "lesion" alone means two concepts; the adapter says which.
        ("lesion", "tumor", "Lesion", None),
        ("lesion", "skin lesion", "Skin lesion", None),
        ("retina vessel", None, "Blood Vessel", "Retina"),
        ("vessel", None, "Blood Vessel", None),
        ("LV myocardium", None, "Left Ventricle Myocardium", None),
        ("heart muscle", None, "Cardiac muscle", None),
        ("mitochondrion", None, "Mitochondrion", None),
    ],
)
def test_words_of_the_prompt_choose_the_code(
    prompt: str, concept: str | None, meaning: str, region: str | None
) -> None:
    found = code_for(prompt, concept)
    assert found.type.meaning == meaning
    assert (found.region.meaning if found.region else None) == region


def test_unknown_words_get_a_local_code_of_their_own() -> None:
    banana, apple = code_for("The Banana!"), code_for("apple")
    assert banana == SegmentCode(SPATIAL, Code(banana.type.value, LOCAL_SCHEME, "banana"))
    assert banana == code_for("banana")
    assert apple.type.value != banana.type.value
    # An ambiguous word that no adapter has resolved is unknown as well.
    assert code_for("lesion").type.meaning == "lesion"
    long = code_for("word " * 30)
    assert len(long.type.meaning) == 64
    assert long.type.meaning.startswith("word word")
    assert not long.type.meaning.endswith(" ")
    # A concept that an adapter knows and the vocabulary does not.
    assert code_for("gall bladder", "gallbladder").type.scheme == LOCAL_SCHEME


def test_the_document_lists_every_code() -> None:
    document = Path(__file__).resolve().parents[1] / "docs" / "outputs.md"
    text = document.read_text(encoding="utf-8")
    codes_ = [code for code in all_codes() if not code.value.startswith("W-")]
    types = {segment.category.value for segment in CONCEPT_CODES.values()} | {SPATIAL.value}
    regions = {"Breast", "Brain"}
    for code in codes_:
        if code.value not in types and code.meaning not in regions:
            assert code.value in text, code


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        code_for(" . ")


def test_importing_codes_imports_no_dicom_library() -> None:
    code = (
        "import sys, textsam.io.codes\n"
        "print([m for m in ('pydicom', 'highdicom', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
