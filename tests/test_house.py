"""The house: README commands, CI, configurations, documents, and an import that costs nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage
import typer
from pydantic import BaseModel

import textsam
from textsam.cli import app
from textsam.config import TrainConfig, read_config
from textsam.data.coco import CocoSelection
from textsam.data.selection import Selection
from textsam.data.settings import DataSettings, FolderSelection
from textsam.vocabulary import MODALITIES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Ablations have cells and are tested in test_ablate.py; what they start from is a configuration
# like the others.
CONFIGS = sorted(
    path
    for path in (ROOT / "configs").rglob("*.yaml")
    if not re.search(r"^cells:", path.read_text(encoding="utf-8"), re.MULTILINE)
)
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "weights/*.md", "weights/*/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)


def marked_commands(text: str) -> dict[str, list[str]]:
    """Marker name -> lines of the fenced block that begins on the line after the marker."""
    pattern = r"^<!-- cmd: (\w+) -->\n```\w*\n(.*?)^```$"
    found = re.findall(pattern, text, flags=re.MULTILINE | re.DOTALL)
    return {name: block.splitlines() for name, block in found}


def test_readme_marks_exactly_two_commands_of_one_line_each() -> None:
    commands = marked_commands(README)
    assert README.count("<!-- cmd:") == 2
    assert set(commands) == {"run", "test"}
    assert all(len(lines) == 1 for lines in commands.values()), commands


def test_readme_commands_are_shell_and_begin_with_python_alone() -> None:
    for lines in marked_commands(README).values():
        checked = subprocess.run(["bash", "-n", "-c", lines[0]], check=False, capture_output=True)
        assert checked.returncode == 0, checked.stderr.decode()
        # On a fresh machine nothing else is there; all later programs come from the environment.
        first, *later = lines[0].split(" && ")
        assert first == "python3 -m venv .venv"
        assert all(part.startswith(".venv/bin/") for part in later), later


def test_the_image_readme_segments_comes_with_scikit_image() -> None:
    (line,) = marked_commands(README)["run"]
    (name,) = re.findall(r'"([\w.-]+\.(?:png|jpg))"', line)
    assert (Path(skimage.data.__file__).parent / name).is_file()


@pytest.fixture
def ci_copy(tmp_path: Path) -> Path:
    """A folder with this repository's .ci/run and room for another README."""
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    return tmp_path


def run_ci(folder: Path, readme: str) -> subprocess.CompletedProcess[str]:
    (folder / "README.md").write_text(readme, encoding="utf-8")
    command = ["bash", str(folder / ".ci" / "run")]
    return subprocess.run(command, cwd="/", check=False, capture_output=True, text=True)


def test_ci_runs_the_line_of_the_readme_in_the_repository(ci_copy: Path) -> None:
    block = "<!-- cmd: test -->\n```sh\npwd && echo \"it's\" > 'proof 1' && exit 3\n```\n"
    decoy = "<!-- cmd: run -->\n```sh\necho run > decoy\n```\n"
    done = run_ci(ci_copy, f"# Name\n{decoy}text\n{block}\n```sh\necho other > decoy\n```\n")
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-1] == str(ci_copy)
    assert (ci_copy / "proof 1").read_text(encoding="utf-8") == "it's\n"
    assert not (ci_copy / "decoy").exists()


@pytest.mark.parametrize(
    "readme",
    [
        "```sh\ntouch decoy\n```\n",
        "<!-- cmd: test -->\n```sh\n```\n",
        "<!-- cmd: test -->\n```sh\ntouch decoy\ntouch decoy\n```\n",
    ],
    ids=["no marker", "no line", "two lines"],
)
def test_ci_refuses_a_readme_without_exactly_one_line(ci_copy: Path, readme: str) -> None:
    done = run_ci(ci_copy, readme)
    assert done.returncode == 2
    assert "one line" in done.stderr
    assert not (ci_copy / "decoy").exists()


def test_ci_can_be_executed_and_knows_no_command_of_its_own() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    code = [line for line in script.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert not re.search(r"\b(pip|pytest|ruff|mypy|venv)\b", "\n".join(code))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_configuration_is_valid(path: Path) -> None:
    config = read_config(path)
    assert config.terms, "whoever gets the adapter must know the terms of its data"


def test_eus_is_the_recipe_of_the_paper() -> None:
    # Spiegler, Koleilat et al. 2025: section on training, and the defaults of its ablations.
    config = read_config(ROOT / "configs" / "eus.yaml")
    assert (config.preset, config.tuning.rank, config.epochs, config.batch_size) == (
        "vit_b",
        16,
        5,
        1,
    )
    assert (config.context.n_tokens, config.context.depth) == (4, 12)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.schedule) == (
        1e-3,
        0.01,
        "cosine",
    )
    assert (config.loss.dice, config.loss.bce, config.loss.iou) == (1, 1, 0)
    assert config.loss.resolution == "image"
    assert config.context.text_dropout is False
    assert config.val_every is None, "once per epoch"
    probabilities = {n: v for n, v in config.augment.model_dump().items() if n.endswith("_p")}
    assert set(probabilities.values()) == {0.0}
    assert (config.geometry.probability, config.prompts.negatives, config.prompts.synonym_p) == (
        0,
        0,
        0,
    )
    assert (config.select, config.refine, config.accumulate) == ("val_loss", 2, 1)
    assert config.optim.lr_encoder is None
    assert config.optim.lr_text is None


def test_eus_authors_is_the_paper_s_recipe_but_for_three_quirks_of_the_code() -> None:
    paper = read_config(ROOT / "configs" / "eus.yaml").model_dump()
    code = read_config(ROOT / "configs" / "eus-authors.yaml").model_dump()
    paper["name"] = "eus-authors"
    paper["optim"]["schedule"] = "constant"
    paper["context"] |= {"depth": 11, "text_dropout": True}
    assert code == paper


def _settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            # context and adapter share a table, and their rows carry the section's name.
            inner = f"{name}." if name in ("context", "adapter") else ""
            yield from _settings(kind, inner)
        else:
            yield prefix + name


def test_training_document_names_every_setting() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    models = (TrainConfig, DataSettings, FolderSelection, Selection, CocoSelection)
    wanted = {name for model in models for name in _settings(model)}
    assert len(wanted) > 60
    assert sorted(name for name in wanted if f"`{name}`" not in text) == []


def test_training_document_lists_the_kinds_of_image() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    section = text.split("### Kinds of image\n")[1].split("\n### ")[0]
    named = re.findall(r"`([^`]+)`", section)
    kept = [name for name in named if name in MODALITIES]
    assert kept == list(MODALITIES)
    assert set(named) - set(kept) == {"textsam.vocabulary", "unknown-modality", "unknown"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_counts_the_kinds_of_image(path: Path) -> None:
    # The list grows; a number beside a link to it would stay behind.
    links = re.findall(r"\[([^\[\]]*)\]\([^)]*#kinds-of-image\)", path.read_text(encoding="utf-8"))
    numbers = r"\d|\b(?:seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen)\b"
    assert [text for text in links if re.search(numbers, text)] == []


def _commands() -> Iterator[tuple[str, set[str]]]:
    top = typer.main.get_command(app)
    for name, command in top.commands.items():  # type: ignore[attr-defined]
        for path, leaf in [
            (name, command),
            *((f"{name} {sub}", c) for sub, c in getattr(command, "commands", {}).items()),
        ]:
            options = {o for p in leaf.params for o in p.opts if o.startswith("--")} - {"--help"}
            yield path, options


def test_command_line_document_names_every_command_and_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    commands = dict(_commands())
    assert {"segment", "prompts", "models", "train", "evaluate", "convert"} <= set(commands)
    assert {"weights list", "weights path", "weights download", "weights verify"} <= set(commands)
    lacking = {
        path: sorted(o for o in options if not re.search(rf"(?<![\w-]){o}(?![\w-])", text))
        for path, options in commands.items()
        if f"textsam {path}" in text or path == "weights"
    }
    assert set(lacking) == set(commands)
    assert [path for path, options in lacking.items() if options] == []
    # The other way round: nothing in the document that is no longer there.
    written = set(re.findall(r"`(--[a-z-]+)`", text)) - {"--help", "--version"}
    assert sorted(written - set().union(*commands.values())) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    local = [link.partition("#") for link in links if not re.match(r"[a-z]+:", link)]
    assert [name for name, _, _ in local if name and not (path.parent / name).exists()] == []
    lost = [
        f"{name}#{anchor}"
        for name, _, anchor in local
        if anchor and anchor not in anchors(path.parent / name if name else path)
    ]
    assert lost == []


def anchors(path: Path) -> set[str]:
    """What links can name in a document: its headings, as GitHub makes anchors of them."""
    text = re.sub(
        r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    headings = re.findall(r"^#+ (.+?)\s*$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_source_archive_has_what_documents_and_tests_lead_to() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    # These the backend adds by itself.
    archived = {name.strip("/") for name in included} | {"README.md", "LICENSE", "pyproject.toml"}
    named: set[str] = set()
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s:#]+)[)#]", path.read_text(encoding="utf-8")):
            target = (path.parent / link).resolve()
            named.add(target.relative_to(ROOT).parts[0])
    for path in (ROOT / "tests").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r'(?:ROOT|parents\[1\]|parent\.parent) / "([^"]+)"', text))
    assert {"docs", "benchmarks", "configs"} <= named
    assert {name for name in named - archived - {".git"} if (ROOT / name).exists()} == set()


# Written so that this file does not hold them itself.
FORBIDDEN = [
    "/" + "work/",
    "/" + "root/",
    "/" + "home/",
    "/" + "opt/ts",
    "/" + "tmp/bash",
    "pypi" + ".org",
    "python" + "hosted",
    "registry." + "npmjs",
    "deb." + "debian",
    "proxy." + "golang",
]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git which files belong to it")
def test_no_file_names_a_machine_path_or_a_registry() -> None:
    listing = subprocess.run(
        # safe.directory: a checkout that belongs to another user is read all the same.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / name.decode() for name in listing.stdout.split(b"\0") if name]
    assert ROOT / "pyproject.toml" in files
    hits = [
        f"{file.relative_to(ROOT)}: {pattern}"
        for file in files
        if file.is_file()
        for pattern in FORBIDDEN
        if pattern.encode() in file.read_bytes()
    ]
    assert hits == []


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project["version"] == textsam.__version__
    assert f"version: {textsam.__version__}\n" in citation
    assert f"## [{textsam.__version__}]" in changelog


HEAVY = ("torch", "transformers", "monai", "peft", "open_clip", "numpy")


def fresh_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_textsam_imports_nothing_heavy() -> None:
    code = f"import sys, textsam; print([m for m in {HEAVY} if m in sys.modules])"
    assert fresh_python(code).strip() == "[]"


def test_help_imports_no_torch() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['textsam', '--help']\n"
        "try:\n"
        "    runpy.run_module('textsam', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])\n"
    )
    lines = fresh_python(code).splitlines()
    assert any("segment" in line for line in lines)
    assert lines[-1] == "HEAVY []"


# The promise is 0.5 s for each. Counted is processor time: here it is almost all of the time there
# is, and a busy machine adds less to it; the best of three, as other processes can only add to it.
def test_importing_textsam_is_quick() -> None:
    code = (
        "import time\n"
        "began = time.process_time()\n"
        "import textsam\n"
        "print(time.process_time() - began)"
    )
    assert min(float(fresh_python(code)) for _ in range(3)) < 0.5


def test_help_is_quick() -> None:
    code = (
        "import sys, time\n"
        "began = time.process_time()\n"
        "from textsam.cli import app\n"
        "try:\n"
        "    app(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print()\n"
        "print(time.process_time() - began)"
    )
    assert min(float(fresh_python(code).splitlines()[-1]) for _ in range(3)) < 0.5
