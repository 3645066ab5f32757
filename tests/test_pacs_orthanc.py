"""Segmentations into a real archive: Orthanc on loopback, where it is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("dicomweb_client")
pytest.importorskip("highdicom")

import highdicom
import pydicom
from click.testing import Result
from dicom_files import make
from orthanc import MISSING, PASSWORD, USER, Orthanc, running_orthanc
from pydicom.data import get_testdata_file
from pydicom.uid import (
    CTImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
)
from tiny import tiny_segmenter
from typer.testing import CliRunner

from textsam import api
from textsam.cli import app
from textsam.errors import PacsError, PromptError
from textsam.inference.segmenter import Segmenter
from textsam.io.dicom import open_series
from textsam.io.limits import Limits
from textsam.pacs import PacsClient, StudySummary, connect, plan_study, segment_study
from textsam.pacs.address import PASSWORD as PASSWORD_VARIABLE
from textsam.pacs.address import TOKEN
from textsam.pacs.address import USER as USER_VARIABLE
from textsam.result import Segmentation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]

PROMPTS = ("tumor", "lung")
SIDE = 48


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as started:
        yield started


@pytest.fixture(autouse=True)
def empty_archive(archive: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.clear()
    for name in (TOKEN, USER_VARIABLE, PASSWORD_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(archive: Orthanc) -> Iterator[PacsClient]:
    with connect(archive.url, timeout_s=120) as made:
        yield made


def bundled(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def phantom(number: int, count: int = 5, **changes: Any) -> pydicom.Dataset:
    """Slice `number` of a CT: a bright ball in noise, 2 mm between slices, 0.5 × 0.8 mm pixels."""
    ys, xs = np.mgrid[:SIDE, : SIDE + 8]
    distance = (ys - 20) ** 2 + (xs - 30) ** 2 + (8 * (number - count // 2)) ** 2
    values = np.random.default_rng(number).normal(1000, 20, ys.shape) + 200 * (distance < 150)
    return make(
        values.astype(np.int16),
        **{
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": f"1.2.826.0.1.3680043.8.498.1.1.1.{number + 1}",
            "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.1.1",
            "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
            "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.2",
            "PatientName": "Phantom^Ball",
            "PatientID": "ball",
            **dict.fromkeys(("PatientBirthDate", "PatientSex", "AccessionNumber"), ""),
            **dict.fromkeys(("ReferringPhysicianName", "StudyID"), ""),
            "StudyDate": "20240101",
            "StudyTime": "120000",
            "Modality": "CT",
            "SeriesNumber": 3,
            # Against the order of the positions, so that one cannot be taken for the other.
            "InstanceNumber": count - number,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [-10.0, 20.0, -30.0 + 2.0 * number],
            "PixelSpacing": [0.5, 0.8],
            "SliceThickness": 2.0,
            "RescaleIntercept": -1024,
            "RescaleSlope": 1,
            **changes,
        },
    )


def expected(
    segmenter: Segmenter, folder: Path, files: Sequence[bytes]
) -> dict[str, list[Segmentation]]:
    """SOP Instance UID -> answers, by reading and asking without the code under test."""
    folder.mkdir()
    for number, content in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(content)
    stack = open_series(folder)
    answers: dict[str, list[Segmentation]] = {}
    for index in range(len(stack)):
        file, frame = stack.where(index)
        uid = str(stack.headers[file].SOPInstanceUID)
        answers[f"{uid}#{frame + 1}"] = segmenter.segment(stack.read(index), list(PROMPTS))
    return answers


def frames_of(seg: pydicom.Dataset) -> dict[tuple[str, int], tuple[np.ndarray, Any]]:
    """(source image "UID#frame", segment number) -> (mask, its frame's functional groups)."""
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    found = {}
    for frame, groups in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        number = source.get("ReferencedFrameNumber", 1)
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[(f"{source.ReferencedSOPInstanceUID}#{number}", segment)] = (frame, groups)
    return found


def check_masks(
    segs: Sequence[pydicom.Dataset], answers: dict[str, list[Segmentation]], series_uid: str
) -> None:
    """The frames in the archive are the masks; what has no frame is empty."""
    stored: dict[tuple[str, int], tuple[np.ndarray, Any]] = {}
    for seg in segs:
        assert seg.SOPClassUID == SegmentationStorage
        assert seg.Modality == "SEG"
        assert [s.SegmentLabel for s in seg.SegmentSequence] == list(PROMPTS)
        (referenced,) = seg.ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == series_uid
        stored |= frames_of(seg)
    masks = {
        (source, number): answer.mask
        for source, given in answers.items()
        for number, answer in enumerate(given, start=1)
    }
    assert any(mask.any() for mask in masks.values()), "the test would show nothing"
    assert set(stored) <= set(masks)
    for key, mask in masks.items():
        if key in stored:
            assert np.array_equal(stored[key][0], mask), key
        else:
            assert not mask.any(), key


def run(client: PacsClient, study: str, **options: Any) -> StudySummary:
    segmenter = options.pop("segmenter", None) or tiny_segmenter()
    return segment_study(segmenter, client, study, PROMPTS, **options)


def uids(archive: Orthanc) -> set[str]:
    return {str(d.SOPInstanceUID) for d in archive.instances()}


def test_a_series_becomes_one_seg_with_the_right_positions(
    archive: Orthanc, client: PacsClient, tmp_path: Path
) -> None:
    slices = [phantom(number) for number in range(5)]
    archive.add(*slices)
    study, series = slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID
    summary = run(client, study)
    (done,) = summary.series
    assert (done.series_uid, done.modality, done.images, done.status) == (series, "CT", 5, "stored")
    assert (done.error, summary.skipped, summary.failed) == ("", (), ())
    assert summary.server == client.address.label

    (seg,) = archive.instances("SEG")
    assert done.seg_instance_uids == (seg.SOPInstanceUID,)
    assert (seg.StudyInstanceUID, seg.PatientID) == (study, "ball")
    assert seg.SeriesInstanceUID == done.seg_series_uid != series
    answers = expected(tiny_segmenter(), tmp_path / "in", [as_bytes(s) for s in slices])
    check_masks([seg], answers, series)
    assert done.found == {
        prompt: sum(given[at].found for given in answers.values())
        for at, prompt in enumerate(PROMPTS)
    }
    assert seg.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    read = highdicom.seg.segread(BytesIO(as_bytes(seg)))
    pixels = read.get_pixels_by_source_instance(
        [key.split("#")[0] for key in answers], assert_missing_frames_are_empty=True
    )
    wanted = np.stack([np.stack([a.mask for a in given], -1) for given in answers.values()])
    assert np.array_equal(pixels, wanted)
    positions = {f"{s.SOPInstanceUID}#1": list(s.ImagePositionPatient) for s in slices}
    for (source, _), (_, groups) in frames_of(seg).items():
        plane = groups.PlanePositionSequence[0].ImagePositionPatient
        assert [float(v) for v in plane] == positions[source]
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == [0.5, 0.8]


def test_the_same_question_is_answered_once(
    archive: Orthanc, client: PacsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = [phantom(number) for number in range(3)]
    archive.add(*slices)
    study = slices[0].StudyInstanceUID
    first = run(client, study)
    before = uids(archive)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked of the model, or sent")

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "segment_batch", never)
        patch.setattr(PacsClient, "store", never)
        (again,) = run(client, study).series
    assert again.status == "already there"
    assert again.seg_instance_uids == first.series[0].seg_instance_uids
    assert again.found == {}
    assert uids(archive) == before


@pytest.mark.parametrize(
    "change",
    [
        {"fractional": True},
        {"refine": 0},
        {"window": -1},
        {"crop": False},
        {"found_threshold": 0.2},
        {"fingerprint": "other"},
        {"prompts": ("lung", "tumor")},
        {"prompts": ("tumor",)},
    ],
    ids="-".join,
)
def test_another_question_is_answered_anew(
    archive: Orthanc, client: PacsClient, change: dict[str, Any]
) -> None:
    source = phantom(0)
    archive.add(source)
    study = source.StudyInstanceUID
    first = run(client, study).series[0]
    options = dict(change)
    segmenter = tiny_segmenter(**{k: options.pop(k) for k in ("found_threshold",) if k in options})
    segmenter.fingerprint = options.pop("fingerprint", segmenter.fingerprint)
    prompts = options.pop("prompts", PROMPTS)
    second = segment_study(segmenter, client, study, prompts, **options).series[0]
    assert second.status == "stored"
    assert second.seg_series_uid != first.seg_series_uid
    assert not set(second.seg_instance_uids) & set(first.seg_instance_uids)
    assert len(archive.instances("SEG")) == 2


def test_probabilities(archive: Orthanc, client: PacsClient) -> None:
    source = phantom(2)
    archive.add(source)
    summary = run(client, source.StudyInstanceUID, fractional=True)
    (seg,) = archive.instances("SEG")
    assert summary.fractional
    assert (seg.SegmentationType, seg.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    stack = open_series([_file(source, Path(archive.folder))])
    answers = tiny_segmenter().segment(stack.read(0), list(PROMPTS))
    stored = frames_of(seg)
    for number, answer in enumerate(answers, start=1):
        frame, _ = stored[(f"{source.SOPInstanceUID}#1", number)]
        assert np.abs(frame / seg.MaximumFractionalValue - answer.probability).max() <= 0.5 / 255


def test_an_ultrasound_cine(archive: Orthanc, client: PacsClient, tmp_path: Path) -> None:
    source = bundled("examples_ybr_color.dcm")
    with pydicom.dcmread(source) as read:
        whole = read
    few = short_cine(whole, frames=3)
    archive.add(few)
    summary = run(client, few.StudyInstanceUID)
    (done,) = summary.series
    assert (done.error, done.status, done.images) == ("", "stored", 3)
    segs = archive.instances("SEG")
    # Nothing in ultrasound says where a frame lies, so each has a SEG of its own.
    assert {str(s.SOPInstanceUID) for s in segs} == set(done.seg_instance_uids)
    answers = expected(tiny_segmenter(), tmp_path / "in", [as_bytes(few)])
    check_masks(segs, answers, few.SeriesInstanceUID)
    assert run(client, few.StudyInstanceUID).series[0].status == "already there"
    assert len(archive.instances("SEG")) == len(segs)


def test_a_run_that_broke_off_is_completed(
    archive: Orthanc, client: PacsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = short_cine(pydicom.dcmread(bundled("examples_ybr_color.dcm")), frames=3)
    archive.add(few)
    real, sent = PacsClient.store, []

    def breaks(self: PacsClient, dataset: Any, study: str) -> Any:
        if sent:
            raise PacsError("127.0.0.1: broke off")
        sent.append(dataset.SOPInstanceUID)
        return real(self, dataset, study)

    with monkeypatch.context() as patch:
        patch.setattr(PacsClient, "store", breaks)
        (failed,) = run(client, few.StudyInstanceUID).series
    assert (failed.status, failed.error) == ("failed", "127.0.0.1: broke off")
    assert len(archive.instances("SEG")) == 1

    again: list[str] = []

    def counts(self: PacsClient, dataset: Any, study: str) -> Any:
        again.append(dataset.SOPInstanceUID)
        return real(self, dataset, study)

    monkeypatch.setattr(PacsClient, "store", counts)
    (done,) = run(client, few.StudyInstanceUID).series
    assert done.status == "stored"
    assert len(again) == 2
    assert (
        {*sent, *again}
        == set(done.seg_instance_uids)
        == {d.SOPInstanceUID for d in archive.instances("SEG")}
    )


def test_what_is_not_there_is_stored_as_empty(archive: Orthanc, client: PacsClient) -> None:
    source = phantom(0)
    archive.add(source)
    summary = run(client, source.StudyInstanceUID, segmenter=tiny_segmenter(found_threshold=1.0))
    (done,) = summary.series
    assert (done.status, done.found) == ("stored", {"tumor": 0, "lung": 0})
    (seg,) = archive.instances("SEG")
    assert [s.SegmentLabel for s in seg.SegmentSequence] == list(PROMPTS)
    assert not seg.pixel_array.any()


def test_only_the_images_of_a_study_are_taken(
    archive: Orthanc, client: PacsClient, tmp_path: Path
) -> None:
    source = phantom(0)
    study = source.StudyInstanceUID
    report = pydicom.dcmread(bundled("reportsi.dcm"))
    report.StudyInstanceUID = study
    report.PatientID, report.PatientName = "ball", "Phantom^Ball"
    ultrasound = pydicom.dcmread(bundled("examples_palette.dcm"))
    ultrasound.StudyInstanceUID = study
    ultrasound.PatientID = "ball"
    archive.add(source, report, ultrasound)
    summary = run(client, study)
    assert {(s.modality, s.status) for s in summary.series} == {("CT", "stored"), ("US", "stored")}
    (skipped,) = summary.skipped
    assert (skipped.series_uid, skipped.modality) == (report.SeriesInstanceUID, "SR")
    # Its own segmentations are no images to segment.
    again = run(client, study)
    assert {s.status for s in again.series} == {"already there"}
    assert sorted(s.modality for s in again.skipped) == ["SEG", "SEG", "SR"]
    only = run(client, study, series_uid=str(ultrasound.SeriesInstanceUID), refine=0)
    assert [(s.modality, s.status) for s in only.series] == [("US", "stored")]
    answers = expected(tiny_segmenter(), tmp_path / "in", [as_bytes(ultrasound)])
    first = next(s for s in summary.series if s.modality == "US")
    segs = [s for s in archive.instances("SEG") if s.SOPInstanceUID in first.seg_instance_uids]
    check_masks(segs, answers, ultrasound.SeriesInstanceUID)


def test_a_study_without_images_says_so(archive: Orthanc, client: PacsClient) -> None:
    archive.add(bundled("reportsi.dcm"))
    report = pydicom.dcmread(bundled("reportsi.dcm"))
    with pytest.raises(PacsError, match=r"no images to segment.*SR.*structured reports") as caught:
        run(client, report.StudyInstanceUID)
    assert "Last Name" not in str(caught.value)


def test_a_study_that_is_not_there(client: PacsClient) -> None:
    with pytest.raises(PacsError, match=r"no study 1\.2\.3\.4"):
        run(client, "1.2.3.4")


def test_a_prompt_that_cannot_be_used_asks_nothing(client: PacsClient) -> None:
    with pytest.raises(PromptError):
        segment_study(tiny_segmenter(), client, "1.2.3.4", ["tumor", " "])
    with pytest.raises(PromptError, match="giraffe"):
        segment_study(tiny_segmenter(), client, "1.2.3.4", "giraffe", strict=True)


def test_a_damaged_image_leaves_no_half_answer(archive: Orthanc, client: PacsClient) -> None:
    good = phantom(0, SeriesInstanceUID="1.2.826.0.1.3680043.8.498.1.9")
    slices = [phantom(number) for number in range(1, 4)]
    slices[1].PixelData = slices[1].PixelData[:1000]
    archive.add(good, *slices)
    summary = run(client, good.StudyInstanceUID)
    status = {s.series_uid: s.status for s in summary.series}
    assert status == {good.SeriesInstanceUID: "stored", slices[0].SeriesInstanceUID: "failed"}
    (failed,) = summary.failed
    assert slices[1].SOPInstanceUID in failed.error
    assert len(archive.instances("SEG")) == 1


def test_limits_hold_for_a_series(archive: Orthanc) -> None:
    slices = [phantom(number) for number in range(3)]
    archive.add(*slices)
    size = len(as_bytes(slices[0]))
    for granted, status in ((2 * size + 100, "failed"), (3 * size, "stored")):
        with connect(archive.url, limits=Limits(max_bytes=granted)) as client:
            (done,) = run(client, slices[0].StudyInstanceUID).series
        assert done.status == status, done.error
        assert ("bytes, the limit" in done.error) == (status == "failed")
    big = phantom(0, Rows=512, Columns=512, PixelData=bytes(512 * 512 * 2))
    archive.clear()
    archive.add(big)
    with connect(archive.url, limits=Limits(max_bytes=100_000)) as client:
        (done,) = run(client, big.StudyInstanceUID).series
    assert done.status == "failed"
    assert "more than" in done.error


def test_an_archive_that_wants_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = phantom(0)
    with running_orthanc(tmp_path, login=True) as locked:
        locked.add(source)
        with connect(locked.url) as stranger, pytest.raises(PacsError, match=r"HTTP 401.*wants"):
            run(stranger, source.StudyInstanceUID)
        monkeypatch.setenv(USER_VARIABLE, USER)
        monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
        with connect(locked.url) as wrong, pytest.raises(PacsError, match="are refused") as caught:
            run(wrong, source.StudyInstanceUID)
        assert "wrong" not in str(caught.value)
        monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
        with connect(locked.url) as friend:
            assert run(friend, source.StudyInstanceUID).series[0].status == "stored"
        assert len(locked.instances("SEG")) == 1


# The command line


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []

    def load_model(*arguments: Any, **others: Any) -> Segmenter:
        asked.append((*arguments, others))
        return tiny_segmenter()

    monkeypatch.setattr(api, "load_model", load_model)
    return asked


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["pacs", *arguments])


def test_the_command(archive: Orthanc, tiny_model: list[tuple[Any, ...]]) -> None:
    source = phantom(0)
    report = pydicom.dcmread(bundled("reportsi.dcm"))
    report.StudyInstanceUID = source.StudyInstanceUID
    archive.add(source, report)
    where = ("--dicomweb", archive.url, "--study", source.StudyInstanceUID)

    dry = command(*where, "tumor", "lung", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert f"would segment CT {source.SeriesInstanceUID}: 1 image\n" in dry.stdout
    assert f"skipped SR {report.SeriesInstanceUID}" in dry.stdout
    assert tiny_model == []
    assert archive.instances("SEG") == []

    plan = json.loads(command(*where, "tumor", "--dry-run", "--json").stdout)
    assert plan["dry_run"] is True
    assert [s["status"] for s in plan["series"]] == ["would segment"]

    first = command(*where, "tumor", "lung", "--json", "--adapter", "some", "--device", "cpu")
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert told["format"] == 1
    assert (told["study_uid"], told["prompts"]) == (source.StudyInstanceUID, ["tumor", "lung"])
    (series,) = told["series"]
    (seg,) = archive.instances("SEG")
    assert (series["status"], series["seg_instance_uids"]) == ("stored", [seg.SOPInstanceUID])
    assert [s["modality"] for s in told["skipped"]] == ["SR"]
    assert tiny_model[0][:3] == ("lite", "some", "cpu")
    assert "Phantom" not in first.output

    second = command(*where, "tumor", "lung")
    assert second.exit_code == 0, second.output
    assert f"already there: 1 SEG in series {series['seg_series_uid']}" in second.stdout
    assert len(archive.instances("SEG")) == 1

    third = command(*where, "tumor", "--fractional")
    assert third.exit_code == 0, third.output
    assert "found tumor in" in third.stdout
    assert len(archive.instances("SEG")) == 2


def test_the_command_fails_with_one_line(
    archive: Orthanc, tiny_model: list[tuple[Any, ...]]
) -> None:
    for options, says in [
        (["--dicomweb", archive.url, "--study", "1.2.3.4"], "no study 1.2.3.4"),
        (["--dicomweb", archive.url + "x", "--study", "1.2.3.4"], "HTTP 404"),
        (["--dicomweb", "http://pacs.example/x", "--study", "1.2.3.4"], "--allow-http"),
        (["--dicomweb", archive.url, "--study", "../x"], "not a DICOM UID"),
        (["--dicomweb", archive.url, "--study", "1.2", "--timeout-s", "0"], "timeout_s"),
        (["--dicomweb", archive.url, "--study", "1.2", "--ca", "none.pem"], "none.pem"),
    ]:
        done = command(*options, "tumor")
        assert done.exit_code == 1, done.output
        assert done.stderr.startswith("error: ")
        assert says in done.stderr
        assert done.stdout == ""
    assert tiny_model == []


def test_the_command_reports_a_series_that_failed(
    archive: Orthanc, tiny_model: list[tuple[Any, ...]]
) -> None:
    broken = phantom(0, PixelData=bytes(100))
    archive.add(broken)
    done = command("--dicomweb", archive.url, "--study", broken.StudyInstanceUID, "tumor", "--json")
    assert done.exit_code == 1
    (series,) = json.loads(done.stdout)["series"]
    assert series["status"] == "failed"
    assert series["error"]
    assert f"error: series {broken.SeriesInstanceUID}" in done.stderr


def test_ultrasound_classes_are_images(archive: Orthanc, client: PacsClient) -> None:
    source = phantom(0, SOPClassUID=UltrasoundImageStorage, Modality="US")
    archive.add(source)
    assert [c.modality for c in plan_study(client, source.StudyInstanceUID).chosen] == ["US"]


def as_bytes(dataset: pydicom.Dataset) -> bytes:
    target = BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def _file(dataset: pydicom.Dataset, folder: Path) -> Path:
    path = folder / "one.dcm"
    path.write_bytes(as_bytes(dataset))
    return path


def short_cine(whole: pydicom.Dataset, frames: int) -> pydicom.Dataset:
    """The first frames of an encapsulated cine."""
    from pydicom.encaps import encapsulate, generate_frames

    kept = [
        frame
        for _, frame in zip(
            range(frames),
            generate_frames(whole.PixelData, number_of_frames=int(whole.NumberOfFrames)),
            strict=False,
        )
    ]
    whole.PixelData = encapsulate(kept)
    whole.NumberOfFrames = frames
    if "FrameTimeVector" in whole:
        del whole.FrameTimeVector
    return whole


def script(name: str) -> str:
    """The file of that name in docs/clinical.md."""
    text = (Path(__file__).parents[1] / "docs" / "clinical.md").read_text(encoding="utf-8")
    return text.split(f"<!-- file: {name} -->\n```python\n")[1].split("\n```\n")[0]


def test_the_scripts_of_the_document(
    archive: Orthanc, client: PacsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(script("phantom.py"), "phantom.py", "exec"), {})
    image = open_series([tmp_path / "phantom.dcm"]).read(0)
    assert image.region_px == (40, 30, 599, 449)
    assert image.spacing_mm == pytest.approx((0.08, 0.08))
    archive.add(tmp_path / "phantom.dcm")
    (done,) = run(client, "2.25.1001").series
    assert done.status == "stored", done.error

    show = script("show.py")
    assert "http://127.0.0.1:8042/dicom-web" in show
    names: dict[str, Any] = {}
    code = show.replace("http://127.0.0.1:8042/dicom-web", archive.url)
    exec(compile(code, "show.py", "exec"), names)
    answers = tiny_segmenter().segment(image, list(PROMPTS))
    for answer in answers:
        assert np.array_equal(names["masks"][answer.prompt], answer.mask)
    assert np.array_equal(names["pixels"], image.pixels)
    assert (tmp_path / "pacs.png").is_file()
    names["archive"]._session.close()
