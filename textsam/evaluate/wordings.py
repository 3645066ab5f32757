"""The ways people write a concept's name, for measuring whether the word's form matters."""

from __future__ import annotations

from textsam.evaluate.faithfulness_rows import Wording
from textsam.prompts import CONCEPTS

__all__ = ["wordings"]

_BRITISH = {"tumor": "tumour", "neuron": "neurone"}
_PLURALS = {"nucleus": "nuclei", "myocardium": "myocardia", "mitochondrion": "mitochondria"}


def wordings(concept: str, modality: str) -> dict[str, Wording]:
    """Text -> how it differs from the concept's name, which is not among them.

    Args:
        concept: a name, in `CONCEPTS` or not.
        modality: kind of image; synonyms are those that are true in it.

    Returns:
        Each text once, under the first kind that gives it.
    """
    known = CONCEPTS.get(concept)
    texts: dict[str, Wording] = {}
    for name in known.names_in(modality)[1:] if known is not None else ():
        texts[name] = "synonym"
    words = concept.split()
    british = " ".join(_BRITISH.get(word, word) for word in words)
    article = "an" if concept[0].lower() in "aeiou" else "a"
    forms: dict[str, Wording] = {
        british: "British",
        " ".join((*words[:-1], _plural(words[-1]))): "plural",
        concept.upper(): "upper case",
        f"{article} {concept}": "article",
        f"the {concept}": "article",
    }
    for text, wording in forms.items():
        if text != concept:
            texts.setdefault(text, wording)
    return texts


def _plural(word: str) -> str:
    if word in _PLURALS.values() or (word.endswith("s") and word not in _PLURALS):
        return word
    if word.endswith(("sh", "ch", "x")):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return f"{word[:-1]}ies"
    return _PLURALS.get(word, f"{word}s")
