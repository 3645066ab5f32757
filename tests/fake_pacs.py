"""A server on loopback that answers what a test says, and clients to ask it with."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from textsam.pacs import guard
from textsam.pacs.address import PASSWORD, TOKEN, USER
from textsam.pacs.client import PacsClient, connect

STUDY, SERIES, INSTANCE = "1.2.3", "1.2.3.4", "1.2.3.4.5"
CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SECRET_NAME = "Doe^Jane"


@dataclass
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    port: int = 0  # of the client: one for each connection


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/dicom+json"})


def multipart(*parts: bytes) -> Reply:
    body = b"".join(
        b"\r\n--edge\r\nContent-Type: application/dicom\r\n\r\n" + part for part in parts
    )
    kind = 'multipart/related; type="application/dicom"; boundary="edge"'
    return Reply(200, body + b"\r\n--edge--", {"Content-Type": kind})


@dataclass
class Fake:
    """A server that answers what the test says, and keeps what it was asked."""

    url: str
    answer: Callable[[Request], Reply]
    seen: list[Request] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.url.split("/")[2]


@contextmanager
def fake_server(certificate: Path | None = None, *, keep_alive: bool = False) -> Iterator[Fake]:
    server: Fake

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            port = self.client_address[1]
            request = Request(self.command, path, query, dict(self.headers), body, port)
            server.seen.append(request)
            reply = server.answer(request)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(reply.body)
            except OSError:
                self.close_connection = True  # the client hung up, which some tests want

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
        scheme = "https"
    server = Fake(f"{scheme}://127.0.0.1:{http.server_address[1]}/dw", lambda _: as_json([]))
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


_OPEN: list[PacsClient] = []


@contextmanager
def clean_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """No credentials in the environment, no pauses (they are kept), and clients closed after it."""
    for name in (TOKEN, USER, PASSWORD):
        monkeypatch.delenv(name, raising=False)
    pauses: list[float] = []
    monkeypatch.setattr(guard, "sleep", pauses.append)
    yield pauses
    while _OPEN:
        _OPEN.pop().close()


def client_at(url: str, **options: Any) -> PacsClient:
    client = connect(url, **{"timeout_s": 120, "retries": 0, **options})
    _OPEN.append(client)
    return client


def client_of(fake: Fake, **options: Any) -> PacsClient:
    return client_at(fake.url, **options)


def series_match(uid: str = SERIES, modality: str = "CT", count: int | None = 1) -> dict[str, Any]:
    match = {
        "00080060": {"vr": "CS", "Value": [modality]},
        "0020000E": {"vr": "UI", "Value": [uid]},
        # What archives add without being asked:
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": SECRET_NAME}]},
    }
    if count is not None:
        match["00201209"] = {"vr": "IS", "Value": [count]}
    return match


def instance_match(
    uid: str = INSTANCE, sop_class: str = CT, frames: int | None = None
) -> dict[str, Any]:
    match: dict[str, Any] = {
        "00080016": {"vr": "UI", "Value": [sop_class]},
        "00080018": {"vr": "UI", "Value": [uid]},
        "0020000E": {"vr": "UI", "Value": [SERIES]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": SECRET_NAME}]},
    }
    if frames is not None:
        match["00280008"] = {"vr": "IS", "Value": [frames]}
    return match


def paged(*matches: dict[str, Any], size: int = 1000) -> Callable[[Request], Reply]:
    """Answers like a server that gives at most `size` matches at a time."""

    def answer(request: Request) -> Reply:
        wanted = dict(pair.split("=") for pair in request.query.split("&") if pair)
        offset = int(wanted.get("offset", 0))
        return as_json(list(matches[offset : offset + min(size, int(wanted["limit"]))]))

    return answer


def ct_file(uid: str = INSTANCE) -> bytes:
    path = get_testdata_file("CT_small.dcm", download=False)
    dataset = pydicom.dcmread(str(path))
    dataset.SOPInstanceUID = uid
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    target = BytesIO()
    dataset.save_as(target)
    return target.getvalue()


class StudyOfOne:
    """An archive with one CT image, which takes what is sent to it."""

    def __init__(self, study_uid: str, series_uid: str) -> None:
        self._path = f"/dw/studies/{study_uid}"
        self.spoilt = False
        self._series_uid = series_uid
        self.stored: list[pydicom.Dataset] = []

    def __call__(self, request: Request) -> Reply:
        if request.method == "POST":
            body = request.body[request.body.index(b"\r\n\r\n") + 4 :]
            self.stored.append(pydicom.dcmread(BytesIO(body[: body.rindex(b"\r\n--")])))
            return as_json({})
        match request.path.removeprefix(self._path).split("/")[1:]:
            case ["series"]:
                return paged(series_match(self._series_uid))(request)
            case ["series", _, "instances"]:
                return paged(instance_match())(request)
            case ["series", _, "instances", _]:
                return multipart(ct_file())
            case ["instances"]:
                matches = [instance_match(d.SOPInstanceUID, SEG) for d in self.stored]
                for one, stored in zip(matches, self.stored, strict=True):
                    one["0020000E"]["Value"] = [str(stored.SeriesInstanceUID)]
                return paged(*matches)(request)
            case ["series", _, "instances", uid, "metadata"]:
                (found,) = (d for d in self.stored if uid == d.SOPInstanceUID)
                kept = {} if self.spoilt else {"00081115": found.to_json_dict()["00081115"]}
                return as_json([kept])
        return Reply(404)
