"""Clinical words one letter apart that are both right: neither is a misspelling of the other."""

from __future__ import annotations

__all__ = ["FALSE_FRIENDS", "opposites"]

# Pairs of five letters or more with the same first letter; others are never taken for a slip.
_PAIRS = (
    ("abductor", "adductor"),
    ("ankle", "angle"),
    ("brachial", "branchial"),
    ("branchial", "bronchial"),
    ("cornea", "cornua"),
    ("dermoid", "desmoid"),
    ("facial", "fascial"),
    ("fecal", "fetal"),
    ("fecal", "focal"),
    ("fibril", "fibrin"),
    ("genial", "genital"),
    ("gland", "glans"),
    ("hematoma", "hepatoma"),
    ("humeral", "humoral"),
    ("ileum", "ilium"),
    ("inferior", "interior"),
    ("labial", "labral"),
    ("labium", "labrum"),
    ("lingual", "lingula"),
    ("macula", "macule"),
    ("malar", "molar"),
    ("medial", "median"),
    ("medial", "mesial"),
    ("myoma", "myxoma"),
    ("nasal", "natal"),
    ("perineal", "peroneal"),
    ("plague", "plaque"),
    ("rectum", "rectus"),
    ("stoma", "stroma"),
    ("stroma", "struma"),
    ("tendon", "tenon"),
    ("trapezium", "trapezius"),
    ("ureteral", "urethral"),
    ("valvar", "vulvar"),
)

FALSE_FRIENDS = frozenset(word for pair in _PAIRS for word in pair)
"""Words that are right as they stand, whatever they are one letter away from."""

# Parts of many words, at their beginning or end: osteoblast and osteoclast, microadenoma and
# macroadenoma, intraorbital and infraorbital.
_BEGINNINGS = (("micro", "macro"), ("intra", "infra"))
_ENDINGS = (("blast", "clast"),)


def opposites(typed: str, name: str) -> bool:
    """Whether two words differ by nothing but a part, or a digit of the name, that parts them.

    Args:
        typed: a word as typed, in the singular. What has a digit too many may be a slip.
        name: a word of a known name, in the singular; its digits are part of what it names.
    """
    for one, other in ((typed, name), (name, typed)):
        if any(one.startswith(a) and other == b + one.removeprefix(a) for a, b in _BEGINNINGS):
            return True
        if any(one.endswith(a) and other == one.removesuffix(a) + b for a, b in _ENDINGS):
            return True
    digits = [letter for letter in name if letter.isdigit()]
    return bool(digits) and digits != [letter for letter in typed if letter.isdigit()]
