"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from typer import rich_utils

if TYPE_CHECKING:
    from fake_pacs import Fake


@pytest.fixture(scope="session", autouse=True)
def without_forced_colours() -> Iterator[None]:
    """Output is compared as text, also where the environment wants colours without a terminal."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("FORCE_COLOR", "PY_COLORS"):
            patched.delenv(name, raising=False)
        # Typer has asked the environment when it was imported.
        patched.setattr(rich_utils, "FORCE_TERMINAL", None)
        yield


@pytest.fixture
def fake() -> Iterator[Fake]:
    """An archive that answers what the test says."""
    from fake_pacs import fake_server

    with fake_server() as server:
        yield server


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Nothing of the surroundings reaches an archive; how long clients would have paused."""
    from fake_pacs import clean_surroundings

    with clean_surroundings(monkeypatch) as kept:
        yield kept
