"""The vocabulary: which concept a text prompt means, and where a concept can occur at all.

A *concept* is what one mask is drawn for ("tumor"). People write it in many ways ("a tumour",
"breast masses", "neoplasm"); `canonical` maps those to the concept and answers None for a text
that means something else or something more specific ("left lung" is not "lung"), so that a caller
can refuse instead of guessing.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from textsam.errors import PromptError

__all__ = [
    "CONCEPTS",
    "DISTRACTORS",
    "MAX_PROMPT_CHARS",
    "MODALITIES",
    "Concept",
    "canonical",
    "certainly_absent",
    "distractors_for",
    "meanings",
    "nearest",
    "normalise",
]

MAX_PROMPT_CHARS = 200

MODALITIES: tuple[str, ...] = (
    "breast ultrasound",
    "forearm ultrasound",
    "brain MRI",
    "cardiac MRI",
    "chest X-ray",
    "colonoscopy",
    "dermoscopy",
    "retinal fundus",
    "microscopy",
    "electron microscopy",
)


@dataclass(frozen=True)
class Concept:
    """One thing that can be segmented.

    name: canonical name, singular, American spelling.
    synonyms: other names for the same thing, whatever the image.
    modalities: the members of `MODALITIES` in whose images it can be visible, annotated or not.
        Everywhere else in `MODALITIES` it is certainly absent; this is what makes a prompt a
        legal negative in training, so a doubtful modality belongs in the list.
    specific: modality -> names that hold only there ("breast mass").
    related: terms that are close but mean less, more or something else; they are used to suggest
        the concept and never to resolve to it.
    """

    name: str
    synonyms: tuple[str, ...]
    modalities: tuple[str, ...]
    specific: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    related: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that means this concept: canonical, synonyms, modality-specific names."""
        extra = tuple(name for names in self.specific.values() for name in names)
        return (self.name, *self.synonyms, *extra)

    def names_in(self, modality: str) -> tuple[str, ...]:
        """The names that are true of this concept in an image of `modality`."""
        return (self.name, *self.synonyms, *self.specific.get(modality, ()))


_TABLE = (
    Concept(
        "tumor",
        ("mass", "lesion", "neoplasm", "tumor mass", "tumor region", "neoplastic lesion"),
        # A skin lesion or a polyp may be a neoplasm, a radiograph may show a mass, and stained
        # tissue is often tumor tissue: unknown there, hence listed.
        (
            "breast ultrasound",
            "brain MRI",
            "chest X-ray",
            "colonoscopy",
            "dermoscopy",
            "microscopy",
        ),
        {
            "breast ultrasound": (
                "breast tumor",
                "breast mass",
                "breast lesion",
                "breast nodule",
                "breast neoplasm",
            ),
            "brain MRI": ("brain tumor", "brain mass", "brain lesion", "brain neoplasm"),
        },
        (
            "cancer",
            "carcinoma",
            "malignancy",
            "nodule",
            "cyst",
            "benign tumor",
            "malignant tumor",
            "glioma",
            "meningioma",
            "pituitary tumor",
            "breast cancer",
            "brain cancer",
            "metastasis",
        ),
    ),
    Concept(
        "cell nucleus",
        ("nucleus", "nuclear region", "nucleus of a cell"),
        # Nuclei are cut through in electron micrographs too, where our sets do not annotate them.
        ("microscopy", "electron microscopy"),
        {},
        ("cell", "nucleolus", "cell body", "chromatin"),
    ),
    Concept(
        "lung",
        ("lung field", "pulmonary field", "lung region", "lung area"),
        # Cardiac MRI shows lung around the heart; a breast scan may reach the pleura.
        ("chest X-ray", "cardiac MRI", "breast ultrasound"),
        {},
        ("left lung", "right lung", "upper lobe", "lung lobe", "pleura", "thorax"),
    ),
    Concept(
        "nerve",
        ("peripheral nerve", "nerve fascicle", "nerve bundle", "nerve trunk"),
        # Cranial nerves show in brain MRI, the optic disc is the head of the optic nerve, and the
        # electron micrographs come from a nerve cord; breast ultrasound does not resolve nerves.
        ("forearm ultrasound", "brain MRI", "retinal fundus", "electron microscopy", "microscopy"),
        {},
        ("median nerve", "ulnar nerve", "radial nerve", "optic nerve", "nerve cell", "neuron"),
    ),
    Concept(
        "vessel",
        ("blood vessel",),
        # Vessels are visible, and not annotated, in nearly every macroscopic image.
        tuple(m for m in MODALITIES if m != "electron microscopy"),
        {"forearm ultrasound": ("forearm vessel", "forearm blood vessel")},
        ("artery", "vein", "capillary", "vasculature"),
    ),
    Concept(
        "cell membrane",
        (
            "membrane",
            "plasma membrane",
            "cellular membrane",
            "cell boundary",
            "neuron membrane",
            "neuronal membrane",
            "neurite membrane",
        ),
        ("electron microscopy", "microscopy"),
        {},
        ("cell wall", "cell border", "mitochondrial membrane", "nuclear membrane", "cell"),
    ),
    Concept(
        "polyp",
        ("colorectal polyp", "colon polyp", "colonic polyp", "intestinal polyp"),
        ("colonoscopy",),
        related=("adenoma", "gastric polyp", "hyperplastic polyp"),
    ),
    Concept(
        "skin lesion",
        ("lesion", "cutaneous lesion", "lesion of the skin", "pigmented skin lesion"),
        ("dermoscopy",),
        {"dermoscopy": ("pigmented lesion",)},
        ("melanoma", "mole", "nevus", "skin cancer", "skin", "skin tumor"),
    ),
    Concept(
        "retinal vessel",
        (
            "retinal blood vessel",
            "retina vessel",
            "vessel of the retina",
            "retinal vasculature",
            "retinal vascular tree",
            "fundus vessel",
        ),
        ("retinal fundus",),
        {},
        ("retinal artery", "retinal vein", "arteriole", "venule"),
    ),
    # "Left ventricle" also names a lateral ventricle of the brain, and the heart's chambers lie
    # inside the silhouette on a radiograph: unknown in both.
    Concept(
        "right ventricle",
        (
            "rv",
            "right ventricular cavity",
            "rv cavity",
            "right ventricular blood pool",
            "right cardiac ventricle",
            "right ventricle of the heart",
        ),
        ("cardiac MRI", "brain MRI", "chest X-ray"),
        {},
        ("ventricle", "right atrium", "heart"),
    ),
    Concept(
        "left ventricle",
        (
            "lv",
            "left ventricular cavity",
            "lv cavity",
            "left ventricular blood pool",
            "left cardiac ventricle",
            "left ventricle of the heart",
        ),
        ("cardiac MRI", "brain MRI", "chest X-ray"),
        {},
        ("ventricle", "left atrium", "heart"),
    ),
    Concept(
        "myocardium",
        (
            "heart muscle",
            "cardiac muscle",
            "myocardial wall",
            "left ventricular myocardium",
            "lv myocardium",
            "left ventricular wall",
        ),
        ("cardiac MRI", "chest X-ray"),
        {},
        ("heart", "pericardium", "endocardium", "scar", "septum"),
    ),
    Concept(
        "mitochondria",
        ("mitochondrion", "mitochondrial region"),
        ("electron microscopy", "microscopy"),
        {},
        ("organelle", "mitochondrial membrane", "crista"),
    ),
    Concept(
        "synapse",
        ("synaptic junction", "synaptic contact", "synaptic site"),
        ("electron microscopy",),
        {},
        ("synaptic vesicle", "neuron", "synaptic cleft"),
    ),
)

CONCEPTS: Mapping[str, Concept] = MappingProxyType({c.name: c for c in _TABLE})

# In no medical image whatever its modality.
_EVERYDAY = (
    "dog",
    "cat",
    "car",
    "bicycle",
    "house",
    "tree",
    "coffee cup",
    "airplane",
    "guitar",
    "umbrella",
    "keyboard",
    "banana",
    "mountain",
    "traffic light",
)
# Clinical terms, with the modalities in whose images they cannot be ruled out.
_CLINICAL: Mapping[str, tuple[str, ...]] = {
    "bone fracture": ("chest X-ray",),
    "fetal head": (),
    "kidney stone": (),
    "prostate": (),
    "tooth": ("chest X-ray",),
    "knee meniscus": (),
    "thyroid": ("chest X-ray",),
    "liver": ("chest X-ray", "cardiac MRI", "microscopy"),
    "spleen": ("chest X-ray", "cardiac MRI", "microscopy"),
    "optic disc": ("retinal fundus",),
    "gallbladder": ("chest X-ray", "cardiac MRI"),
    "surgical instrument": ("colonoscopy",),
}

DISTRACTORS: tuple[str, ...] = (*_EVERYDAY, *_CLINICAL)
"""Prompts outside the vocabulary that must come back empty; see `distractors_for`."""

# Whole words; applied after lower-casing. Latin and Greek plurals cannot be told by their endings.
_WORDS: Mapping[str, str] = {
    "tumour": "tumor",
    "tumours": "tumor",
    "tumoural": "tumoral",
    "nuclei": "nucleus",
    "nucleuses": "nucleus",
    "mitochondria": "mitochondrion",
    "myocardia": "myocardium",
    "synapsis": "synapse",
    "carcinomata": "carcinoma",
    "metastases": "metastasis",
    "naevus": "nevus",
    "naevi": "nevus",
    "nevi": "nevus",
    "foetal": "fetal",
    "cristae": "crista",
}
_ARTICLES = frozenset({"a", "an", "the"})


def normalise(text: str) -> str:
    """Lower case, no articles in front, no punctuation, single spaces, Unicode NFKC.

    Letters, digits and combining marks of every script are kept, anything else separates words.
    Plural and spelling stay as written. Raises PromptError for a text that is not a string, is
    empty after this, or is longer than `MAX_PROMPT_CHARS` characters.
    """
    if not isinstance(text, str):
        raise PromptError(f"A text prompt must be a string, got {type(text).__name__}: {text!r}.")
    if len(text) > MAX_PROMPT_CHARS:
        raise PromptError(
            f"The text prompt has {len(text)} characters, at most {MAX_PROMPT_CHARS} are read: "
            f"{text[:40]!r}… Name the structure alone, such as 'tumor'."
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


def _singular(word: str) -> str:
    if word in _WORDS:
        return _WORDS[word]
    if len(word) > 3:
        if word.endswith("ies") and len(word) > 4:
            return word[:-3] + "y"
        if word.endswith(("sses", "xes", "ches", "shes")):
            return word[:-2]
    # Two letters and an s: abbreviations such as "LVs".
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _key(text: str) -> str:
    # Checked outside of the cache, which would refuse unhashable input in its own words.
    return _cached_key(text) if isinstance(text, str) else normalise(text)


@lru_cache(maxsize=4096)
def _cached_key(text: str) -> str:
    words = normalise(text).split()
    # Articles inside too: "lesion of the skin".
    inner = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_singular(word) for word in inner)


@lru_cache(maxsize=1)
def _by_key() -> Mapping[str, tuple[str, ...]]:
    table: dict[str, list[str]] = {}
    for concept in CONCEPTS.values():
        for name in concept.names:
            owners = table.setdefault(_key(name), [])
            if concept.name not in owners:
                owners.append(concept.name)
    return {key: tuple(owners) for key, owners in table.items()}


def meanings(text: str) -> tuple[str, ...]:
    """Every concept of `CONCEPTS` that `text` can mean: none, one, or several ("lesion")."""
    return _by_key().get(_key(text), ())


def canonical(text: str, known: Iterable[str] | None = None) -> str | None:
    """The concept that `text` means, or None if it means none, or several, of them.

    known: the names to choose from, e.g. what an adapter was trained on; they need not be in
        `CONCEPTS`. Default: all of `CONCEPTS`. A known name beats a synonym of another concept,
        and a text with several meanings ("lesion") resolves when only one of them is known.
    Case, articles, punctuation, plural and British spelling do not matter.
    """
    names = tuple(CONCEPTS) if known is None else tuple(known)
    key = _key(text)
    for name in names:
        if _key(name) == key:
            return name
    found = [name for name in names if name in _by_key().get(key, ())]
    return found[0] if len(found) == 1 else None


def _similarity(a: str, b: str) -> float:
    words_a, words_b = set(a.split()), set(b.split())
    ratio = difflib.SequenceMatcher(None, a, b).ratio()
    # "left lung" contains all of "lung": a better hint than letters shared with "left ventricle".
    return max(ratio, 0.9) if words_a <= words_b or words_b <= words_a else ratio


def nearest(text: str, known: Iterable[str] | None = None, n: int = 3) -> list[str]:
    """Up to `n` concept names of `known` (default: all) that `text` may have been meant as.

    Best first; compares with the concepts' names, synonyms and related terms. Empty when nothing
    is close.
    """
    key = _key(text)
    scores: list[tuple[float, int, str]] = []
    for order, name in enumerate(tuple(CONCEPTS) if known is None else tuple(known)):
        concept = CONCEPTS.get(name)
        terms = (*concept.names, *concept.related) if concept else (name,)
        scores.append((-max(_similarity(key, _key(term)) for term in terms), order, name))
    return [name for score, _, name in sorted(scores) if score <= -0.6][:n]


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


def distractors_for(modality: str) -> tuple[str, ...]:
    """The members of `DISTRACTORS` that are certainly absent from images of `modality`.

    For a modality outside `MODALITIES` only things of everyday life.
    """
    if modality not in MODALITIES:
        return _EVERYDAY
    return (*_EVERYDAY, *(name for name, seen in _CLINICAL.items() if modality not in seen))
