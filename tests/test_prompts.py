"""What a text prompt means, and where a concept is certainly absent."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsam.errors import PromptError
from textsam.prompts import (
    CONCEPTS,
    DISTRACTORS,
    MAX_PROMPT_CHARS,
    MODALITIES,
    canonical,
    certainly_absent,
    distractors_for,
    meanings,
    nearest,
    normalise,
    synonyms,
)

EVERY_NAME = [(name, c.name) for c in CONCEPTS.values() for name in c.names]
LATIN_PLURALS = {
    "cell nucleus": "cell nuclei",
    "mitochondria": "mitochondria",
    "myocardium": "myocardia",
    "synapse": "synapses",
    "left ventricle": "left ventricles",
    "polyp": "polyps",
    "tumor": "tumours",
    "retinal vessel": "retinal vessels",
}


@pytest.mark.parametrize(
    ("text", "concept"),
    [
        ("a tumour", "tumor"),
        ("Tumors", "tumor"),
        ("TUMOURS", "tumor"),
        ("the breast mass", "tumor"),
        ("breast masses", "tumor"),
        ("neoplasm", "tumor"),
        ("nuclei", "cell nucleus"),
        ("cell nuclei", "cell nucleus"),
        ("lungs", "lung"),
        ("lung fields", "lung"),
        ("LV", "left ventricle"),
        ("RV", "right ventricle"),
        ("LVs", "left ventricle"),
        ("the heart muscle.", "myocardium"),
        ("blood vessels", "vessel"),
        ("blood-vessel", "vessel"),
        ("retinal blood vessels", "retinal vessel"),
        ("vessels of the retina", "retinal vessel"),
        ("neuron membrane", "cell membrane"),
        ("membranes", "cell membrane"),
        ("mitochondrion", "mitochondria"),
        ("colorectal polyps", "polyp"),
        ("lesions of the skin", "skin lesion"),
        ("brain-tumor", "tumor"),
        ("brain_tumour", "tumor"),
        ("tumor in the breast", "tumor"),
        ("a mass in the breast", "tumor"),
        ("the region of the tumour", "tumor"),
        ("intracranial tumours", "tumor"),
        ("lesion on the skin", "skin lesion"),
        ("polyps of the colon", "polyp"),
        ("nuclei of the cells", "cell nucleus"),
        ("both lungs", "lung"),
        ("left and right lungs", "lung"),
        ("membrane of the neurones", "cell membrane"),
        ("LV blood pool", "left ventricle"),
        ("wall of the LV", "myocardium"),
        ("muscle of the heart", "myocardium"),
        ("  an   \uff2eerve ", "nerve"),  # a full-width N, as a Japanese keyboard writes it
    ],
)
def test_what_clinicians_write_is_understood(text: str, concept: str) -> None:
    assert canonical(text) == concept


@pytest.mark.parametrize(
    "text",
    [
        "left lung",
        "lobe of the lung",
        "apex of the lung",
        "breast cancer",
        "cancer of the breast",
        "tumor in the left breast",
        "tumor in the liver",
        "thyroid nodule",
        "melanoma",
        "optic nerve",
        "nerve fiber",
        "synapsis",  # of chromosomes
        "membrane of a mitochondrion",
        "wall of a vessel",
        "left and right ventricle",
        "tumor in",
        "in the breast",
        "of",
        "cat",
        "tumro",
    ],
)
def test_a_narrower_or_other_term_is_not_taken_for_a_concept(text: str) -> None:
    assert canonical(text) is None


def test_left_lung_suggests_lung_first() -> None:
    assert nearest("left lung")[0] == "lung"


@pytest.mark.parametrize(
    ("text", "best"),
    [
        ("tumro", "tumor"),
        ("breast cancer", "tumor"),
        ("melanoma", "skin lesion"),
        ("mitocondria", "mitochondria"),
        ("nucleolus", "cell nucleus"),
        ("miocardium", "myocardium"),
        ("wall of the left ventricle", "myocardium"),
        ("left heart ventricle", "left ventricle"),
        ("right heart ventricle", "right ventricle"),
        ("Myo", "myocardium"),
    ],
)
def test_misspelt_and_related_terms_suggest_the_concept(text: str, best: str) -> None:
    assert nearest(text)[0] == best


def test_nearest_keeps_to_the_known_names_and_to_n() -> None:
    assert nearest("lungs", ["tumor", "nerve"]) == []
    assert nearest("ventricle", n=1) == ["right ventricle"]
    assert set(nearest("ventricle", n=2)) == {"right ventricle", "left ventricle"}
    assert nearest("pancreatic tumour", ["pancreas tumor"]) == ["pancreas tumor"]


def test_an_ambiguous_text_needs_to_know_what_is_trained() -> None:
    assert meanings("Lesions") == ("tumor", "skin lesion")
    assert canonical("lesion") is None
    assert canonical("lesion", ["tumor", "nerve"]) == "tumor"
    assert canonical("lesion", ["skin lesion", "nerve"]) == "skin lesion"
    assert canonical("lesion", ["tumor", "skin lesion"]) is None
    assert set(nearest("lesion", n=2)) == {"tumor", "skin lesion"}


def test_synonyms_are_those_that_mean_one_known_thing() -> None:
    both = synonyms(["tumor", "skin lesion", "mass", "gizmo"])
    assert list(both) == ["tumor", "skin lesion", "mass", "gizmo"]
    assert "neoplasm" in both["tumor"]
    assert "cutaneous lesion" in both["skin lesion"]
    assert "lesion" not in (*both["tumor"], *both["skin lesion"]), "it means either"
    assert "mass" not in both["tumor"], "it is a name of its own"
    assert both["mass"] == both["gizmo"] == []
    assert "lesion" in synonyms(["tumor"])["tumor"]


def test_known_names_beside_the_vocabulary() -> None:
    known = ["Pancreatic tumour", "tumor"]
    assert canonical("the pancreatic tumors", known) == "Pancreatic tumour"
    assert canonical("mass", known) == "tumor"
    assert canonical("nerve", known) is None
    # A known name wins over the synonym it is elsewhere.
    assert canonical("mass", ["tumor", "mass"]) == "mass"
    assert canonical("tumor", []) is None


@pytest.mark.parametrize(("name", "concept"), EVERY_NAME)
def test_every_name_resolves_to_its_concept(name: str, concept: str) -> None:
    assert concept in meanings(name)
    assert canonical(name, [concept]) == concept
    assert normalise(name) == name, "names are written in normal form"


@pytest.mark.parametrize("concept", CONCEPTS)
def test_canonical_is_idempotent_and_ignores_article_case_and_plural(concept: str) -> None:
    assert canonical(concept) == concept
    plural = LATIN_PLURALS.get(concept, concept + "s")
    for text in (
        concept,
        plural,
        concept.upper(),
        concept.title(),
        f"the {plural}",
        f"A {concept}",
        f"An  {concept}!",
        f"\t{concept}\n",
        f'"{plural}"',
    ):
        assert canonical(text) == concept
        assert canonical(canonical(text) or "nothing") == concept


@settings(deadline=None)
@given(
    st.sampled_from(EVERY_NAME),
    st.sampled_from(["", "a ", "an ", "the ", "The the "]),
    st.sampled_from([str.lower, str.upper, str.title, str.swapcase]),
    st.sampled_from(["", ".", " ?", "  ", "…"]),
)
def test_spelling_of_any_name_does_not_matter(
    pair: tuple[str, str], article: str, case: object, end: str
) -> None:
    name, concept = pair
    assert callable(case)
    assert canonical(article + case(name) + end, [concept]) == concept


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ("oedema", "edema"),
        ("macular oedema", "macular edema"),
        ("Haemorrhages", "hemorrhage"),
        ("muscle fibres", "muscle fiber"),
        ("grey matter", "gray matter"),
        ("wall of the oesophagus", "esophagus wall"),
        ("leucocytes", "leukocyte"),
    ],
)
def test_british_spelling_of_an_adapters_own_word_does_not_matter(asked: str, known: str) -> None:
    assert canonical(asked, [known]) == known
    assert canonical(known, [asked]) == asked


def test_a_region_in_something_is_not_all_of_it() -> None:
    assert canonical("regions of the lung") == "lung"
    assert canonical("area of the tumor") == "tumor"
    for text in ("region in the lung", "regions in the lungs", "area in a tumor", "area on lung"):
        assert canonical(text) is None, text
        assert "lung" in nearest(text) or "tumor" in nearest(text)
    assert canonical("mass in the breast") == "tumor"


@settings(deadline=None)
@given(st.text(max_size=MAX_PROMPT_CHARS))
def test_normalise_is_idempotent_or_refuses(text: str) -> None:
    try:
        once = normalise(text)
    except PromptError:
        return
    # Some characters grow in NFKC; what is too long afterwards is not a second input.
    if len(once) <= MAX_PROMPT_CHARS:
        assert normalise(once) == once
    assert once == once.strip()
    assert "  " not in once


def test_normalise_values() -> None:
    assert normalise("  The  X-ray\tLUNG, please ") == "x ray lung please"
    assert normalise("the") == "the"
    assert normalise("腫瘍") == "腫瘍"
    assert normalise("TUMEUR É") == normalise("tumeur e\u0301")


@pytest.mark.parametrize("text", ["", "   ", "?!", "\n\t", "…"])
def test_an_empty_prompt_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match="empty"):
        normalise(text)
    with pytest.raises(PromptError, match="empty"):
        canonical(text)


@pytest.mark.parametrize("text", ["tum\udcf6r", "\ud800", "lung \udfff"])
def test_what_is_no_text_is_refused_before_it_gets_into_a_file(text: str) -> None:
    with pytest.raises(PromptError, match=r"no text.*UTF-8") as refused:
        normalise(text)
    str(refused.value).encode()  # the message itself can be written
    assert normalise("\U0001d6fc") == "\u03b1"  # beyond the basic plane, and text


def test_long_and_non_text_prompts_are_refused() -> None:
    assert len(normalise("x" * MAX_PROMPT_CHARS)) == MAX_PROMPT_CHARS
    with pytest.raises(PromptError, match="201 characters, at most 200"):
        normalise("x" * (MAX_PROMPT_CHARS + 1))
    with pytest.raises(PromptError, match="must be a string, got int"):
        normalise(3)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="must be a string, got list"):
        canonical(["tumor"])  # type: ignore[arg-type]


def test_every_concept_and_its_modalities_are_in_the_table() -> None:
    assert set(CONCEPTS) == {
        "tumor",
        "cell nucleus",
        "lung",
        "nerve",
        "vessel",
        "cell membrane",
        "polyp",
        "skin lesion",
        "retinal vessel",
        "right ventricle",
        "left ventricle",
        "myocardium",
        "mitochondria",
        "synapse",
    }
    for concept in CONCEPTS.values():
        assert meanings(concept.name) == (concept.name,)
        assert concept.modalities
        assert set(concept.modalities) <= set(MODALITIES)
        assert set(concept.specific) <= set(concept.modalities)
        for term in concept.related:
            assert canonical(term) is None, f"{term!r} must stay a hint"


@pytest.mark.parametrize(
    ("text", "modality", "absent"),
    [
        ("tumor", "electron microscopy", True),
        ("tumor", "breast ultrasound", False),
        ("vessel", "breast ultrasound", False),
        ("tumor", "endoscopic ultrasound", False),
        ("left ventricle", "endoscopic ultrasound", False),
        ("cell nucleus", "endoscopic ultrasound", True),
        ("vessel", "retinal fundus", False),
        ("retinal vessel", "retinal fundus", False),
        ("retinal vessel", "breast ultrasound", True),
        ("nerve", "retinal fundus", False),
        ("nerve", "breast ultrasound", True),
        ("cell nucleus", "electron microscopy", False),
        ("left ventricle", "brain MRI", False),
        ("tumor", "dermoscopy", False),
        ("lung", "cardiac MRI", False),
        ("nerve", "brain MRI", False),
        ("vessel", "dermoscopy", False),
        ("vessel", "electron microscopy", True),
        ("polyp", "endoscopic ultrasound", False),
        ("myocardium", "chest X-ray", False),
        ("surgical instrument", "colonoscopy", False),
        ("synapse", "chest X-ray", True),
        # "lesion" may be the tumor of a breast scan, though a skin lesion it is not.
        ("skin lesion", "breast ultrasound", True),
        ("lesion", "breast ultrasound", False),
        ("lesion", "electron microscopy", True),
        # Nothing is known about a modality that is not in the table, nor of an unknown text.
        ("polyp", "gastroscopy", False),
        ("appendix", "breast ultrasound", False),
        ("dog", "breast ultrasound", True),
        ("bone fracture", "chest X-ray", False),
        ("bone fracture", "dermoscopy", True),
    ],
)
def test_what_is_certainly_absent(text: str, modality: str, absent: bool) -> None:
    assert certainly_absent(text, modality) is absent


def test_distractors_are_outside_the_vocabulary() -> None:
    assert {"dog", "car", "bone fracture", "fetal head", "kidney stone"} <= set(DISTRACTORS)
    assert all(meanings(text) == () for text in DISTRACTORS)
    assert "optic disc" not in distractors_for("retinal fundus")
    assert "optic disc" in distractors_for("brain MRI")
    assert "fetal head" not in distractors_for("fetal ultrasound")
    assert "dog" in distractors_for("fetal ultrasound")


def test_importing_the_vocabulary_needs_neither_torch_nor_numpy() -> None:
    heavy = "[m for m in ('torch', 'numpy') if m in sys.modules]"
    code = f"import sys, textsam.prompts, textsam.spelling; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
