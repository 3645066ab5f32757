"""Errors and warnings become a line on standard error each; bugs keep their traceback."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from textsam.errors import OutputError, TextSAMError, TextSAMWarning

__all__ = [
    "EXIT_FAILED",
    "EXIT_USAGE",
    "check_out",
    "errors_as_exit",
    "refuse_without_use",
    "usage_error",
]

EXIT_FAILED = 1
EXIT_USAGE = 2


@contextmanager
def errors_as_exit(*, goes_on: bool = False) -> Iterator[list[str]]:
    """Turn a `TextSAMError` into its message and exit code 1, and textsam's warnings into lines.

    A warning is said once, whatever is asked how often.

    Args:
        goes_on: the same command takes up what an interrupted one has done, and Ctrl-C says so.

    Yields:
        The messages of the warnings so far, in order.
    """
    said: list[str] = []
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, TextSAMWarning):
            before(message, category, *where, **more)
        elif (text := str(message)) not in said:
            said.append(text)
            typer.echo(f"warning: {text}", err=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", TextSAMWarning)
            warnings.showwarning = show
            yield said
    except TextSAMError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from error
    except KeyboardInterrupt:
        if goes_on:
            typer.echo("interrupted; the same command goes on", err=True)
        raise


def check_out(folder: Path) -> None:
    """Refuse a folder to write into that is none, before there is anything to write.

    Raises:
        typer.Exit: it is a file, or cannot be made or written into; exit code 2.
    """
    from textsam.io.out_folder import check_out_folder

    try:
        check_out_folder(folder)
    except OutputError as error:
        raise usage_error(f"-o {error}") from error


def refuse_without_use(context: typer.Context, reason: str, *names: str) -> None:
    """Refuse options that were given and would have no say, rather than drop them.

    Args:
        context: of the call. An option that was not given is never refused, whatever its default.
        reason: why they would have no say.
        names: the parameters, as the command's function calls them.

    Raises:
        typer.Exit: one of them was given; exit code 2.
    """
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            option = parameter.param_type_name == "option"
            given.append(parameter.opts[0] if option else (parameter.name or "").upper())
    if given:
        raise usage_error(f"{reason}; leave out {', '.join(given)}")


def usage_error(message: str) -> typer.Exit:
    """Say what is wrong with the call; raise the result: exit code 2."""
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(EXIT_USAGE)
