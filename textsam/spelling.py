"""One slip of the finger: the concept that a misspelt text was meant as, if that is beyond doubt.

Medical words lie close together, and a wrong organ is worse than no answer. So a text is corrected
only where one word of it, of `MIN_LETTERS` or more, is one edit away from a word of a known name
with the same first letter, where no other known concept is as near, and where the word as typed is
not itself a word of the vocabulary, of `NEAR_WORDS` or of `textsam.false_friends`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from textsam.errors import TextSAMWarning
from textsam.false_friends import FALSE_FRIENDS, opposites
from textsam.prompts import (
    CONCEPTS,
    DISTRACTORS,
    canonical,
    canonical_key,
    meanings,
    nearest,
    normalise,
    spellings,
)
from textsam.vocabulary import NEAR_WORDS

__all__ = [
    "MIN_LETTERS",
    "CorrectedPromptWarning",
    "UnknownPromptWarning",
    "corrected",
    "one_edit_apart",
    "unknown_message",
]

# Of the word as typed and as meant: shorter ones have too many neighbours ("vein", "lung").
MIN_LETTERS = 5


class UnknownPromptWarning(TextSAMWarning):
    """A prompt that the adapter was not trained for: its answer is a guess."""


class CorrectedPromptWarning(UnknownPromptWarning):
    """A misspelt prompt, answered as the concept it was most likely meant as."""


def unknown_message(adapter: str, asked: str, known: Iterable[str], *, answered: bool) -> str:
    """What to say of a prompt that the adapter does not know.

    Args:
        adapter: name of the adapter.
        asked: the prompt as given.
        known: what can be asked.
        answered: a misspelt prompt is answered as what was meant; False if it is refused.
    """
    names = tuple(known)
    meant = corrected(asked, names)
    close = [meant] if meant is not None else nearest(asked, names)
    several = [name for name in meanings(asked) if name in names]
    if len(several) > 1:
        hint = f"it can mean {' or '.join(several)}: ask for one of them. The adapter"
    elif meant is not None and answered:
        hint = f"it is answered as {meant!r}, of which it seems a misspelling. The adapter"
    else:
        hint = f"did you mean {', '.join(close)}? It" if close else "it"
    return (
        f"the adapter {adapter!r} was not trained for the prompt {asked!r}; {hint} knows: "
        f"{', '.join(names)}"
    )


def one_edit_apart(a: str, b: str) -> bool:
    """Whether one inserted, left out, replaced or transposed neighbouring letter makes `a` `b`.

    False for equal words.
    """
    if len(a) > len(b):
        a, b = b, a
    if a == b or len(b) - len(a) > 1:
        return False
    start = next((i for i in range(len(a)) if a[i] != b[i]), len(a))
    rest_a, rest_b = a[start:], b[start:]
    if len(a) < len(b):
        return rest_a == rest_b[1:]
    transposed = rest_a[:2] == rest_b[1::-1] and rest_a[2:] == rest_b[2:]
    return rest_a[1:] == rest_b[1:] or transposed


def corrected(text: str, known: Iterable[str]) -> str | None:
    """The known concept that `text` is a misspelling of, or None.

    Args:
        text: a prompt that `canonical` does not resolve; one that it does, or that means something
            in the vocabulary, such as a related term or a distractor, gives None.
        known: names to choose from, e.g. what an adapter was trained for.

    Returns:
        The concept's name, if a single one is near; see above.

    Raises:
        PromptError: the text is empty or too long.
    """
    return _corrected(normalise(text), tuple(known))


@lru_cache(maxsize=1024)
def _corrected(text: str, known: tuple[str, ...]) -> str | None:
    if canonical(text, known) is not None or meanings(text) or canonical_key(text) in _terms():
        return None
    readings = {text, canonical_key(text)}
    names = dict.fromkeys((*known, *(n for c in CONCEPTS.values() for n in c.names)))
    near = [n for n in names if any(_slip(r, s) for r in readings for s in spellings(n))]
    # What is as near to a concept that the adapter does not know is not taken for one it does.
    meant = {canonical(name, known) for name in near}
    return meant.pop() if len(meant) == 1 else None


def _slip(typed: str, name: str) -> bool:
    words, wanted = typed.split(), name.split()
    if len(words) != len(wanted):
        return False
    wrong = [(a, b) for a, b in zip(words, wanted, strict=True) if a != b]
    if len(wrong) != 1:
        return False
    (a, b) = wrong[0]
    return (
        min(len(a), len(b)) >= MIN_LETTERS
        and a[0] == b[0]
        and one_edit_apart(a, b)
        and _real_words().isdisjoint((a, canonical_key(a)))
        and not opposites(canonical_key(a), canonical_key(b))
    )


@lru_cache(maxsize=1)
def _terms() -> frozenset[str]:
    """Keys of all that the vocabulary lists without resolving it."""
    related = (term for concept in CONCEPTS.values() for term in concept.related)
    return frozenset(canonical_key(term) for term in (*related, *DISTRACTORS))


@lru_cache(maxsize=1)
def _real_words() -> frozenset[str]:
    """Words that are right as they stand."""
    names = (name for concept in CONCEPTS.values() for name in concept.names)
    listed = (word for name in names for form in spellings(name) for word in form.split())
    others = (word for term in _terms() for word in term.split())
    return frozenset((*listed, *others, *NEAR_WORDS, *FALSE_FRIENDS))
