"""Files appear whole or not at all, under any name a file system takes."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from textsam.errors import ImageError, OutputError, TextSAMError
from textsam.io.atomic import atomic_path, save_text, told_as, told_as_output, write_json


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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "(No space left on device); free space"),
        (RuntimeError("enforce fail\nat 0x7f"), "(enforce fail); check the folder, its permissi"),
    ],
)
def test_what_keeps_a_file_from_being_written_is_told(
    tmp_path: Path, error: Exception, told: str
) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(OutputError) as caught, told_as_output(target, RuntimeError):
        raise error
    assert str(caught.value).startswith(f"{target}: cannot be written {told}")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("tell", [told_as_output, partial(told_as, ImageError)])
def test_an_error_of_the_system_is_told_through_those_that_wrap_it(
    tmp_path: Path, tell: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """pydicom raises an `OSError` without a number, whose text is a traceback."""
    wrapped = OSError("With tag (7FE0,0010) got exception: [Errno 28] No space\nTraceback: x")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(TextSAMError) as caught, tell(tmp_path / "a.dcm"):
        raise wrapped
    assert "(No space left on device)" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    of = OutputError.of(tmp_path / "a.dcm", caught.value)
    assert str(of) == f"{tmp_path}/a.dcm: cannot be written (No space left on device); free space"


def test_the_first_line_of_an_error_without_a_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, told_as_output(tmp_path / "a"):
        raise OSError("encoder error -2\nTraceback")
    assert str(caught.value).startswith(f"{tmp_path / 'a'}: cannot be written (encoder error -2); ")


@pytest.mark.parametrize("name", ["", "a\0b.png", "."])
def test_what_is_no_name_of_a_file_is_refused(name: str) -> None:
    with pytest.raises(OutputError, match="is no name of a file"):
        save_text(name, "text")


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: save_text(path, "text"), "the file cannot be written (Not a directory); "),
        (lambda path: write_json(path, {}), "cannot be written (Not a directory); give a folder"),
    ],
)
def test_text_and_json_tell_their_failure_themselves(
    tmp_path: Path, write: Callable[[Path], object], told: str
) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "below" / "a.json"
    with pytest.raises(OutputError) as caught:
        write(target)
    assert str(caught.value).startswith(f"{target}: {told}")


@pytest.mark.parametrize(
    "write", [lambda path: save_text(path, ""), lambda path: write_json(path, {})]
)
def test_a_name_that_is_too_long_is_to_be_shortened(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    with pytest.raises(OutputError, match=r"cannot be written \(.+\); give it a shorter name$"):
        write(tmp_path / ("n" * 300))


def test_lines_end_as_the_text_says(tmp_path: Path) -> None:
    assert save_text(tmp_path / "a.csv", "a\r\nb\n").read_bytes() == b"a\r\nb\n"


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a bug"), told_as_output("a.txt"):
        raise RuntimeError("a bug")


def test_json_keeps_names_that_are_no_utf8_and_refuses_numbers_that_are_none(
    tmp_path: Path,
) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"name": "Gefäß \udcff"})
    assert "Gefäß" in target.read_text(encoding="utf-8")
    assert json.loads(target.read_text(encoding="utf-8")) == {"name": "Gefäß \udcff"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"dice": float("nan")})
    assert json.loads(target.read_text(encoding="utf-8")) == {"name": "Gefäß \udcff"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
