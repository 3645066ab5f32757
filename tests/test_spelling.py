"""Misspelt prompts are answered as what was meant, with a warning, and only beyond doubt."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsam.false_friends import FALSE_FRIENDS
from textsam.prompts import CONCEPTS, DISTRACTORS, canonical, spellings
from textsam.spelling import MIN_LETTERS, corrected, one_edit_apart, unknown_message
from textsam.vocabulary import NEAR_WORDS

ALL = tuple(CONCEPTS)


def distance(a: str, b: str) -> int:
    """Edits by insertion, deletion, substitution and transposition, by the textbook's table."""
    table = [[i + j if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (a[i - 1] != b[j - 1]),
            )
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


@settings(max_examples=400, deadline=None)
@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_one_edit_is_distance_one(a: str, b: str) -> None:
    assert one_edit_apart(a, b) == (distance(a, b) == 1)


@pytest.mark.parametrize(
    ("text", "concept"),
    [
        ("tummor", "tumor"),  # inserted
        ("nucleu", "cell nucleus"),  # left out
        ("tumur", "tumor"),  # replaced
        ("poylp", "polyp"),  # transposed
        ("A TUMRO!", "tumor"),
        ("tumuors", "tumor"),
        ("mitocondria", "mitochondria"),
        ("miocardium", "myocardium"),
        ("cell nuclie", "cell nucleus"),
        ("left ventricel", "left ventricle"),
        ("retnal vessel", "retinal vessel"),
        ("brest mass", "tumor"),
        ("tumro in the breast", "tumor"),
        ("vessles of the retina", "retinal vessel"),
    ],
)
def test_one_slip_is_corrected(text: str, concept: str) -> None:
    assert canonical(text) is None, "a correction is no spelling variant"
    assert corrected(text, ALL) == concept


@pytest.mark.parametrize(
    "text",
    [
        "tumor",  # known: nothing to correct
        "lnug",  # short words have too many neighbours
        "nerv",
        "lef ventricle",
        "humor",  # a word of its own, as in the eye
        "vitreous humor",
        "tutor",
        "colony polyp",
        "cardia muscle",
        "nucleolus",  # two edits, and related
        "tmuro",  # two edits
        "brest tumro",  # two words
        "mitochondrial",  # an adjective of the vocabulary, right as it stands
        "lesoin",  # tumor or skin lesion
        "polys",  # neutrophils
    ],
)
def test_what_is_in_doubt_stays_as_it_is(text: str) -> None:
    assert corrected(text, ALL) is None


def test_terms_of_the_vocabulary_are_never_corrected() -> None:
    related = [term for concept in CONCEPTS.values() for term in concept.related]
    for text in (*related, *DISTRACTORS, *NEAR_WORDS):
        for known in (ALL, ("tumor",), ("livers", "tooths", "veins", "skins")):
            assert corrected(text, known) is None or canonical(text, known) is not None, text
    # Each near word is there because it would be corrected otherwise: one edit from a name's word.
    words = {w for c in CONCEPTS.values() for n in c.names for s in spellings(n) for w in s.split()}
    for near in NEAR_WORDS:
        singular = near.removesuffix("s") if near == "polys" else near
        assert any(one_edit_apart(singular, word) and word[0] == near[0] for word in words), near


def test_a_name_the_adapter_does_not_know_is_not_bent_to_one_it_does() -> None:
    assert corrected("retnal vessel", ["vessel", "tumor"]) is None
    assert corrected("lesoin", ["tumor", "nerve"]) == "tumor"
    assert corrected("lesoin", ["nerve"]) is None
    # Names outside the vocabulary count as well.
    assert corrected("pancreatic tumro", ["pancreatic tumor"]) == "pancreatic tumor"
    assert corrected("pancraetic tumor", ["pancreatic tumor", "tumor"]) == "pancreatic tumor"
    assert corrected("ilium", ["ileum", "ilium"]) is None
    assert corrected("ilaum", ["ileum", "ilium"]) is None


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ("ilium", "ileum"),
        ("hepatoma", "hematoma"),
        ("hepatomas", "hematomas"),  # a name may be given in the plural
        ("rectus", "rectum"),
        ("tumor stoma", "tumor stroma"),
        ("abductor muscles", "adductor muscle"),
        ("osteoclast", "osteoblast"),
        ("macroadenoma", "microadenoma"),
        ("microcalcifications", "macrocalcification"),
        ("intraorbital fat", "infraorbital fat"),
        ("cd143 cell", "cd163 cell"),  # another marker
        ("grade3a tumor", "grade2a tumor"),
    ],
)
def test_what_is_right_in_itself_is_no_slip_of_an_adapters_own_word(asked: str, known: str) -> None:
    for typed, name in ((asked, known), (known, asked)):
        assert corrected(typed, [name]) is None, (typed, name)
        assert corrected(typed, [name, "tumor"]) is None, (typed, name)


def test_false_friends_are_words_that_would_be_corrected_otherwise() -> None:
    for word in FALSE_FRIENDS:
        near = [
            other for other in FALSE_FRIENDS if other[0] == word[0] and one_edit_apart(word, other)
        ]
        assert near, word
        assert len(word) >= MIN_LETTERS, word
    # Real slips in such words still are.
    assert corrected("hematomma", ["hematoma"]) == "hematoma"
    assert corrected("osteoblsat", ["osteoblast"]) == "osteoblast"
    assert corrected("mircoadenoma", ["microadenoma"]) == "microadenoma"
    assert corrected("tumor1", ["tumor"]) == "tumor"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_any_slip_in_a_name_is_that_concept_or_nothing(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(name)))
    letter = data.draw(st.sampled_from(string.ascii_lowercase))
    text = name[:place] + letter + name[place:]
    meant = corrected(text, ALL)
    assert meant in (name, None)
    words = zip(text.split(), name.split(), strict=True)
    if all(a == b or (len(b) >= MIN_LETTERS and a[0] == b[0]) for a, b in words):
        assert meant == name or canonical(text, ALL) == name


def test_the_message_names_input_answer_and_choice() -> None:
    assert unknown_message("x", "tumro", ["tumor", "lung"], answered=True) == (
        "the adapter 'x' was not trained for the prompt 'tumro'; it is answered as 'tumor', of "
        "which it seems a misspelling. The adapter knows: tumor, lung"
    )
    assert "did you mean tumor? It knows" in unknown_message(
        "x", "tumro", ["tumor"], answered=False
    )
    assert "'zebra'; it knows: tumor" in unknown_message("x", "zebra", ["tumor"], answered=True)
    assert unknown_message("x", "Lesions", ["tumor", "nerve", "skin lesion"], answered=True) == (
        "the adapter 'x' was not trained for the prompt 'Lesions'; it can mean tumor or skin "
        "lesion: ask for one of them. The adapter knows: tumor, nerve, skin lesion"
    )


def test_a_known_name_is_no_slip_for_another() -> None:
    assert corrected("quuxom", ["quuxon", "other"]) == "quuxon"
    assert corrected("quuxom", ["quuxon", "quuxom"]) is None
