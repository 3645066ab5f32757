"""Standard output that takes nothing: one line and exit code 1, whatever the command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import run, use_tiny_model, write_image
from PIL import Image
from typer.testing import CliRunner

import textsam
from textsam.cli import app

FULL = Path("/dev/full")
SAID = "error: standard output: cannot be written (No space left on device); free space\n"

needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")


def plain_folder(folder: Path, name: str = "a.png") -> Path:
    write_image(folder / "images" / "a.png").rename(folder / "images" / name)
    (folder / "masks").mkdir()
    mask = Image.new("L", (40, 30))
    mask.paste(255, (5, 5, 20, 20))
    mask.save(folder / "masks" / "a.png")
    (folder / "masks" / "a.png").rename(folder / "masks" / name)
    return folder


def started(*arguments: str, stdout: int, stderr: int = subprocess.PIPE) -> tuple[int, str]:
    """A process with streams that are buffered, as a user's are."""
    environment = {**os.environ, "PYTHONPATH": str(Path(textsam.__file__).parent.parent)}
    environment.pop("PYTHONUNBUFFERED", None)
    done = subprocess.run(
        [sys.executable, "-m", "textsam", *arguments],
        env=environment,
        stdout=stdout,
        stderr=stderr,
        check=False,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr or ""


@needs_full
@pytest.mark.parametrize(
    "call",
    [
        ("--help",),
        ("--version",),
        ("prompts",),
        ("prompts", "--json"),
        ("models",),
        ("weights", "list"),
        ("data", "--help"),
        ("data", "check", "plain"),
        ("evaluate", "plain", "--concept", "tumor", "-o", "out"),
    ],
    ids=" ".join,
)
def test_a_full_standard_output_is_one_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    call: tuple[str, ...],
) -> None:
    use_tiny_model(monkeypatch)
    monkeypatch.chdir(tmp_path)
    plain_folder(Path("plain"))
    with FULL.open("wb", buffering=0) as raw:
        stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
        monkeypatch.setattr(sys, "stdout", stream)
        assert app(list(call), standalone_mode=False) == 1
        stream.detach()
    assert capsys.readouterr().err.splitlines(keepends=True)[-1] == SAID
    # What was measured is not lost with the table.
    assert Path("out/summary.json").is_file() == (call[0] == "evaluate")


@needs_full
def test_what_is_left_in_a_buffer_says_nothing_more_at_the_end() -> None:
    with FULL.open("wb") as full:
        assert started("--version", stdout=full.fileno()) == (1, SAID)
        nowhere = started("--version", stdout=full.fileno(), stderr=full.fileno())
        assert nowhere == (1, "")


def test_nobody_reads_any_more() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert started("models", stdout=writer) == (1, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(sys.platform != "linux", reason="such names are not allowed elsewhere")
def test_names_that_are_no_characters_are_shown_by_number(tmp_path: Path) -> None:
    plain_folder(tmp_path / "plain", "b\udcff.png")
    (tmp_path / "plain" / "images" / "c\udcfe.png").write_bytes(b"nothing")
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "plain")])
    assert done.exit_code == 1
    assert r"c\udcfe" in done.stdout
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_streams_are_given_back() -> None:
    before = sys.stdout, sys.stderr
    assert run("--version").stdout == f"textsam {textsam.__version__}\n"
    assert app(["--version"], standalone_mode=False) == 0
    assert (sys.stdout, sys.stderr) == before
