"""A server as a process of its own: starting, refusing to start, and stopping in good order."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from serving import TOKEN, multipart, png, wait_until
from tiny import tiny_segmenter
from typer.testing import CliRunner

from textsam.cli import app
from textsam.errors import ConfigError
from textsam.serve.run import open_listener, run_server
from textsam.serve.settings import ServeSettings
from textsam.serve.worker import Worker

TESTS = Path(__file__).parent

# A tiny model whose batches wait for a line each.
DRIVER = """
import sys
from tiny import tiny_segmenter
from textsam.serve.run import open_listener, run_server
from textsam.serve.settings import ServeSettings
from textsam.serve.worker import Worker

class Held:
    def __init__(self, segmenter):
        self._segmenter = segmenter
    def __getattr__(self, name):
        return getattr(self._segmenter, name)
    def segment_batch(self, *rest, **options):
        sys.stdin.readline()
        yield from self._segmenter.segment_batch(*rest, **options)

worker = Worker(Held(tiny_segmenter()))
settings = ServeSettings(port=0, timeout_s=240)
run_server(worker, settings, open_listener(settings))
"""


@contextmanager
def process(log: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server, and the port it says it listens on; what it says goes into a file."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    with log.open("wb") as file:
        running = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        wait_until(lambda: port_in(log) > 0 or running.poll() is not None, 400)
        port = port_in(log)
        assert port, log.read_text(encoding="utf-8")
        wait_until(lambda: health(port) is not None or running.poll() is not None)
        yield running, port
    finally:
        running.kill()
        running.communicate()


def port_in(log: Path) -> int:
    """0 while the server has not said it."""
    said = re.search(r"listening on http://127\.0\.0\.1:(\d+)\n", log.read_text(encoding="utf-8"))
    return int(said[1]) if said else 0


def health(port: int) -> dict[str, Any] | None:
    """None when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", "/health")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    except ConnectionError:
        return None
    finally:
        connection.close()


def ask(port: int, seed: int, statuses: list[int]) -> None:
    body, kind = multipart(png(seed), ["tumor"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
    connection.request("POST", "/segment", body, {"Content-Type": kind})
    response = connection.getresponse()
    if json.loads(response.read())["results"][0]["area_px"] > 0:
        statuses.append(response.status)
    connection.close()


@pytest.mark.slow
def test_sigterm_finishes_what_was_taken_and_exits_0(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def taken(port: int) -> bool:
        """One is in work, two wait."""
        told = health(port)
        assert told is not None
        return (told["queue"]["working"], told["queue"]["waiting"]) == (1, 2)

    with process(log) as (running, port):
        statuses: list[int] = []
        clients = [threading.Thread(target=ask, args=(port, n, statuses)) for n in range(3)]
        for client in clients:
            client.start()
        wait_until(lambda: taken(port))
        running.send_signal(signal.SIGTERM)
        wait_until(lambda: health(port) is None)
        with pytest.raises(ConnectionError):
            ask(port, 9, [])
        assert statuses == []
        running.communicate("\n" * 3, timeout=240)
        for client in clients:
            client.join(240)
        assert statuses == [200] * 3
        errors = log.read_text(encoding="utf-8")
        assert running.returncode == 0, errors
        assert errors.count("POST /segment 200") == 3
        assert "Traceback" not in errors


def test_the_folder_for_uploads_goes_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def serve(app: FastAPI, *_: object) -> None:
        assert app.state.folder.is_dir()
        seen.append(app.state.folder)

    monkeypatch.setattr("textsam.serve.run._serve", serve)
    with open_listener(ServeSettings(port=0)) as listener:
        run_server(Worker(tiny_segmenter()), ServeSettings(port=0), listener)
    (folder,) = seen
    assert not folder.exists()


def test_no_place_for_uploads_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TEXTSAM_TOKEN", raising=False)
    monkeypatch.setattr("textsam.api.load_model", lambda *_: tiny_segmenter())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    result = CliRunner().invoke(app, ["serve", "--port", "0"])
    assert result.exit_code == 1, result.output
    assert "the folder for uploads cannot be made" in result.output
    assert "TMPDIR" in result.output


def test_a_taken_port_is_said_before_anything_is_loaded() -> None:
    # Nobody has asked the other server yet: it may still be loading its model.
    with open_listener(ServeSettings(port=0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", "--port", str(port)])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in result.output


def test_a_taken_port_is_not_shared_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    # There SO_REUSEADDR lets a second server listen on the same port.
    monkeypatch.setattr(sys, "platform", "win32")
    with open_listener(ServeSettings(port=0)) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0


def test_localhost_can_be_asked_as_127_0_0_1(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    for host in ("localhost", "LocalHost"):
        with open_listener(ServeSettings(host=host, port=0)) as listener:
            assert listener.getsockname()[0] == "127.0.0.1"


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.7"):
        open_listener(ServeSettings(host="192.0.2.7"))
    for host in ("a..b", "x" * 80):
        with pytest.raises(ConfigError, match=f"cannot listen on {host}, .*name of a machine"):
            open_listener(ServeSettings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "scanner.example"])
def test_other_hosts_need_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTSAM_TOKEN", raising=False)
    result = CliRunner().invoke(app, ["serve", "--host", host])
    assert result.exit_code == 2
    assert "--insecure" in result.output
    assert "--token-file" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--timeout-s", "0"], "timeout_s is 0"),
        (["--token-file", "nowhere/token"], "cannot be read"),
        (["--port", "0", "--model", "vit_x"], "vit_x"),
    ],
)
def test_wrong_settings_end_with_1(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 1, result.output
    assert message in result.output


def test_options_reach_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[Worker, ServeSettings]] = []
    loaded: list[tuple[object, ...]] = []

    def serve(worker: Worker, settings: ServeSettings, listener: socket.socket) -> None:
        seen.append((worker, settings))
        assert listener.getsockname()[0] == "0.0.0.0"

    def load(*given: object) -> object:
        loaded.append(given)
        return tiny_segmenter()

    monkeypatch.setattr("textsam.api.load_model", load)
    monkeypatch.setattr("textsam.serve.run.run_server", serve)
    token = tmp_path / "token"
    token.write_text(TOKEN, encoding="utf-8")
    result = CliRunner().invoke(
        app,
        ["serve", "--host", "0.0.0.0", "--port", "0", "--token-file", str(token), "--queue", "3",
         "--timeout-s", "7", "--max-body-mib", "2", "--max-pixels", "999", "--batch-size", "5",
         "--adapter", "own", "--device", "cpu", "--precision", "float32"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert loaded == [("lite", "own", "cpu", "float32")]
    ((worker, settings),) = seen
    assert worker.batch_size == 5
    assert (settings.host, settings.port, settings.token) == ("0.0.0.0", 0, TOKEN)
    assert (settings.queue, settings.timeout_s, settings.max_body_bytes) == (3, 7.0, 2 * 1024**2)
    assert (settings.limits.max_pixels, settings.limits.max_bytes) == (999, 2 * 1024**2)


def test_insecure_is_possible_and_a_cpu_takes_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    monkeypatch.delenv("TEXTSAM_TOKEN", raising=False)
    monkeypatch.setattr("textsam.api.load_model", lambda *_: tiny_segmenter())

    def serve(worker: Worker, _: ServeSettings, listener: socket.socket) -> None:
        sizes.append(worker.batch_size)

    monkeypatch.setattr("textsam.serve.run.run_server", serve)
    result = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--port", "0", "--insecure"])
    assert result.exit_code == 0, result.output
    assert sizes == [1]


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "textsam.serve.run")
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 1
    assert 'pip install "textsam[serve]"' in result.output
    assert "uvicorn" in result.output
