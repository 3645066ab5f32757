"""Errors become one line on standard error and an exit code; bugs keep their traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from textsam.errors import TextSAMError

__all__ = ["EXIT_FAILED", "EXIT_USAGE", "errors_as_exit", "usage_error"]

EXIT_FAILED = 1
EXIT_USAGE = 2


@contextmanager
def errors_as_exit() -> Iterator[None]:
    """Turn a `TextSAMError` into its message and exit code 1."""
    try:
        yield
    except TextSAMError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from error


def usage_error(message: str) -> typer.Exit:
    """Say what is wrong with the call; raise the result: exit code 2."""
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(EXIT_USAGE)
