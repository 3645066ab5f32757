"""`textsam serve`: segmentation over HTTP, and a page to look at it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from textsam.cli.errors import errors_as_exit, usage_error
from textsam.cli.options import Adapter, Device, Model, Precision
from textsam.errors import ConfigError

__all__ = ["serve"]

_MIB = 1024**2


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    model: Model = "lite",
    adapter: Adapter = None,
    device: Device = "auto",
    precision: Precision = "auto",
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with a token clients have to send; or TEXTSAM_TOKEN."),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; further ones are refused.")
    ] = 16,
    timeout_s: Annotated[float, typer.Option(help="Seconds for a request.")] = 60.0,
    max_body_mib: Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")] = 64,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Largest image; default: 25 million pixels.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images per call of the model; default: 1 on a CPU, else 8."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines ask without a token.")
    ] = False,
) -> None:
    """Answer requests on this machine until stopped: POST /segment, and a page in the browser."""
    from textsam.serve.settings import ServeSettings, is_loopback, read_token, server_limits

    with errors_as_exit():
        settings = ServeSettings(
            host=host,
            port=port,
            token=read_token(token_file),
            queue=queue,
            timeout_s=timeout_s,
            max_body_bytes=max_body_mib * _MIB,
            limits=server_limits(max_body_mib * _MIB, max_pixels),
        )
    if settings.token is None and not insecure and not is_loopback(host):
        raise usage_error(
            f"--host {host} lets other machines send images and read answers, and there is no "
            "token; give --token-file or TEXTSAM_TOKEN, or --insecure if that is meant"
        )
    with errors_as_exit():
        server = _server()
        with server.open_listener(settings) as listener:  # before minutes are spent on loading
            from textsam.api import load_model
            from textsam.serve.worker import Worker

            segmenter = load_model(model, adapter, device, precision)
            on_cpu = segmenter.device.type == "cpu"
            size = batch_size if batch_size is not None else 1 if on_cpu else 8
            server.run_server(Worker(segmenter, batch_size=size), settings, listener)


def _server() -> ModuleType:
    """The module that serves.

    Raises:
        ConfigError: the libraries of the extra are not installed.
    """
    try:
        return import_module("textsam.serve.run")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'the server needs {error.name}, which is not installed; pip install "textsam[serve]"'
        ) from error
