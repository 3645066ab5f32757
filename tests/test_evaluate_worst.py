"""The contact sheet of worst cases: which cases are on it, and that both outlines can be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluations import NOTHING, Fake, Mask, Store, square
from numpy.typing import NDArray
from PIL import Image as PILImage

from textsam.data.sample import Sample
from textsam.errors import ConfigError
from textsam.evaluate import evaluate
from textsam.evaluate.worst import WORST_FILE

TILE, CAPTION, GAP, HEADING = 240, 36, 8, 26
GREEN, ORANGE = (70, 230, 110), (255, 122, 0)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Five images whose answers are off by 0, 8, 2, 6 and 4 px, and one that is missed."""
    make = Store(tmp_path / "data")
    return [make(tumor=square(10, 10)) for _ in range(6)]


ANSWERS: dict[tuple[int, str], Mask] = {
    (number, "tumor"): square(10, 10 + shift) for number, shift in enumerate((0, 8, 2, 6, 4))
}


def page(out: Path) -> NDArray[np.uint8]:
    with PILImage.open(out / WORST_FILE) as file:
        return np.asarray(file.convert("RGB"))


def tile(sheet: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    """The picture, without its caption, of a sheet with one group."""
    top = 2 * HEADING + row * (TILE + CAPTION + GAP)
    left = GAP + column * (TILE + GAP)
    return sheet[top : top + TILE, left : left + TILE]


def columns_of(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[int, int]:
    """First and last column with the colour."""
    found = np.flatnonzero((picture == colour).all(-1).any(0))
    return int(found[0]), int(found[-1])


def test_the_lowest_come_first(samples: list[Sample], tmp_path: Path) -> None:
    evaluate(Fake(ANSWERS), samples, out=tmp_path, negatives=0, worst=4, progress=False)
    sheet = page(tmp_path)
    assert sheet.shape == (
        2 * HEADING + TILE + CAPTION + GAP + GAP,
        4 * (TILE + GAP) + GAP,
        3,
    )
    # Every image is of one grey value, its number: missed, 8 px off, 6 px off, 4 px off.
    corners = [int(tile(sheet, 0, column)[0, 0, 0]) for column in range(4)]
    assert corners == [5, 1, 3, 4]
    missed = tile(sheet, 0, 0)
    assert (missed == GREEN).all(-1).any()
    assert not (missed == ORANGE).all(-1).any()


def test_both_outlines_are_where_the_masks_are(samples: list[Sample], tmp_path: Path) -> None:
    evaluate(Fake(ANSWERS), samples[1:2], out=tmp_path, negatives=0, worst=1, progress=False)
    picture = tile(page(tmp_path), 0, 0)
    # Shown are 48 px from column 0, or fewer where the image ends; 240 / 48 = 5.
    for colour, left in ((GREEN, 10), (ORANGE, 18)):
        first, last = columns_of(picture, colour)
        assert abs(first - 5 * left) <= 3
        assert abs(last - 5 * (left + 10)) <= 3


def test_a_row_per_set_concept_and_shift(tmp_path: Path) -> None:
    make = Store(tmp_path / "data")
    several = [
        make(tumor=square(10, 10), polyp=square(20, 20)),
        make("other", tumor=square(5, 5)),
        make(tumor=NOTHING),
    ]
    evaluate(Fake({}), several, out=tmp_path / "a", negatives=0, progress=False)
    row = HEADING + TILE + CAPTION + GAP
    assert page(tmp_path / "a").shape[0] == HEADING + 3 * row + GAP
    evaluate(
        Fake({}),
        several,
        out=tmp_path / "b",
        prompts="geometry",
        box_shifts=(0, 0.4),
        progress=False,
    )
    assert page(tmp_path / "b").shape[0] == HEADING + 6 * row + GAP


def test_a_resumed_sheet_is_that_of_one_go(samples: list[Sample], tmp_path: Path) -> None:
    options = {"negatives": 0, "worst": 3, "progress": False}
    evaluate(Fake(ANSWERS), samples, out=tmp_path / "whole", **options)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        evaluate(Fake(ANSWERS, stop_at=3), samples, out=tmp_path / "cut", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "cut" / WORST_FILE).exists()
    rest = Fake(ANSWERS)
    evaluate(rest, samples, out=tmp_path / "cut", **options)  # type: ignore[arg-type]
    # Of the images of the first run, only the one that is among the worst is asked again.
    assert [number for number, _, _ in rest.calls] == [3, 4, 5, 1]
    np.testing.assert_array_equal(page(tmp_path / "cut"), page(tmp_path / "whole"))
    cases = (tmp_path / "cut" / "cases.csv").read_text().splitlines()
    assert len(cases) == 1 + len(samples)


def test_a_sheet_of_fewer_cases_does_not_stay(samples: list[Sample], tmp_path: Path) -> None:
    evaluate(Fake(ANSWERS), samples[:2], out=tmp_path, negatives=0, progress=False)
    few = page(tmp_path).shape
    with pytest.raises(KeyboardInterrupt):
        evaluate(Fake(ANSWERS, stop_at=1), samples, out=tmp_path, negatives=0, progress=False)
    assert not (tmp_path / WORST_FILE).exists()
    evaluate(Fake(ANSWERS), samples, out=tmp_path, negatives=0, progress=False)
    assert page(tmp_path).shape[1] > few[1]


@pytest.mark.parametrize("count", [0, 2, 5])
def test_another_number_of_a_finished_evaluation_is_drawn_again(
    samples: list[Sample], tmp_path: Path, count: int
) -> None:
    options = {"negatives": 0, "progress": False}
    evaluate(Fake(ANSWERS), samples, out=tmp_path / "a", worst=3, **options)  # type: ignore[arg-type]
    evaluate(Fake(ANSWERS), samples, out=tmp_path / "b", worst=count, **options)  # type: ignore[arg-type]
    again = Fake(ANSWERS)
    evaluate(again, samples, out=tmp_path / "a", worst=count, **options)  # type: ignore[arg-type]
    assert (tmp_path / "a" / WORST_FILE).exists() == (tmp_path / "b" / WORST_FILE).exists()
    # Only what is on the sheet is asked: missed, and 8, 6, 4 and 2 px off.
    assert [number for number, _, _ in again.calls] == [5, 1, 3, 4, 2][:count]
    if count:
        np.testing.assert_array_equal(page(tmp_path / "a"), page(tmp_path / "b"))
    same = Fake(ANSWERS)
    evaluate(same, samples, out=tmp_path / "a", worst=count, **options)  # type: ignore[arg-type]
    assert same.calls == []


def test_a_sheet_that_does_not_say_its_number_is_drawn_again(
    samples: list[Sample], tmp_path: Path
) -> None:
    evaluate(Fake(ANSWERS), samples, out=tmp_path, worst=3, progress=False)
    right, path = page(tmp_path), tmp_path / WORST_FILE
    PILImage.new("RGB", (20, 20)).save(path)  # as earlier versions, without a note
    evaluate(Fake(ANSWERS), samples, out=tmp_path, worst=3, progress=False)
    np.testing.assert_array_equal(page(tmp_path), right)
    path.write_bytes(b"no picture")
    evaluate(Fake(ANSWERS), samples, out=tmp_path, worst=3, progress=False)
    np.testing.assert_array_equal(page(tmp_path), right)


def test_no_sheet(samples: list[Sample], tmp_path: Path) -> None:
    evaluate(Fake(ANSWERS), samples, out=tmp_path, worst=0, progress=False)
    assert not (tmp_path / WORST_FILE).exists()
    nothing = Store(tmp_path / "more")(tumor=NOTHING)
    evaluate(Fake({}), [nothing], out=tmp_path / "empty", progress=False)
    assert not (tmp_path / "empty" / WORST_FILE).exists()
    with pytest.raises(ConfigError, match="worst is -1"):
        evaluate(Fake({}), samples, out=None, worst=-1, progress=False)
