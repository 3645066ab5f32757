"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer import rich_utils


@pytest.fixture(scope="session", autouse=True)
def without_forced_colours() -> Iterator[None]:
    """Output is compared as text, also where the environment wants colours without a terminal."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("FORCE_COLOR", "PY_COLORS"):
            patched.delenv(name, raising=False)
        # Typer has asked the environment when it was imported.
        patched.setattr(rich_utils, "FORCE_TERMINAL", None)
        yield
