"""A server as a process of its own: starting, refusing to start, and stopping in good order."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import TOKEN, multipart, png, wait_until
from tiny import tiny_segmenter
from typer.testing import CliRunner

from textsam.cli import app
from textsam.errors import ConfigError
from textsam.serve.run import open_listener
from textsam.serve.settings import ServeSettings
from textsam.serve.worker import Worker

TESTS = Path(__file__).parent

# A tiny model whose batches take as long as they are told to.
DRIVER = """
import sys, time
from tiny import tiny_segmenter
from textsam.serve.run import open_listener, run_server
from textsam.serve.settings import ServeSettings
from textsam.serve.worker import Worker

class Slow:
    def __init__(self, segmenter, seconds):
        self._segmenter, self._seconds = segmenter, seconds
    def __getattr__(self, name):
        return getattr(self._segmenter, name)
    def segment_batch(self, *rest, **options):
        time.sleep(self._seconds)
        yield from self._segmenter.segment_batch(*rest, **options)

worker = Worker(Slow(tiny_segmenter(), float(sys.argv[1])))
settings = ServeSettings(port=int(sys.argv[2]))
run_server(worker, settings, open_listener(settings))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(seconds: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    running = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(seconds), str(port)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: health(port) or running.poll() is not None, 120)
        yield running, port
    finally:
        running.kill()
        running.communicate()


def health(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return bool(json.loads(connection.getresponse().read())["ready"])
    except (ConnectionError, TimeoutError):
        return False
    finally:
        connection.close()


def ask(port: int, seed: int, statuses: list[int]) -> None:
    body, kind = multipart(png(seed), ["tumor"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/segment", body, {"Content-Type": kind})
    response = connection.getresponse()
    if json.loads(response.read())["results"][0]["area_px"] > 0:
        statuses.append(response.status)
    connection.close()


@pytest.mark.slow
def test_sigterm_finishes_what_was_taken_and_exits_0() -> None:
    with process(0.7) as (running, port):
        statuses: list[int] = []
        clients = [threading.Thread(target=ask, args=(port, n, statuses)) for n in range(3)]
        for client in clients:
            client.start()
        time.sleep(0.4)  # one is in work, two wait
        running.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(ConnectionError):
            ask(port, 9, [])
        for client in clients:
            client.join(60)
        assert statuses == [200] * 3
        _, errors = running.communicate(timeout=60)
        assert running.returncode == 0, errors
        assert errors.count("POST /segment 200") == 3
        assert "Traceback" not in errors
        assert f"listening on http://127.0.0.1:{port}" in errors


def test_a_taken_port_is_said_before_anything_is_loaded() -> None:
    with open_listener(ServeSettings(port=0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", "--port", str(port)])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in result.output


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
