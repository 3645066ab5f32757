"""Asking an archive: addresses, credentials, lists, and every way an answer can be wrong."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dicomweb_client")
pytest.importorskip("highdicom")

from io import BytesIO

import pydicom
from fake_pacs import (
    CT,
    INSTANCE,
    SECRET_NAME,
    SERIES,
    STUDY,
    Fake,
    Reply,
    Request,
    as_json,
    client_at,
    client_of,
    ct_file,
    fake_server,
    instance_match,
    paged,
    series_match,
)
from hypothesis import given
from hypothesis import strategies as st

from textsam.errors import ConfigError, PacsError
from textsam.io.limits import Limits
from textsam.pacs.address import PASSWORD, TOKEN, USER, Credentials, credentials, parse_address
from textsam.pacs.client import check_uid, connect

pytestmark = pytest.mark.usefixtures("pauses")


# Addresses and credentials


@pytest.mark.parametrize(
    ("url", "root", "label"),
    [
        ("https://pacs.example/dicom-web/", "https://pacs.example/dicom-web", "pacs.example:443"),
        ("https://PACS.example:8443", "https://PACS.example:8443", "pacs.example:8443"),
        (" http://localhost:8042/dicom-web", "http://localhost:8042/dicom-web", "localhost:8042"),
        ("http://127.9.8.7/x", "http://127.9.8.7/x", "127.9.8.7:80"),
        ("http://[::1]:8042/x", "http://[::1]:8042/x", "[::1]:8042"),
    ],
)
def test_an_address_that_can_be_used(url: str, root: str, label: str) -> None:
    address = parse_address(url)
    assert (address.url, address.label) == (root, label)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("pacs.example/dicom-web", "https://"),
        ("ftp://pacs.example", "https://"),
        ("https:///dicom-web", "https://"),
        ("https://pacs.example:port/x", "https://"),
        ("https://pacs.example/a b", "https://"),
        ("https://pacs.example/x?y=1", "root of the service"),
        ("https://pacs.example/x#y", "root of the service"),
        ("http://pacs.example/x", "--allow-http"),
        ("http://127.0.0.1.example/x", "--allow-http"),
        ("http://localhost.example/x", "--allow-http"),
        ("http://10.0.0.1/x", "--allow-http"),
    ],
)
def test_an_address_that_cannot(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_address(url)


def test_plain_http_to_others_is_a_choice() -> None:
    assert parse_address("http://10.0.0.1:8042/x", allow_http=True).label == "10.0.0.1:8042"


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=USER) as caught:
        parse_address("https://jane:hunter2@pacs.example/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "login"),
    [
        ({}, Credentials()),
        ({TOKEN: " abc.def "}, Credentials(token="abc.def")),
        ({USER: "jane", PASSWORD: "a: ö"}, Credentials(user="jane", password="a: ö")),
    ],
)
def test_credentials_come_from_the_environment(environ: dict[str, str], login: Credentials) -> None:
    assert credentials(environ) == login
    assert bool(login) == bool(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {TOKEN: "hunter2", USER: "jane", PASSWORD: "hunter2"},
        {USER: "jane"},
        {PASSWORD: "hunter2"},
        {TOKEN: "hunter2\r\nX-Other: 1"},
        {TOKEN: "hunter2 ö"},
        {USER: "ja:ne", PASSWORD: "hunter2"},
    ],
)
def test_credentials_that_contradict_or_do_not_fit_are_refused_unseen(
    environ: dict[str, str],
) -> None:
    with pytest.raises(ConfigError, match="TEXTSAM_PACS_") as caught:
        credentials(environ)
    assert "hunter2" not in str(caught.value)


def test_credentials_do_not_show_in_their_text() -> None:
    assert "hunter2" not in repr(Credentials(token="hunter2", user="hunter2", password="hunter2"))


@pytest.mark.parametrize(
    "options",
    [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"retries": -1}, {"ca": "no-such-file.pem"}],
    ids=str,
)
def test_options_that_cannot_be_used(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        connect("https://pacs.example", **options)


@given(st.text(max_size=80))
def test_only_digits_and_dots_reach_a_path(text: str) -> None:
    try:
        assert check_uid(text, "study") == text
    except PacsError:
        return
    assert set(text) <= set("0123456789.")
    assert text[0] != "."
    assert len(text) <= 64


@pytest.mark.parametrize("uid", ["", "..", "1/2", "1.2.3\n", "1.2 ", "1?x", "²", "1" * 65])
def test_a_uid_that_is_none_asks_nothing(fake: Fake, uid: str) -> None:
    client = client_of(fake)
    for call in (
        lambda: client.series(uid),
        lambda: client.instances(STUDY, uid),
        lambda: client.find(STUDY, uid),
        lambda: client.download(STUDY, SERIES, uid, Path("never"), 1),
    ):
        with pytest.raises(PacsError, match="not a DICOM UID"):
            call()
    assert fake.seen == []


# What is sent


def test_the_token_goes_along_and_the_host_keeps_its_port(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "abc")
    client_of(fake).series(STUDY)
    (request,) = fake.seen
    assert request.headers["Authorization"] == "Bearer abc"
    assert request.headers["Host"] == fake.host
    assert request.path == f"/dw/studies/{STUDY}/series"


def test_user_and_password_go_along(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER, "jane")
    monkeypatch.setenv(PASSWORD, "pass")
    client_of(fake).series(STUDY)
    assert fake.seen[0].headers["Authorization"] == "Basic amFuZTpwYXNz"


def test_the_environment_adds_nothing(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login jane password hunter2\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert client_of(fake).series(STUDY) == []
    assert "Authorization" not in fake.seen[0].headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(fake: Fake, status: int) -> None:
    fake.answer = lambda _: Reply(status, b"", {"Location": f"{fake.url}/elsewhere"})
    with pytest.raises(PacsError, match=f"{fake.host}.*HTTP {status}.*redirects"):
        client_of(fake).series(STUDY)
    with pytest.raises(PacsError, match="redirects"):
        client_of(fake).store(pydicom.dcmread(BytesIO(ct_file())), STUDY)
    assert len(fake.seen) == 2


def test_no_other_host_is_asked(fake: Fake) -> None:
    client = client_of(fake)
    for url in ("http://localhost:1/", "https" + fake.url[4:], "http://127.0.0.1:1/dw"):
        with pytest.raises(PacsError, match="another host"):
            client._session.get(url)
    assert fake.seen == []


# Lists


def test_lists_are_read_page_by_page(fake: Fake) -> None:
    uids = [f"1.2.{n}" for n in range(7)]
    fake.answer = paged(*(instance_match(uid, frames=3) for uid in uids), size=3)
    entries = client_of(fake).instances(STUDY, SERIES)
    assert [e.sop_instance_uid for e in entries] == uids
    assert {(e.sop_class_uid, e.series_uid, e.frames) for e in entries} == {(CT, SERIES, 3)}


def test_a_server_that_repeats_itself_comes_to_an_end(fake: Fake) -> None:
    fake.answer = lambda _: as_json([instance_match()])
    assert len(client_of(fake).instances(STUDY, SERIES)) == 1
    assert len(fake.seen) == 2


def test_a_match_that_comes_again_with_other_words_is_no_news(fake: Fake) -> None:
    def answer(request: Request) -> Reply:
        link = {"vr": "UR", "Value": [f"{fake.url}/{len(fake.seen)}"]}
        listed = series_match() if request.path.endswith("/series") else instance_match()
        return as_json([{**listed, "00081190": link}])

    fake.answer = answer
    client = client_of(fake)
    assert len(client.series(STUDY)) == len(client.instances(STUDY, SERIES)) == 1
    assert len(fake.seen) == 4


def test_no_page_is_asked_for_that_archives_refuse(fake: Fake) -> None:
    # Such as Azure's, which answers 400 where the limit is over 200.
    uids = [f"1.2.{n}" for n in range(450)]
    pages = paged(*(instance_match(uid) for uid in uids))

    def answer(request: Request) -> Reply:
        wanted = dict(pair.split("=") for pair in request.query.split("&"))
        return pages(request) if int(wanted["limit"]) <= 200 else Reply(400)

    fake.answer = answer
    assert [e.sop_instance_uid for e in client_of(fake).instances(STUDY, SERIES)] == uids


def test_an_endless_list_is_cut_off(fake: Fake) -> None:
    fake.answer = lambda _: as_json([instance_match(f"1.{len(fake.seen)}.{n}") for n in range(40)])
    with pytest.raises(PacsError, match="more than 100 entries"):
        client_of(fake, limits=Limits(max_images=100)).instances(STUDY, SERIES)


def test_a_study_may_have_more_series_than_a_series_has_images(fake: Fake) -> None:
    fake.answer = paged(*(series_match(f"1.2.{n}") for n in range(5)))
    found = client_of(fake, limits=Limits(max_images=2)).series(STUDY)
    assert [one.series_uid for one in found] == [f"1.2.{n}" for n in range(5)]


def test_no_content_is_an_empty_list(fake: Fake) -> None:
    fake.answer = lambda _: Reply(204)
    assert client_of(fake).series(STUDY) == []


@pytest.mark.parametrize("with_filter", [True, False])
def test_a_series_is_found_even_where_the_filter_is_ignored(fake: Fake, with_filter: bool) -> None:
    other = instance_match("1.9")
    other["0020000E"]["Value"] = ["1.2.3.9"]
    fake.answer = paged(instance_match(), *([] if with_filter else [other]))
    client = client_of(fake)
    (entry,) = client.find(STUDY, SERIES)
    assert entry.sop_instance_uid == INSTANCE
    assert f"SeriesInstanceUID={SERIES}" in fake.seen[0].query
    assert fake.seen[0].path == f"/dw/studies/{STUDY}/instances"
    assert client.find(STUDY, "1.2.77") == []


def test_a_list_of_the_whole_study_is_not_held_to_the_limit_of_a_series(fake: Fake) -> None:
    """What a server lists that does not know the filter."""
    others = [instance_match(f"1.9.{n}") for n in range(5)]
    for other in others:
        other["0020000E"]["Value"] = ["1.2.3.9"]
    fake.answer = paged(*others, instance_match())
    (entry,) = client_of(fake, limits=Limits(max_images=2)).find(STUDY, SERIES)
    assert entry.sop_instance_uid == INSTANCE


# Failures


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (400, "DICOMweb"),
        (401, TOKEN),
        (403, "not allowed"),
        (404, "address of the service"),
        (418, "log"),
        (500, "server failed"),
        (503, "server failed"),
        (599, "server failed"),
    ],
)
def test_a_refusal_names_host_status_and_remedy_and_no_patient(
    fake: Fake, status: int, says: str
) -> None:
    fake.answer = lambda _: Reply(status, SECRET_NAME.encode(), {"Content-Type": "text/plain"})
    with pytest.raises(PacsError, match=f"{fake.host}.*{STUDY}.*HTTP {status}.*{says}") as caught:
        client_of(fake).series(STUDY)
    assert SECRET_NAME not in str(caught.value)


def test_refused_credentials_are_another_matter_than_missing_ones(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answer = lambda _: Reply(401)
    with pytest.raises(PacsError, match="wants credentials"):
        client_of(fake).series(STUDY)
    with pytest.raises(PacsError, match="are refused"):
        client_of(fake, login=Credentials(token="x")).series(STUDY)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, f"<html>{SECRET_NAME}</html>".encode(), {"Content-Type": "text/html"}),
        Reply(200, b"[1, 2", {"Content-Type": "application/dicom+json"}),
        Reply(200, b"\xff\xfe", {"Content-Type": "application/dicom+json"}),
        as_json("text"),
        as_json([SECRET_NAME]),
        as_json([{}]),
        as_json([{"0020000E": {"vr": "UI", "Value": ["../../other"]}}]),
        as_json([{"0020000E": {"vr": "UI", "Value": [{"Alphabetic": SECRET_NAME}]}}]),
        as_json([{"0020000E": SECRET_NAME}]),
        as_json([{**series_match(), "00201209": {"Value": [SECRET_NAME]}}]),
    ],
    ids=lambda reply: reply.body[:30].decode("latin-1"),
)
def test_an_answer_that_is_not_dicomweb(fake: Fake, reply: Reply) -> None:
    fake.answer = lambda _: reply
    with pytest.raises(PacsError, match=f"{fake.host}.*not DICOMweb") as caught:
        client_of(fake).series(STUDY)
    assert SECRET_NAME not in str(caught.value)


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(PacsError, match=f"127.0.0.1:{port}.*no connection"):
            client_at(f"http://127.0.0.1:{port}/x", retries=1).series(STUDY)


def test_a_server_that_does_not_answer(fake: Fake) -> None:
    given_up = threading.Event()

    def answer(_: Request) -> Reply:
        assert given_up.wait(120)
        return Reply()

    fake.answer = answer
    try:
        with pytest.raises(PacsError, match=r"no answer in time.*--timeout-s"):
            client_of(fake, timeout_s=0.1).series(STUDY)
    finally:
        given_up.set()


def test_a_server_without_tls(fake: Fake) -> None:
    with pytest.raises(PacsError, match=r"TLS.*--ca"):
        client_at("https" + fake.url[4:]).series(STUDY)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 and its key in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file, "-out", f"{file}.crt"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


def test_a_certificate_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with fake_server(certificate) as fake:
        with pytest.raises(PacsError, match=r"certificate is not trusted.*--ca"):
            client_of(fake).series(STUDY)
        with pytest.raises(PacsError, match="certificate"):
            client_of(fake, allow_http=True).series(STUDY)
        assert fake.seen == []


def test_a_certificate_that_is_given_is_trusted(certificate: Path) -> None:
    with fake_server(certificate) as fake:
        fake.answer = paged(series_match())
        assert [s.series_uid for s in client_of(fake, ca=certificate).series(STUDY)] == [SERIES]


@pytest.mark.parametrize("form", ["der", "junk"])
def test_certificates_that_cannot_be_read_are_not_blamed_on_the_server(
    certificate: Path, tmp_path: Path, form: str
) -> None:
    file = tmp_path / "ca.cer"
    pem = certificate.read_text(encoding="ascii")
    der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT") :])
    file.write_bytes(der if form == "der" else b"certificate")
    with pytest.raises(ConfigError, match=r"ca\.cer holds no certificates in PEM.*openssl x509"):
        connect("https://pacs.example", ca=file)


def test_a_pause_in_the_middle_of_an_answer_is_called_one(tmp_path: Path) -> None:
    given_up = threading.Event()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            head = "HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\nContent-Length: 9999"
            connection.sendall(f"{head}\r\n\r\nhalf".encode())
            given_up.wait(120)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=answer)
        serving.start()
        client = client_at(f"http://127.0.0.1:{listener.getsockname()[1]}/x", timeout_s=0.2)
        try:
            with pytest.raises(PacsError, match=r"no answer in time.*--timeout-s"):
                client.download(STUDY, SERIES, INSTANCE, tmp_path / "x.dcm", 10**6)
        finally:
            given_up.set()
            serving.join()


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    with pytest.raises(PacsError, match=r"textsam\[medical\]"):
        connect("https://pacs.example")


def test_questions_are_put_again_and_then_given_up(fake: Fake, pauses: list[float]) -> None:
    replies = [Reply(503), Reply(429), as_json([series_match()])]
    fake.answer = lambda _: replies[min(len(fake.seen), 3) - 1]
    # The third request is the answer; the one after it finds no further page.
    assert [s.series_uid for s in client_of(fake, retries=2).series(STUDY)] == [SERIES]
    assert pauses == [0.5, 1.0]
    fake.seen.clear()
    fake.answer = lambda _: Reply(503)
    with pytest.raises(PacsError, match="503"):
        client_of(fake, retries=2).series(STUDY)
    assert len(fake.seen) == 3


@pytest.mark.parametrize(
    ("told", "pause"), [("7", 7.0), ("0", 0.5), ("9999", 60.0), ("soon", 0.5), ("", 0.5)]
)
def test_a_busy_server_is_left_alone_as_long_as_it_asks(
    fake: Fake, pauses: list[float], told: str, pause: float
) -> None:
    busy = Reply(429, b"", {"Retry-After": told})
    fake.answer = lambda _: busy if len(fake.seen) == 1 else as_json([])
    assert client_of(fake, retries=1).series(STUDY) == []
    assert pauses == [pause]


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_questions_the_server_has_answered_are_not_put_again(fake: Fake, status: int) -> None:
    fake.answer = lambda _: Reply(status)
    with pytest.raises(PacsError):
        client_of(fake, retries=3).series(STUDY)
    assert len(fake.seen) == 1


# A run of its own, with a tiny model.
RUN = """
import textsam.api
from textsam.cli import app
from tiny import tiny_segmenter

textsam.api.load_model = lambda *rest, **options: tiny_segmenter()
app()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process outright there")
def test_sigterm_removes_the_images_that_were_fetched(fake: Fake, tmp_path: Path) -> None:
    fetching, ended = threading.Event(), threading.Event()

    def answer(request: Request) -> Reply:
        if request.path.endswith("/series"):
            return as_json([] if "offset" in request.query else [series_match()])
        if request.path.endswith("/instances"):
            return as_json([] if "offset" in request.query else [instance_match()])
        fetching.set()
        ended.wait(240)
        return Reply(404)

    fake.answer = answer
    tests = Path(__file__).parent
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
    }
    arguments = ["pacs", "--dicomweb", fake.url, "--study", STUDY, "tumor"]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            assert fetching.wait(240)
            assert len(list(tmp_path.glob("textsam-pacs-*"))) == 1
            run.send_signal(signal.SIGTERM)
            _, said = run.communicate(timeout=240)
        finally:
            ended.set()
            run.kill()
    assert run.returncode == 128 + signal.SIGTERM
    assert said == ""
    assert not list(tmp_path.glob("textsam-pacs-*"))
