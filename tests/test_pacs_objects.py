"""Objects from and to an archive: fetched, stored, and looked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dicomweb_client")
pytest.importorskip("highdicom")

import tracemalloc
from io import BytesIO

import pydicom
from fake_pacs import (
    CT,
    INSTANCE,
    SEG,
    SERIES,
    STUDY,
    Fake,
    Reply,
    Request,
    as_json,
    client_of,
    ct_file,
    instance_match,
    multipart,
    paged,
)

from textsam.errors import ImageError, OutputError, PacsError
from textsam.io.dicom import open_series
from textsam.io.limits import Limits
from textsam.io.seg_identity import SegIdentity
from textsam.pacs import study
from textsam.pacs.plan import Chosen
from textsam.pacs.session import MAX_ANSWER_BYTES

pytestmark = pytest.mark.usefixtures("pauses")


# Downloads


def test_a_download_is_the_file_as_it_is_stored(fake: Fake, tmp_path: Path) -> None:
    content = ct_file()
    fake.answer = lambda _: multipart(content)
    path = tmp_path / "one.dcm"
    size = client_of(fake).download(STUDY, SERIES, INSTANCE, path, 10**6)
    assert path.read_bytes() == content
    assert size == len(content)
    (request,) = fake.seen
    assert request.path == f"/dw/studies/{STUDY}/series/{SERIES}/instances/{INSTANCE}"
    assert "transfer-syntax=*" in request.headers["Accept"]


def deflated_file(inflated_bytes: int) -> bytes:
    """A file of a few kB whose header inflates to a multiple of that."""
    dataset = pydicom.dcmread(BytesIO(ct_file()))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.TextValue = " " * inflated_bytes
    dataset.PixelData = bytes(2 * dataset.Rows * dataset.Columns)
    target = BytesIO()
    dataset.save_as(target)
    return target.getvalue()


def test_a_deflated_file_is_not_inflated_by_fetching_it(fake: Fake, tmp_path: Path) -> None:
    content = deflated_file(50_000_000)
    assert len(content) < 100_000
    fake.answer = lambda _: multipart(content)
    client = client_of(fake, limits=Limits(max_inflated_bytes=10**6))
    tracemalloc.start()
    try:
        client.download(STUDY, SERIES, INSTANCE, tmp_path / "one.dcm", 10**6)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()
    assert (tmp_path / "one.dcm").read_bytes() == content
    with pytest.raises(ImageError, match="max-inflated-bytes"):
        open_series([tmp_path / "one.dcm"], limits=client.limits)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ('multipart/related; boundary="e:1"', b"--e:1\r\nA: b\r\n\r\n%b\r\n--e:1--"),
        ("multipart/related; boundary=e", b"before\r\n--e  \r\n\r\n%b\r\n--e--\r\nafter"),
        ("Multipart/Related; type=x; BOUNDARY=e", b"\r\n--e\r\nA: b\r\n\r\n%b\r\n--e--"),
        ("multipart/related", b"%b"),
        ("application/dicom; transfer-syntax=*", b"%b"),
    ],
    ids=["quoted", "padded", "upper case", "no boundary", "as it is"],
)
def test_answers_that_hold_one_file(fake: Fake, tmp_path: Path, kind: str, body: bytes) -> None:
    content = ct_file() + b"\r\n--\r\n"
    fake.answer = lambda _: Reply(200, body % content, {"Content-Type": kind})
    client_of(fake).download(STUDY, SERIES, INSTANCE, tmp_path / "one.dcm", 10**6)
    assert (tmp_path / "one.dcm").read_bytes() == content


def test_a_file_that_does_not_say_what_it_is_can_be_told_later(fake: Fake, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(BytesIO(ct_file()))
    del dataset.file_meta.MediaStorageSOPInstanceUID
    path, target = tmp_path / f"{INSTANCE}.dcm", BytesIO()
    dataset.save_as(target)
    fake.answer = lambda _: multipart(target.getvalue())
    client = client_of(fake)
    client.download(STUDY, SERIES, INSTANCE, path, 10**6)
    place = str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID)
    study._check_same(client, open_series([path]), *place)
    other = path.rename(tmp_path / "1.2.999.dcm")
    with pytest.raises(PacsError, match=rf"instance 1\.2\.999 says that it is {INSTANCE};"):
        study._check_same(client, open_series([other]), *place)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(
    ("room_bytes", "limits"),
    [(10_000, Limits()), (10**9, Limits(max_inflated_bytes=10_000))],
    ids=["room", "limits"],
)
def test_a_download_over_the_limit_is_dropped(
    fake: Fake, tmp_path: Path, announced: bool, room_bytes: int, limits: Limits
) -> None:
    reply = multipart(ct_file() + bytes(2_000_000))
    if not announced:  # HTTP/1.0: the body ends with the connection
        reply.headers["Content-Length"] = ""
    fake.answer = lambda _: reply
    client = client_of(fake, limits=limits)
    with pytest.raises(PacsError, match="more than 75,536 bytes"):
        client.download(STUDY, SERIES, INSTANCE, tmp_path / "x.dcm", room_bytes)
    assert list(tmp_path.iterdir()) == []
    # The limit was that download's alone.
    fake.answer = paged(*(instance_match(f"1.2.{n}") for n in range(900)))
    assert len(client.instances(STUDY, SERIES)) == 900


def test_a_compressed_body_is_counted_as_it_unfolds(fake: Fake, tmp_path: Path) -> None:
    import gzip

    reply = multipart(bytes(5_000_000))
    reply.body = gzip.compress(reply.body)
    reply.headers["Content-Encoding"] = "gzip"
    assert len(reply.body) < 20_000
    fake.answer = lambda _: reply
    with pytest.raises(PacsError, match="more than"):
        client_of(fake).download(STUDY, SERIES, INSTANCE, tmp_path / "x.dcm", 10**6)


@pytest.mark.parametrize(
    "reply",
    [
        multipart(ct_file("1.2.999")),
        multipart(b"not DICOM at all"),
        multipart(ct_file(), ct_file()),
        multipart(),
        Reply(200, b"", {"Content-Type": "application/dicom"}),
        Reply(200, ct_file(), {"Content-Type": "text/html"}),
        Reply(200, ct_file()),
    ],
    ids=["another", "junk", "two", "none", "empty", "html", "no type"],
)
def test_a_download_that_is_something_else(fake: Fake, tmp_path: Path, reply: Reply) -> None:
    fake.answer = lambda _: reply
    with pytest.raises(PacsError, match=f"{fake.host}.*{INSTANCE}.*not DICOMweb"):
        client_of(fake).download(STUDY, SERIES, INSTANCE, tmp_path / "x.dcm", 10**6)


def test_a_download_the_disk_does_not_take_is_no_fault_of_the_archive(
    fake: Fake, tmp_path: Path
) -> None:
    fake.answer = lambda _: multipart(ct_file())
    path = tmp_path / "missing" / "x.dcm"
    with pytest.raises(OutputError, match=r"x\.dcm: cannot be written \(No such file"):
        client_of(fake).download(STUDY, SERIES, INSTANCE, path, 10**6)


def test_a_download_that_breaks_off_is_tried_again(fake: Fake, tmp_path: Path) -> None:
    whole = multipart(ct_file())
    half = Reply(200, whole.body[:9000], {**whole.headers, "Content-Length": str(len(whole.body))})
    fake.answer = lambda _: half if len(fake.seen) == 1 else whole
    client_of(fake, retries=1).download(STUDY, SERIES, INSTANCE, tmp_path / "x.dcm", 10**6)
    assert (tmp_path / "x.dcm").read_bytes() == ct_file()
    assert len(fake.seen) == 2


@pytest.mark.parametrize("lost", [1, 2, 8, 9, 500, len(ct_file()) + 9])
def test_a_body_that_ends_before_its_parts_do_is_tried_again(
    fake: Fake, tmp_path: Path, lost: int
) -> None:
    whole = multipart(ct_file())
    # HTTP/1.0: the body ends with the connection, so nothing else tells that it broke.
    half = Reply(200, whole.body[:-lost], {**whole.headers, "Content-Length": ""})
    fake.answer = lambda _: half
    with pytest.raises(PacsError, match=f"{INSTANCE}: no connection, or it broke off"):
        client_of(fake).download(STUDY, SERIES, INSTANCE, tmp_path / "x.dcm", 10**6)
    assert list(tmp_path.iterdir()) == []
    fake.seen.clear()
    fake.answer = lambda _: half if len(fake.seen) == 1 else whole
    client_of(fake, retries=1).download(STUDY, SERIES, INSTANCE, tmp_path / "x.dcm", 10**6)
    assert (tmp_path / "x.dcm").read_bytes() == ct_file()


# Storing


def dataset() -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(ct_file()))


def stow_answer(**sequences: list[dict[str, Any]]) -> dict[str, Any]:
    tags = {"failed": "00081198", "stored": "00081199"}
    return {tags[name]: {"vr": "SQ", "Value": items} for name, items in sequences.items()}


def failed_item(reason: int) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [CT]},
        "00081155": {"vr": "UI", "Value": [INSTANCE]},
        "00081197": {"vr": "US", "Value": [reason]},
    }


def test_an_object_is_stored_once_in_one_piece(fake: Fake) -> None:
    fake.answer = lambda _: as_json(stow_answer(stored=[{"00081155": {"vr": "UI", "Value": []}}]))
    assert client_of(fake).store(dataset(), STUDY) == ""
    (request,) = fake.seen
    assert (request.method, request.path) == ("POST", f"/dw/studies/{STUDY}")
    assert ct_file() in request.body
    assert request.headers["Accept"] == "application/dicom+json"


def test_a_warning_is_handed_on(fake: Fake) -> None:
    item = {
        "00081155": {"vr": "UI", "Value": [INSTANCE]},
        "00081196": {"vr": "US", "Value": [0xB000]},
    }
    fake.answer = lambda _: as_json(stow_answer(stored=[item]))
    assert client_of(fake).store(dataset(), STUDY) == "B000"


@pytest.mark.parametrize("kind", ["application/dicom+json; charset=utf-8", "Application/Json", ""])
def test_a_report_is_read_whatever_stands_behind_its_type(fake: Fake, kind: str) -> None:
    item = {
        "00081155": {"vr": "UI", "Value": [INSTANCE]},
        "00081196": {"vr": "US", "Value": [0xB000]},
    }
    warned = stow_answer(stored=[item])
    fake.answer = lambda _: Reply(200, as_json(warned).body, {"Content-Type": kind})
    # Without a type it could be anything.
    assert client_of(fake).store(dataset(), STUDY) == ("B000" if kind else "")
    fake.answer = lambda _: Reply(202, as_json(refused()).body, {"Content-Type": kind})
    if kind:
        with pytest.raises(PacsError, match="failed, reason 0122"):
            client_of(fake).store(dataset(), STUDY)


def refused() -> dict[str, Any]:
    return stow_answer(failed=[failed_item(0x0122)])


def test_an_object_the_archive_could_not_even_read(fake: Fake) -> None:
    answer = {"0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xC000]}}]}}
    fake.answer = lambda _: as_json(answer, 202)
    with pytest.raises(PacsError, match=f"{INSTANCE} failed, reason C000 .not understood"):
        client_of(fake).store(dataset(), STUDY)


@pytest.mark.parametrize("status", [200, 202, 409])
@pytest.mark.parametrize(
    ("reason", "says"),
    [(0x0122, "0122 .not?.*supported"), (0xA700, "A700 .out of resources"), (0x7777, "7777")],
)
def test_an_object_the_archive_did_not_take(
    fake: Fake, status: int, reason: int, says: str
) -> None:
    fake.answer = lambda _: as_json(stow_answer(failed=[failed_item(reason)]), status)
    with pytest.raises(PacsError, match=f"{fake.host}.*{INSTANCE} failed, reason"):
        client_of(fake).store(dataset(), STUDY)


@pytest.mark.parametrize(
    "reply", [Reply(409), as_json({}, 409), Reply(409, b"<x/>", {"Content-Type": "text/xml"})]
)
def test_a_conflict_without_reasons(fake: Fake, reply: Reply) -> None:
    fake.answer = lambda _: reply
    with pytest.raises(PacsError, match="HTTP 409 Conflict; the server took none"):
        client_of(fake).store(dataset(), STUDY)


@pytest.mark.parametrize("reply", [Reply(503), Reply(200, b"x", {"Content-Length": "9"})])
def test_nothing_is_sent_twice(fake: Fake, reply: Reply) -> None:
    fake.answer = lambda _: reply
    with pytest.raises(PacsError):
        client_of(fake, retries=5).store(dataset(), STUDY)
    assert len(fake.seen) == 1


# Looking whether it is there

IDENTITY = SegIdentity("2.25.7", ("2.25.71", "2.25.72"), ("2.25.9",))
PICTURES = Chosen(SERIES, "CT", ())


def confirm(fake: Fake) -> None:
    study._confirm(client_of(fake), STUDY, PICTURES, IDENTITY)


def seg_matches(*uids: str, sop_class: str = SEG) -> list[dict[str, Any]]:
    matches = [instance_match(uid, sop_class) for uid in uids]
    for match in matches:
        match["0020000E"]["Value"] = [IDENTITY.series_uid]
    return matches


def told_twice(uid: str) -> list[dict[str, Any]]:
    matches = seg_matches(uid, uid)
    matches[1]["00081190"] = {"vr": "UR", "Value": ["https://other.example/1"]}
    return matches


def archive_with(matches: list[dict[str, Any]], *referenced: str) -> Callable[[Request], Reply]:
    metadata = {
        "00081115": {
            "vr": "SQ",
            "Value": [{"0020000E": {"vr": "UI", "Value": [uid]}} for uid in referenced],
        }
    }

    def answer(request: Request) -> Reply:
        if request.path.endswith("/metadata"):
            return as_json([metadata])
        return paged(*matches)(request)

    return answer


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_CONFIRM_PAUSES_S", (0.0, 0.0, 0.0))


@pytest.mark.usefixtures("no_waiting")
def test_segmentations_that_are_there(fake: Fake) -> None:
    fake.answer = archive_with(seg_matches(*IDENTITY.instance_uids), SERIES)
    confirm(fake)
    asked = [r.path for r in fake.seen if r.path.endswith("/metadata")]
    assert asked == [
        f"/dw/studies/{STUDY}/series/2.25.7/instances/{uid}/metadata"
        for uid in IDENTITY.instance_uids
    ]


def test_a_segmentation_of_many_images_may_say_much_about_itself(fake: Fake) -> None:
    metadata = {"00081115": {"vr": "SQ", "Value": [{"0020000E": {"vr": "UI", "Value": [SERIES]}}]}}
    reply = as_json([metadata])
    reply.body += b" " * MAX_ANSWER_BYTES
    fake.answer = lambda _: reply
    assert client_of(fake).referenced_series(STUDY, "2.25.7", "2.25.71") == {SERIES}


@pytest.mark.usefixtures("no_waiting")
def test_segmentations_that_appear_after_a_while(fake: Fake) -> None:
    late = archive_with(seg_matches(*IDENTITY.instance_uids), SERIES)
    early = archive_with(seg_matches("2.25.71"), SERIES)

    def answer(request: Request) -> Reply:
        # A list takes two questions: the second finds nothing more.
        return early(request) if len(fake.seen) <= 2 else late(request)

    fake.answer = answer
    confirm(fake)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (archive_with([], SERIES), "of 2 segmentations that were sent, the archive lists 0"),
        (archive_with(seg_matches("2.25.71"), SERIES), "the archive lists 1"),
        (archive_with(told_twice("2.25.71"), SERIES), "the archive lists 1"),
        (archive_with(seg_matches("2.25.71", "2.25.72", sop_class=CT)), "not as a segmentation"),
        (archive_with(seg_matches("2.25.71", "2.25.72"), "1.9"), "does not refer to series"),
        (archive_with(seg_matches("2.25.71", "2.25.72")), "does not refer to series"),
    ],
    ids=["none", "one", "one twice", "class", "other", "nothing"],
)
def test_segmentations_that_are_not_there_as_sent(
    fake: Fake, answer: Callable[[Request], Reply], says: str
) -> None:
    fake.answer = answer
    with pytest.raises(PacsError, match=f"{fake.host}.*{says}"):
        confirm(fake)
