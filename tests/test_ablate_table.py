"""Tables and plots of ablations, from cases and figures worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ablations import Bench
from hypothesis import given, settings
from hypothesis import strategies as st

from textsam.ablate.plan import Plan, make_plan
from textsam.ablate.plot import value_range
from textsam.ablate.results import Figure, figure_of, paired_p
from textsam.ablate.run import write_tables
from textsam.ablate.spec import read_ablation
from textsam.errors import DataError


@dataclass
class Written:
    """An ablation whose finished cells are files written by hand."""

    bench: Bench
    plan: Plan

    def finish(
        self,
        cell: str,
        seed: int,
        dice: Sequence[float],
        dataset: str = "busi",
        more: Mapping[str, Sequence[object]] | None = None,
    ) -> None:
        job = self.plan.cells[cell, seed]
        job.folder.mkdir(parents=True, exist_ok=True)
        columns: dict[str, Sequence[object]] = {
            "dataset": [dataset] * len(dice),
            "stem": [f"case{number}" for number in range(len(dice))],
            "concept": ["tumor"] * len(dice),
            "kind": ["present"] * len(dice),
            "dice": dice,
            "nsd_3px": [value / 2 for value in dice],
            "area_px": [100] * len(dice),
            **(more or {}),
        }
        file = io.StringIO()
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
        path = job.folder / "cases.csv"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        rows = file.getvalue().splitlines(keepends=True)
        text = before + "".join(rows[1:] if before else rows)
        path.write_text(text, encoding="utf-8", newline="")
        record = {
            "state": "finished",
            "identity": job.identity,
            "seed": seed,
            "trainable_parameters": 1000 * int(cell),
            "date": f"2026-11-0{seed + 1}T10:00:00+00:00",
            "device": "cpu",
            "machine": {"platform": "Linux", "cpu_count": 2},
            "versions": {"textsam": "0.1.0", "torch": "2.14"},
        }
        (job.folder / "cell.json").write_text(json.dumps(record), encoding="utf-8")

    def ask(
        self, cell: str, seed: int, kind: str, areas: Sequence[object], dataset: str = "busi"
    ) -> None:
        """Questions after what has no mask, and how many pixels the answers have."""
        empty = [""] * len(areas)
        more = {"kind": [kind] * len(areas), "dice": empty, "nsd_3px": empty, "area_px": areas}
        self.finish(cell, seed, [0.0] * len(areas), dataset, more)

    def table(self) -> str:
        return write_tables(self.plan, self.plan.ablation.seeds, "textsam ablate ranks.yaml")

    def row(self, cell: str) -> list[str]:
        present = self.table().split("## What is not in the images")[0]
        lines = [line for line in present.splitlines() if line.startswith(f"| {cell} |")]
        assert len(lines) == 1
        return [text.strip() for text in lines[0].strip("|").split("|")]

    def csv(self, name: str = "ranks.csv") -> list[dict[str, str]]:
        self.table()
        with (self.plan.folder / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def plan_of(tmp_path: Path, seeds: Sequence[int]) -> Written:
    bench = Bench(tmp_path)
    bench.write(
        reference=2,
        seeds=list(seeds),
        paper="another data set",
        cells=[
            {"name": 1, "set": ["tuning.rank=1"], "paper": {"dice": 44.0, "nsd": 46.99}},
            {"name": 2, "label": "two | all", "set": ["tuning.rank=2"]},
            {"name": 4, "set": ["tuning.rank=4"]},
        ],
    )
    return Written(bench, make_plan(read_ablation(bench.file), bench.file, bench.out))


@pytest.fixture
def one(tmp_path: Path) -> Written:
    return plan_of(tmp_path, [0])


@pytest.fixture
def two(tmp_path: Path) -> Written:
    return plan_of(tmp_path, [0, 1])


def p_of_three(differences: Sequence[float]) -> float:
    """Of three pairs: with two degrees of freedom Student's distribution has a closed form."""
    mean = sum(differences) / 3
    variance = sum((d - mean) ** 2 for d in differences) / 2
    t = abs(mean) / math.sqrt(variance / 3)
    return 1 - t / math.sqrt(2 + t * t)


def test_one_seed_by_hand(one: Written) -> None:
    one.finish("1", 0, [0.5, 0.7, 0.9])
    one.finish("2", 0, [0.6, 0.9, 0.9])
    # Mean 0.7 and deviations -0.2, 0, 0.2: the root of 0.08 / 3. NSD is half of it all.
    p = p_of_three([-0.1, -0.2, 0.0])
    assert one.row("1") == [
        "1", "1,000", "3", "1/1", "70.00 ± 16.33", "35.00 ± 8.16", f"{p:.4f}", "44.00 / 46.99",
    ]  # fmt: skip
    assert f"{p:.4f}" == "0.2254"
    # The bar in the label does not end its cell.
    assert "| two \\| all | 2,000 | 3 | 1/1 | 80.00 ± 14.14 | 40.00 ± 7.07 | – | – |" in one.table()
    assert one.row("4") == ["4", "–", "–", "0/1", "–", "–", "–", "–"]


def test_the_head_says_what_the_columns_are(one: Written) -> None:
    one.finish("1", 0, [0.5, 0.7])
    assert (
        "| rank | trainable parameters | n | seeds | Dice % | NSD 3 px % "
        "| p (Dice, against two \\| all) | paper: Dice / NSD |"
    ) in one.table()
    for words in ("standard deviation over test cases", "paired t-test", "another data set"):
        assert words in one.table()
    assert "Over seeds" not in one.table()


def test_the_table_says_how_cells_were_evaluated(one: Written) -> None:
    assert (
        "Not calibrated; evaluated with refine as the adapter asks with box+centroid, prompts "
        "text, negatives 0."
    ) in one.table()
    cells: list[dict[str, Any]] = [
        {"name": 1, "label": "one", "set": ["tuning.rank=1"]},
        {"name": 2, "set": ["tuning.rank=2"], "evaluate": {"refine": 0, "precision": "float32"}},
        {"name": 4, "set": ["tuning.rank=4"]},
        {"name": 5, "evaluate": {"settle": {}, "refine": None}},
        {"name": 6, "evaluate": {"refine": None, "prompts": "geometry", "box_shift": 0.2}},
        {"name": 7, "evaluate": {"refine": 0, "precision": "float32"}},
    ]
    data = [{"folder": ".", "split": "test", "concept": "tumor"}]
    evaluation = {"refine": 1, "refine_with": "box+point", "negatives": 2, "seed": 3}
    bench = one.bench
    bench.write(calibrate=2, cells=cells, evaluate={"folders": data, **evaluation})
    plan = make_plan(read_ablation(bench.file), bench.file, bench.out)
    assert (
        "Calibrated with up to 2 passes; evaluated with refine 1 with box+point, prompts text, "
        "seed 3, negatives 2; "
        "2, 7: refine 0, prompts text, negatives 2, precision float32; "
        "5: refine until the mask settles with box+point, prompts text, seed 3, negatives 2; "
        "6: refine 0, prompts geometry, box shifts 20 %, seed 3."
    ) in write_tables(plan, [0])


def test_several_seeds_by_hand(two: Written) -> None:
    two.finish("1", 0, [0.5, 0.7, 0.9])
    two.finish("1", 1, [0.6, 0.6, 0.6])
    two.finish("2", 0, [0.6, 0.9, 0.9])
    # Mean of six 0.65; squares 0.0225+0.0025+0.0625+3·0.0025 = 0.095, over six: root 0.1258.
    # The seeds' means 0.7 and 0.6: deviation (divided by one) root of 2·0.0025 = 0.0707.
    # Only seed 0 is in both, so that the test is that of one seed.
    row = two.row("1")
    assert row[3:5] == ["2/2", "65.00 ± 12.58"]
    assert row[6] == "65.00 ± 7.07"
    assert row[7] == f"{p_of_three([-0.1, -0.2, 0.0]):.4f}"
    (own, _, _) = two.csv()
    assert own["dice_percent_std_seeds"] == "7.0711"
    assert (own["seeds"], own["missing_seeds"]) == ("0 1", "")
    two.finish("2", 1, [0.9, 0.6, 0.9])
    # Averages over seeds: 0.55 0.65 0.75 against 0.75 0.75 0.9.
    assert two.row("1")[7] == f"{p_of_three([-0.2, -0.1, -0.15]):.4f}"
    assert "Over seeds" in two.table()
    for words in ("Seeds 0, 1; evaluated on cpu of Linux, 2 cores;", "2026-11-01 to 2026-11-02."):
        assert words in two.table()


def test_an_interrupted_table_says_what_is_missing(two: Written) -> None:
    two.finish("1", 0, [0.5, 0.7])
    table = two.table()
    missing = [line for line in table.splitlines() if line.startswith("- ")]
    assert missing == [
        "- 1, seed 1: not begun",
        "- two | all, seed 0: not begun",
        "- two | all, seed 1: not begun",
        "- 4, seed 0: not begun",
        "- 4, seed 1: not begun",
    ]
    assert two.row("1")[3] == "1/2"
    assert two.csv()[0]["missing_seeds"] == "1"
    assert "Not finished" in table
    for cell, seed in two.plan.cells:
        if (cell, seed) != ("1", 0):
            two.finish(cell, seed, [0.5, 0.7])
    assert "Not finished" not in two.table()


def test_nothing_finished_is_a_table_too(one: Written) -> None:
    assert one.row("1")[:4] == ["1", "–", "–", "0/1"]
    assert (one.plan.folder / "ranks.png").is_file()
    assert [row["cell"] for row in one.csv()] == ["1", "2", "4"]


def test_columns_are_read_by_name_and_new_ones_join(one: Written) -> None:
    more = {"nsd_slab": [0.5, 1.0], "hd95_px": [3.0, ""], "iou": [0.4, 0.6], "seconds": [9, 9]}
    one.finish("1", 0, [0.5, 0.7], more=more)
    assert "| Dice % | IoU % | NSD 3 px % | slab NSD 3 px % | HD95 px |" in one.table()
    assert one.row("1")[4:9] == [
        "60.00 ± 10.00", "50.00 ± 10.00", "30.00 ± 5.00", "75.00 ± 25.00", "3.00 ± 0.00",
    ]  # fmt: skip
    row = one.csv()[0]
    assert row["iou_percent_mean"] == "50.0000"
    assert (row["hd95_px_mean"], row["hd95_px_n"], row["dice_n"]) == ("3.0000", "1", "2")
    assert not [name for name in row if name.startswith("seconds")]


def test_hd95_stands_beside_the_cases_it_leaves_out(two: Written) -> None:
    # Seed 0 answers one of three with nothing, seed 1 two of the same three.
    two.finish("1", 0, [0.5, 0.7, 0.0], more={"hd95_px": [3.0, 5.0, "inf"]})
    two.finish("1", 1, [0.5, 0.0, 0.0], more={"hd95_px": [4.0, "inf", "inf"]})
    two.finish("2", 0, [0.0, 0.0, 0.0], more={"hd95_px": ["inf"] * 3})
    table = two.table()
    assert "| HD95 px | missed |" in table
    assert "HD95: over answers that are not empty; missed: empty ones, of all seeds." in table
    # The mean of 3, 4 and 5; the root of 2 / 3.
    assert two.row("1")[6:8] == ["4.00 ± 0.82", "3"]
    assert "| two \\| all | 2,000 | 3 | 1/2 | 0.00 ± 0.00 | 0.00 ± 0.00 | – | 3 |" in table
    assert two.row("4")[6:8] == ["–", "–"]
    first, second, last = two.csv()
    assert (first["hd95_px_n"], first["hd95_px_values"], first["missed"]) == ("2", "3", "3")
    assert (first["dice_n"], first["dice_values"]) == ("3", "6")
    assert (second["hd95_px_values"], second["missed"], last["missed"]) == ("", "3", "")


def test_without_hd95_nothing_is_said_of_missed_cases(one: Written) -> None:
    one.finish("1", 0, [0.5, 0.0])
    assert "missed" not in one.table()
    assert one.csv()[0]["missed"] == ""


def test_absent_concepts_do_not_count(one: Written) -> None:
    one.finish("1", 0, [0.5, 0.7, 0.9], more={"kind": ["present", "present", "absent_modality"]})
    assert one.row("1")[2:5] == ["2", "1/1", "60.00 ± 10.00"]


def ask_two_cells(two: Written) -> None:
    """Of cell 1 both seeds, of cell 2 the first, of cell 4 none."""
    two.finish("1", 0, [0.5, 0.7])
    two.ask("1", 0, "absent_modality", [0, 0, 0, 7])
    two.ask("1", 0, "not_asked", [0])
    two.ask("1", 0, "absent_annotated", [0, 0, 1], "normal")
    two.finish("1", 1, [0.5, 0.7])
    two.ask("1", 1, "absent_modality", [5, 7])
    two.ask("1", 1, "absent_annotated", [0, 900, 1], "normal")
    two.finish("2", 0, [0.6, 0.9])
    two.ask("2", 0, "absent_modality", [0, 1, 1])


def test_what_is_not_in_the_images_by_hand(two: Written) -> None:
    ask_two_cells(two)
    # Shares of busi 3/4 and 0/2, together 3/6, and of two values the deviation is their difference
    # by the root of 2: 0.5303. Of the normal ones 2/3 and 1/3: 3/6, 0.2357.
    text = two.table()
    section = text.split("## What is not in the images\n\n")[1].split("\n\n**Not finished")[0]
    table, note = section.split("\n\n")
    assert table.splitlines() == [
        "| rank | busi, absent_modality | normal, absent_annotated |",
        "| --- | ---: | ---: |",
        "| 1 | 50.00 ± 53.03 (6) | 50.00 ± 23.57 (6) |",
        "| two \\| all | 33.33 (3) | – |",
        "| 4 | – | – |",
    ]
    assert note == (
        "Questions answered with an empty mask, in percent; in brackets questions of all seeds. "
        "±: standard deviation of the seeds' percentages."
    )
    assert text.index("## busi, tumor") < text.index("## What is not in the images")
    # The tables before are of what is there, as without the questions.
    assert "| 1 | 1,000 | 2 | 2/2 | 60.00 ± 10.00 | 30.00 ± 5.00 | 60.00 ± 0.00 |" in text
    assert "normal, tumor" not in text


def test_what_is_not_in_the_images_as_csv(two: Written) -> None:
    ask_two_cells(two)
    rows = two.csv("ranks-absent.csv")
    assert list(rows[0]) == [
        *("cell", "label", "dataset", "kind", "seeds", "missing_seeds", "unasked_seeds"),
        *("questions", "empty", "empty_percent", "empty_percent_std_seeds"),
    ]
    busi, normal = ("busi", "absent_modality"), ("normal", "absent_annotated")
    nothing = ("", "", "", "")
    assert [list(row.values()) for row in rows] == [
        ["1", "1", *busi, "0 1", "", "", "6", "3", "50.0000", "53.0330"],
        ["2", "two | all", *busi, "0", "1", "", "3", "1", "33.3333", ""],
        ["4", "4", *busi, "", "0 1", "", *nothing],
        ["1", "1", *normal, "0 1", "", "", "6", "3", "50.0000", "23.5702"],
        ["2", "two | all", *normal, "0", "1", "0", *nothing],
        ["4", "4", *normal, "", "0 1", "", *nothing],
    ]


def test_one_seed_has_no_deviation_of_what_is_absent(one: Written) -> None:
    one.finish("1", 0, [0.5, 0.7])
    one.ask("1", 0, "absent_annotated", [0, 0, 0, 2])
    section = one.table().split("## What is not in the images")[1].split("**Not finished")[0]
    assert "| 1 | 75.00 (4) |" in section
    assert "±" not in section


def test_cells_may_be_asked_for_nothing_that_is_there(one: Written) -> None:
    one.ask("1", 0, "absent_annotated", [0, 3], "normal")
    text = one.table()
    assert "| 1 | 1,000 | – | 1/1 | – | – | – | 44.00 / 46.99 |" in text
    assert "| 1 | 50.00 (2) |" in text


def test_where_nothing_absent_was_asked_there_is_no_section_and_no_file(one: Written) -> None:
    one.finish("1", 0, [0.5, 0.7])
    one.ask("1", 0, "absent_annotated", [0])
    one.table()
    assert (one.plan.folder / "ranks-absent.csv").is_file()
    (one.plan.cells["1", 0].folder / "cases.csv").unlink()
    one.finish("1", 0, [0.5, 0.7])
    one.ask("1", 0, "not_asked", [0])
    assert "What is not in the images" not in one.table()
    assert not (one.plan.folder / "ranks-absent.csv").exists()


@pytest.mark.parametrize("end", [",many", ",", ""], ids=["no number", "empty", "cut off"])
def test_damaged_answers_to_what_is_absent_are_named(one: Written, end: str) -> None:
    one.ask("1", 0, "absent_annotated", [77])
    path = one.plan.cells["1", 0].folder / "cases.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",77", end), encoding="utf-8")
    with pytest.raises(DataError, match=r"cases\.csv cannot be read"):
        one.table()


def test_each_set_has_a_table_and_a_plot_of_its_own(one: Written) -> None:
    one.finish("1", 0, [0.5, 0.7])
    one.finish("1", 0, [0.2, 0.2], dataset="usgra")
    table = one.table()
    assert table.index("## busi, tumor") < table.index("60.00 ± 10.00")
    assert table.index("60.00 ± 10.00") < table.index("## usgra, tumor")
    assert table.index("## usgra, tumor") < table.index("20.00 ± 0.00")
    assert table.count("- 4, seed 0: not begun") == 1
    assert {path.name for path in one.plan.folder.glob("*.png")} == {"ranks-1.png", "ranks-2.png"}


def test_seeds_that_were_not_asked_are_told(two: Written) -> None:
    # The adapter of seed 1 does not know the word of the second set.
    hd95 = {"hd95_px": [3.0, "inf"]}
    two.finish("1", 0, [0.5, 0.7], more=hd95)
    two.finish("1", 0, [0.2, 0.0], dataset="usgra", more=hd95)
    two.finish("1", 1, [0.5, 0.7], more=hd95)
    two.finish("2", 0, [0.5, 0.7], more=hd95)
    two.finish("2", 1, [0.5, 0.7], more=hd95)
    text = two.table()
    assert text.split("no figure:**")[1].split("**Not finished")[0].split("\n") == [
        *("", ""),
        "- usgra, tumor: 1, seed 1",
        "- usgra, tumor: two | all, seeds 0, 1",
        *("", ""),
    ]
    rows = {(row["dataset"], row["cell"]): row for row in two.csv()}
    assert (rows["usgra", "1"]["dice_values"], rows["usgra", "1"]["missed"]) == ("2", "1")
    assert (rows["usgra", "1"]["seeds"], rows["usgra", "1"]["unasked_seeds"]) == ("0 1", "1")
    # What was not asked was not missed.
    assert (rows["usgra", "2"]["unasked_seeds"], rows["usgra", "2"]["missed"]) == ("0 1", "")
    assert (rows["busi", "2"]["unasked_seeds"], rows["busi", "2"]["missed"]) == ("", "2")


def test_names_that_are_no_text_are_read(one: Written) -> None:
    # As the evaluation writes a name that is no UTF-8: its bytes.
    one.finish("1", 0, [0.5, 0.7])
    path = one.plan.cells["1", 0].folder / "cases.csv"
    path.write_bytes(path.read_bytes().replace(b"case0", b"case\xff"))
    assert one.row("1")[2:5] == ["2", "1/1", "60.00 ± 10.00"]


def test_a_plot_of_a_table_with_other_groups_does_not_stay(one: Written) -> None:
    one.table()  # nothing is finished: one plot
    others = {"ranks-old.png", "mine.png"}
    for name in others:
        (one.plan.folder / name).write_bytes(b"")
    one.finish("1", 0, [0.5, 0.7])
    one.finish("1", 0, [0.2, 0.2], dataset="usgra")
    one.table()
    assert {path.name for path in one.plan.folder.glob("*.png")} == {
        "ranks-1.png",
        "ranks-2.png",
        *others,
    }


def test_damaged_cases_are_named(one: Written) -> None:
    one.finish("1", 0, [0.5, 0.7])
    path = one.plan.cells["1", 0].folder / "cases.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("0.7", "much"), encoding="utf-8")
    with pytest.raises(DataError, match=r"cases\.csv cannot be read"):
        one.table()


def test_cases_of_other_images_are_not_paired(one: Written) -> None:
    one.finish("1", 0, [0.5, 0.7, 0.9])
    one.finish("2", 0, [0.6, 0.8])
    assert one.row("1")[6] == "–"


VALUES = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=3, max_size=3)


@settings(deadline=None)
@given(VALUES)
def test_p_is_student_s(pairs: list[tuple[int, int]]) -> None:
    one, other = (
        {0: {str(i): pair[side] / 100 for i, pair in enumerate(pairs)}} for side in (0, 1)
    )
    p = paired_p(one, other)
    assert p == paired_p(other, one)
    differences = [a - b for a, b in pairs]
    if len(set(differences)) > 1:
        assert p == pytest.approx(p_of_three(differences), abs=1e-9)
    else:
        assert p is not None
        assert p == pytest.approx(float(differences[0] == 0), abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other"),
    [({0: {"a": 1.0}}, {0: {"a": 0.5}}), ({0: {"a": 1.0, "b": 0.0}}, {1: {"a": 0.5, "b": 1.0}})],
    ids=["one pair", "no common seed"],
)
def test_nothing_to_pair_has_no_p(
    one: dict[int, dict[str, float]], other: dict[int, dict[str, float]]
) -> None:
    assert paired_p(one, other) is None


def test_the_plot_shows_means_where_they_are(one: Written) -> None:
    from PIL import Image

    one.finish("1", 0, [0.5, 0.7, 0.9])
    one.finish("2", 0, [0.6, 0.9, 0.9])
    one.table()
    with Image.open(one.plan.folder / "ranks.png") as file:
        assert file.size == (960, 600)
        pixels = np.asarray(file.convert("RGB")).astype(int)
    blue = np.abs(pixels - [0, 114, 178]).sum(-1) < 30
    orange = np.abs(pixels - [213, 94, 0]).sum(-1) < 30
    # Below the legend, three columns of 280 px from 90 on; the last cell is missing.
    for colour in (blue, orange):
        area = colour[90:490]
        assert area[:, 90:370].any()
        assert area[:, 370:650].any()
        assert not area[:, 650:].any()
    # Intervals reach from 25.8 to 96, so that the axis goes from 20 to 100 over 400 px.
    rows = np.flatnonzero(blue[90:490, 90:370].sum(1) >= 11)
    assert abs(rows.mean() - (100 - 70) / 80 * 400) <= 2


def test_the_range_of_a_plot_holds_everything() -> None:
    def figure(mean: float, std: float) -> Figure:
        return Figure(mean, std, 100, 100, None, {0: mean})

    assert value_range([]) == (0, 100)
    # ± 1.96 · 0.1 / 10 around 0.55 and 0.72.
    assert value_range([figure(0.55, 0.1), figure(0.72, 0.1)]) == (50, 80)
    assert value_range([figure(1.0, 0.0)]) == (90, 100)
    assert value_range([figure(0.0, 0.0)]) == (0, 10)
    low, high = value_range([figure(0.5, 0.0)])
    assert low <= 50 <= high
    assert high - low >= 10


def test_a_figure_of_one_seed_has_no_deviation_over_seeds() -> None:
    figure = figure_of({4: {"a": 0.5, "b": 1.0}}, None)
    assert (figure.mean, figure.std_cases, figure.n, figure.std_seeds) == (0.75, 0.25, 2, None)
    assert figure.seed_means == {4: 0.75}
    assert figure.p is None
