"""Damaged files of every format: images or an error of TextSAM's own, whatever was done to them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

# The same files and the same worker as the long run.
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import fuzz  # noqa: E402
from fuzz_mutate import mutated  # noqa: E402
from fuzz_seeds import seeds  # noqa: E402
from fuzz_worker import Worker, read_one  # noqa: E402

FORMATS = {"png", "jpeg", "bmp", "tiff", "nifti", "nifti-gz", "dicom", "dicom-made"}


@pytest.fixture(autouse=True)
def _no_limit_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTSAM_MAX_PIXELS", raising=False)


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    return seeds()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(timeout_s=300)
    yield worker
    worker.close()


def test_five_hundred_damaged_files(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine a file may take long; what counts is the processor's time.
    monkeypatch.setattr(fuzz, "Worker", partial(Worker, timeout_s=300))
    result = fuzz.run(500, seed=1)
    assert result["slowest_cpu_s"] < 20
    assert result["problems"] == []
    assert (result["crashes"], result["hangs"]) == (0, 0)
    assert result["results"] + result["refused"] == 500
    # Damage that is always found, or never, would show nothing.
    assert min(result["results"], result["refused"]) > 50
    assert set(result["by_format"]) == FORMATS
    if sys.platform == "linux":
        assert 50 < result["max_rss_mib"] < 2048


def test_the_files_it_starts_from_are_sound(sound: dict[str, bytes], tmp_path: Path) -> None:
    outcomes = {}
    for name, data in sound.items():
        # Content decides, so the name need not fit.
        path = tmp_path / "file"
        path.write_bytes(data)
        outcomes[name] = read_one(path)
    assert {name.split("/")[0] for name in sound} == FORMATS
    refused = {name: words for name, (outcome, words) in outcomes.items() if outcome != "result"}
    # pydicom's collection holds reports, plans and files that are broken on purpose.
    assert {name for name in refused if not name.startswith("dicom/")} == set()
    assert (
        len([name for name in outcomes if name.startswith("dicom/") and name not in refused]) > 25
    )


def test_a_seed_and_a_number_make_a_file(sound: dict[str, bytes]) -> None:
    files = [mutated(sound, 5, number) for number in range(200)]
    assert files == [mutated(sound, 5, number) for number in range(200)]
    assert files != [mutated(sound, 6, number) for number in range(200)]
    assert sum(data == sound[name] for name, data in files) < 20
    assert all(0 < len(data) <= 1 << 20 for _, data in files)
    assert {mutated(sound, 5, n, ("tiff",))[0].split("/")[0] for n in range(20)} == {"tiff"}


def test_other_errors_are_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panics(*_: object, **__: object) -> None:
        raise Panic("index out of bounds")

    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    assert read_one(path)[0] == "refused"
    monkeypatch.setattr("textsam.io.open.open_stack", panics)
    outcome, words = read_one(path)
    assert outcome == "crash"
    assert "Panic: index out of bounds" in words


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe and signals")
def test_the_worker_survives_death_and_silence(
    worker: Worker, sound: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(sound["png/grey"])
    assert worker.read(path).outcome == "result"
    process = worker._process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    died = worker.read(path)
    assert (died.outcome, died.words) == ("crash", "the process died: -9")
    assert worker.read(path).outcome == "result"
    # A stopped process is one that hangs.
    process = worker._process
    assert process is not None
    assert process.pid is not None
    worker._timeout_s = 0.5
    os.kill(process.pid, signal.SIGSTOP)
    began = time.perf_counter()
    assert worker.read(path).outcome == "hang"
    assert time.perf_counter() - began < 120


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_too_much_memory_is_a_crash(sound: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(sound["png/grey"])
    worker = Worker(memory_bytes=32 << 20)
    try:
        answer = worker.read(path)
    finally:
        worker.close()
    assert answer.outcome == "crash"
    assert "memory" in answer.words.lower()
