"""Running ablations: what is trained, skipped, shared, resumed and refused, and failures."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ablations import RANKS, Bench
from cli_runs import run as textsam
from filelock import FileLock
from PIL import Image
from runs import run_config
from safetensors.torch import load_file
from tiny import write_images_and_masks

from textsam.ablate.engines import InProcess, Processes, Submitit
from textsam.ablate.job import Outcome, died
from textsam.ablate.plan import make_plan
from textsam.ablate.run import AblationResult, ablate
from textsam.ablate.spec import read_ablation
from textsam.adapters import read_adapter_config
from textsam.data import check as check_module
from textsam.data.problems import DataCheckError
from textsam.errors import ConfigError, DataError, TextSAMError
from textsam.io.coco import encode_rle
from textsam.model.tuning import trainable_parameters


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def go(
    bench: Bench, *, kill_at: int | None = None, fail_on: int | None = None, **options: Any
) -> AblationResult:
    steps = bench.steps(stop_at=kill_at, fail_on=fail_on)
    return ablate(bench.file, **{"out": bench.out, "steps": steps, "progress": False, **options})


def states(result: AblationResult) -> list[tuple[str, int, str]]:
    return [(o.cell, o.seed, o.state) for o in result.outcomes]


def record(bench: Bench, cell: str, seed: int = 0) -> dict[str, Any]:
    path = bench.out / "ranks" / "cells" / cell / f"seed-{seed}" / "cell.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_every_cell_and_seed_leaves_adapter_cases_summary_and_record(bench: Bench) -> None:
    result = go(bench, seeds=[0, 3])
    assert states(result) == [(c, s, "finished") for s in (0, 3) for c in ("1", "2")]
    assert result.complete
    assert [line[1:3] for line in bench.trained] == [[r, s] for s in "03" for r in "12"]
    for cell in "12":
        for seed in (0, 3):
            folder = bench.out / "ranks" / "cells" / cell / f"seed-{seed}"
            with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
                assert [row["stem"] for row in csv.DictReader(file)] == ["000", "001", "002"]
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            assert summary["settings"]["refine_with"] == "box+centroid"
            own = record(bench, cell, seed)
            assert (own["state"], own["cell"], own["seed"]) == ("finished", cell, seed)
            adapter = read_adapter_config(bench.out / own["adapter"])
            assert adapter.architecture.rank == int(cell)
            assert adapter.training["config"]["seed"] == seed
            assert own["date"]
            assert own["machine"]["cpu_count"]


def test_the_table_has_the_summaries_figures_of_what_is_absent(bench: Bench) -> None:
    mask = bench.root / "data/test/masks/001.png"
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(mask)
    go(bench)
    with (bench.out / "ranks/ranks-absent.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["cell"] for row in rows] == ["1", "2"]
    for row in rows:
        folder = bench.out / "ranks" / "cells" / row["cell"] / "seed-0"
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        (own,) = summary["absences"]
        assert (row["dataset"], row["kind"]) == (own["dataset"], own["kind"])
        assert int(row["questions"]) == own["n"] == 1
        assert int(row["questions"]) - int(row["empty"]) == own["false_positives"]


def test_trainable_parameters_are_those_of_the_model(bench: Bench) -> None:
    from tiny import tiny_model

    from textsam.checkpoint import architecture_of

    go(bench, only=["2"])
    adapter = read_adapter_config(bench.out / record(bench, "2")["adapter"])
    model = tiny_model(architecture_of(adapter.architecture)).model
    expected = sum(p.numel() for p in trainable_parameters(model).values())
    assert record(bench, "2")["trainable_parameters"] == expected


def test_finished_cells_are_skipped_and_the_files_stay(bench: Bench) -> None:
    first = go(bench)
    files = {path: path.stat().st_mtime_ns for path in (bench.out / "ranks" / "cells").rglob("*.*")}
    second = go(bench)
    assert states(second) == [("1", 0, "skipped"), ("2", 0, "skipped")]
    assert second.to_do == ()
    assert len(bench.trained) == 2
    assert files == {path: path.stat().st_mtime_ns for path in files}
    assert second.table == first.table


def test_only_does_what_is_asked_and_the_table_shows_the_rest_as_missing(bench: Bench) -> None:
    result = go(bench, only=["2"])
    assert states(result) == [("2", 0, "finished")]
    assert "- 1, seed 0: not begun" in result.table
    assert "| 1 | – | – | 0/1 | – | – |" in result.table
    assert "- 2, seed 0" not in result.table
    with pytest.raises(ConfigError, match="has no cell '3'; its cells are 1, 2"):
        go(bench, only=["3"])


def test_a_killed_training_goes_on_and_ends_as_if_never_killed(tmp_path: Path) -> None:
    killed, whole = Bench(tmp_path / "killed"), Bench(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(killed, kill_at=2)
    assert "not begun" in (killed.out / "ranks" / "ranks.md").read_text(encoding="utf-8")
    assert "training begun, kept up to step 2 of 4" in go(killed, dry_run=True).table
    go(killed)
    go(whole)
    adapters = [
        load_file(b.out / record(b, "1")["adapter"] / "adapter.safetensors")
        for b in (killed, whole)
    ]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(adapters[0][name].equal(adapters[1][name]) for name in adapters[0])
    # Rank 1 was begun twice, and the second time from step 2: steps 1 and 2 were logged once.
    assert [line[1] for line in killed.trained] == ["1", "1", "2"]
    folder = (killed.out / record(killed, "1")["adapter"]).parent
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file) if row[1] == "loss"] == ["1", "2", "3", "4"]


def test_a_killed_evaluation_goes_on_without_training_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsam.inference.segmenter import Segmenter

    honest, calls = Segmenter.segment, []

    def segment(self: Segmenter, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(self, *args, **options)

    monkeypatch.setattr(Segmenter, "segment", segment)
    with pytest.raises(KeyboardInterrupt):
        go(bench, only=["1"])
    assert "- 1, seed 0: evaluation not finished" in go(bench, dry_run=True).table
    assert go(bench, only=["1"]).complete
    assert len(bench.trained) == 1
    assert len(calls) == 4, "two images before the kill, one after it"


def test_cells_of_equal_training_share_one(bench: Bench) -> None:
    kinds = ("none", "point", "box", "box+point", "box+centroid", "box+5points")
    cells = [{"name": kind, "evaluate": {"refine_with": kind}} for kind in kinds]
    bench.write({"refine": 2}, cells=cells)
    result = go(bench)
    assert states(result) == [(kind, 0, "finished") for kind in kinds]
    assert len(bench.trained) == 1
    assert len({record(bench, kind)["adapter"] for kind in kinds}) == 1
    for kind in kinds:
        folder = bench.out / "ranks" / "cells" / kind / "seed-0"
        settings = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        assert settings["refine_with"] == kind


def test_cells_refine_as_their_adapters_do_unless_told(bench: Bench) -> None:
    cells = [
        {"name": "own"},
        {"name": "told", "evaluate": {"refine_with": "point"}},
        {"name": "thrice", "set": ["self_prompt.passes=3", "self_prompt.gives=mask"]},
    ]
    for asked, expected in (("box", "box"), (None, "box+centroid")):
        bench.write({"refine": 2, "refine_with": asked}, cells=cells)
        plan = make_plan(read_ablation(bench.file), bench.file, bench.out)
        cells_of = [cell for job in plan.jobs for cell in job.cells]
        given = {cell.cell: cell.facts["evaluation"]["refine_with"] for cell in cells_of}
        # "box+centroid" was the default of all, so results of before keep their identity.
        assert given == {"own": expected, "told": "point", "thrice": asked or "mask"}
    bench.write({"refine": 2, "refine_with": "box"}, cells=cells[:1])
    assert go(bench).complete
    folder = bench.out / "ranks" / "cells" / "own" / "seed-0"
    settings = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    adapter = read_adapter_config(bench.out / record(bench, "own")["adapter"])
    assert settings["refine_with"] == adapter.refine_with == "box"


def test_another_ablation_in_the_same_folder_uses_the_same_training(bench: Bench) -> None:
    go(bench)
    # The base has rank 2: this cell is the other table's "2", however it is written.
    bench.write(name="depths", cells=[{"name": "base"}, {"name": "b", "set": ["context.depth=2"]}])
    result = go(bench)
    assert states(result) == [("base", 0, "finished"), ("b", 0, "finished")]
    assert len(bench.trained) == 3
    other = json.loads(
        (bench.out / "depths/cells/base/seed-0/cell.json").read_text(encoding="utf-8")
    )
    assert other["adapter"] == record(bench, "2")["adapter"]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"set": ["tuning.ranks=4"]}, r"cell '3'.*tuning\.ranks"),
        ({"set": ["tuning.rank=four"]}, r"cell '3'.*tuning\.rank"),
        ({"set": ["context.depth=7"]}, r"cell '3'.*context\.depth is 7"),
        ({"set": ["seed=4"]}, r"cell '3'.*'seed=4' cannot be set here.*--seeds"),
        ({"set": ["name=x"]}, r"cell '3'.*'name=x' cannot be set here"),
        ({"set": ["data.root=nowhere"]}, r"cell '3'.*nowhere"),
        ({"set": ["tuning.rank"]}, r"cell '3'.*a\.b=value"),
        ({"evaluate": {"refine_with": "boxes"}}, r"cells\.2\.evaluate\.refine_with"),
        ({"evaluate": {"refines": 1}}, r"cells\.2\.evaluate\.refines"),
        ({"overrides": []}, r"cells\.2\.overrides"),
        ({"name": "1"}, "same name: 1"),
        ({"name": "../up"}, r"cells\.2\.name"),
    ],
)
def test_what_is_wrong_with_the_last_cell_is_refused_before_the_first_trains(
    bench: Bench, cell: dict[str, Any], words: str
) -> None:
    bench.write(cells=[*RANKS, {"name": "3", **cell}])
    with pytest.raises(TextSAMError, match=words) as caught:
        go(bench)
    assert str(bench.file) in str(caught.value)
    assert bench.trained == []
    assert not (bench.out / "trainings").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": 4}, "reference is '4'; the cells are 1, 2"),
        ({"seeds": [1, 1]}, "seeds are"),
        ({"seeds": []}, "seeds are"),
        ({"seeds": [2**63]}, r"seeds\.0: .*less than 9223372036854775808"),
        ({"evaluate": {}}, "all empty"),
        ({"cells": []}, "cells"),
        ({"repeat": 3}, "repeat"),
        ({"base": "none.yaml"}, r"no configuration at .*none\.yaml"),
        ({"cells": [{"name": 1, "paper": {"dice": 1, "nsd": 2}}]}, "on what data"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(
    bench: Bench, changes: dict[str, Any], words: str
) -> None:
    bench.write(**changes)
    with pytest.raises(ConfigError, match=words):
        go(bench)
    assert bench.trained == []


def test_files_that_are_no_ablation(bench: Bench) -> None:
    for text, words in (("a: [1", "is not YAML"), ("- a\n", "holds list")):
        bench.file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=words):
            go(bench)
    with pytest.raises(ConfigError, match=r"configs/ablations/"):
        ablate(bench.root / "none.yaml")


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_assignment_that_every_cell_replaces_is_refused(bench: Bench, dry_run: bool) -> None:
    with pytest.raises(
        ConfigError, match=r"--set tuning\.rank=8: every cell of .* sets tuning\.rank"
    ):
        go(bench, overrides=["tuning.rank=8"], dry_run=dry_run)
    assert bench.trained == []
    bench.write(cells=[*RANKS, {"name": "base"}])
    assert len(go(bench, overrides=["tuning.rank=8"], dry_run=True).to_do) == 3


def test_images_must_not_be_trained_and_evaluated_on(bench: Bench) -> None:
    bench.write(evaluate={"folders": [{"folder": ".", "split": "train", "concept": "tumor"}]})
    with pytest.raises(ConfigError, match="4 of 4 images to evaluate on are trained on"):
        go(bench)
    bench.write(evaluate={"folders": [{"folder": ".", "split": "val", "concept": "tumor"}]})
    assert (
        "2 of the images evaluated on also chose the best adapter" in go(bench, dry_run=True).table
    )


def test_every_faulty_file_is_told_at_once_before_anything_trains(bench: Bench) -> None:
    data = bench.root / "data"
    (data / "train/masks/001.png").unlink()
    (data / "val/images/000.png").write_bytes(b"no image")
    content = (data / "test/images/002.png").read_bytes()
    (data / "test/images/002.png").write_bytes(content[: len(content) // 2])
    (data / "test/masks/000.png").unlink()
    bench.write(cells=[*RANKS, {"name": 3, "set": ["tuning.rank=3"], "evaluate": {"refine": 0}}])
    with pytest.raises(DataCheckError) as caught:
        go(bench)
    told = {(p.part, p.kind, Path(p.path).name) for p in caught.value.report.problems}
    assert told == {
        ("train", "missing-mask", "001.png"),
        ("val", "broken-image", "000.png"),
        ("test", "broken-image", "002.png"),
        ("test", "missing-mask", "000.png"),
    }
    assert len(caught.value.report.problems) == 4, "each once, however many cells there are"
    assert str(bench.file) in str(caught.value)
    assert not bench.out.exists()


def test_faults_of_one_cell_s_own_data_name_it(bench: Bench) -> None:
    write_images_and_masks(bench.root / "data/more/train", 4, seed=8)
    (bench.root / "data/more/train/masks/003.png").write_bytes(b"")
    (bench.root / "data/val/masks/001.png").write_bytes(b"")
    folders = "data.train_folders=[{folder: more, split: train, concept: tumor}]"
    bench.write(cells=[*RANKS, {"name": 3, "set": [folders]}])
    with pytest.raises(DataCheckError) as caught:
        go(bench)
    told = [(p.part, Path(p.path).name) for p in caught.value.report.problems]
    # The validation images are those of all cells, and told of the first.
    assert told == [("val of cell '1'", "001.png"), ("train of cell '3'", "003.png")]


def test_a_test_image_with_the_pixels_of_a_training_image_is_found(bench: Bench) -> None:
    data = bench.root / "data"
    copy = Image.open(data / "train/images/002.png")
    (data / "test/images/001.png").unlink()
    copy.save(data / "test/images/001.bmp")
    with pytest.raises(
        DataCheckError, match=r"\[test\] .*001\.bmp: has the pixels of .*in 'train'"
    ):
        go(bench)
    allowed = {**run_config(data).data.model_dump(mode="json"), "allow": ["same-image"]}
    bench.write({"data": allowed})
    assert go(bench, dry_run=True).to_do
    # Images that also choose the best adapter are no fault.
    (data / "test/images/001.bmp").unlink()
    Image.open(data / "val/images/001.png").save(data / "test/images/001.png")
    bench.write()
    assert go(bench, dry_run=True).to_do


def test_what_was_checked_is_not_read_again_until_it_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    facts = check_module._image_facts

    def counting(path: Path) -> Any:
        read.append(path)
        return facts(path)

    monkeypatch.setattr(check_module, "_image_facts", counting)
    go(bench, dry_run=True)
    assert len(read) == len(set(read)) == 9, "of all cells each image once"
    report = json.loads((bench.out / "ranks/data-check.json").read_text(encoding="utf-8"))
    assert report["samples"] == {"train": 4, "val": 2, "test": 3}
    assert (report["files_read"], report["errors"]) == (18, 0)
    go(bench, dry_run=True)
    assert len(read) == 9
    mask = bench.root / "data/test/masks/001.png"
    mask.write_bytes(b"")
    with pytest.raises(DataCheckError, match=r"\[test\] .*001\.png"):
        go(bench, dry_run=True)


def test_evaluation_must_ask_for_what_is_trained(bench: Bench) -> None:
    bench.write(evaluate={"folders": [{"folder": ".", "split": "test", "concept": "lung"}]})
    with pytest.raises(DataError, match=r"show lung, those trained on tumor"):
        go(bench)


def test_images_that_results_could_not_tell_apart_are_refused_before_training(
    bench: Bench,
) -> None:
    for seed, hospital in enumerate(("north", "south")):
        write_images_and_masks(bench.root / "data" / hospital / "site", 2, seed=10 + seed)
    folders = [{"folder": f"{part}/site", "concept": "tumor"} for part in ("north", "south")]
    bench.write(evaluate={"folders": folders})
    told = r"cell '1': site/000 is among the samples twice: .*north.*south.*give the sets different"
    with pytest.raises(DataError, match=told):
        go(bench)
    assert bench.trained == []


def test_changed_settings_are_refused_and_done_again_when_asked(bench: Bench) -> None:
    go(bench)
    before = record(bench, "1")
    with pytest.raises(
        ConfigError, match=r"2 cells .*1, seed 0: training\.optim\.lr was 0\.001 and is 0\.002"
    ):
        go(bench, overrides=["optim.lr=0.002"])
    assert len(bench.trained) == 2
    table = go(bench, overrides=["optim.lr=0.002"], dry_run=True).table
    assert "- 1, seed 0: made with other settings" in table
    result = go(bench, overrides=["optim.lr=0.002"], replace=True)
    assert states(result) == [("1", 0, "finished"), ("2", 0, "finished")]
    assert record(bench, "1")["adapter"] != before["adapter"]
    assert len(bench.trained) == 4
    # The first trainings are still there: going back costs an evaluation and no training.
    go(bench, replace=True)
    assert record(bench, "1")["adapter"] == before["adapter"]
    assert len(bench.trained) == 4


def test_a_changed_evaluation_is_refused_and_keeps_the_training(bench: Bench) -> None:
    go(bench)
    folder = {"folder": ".", "split": "test", "concept": "tumor"}
    bench.write(evaluate={"folders": [folder], "refine": 1})
    with pytest.raises(ConfigError, match=r"evaluation\.refine was None and is 1"):
        go(bench)
    assert go(bench, replace=True).complete
    assert len(bench.trained) == 2


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_changed_data_are_other_settings(bench: Bench, part: str) -> None:
    go(bench)
    mask = bench.root / "data" / part / "masks" / "001.png"
    mask.write_bytes((bench.root / "data" / part / "masks" / "000.png").read_bytes())
    where = "evaluation.contents" if part == "test" else f"training.contents.{part}"
    with pytest.raises(ConfigError, match=rf"{where}: the files are others"):
        go(bench)


def test_data_that_moved_are_the_same(bench: Bench) -> None:
    go(bench)
    # The last folder's name stays: it is the name of the set.
    elsewhere = bench.root / "elsewhere" / "data"
    elsewhere.parent.mkdir()
    (bench.root / "data").rename(elsewhere)
    result = go(bench, overrides=[f"data.root={elsewhere}"])
    assert [state for _, _, state in states(result)] == ["skipped", "skipped"]


def test_a_failing_cell_stops_no_other_and_is_told(bench: Bench) -> None:
    result = go(bench, fail_on=1)
    assert states(result) == [("1", 0, "failed"), ("2", 0, "finished")]
    assert not result.complete
    message = result.outcomes[0].message
    assert message.startswith("RuntimeError: out of memory, says the device")
    (trace,) = (bench.out / "ranks" / "failures").glob("*.txt")
    assert str(trace) in message
    assert "Traceback" in trace.read_text(encoding="utf-8")
    why = f"failed: RuntimeError: out of memory, says the device (failures/{trace.name})"
    told = f"- 1, seed 0: {why}"
    assert told in result.table.splitlines()
    assert told in go(bench, dry_run=True).table.splitlines()
    again = go(bench)
    assert again.complete
    assert "failed" not in again.table
    assert not trace.exists()


def test_a_training_that_failed_and_was_then_killed_has_not_failed(bench: Bench) -> None:
    go(bench, fail_on=1, only=["1"])
    with pytest.raises(KeyboardInterrupt):
        go(bench, kill_at=2, only=["1"])
    assert "- 1, seed 0: training begun, kept up to step 2 of 4" in go(bench, dry_run=True).table


def test_a_failed_evaluation_is_told_by_the_first_line_of_its_message(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nCompile with flags to debug.\n")

    with monkeypatch.context() as patch:
        patch.setattr("textsam.ablate.job.evaluate", fail)
        result = go(bench, only=["2"])
    assert (
        "- 2, seed 0: failed: RuntimeError: CUDA error: out of memory (failures/2-seed-0.txt)"
    ) in result.table.splitlines()
    assert go(bench, only=["2"]).complete
    assert not list((bench.out / "ranks" / "failures").iterdir())


def test_a_training_another_process_is_at_is_left_alone(bench: Bench) -> None:
    name = go(bench, dry_run=True)
    assert name.to_do == ("1, seed 0", "2, seed 0")
    go(bench, only=["2"])
    key = Path(record(bench, "2")["training"]).name
    cells = [*RANKS, {"name": "3", "set": ["tuning.rank=2"], "evaluate": {"refine": 0}}]
    bench.write(cells=cells)
    with FileLock(bench.out / "locks" / f"{key}.lock"):
        result = go(bench)
    assert states(result) == [("1", 0, "finished"), ("2", 0, "skipped"), ("3", 0, "busy")]
    assert key in result.outcomes[2].message
    assert not result.complete


def test_results_of_a_command_with_other_settings_at_the_same_time_stay(bench: Bench) -> None:
    def after_another(jobs: Any, work: Any) -> Any:
        assert go(bench, overrides=["optim.lr=0.002"]).complete
        return InProcess()(jobs, work)

    result = go(bench, engine=after_another)
    assert states(result) == [("1", 0, "failed"), ("2", 0, "failed")]
    assert "training.optim.lr was 0.002 and is 0.001" in result.outcomes[0].message
    assert "- 1, seed 0: made with other settings" in result.table
    assert all(record(bench, cell)["state"] == "finished" for cell in ("1", "2"))
    assert go(bench, replace=True).complete
    assert len(bench.trained) == 4


def test_seeds_found_on_disk_join_the_table(bench: Bench) -> None:
    go(bench, seeds=[0], only=["1"])
    result = go(bench, seeds=[5], only=["1"])
    assert "| 1 |" in result.table
    (line,) = [line for line in result.table.splitlines() if line.startswith("| 1 |")]
    assert "| 2/2 |" in line
    assert "Seeds 0, 5;" in result.table


def write_coco(data: Path) -> dict[str, Any]:
    """The test images as a COCO file, two of its annotations of one image."""
    images, annotations = [], []
    for number, path in enumerate(sorted((data / "test/masks").iterdir())):
        mask = np.array(Image.open(path)) > 0
        size = {"height": mask.shape[0], "width": mask.shape[1]}
        images.append({"id": number, "file_name": path.name, **size})
        halves = mask.copy(), mask.copy()
        halves[0][:24], halves[1][24:] = False, False
        annotations += [
            {"image_id": number, "category_id": 5, "segmentation": encode_rle(half)}
            for half in halves
        ]
    content = {
        "images": images,
        "annotations": [{"id": n, **entry} for n, entry in enumerate(annotations)],
        "categories": [{"id": 5, "name": "mass"}],
    }
    (data / "test.json").write_text(json.dumps(content), encoding="utf-8")
    selection = {"images": "test/images", "annotations": "test.json"}
    return {**selection, "concepts": {"mass": "tumor"}}


def test_a_coco_file_is_evaluated_as_its_masks_are(bench: Bench) -> None:
    def dice() -> dict[str, str]:
        path = bench.out / "ranks/cells/1/seed-0/cases.csv"
        with path.open(newline="", encoding="utf-8") as file:
            return {row["stem"]: row["dice"] for row in csv.DictReader(file)}

    cells = RANKS[:1]
    bench.write(cells=cells)
    go(bench)
    assert "coco" not in record(bench, "1")["settings"]["evaluation"], "known as before"
    from_masks = dice()
    coco = write_coco(bench.root / "data")
    bench.write(cells=cells, evaluate={"coco": [coco]})
    result = go(bench, replace=True)
    assert result.complete, result.outcomes
    assert len(bench.trained) == 1
    assert len(from_masks) == 3
    assert dice() == from_masks
    # What a file shows is part of what a result depends on, and its faults are told before.
    path = bench.root / "data/test.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["annotations"][-1]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"evaluation\.contents: the files are others"):
        go(bench)
    content["annotations"][0]["image_id"] = 99
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataCheckError, match=r"unknown-reference[^\n]*\n +\[test\] .*test\.json"):
        go(bench)
    bench.write(cells=cells, evaluate={"coco": [{**coco, "concept": "tumor"}]})
    with pytest.raises(ConfigError, match=r"evaluate\.coco\.0\.concept"):
        go(bench)


def made_by(result: AblationResult) -> str:
    (line,) = [line for line in result.table.splitlines() if line.startswith("Made by ")]
    return line


def test_the_table_names_every_command_that_made_its_cells(bench: Bench) -> None:
    first = go(bench, seeds=[0], command="textsam ablate ranks.yaml --seeds 0")
    assert made_by(first) == "Made by `textsam ablate ranks.yaml --seeds 0`."
    second = go(bench, seeds=[1], command="textsam ablate ranks.yaml --seeds 1")
    both = "Made by `textsam ablate ranks.yaml --seeds 0`, `textsam ablate ranks.yaml --seeds 1`."
    assert made_by(second) == both
    # A call that does nothing has made nothing.
    assert made_by(go(bench, seeds=[0, 1], command="textsam ablate ranks.yaml")) == both
    # Cells of before do not know theirs.
    path = bench.out / "ranks" / "cells" / "1" / "seed-0" / "cell.json"
    content = record(bench, "1")
    assert content.pop("command") == "textsam ablate ranks.yaml --seeds 0"
    path.write_text(json.dumps(content), encoding="utf-8")
    told = made_by(go(bench, command="now"))
    assert sorted(told.removeprefix("Made by ").rstrip(".").split(", ")) == [
        "`now`", "`textsam ablate ranks.yaml --seeds 0`", "`textsam ablate ranks.yaml --seeds 1`",
    ]  # fmt: skip


def test_calibration_comes_between_training_and_evaluation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tiny model of four steps finds too little to be kept otherwise.
    monkeypatch.setattr("textsam.calibrate.decide.MIN_DICE", 0.0)
    bench.write(calibrate=1, cells=RANKS[:1])
    result = go(bench)
    assert result.complete, result.outcomes
    own = record(bench, "1")
    assert own["adapter"].endswith("/calibrated")
    assert "calibration" in read_adapter_config(bench.out / own["adapter"]).training
    bench.write(calibrate=None, cells=RANKS[:1])
    with pytest.raises(ConfigError, match=r"training\.calibrate was 1 and is None"):
        go(bench)


def test_devices_are_handed_on(bench: Bench) -> None:
    go(bench, engine=InProcess("cpu"), only=["1"], overrides=["device=auto"])
    assert [line[3] for line in bench.trained] == ["cpu"]


@pytest.mark.slow
def test_several_processes_do_as_one(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other")
    go(other)
    result = go(bench, engine=Processes(("cpu", "cpu")))
    assert sorted(states(result)) == [("1", 0, "finished"), ("2", 0, "finished")]
    for cell in "12":
        cases = [
            (b.out / "ranks" / "cells" / cell / "seed-0" / "cases.csv").read_text(encoding="utf-8")
            for b in (bench, other)
        ]
        rows = [[row.rsplit(",", 1)[0] for row in text.splitlines()] for text in cases]
        assert rows[0] == rows[1], "all but the seconds"


def _die(job: Any, device: str | None = None, threads: int | None = None) -> list[Outcome]:
    import os

    os._exit(9)


@pytest.mark.slow
def test_a_process_that_dies_fails_its_cells_alone(bench: Bench) -> None:
    from textsam.ablate.plan import make_plan
    from textsam.ablate.spec import read_ablation

    plan = make_plan(read_ablation(bench.file), bench.file, bench.out)
    done = [o for part in Processes(("cpu",))(plan.jobs, _die) for o in part]
    assert [(o.cell, o.state) for o in done] == [("1", "failed"), ("2", "failed")]
    assert "the process on cpu died" in done[0].message
    why = "failed: the process on cpu died, perhaps for want of memory; start again to go on with "
    table = go(bench, dry_run=True).table.splitlines()
    assert [line[: len(why) + 13] for line in table if line.startswith("- ")] == [
        f"- 1, seed 0: {why}",
        f"- 2, seed 0: {why}",
    ]


def test_a_job_that_died_is_told_where_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    go(bench, only=["1"])
    first, second = make_plan(read_ablation(bench.file), bench.file, bench.out).jobs
    # Of a job whose cells were finished nothing is said.
    assert [(o.cell, o.state) for o in died(first, "it died")] == [("1", "finished")]
    assert not (bench.out / "ranks" / "failures").exists()
    # Killed while it was evaluated: the record of the cell says that it was begun.
    with monkeypatch.context() as patch:
        patch.setattr("textsam.ablate.job.evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            go(bench, only=["2"])
    assert "- 2, seed 0: evaluation not finished" in go(bench, dry_run=True).table
    assert [(o.cell, o.state) for o in died(second, "it died")] == [("2", "failed")]
    told = "- 2, seed 0: failed: it died (failures/2-seed-0.txt)"
    assert told in go(bench, dry_run=True).table.splitlines()
    assert go(bench).complete
    assert not list((bench.out / "ranks" / "failures").iterdir())


def test_a_job_that_died_keeps_why_an_earlier_cell_of_it_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(segmenter: object, samples: object, *, out: Path, **_: object) -> None:
        if out.parent.name == "b":
            raise KeyboardInterrupt
        raise TextSAMError("it is full")

    names = ("a", "b", "c")
    bench.write(
        cells=[{"name": name, "evaluate": {"refine": n}} for n, name in enumerate(names, 1)]
    )
    (job,) = make_plan(read_ablation(bench.file), bench.file, bench.out).jobs
    with monkeypatch.context() as patch:
        patch.setattr("textsam.ablate.job.evaluate", ended)
        with pytest.raises(KeyboardInterrupt):
            go(bench)
    died(job, "it died")
    lines = go(bench, dry_run=True).table.splitlines()
    assert [line for line in lines if line.startswith("- ")] == [
        "- a, seed 0: failed: it is full (failures/a-seed-0.txt)",
        "- b, seed 0: failed: it died (failures/b-seed-0.txt)",
        "- c, seed 0: trained, not evaluated",
    ]
    assert go(bench).complete


KILLED = """
import os, sys, time
from types import SimpleNamespace
from textsam.ablate.engines import Processes

def work(job, device=None, threads=None):
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    list(Processes(("cpu",))([SimpleNamespace(cells=())], work))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
def test_a_job_ends_with_the_command_that_is_killed(tmp_path: Path) -> None:
    script, told = tmp_path / "killed.py", tmp_path / "pid"
    script.write_text(KILLED, encoding="utf-8")
    command = subprocess.Popen([sys.executable, str(script), str(told)])
    end = time.monotonic() + 60
    while not (told.exists() and told.read_text(encoding="utf-8")) and time.monotonic() < end:
        time.sleep(0.1)
    job = int(told.read_text(encoding="utf-8"))
    command.kill()
    command.wait()
    end = time.monotonic() + 20
    try:
        while time.monotonic() < end:
            os.kill(job, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        return
    os.kill(job, signal.SIGKILL)
    pytest.fail("the job went on without anybody to take its result")


@pytest.mark.slow
def test_submitit_runs_the_jobs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here, prepend=":")
    engine = Submitit(bench.out / "jobs", "local", {"timeout_min": 5})
    result = go(bench, fail_on=1, engine=engine)
    assert sorted(states(result)) == [("1", 0, "failed"), ("2", 0, "finished")]
    assert (
        "says the device" in result.outcomes[0].message
        or "says the device" in result.outcomes[1].message
    )
    assert list((bench.out / "jobs").glob("*_log.out"))


def test_submitit_is_asked_for_nothing_it_does_not_know(bench: Bench) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match="slurm_partitoin"):
        go(bench, engine=Submitit(bench.out / "jobs", "local", {"slurm_partitoin": "gpu"}))
    with pytest.raises(ConfigError, match="refuses cluster 'lsf'"):
        go(bench, engine=Submitit(bench.out / "jobs", "lsf"))


def test_a_requeued_job_is_the_same_job() -> None:
    pytest.importorskip("submitit")
    from textsam.ablate.engines import _Requeued

    again = _Requeued(partial(_die)).checkpoint("job")  # type: ignore[arg-type]
    assert isinstance(again.function, _Requeued)
    assert again.args == ("job",)


def test_the_command_prints_the_table_and_fails_when_a_cell_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsam.ablate import run as module

    monkeypatch.setattr(module, "default_steps", lambda **_: bench.steps(fail_on=1))
    arguments = ("ablate", bench.file, "-o", bench.out, "--devices", "cpu")
    result = textsam("ablate", bench.file, "-o", bench.file, "--dry-run")
    assert result.exit_code == 2
    assert f"error: -o {bench.file} is a file; give a folder" in result.stderr
    result = textsam(*arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "to do: 1, seed 0; 2, seed 0" in result.stderr
    assert bench.trained == []
    result = textsam(*arguments, "--set", "optim.lr=0.002", "--seeds", "0, 1")
    assert result.exit_code == 1
    assert "1, seed 0: failed; RuntimeError: out of memory" in result.stderr
    assert "error: 2 of 4 cells are not done" in result.stderr
    assert "# Rank of LoRA" in result.stdout
    assert "| 2 |" in result.stdout
    assert (bench.out / "ranks" / "ranks.md").read_text(encoding="utf-8") in result.stdout
    monkeypatch.setattr(module, "default_steps", lambda **_: bench.steps())
    result = textsam(*arguments, "--set", "optim.lr=0.002", "--seeds", "0,1", "--only", "1")
    assert result.exit_code == 0, result.output
    result = textsam(*arguments)
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert "optim.lr was 0.002 and is 0.001" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", "0,-1"), "--seeds is '0,-1'"),
        (("--seeds", ""), "--seeds is ''"),
        (("--devices", "cuda:0,"), "--devices is 'cuda:0,'"),
        (("--engine", "dask"), "choose local or submitit"),
        (("--cluster", "slurm"), "belong to --engine submitit"),
        (("--engine", "submitit", "--devices", "cpu"), "--devices belongs"),
        (("--engine", "submitit", "--job", "time"), "write NAME=VALUE"),
        (("--engine", "submitit", "--job", "a=[1"), "not YAML"),
    ],
)
def test_wrong_calls_are_exit_code_2(bench: Bench, options: tuple[str, ...], words: str) -> None:
    result = textsam("ablate", bench.file, *options)
    assert result.exit_code == 2, result.output
    assert words in result.stderr


def test_a_device_that_is_not_there_is_refused_first(bench: Bench) -> None:
    result = textsam("ablate", bench.file, "-o", bench.out, "--devices", "cpu,cuda:99")
    assert result.exit_code == 1
    assert bench.trained == []


CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "ablations"
ABLATIONS = sorted(
    path
    for path in CONFIGS.parent.glob("*/*.yaml")
    if "\ncells:" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_the_ready_ablations_are_valid_and_differ_where_they_say(path: Path) -> None:
    from textsam.ablate.plan import _cell_config
    from textsam.ablate.spec import read_ablation

    ablation = read_ablation(path)
    assert ablation.name == path.stem
    base = path.parent / ablation.base
    resolved = {
        cell.name: (_cell_config(base, cell, (), str(path)), ablation.evaluation_of(cell))
        for cell in ablation.cells
    }
    everything = [f"{config} {evaluation}" for config, evaluation in resolved.values()]
    assert len(set(everything)) == len(everything), "two cells are the same"
    if path.parent != CONFIGS:
        return
    # The reference is the base itself, so that all tables share its training.
    assert ablation.reference is not None
    reference = resolved[ablation.reference][0]
    plain = yaml.safe_load(base.read_text(encoding="utf-8"))
    from textsam.config import TrainConfig

    assert reference == TrainConfig.model_validate(plain)


def test_the_ready_cells_are_those_of_the_paper() -> None:
    from textsam.ablate.spec import read_ablation

    def figures(name: str) -> dict[str, tuple[float, float]]:
        cells = read_ablation(CONFIGS / f"{name}.yaml").cells
        return {c.name: (c.paper.dice, c.paper.nsd) for c in cells if c.paper}

    # TextSAM-EUS, its tables of ablations.
    assert figures("rank-vit_b") == {"1": (44.0, 46.99), "4": (81.33, 83.19), "16": (82.69, 85.28)}
    assert figures("context-vit_b") == {
        "4": (82.69, 85.28), "8": (66.74, 68.29), "12": (82.1, 83.99),
    }  # fmt: skip
    assert figures("depth-vit_b") == {
        "1": (78.32, 80.97), "4": (76.22, 78.6), "9": (80.52, 82.36), "12": (82.69, 85.28),
    }  # fmt: skip
    assert figures("refinement-vit_b") == {
        "none": (82.0, 84.61), "point": (82.5, 85.1), "box+point": (82.63, 85.22),
        "box+centroid": (82.69, 85.28), "box+5points": (82.65, 85.25),
    }  # fmt: skip
    for name in ("rank", "context", "refinement"):
        assert figures(name) == figures(f"{name}-vit_b")
