"""Standard output and error, of which every command tells alike that they take nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

import typer
from typer.core import TyperGroup

from textsam.cli.errors import EXIT_FAILED
from textsam.errors import OutputError, TextSAMError

__all__ = ["Commands", "say"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_Done = TypeVar("_Done")


class _Stream:
    """A text stream that tells where it takes nothing, such as a file on a full disk.

    What its encoding has no characters for, such as bytes in a file's name, it shows by number. It
    has no `buffer`: what is written past it would not be told.

    Args:
        stream: what is written to.
        name: what a message calls it.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream = stream
        self.broken = False
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, as a stream does."""
        return self._told(lambda: self._written(text))

    def flush(self) -> None:
        """Flush; once something was lost there is nothing more to say of the rest."""
        if not self.broken:
            self._told(self.stream.flush)

    def _written(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except UnicodeEncodeError as error:
            return self.stream.write(
                text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            )

    def _told(self, do: Callable[[], _Done]) -> _Done:
        try:
            return do()
        except OSError as error:
            self.broken = True
            if isinstance(error, BrokenPipeError):
                raise  # nobody reads any more: the command ends without a word
            raise OutputError.of(Path(self._name), error) from error


@contextmanager
def _told_streams() -> Iterator[None]:
    """Let standard output and error be such streams while a command runs.

    One that broke stays: Python flushes it once more at the end of the process.
    """
    before = sys.stdout, sys.stderr
    out = _Stream(before[0], "standard output")
    err = _Stream(before[1], "standard error")
    # A stream that whoever started the process has closed is None.
    sys.stdout = before[0] and cast(TextIO, out)
    sys.stderr = before[1] and cast(TextIO, err)
    try:
        yield
    finally:
        if not out.broken:
            sys.stdout = before[0]
        if not err.broken:
            sys.stderr = before[1]


class Commands(TyperGroup):
    """Commands of which none ends with a traceback because its streams take nothing."""

    def main(self, *arguments: Any, **others: Any) -> Any:
        """Run the command that the arguments name, and end the process with its exit code."""
        with _told_streams():
            try:
                return super().main(*arguments, **others)
            except TextSAMError as error:
                # Of standard error itself there is nowhere to say it.
                with suppress(OutputError, BrokenPipeError):
                    typer.echo(f"error: {error}", err=True)
        if others.get("standalone_mode", True):
            sys.exit(EXIT_FAILED)
        return EXIT_FAILED


def say(text: str, *, err: bool = False) -> None:
    """Print a line with what others named in it: line ends and orders to a terminal as numbers.

    Args:
        text: the line.
        err: print it on standard error.
    """
    typer.echo(_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text), err=err)
