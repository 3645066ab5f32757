"""Names that data give to what their masks show, and the words of an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from textsam.data.named import named_by, words_of
from textsam.data.sample import Sample, Target
from textsam.prompts import CONCEPTS, canonical, canonical_key


def sample(*concepts: str, absent: tuple[str, ...] = ()) -> Sample:
    targets = tuple(Target(concept, Path(f"{concept}.png")) for concept in concepts)
    return Sample("set", "breast ultrasound", "1", Path("1.png"), targets, absent)


@pytest.mark.parametrize(
    ("spellings", "word"),
    [
        (("Tumours", "tumor", "tumour"), "tumor"),
        (("tumor", "Tumours"), "tumor"),
        (("Zebra fish", "zebra fishes"), "Zebra fish"),
    ],
)
def test_of_several_spellings_it_is_the_one_with_synonyms(
    spellings: tuple[str, ...], word: str
) -> None:
    own = [sample(spelling, "cyst") for spelling in spellings]
    assert words_of(own) == (word, "cyst")
    assert {target.concept for one in named_by(own, (word, "cyst")) for target in one.targets} == {
        word,
        "cyst",
    }


def test_no_two_concepts_are_spellings_of_one_word() -> None:
    assert len({canonical_key(name) for name in CONCEPTS}) == len(CONCEPTS)


def test_a_synonym_is_the_word_where_it_is_shown_and_not_where_it_is_absent() -> None:
    assert canonical("breast mass", ("tumor",)) == "tumor"
    shown = sample("breast mass", absent=("the cysts", "cyst", "scar"))
    (named,) = named_by([shown], ("tumor", "cyst"))
    assert [target.concept for target in named.targets] == ["tumor"]
    assert named.absent == ("cyst", "scar")
    # That there is no mass does not say that there is no tumor.
    (named,) = named_by([sample("cyst", absent=("breast mass",))], ("tumor", "cyst"))
    assert named.absent == ("breast mass",)
