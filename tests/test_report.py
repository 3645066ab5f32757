"""The run report: every field, from answers, from a manifest, and without torch."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import textsam
from textsam.errors import ImageError, TextSAMError
from textsam.inference.views import Views, views_of
from textsam.io.image import Image, Placement
from textsam.report import RunReport, done_entry, failed_entry, versions
from textsam.result import Segmentation


def report(**changes: Any) -> RunReport:
    parts: dict[str, Any] = {
        "adapter": "lite-generalist",
        "fingerprint": "ab" * 32,
        "preset": "lite",
        "base": {"medsam-lite": "cd" * 32},
        "prompts": ["tumor", "lung"],
        "options": {"refine": None, "formats": ["png"]},
        "device": "cpu",
    }
    return RunReport(**{**parts, **changes})


def answers(source: str, index: int = 0) -> list[Segmentation]:
    picture = Image(np.zeros((9, 9, 3), np.uint8), source, placement=Placement(index))
    full = np.ones((9, 9), bool)
    return [
        Segmentation(
            mask, full.astype(np.float32), 0.5, bool(mask.any()), prompt, picture, "a", "m"
        )
        for mask, prompt in ((full, "tumor"), (~full, "lung"))
    ]


def test_a_report_says_what_was_run_and_what_came_out(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"pixels")
    made = report()
    two_frames = [*answers("a.dcm", 0), *answers("a.dcm", 1)]
    made.add(tmp_path / "a.dcm", two_frames, files=[tmp_path / "m.png", "n.png"], seconds=1.23456)
    made.add(tmp_path, answers("series"), seconds=2.0)
    made.fail("bad.png", ImageError("bad.png: not an image"), seconds=0.01)
    made.fail("worse.png", "out of space")
    path = made.write(tmp_path / "deep" / "report.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["format"] == 1
    assert content["versions"] == {
        "textsam": textsam.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    assert content["adapter"] == {"name": "lite-generalist", "sha256": "ab" * 32}
    assert content["model"] == {
        "preset": "lite",
        "base": {"medsam-lite": "cd" * 32},
        "device": "cpu",
    }
    assert content["prompts"] == ["tumor", "lung"]
    assert content["options"] == {"refine": None, "formats": ["png"]}
    assert content["counts"] == {
        "inputs": 4,
        "done": 2,
        "failed": 2,
        "images": 3,
        "results": 6,
        "found": 3,
    }
    first, folder = content["inputs"]
    assert first["path"] == str(tmp_path / "a.dcm")
    assert first["sha256"] == hashlib.sha256(b"pixels").hexdigest()
    assert first["results"] == [one.to_dict() for one in two_frames]
    assert first["files"] == [str(tmp_path / "m.png"), "n.png"]
    assert first["seconds"] == 1.2346
    assert folder["sha256"] is None
    bad, worse = content["failures"]
    assert (bad["path"], bad["error"], bad["kind"]) == (
        "bad.png",
        "bad.png: not an image",
        "ImageError",
    )
    assert (worse["error"], worse["kind"], worse["seconds"]) == ("out of space", "", None)


def test_times_are_utc() -> None:
    east = timezone(timedelta(hours=9))
    made = report(started=datetime(2025, 3, 1, 8, 30, tzinfo=east))
    content = made.to_dict(finished=datetime(2025, 3, 1, 0, 0, 1, tzinfo=UTC))
    assert content["started"] == "2025-02-28T23:30:00Z"
    assert content["finished"] == "2025-03-01T00:00:01Z"
    now = report().to_dict()
    begun, ended = (datetime.fromisoformat(now[name]) for name in ("started", "finished"))
    assert timedelta(seconds=-1) <= ended - begun < timedelta(seconds=60)
    assert abs(datetime.now(UTC) - ended) < timedelta(seconds=60)


def test_a_report_is_made_from_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    entries = [
        failed_entry("a.png", ImageError("busy")),
        done_entry("b.png", answers("b.png"), sha256="12" * 32),
        # The second run over the same input.
        done_entry("a.png", answers("a.png"), files=["a_tumor.png"], seconds=0.5, sha256="34" * 32),
    ]
    lines = [json.dumps(entry) + "\n" for entry in entries]
    made = report()
    made.append_lines([lines[0], "\n", *lines[1:]])
    content = made.to_dict()
    assert [one["path"] for one in content["inputs"]] == ["b.png", "a.png"]
    assert content["failures"] == []
    direct = report()
    direct.add("b.png", answers("b.png"), sha256="12" * 32)
    direct.add("a.png", answers("a.png"), files=["a_tumor.png"], seconds=0.5, sha256="34" * 32)
    assert content["inputs"] == direct.to_dict()["inputs"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"run\.jsonl, line 2: not JSON"),
        ("[1]", "line 2: not an entry"),
        ('{"status": "done"}', "line 2: not an entry"),
        ('{"path": ["a"], "status": "done"}', "line 2: not an entry"),
        ('{"path": "a", "status": "running"}', "no entry of a report"),
        ('{"path": "a", "status": ["done"]}', "no entry of a report"),
        ('{"path": "a", "status": "done", "results": 3}', "no entry of a report"),
        ('{"path": "a", "status": "done", "results": [3]}', "no entry of a report"),
        ('{"path": "a", "status": "done", "results": [{}]}', "no entry of a report"),
        ('{"path": "a", "status": "done", "results": [{"found": true, "image": {}}]}', "no entry"),
    ],
)
def test_other_lines_are_refused(line: str, message: str) -> None:
    good = json.dumps(failed_entry("a.png", "why"))
    with pytest.raises(TextSAMError, match=message):
        report().append_lines([good, line], "run.jsonl")


def test_what_is_not_json_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("before", encoding="utf-8")
    for value in (object(), float("nan")):
        with pytest.raises(TextSAMError, match="the report cannot be JSON"):
            report(options={"x": value}).write(path)
    assert path.read_text(encoding="utf-8") == "before"
    with pytest.raises(TextSAMError, match="the file cannot be written"):
        report().write(path / "below.json")


def test_a_report_of_a_segmenter() -> None:
    stub: Any = SimpleNamespace(
        adapter_name="mine",
        fingerprint="12" * 32,
        preset="lite",
        config=SimpleNamespace(base={"medsam-lite": "ef" * 32}, authors_frame=False),
        device=torch.device("cpu"),
        precision=torch.bfloat16,
        views=Views(),
        own_weights="",
        identity="34" * 32,
    )
    content = RunReport.of(stub, ["tumor"], {"refine": 1}).to_dict()
    assert content["adapter"] == {"name": "mine", "sha256": "12" * 32}
    assert content["model"] == {
        "preset": "lite",
        "base": {"medsam-lite": "ef" * 32},
        "device": "cpu",
        "precision": "bfloat16",
    }
    assert content["identity"] == "34" * 32
    assert content["options"] == {"refine": 1}
    stub.config.authors_frame, stub.own_weights = True, "56" * 32
    stub.views = views_of("112,mirrored")
    model = RunReport.of(stub, ["tumor"], {}).to_dict()["model"]
    assert model["authors_frame"] is True
    assert (model["views"], model["own_weights"]) == ("112,mirrored", "56" * 32)
    assert report(fingerprint="").to_dict()["adapter"]["sha256"] is None


def test_reports_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from textsam.report import failed_entry, versions\n"
        "versions(); failed_entry('a', 'b')\n"
        "print([name for name in ('torch', 'numpy', 'pydicom') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_package_that_is_not_there_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    import textsam.report as module

    def missing(name: str) -> str:
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    monkeypatch.delitem(sys.modules, "torch")
    assert versions()["torch"] is None
    assert versions()["numpy"] == np.__version__  # loaded, so it tells
