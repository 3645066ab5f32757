"""The command line: what it writes, what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from tiny import tiny_model
from typer.main import get_command
from typer.testing import CliRunner

import textsam
from textsam import api
from textsam.adapters import AdapterConfig, write_adapter_config
from textsam.cli import app
from textsam.segmenter import Segmenter, UnknownPromptWarning

RESULT_KEYS = {
    "prompt", "found", "score", "box", "centroid", "area_px", "area_mm2", "image", "model",
    "adapter", "extra", "files", "seconds",
}  # fmt: skip
REPORT_KEYS = {"format", "textsam", "model", "adapter", "results", "failures"}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`load_model` gives a tiny segmenter; what it was asked for is kept."""
    calls: list[dict[str, Any]] = []

    def load_model(
        model: str, adapter: str | None, device: str, precision: str, **others: Any
    ) -> Segmenter:
        calls.append(
            {"model": model, "adapter": adapter, "device": device, "precision": precision, **others}
        )
        config = AdapterConfig(name="tiny", preset="lite", prompts=("tumor", "lung"), refine=1)
        return Segmenter(tiny_model(), config, device=torch.device("cpu"))

    monkeypatch.setattr(api, "load_model", load_model)
    return calls


def write_image(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def mask_values(path: str | Path) -> set[int]:
    with Image.open(path) as file:
        assert file.mode == "L"
        return set(np.unique(np.asarray(file)).tolist())


def report_of(result: Result) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(result.stdout)
    assert report.keys() == REPORT_KEYS
    assert (report["format"], report["textsam"]) == (1, textsam.__version__)
    return report


def test_one_image_and_one_word(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    result = run("segment", image, "tumor", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["scan_tumor.png"]
    with Image.open(tmp_path / "out" / "scan_tumor.png") as file:
        assert file.size == (40, 30)
    assert mask_values(tmp_path / "out" / "scan_tumor.png") <= {0, 255}
    assert "scan.png: tumor:" in result.stdout
    assert "scan_tumor.png" in result.stdout
    assert asked == [
        {
            "model": "lite", "adapter": None, "device": "auto", "precision": "auto",
            "sam_checkpoint": None, "text_encoder": None, "authors_frame": None,
        }
    ]  # fmt: skip


def test_options_reach_the_model(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    options = (
        "--model vit_b --adapter mine --device cpu --precision float32 --sam-checkpoint sam.pth "
        "--text-encoder clip --authors-frame --refine 2 --json"
    )
    result = run("segment", image, "tumor", "-o", tmp_path / "out", *options.split())
    assert asked == [
        {
            "model": "vit_b", "adapter": "mine", "device": "cpu", "precision": "float32",
            "sam_checkpoint": Path("sam.pth"), "text_encoder": Path("clip"), "authors_frame": True,
        }
    ]  # fmt: skip
    assert report_of(result)["results"][0]["extra"]["refine"] == 2


def test_the_report_is_stable_and_true(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for seed, name in enumerate(("b.png", "a.JPG")):
        write_image(folder / name, seed=seed)
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    write_image(folder / ".hidden.png")
    out = tmp_path / "out"
    result = run("segment", folder, "tumor", "lungs", "-o", out, "--overlay", "--json")
    assert result.exit_code == 0, result.output
    report = report_of(result)
    assert (report["model"], report["adapter"], report["failures"]) == ("lite", "tiny", [])
    assert [(Path(r["image"]["source"]).name, r["prompt"]) for r in report["results"]] == [
        ("a.JPG", "tumor"), ("a.JPG", "lungs"), ("b.png", "tumor"), ("b.png", "lungs"),
    ]  # fmt: skip
    for entry in report["results"]:
        assert entry.keys() == RESULT_KEYS
        assert entry["image"].keys() == {"source", "height", "width", "sha256"}
        assert entry["files"].keys() == {"mask", "overlay"}
        with Image.open(entry["files"]["mask"]) as file:
            assert np.count_nonzero(np.asarray(file)) == entry["area_px"]
        with Image.open(entry["files"]["overlay"]) as file:
            assert file.mode == "RGB"
        assert entry["seconds"] > 0
    names = {f"{stem}_{slug}{end}.png" for stem in "ab" for slug in ("tumor", "lungs")
             for end in ("", "_overlay")}  # fmt: skip
    assert {path.name for path in out.iterdir()} == names
    assert [r["extra"]["concept"] for r in report["results"][:2]] == ["tumor", "lung"]


def test_the_same_answers_as_the_interface(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    report = report_of(run("segment", image, "tumor", "lung", "-o", tmp_path / "o", "--json"))
    segmenter = api.load_model("lite", None, "auto", "auto")
    for entry, answer in zip(
        report["results"], segmenter.segment(image, ["tumor", "lung"]), strict=True
    ):
        with Image.open(entry["files"]["mask"]) as file:
            assert np.array_equal(np.asarray(file) > 0, answer.mask)
        assert {k: entry[k] for k in answer.to_dict()} == json.loads(json.dumps(answer.to_dict()))


def test_a_mask_s_own_file_name(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    target = tmp_path / "deep" / "mask.png"
    result = run("segment", image, "tumor", "-o", target, "--overlay")
    assert result.exit_code == 0, result.output
    assert {p.name for p in target.parent.iterdir()} == {"mask.png", "mask_overlay.png"}
    assert mask_values(target) <= {0, 255}


@pytest.mark.parametrize(
    ("names", "bases"),
    [
        (("a.png", "a.jpg", "b.png"), {"a_png", "a_jpg", "b"}),
        (("a.png", "a.jpg", "a_png.png"), {"a_png", "a_jpg", "a_png-2"}),
    ],
)
def test_files_of_one_stem_do_not_overwrite_each_other(
    asked: list[dict[str, Any]], tmp_path: Path, names: Sequence[str], bases: set[str]
) -> None:
    for seed, name in enumerate(names):
        write_image(tmp_path / "in" / name, seed=seed)
    report = report_of(run("segment", tmp_path / "in", "tumor", "-o", tmp_path / "out", "--json"))
    written = [Path(entry["files"]["mask"]).name for entry in report["results"]]
    assert len(set(written)) == len(names)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(written)
    assert set(written) == {f"{base}_tumor.png" for base in bases}


@pytest.mark.parametrize(
    ("prompts", "slugs"),
    [
        (("Lung!", "lung"), ["lung", "lung-2"]),
        (("lung", "lung-3", "lung "), ["lung", "lung-3", "lung-2"]),
        (("cell nucleus", "腫瘍", "…a/b_c…"), ["cell-nucleus", "腫瘍", "a-b-c"]),
    ],
)
@pytest.mark.filterwarnings("ignore::textsam.segmenter.UnknownPromptWarning")
def test_prompts_do_not_overwrite_each_other(
    asked: list[dict[str, Any]], tmp_path: Path, prompts: Sequence[str], slugs: list[str]
) -> None:
    image = write_image(tmp_path / "scan.png")
    report = report_of(run("segment", image, *prompts, "-o", tmp_path / "out", "--json"))
    written = [Path(entry["files"]["mask"]).name for entry in report["results"]]
    assert written == [f"scan_{slug}.png" for slug in slugs]
    assert [entry["prompt"] for entry in report["results"]] == list(prompts)


def test_one_bad_image_does_not_stop_the_others(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    result = run("segment", tmp_path / "in", "tumor", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    report = report_of(result)
    assert [Path(r["image"]["source"]).name for r in report["results"]] == ["a.png", "c.png"]
    (failure,) = report["failures"]
    assert failure.keys() == {"input", "error"}
    assert failure["input"] == str(tmp_path / "in" / "b.png")
    assert failure["error"]
    assert "b.png" in result.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a_tumor.png", "c_tumor.png"}


def test_a_missing_image(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    missing = tmp_path / "none.png"
    result = run("segment", missing, "tumor", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    report = report_of(result)
    assert report["results"] == []
    assert [failure["input"] for failure in report["failures"]] == [str(missing)]
    assert str(missing) in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_is_an_answer(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = api.load_model

    def strict_about_finding(*args: Any, **others: Any) -> Segmenter:
        segmenter = tiny(*args, **others)
        segmenter.config = segmenter.config.model_copy(update={"found_threshold": 1.0})
        return segmenter

    monkeypatch.setattr(api, "load_model", strict_about_finding)
    image = write_image(tmp_path / "scan.png")
    result = run("segment", image, "tumor", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0
    (entry,) = report_of(result)["results"]
    assert (entry["found"], entry["area_px"], entry["box"]) == (False, 0, None)
    assert mask_values(entry["files"]["mask"]) == {0}
    spoken = run("segment", image, "tumor", "-o", tmp_path / "out")
    assert "not found" in spoken.stdout


def test_a_word_the_adapter_does_not_know(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.png")
    with pytest.warns(UnknownPromptWarning, match="'dog'"):
        result = run("segment", image, "dog", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0
    assert report_of(result)["results"][0]["extra"]["concept"] is None
    result = run("segment", image, "dog", "-o", tmp_path / "strict", "--strict")
    assert result.exit_code == 1
    assert "tumor, lung" in result.stderr
    assert not (tmp_path / "strict").exists()


def test_a_bad_prompt_is_one_error(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name)
    result = run("segment", tmp_path / "in", " ", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.count("error:") == 1
    assert not (tmp_path / "out").exists()


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
        "masks are written as": ("segment", image, "tumor", "-o", tmp_path / "m.jpg"),
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


def test_masks_may_not_replace_the_images_of_a_folder(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_image(tmp_path / "in" / "a.png")
    other = write_image(tmp_path / "in" / "a_tumor.png", seed=1)
    before = other.read_bytes()
    result = run("segment", tmp_path / "in", "tumor", "-o", tmp_path / "in")
    assert result.exit_code == 2
    assert "would overwrite" in result.stderr
    assert other.read_bytes() == before
    assert run("segment", tmp_path / "in", "lung", "-o", tmp_path / "in").exit_code == 0


def write_adapter(folder: Path) -> Path:
    config = AdapterConfig(name="mine", preset="lite", prompts=("tumor", "gizmo"))
    write_adapter_config(folder, config)
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
    assert rows[0]["default_adapter"] == "lite-generalist"
    text = run("models").stdout
    assert "lite: LiteMedSAM" in text
    assert "vit_h: SAM ViT-H" in text


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["models"], ["prompts", "--adapter", "."], ["train", "--help"]],
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
    weights = [["weights", name] for name in group.commands["weights"].commands]  # type: ignore[attr-defined]
    assert {"segment", "train", "evaluate", "convert", "prompts", "models", "weights"} <= {
        name for (name,) in names
    }
    for words in ([], *names, *weights):
        result = run(*words, "--help")
        assert result.exit_code == 0, words
        assert "Usage:" in result.stdout
        assert len(result.stdout.split()) > 15, words
