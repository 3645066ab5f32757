"""The command line: what it writes, what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from cli_runs import run, use_tiny_model, write_image
from typer.main import get_command

import textsam
from textsam.adapters import CONFIG_FILE, TENSORS_FILE, AdapterConfig, adapter_json
from textsam.cli import app
from textsam.cli.errors import errors_as_exit
from textsam.spelling import CorrectedPromptWarning, UnknownPromptWarning


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`load_model` gives a tiny segmenter; what it was asked for is kept."""
    return use_tiny_model(monkeypatch)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        ("segment", "a.png", "tumor"),
        ("segment", "a.png", "tumor", "--resume"),
        ("evaluate", ".", "--concept", "tumor"),
        ("evaluate", "--compare", "a", "b"),
        ("export",),
        ("convert", "a.pth"),
        ("average", "a", "b"),
        ("calibrate", "a", "b.yaml"),
        ("ablate", "a.yaml"),
        ("data", "quality", ".", "--concept", "tumor"),
    ],
    ids=" ".join,
)
def test_an_output_folder_that_is_a_file(
    asked: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: tuple[str, ...],
    inside: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(Path("a.png"))
    Path("afile").write_bytes(b"kept")
    result = run(*call, "-o", "afile/out" if inside else "afile")
    assert result.exit_code == 2, result.output
    file = tmp_path / "afile"
    said = f"afile/out cannot be made, as {file} is a file; give another folder"
    said = said if inside else "afile is a file; give a folder"
    assert result.stderr == f"error: -o {said}\n"
    assert asked == []
    assert file.read_bytes() == b"kept"
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "afile"}


@pytest.mark.parametrize(
    "call",
    [("average", "./generalist", "b"), ("calibrate", "./generalist", "a.yaml")],
    ids=" ".join,
)
def test_a_folder_here_is_not_the_shipped_adapter_of_its_name(
    asked: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("generalist", "b"):
        Path(name).mkdir()
        Path(name, TENSORS_FILE).touch()
        Path(name, CONFIG_FILE).write_text("no JSON", encoding="utf-8")
    Path("a.yaml").write_text("{name: a, data: {root: ., train: &a [{set: a, split: a}], val: *a}}")
    result = run(*call, "-o", "out")
    assert (result.exit_code, asked) == (1, []), result.output
    assert result.stderr.startswith(f"error: {Path('generalist', CONFIG_FILE)} is not an adapter's")


def test_a_mask_in_a_folder_that_is_a_file(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    result = run("segment", image, "tumor", "-o", image / "mask.png")
    assert (result.exit_code, asked) == (2, [])
    assert result.stderr == f"error: -o {image} is a file; give a folder\n"
    # A folder that is named like a mask is a folder.
    (tmp_path / "out.png").mkdir()
    assert run("segment", image, "tumor", "-o", tmp_path / "out.png").exit_code == 0
    assert (tmp_path / "out.png" / "a_tumor.png").is_file()


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="needs permissions that count for this user"
)
def test_an_output_folder_without_permission(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    (tmp_path / "closed").mkdir(mode=0o500)
    result = run("segment", image, "tumor", "-o", tmp_path / "closed" / "out")
    assert (result.exit_code, asked) == (2, [])
    assert "takes no files from this user" in result.stderr


def test_an_unknown_adapter_or_preset(tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    result = run("segment", image, "tumor", "-o", tmp_path / "out", "--adapter", "nobody's")
    assert result.exit_code == 1
    assert 'no adapter "nobody\'s"' in result.stderr
    assert "Traceback" not in result.output
    result = run("segment", image, "tumor", "-o", tmp_path / "out", "--model", "vit_x")
    assert result.exit_code == 1
    assert "'vit_x'; choose one of lite, vit_b, vit_l, vit_h" in result.stderr


def test_wrong_usage_is_exit_code_2(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png")
    (tmp_path / "empty").mkdir()
    mask, out = tmp_path / "m.png", tmp_path / "out"
    before = image.read_bytes()
    wrong: dict[str, tuple[str | Path, ...]] = {
        "Missing option": ("segment", image, "tumor"),
        "Missing argument": ("segment", image, "-o", out),
        "No such option": ("segment", image, "tumor", "-o", out, "--nonsense"),
        "--refine": ("segment", image, "tumor", "-o", out, "--refine=-1"),
        f"-o {mask} is a file": ("segment", tmp_path / "in", "tumor", "-o", mask),
        "more than one mask": ("segment", image, "tumor", "lung", "-o", mask),
        "holds no image": ("segment", tmp_path / "empty", "tumor", "-o", out),
        "only a mask as .png": ("segment", image, "tumor", "-o", tmp_path / "m.jpg"),
        "would overwrite": ("segment", image, "tumor", "-o", image),
        "No such command": ("segmnt", image),
        "give either --set": ("evaluate", tmp_path / "in", "-o", out),
        "write SET/SPLIT": ("evaluate", tmp_path / "in", "-o", out, "--set", "busi"),
    }
    for words, arguments in wrong.items():
        result = run(*arguments)
        assert result.exit_code == 2, (words, result.output)
        assert words in " ".join(result.stderr.replace("│", "").split()), result.output
    assert asked == [], "no model is loaded for a call that cannot be carried out"
    assert image.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"in", "empty"}


def write_adapter(folder: Path) -> Path:
    config = AdapterConfig(name="mine", preset="lite", prompts=("tumor", "gizmo"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(adapter_json(config))
    (folder / "adapter.safetensors").write_bytes(b"")
    return folder


def test_prompts_lists_words_and_synonyms(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine")
    text = run("prompts", "--adapter", folder)
    assert text.exit_code == 0, text.output
    tumor, gizmo = text.stdout.splitlines()
    assert tumor.startswith("tumor: ")
    assert "mass" in tumor
    assert gizmo == "gizmo"
    report = json.loads(run("prompts", "--adapter", folder, "--json").stdout)
    assert report["adapter"] == "mine"
    assert "mass" in report["prompts"]["tumor"]
    assert report["prompts"]["gizmo"] == []
    unknown = run("prompts", "--adapter", "nobody")
    assert (unknown.exit_code, "no adapter 'nobody'" in unknown.stderr) == (1, True)


def test_models_lists_the_presets() -> None:
    rows = json.loads(run("models", "--json").stdout)
    assert [row["preset"] for row in rows] == ["lite", "vit_b", "vit_l", "vit_h"]
    assert rows[0]["weights_here"] is True, "its weights come with installed packages"
    assert rows[0]["default_adapter"] == "generalist"
    text = run("models").stdout
    assert "lite: LiteMedSAM" in text
    assert "vit_h: SAM ViT-H" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["models"],
        ["prompts", "--adapter", "."],
        ["train", "--help"],
        ["segment", "--help"],
    ],
)
def test_light_commands_do_not_import_torch(tmp_path: Path, arguments: list[str]) -> None:
    write_adapter(tmp_path)
    code = (
        "import sys\nfrom textsam.cli import app\n"
        f"try:\n    app({arguments!r})\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'monai', 'peft', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(textsam.__file__).parent.parent)},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_command_has_help() -> None:
    group = get_command(app)
    names = [[name] for name in group.commands]  # type: ignore[attr-defined]
    inner = [
        [first, name]
        for first in ("weights", "data")
        for name in group.commands[first].commands  # type: ignore[attr-defined]
    ]
    assert {"segment", "train", "evaluate", "convert", "prompts", "models", "weights"} <= {
        name for (name,) in names
    }
    for words in ([], *names, *inner):
        result = run(*words, "--help")
        assert result.exit_code == 0, words
        assert "Usage:" in result.stdout
        assert len(result.stdout.split()) > 15, words
        assert "--no-strict" not in result.stdout, words  # of a flag there is no other half


def test_other_warnings_stay_as_python_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with errors_as_exit() as said:
            warnings.warn("of another library", UserWarning, stacklevel=1)
            warnings.warn("what is that?", UnknownPromptWarning, stacklevel=1)
            warnings.warn("what is that?", CorrectedPromptWarning, stacklevel=1)
        warnings.warn("afterwards", UnknownPromptWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["of another library", "afterwards"]
    assert said == ["what is that?"]
    assert capsys.readouterr().err == "warning: what is that?\n"


@pytest.mark.parametrize(
    ("function", "call", "goes_on"),
    [
        ("textsam.config.read_config", ("train", "a.yaml"), True),
        ("textsam.ablate.run.ablate", ("ablate", "a.yaml"), True),
        (
            "textsam.cli.evaluate.samples_in_folder",
            ("evaluate", ".", "--concept", "tumor", "-o", "out"),
            True,
        ),
        ("textsam.average.average_adapters", ("average", "a", "b", "-o", "c"), False),
    ],
)
def test_ctrl_c_says_whether_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    function: str,
    call: tuple[str, ...],
    goes_on: bool,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(function, interrupted)
    result = run(*call)
    assert result.exit_code == 130
    assert ("interrupted; the same command goes on" in result.stderr) is goes_on
