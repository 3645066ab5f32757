"""Studies: which of their series are taken, and what becomes of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dicomweb_client")
pytest.importorskip("highdicom")

import json
import re
import tempfile
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
    StudyOfOne,
    client_of,
    ct_file,
    fake_server,
    instance_match,
    paged,
    series_match,
)
from tiny import tiny_segmenter
from typer.testing import CliRunner

from textsam.cli import app
from textsam.errors import PacsError
from textsam.io.limits import Limits
from textsam.pacs import PacsClient, study
from textsam.pacs.plan import is_image_class, plan_study

pytestmark = pytest.mark.usefixtures("pauses")


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


# Runs


def dataset() -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(ct_file()))


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
