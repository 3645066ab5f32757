"""Objects from and to an archive: fetched, stored, looked for, and chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dicomweb_client")
pytest.importorskip("highdicom")

import json
import re
import tempfile
import tracemalloc
from io import BytesIO

import pydicom
from fake_pacs import (
    CT,
    INSTANCE,
    SERIES,
    STUDY,
    Fake,
    Reply,
    Request,
    as_json,
    clean_surroundings,
    client_of,
    ct_file,
    fake_server,
    instance_match,
    multipart,
    paged,
    series_match,
)
from tiny import tiny_segmenter
from typer.testing import CliRunner

from textsam.cli import app
from textsam.errors import ImageError, OutputError, PacsError
from textsam.io.dicom import open_series
from textsam.io.limits import Limits
from textsam.io.seg_identity import SegIdentity
from textsam.pacs import PacsClient, study
from textsam.pacs.plan import Chosen, is_image_class, plan_study
from textsam.pacs.session import MAX_ANSWER_BYTES


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    with clean_surroundings(monkeypatch) as kept:
        yield kept


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_server() as server:
        yield server


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


def test_a_file_of_another_study_or_series_is_not_segmented(fake: Fake) -> None:
    """Its segmentation would be sent there, with the name of whoever is examined there."""
    source = dataset()
    for place, keyword in (
        ((str(source.StudyInstanceUID), SERIES), "SeriesInstanceUID"),
        ((STUDY, str(source.SeriesInstanceUID)), "StudyInstanceUID"),
    ):
        archive = StudyOfOne(*place)
        fake.answer = archive
        (done,) = study.segment_study(tiny_segmenter(), client_of(fake), place[0], "tumor").series
        assert (
            f"{INSTANCE} says that its {keyword} is {source[keyword].value} and not" in done.error
        )
        assert archive.stored == []


def test_what_an_archive_spoilt_is_not_taken_for_done_by_the_next_run(fake: Fake) -> None:
    source = dataset()
    place = str(source.StudyInstanceUID), str(source.SeriesInstanceUID)
    fake.answer = archive = StudyOfOne(*place)
    archive.spoilt = True
    for _ in range(2):
        (done,) = study.segment_study(tiny_segmenter(), client_of(fake), place[0], "tumor").series
        assert (done.status, len(archive.stored)) == ("failed", 1)
        assert f"does not refer to series {place[1]}" in done.error
    archive.spoilt = False
    (done,) = study.segment_study(tiny_segmenter(), client_of(fake), place[0], "tumor").series
    assert (done.status, done.error, len(archive.stored)) == ("already there", "", 1)


def test_objects_are_not_sent_over_a_connection_from_before_the_model_worked() -> None:
    source = dataset()
    place = str(source.StudyInstanceUID), str(source.SeriesInstanceUID)
    with fake_server(keep_alive=True) as fake:
        fake.answer = archive = StudyOfOne(*place)
        (done,) = study.segment_study(tiny_segmenter(), client_of(fake), place[0], "tumor").series
    assert (done.status, done.error) == ("stored", "")
    assert [one.SOPInstanceUID for one in archive.stored] == list(done.seg_instance_uids)
    at = [request.method for request in fake.seen].index("POST")
    before, after = ({r.port for r in part} for part in (fake.seen[:at], fake.seen[at:]))
    assert len(before) == len(after) == 1  # else there would be nothing to see
    assert before != after


def test_a_download_that_is_not_multipart(fake: Fake, tmp_path: Path) -> None:
    content = ct_file()
    fake.answer = lambda _: Reply(200, content, {"Content-Type": "application/dicom"})
    client_of(fake).download(STUDY, SERIES, INSTANCE, tmp_path / "one.dcm", 10**6)
    assert (tmp_path / "one.dcm").read_bytes() == content


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
    stored = client_of(fake).store(dataset(), STUDY)
    assert (stored.sop_instance_uid, stored.warning) == (INSTANCE, "")
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
    assert client_of(fake).store(dataset(), STUDY).warning == "B000"


@pytest.mark.parametrize("kind", ["application/dicom+json; charset=utf-8", "Application/Json", ""])
def test_a_report_is_read_whatever_stands_behind_its_type(fake: Fake, kind: str) -> None:
    item = {
        "00081155": {"vr": "UI", "Value": [INSTANCE]},
        "00081196": {"vr": "US", "Value": [0xB000]},
    }
    warned = stow_answer(stored=[item])
    fake.answer = lambda _: Reply(200, as_json(warned).body, {"Content-Type": kind})
    # Without a type it could be anything.
    assert client_of(fake).store(dataset(), STUDY).warning == ("B000" if kind else "")
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

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
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


# Plans


@pytest.mark.parametrize(
    ("name", "uid", "image"),
    [
        ("CT Image Storage", CT, True),
        ("Ultrasound Multi-frame", "1.2.840.10008.5.1.4.1.1.3.1", True),
        ("Enhanced US Volume", "1.2.840.10008.5.1.4.1.1.6.2", True),
        ("Mammography, presentation", "1.2.840.10008.5.1.4.1.1.1.2", True),
        ("Segmentation", "1.2.840.10008.5.1.4.1.1.66.4", False),
        ("Basic Text SR", "1.2.840.10008.5.1.4.1.1.88.11", False),
        ("Presentation State", "1.2.840.10008.5.1.4.1.1.11.1", False),
        ("Key Object Selection", "1.2.840.10008.5.1.4.1.1.88.59", False),
        ("RT Structure Set", "1.2.840.10008.5.1.4.1.1.481.3", False),
        ("Encapsulated PDF", "1.2.840.10008.5.1.4.1.1.104.1", False),
        ("Parametric Map", "1.2.840.10008.5.1.4.1.1.30", False),
        ("private", "1.3.46.670589.11.0.0.12.1", False),
    ],
)
def test_image_classes(name: str, uid: str, image: bool) -> None:
    assert is_image_class(uid) is image, name


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


def answers(
    series: list[dict[str, Any]], instances: dict[str, list[dict[str, Any]]]
) -> Callable[[Request], Reply]:
    def answer(request: Request) -> Reply:
        if request.path.endswith("/series"):
            return paged(*series)(request)
        return paged(*instances[request.path.split("/")[-2]])(request)

    return answer


def test_a_plan_takes_images_and_says_what_it_leaves(fake: Fake) -> None:
    sr = "1.2.840.10008.5.1.4.1.1.88.11"
    fake.answer = answers(
        [series_match("1.1", "CT", 2), series_match("1.2", "SR"), series_match("1.3", "OT", None)],
        {
            "1.1": [instance_match("1.1.1"), instance_match("1.1.2", frames=5)],
            "1.3": [instance_match("1.3.1", sr)],
        },
    )
    plan = plan_study(client_of(fake), STUDY)
    (chosen,) = plan.chosen
    assert (chosen.series_uid, chosen.modality, chosen.frames) == ("1.1", "CT", 6)
    assert [i.sop_instance_uid for i in chosen.instances] == ["1.1.1", "1.1.2"]
    assert [(s.series_uid, s.modality) for s in plan.skipped] == [("1.2", "SR"), ("1.3", "OT")]
    assert "reports" in plan.skipped[0].reason
    assert "Basic Text SR Storage" in plan.skipped[1].reason
    assert plan_study(client_of(fake), STUDY, "1.1").skipped == ()


def damaged_study(limits: Limits, fake: Fake) -> PacsClient:
    """Six images in the first series, ten frames in the second, a list the archive fails at in the
    third, one that lacks images in the fourth, one image in the fifth, a report in the sixth."""
    counts = {"1.1": ("CT", 6), "1.2": ("US", 1), "1.3": ("CT", 1), "1.4": ("MR", 3)}
    series = [series_match(uid, *about) for uid, about in counts.items()]
    listed = answers(
        [*series, series_match("1.5", "CT"), series_match("1.6", "SR")],
        {
            "1.1": [instance_match(f"1.1.{n}") for n in range(6)],
            "1.2": [instance_match("1.2.1", frames=10)],
            "1.4": [instance_match("1.4.1")],
            "1.5": [instance_match("1.5.1")],
        },
    )

    def answer(request: Request) -> Reply:
        if "/series/1.3/" in request.path:
            return Reply(500)
        return Reply(404) if request.path.endswith("/1.5.1") else listed(request)

    fake.answer = answer
    return client_of(fake, limits=limits)


REFUSED = {
    "1.1": "more than 5 entries, the limit; raise --max-images",
    "1.2": "series 1.2: the source holds 10 images, the limit is 5",
    "1.3": "instances of series 1.3: HTTP 500",
    "1.4": "series 1.4 has 3 instances, but the server lists 1",
}


def test_a_series_that_cannot_be_taken_does_not_keep_the_others(fake: Fake) -> None:
    client = damaged_study(Limits(max_images=5), fake)
    plan = plan_study(client, STUDY)
    assert [one.series_uid for one in plan.chosen] == ["1.5"]
    assert [one.series_uid for one in plan.skipped] == ["1.6"]
    assert [(one.series_uid, one.modality) for one in plan.refused] == [
        ("1.1", "CT"),
        ("1.2", "US"),
        ("1.3", "CT"),
        ("1.4", "MR"),
    ]
    for one in plan.refused:
        assert REFUSED[one.series_uid] in one.error
        with pytest.raises(PacsError, match=re.escape(REFUSED[one.series_uid])):
            plan_study(client, STUDY, one.series_uid)
    told: list[str] = []
    summary = study.segment_study(
        tiny_segmenter(), client, STUDY, "tumor", on_series=lambda one: told.append(one.series_uid)
    )
    # The fifth was tried, and is not there.
    assert [(one.series_uid, one.status, one.images) for one in summary.series] == [
        *((uid, "failed", 0) for uid in REFUSED),
        ("1.5", "failed", 1),
    ]
    assert told == [*REFUSED, "1.5"]
    assert [one.error for one in summary.failed[:4]] == [one.error for one in plan.refused]
    assert "HTTP 404" in summary.failed[4].error


def test_the_command_says_which_series_it_would_not_take(fake: Fake) -> None:
    damaged_study(Limits(), fake)
    options = ["pacs", "--dicomweb", fake.url, "--study", STUDY, "--max-images", "5", "--dry-run"]
    told = CliRunner().invoke(app, [*options, "tumor"])
    assert told.exit_code == 1, told.output
    assert "would segment CT 1.5: 1 image\n" in told.stdout
    errors = told.stderr.splitlines()
    assert [line.split(": ")[:2] for line in errors] == [
        ["error", f"series {uid}"] for uid in REFUSED
    ]
    for line, says in zip(errors, REFUSED.values(), strict=True):
        assert says in line
    told = CliRunner().invoke(app, [*options, "--json", "tumor"])
    assert told.exit_code == 1
    listed = json.loads(told.stdout)["series"]
    assert {one["series_uid"]: one["status"] for one in listed} == {
        "1.5": "would segment",
        **dict.fromkeys(REFUSED, "failed"),
    }
    assert all((one["error"] is None) == (one["status"] != "failed") for one in listed)


def test_an_archive_that_goes_away_is_no_fault_of_a_series(fake: Fake) -> None:
    listed = answers([series_match("1.1"), series_match("1.2")], {"1.1": [instance_match("1.1.1")]})
    fake.answer = lambda request: Reply(503) if "/1.2/" in request.path else listed(request)
    with pytest.raises(PacsError, match="HTTP 503"):
        plan_study(client_of(fake), STUDY)


def test_a_series_fails_where_there_is_no_temporary_folder(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answer = answers(
        [series_match("1.1"), series_match("1.2")],
        {"1.1": [instance_match("1.1.1")], "1.2": [instance_match("1.2.1")]},
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    told: list[str] = []
    summary = study.segment_study(
        tiny_segmenter(),
        client_of(fake),
        STUDY,
        "tumor",
        on_series=lambda one: told.append(one.series_uid),
    )
    assert told == ["1.1", "1.2"]
    for one in summary.series:
        assert one.status == "failed"
        assert "No such file or directory" in one.error
        assert "set TMPDIR" in one.error


def test_a_plan_for_what_is_not_there(fake: Fake) -> None:
    fake.answer = answers([], {})
    with pytest.raises(PacsError, match=f"no study {STUDY}"):
        plan_study(client_of(fake), STUDY)
    fake.answer = answers([series_match("1.1", "SR")], {})
    with pytest.raises(PacsError, match=r"no series 1\.5"):
        plan_study(client_of(fake), STUDY, "1.5")
    with pytest.raises(PacsError, match=r"no images.*SR 1\.1.*reports"):
        plan_study(client_of(fake), STUDY)


def test_a_list_that_lacks_instances_is_not_taken_for_the_series(fake: Fake) -> None:
    fake.answer = answers([series_match("1.1", "CT", 5)], {"1.1": [instance_match("1.1.1")]})
    with pytest.raises(PacsError, match="has 5 instances, but the server lists 1"):
        plan_study(client_of(fake), STUDY)
