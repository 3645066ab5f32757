"""`textsam`: one command per thing people do; each imports what it needs when it runs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from textsam import __version__
from textsam.cli import data as data_commands
from textsam.cli import weights as weights_commands
from textsam.cli.ablate import ablate
from textsam.cli.errors import errors_as_exit
from textsam.cli.evaluate import evaluate
from textsam.cli.export import export
from textsam.cli.pacs import pacs
from textsam.cli.saliency import saliency
from textsam.cli.segment import segment
from textsam.cli.serve import serve
from textsam.cli.streams import Commands
from textsam.cli.train import average, calibrate, convert, train

__all__ = ["app"]

app = typer.Typer(
    name="textsam",
    cls=Commands,
    help="Segment medical images by words. Not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(weights_commands.app, name="weights")
app.add_typer(data_commands.app, name="data")
app.command()(segment)
app.command()(train)
app.command()(evaluate)
app.command()(ablate)
app.command()(average)
app.command()(calibrate)
app.command()(convert)
app.command()(saliency)
app.command()(pacs)
app.command()(export)
app.command()(serve)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"textsam {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def prompts(
    adapter: Annotated[
        str, typer.Option(help="Name of a shipped adapter, or an adapter folder.")
    ] = "generalist",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show what an adapter knows, with the synonyms it answers to."""
    from textsam.adapters import find_adapter, read_adapter_config
    from textsam.prompts import synonyms

    with errors_as_exit():
        config = read_adapter_config(find_adapter(adapter))
    known = synonyms(config.prompts)
    if as_json:
        typer.echo(json.dumps({"adapter": config.name, "prompts": known}, indent=2))
        return
    for name, others in known.items():
        typer.echo(f"{name}: {', '.join(others)}" if others else name)


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show the presets, their parts, whether their weights are here, and the shipped adapters."""
    from textsam import weights
    from textsam.adapters import read_adapter_config, shipped_adapters
    from textsam.presets import PRESETS

    with errors_as_exit():
        adapters = {
            name: read_adapter_config(folder) for name, folder in shipped_adapters().items()
        }
        rows = []
        for info in PRESETS.values():
            parts = (info.image_weights, info.text_weights)
            own = [name for name, config in adapters.items() if config.preset == info.name]
            here = all(weights.locate(name) is not None for name in parts)
            rows.append((info, here, own))
    if as_json:
        listed = [
            {
                "preset": info.name,
                "image_encoder": info.image_encoder,
                "text_encoder": info.text_encoder,
                "weights_here": here,
                "default_adapter": info.default_adapter,
                "adapters": own,
            }
            for info, here, own in rows
        ]
        typer.echo(json.dumps(listed, indent=2))
        return
    for info, here, own in rows:
        typer.echo(f"{info.name}: {info.image_encoder} + {info.text_encoder}")
        state = "weights here" if here else "weights missing"
        typer.echo(f"    {state}; adapters: {', '.join(own) or 'none shipped'}")
