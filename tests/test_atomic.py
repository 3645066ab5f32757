"""Files appear whole or not at all, under any name a file system takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from textsam.io.atomic import atomic_path


@pytest.mark.parametrize("name", ["a.png", "n" * 251 + ".png", "ü" * 125 + ".png", ".hidden"])
def test_any_legal_name_can_be_written(tmp_path: Path, name: str) -> None:
    target = tmp_path / "new" / name
    for text in ("first", "second"):
        with atomic_path(target, suffix=".png") as temporary:
            assert temporary.suffix == ".png"
            assert temporary.name.startswith(".")
            temporary.write_text(text)
            assert not target.exists() or target.read_text() == "first"
        assert target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == [name]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
