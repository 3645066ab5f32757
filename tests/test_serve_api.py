"""What the server answers: masks, formats, refusals; and nothing of an upload left behind."""

from __future__ import annotations

import base64
import errno
import gzip
import io
import json
import logging
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from dicom_files import ramp, save
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from serving import (
    Held,
    ask,
    encoded,
    error_of,
    mask_of,
    multipart,
    picture,
    png,
    queue_of,
    served,
    small_limits,
    wait_until,
)
from tiny import tiny_segmenter

import textsam
from textsam.inference.segmenter import Segmenter
from textsam.io.open import open_stack
from textsam.serve.answers import run_lengths


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return tiny_segmenter()


@pytest.fixture(scope="module")
def client(segmenter: Segmenter) -> Iterator[TestClient]:
    with served(tiny_segmenter(), limits=small_limits()) as client:
        yield client


def test_answer_is_that_of_the_library(client: TestClient, segmenter: Segmenter) -> None:
    wanted = segmenter.segment(picture(), ["tumor", "lungs"])
    body = ask(client, prompts=["tumor", "lungs"]).json()
    assert (body["format"], body["model"], body["adapter"]) == (1, "lite", "tiny")
    assert body["textsam"] == textsam.__version__
    assert body["warnings"] == []
    assert body["image"] == {
        "height": 40,
        "width": 56,
        "sha256": wanted[0].image.sha256(),
        "spacing_mm": None,
        "region_px": None,
        "type": "png",
        "frame": 0,
        "frames": 1,
    }
    assert "preview" not in body
    assert [entry["prompt"] for entry in body["results"]] == ["tumor", "lungs"]
    for entry, result in zip(body["results"], wanted, strict=True):
        assert result.found  # otherwise the comparison says little
        np.testing.assert_array_equal(mask_of(entry), result.mask)
        facts = result.to_dict()
        assert {key: entry[key] for key in ("found", "score", "box", "area_px", "extra")} == {
            key: facts[key] for key in ("found", "score", "box", "area_px", "extra")
        }
        assert "overlay" not in entry


def test_masks_as_png_are_the_same_masks(client: TestClient) -> None:
    as_runs, as_png = (ask(client, masks=kind).json()["results"][0] for kind in ("rle", "png"))
    assert as_png["mask"]["encoding"] == "png"
    np.testing.assert_array_equal(mask_of(as_png), mask_of(as_runs))


# pycocotools 2.0.11 implements numpy's older array protocol.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans()))
def test_run_lengths_are_those_of_coco(mask: Any) -> None:
    runs = run_lengths(mask)
    assert sum(runs["counts"]) == mask.size
    assert all(count > 0 for count in runs["counts"][1:])
    np.testing.assert_array_equal(mask_of({"mask": {"encoding": "rle", **runs}}), mask)
    coco = pytest.importorskip("pycocotools.mask")
    packed = coco.frPyObjects(runs, *runs["size"])
    np.testing.assert_array_equal(coco.decode(packed).astype(bool), mask)


def test_png_answer_is_the_mask(client: TestClient, segmenter: Segmenter) -> None:
    wanted = segmenter.segment(picture(), "tumor")
    response = ask(client, format="png")
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-textsam-found"] == "true"
    assert float(response.headers["x-textsam-score"]) == pytest.approx(wanted.score, abs=1e-4)
    mask = PIL.Image.open(io.BytesIO(response.content))
    assert mask.mode == "L"
    np.testing.assert_array_equal(np.asarray(mask), np.where(wanted.mask, 255, 0))


def test_png_answer_holds_one_mask(client: TestClient) -> None:
    response = ask(client, format="png", prompts=["tumor", "lung"])
    assert error_of(response) == (422, "PromptError")
    assert "masks=png" in response.json()["error"]["message"]


def test_refine_reaches_the_model(client: TestClient, segmenter: Segmenter) -> None:
    for refine in (0, 3):
        entry = ask(client, refine=refine).json()["results"][0]
        assert entry["extra"]["refine"] == refine
        wanted = segmenter.segment(picture(), "tumor", refine=refine)
        np.testing.assert_array_equal(mask_of(entry), wanted.mask)


def test_overlay_and_preview_come_when_asked_for(client: TestClient) -> None:
    body = ask(client, overlay="true", preview="true").json()
    seen = PIL.Image.open(io.BytesIO(base64.b64decode(body["preview"])))
    np.testing.assert_array_equal(np.asarray(seen), picture())
    overlay = PIL.Image.open(io.BytesIO(base64.b64decode(body["results"][0]["overlay"])))
    assert overlay.size[0] >= 56
    assert (
        np.ptp(np.asarray(overlay.convert("RGB")).astype(int), axis=2).max() > 50
    )  # it has colour


def test_unknown_prompt_is_answered_with_a_warning(client: TestClient) -> None:
    body = ask(client, prompts=["tumor", "left lung"]).json()
    assert len(body["results"]) == 2
    (warning,) = body["warnings"]
    assert "left lung" in warning
    assert "did you mean lung" in warning


def test_strict_refuses_an_unknown_prompt(client: TestClient) -> None:
    response = ask(client, prompts="left lung", strict="true")
    assert error_of(response) == (422, "PromptError")
    assert "did you mean lung" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"prompts": "  ,! "}, "PromptError"),
        ({"prompts": "x" * 300}, "PromptError"),
        ({"prompts": ["tumor"] * 17}, "PromptError"),
        ({"prompts": []}, "RequestError"),
        ({"refine": -1}, "RequestError"),
        ({"refine": 1000}, "RequestError"),
        ({"refine": "many"}, "RequestError"),
        ({"format": "tiff"}, "RequestError"),
        ({"masks": "none"}, "RequestError"),
        ({"axis": 3}, "RequestError"),
        ({"frame": 1}, "ImageError"),
        ({"format": "seg"}, "ImageError"),
    ],
)
def test_what_cannot_be_asked(client: TestClient, fields: dict[str, Any], kind: str) -> None:
    assert error_of(ask(client, **fields)) == (422, kind)


def test_half_a_character_is_no_mistake_of_the_server(client: TestClient) -> None:
    body, kind = multipart(png(), [r"tumor \ud800"])
    kind += "; charset=unicode_escape"
    response = client.post("/segment", content=body, headers={"Content-Type": kind})
    assert error_of(response) == (422, "PromptError")
    assert "UTF-8" in response.json()["error"]["message"]


def test_fields_that_would_have_no_say_are_refused(client: TestClient) -> None:
    files = [("file", ("a.png", png(seed))) for seed in (1, 2)]
    twice = client.post("/segment", files=files, data={"prompts": "tumor"})
    assert error_of(twice) == (422, "RequestError")
    assert "file is given 2 times" in twice.json()["error"]["message"]
    assert error_of(ask(client, refine=["1", "2"])) == (422, "RequestError")
    misspelt = ask(client, windw=1)
    assert error_of(misspelt) == (422, "RequestError")
    assert "no field 'windw'" in misspelt.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"axis": 1}, "axis is for NIfTI, and the file is PNG; leave it out"),
        ({"window": 0}, "window is for DICOM, and the file is PNG; leave it out"),
        ({"format": "png", "masks": "png"}, "masks is for format=json, and format is png"),
        ({"format": "png", "overlay": "true"}, "overlay is for format=json"),
        ({"format": "seg", "preview": "false"}, "preview is for format=json, and format is seg"),
    ],
)
def test_fields_without_a_say_on_this_file_or_format_are_refused(
    client: TestClient, fields: dict[str, Any], said: str
) -> None:
    refused = ask(client, **fields)
    assert error_of(refused) == (422, "RequestError")
    assert said in refused.json()["error"]["message"]


def test_fields_of_another_kind_of_volume_are_refused(client: TestClient, tmp_path: Path) -> None:
    volume = ask(client, nifti(gzipped=True), frame=0, window=1)
    assert "window is for DICOM, and the file is NIfTI" in volume.json()["error"]["message"]
    scan = save(tmp_path / "a.dcm", ramp(24, 24)).read_bytes()
    slices = ask(client, scan, axis=0)
    assert "axis is for NIfTI, and the file is DICOM" in slices.json()["error"]["message"]
    assert (volume.status_code, slices.status_code) == (422, 422)


def test_parameters_of_the_address_are_refused(client: TestClient) -> None:
    file = {"file": ("a.png", png())}
    for address, data, said in (
        ("/segment?prompts=tumor", {}, "prompts is given in the address; give it as a field"),
        ("/segment?refine=2", {"prompts": "tumor"}, "refine is given in the address"),
        ("/segment?refine=", {"prompts": "tumor"}, "refine is given in the address"),
        ("/segment?colour=red", {"prompts": "tumor"}, "there is no 'colour'"),
    ):
        refused = client.post(address, files=file, data=data)
        assert error_of(refused) == (422, "RequestError"), address
        assert said in refused.json()["error"]["message"]
    assert client.post("/segment?", files=file, data={"prompts": "tumor"}).status_code == 200


def test_request_without_a_file(client: TestClient) -> None:
    assert error_of(client.post("/segment", data={"prompts": "tumor"})) == (422, "RequestError")


@pytest.mark.parametrize("disposition", ["", "; filename*=UTF-8''%e2%82%ac.dcm"])
def test_a_file_without_a_name_is_told_as_one_sent_as_text(
    client: TestClient, disposition: str
) -> None:
    """Such as by `curl -F file=scan.dcm`, without its @."""
    body = (
        b'--e\r\nContent-Disposition: form-data; name="prompts"\r\n\r\ntumor\r\n'
        + f'--e\r\nContent-Disposition: form-data; name="file"{disposition}'.encode()
        + b"\r\n\r\nscan.dcm\r\n--e--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=e"}
    refused = client.post("/segment", content=body, headers=kind)
    assert error_of(refused) == (422, "RequestError")
    assert "file is text; send it as a file" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("application/json; charset=utf-8", "it is application/json; send a form, multipart/"),
        ("image/png", "it is image/png; send a form"),
        ("application/x-www-form-urlencoded", "it is application/x-www-form-urlencoded; send"),
        ("", "it is of no type; send a form"),
    ],
)
def test_what_is_no_form_is_told_by_its_type(client: TestClient, kind: str, said: str) -> None:
    refused = client.post("/segment", content=png(), headers={"Content-Type": kind})
    assert error_of(refused) == (422, "RequestError")
    assert said in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/segment/", "/health/", "/prompts/"])
def test_no_address_leads_to_another(client: TestClient, path: str) -> None:
    for answer in (client.get(path), client.post(path, files={"file": ("a.png", png())})):
        assert not answer.history
        assert error_of(answer) == (404, "RequestError")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_file_types_are_told_by_content(client: TestClient, kind: str) -> None:
    response = client.post(
        "/segment",
        files={"file": ("../../etc/passwd.dcm", encoded(picture(), kind), "application/dicom")},
        data={"prompts": "tumor"},
    )
    assert response.json()["image"]["type"] == kind.lower()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF89a" + bytes(400),
        b"%PDF-1.7",
    ],
)
def test_other_files_are_refused_by_type(client: TestClient, data: bytes) -> None:
    assert error_of(ask(client, data)) == (415, "UnknownFileError")


@pytest.mark.parametrize(
    "data",
    [
        png()[:200],
        encoded(picture(), "JPEG")[:60],
        b"BM" + bytes(12) + b"\x28" + bytes(80),
        gzip.compress(b"not a volume" * 100),
        bytes(128) + b"DICM" + b"\xff" * 50,
        bytes(344) + b"n+1\0" + bytes(100),
    ],
    ids=["png", "jpeg", "bmp", "gzip", "dicom", "nifti"],
)
def test_damaged_files_are_refused_without_naming_a_path(client: TestClient, data: bytes) -> None:
    response = ask(client, data)
    assert response.status_code == 422, response.text
    message = response.json()["error"]["message"]
    assert message.startswith("upload: ")
    assert tempfile.gettempdir() not in message
    assert "textsam-serve" not in message


def nifti(shape: tuple[int, ...] = (30, 24, 9), *, gzipped: bool = False) -> bytes:
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(0, 200, shape).astype(np.int16)
    data: bytes = nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0])).to_bytes()
    return gzip.compress(data) if gzipped else data


def test_a_volume_needs_a_frame_and_says_how_many_there_are(client: TestClient) -> None:
    response = ask(client, nifti())
    assert error_of(response) == (422, "FrameNeededError")
    assert response.json()["error"]["frames"] == 9
    beyond = ask(client, nifti(), frame=9)
    assert error_of(beyond) == (422, "ImageError")
    assert "counted from 0" in beyond.json()["error"]["message"]


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_slice_of_a_volume(client: TestClient, gzipped: bool) -> None:
    image = ask(client, nifti(gzipped=gzipped), frame=4).json()["image"]
    assert (image["type"], image["frame"], image["frames"]) == ("nifti", 4, 9)
    assert sorted(image["spacing_mm"]) == [2.0, 3.0]
    across = ask(client, nifti(gzipped=gzipped), frame=20, axis=0).json()["image"]
    assert (across["frame"], across["frames"]) == (20, 30)
    assert sorted(across["spacing_mm"]) == [3.0, 4.0]


def test_a_window_of_grey_values(client: TestClient, tmp_path: Path) -> None:
    values = ramp(24, 24, np.int16)
    path = save(tmp_path / "a.dcm", values, WindowCenter=100, WindowWidth=50)
    seen = {n: ask(client, path.read_bytes(), window=n).json()["image"]["sha256"] for n in (0, -1)}
    assert seen == {n: open_stack(path, window=n)[0].sha256() for n in (0, -1)}
    assert seen[0] != seen[-1]
    refused = ask(client, path.read_bytes(), window=4)
    assert error_of(refused) == (422, "ImageError")
    # What the message offers is taken.
    assert "window=-1 to show all values" in refused.json()["error"]["message"]
    assert ask(client, path.read_bytes(), window=-2).status_code == 422


def test_two_pages_of_a_tiff(client: TestClient, segmenter: Segmenter) -> None:
    buffer = io.BytesIO()
    pages = [PIL.Image.fromarray(picture(seed)) for seed in (1, 2)]
    pages[0].save(buffer, format="TIFF", save_all=True, append_images=pages[1:])
    for frame in (0, 1):
        body = ask(client, buffer.getvalue(), frame=frame).json()
        wanted = segmenter.segment(picture(frame + 1), "tumor")
        assert body["image"]["sha256"] == wanted.image.sha256()
        np.testing.assert_array_equal(mask_of(body["results"][0]), wanted.mask)


def dicom_file(name: str) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return (folder / name).read_bytes()


def test_dicom_in_segmentation_out(client: TestClient) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    source = dicom_file("CT_small.dcm")
    body = ask(client, source, prompts=["tumor", "lung"]).json()
    assert body["image"]["type"] == "dicom"
    spacing_mm = body["image"]["spacing_mm"]
    for entry in body["results"]:
        area_mm2 = entry["area_px"] * spacing_mm[0] * spacing_mm[1]
        assert entry["area_mm2"] == pytest.approx(area_mm2)
    response = ask(client, source, prompts=["tumor", "lung"], format="seg")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/dicom"
    made = pydicom.dcmread(io.BytesIO(response.content))
    given = pydicom.dcmread(io.BytesIO(source))
    assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert made.StudyInstanceUID == given.StudyInstanceUID
    assert [segment.SegmentNumber for segment in made.SegmentSequence] == [1, 2]
    by_segment = {
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber: frame > 0
        for group, frame in zip(
            made.PerFrameFunctionalGroupsSequence,
            made.pixel_array.reshape(-1, given.Rows, given.Columns),
            strict=True,
        )
    }
    for number, entry in enumerate(body["results"], start=1):
        empty = np.zeros((given.Rows, given.Columns), dtype=bool)
        np.testing.assert_array_equal(by_segment.get(number, empty), mask_of(entry))


def test_segmentations_through_different_windows_have_different_uids(
    client: TestClient, tmp_path: Path
) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    values = ramp(24, 24, np.int16)
    path = save(tmp_path / "a.dcm", values, WindowCenter=[100, 400], WindowWidth=[50, 300])

    def uid(**fields: Any) -> str:
        response = ask(client, path.read_bytes(), format="seg", **fields)
        assert response.status_code == 200, response.text
        return str(pydicom.dcmread(io.BytesIO(response.content)).SOPInstanceUID)

    questions = [{}, {"window": 1}, {"window": -1}, {"refine": 1}, {"refine": 1, "window": 1}]
    uids = [uid(**question) for question in questions]
    assert len(set(uids)) == len(questions)
    assert uid(window=0) == uids[0]


def test_what_no_segmentation_can_refer_to_is_refused_without_a_path_or_the_model(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    pytest.importorskip("pydicom")
    path = save(tmp_path / "a.dcm", ramp(24, 24), StudyInstanceUID=None)
    held = Held(segmenter)
    held.release.set()
    with served(held) as client:
        refused = ask(client, path.read_bytes(), format="seg")
    assert error_of(refused) == (422, "ImageError")
    message = refused.json()["error"]["message"]
    assert message.startswith("upload: file 1 lacks StudyInstanceUID")
    assert held.batches == []


def test_limits_of_the_image(client: TestClient) -> None:
    large = encoded(np.zeros((400, 300, 3), np.uint8))
    assert error_of(ask(client, large)) == (413, "LimitError")
    assert error_of(ask(client, nifti((9, 9, 60)), frame=0)) == (413, "LimitError")
    swollen = gzip.compress(nifti((200, 100, 40))[:352] + bytes(2 * 200 * 100 * 40))
    assert len(swollen) < 10_000
    assert error_of(ask(client, swollen, frame=0)) == (413, "LimitError")


def test_limit_of_all_masks_together(client: TestClient) -> None:
    data = encoded(np.zeros((300, 300, 3), np.uint8))
    assert ask(client, data, prompts=["tumor"] * 4).status_code == 200
    response = ask(client, data, prompts=["tumor"] * 5)
    assert error_of(response) == (413, "LimitError")
    assert "fewer prompts" in response.json()["error"]["message"]


def test_nothing_of_an_upload_is_left(client: TestClient) -> None:
    folder = client.app.state.folder  # type: ignore[attr-defined]
    assert folder.stat().st_mode & 0o077 == 0
    for data in (png(), b"hello", png()[:200], nifti()):
        ask(client, data)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("large", [False, True])
def test_a_full_disk_is_told_as_one(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8)
    data = encoded(noise) if large else png()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        # A large upload goes to the disk while it arrives, a small one when it is there.
        if large:
            patch.setattr("tempfile.SpooledTemporaryFile.rollover", full)
        else:
            patch.setattr("textsam.serve.upload.shutil.copyfileobj", full)
        answer = ask(client, data)
    assert answer.status_code == 507
    assert answer.json()["error"] == {
        "type": "StorageError",
        "message": "the server cannot keep the upload (No space left on device); try again later, "
        "or have space freed in its folder for temporary files",
    }
    assert not list(client.app.state.folder.iterdir())  # type: ignore[attr-defined]
    assert ask(client, data).status_code == (413 if large else 200)


def test_concurrent_requests_get_their_own_answers(segmenter: Segmenter) -> None:
    wanted = {seed: segmenter.segment(picture(seed), "tumor").mask for seed in range(6)}
    assert len({mask.tobytes() for mask in wanted.values()}) == 6
    with served(batch_size=3, queue=30) as client, ThreadPoolExecutor(6) as pool:
        seeds = [seed for _ in range(3) for seed in wanted]
        for seed, response in zip(
            seeds, pool.map(lambda seed: ask(client, png(seed)), seeds), strict=True
        ):
            mask = mask_of(response.json()["results"][0])
            # Larger batches differ in the last bits, so a pixel at the threshold may.
            assert np.mean(mask != wanted[seed]) < 0.005


def test_facts(client: TestClient, segmenter: Segmenter) -> None:
    # The worker may still be putting away what an earlier test asked.
    wait_until(lambda: queue_of(client)["working"] == 0)
    health = client.get("/health").json()
    assert health == {
        "status": "ok",
        "ready": True,
        "textsam": textsam.__version__,
        "queue": {"waiting": 0, "working": 0, "capacity": 16},
    }
    prompts = client.get("/prompts").json()
    assert prompts["adapter"] == "tiny"
    assert list(prompts["prompts"]) == list(segmenter.prompts)
    assert "mass" in prompts["prompts"]["tumor"]
    models = client.get("/models").json()
    assert models["models"][0]["device"] == "cpu"
    assert models["models"][0]["precision"] == "float32"
    assert models["limits"]["max_pixels"] == 100_000


def test_openapi_describes_the_fields_and_nothing_external_is_served(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    (body,) = described["paths"]["/segment"]["post"]["requestBody"]["content"].values()
    fields = described["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
    assert set(fields["properties"]) == {
        "file", "prompts", "refine", "strict", "frame", "axis", "window", "format", "masks",
        "overlay", "preview",
    }  # fmt: skip
    assert fields["required"] == ["file", "prompts"]
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_every_answer_has_security_headers(client: TestClient) -> None:
    answers = [client.get(path) for path in ("/", "/health", "/nowhere", "/page/page.js")]
    answers += [ask(client), ask(client, b"hello"), client.post("/health")]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 200, 200, 415, 405]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_log_names_neither_file_nor_prompt(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        client.post(
            "/segment",
            files={"file": ("Doe^John.png", png())},
            data={"prompts": ["tumor", "secretword"]},
        )
        client.post("/segment", files={"file": ("Doe^John.png", b"x")}, data={"prompts": "tumor"})
        client.get("/Doe^John")
    lines = [record.getMessage() for record in caplog.records if record.name == "textsam.serve"]
    assert [line.rsplit(" ", 2)[0] for line in lines] == [
        "POST /segment 200", "POST /segment 415", "GET (other) 404",
    ]  # fmt: skip
    # The client of this test logs too.
    logged = [
        r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))
    ]
    assert not any(word in line for line in logged for word in ("Doe", "secretword"))


class Broken:
    """A segmenter with a bug whose message quotes what must not get out."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._segmenter, name)

    def segment_batch(self, *_: Any, **__: Any) -> Any:
        raise ValueError("PatientName Doe^John")


def test_unknown_errors_have_a_number_and_no_values(
    segmenter: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    with served(Broken(segmenter)) as client:
        response = ask(client)
        again = ask(client)
    assert error_of(response) == (500, "InternalError")
    error = response.json()["error"]
    assert error["id"] in error["message"]
    assert error["id"] != again.json()["error"]["id"]
    assert "Doe" not in response.text + caplog.text
    (record, _) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert error["id"] in record.getMessage()
    assert "ValueError at" in record.getMessage()
    assert "segment_batch" in record.getMessage()
    assert json.loads(response.text)
