"""The table of preference optimisation: its configurations, and a miniature from end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ablations import tiny_load
from runs import begin, run_config
from tiny import write_images_and_masks

from textsam.ablate.job import Steps
from textsam.config import TrainConfig, read_config
from textsam.data.selection import place_of
from textsam.train.run import fit

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not in this copy of the project", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import preference as benchmark  # noqa: E402


@pytest.mark.parametrize("part", list(benchmark.STAGE_ONE))
def test_the_ready_configurations_divide_the_images_as_they_say(part: str) -> None:
    second = read_config(benchmark.CONFIGS / f"preference-{part}.yaml")
    labelled = benchmark.STAGE_ONE[part]
    first = read_config(benchmark.CONFIGS / f"preference-stage1-{labelled}.yaml")
    assert second.preference is not None
    assert second.init_adapter == f"runs/preference-stage1-{labelled}/best"
    (everything,), (known,) = second.data.train, first.data.train
    (unknown,) = second.preference.unlabelled
    for one in (everything, known, unknown, *second.data.val):
        assert (one.set, one.split) == ("busi", "fold1/train")
    assert everything.part == (known.part[0], unknown.part[1])
    assert known.part[1] == unknown.part[0]
    assert known.part[1] - known.part[0] == pytest.approx(int(labelled) / 100)
    assert everything.part[1] - everything.part[0] == pytest.approx(int(part) / 100)
    assert second.data.val == first.data.val
    assert first.data.val[0].part[1] <= known.part[0]
    shape = {"preset", "side_px", "context", "adapter", "tuning", "loss", "prompts", "select"}
    assert second.model_dump(include=shape) == first.model_dump(include=shape)


def test_stages_of_all_parts_are_trained_alike() -> None:
    differ = {"name": True, "data": {"train"}, "init_adapter": True, "epochs": True}
    seconds = [
        read_config(benchmark.CONFIGS / f"preference-{part}.yaml").model_dump(
            exclude={**differ, "preference": {"unlabelled"}}
        )
        for part in benchmark.STAGE_ONE
    ]
    assert seconds[0] == seconds[1] == seconds[2]
    firsts = [
        read_config(benchmark.CONFIGS / f"preference-stage1-{part}.yaml").model_dump(exclude=differ)
        for part in ("05", "10")
    ]
    assert firsts[0] == firsts[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of the benchmark's layout, and configurations of two steps."""
    stems: dict[str, list[str]] = {"labelled": [], "unlabelled": [], "val": []}
    for number in range(60):
        stem = f"scan-{number}"
        place = place_of(stem)
        name = "labelled" if place < 0.4 else "unlabelled" if place < 0.7 else "val"
        if len(stems[name]) < 2:
            stems[name].append(stem)
    train = [stem for some in stems.values() for stem in some]
    split = {"train": train, "test": ["t0", "t1", "t2"]}
    names = [*train, *split["test"]]
    write_images_and_masks(tmp_path / "busi", len(names))
    for folder in ("images", "masks"):
        for number, stem in enumerate(names):
            pixels = tmp_path / "busi" / folder
            (pixels / f"{number:03d}.png").rename(pixels / f"{stem}.png")
    entry = {"modality": "breast ultrasound", "classes": {"255": "tumor"}, "terms": "made up"}
    (tmp_path / "manifest.json").write_text(json.dumps({"busi": entry}), encoding="utf-8")
    (tmp_path / "splits.json").write_text(json.dumps({"busi/fold1": split}), encoding="utf-8")

    def part(low: float, high: float) -> dict[str, Any]:
        return {"set": "busi", "split": "fold1/train", "part": [low, high]}

    def write(name: str, trained: tuple[float, float], **changes: Any) -> None:
        data = {"root": "elsewhere", "train": [part(*trained)], "val": [part(0.7, 1)]}
        common: dict[str, Any] = {
            "name": name,
            "data": data,
            "prompts": {"max_positives": 1, "negatives": 0, "synonym_p": 0.0},
        }
        settings = run_config(tmp_path, **{**common, "epochs": 2, **changes})
        text = yaml.safe_dump(settings.model_dump(mode="json", exclude={"out"}))
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")

    write("preference-stage1-05", (0, 0.4))
    write(
        "preference-10",
        (0, 0.7),
        init_adapter="none",
        preference={"unlabelled": [part(0.4, 0.7)], "cuts": [0.1, 0.2, 0.3, 0.5]},
        epochs=1,
    )
    return tmp_path


def test_a_miniature_from_end_to_end(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained: list[TrainConfig] = []

    def train(config: TrainConfig) -> Path:
        trained.append(config)
        if len(trained) == 3:
            raise benchmark._TimeIsUp
        return fit(begin(config), progress=False).folder

    steps = Steps(train=train, load=tiny_load)
    out = root / "results" / "table.json"
    call = ["--data", str(root), "--configs", str(root), "--work", str(root / "work")]
    call += ["--out", str(out), "--only", "10"]
    assert benchmark.main(call, steps) == benchmark.UNFINISHED
    begun = json.loads(out.read_text(encoding="utf-8"))["rows"]["10"]
    assert set(begun) == {"stage1", "labelled"}
    assert benchmark.main(call, steps) == 0
    # One stopped, and nothing that was finished done again.
    assert len(trained) == 1 + 1 + 1 + 3
    first, longer, _, *rated = trained
    assert first.preference is None
    assert all(config.init_adapter is not None for config in (longer, *rated))
    assert [c.preference.strategy for c in rated if c.preference] == list(benchmark.STRATEGIES)
    assert longer.preference is not None
    assert longer.preference.unlabelled == ()
    assert longer.data.train == first.data.train
    # As many optimiser steps of as many images, from half as many different ones.
    assert (longer.epochs, [config.epochs for config in rated]) == (2, [1, 1, 1])
    content = json.loads(out.read_text(encoding="utf-8"))
    rows = content["rows"]["10"]
    assert list(rows) == ["stage1", "labelled", "best-only", "rating", "ranking"]
    assert all(row["n"] == 3 for row in rows.values())
    assert rows["labelled"]["p"] is None
    assert rows["ranking"]["p"] is not None
    assert content["command"] == "python benchmarks/preference.py --data data"
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert f"| {rows['ranking']['dice']:.2f} ± {rows['ranking']['sd']:.1f} (p " in text
    assert str(root) not in text + out.read_text(encoding="utf-8")
    before = len(trained)
    assert benchmark.main(call, steps) == 0
    assert len(trained) == before
    (root / "busi" / "images" / "t0.png").unlink()
    assert benchmark.main(call, steps) == 2
    assert "error: " in capsys.readouterr().out


def test_the_rows_of_the_part_that_noise_is_tried_on(root: Path) -> None:
    override = [f"data.root={root}"]
    base = read_config(root / "preference-10.yaml", override)
    first = read_config(root / "preference-stage1-05.yaml", override)
    names = [cell.name for cell in benchmark.cells_of("20", base, first)]
    assert names[4:] == [
        "noise-5",
        "noise-10",
        "noise-20",
        "noise-30",
        "rated-once",
        "all-labelled",
    ]
    assert len(benchmark.cells_of("50", base, first)) == 4
