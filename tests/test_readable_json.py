"""JSON for people: rows of numbers on a line, and nothing else changed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from textsam.io.readable_json import readable_json

CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), CONTENT))
def test_it_says_the_same(content: dict[str, Any]) -> None:
    assert json.loads(readable_json(content)) == content


def test_rows_of_numbers_stand_on_a_line() -> None:
    content = {
        "rows": [[1, 2.5], [3, -4e-9]],
        "words": ["[\\n 1,\\n 2 ]"],
        "none": [],
        "mixed": [None, True, 7],
    }
    assert (
        readable_json(content)
        == """{
  "rows": [
    [1, 2.5],
    [3, -4e-09]
  ],
  "words": [
    "[\\\\n 1,\\\\n 2 ]"
  ],
  "none": [],
  "mixed": [null, true, 7]
}"""
    )
