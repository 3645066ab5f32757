"""Which concept of the vocabulary a text prompt means, and where a concept can occur at all.

A *concept* is what one mask is drawn for ("tumor"). People write it in many ways ("a tumour",
"breast masses", "neoplasm"); `canonical` maps those to the concept and answers None for a text
that means something else or something more specific ("left lung" is not "lung"), so that a caller
can refuse instead of guessing.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from textsam.errors import PromptError
from textsam.vocabulary import (
    CLINICAL_DISTRACTORS,
    CONCEPTS,
    DISTRACTORS,
    EVERYDAY,
    MODALITIES,
    Concept,
)

__all__ = [
    "CONCEPTS",
    "DISTRACTORS",
    "MAX_PROMPT_CHARS",
    "MODALITIES",
    "Concept",
    "canonical",
    "canonical_key",
    "certainly_absent",
    "distractors_for",
    "meanings",
    "nearest",
    "nearest_modality",
    "normalise",
    "spellings",
    "synonyms",
]

MAX_PROMPT_CHARS = 200

# Whole words; applied after lower-casing. Latin and Greek plurals cannot be told by their endings.
_WORDS: Mapping[str, str] = {
    "tumour": "tumor",
    "tumours": "tumor",
    "tumoural": "tumoral",
    "nuclei": "nucleus",
    "nucleuses": "nucleus",
    "mitochondria": "mitochondrion",
    "myocardia": "myocardium",
    "carcinomata": "carcinoma",
    "metastases": "metastasis",
    "naevus": "nevus",
    "naevi": "nevus",
    "nevi": "nevus",
    "foetal": "fetal",
    "cristae": "crista",
    "neurone": "neuron",
    "neurones": "neuron",
    # Words of adapters' own.
    "caecal": "cecal",
    "caecum": "cecum",
    "centre": "center",
    "coeliac": "celiac",
    "fibre": "fiber",
    "foetus": "fetus",
    "grey": "gray",
    "haemangioma": "hemangioma",
    "haematoma": "hematoma",
    "haemorrhage": "hemorrhage",
    "haemorrhagic": "hemorrhagic",
    "ischaemic": "ischemic",
    "leucocyte": "leukocyte",
    "oedema": "edema",
    "oesophageal": "esophageal",
    "oesophagus": "esophagus",
}
# "Tumor in the breast" is a breast tumor, "nuclei of cells" are cell nuclei.
_PLACED = frozenset({"of", "in", "on"})
# "Region of the lung" is the lung region; a region in it is less, and nobody knows which.
_PARTS = frozenset({"area", "field", "region"})
_ARTICLES = frozenset({"a", "an", "the"})


def normalise(text: str) -> str:
    """Lower case, no articles in front, no punctuation, single spaces, Unicode NFKC.

    Letters, digits and combining marks of every script are kept, anything else separates words.
    Plural and spelling stay as written. Raises PromptError for a text that is not a string, is
    empty after this, is longer than `MAX_PROMPT_CHARS` characters, or holds a lone surrogate, which
    no file could be written with.
    """
    if not isinstance(text, str):
        raise PromptError(f"A text prompt must be a string, got {type(text).__name__}: {text!r}.")
    if len(text) > MAX_PROMPT_CHARS:
        raise PromptError(
            f"The text prompt has {len(text)} characters, at most {MAX_PROMPT_CHARS} are read: "
            f"{text[:40]!r}… Name the structure alone, such as 'tumor'."
        )
    if any("\ud800" <= ch <= "\udfff" for ch in text):
        raise PromptError(
            f"The text prompt {text!r} holds bytes that are no text: it was read in another "
            "encoding than it was written in. Give it in UTF-8."
        )
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(ch if unicodedata.category(ch)[0] in "LNM" else " " for ch in folded)
    words = kept.split()
    while len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    if not words:
        raise PromptError(
            f"The text prompt {text!r} is empty. Name the structure to segment, such as 'tumor'."
        )
    return " ".join(words)


def _key_of(word: str) -> str:
    """In the singular and in American spelling; the plural may be a British one."""
    if word in _WORDS:
        return _WORDS[word]
    singular = _singular(word)
    return _WORDS.get(singular, singular)


def _singular(word: str) -> str:
    if len(word) > 3:
        if word.endswith("ies") and len(word) > 4:
            return word[:-3] + "y"
        if word.endswith(("sses", "xes", "ches", "shes")):
            return word[:-2]
    # Two letters and an s: abbreviations such as "LVs".
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def canonical_key(text: str) -> str:
    """What texts that differ only in wording have in common.

    As `normalise`, with words in the singular and in American spelling, without articles, and
    with what a thing lies in before it ("mass in the breast" gives "breast mass").

    Raises:
        PromptError: as `normalise`.
    """
    # Checked outside of the cache, which would refuse unhashable input in its own words.
    return _cached_key(text) if isinstance(text, str) else normalise(text)


@lru_cache(maxsize=4096)
def _cached_key(text: str) -> str:
    words = normalise(text).split()
    # Articles inside too: "lesion of the skin".
    inner = [word for word in words if word not in _ARTICLES] or words
    places = [i for i, word in enumerate(inner) if word in _PLACED]
    if len(places) == 1 and 0 < places[0] < len(inner) - 1 and not _is_part(inner, places[0]):
        inner = [*inner[places[0] + 1 :], *inner[: places[0]]]
    return " ".join(_key_of(word) for word in inner)


def _is_part(words: Sequence[str], place: int) -> bool:
    return words[place] != "of" and _singular(words[place - 1]) in _PARTS


@lru_cache(maxsize=1024)
def spellings(name: str) -> tuple[str, ...]:
    """A name as listed, its key, and the key with each British, Latin or Greek form of a word."""
    key = canonical_key(name)
    words = key.split()
    other = (
        " ".join((*words[:i], form, *words[i + 1 :]))
        for i, word in enumerate(words)
        for form, meant in _WORDS.items()
        if meant == word
    )
    return tuple(dict.fromkeys((normalise(name), key, *other)))


@lru_cache(maxsize=1)
def _by_key() -> Mapping[str, tuple[str, ...]]:
    table: dict[str, list[str]] = {}
    for concept in CONCEPTS.values():
        for name in concept.names:
            owners = table.setdefault(canonical_key(name), [])
            if concept.name not in owners:
                owners.append(concept.name)
    return {key: tuple(owners) for key, owners in table.items()}


def meanings(text: str) -> tuple[str, ...]:
    """Every concept of `CONCEPTS` that `text` can mean: none, one, or several ("lesion")."""
    return _by_key().get(canonical_key(text), ())


def canonical(text: str, known: Iterable[str] | None = None) -> str | None:
    """The concept that `text` means, or None if it means none, or several, of them.

    known: the names to choose from, e.g. what an adapter was trained on; they need not be in
        `CONCEPTS`. Default: all of `CONCEPTS`. A known name beats a synonym of another concept,
        and a text with several meanings ("lesion") resolves when only one of them is known.
    Case, articles, punctuation, plural, British spelling and the order in "tumor in the breast" do
    not matter. A misspelt text means nothing here; see `textsam.spelling`.
    """
    names = tuple(CONCEPTS) if known is None else tuple(known)
    key = canonical_key(text)
    for name in names:
        if canonical_key(name) == key:
            return name
    found = [name for name in names if name in _by_key().get(key, ())]
    return found[0] if len(found) == 1 else None


def synonyms(known: Iterable[str]) -> dict[str, list[str]]:
    """Each of the `known` names with the synonyms that mean it, and nothing else that is known."""
    names = tuple(known)
    return {
        name: [text for text in CONCEPTS[name].synonyms if canonical(text, names) == name]
        if name in CONCEPTS
        else []
        for name in names
    }


def _similarity(a: str, b: str) -> tuple[float, float]:
    words_a, words_b = set(a.split()), set(b.split())
    ratio = difflib.SequenceMatcher(None, a, b).ratio()
    # "left lung" contains all of "lung": a better hint than letters shared with "left ventricle".
    # Of several contained, the letters decide: a wall of the left ventricle is not of the right.
    return max(ratio, 0.9) if words_a <= words_b or words_b <= words_a else ratio, ratio


def nearest(text: str, known: Iterable[str] | None = None, n: int = 3) -> list[str]:
    """Up to `n` concept names of `known` (default: all) that `text` may have been meant as.

    Best first; compares with the concepts' names, synonyms and related terms. Empty when nothing
    is close.
    """
    key = canonical_key(text)
    scores: list[tuple[tuple[float, float], int, str]] = []
    for order, name in enumerate(tuple(CONCEPTS) if known is None else tuple(known)):
        concept = CONCEPTS.get(name)
        terms = (*concept.names, *concept.related) if concept else (name,)
        best = max(_similarity(key, canonical_key(term)) for term in terms)
        scores.append((best, -order, name))
    return [name for (score, _), _, name in sorted(scores, reverse=True) if score >= 0.6][:n]


def certainly_absent(text: str, modality: str) -> bool:
    """Whether nothing that `text` can mean is ever visible in an image of `modality`.

    True only for concepts and distractors with an entry in the tables above and a modality of
    `MODALITIES`; everything unknown is "not certain", hence False.
    """
    owners = meanings(text)
    if owners:
        return modality in MODALITIES and all(
            modality not in CONCEPTS[name].modalities for name in owners
        )
    return normalise(text) in distractors_for(modality)


def nearest_modality(name: str) -> str | None:
    """The member of `MODALITIES` that `name` is spelt most like, in any case; None: like none."""
    folded = {modality.casefold(): modality for modality in MODALITIES}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def distractors_for(modality: str) -> tuple[str, ...]:
    """The members of `DISTRACTORS` that are certainly absent from images of `modality`.

    For a modality outside `MODALITIES` only things of everyday life.
    """
    if modality not in MODALITIES:
        return EVERYDAY
    return (
        *EVERYDAY,
        *(name for name, seen in CLINICAL_DISTRACTORS.items() if modality not in seen),
    )
