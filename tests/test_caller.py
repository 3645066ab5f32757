"""Warnings name the line of whoever called the package, however deep they are raised."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_segmenter

from textsam import api
from textsam.caller import warn_caller
from textsam.spelling import UnknownPromptWarning


def run_as(module: str, source: str, **names: object) -> dict[str, object]:
    """What code leaves that is run as if it stood in a module of this name."""
    space: dict[str, object] = {"__name__": module, **names}
    exec(compile(source, f"{module}.py", "exec"), space)
    return space


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_the_line_outside_the_package_is_named(depth: int) -> None:
    inner = """
def g(n=depth):
    g(n - 1) if n else warn("what is that?", Unknown)
"""
    names = {"warn": warn_caller, "Unknown": UnknownPromptWarning, "depth": depth}
    g = run_as("textsam.deep", inner, **names)["g"]
    with pytest.warns(UnknownPromptWarning) as seen:
        run_as("theirs", "\n\ng()", g=g)
    assert [(w.filename, w.lineno) for w in seen] == [("theirs.py", 3)]


def test_a_package_whose_name_begins_alike_is_outside() -> None:
    with pytest.warns(UnknownPromptWarning) as seen:
        run_as("textsam_tools", "warn('?', C)", warn=warn_caller, C=UnknownPromptWarning)
    assert [w.filename for w in seen] == ["textsam_tools.py"]


def test_each_line_that_calls_segment_shows_its_own_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter, image = tiny_segmenter(), np.zeros((40, 56, 3), np.uint8)
    monkeypatch.setattr(api, "_kept", lambda *_: segmenter)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")  # once per line, as for users
        for _ in range(2):
            api.segment(image, "dog")
        api.segment(image, "dog")
    assert [Path(w.filename).name for w in seen] == ["test_caller.py"] * 2
    assert seen[0].lineno != seen[1].lineno
