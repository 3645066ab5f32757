"""Who may ask, how much, and how long: bodies, queue, time-outs, token, names."""

from __future__ import annotations

import gc
import logging
import pkgutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import (
    TOKEN,
    Held,
    ask,
    error_of,
    live,
    multipart,
    pass_time,
    png,
    queue_of,
    served,
    wait_until,
)
from tiny import tiny_segmenter

from textsam.errors import ConfigError
from textsam.inference.segmenter import Segmenter
from textsam.serve.settings import ServeSettings, is_loopback, read_token, server_limits

MAX_BODY = 200_000


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return tiny_segmenter()


@pytest.fixture(scope="module")
def port(segmenter: Segmenter) -> Iterator[int]:
    with live(segmenter, max_body_bytes=MAX_BODY) as port:
        yield port


def talk(port: int, *pieces: bytes) -> bytes:
    """Send pieces and read until the server closes or nothing comes for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
            head, _, body = received.partition(b"\r\n\r\n")
            for line in head.lower().split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name == b"content-length" and len(body) >= int(value):
                    return received
        return received


def head(length: str, kind: str) -> bytes:
    lines = ["POST /segment HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", length, "", ""]
    return "\r\n".join(lines).encode()


def chunked(data: bytes, size: int = 10_000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    yield b"0\r\n\r\n"


def test_honest_oversize(port: int) -> None:
    body, kind = multipart(bytes(MAX_BODY), ["tumor"])
    answer = talk(port, head(f"Content-Length: {len(body)}", kind), body)
    assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
    assert b'"LimitError"' in answer
    assert b"connection: close" in answer.lower()


def test_announced_oversize_is_refused_before_it_is_sent(port: int) -> None:
    answer = talk(port, head("Content-Length: 999999999999", "multipart/form-data; boundary=edge"))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_chunked_oversize(port: int) -> None:
    body, kind = multipart(bytes(3 * MAX_BODY), ["tumor"])
    answer = talk(port, head("Transfer-Encoding: chunked", kind), *chunked(body))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"LimitError"' in answer


def test_endless_chunks_are_cut_off(port: int) -> None:
    body, kind = multipart(bytes(10_000), ["tumor"])
    start = body.removesuffix(b"\r\n--edge--\r\n")
    first = f"{len(start):x}\r\n".encode() + start + b"\r\n"
    more = b"2710\r\n" + bytes(10_000) + b"\r\n"
    answer = talk(port, head("Transfer-Encoding: chunked", kind), first, *[more] * 100)
    assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]


def test_chunked_within_the_limit_is_answered(port: int) -> None:
    body, kind = multipart(png(), ["tumor"])
    answer = talk(port, head("Transfer-Encoding: chunked", kind), *chunked(body, 700))
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:300]


# Starlette leaves the file of a form that breaks off to be closed when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_length_that_is_too_short_is_a_bad_request(port: int) -> None:
    body, kind = multipart(png(), ["tumor"])
    answer = talk(port, head(f"Content-Length: {len(body) // 2}", kind), body)
    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert b"HTTP/1.1 200" not in answer
    gc.collect()


def test_a_body_that_does_not_arrive(segmenter: Segmenter) -> None:
    body, kind = multipart(png(), ["tumor"])
    with live(segmenter, timeout_s=1.5) as port:
        began = time.monotonic()
        answer = talk(port, head(f"Content-Length: {len(body) + 5}", kind), body)
        assert answer.startswith(b"HTTP/1.1 408 "), answer[:200]
        assert b"within 1.5 s" in answer
        assert time.monotonic() - began > 1.4


def test_the_limit_is_exact(segmenter: Segmenter) -> None:
    body, kind = multipart(png(), ["tumor"])
    for spare, status in ((0, 200), (-1, 413)):
        with served(segmenter, max_body_bytes=len(body) + spare) as client:
            for content in (body, iter([body[:100], body[100:]])):
                response = client.post("/segment", content=content, headers={"Content-Type": kind})
                assert response.status_code == status


def test_limits_hold_on_other_paths(segmenter: Segmenter) -> None:
    with served(segmenter, max_body_bytes=1000) as client:
        assert client.post("/health", content=bytes(1001)).status_code == 413
        assert client.post("/health", content=bytes(999)).status_code == 405


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "multipart/form-data; boundary=edge", 422),
        (b"--edge\r\nrubbish", "multipart/form-data; boundary=edge", 422),
        (b"x", "multipart/form-data", 400),
        (b"{}", "application/json", 422),
        (b"file=abc&prompts=tumor", "application/x-www-form-urlencoded", 422),
    ],
)
def test_bodies_that_are_no_such_form(
    segmenter: Segmenter, content: bytes, kind: str, status: int
) -> None:
    with served(segmenter) as client:
        response = client.post("/segment", content=content, headers={"Content-Type": kind})
        assert error_of(response) == (status, "RequestError")


def test_full_queue(segmenter: Segmenter) -> None:
    held = Held(segmenter)
    with served(held, queue=2) as client, ThreadPoolExecutor(3) as pool:
        taken = [pool.submit(ask, client, png(seed)) for seed in range(3)]
        wait_until(lambda: queue_of(client) == {"waiting": 2, "working": 1, "capacity": 2})
        refused = ask(client)
        assert error_of(refused) == (429, "BusyError")
        assert 1 <= int(refused.headers["retry-after"]) <= 3
        held.release.set()
        assert [future.result().status_code for future in taken] == [200] * 3
        assert ask(client).status_code == 200
        assert queue_of(client)["waiting"] == 0


@pytest.mark.parametrize("path", ["/segment%0a", "/segment%0A%0A", "/segment%00", "/Segment"])
def test_no_other_way_to_write_the_address_passes_by_a_full_queue(
    segmenter: Segmenter, path: str
) -> None:
    held = Held(segmenter)
    with served(held, queue=1) as client, ThreadPoolExecutor(3) as pool:
        taken = [pool.submit(ask, client, png(seed)) for seed in range(2)]
        wait_until(lambda: queue_of(client) == {"waiting": 1, "working": 1, "capacity": 1})
        file = {"file": ("a.png", png())}
        other = pool.submit(client.post, path, files=file, data={"prompts": "tumor"})
        wait_until(lambda: other.done() or queue_of(client)["waiting"] == 2)
        held.release.set()
        assert error_of(other.result()) == (404, "RequestError")
        assert [future.result().status_code for future in taken] == [200] * 2


def test_refused_requests_give_their_place_back(segmenter: Segmenter) -> None:
    with served(segmenter, queue=1) as client:
        for _ in range(5):
            assert ask(client, b"hello").status_code == 415
            assert ask(client, prompts="").status_code == 422
        assert ask(client).status_code == 200


def test_time_out_leaves_the_queue(segmenter: Segmenter) -> None:
    held = Held(segmenter)
    with served(held, timeout_s=600.0) as client, ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, client, png(0))
        wait_until(held.entered.is_set)
        waiting = pool.submit(ask, client, png(1))
        wait_until(lambda: queue_of(client)["waiting"] == 1)
        pass_time(client, 600.0)
        assert error_of(running.result()) == (504, "TimeoutError")
        assert error_of(waiting.result()) == (504, "TimeoutError")
        queue = queue_of(client)
        assert (queue["waiting"], queue["working"]) == (0, 1)
        held.release.set()
        assert ask(client).status_code == 200
    # The one that waited was never given to the model.
    assert held.batches == [1, 1]


class HeldCall:
    """A function whose calls wait until `release` is set."""

    def __init__(self, function: Any, error: Exception | None = None) -> None:
        self._function = function
        self._error = error
        self.release = threading.Event()
        self.entered = threading.Event()

    def __call__(self, *rest: Any, **options: Any) -> Any:
        self.entered.set()
        assert self.release.wait(120)
        if self._error is not None:
            raise self._error
        return self._function(*rest, **options)


@pytest.mark.parametrize(
    "place",
    ["textsam.serve.upload.open_stack", "textsam.serve.route.json_answer",
     "textsam.serve.upload.shutil.copyfileobj"],
)  # fmt: skip
def test_time_out_covers_what_is_done_beside_the_model(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    slow = HeldCall(pkgutil.resolve_name(place))
    held = Held(segmenter)
    held.release.set()
    with served(held, timeout_s=600.0, queue=1) as client, ThreadPoolExecutor(1) as pool:
        folder = client.app.state.folder  # type: ignore[attr-defined]
        monkeypatch.setattr(place, slow)
        late = pool.submit(ask, client)
        wait_until(slow.entered.is_set)
        pass_time(client, 601.0)
        refused = late.result(60)
        assert error_of(refused) == (504, "TimeoutError")
        assert "within 600 s" in refused.json()["error"]["message"]
        monkeypatch.undo()
        # Of two places one is taken until the thread has finished, and the file is still its own.
        assert len(list(folder.iterdir())) == 1
        asked = len(held.batches)
        held.release.clear()
        waiting = pool.submit(ask, client)
        wait_until(lambda: queue_of(client)["working"] == 1)
        assert error_of(ask(client)) == (429, "BusyError")
        slow.release.set()
        wait_until(lambda: len(list(folder.iterdir())) == 1)
        held.release.set()
        assert waiting.result().status_code == 200
        # What was opened too late is not given to the model.
        assert len(held.batches) == asked + 1
        assert ask(client).status_code == 200
        assert list(folder.iterdir()) == []


def test_an_error_after_the_time_out_is_in_the_log_without_values(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow = HeldCall(None, ValueError("PatientName Doe^John"))
    monkeypatch.setattr("textsam.serve.upload.open_stack", slow)
    with served(segmenter, timeout_s=600.0) as client, ThreadPoolExecutor(1) as pool:
        late = pool.submit(ask, client)
        wait_until(slow.entered.is_set)
        pass_time(client, 601.0)
        assert late.result(60).status_code == 504
        slow.release.set()
        wait_until(lambda: any(r.levelno == logging.ERROR for r in caplog.records))
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "ValueError at" in record.getMessage()
    assert "Doe" not in caplog.text


def test_a_client_that_goes_away_leaves_the_queue(segmenter: Segmenter) -> None:
    held = Held(segmenter)
    with live(held) as port:
        body, kind = multipart(png(), ["tumor"])
        first = socket.create_connection(("127.0.0.1", port))
        first.sendall(head(f"Content-Length: {len(body)}", kind) + body)
        wait_until(held.entered.is_set)

        def waiting() -> bool:
            return b'"waiting":1' in talk(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")

        second = socket.create_connection(("127.0.0.1", port))
        second.sendall(head(f"Content-Length: {len(body)}", kind) + body)
        wait_until(waiting)
        second.close()
        wait_until(lambda: not waiting())
        held.release.set()
        assert first.recv(12) == b"HTTP/1.1 200"
        first.close()
    assert held.batches == [1]


OPEN = ("/", "/health", "/page/page.js", "/page/page.css")
CLOSED = ("/prompts", "/models", "/openapi.json", "/nowhere")


def test_token(segmenter: Segmenter) -> None:
    with served(segmenter, token=TOKEN) as client:
        for path in OPEN:
            assert client.get(path).status_code == 200
        for path in CLOSED:
            refused = client.get(path)
            assert error_of(refused) == (401, "TokenError")
            assert refused.headers["www-authenticate"].startswith("Bearer")
        assert ask(client).status_code == 401
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        assert ask(client).status_code == 200
        assert client.get("/prompts").status_code == 200


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN,
     "Bearer \xff\xfe", f"Bearer {TOKEN.upper()}"],
)  # fmt: skip
def test_other_tokens(segmenter: Segmenter, given: str) -> None:
    with served(segmenter, token=TOKEN) as client:
        response = client.get("/prompts", headers={"Authorization": given.encode("latin-1")})
        assert response.status_code == 401


def test_without_a_token_none_is_asked_for(segmenter: Segmenter) -> None:
    with served(segmenter) as client:
        assert client.get("/prompts", headers={"Authorization": "Bearer x"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8765", 200),
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("[::1]", 200),
        ("[::1]:8765", 200),
        ("evil.example", 400),
        ("evil.example:8765", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost.evil.example:8765", 400),
        ("[::2]:8765", 400),
        ("[::1]evil.example", 400),
        ("[::1]evil.example:8765", 400),
        ("", 400),
    ],
)
def test_names_a_server_on_loopback_answers_to(
    segmenter: Segmenter, host: str, status: int
) -> None:
    with served(segmenter) as client:
        response = client.get("/health", headers={"Host": host})
        assert response.status_code == status
        if status == 400:
            assert error_of(response) == (400, "HostError")


def test_other_hosts_may_have_any_name(segmenter: Segmenter) -> None:
    with served(segmenter, host="0.0.0.0", token=TOKEN) as client:
        assert client.get("/health", headers={"Host": "scanner-3.hospital"}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1", 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:9999", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_pages_of_other_sites_are_refused(segmenter: Segmenter, origin: str, status: int) -> None:
    with served(segmenter) as client:
        client.headers["Origin"] = origin
        assert ask(client).status_code == status


def test_a_stopped_worker_is_said(segmenter: Segmenter) -> None:
    with served(segmenter) as client:
        client.app.state.worker.stop(10)  # type: ignore[attr-defined]
        assert error_of(ask(client)) == (503, "StoppingError")
        health = client.get("/health").json()
        assert (health["ready"], health["status"]) == (False, "stopping")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.0.0.53", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False),
        ("localhost.example.org", False),
    ],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_token_comes_from_file_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEXTSAM_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("TEXTSAM_TOKEN", "from-environment")
    assert read_token(None) == "from-environment"
    file = tmp_path / "token"
    file.write_text(f"  {TOKEN} \nsecond line\n", encoding="utf-8")
    assert read_token(file) == TOKEN
    file.write_text(TOKEN, encoding="utf-8-sig")  # as PowerShell writes UTF-8
    assert read_token(file) == TOKEN
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is empty"):
        read_token(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")
    monkeypatch.setenv("TEXTSAM_TOKEN", " ")
    with pytest.raises(ConfigError, match="TEXTSAM_TOKEN is empty"):
        read_token(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token": "short"}, "at least 16"),
        ({"token": "a token with blanks in it"}, "blank"),
        ({"token": "ein-schlüssel-mit-umlaut"}, "ASCII"),
        ({"port": 70000}, "port is 70000"),
        ({"queue": 0}, "queue is 0"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"max_body_bytes": 0}, "max_body_bytes is 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeSettings(**settings)


def test_settings_do_not_print_the_token() -> None:
    assert TOKEN not in repr(ServeSettings(token=TOKEN))


def test_limits_of_uploads() -> None:
    limits = server_limits(1000, 2000)
    assert (limits.max_bytes, limits.max_pixels) == (1000, 2000)
    assert server_limits(1000).max_pixels == 25_000_000


def test_slow_clients_do_not_stop_others(segmenter: Segmenter) -> None:
    body, kind = multipart(png(), ["tumor"])
    with live(segmenter, timeout_s=240.0) as port:
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(head(f"Content-Length: {len(body)}", kind) + body[:100])
        done = threading.Event()

        def quick() -> None:
            talk(port, head(f"Content-Length: {len(body)}", kind), body)
            done.set()

        threading.Thread(target=quick, daemon=True).start()
        assert done.wait(120)
        slow.sendall(body[100:])
        assert slow.recv(12) == b"HTTP/1.1 200"
        slow.close()
