"""Comparing two evaluations: what is paired, what is refused, and the figures."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import Fake, Store, rows, square
from PIL import Image as PILImage
from scipy import stats

from textsam.data.sample import Sample
from textsam.errors import DataError
from textsam.evaluate import EvaluationComparison, compare_evaluations, evaluate
from textsam.evaluate.compare import COMPARISON_FILE, COMPARISON_TABLE
from textsam.inference.settle import Settle
from textsam.metrics.statistics import compare_paired

SHIPPED = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "generalist"
OFF_A, OFF_B = (0, 2, 5, 8, 3, 6), (0, 1, 2, 9, 1, 2)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    make = Store(tmp_path / "data")
    return [make("bus" if n < 4 else "other", tumor=square(10, 10)) for n in range(6)]


def run(out: Path, samples: list[Sample], off: tuple[int, ...], missed: int | None = None) -> Path:
    """An evaluation whose answers are off by so many pixels; `missed` gets no answer."""
    answers = {
        (number, "tumor"): square(10, 10 + shift)
        for number, shift in enumerate(off)
        if number != missed
    }
    evaluate(Fake(answers), samples, out=out, progress=False, worst=0)
    return out


def compared(first: Path, second: Path, seed: int = 0) -> EvaluationComparison:
    """With few resamples: how good the interval is shows tests/test_statistics.py."""
    return compare_evaluations(first, second, seed=seed, resamples=200)


def test_figures(samples: list[Sample], tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", samples, OFF_A), run(tmp_path / "b", samples[::-1], OFF_B)
    found = compared(a, b, seed=3)
    titles = [(r.dataset, r.concept, r.metric) for r in found.rows if r.metric == "dice"]
    assert titles == [("bus", "tumor", "dice"), ("other", "tumor", "dice"), (None, None, "dice")]
    assert len(found.rows) == 15
    by_hand = [1 - shift / 10 for shift in OFF_A], [1 - shift / 10 for shift in OFF_B]
    (whole,) = [r.paired for r in found.rows if r.metric == "dice" and r.dataset is None]
    assert whole is not None
    assert whole.n == 6
    assert (whole.mean_first, whole.mean_second) == pytest.approx((0.6, 0.75))
    # Differences in tenths: 0, 1, 3, -1, 2, 4: their mean is 1.5, the sum of squares about it 17.5.
    assert whole.mean_difference == pytest.approx(0.15)
    assert whole.t_test.statistic == pytest.approx(1.5 / np.sqrt(17.5 / 5 / 6))
    assert whole.t_test.p_value == pytest.approx(stats.ttest_rel(*by_hand).pvalue)
    assert whole.interval.low < 0.15 < whole.interval.high
    options: dict[str, Any] = {"seed": 3, "confidence": 0.8, "resamples": 300}
    drawn = compare_paired(*by_hand, **options).interval
    (narrow,) = [
        r.paired.interval
        for r in compare_evaluations(a, b, **options).rows
        if r.paired is not None and r.metric == "dice" and r.dataset is None
    ]
    assert (narrow.low, narrow.high) == pytest.approx((drawn.low, drawn.high))
    (hd95,) = [r.paired for r in found.rows if r.metric == "hd95_px" and r.dataset is None]
    assert hd95 is not None
    assert (hd95.mean_first, hd95.mean_second) == (np.mean(OFF_A), np.mean(OFF_B))


def test_order_of_the_files_changes_nothing(samples: list[Sample], tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", samples, OFF_A), run(tmp_path / "b", samples, OFF_B)
    back = run(tmp_path / "back", samples[::-1], OFF_B)
    first, second = compared(a, b), compared(a, back)
    assert first.rows == second.rows
    assert first.rows == compared(run(tmp_path / "front", samples[::-1], OFF_A), b).rows
    swapped = compared(b, a)
    for one, other in zip(first.rows, swapped.rows, strict=True):
        assert one.paired is not None
        assert other.paired is not None
        assert one.paired.mean_difference == pytest.approx(-other.paired.mean_difference)
        assert one.paired.wilcoxon.p_value == pytest.approx(other.paired.wilcoxon.p_value)


def test_an_evaluation_with_itself(samples: list[Sample], tmp_path: Path) -> None:
    a = run(tmp_path / "a", samples, OFF_A)
    for row in compared(a, a).rows:
        assert row.paired is not None
        assert (row.paired.mean_difference, row.paired.t_test.p_value) == (0, 1)
        assert (row.paired.interval.low, row.paired.interval.high) == (0, 0)


def test_missed_answers_have_no_distance(samples: list[Sample], tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", samples, OFF_A), run(tmp_path / "b", samples, OFF_B, missed=2)
    found = {(r.dataset, r.metric): r for r in compared(a, b).rows}
    dice, distance = found["bus", "dice"], found["bus", "hd95_px"]
    assert dice.paired is not None
    assert distance.paired is not None
    assert (dice.left_out, dice.paired.n) == (0, 4)
    assert (distance.left_out, distance.paired.n) == (1, 3)
    assert distance.paired.mean_first == pytest.approx((0 + 2 + 8) / 3)
    text = compared(a, b).table()
    assert (
        "Left out of HD95, as an answer is empty: bus/tumor (1), all sets/all concepts (1)" in text
    )


def test_a_single_pair_has_no_test(samples: list[Sample], tmp_path: Path) -> None:
    a = run(tmp_path / "a", samples[:1], OFF_A)
    (dice, *_) = compared(a, a).rows
    assert dice.paired is None
    assert "| bus | tumor | Dice % | < 2 | – |" in compared(a, a).table()


def test_files(samples: list[Sample], tmp_path: Path) -> None:
    a, plain = run(tmp_path / "a", samples, OFF_A), run(tmp_path / "b", samples, OFF_B)
    b = with_settings(plain, tmp_path / "named", adapter="other")
    found = compared(a, b)
    assert found.write(tmp_path / "c") == (
        tmp_path / "c" / COMPARISON_FILE,
        tmp_path / "c" / COMPARISON_TABLE,
    )
    content = json.loads((tmp_path / "c" / COMPARISON_FILE).read_text())
    assert content["first"]["folder"] == str(a)
    assert content["first"]["settings"]["adapter"] == "fake"
    assert content["second"]["folder"] == str(b)
    assert content["second"]["settings"]["adapter"] == "other"
    assert (content["seed"], content["confidence"], content["resamples"]) == (0, 0.95, 200)
    row = content["rows"][0]
    assert (row["dataset"], row["metric"], row["paired"]["n"]) == ("bus", "dice", 4)
    assert set(row["paired"]["interval"]) == {"low", "high", "confidence"}
    paired = found.rows[0].paired
    assert paired is not None
    for name in ("t_test", "wilcoxon"):
        assert row["paired"][name] == asdict(getattr(paired, name))
    text = (tmp_path / "c" / COMPARISON_TABLE).read_text()
    assert text == found.table()
    assert "| all sets | all concepts | Dice % | 6 | 60.00 | 75.00 | +15.00 |" in text
    assert "| bus | tumor | slab NSD 3 px % | 4 |" in text
    (hd95,) = [r.paired for r in found.rows if r.metric == "hd95_px" and r.dataset is None]
    assert hd95 is not None
    tests = f"{hd95.t_test.p_value:.3f} | {hd95.wilcoxon.p_value:.3f}"
    interval = f"{hd95.interval.low:+.2f} to {hd95.interval.high:+.2f}"
    assert f"| HD95 px | 6 | 4.00 | 2.50 | -1.50 | {interval} | {tests} |" in text
    with pytest.raises(DataError, match="is a file"):
        found.write(tmp_path / "c" / COMPARISON_FILE)


def with_settings(folder: Path, out: Path, **settings: Any) -> Path:
    """The same evaluation with other settings on record."""
    out.mkdir()
    for name in ("cases.csv", "summary.json"):
        (out / name).write_bytes((folder / name).read_bytes())
    header = json.loads((folder / "evaluation.json").read_text())
    (out / "evaluation.json").write_text(json.dumps({**header, **settings}))
    return out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "adapter fake, preset lite, refine as the adapter asks, prompts text"),
        ({"refine": 2, "seed": 7}, "refine 2, prompts text"),
        ({"refine": 0, "refine_with": "box+point"}, "refine 0, prompts text"),
        ({"refine_with": "none"}, "refine none, prompts text"),
        ({"refine": 1, "refine_with": "box"}, "refine 1 with box, prompts text"),
        (
            {"refine": 1, "refine_with": "box+5points", "seed": 7},
            "refine 1 with box+5points, prompts text, seed 7",
        ),
        ({"refine": Settle().model_dump()}, "refine until the mask settles, prompts text"),
        (
            {"refine": Settle(tolerance_px=5, most_passes=3).model_dump()},
            "refine until the mask settles (tolerance 5 px, at most 3 passes), prompts text",
        ),
        (
            {"refine": Settle(falls=None).model_dump()},
            "refine until the mask settles (no guard), prompts text",
        ),
        (
            {"refine": 0, "protocol": "geometry", "box_shifts": [0.0, 0.25], "seed": 3},
            "refine 0, prompts geometry, box shifts 0, 25 %, seed 3",
        ),
    ],
    ids=str,
)
def test_captions_tell_how_was_asked(
    samples: list[Sample], tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    a = run(tmp_path / "a", samples, OFF_A)
    b = with_settings(a, tmp_path / "b", **settings)
    first, second, *_ = compared(a, b).table().splitlines()
    usual = "adapter fake, preset lite, refine as the adapter asks, prompts text"
    assert first == f"- A: {a}, {usual}"
    assert second.endswith(f", {words}")
    # The table of the evaluation itself says the same.
    summary = evaluate(Fake({}), samples, out=None, progress=False)
    told = replace(summary, settings={**summary.settings, **settings}).table()
    assert f", {words}; 6 images" in f", {told.splitlines()[-1]}"


@pytest.mark.parametrize(
    ("one", "other", "marks"),
    [
        (
            {"identity": "12345678aa", "fingerprint": "ff"},
            {"identity": "87654321aa", "fingerprint": "ff"},
            ("fake (identity 12345678)", "fake (identity 87654321)"),
        ),
        ({"identity": "aa", "fingerprint": "ff"}, {"identity": "aa"}, ("fake", "fake")),
        (
            {"fingerprint": "1234567890"},
            {"fingerprint": "0987654321"},
            ("fake (fingerprint 12345678)", "fake (fingerprint 09876543)"),
        ),
        ({"identity": "aa"}, {"identity": "bb", "adapter": "other"}, ("fake", "other")),
    ],
)
def test_adapters_of_one_name_are_told_apart(
    samples: list[Sample],
    tmp_path: Path,
    one: dict[str, Any],
    other: dict[str, Any],
    marks: tuple[str, str],
) -> None:
    whole = run(tmp_path / "a", samples, OFF_A)
    folders = [
        with_settings(whole, tmp_path / name, **settings)
        for name, settings in (("one", one), ("other", other))
    ]
    lines = compared(*folders).table().splitlines()
    for line, folder, mark in zip(lines[:2], folders, marks, strict=True):
        assert f"{folder}, adapter {mark}, preset lite," in line


def test_folders_as_text(samples: list[Sample], tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", samples, OFF_A), run(tmp_path / "b", samples, OFF_B)
    found = compare_evaluations(str(a), str(b), resamples=200)
    assert found.rows == compared(a, b).rows
    assert found.write(str(tmp_path / "c"))[0] == tmp_path / "c" / COMPARISON_FILE


def test_a_constant_difference_is_json_too(samples: list[Sample], tmp_path: Path) -> None:
    a = run(tmp_path / "a", samples, (4,) * 6)
    b = run(tmp_path / "b", samples, (2,) * 6)
    content = compared(a, b).to_dict()
    (distance,) = [r for r in content["rows"] if r["metric"] == "hd95_px" and not r["dataset"]]
    assert distance["paired"]["t_test"] == {"statistic": None, "p_value": 0.0}
    json.dumps(content, allow_nan=False)


def by_shifted_boxes(samples: list[Sample], out: Path, known: int) -> None:
    """Evaluate a segmenter that answers so many of the images, and finds the others empty."""
    evaluate(
        Fake({(n, ""): square(10, 11) for n in range(known)}),
        samples,
        out=out,
        prompts="geometry",
        box_shifts=(0, 0.2),
        progress=False,
        worst=0,
    )


def test_box_shifts_are_paired_and_not_pooled(samples: list[Sample], tmp_path: Path) -> None:
    for name in ("a", "b"):
        by_shifted_boxes(samples, tmp_path / name, known=6)
    found = compared(tmp_path / "a", tmp_path / "b")
    dice = [(r.dataset, r.box_shift) for r in found.rows if r.metric == "dice"]
    assert dice == [
        ("bus", 0.0),
        ("bus", 0.2),
        ("other", 0.0),
        ("other", 0.2),
        (None, 0.0),
        (None, 0.2),
    ]
    assert "| bus | tumor | Dice % | 20 | 4 |" in found.table()


def test_pairs_left_out_are_told_by_shift(samples: list[Sample], tmp_path: Path) -> None:
    for name, known in (("a", 6), ("b", 2)):
        by_shifted_boxes(samples, tmp_path / name, known)
    text = compared(tmp_path / "a", tmp_path / "b").table()
    told = text.split("as an answer is empty: ")[1]
    assert told == (
        "bus/tumor at shift 0 % (2), bus/tumor at shift 20 % (2), other/tumor at shift 0 % (2), "
        "other/tumor at shift 20 % (2), all sets/all concepts at shift 0 % (4), "
        "all sets/all concepts at shift 20 % (4).\n"
    )


def test_cases_without_a_partner_are_named(samples: list[Sample], tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", samples[:3], OFF_A), run(tmp_path / "b", samples[1:5], OFF_B)
    with pytest.raises(DataError) as error:
        compared(a, b)
    message = str(error.value)
    assert f"only in {a}: bus/case0 tumor;" in message
    assert f"only in {b}: bus/case3 tumor, other/case4 tumor." in message
    many = Store(tmp_path / "more")
    c = run(tmp_path / "c", [many(tumor=square(10, 10)) for _ in range(15)], (1,) * 15)
    with pytest.raises(DataError, match=r"bus/case12 tumor and 2 more\."):
        compared(c, run(tmp_path / "d", samples[:3], OFF_A))


def test_other_truths_are_refused(samples: list[Sample], tmp_path: Path) -> None:
    a = run(tmp_path / "a", samples, OFF_A)
    make = Store(tmp_path / "more")
    others = [make("bus" if n < 4 else "other", tumor=square(10, 10, 11)) for n in range(6)]
    b = run(tmp_path / "b", others, OFF_B)
    with pytest.raises(DataError, match=r"6 cases differ: .* has 100 px in .* and 121 px in"):
        compared(a, b)


def test_other_images_with_the_same_truths_are_told(samples: list[Sample], tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", samples, OFF_A), run(tmp_path / "b", samples, OFF_B)
    same = compared(a, b)
    assert (same.other_files, same.to_dict()["other_files"]) == (0, 0)
    assert "another in B" not in same.table()
    for sample in samples[1:3]:
        with PILImage.open(sample.image_path) as image:
            image.load()
        image.save(sample.image_path, compress_level=0)  # another file, and answered alike
    other = compared(a, run(tmp_path / "c", samples, OFF_B))
    assert (other.other_files, other.rows) == (2, same.rows)
    assert "of 2 images the image itself or a mask is another in B than in A" in other.table()
    # Evaluations of before say nothing of their files.
    assert compared(a, with_settings(b, tmp_path / "old", contents={})).other_files is None


def test_a_comparison_says_what_to_do_about_a_file_it_cannot_read(
    samples: list[Sample], tmp_path: Path
) -> None:
    a = run(tmp_path / "a", samples, OFF_A)
    with pytest.raises(DataError, match=r"read \(No such file or directory\); evaluate again$"):
        compared(a, tmp_path / "nowhere")
    for content in ("{", "[]"):
        (a / "evaluation.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"evaluation\.json .*; evaluate again$"):
            compared(a, a)


def test_folders_that_cannot_be_compared(samples: list[Sample], tmp_path: Path) -> None:
    a = run(tmp_path / "a", samples, OFF_A)
    with pytest.raises(DataError, match=r"nowhere.cases\.csv cannot be read"):
        compared(a, tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cases.csv").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="not finished"):
        compared(tmp_path / "other", a)
    (tmp_path / "other" / "summary.json").write_text("{}")
    with pytest.raises(DataError, match="has the columns x, y; the cases of an evaluation have"):
        compared(tmp_path / "other", a)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Fake({}, stop_at=2), samples, out=tmp_path / "cut", progress=False)
    with pytest.raises(DataError, match=r"not finished; start it again"):
        compared(a, tmp_path / "cut")
    header = json.loads((a / "evaluation.json").read_text())
    (a / "evaluation.json").write_text(json.dumps({**header, "tolerance_px": 2.0}))
    with pytest.raises(DataError, match=r"tolerance of 2\.0 px and .* 3\.0 px"):
        compared(a, run(tmp_path / "b", samples, OFF_B))
    slab = tmp_path / "slab"
    evaluate(Fake({}), samples, out=slab, slab_tolerance_px=5, progress=False, worst=0)
    with pytest.raises(DataError, match=r"slab NSD: .* tolerance of 5\.0 px and .* 3\.0 px"):
        compared(slab, tmp_path / "b")
    nothing = [Store(tmp_path / "none")(absent=("tumor",))]
    evaluate(Fake({}), nothing, out=tmp_path / "c", progress=False)
    with pytest.raises(DataError, match="no case of something present"):
        compared(tmp_path / "c", a)


def as_version_0_1(folder: Path, out: Path) -> Path:
    """The same evaluation with the columns of version 0.1."""
    lines = rows(folder)
    columns = [c for c in lines[0] if c not in ("box_shift", "nsd_slab", "hd95_px")]
    out.mkdir()
    with (out / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    for name in ("evaluation.json", "summary.json"):
        (out / name).write_bytes((folder / name).read_bytes())
    return out


def test_results_of_version_0_1_are_compared_as_far_as_they_go(
    samples: list[Sample], tmp_path: Path
) -> None:
    a, b = run(tmp_path / "a", samples, OFF_A), run(tmp_path / "b", samples, OFF_B)
    old = as_version_0_1(a, tmp_path / "old")
    found, new = compared(old, b), compared(a, b)
    assert list(dict.fromkeys(r.metric for r in found.rows)) == ["dice", "iou", "nsd_3px"]
    assert found.rows == tuple(r for r in new.rows if r.metric in ("dice", "iou", "nsd_3px"))
    assert [r.metric for r in compared(b, old).rows] == [r.metric for r in found.rows]
    with pytest.raises(DataError, match="as another version of textsam wrote it"):
        run(old, samples, OFF_A)


def test_the_shipped_results_can_be_read() -> None:
    found = compared(SHIPPED, SHIPPED)
    summary = json.loads((SHIPPED / "summary.json").read_text())
    means = {
        (r.dataset, r.concept): r.paired.mean_first
        for r in found.rows
        if r.metric == "dice" and r.paired is not None and r.dataset
    }
    assert len(means) == len(summary["concepts"])
    for own in summary["concepts"]:
        mean = means[own["dataset"], own["concept"]]
        assert mean == pytest.approx(own["dice"]["mean"], abs=2e-6)
