"""Heads on the decoder's tokens: boxes of a map, the ROC curve's area, what a head can learn."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not in this copy of the project", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import heads  # noqa: E402


def test_every_part_of_a_map_is_boxed_once_the_likeliest_first() -> None:
    chance = np.zeros((40, 60), dtype=np.float32)
    chance[5:15, 10:30] = 0.9
    chance[25:35, 40:50] = 0.3
    chance[20, 5] = 0.9  # a speck
    boxes = [box.tolist() for box in heads.boxes_of(chance)]
    # At 0.05 and 0.2 both parts, at 0.5 the first again: each once.
    assert boxes == [[10.0, 5.0, 29.0, 14.0], [40.0, 25.0, 49.0, 34.0]]


def test_a_map_without_parts_has_no_box() -> None:
    assert list(heads.boxes_of(np.zeros((8, 8), dtype=np.float32))) == []


@pytest.mark.parametrize(
    ("there", "absent", "area"),
    [
        ([0.9, 0.8], [0.1, 0.2, 0.3], 1.0),
        ([0.1], [0.5, 0.9], 0.0),
        ([0.5], [0.5], 0.5),
        # Of six pairs four are right and one is a tie.
        ([0.3, 0.7], [0.1, 0.3, 0.6], 4.5 / 6),
    ],
)
def test_the_ranking_area_counts_pairs(
    there: list[float], absent: list[float], area: float
) -> None:
    assert heads.ranking_area(there, absent) == pytest.approx(area)


def test_what_is_absent_is_answered_above_the_threshold_of_what_is_found() -> None:
    there = [0.1, *[0.5] * 9, *[0.9] * 10]
    # To find 19 of 20 the threshold must let 0.5 through.
    assert heads.answered(there, [0.05, 0.2, 0.6, 0.95], 0.95) == pytest.approx(0.5)
    assert heads.answered(there, [0.05, 0.2, 0.6, 0.95], 1.0) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("concept", "why"), [("tumor", heads.KNOWN), ("nerve", heads.BESIDE), ("lung", heads.OTHER)]
)
def test_it_is_told_why_something_is_not_there(concept: str, why: str) -> None:
    target = SimpleNamespace(concept="nerve")
    sample = SimpleNamespace(absent=("tumor",), targets=(target,))
    item = SimpleNamespace(concepts=["tumor", "nerve", "lung"], sample=sample)
    assert heads.why_absent(item, item.concepts.index(concept)) == why


def _asked(rng: np.random.Generator, absent: str) -> heads.Asked:
    """Looks whose Dice, and whose presence, stand in some of the decoder's tokens alone."""
    looks = []
    for number in range(1 if absent else 3):
        tokens = rng.normal(size=512).astype(np.float32)
        score = 0.0 if absent else float(rng.uniform(0.5, 1))
        tokens[:50] += 5 * score
        facts = rng.normal(size=7).astype(np.float32)
        facts[0] = 0.5 + 0.1 * number  # the predicted IoU
        looks.append(heads.Look(tokens, facts, dice=score))
    return heads.Asked(("set", "tumor"), absent, np.zeros(256, dtype=np.float32), looks)


def test_heads_learn_what_only_the_tokens_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "SEEDS", (0,))
    monkeypatch.setattr(heads, "EPOCHS", 30)
    rng = np.random.default_rng(0)
    train = [_asked(rng, absent) for absent in ["", heads.OTHER] * 120]
    val = [_asked(rng, absent) for absent in ["", heads.OTHER] * 20]
    there = [not row.absent for row in val]

    def area(*, tokens: bool) -> float:
        said = heads.learnt(train, val, tokens=tokens, hidden=0, ranks=False)
        scores = np.array([one[0] for one in said])
        return heads.ranking_area(scores[there].tolist(), scores[~np.array(there)].tolist())

    assert area(tokens=True) > 0.95 > 0.8 > area(tokens=False)
    shown = [row for row in val if not row.absent]
    said = heads.learnt(train, shown, tokens=True, hidden=0, ranks=True)
    chosen = [row.looks[int(np.argmax(s))].dice for row, s in zip(shown, said, strict=True)]
    by_iou = [row.looks[-1].dice for row in shown]
    assert np.mean(chosen) > np.mean(by_iou) + 0.05


def test_the_tables_count_and_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "SEEDS", (0,))
    monkeypatch.setattr(heads, "EPOCHS", 1)
    rng = np.random.default_rng(0)
    rows = [_asked(rng, absent) for absent in ("", "", heads.BESIDE, heads.OTHER, heads.OTHER)]
    presence = heads.presence_table(rows, rows).splitlines()
    assert presence[0] == (
        f"| score of 2 that are there, against | {heads.BESIDE} (1) | {heads.OTHER} (2) |"
    )
    # Every plain answer has a predicted IoU of 0.5.
    assert presence[2] == (
        "| predicted IoU, as shipped | 50.0 (100.0, 100.0) | 50.0 (100.0, 100.0) |"
    )
    second = heads.second_look_table(rows, rows).splitlines()
    cells = [cell.strip() for cell in second[2].strip("|").split("|")]
    shown = [row for row in rows if not row.absent]
    assert cells[:3] == ["set", "tumor", "2"]
    plain = np.mean([row.looks[0].dice for row in shown])
    by_iou = np.mean([row.looks[2].dice for row in shown])
    best = np.mean([max(look.dice for look in row.looks) for row in shown])
    assert [cells[3], cells[4], cells[-1]] == [f"{100 * x:.1f}" for x in (plain, by_iou, best)]
