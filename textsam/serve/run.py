"""Run a server until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import warnings
from types import FrameType

import python_multipart  # noqa: F401  # FastAPI needs it, and says so later and less clearly
import uvicorn
from fastapi import FastAPI

from textsam.errors import ConfigError
from textsam.serve.app import create_app
from textsam.serve.settings import ServeSettings
from textsam.serve.upload import upload_folder
from textsam.serve.worker import Worker

__all__ = ["open_listener", "run_server"]

_LOG = logging.getLogger("textsam.serve")

# Connections beyond those whose requests have a place: pages, health checks, refusals under way.
_FURTHER_CONNECTIONS = 256
# Answering what was taken may need a little longer than the time-out of a request.
_GRACE_S = 5


def open_listener(settings: ServeSettings) -> socket.socket:
    """Take the address; connections made from now on are accepted once the server runs.

    Raises:
        ConfigError: the address is taken, not this machine's, or not allowed.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        # Where localhost is ::1 first, who tries 127.0.0.1 alone would find nobody; who tries ::1
        # first goes on to the other.
        found.sort(
            key=lambda entry: settings.host.lower() == "localhost" and entry[0] != socket.AF_INET
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # A port whose last connections are still closing down is free. On Windows it is without
            # this, and with it so is one that another server listens on.
            if sys.platform != "win32":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            # Two that are merely bound share a port without a word.
            listener.listen()
        except OSError:
            listener.close()
            raise
    except (OSError, ValueError) as error:  # ValueError: no name of a machine can look like this
        why = error.strerror if isinstance(error, OSError) else "not the name of a machine"
        raise ConfigError(
            f"cannot listen on {settings.host}, port {settings.port}: {why}; choose another with "
            "--host or --port"
        ) from error
    return listener


def run_server(worker: Worker, settings: ServeSettings, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, finish what was taken, and return.

    For a process of its own: sets up logging to standard error, and silences warnings and messages
    of libraries, which quote values of the files they read.

    Args:
        worker: owns a loaded model; not started yet.
        settings: how to behave.
        listener: from `open_listener`.

    Raises:
        ConfigError: there is no place for uploads.
    """
    # Here and not when uvicorn starts the application: its answer to an error is a traceback.
    with upload_folder() as folder:
        _serve(create_app(worker, settings, folder), worker, settings, listener)


def _serve(app: FastAPI, worker: Worker, settings: ServeSettings, listener: socket.socket) -> None:
    _quiet_libraries()
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=_LOGGING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.queue + worker.batch_size + _FURTHER_CONNECTIONS,
        timeout_graceful_shutdown=int(settings.timeout_s) + _GRACE_S,
    )
    # Having shut down, uvicorn raises the signal again for whoever had a handler before it. Without
    # one the process would be killed by it after all, and not exit with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _already_handled)
    _LOG.info("listening on %s", _address(listener))
    uvicorn.Server(config).run(sockets=[listener])


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _already_handled(_number: int, _frame: FrameType | None) -> None:
    return


def _quiet_libraries() -> None:
    warnings.simplefilter("ignore")
    # Without any handler Python prints warnings of every library's logger to standard error.
    logging.getLogger().addHandler(logging.NullHandler())


_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "stream": "ext://sys.stderr",
        }
    },
    "loggers": {
        "textsam.serve": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
