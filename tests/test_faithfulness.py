"""`measure_faithfulness` with a stand-in whose answers, and hence figures, are known by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage

from textsam.data.sample import Sample, Target
from textsam.errors import ConfigError, DataError
from textsam.evaluate.faithfulness import (
    DISTRACTORS_PER_IMAGE,
    Text,
    measure_faithfulness,
)
from textsam.evaluate.faithfulness_summary import FaithfulnessSummary
from textsam.evaluate.faithfulness_table import faithfulness_table
from textsam.evaluate.wordings import wordings
from textsam.io.raster import read_image
from textsam.prompts import canonical
from textsam.result import Segmentation

Mask = NDArray[np.bool_]
SHAPE = (40, 50)
PROMPTS = ("tumor", "polyp", "right ventricle", "left ventricle")
NOTHING: Mask = np.zeros(SHAPE, dtype=np.bool_)
RV, LV = np.array(NOTHING), np.array(NOTHING)
RV[5:15, 5:15] = True
LV[20:30, 20:40] = True


class Model:
    """Answers by image number and text: (mask, score); nothing else is found.

    A score below the threshold leaves the mask in the probability alone, as a segmenter does.
    """

    def __init__(
        self,
        answers: Mapping[tuple[int, str], tuple[Mask, float]],
        prompts: Sequence[str] = PROMPTS,
        threshold: float = 0.5,
        stop_at: int | None = None,
    ) -> None:
        self.table = answers
        self.prompts = tuple(prompts)
        self.settings: dict[str, Any] = {
            "adapter": "fake",
            "preset": "lite",
            "found_threshold": threshold,
        }
        self.mask_threshold = 0.5
        self.threshold = threshold
        self.stop_at = stop_at
        self.calls: list[tuple[int, list[Text]]] = []

    def meaning(self, text: str) -> str | None:
        return canonical(text, self.prompts)

    def answers(self, image: NDArray[np.uint8], texts: Sequence[Text]) -> list[Segmentation]:
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        number = int(image[0, 0, 0])
        self.calls.append((number, list(texts)))
        return [self._answer(image, number, text) for text, _ in texts]

    def _answer(self, image: NDArray[np.uint8], number: int, text: str) -> Segmentation:
        mask, score = self.table.get((number, text), (NOTHING, 0.0))
        found = bool(mask.any()) and score >= self.threshold
        return Segmentation(
            mask=mask if found else NOTHING,
            probability=mask.astype(np.float32),
            score=score,
            found=found,
            prompt=text,
            image=read_image(image),
            adapter="fake",
            model="lite",
        )


def make(
    folder: Path, number: int, dataset: str, modality: str, masks: Mapping[str, Mask], **more: Any
) -> Sample:
    folder.mkdir(exist_ok=True)
    image_path = folder / f"{number}.png"
    PILImage.fromarray(np.full(SHAPE, number, dtype=np.uint8)).save(image_path)
    targets = []
    for concept, mask in masks.items():
        path = folder / f"{number}_{concept}.png"
        PILImage.fromarray(mask.astype(np.uint8) * 255).save(path)
        targets.append(Target(concept, path))
    return Sample(dataset, modality, f"case{number}", image_path, tuple(targets), **more)


@pytest.fixture
def hearts(tmp_path: Path) -> list[Sample]:
    """Two slices with both chambers, one without the right one."""
    shown = [{"right ventricle": RV, "left ventricle": LV}] * 2
    shown.append({"right ventricle": NOTHING, "left ventricle": LV})
    return [
        make(tmp_path / "data", n, "acdc", "cardiac MRI", masks) for n, masks in enumerate(shown)
    ]


def half(mask: Mask) -> Mask:
    """The upper half of a rectangle: Dice 2/3 with the whole."""
    rows = np.flatnonzero(mask.any(axis=1))
    return mask & (np.arange(len(mask)) < rows[len(rows) // 2])[:, None]


@pytest.fixture
def answers() -> dict[tuple[int, str], tuple[Mask, float]]:
    both = RV | LV
    return {
        (0, "right ventricle"): (RV, 0.9),
        (0, "left ventricle"): (half(LV), 0.8),
        (0, "rv"): (RV, 0.9),
        (0, "the right ventricle"): (half(RV), 0.9),
        (1, "right ventricle"): (both, 0.6),  # 100 of 300 px are its own
        (1, "left ventricle"): (LV, 0.4),  # right, and rejected
        (2, "right ventricle"): (LV, 0.7),  # there is none
        (2, "left ventricle"): (LV, 1.0),
        (2, "LEFT VENTRICLE"): (LV, 1.0),
        (2, "polyp"): (RV, 0.3),  # rejected
    }


def measured(
    answers: Mapping[tuple[int, str], tuple[Mask, float]], samples: list[Sample]
) -> FaithfulnessSummary:
    return measure_faithfulness(Model(answers), samples, out=None, progress=False)


def test_empty_rates(
    hearts: list[Sample], answers: dict[tuple[int, str], tuple[Mask, float]]
) -> None:
    found = {(rate.kind, rate.dataset): rate for rate in measured(answers, hearts).empty}
    # Neither a polyp nor, in a heart, a tumor can be seen: 3 images × 2 words, one mask rejected.
    modality = found["absent_modality", None]
    assert (modality.n, modality.rate) == (6, 1.0)
    assert modality.mask_alone == pytest.approx(5 / 6, abs=1e-6)
    annotated = found["absent_annotated", "acdc"]
    assert (annotated.n, annotated.rate, annotated.group_mean) == (1, 0.0, 0.0)
    assert annotated.worst_group == "acdc: right ventricle"
    assert found["distractor", None].n == 3 * DISTRACTORS_PER_IMAGE


def test_groups_have_the_same_say(tmp_path: Path) -> None:
    samples = [
        make(
            tmp_path / "d", n, "large" if n else "small", "breast ultrasound", {}, absent=("tumor",)
        )
        for n in range(5)
    ]
    table = {(0, "tumor"): (RV, 0.9), (1, "tumor"): (RV, 0.9)}
    rates = {r.dataset: r for r in measured(table, samples).empty if r.kind == "absent_annotated"}
    # Of 4 in the large set one is not empty, in the small set its only one.
    assert rates[None].rate == pytest.approx(3 / 5)
    assert rates[None].group_mean == pytest.approx((3 / 4 + 0) / 2)
    assert (rates[None].worst, rates[None].worst_group) == (0.0, "small: tumor")
    assert rates["large"].rate == pytest.approx(3 / 4)


def test_confusion_is_asked_by_annotated(
    hearts: list[Sample], answers: dict[tuple[int, str], tuple[Mask, float]]
) -> None:
    rows = {row.asked: row for row in measured(answers, hearts).confusion}
    assert set(rows) == {"left ventricle", "right ventricle"}
    left = {cell.annotated: cell for cell in rows["left ventricle"].cells}
    # Images 0 and 1; the answer to the second is empty and counts for Dice alone.
    assert left["left ventricle"].n == 2
    assert left["left ventricle"].dice == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)
    assert left["left ventricle"].share == 1.0
    assert (left["right ventricle"].dice, left["right ventricle"].share) == (0.0, 0.0)
    right = {cell.annotated: cell for cell in rows["right ventricle"].cells}
    assert right["right ventricle"].dice == pytest.approx((1 + 200 / 400) / 2)
    assert right["right ventricle"].share == pytest.approx((1 + 1 / 3) / 2, abs=1e-6)
    assert right["left ventricle"].dice == pytest.approx((0 + 400 / 500) / 2)
    assert right["left ventricle"].share == pytest.approx((0 + 2 / 3) / 2, abs=1e-6)


def test_a_class_the_adapter_does_not_know_is_a_column(tmp_path: Path) -> None:
    masks = {"nerve": RV, "left ventricle": LV}
    sample = make(tmp_path / "d", 0, "mixed", "cardiac MRI", masks)
    (row,) = measured({(0, "left ventricle"): (RV, 1.0)}, [sample]).confusion
    assert [(c.annotated, c.dice, c.share) for c in row.cells] == [
        ("left ventricle", 0.0, 0.0),
        ("nerve", 1.0, 1.0),
    ]


def test_a_bar_in_a_name_ends_no_cell(tmp_path: Path) -> None:
    masks = {"a|b": RV, "left ventricle": LV}
    sample = make(tmp_path / "d", 0, "mixed", "cardiac MRI", masks)
    table = faithfulness_table(measured({(0, "left ventricle"): (LV, 1.0)}, [sample]))
    assert "| asked | n | a\\|b | left ventricle |" in table


def test_wording_is_measured_in_the_network_and_lost_nowhere_in_the_product(
    hearts: list[Sample], answers: dict[tuple[int, str], tuple[Mask, float]]
) -> None:
    summary = measured(answers, hearts)
    texts = {(t.concept, t.text): t for t in summary.texts}
    # Names: right ventricle 1 and 1/2, left ventricle 2/3, 0 and 1.
    rv = texts["right ventricle", "rv"]
    assert (rv.wording, rv.n, rv.name_dice) == ("synonym", 2, 0.75)
    assert rv.network_lost == pytest.approx(100 * (0.75 - 1 / 2))
    the = texts["right ventricle", "the right ventricle"]
    assert the.network_lost == pytest.approx(100 * (0.75 - (2 / 3) / 2), abs=1e-3)
    upper = texts["left ventricle", "LEFT VENTRICLE"]
    assert upper.network_lost == pytest.approx(100 * (5 / 9 - 1 / 3), abs=1e-3)
    assert {t.product_lost for t in summary.texts} == {0.0}
    kinds = {loss.wording: loss for loss in summary.wordings}
    assert set(kinds) == {"synonym", "plural", "upper case", "article", None}
    plural = kinds["plural"]  # no plural is found at all
    assert plural.network_mean == pytest.approx(100 * (0.75 + 5 / 9) / 2, abs=1e-3)
    assert (plural.texts, plural.worst_text) == (2, "acdc: right ventricles")
    assert plural.network_worst == 75.0
    everything = kinds[None]
    assert everything.texts == len(summary.texts)
    assert everything.product_worst == 0.0


def test_a_wording_the_product_does_not_understand_is_asked_as_it_stands(tmp_path: Path) -> None:
    sample = make(tmp_path / "d", 0, "skin", "dermoscopy", {"skin lesion": RV})
    model = Model(
        {(0, "skin lesion"): (RV, 1.0), (0, "lesion"): (half(RV), 1.0)},
        prompts=("tumor", "skin lesion"),
    )
    summary = measure_faithfulness(model, [sample], out=None, progress=False)
    lost = {t.text: t for t in summary.texts}["lesion"]  # a tumor or a skin lesion
    assert lost.product_lost == lost.network_lost == pytest.approx(100 / 3, abs=1e-3)
    ((_, asked),) = model.calls
    assert ("lesion", "skin lesion") in asked
    assert ("lesion", None) in asked
    assert len(asked) == len(set(asked)), "nothing is asked twice"


def test_what_the_adapter_does_not_know_is_told(tmp_path: Path) -> None:
    shown = {"hangnail": RV, "left ventricle": LV}
    samples = [make(tmp_path / "d", n, "acdc", "cardiac MRI", shown) for n in range(2)]
    samples.append(replace(samples[0], stem="normal", targets=(), absent=("hangnail", "rv")))
    summary = measured({}, samples)
    assert summary.skipped == {"acdc/hangnail": 3}
    assert summary.to_dict()["skipped"] == {"acdc/hangnail": 3}
    line = faithfulness_table(summary).splitlines()[-1]
    assert line == "not asked, unknown to the adapter: acdc/hangnail (3)"
    known = replace(samples[1], targets=samples[1].targets[1:])
    assert "not asked" not in faithfulness_table(measured({}, [known]))


def test_calibration_by_hand(
    hearts: list[Sample], answers: dict[tuple[int, str], tuple[Mask, float]]
) -> None:
    score = measured(answers, hearts).score
    # Present: (score, Dice before the threshold), each alone in its bin.
    present = [(0.9, 1), (0.8, 2 / 3), (0.6, 1 / 2), (0.4, 1), (1.0, 1)]
    assert score.present is not None
    # 0.9 and 1.0 share the last bin: means 0.95 and 1.
    gaps = [2 * 0.05, 0.8 - 2 / 3, 0.1, 0.6]
    assert score.present.n == len(present)
    assert score.present.ece == pytest.approx(sum(gaps) / 5, abs=1e-5)
    assert score.found is not None
    # Without the rejected one, with the false one of score 0.7.
    assert score.found.n == 5
    assert score.found.ece == pytest.approx((sum(gaps[:3]) + 0.7) / 5, abs=1e-5)
    assert score.pooled is not None
    # Absent: 0.7 and 0.3 for nothing, and 14 zeros: 5 of another kind of image and 9 distractors.
    assert score.pooled.n == 5 + 1 + 6 + 9
    assert score.pooled.ece == pytest.approx((sum(gaps) + 0.7 + 0.3) / 21, abs=1e-5)
    assert score.balanced is not None
    # Half to the two ventricles alike (2 and 3 answers), a sixth to each kind of absence.
    right, left = 0.25 / 2, 0.25 / 3
    last = right * 0.9 + left * 1.0 - (right + left)
    by_hand = abs(last) + left * (0.8 - 2 / 3) + right * 0.1 + left * 0.6
    by_hand += 0.7 / 6 + 0.3 / 6 / 2 / 3
    assert score.balanced.ece == pytest.approx(by_hand, abs=1e-5)


def test_what_the_threshold_does(
    hearts: list[Sample], answers: dict[tuple[int, str], tuple[Mask, float]]
) -> None:
    threshold = measured(answers, hearts).threshold
    assert threshold is not None
    assert threshold.n == 5
    assert threshold.mask_rate == 1.0
    assert threshold.found_rate == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)
    assert threshold.dice == pytest.approx((3 / 4 + 5 / 9) / 2, abs=1e-6)
    assert threshold.dice_without == pytest.approx((3 / 4 + 8 / 9) / 2, abs=1e-6)


def test_files_and_table(
    hearts: list[Sample], answers: dict[tuple[int, str], tuple[Mask, float]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    model = Model(answers)
    summary = measure_faithfulness(model, hearts, out=out, progress=False)
    assert len(model.calls) == len(hearts), "one call per image"
    assert json.loads((out / "faithfulness.json").read_text()) == json.loads(
        json.dumps(summary.to_dict())
    )
    with (out / "faithfulness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["kind"] == "distractor" for row in rows) == 9
    with PILImage.open(out / "reliability.png") as plot:
        assert plot.format == "PNG"
        colours = {colour for _, colour in plot.convert("RGB").getcolors(1 << 20) or ()}
    assert {(86, 132, 190), (214, 96, 77), (0, 110, 60)} <= colours, "bars, gaps and threshold"
    table = faithfulness_table(summary)
    assert "| right ventricle | 2 | 40.0 (33) | 75.0 (67) |" in table
    assert (
        "| annotated as absent | acdc | 1 | 0.0 | 0.0 | 0.0 | 0.0 (acdc: right ventricle) |"
        in table
    )
    assert "100.0 % have a mask and 83.3 % are found at the threshold 0.5" in table


def test_a_killed_run_goes_on(
    hearts: list[Sample], answers: dict[tuple[int, str], tuple[Mask, float]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    whole = measured(answers, hearts)
    with pytest.raises(KeyboardInterrupt):
        measure_faithfulness(Model(answers, stop_at=2), hearts, out=out, progress=False)
    path = out / "faithfulness.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:9])  # killed while writing the second image
    again = Model(answers)
    summary = measure_faithfulness(again, hearts, out=out, progress=False)
    assert [number for number, _ in again.calls] == [1, 2]
    assert summary == whole
    third = Model(answers)
    assert measure_faithfulness(third, hearts, out=out, progress=False) == whole
    assert third.calls == []
    with pytest.raises(DataError, match=r"found_threshold was .* and is 0\.1"):
        measure_faithfulness(Model(answers, threshold=0.1), hearts, out=out, progress=False)
    with pytest.raises(DataError, match="acdc/case2, which is not among the samples"):
        measure_faithfulness(Model(answers), hearts[:2], out=out, progress=False)
    anew = Model(answers, threshold=0.1)
    measure_faithfulness(anew, hearts, out=out, progress=False, resume=False)
    assert len(anew.calls) == 3


def test_answers_about_other_files_are_refused(
    hearts: list[Sample], answers: dict[tuple[int, str], tuple[Mask, float]], tmp_path: Path
) -> None:
    measure_faithfulness(Model(answers), hearts, out=tmp_path / "out", progress=False)
    target = hearts[1].targets[0]
    assert isinstance(target, Target)
    PILImage.fromarray(LV.astype(np.uint8) * 255).save(target.mask_path)
    again = Model(answers)
    with pytest.raises(DataError, match=r"has changed for acdc/case1\. "):
        measure_faithfulness(again, hearts, out=tmp_path / "out", progress=False)
    assert again.calls == []
    assert (tmp_path / "out" / "faithfulness.json").exists()
    measure_faithfulness(again, hearts, out=tmp_path / "out", progress=False, resume=False)
    assert len(again.calls) == 3


def test_damaged_answers_are_refused(hearts: list[Sample], tmp_path: Path) -> None:
    measure_faithfulness(Model({}), hearts, out=tmp_path, progress=False)
    path = tmp_path / "faithfulness.csv"
    whole = path.read_text()
    path.write_text(whole.replace("present", "perhaps", 1))
    with pytest.raises(DataError, match=r"damaged .kind 'perhaps'.*resume=False"):
        measure_faithfulness(Model({}), hearts, out=tmp_path, progress=False)
    path.write_text(whole)
    (tmp_path / "faithfulness-run.json").unlink()
    with pytest.raises(DataError, match="says how the rows beside it were made cannot be read"):
        measure_faithfulness(Model({}), hearts, out=tmp_path, progress=False)


def test_samples_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        measured({}, [])
    sample = make(tmp_path / "d", 0, "s", "brain MRI", {"tumor": RV}, absent=("tumor",))
    with pytest.raises(DataError, match="annotated with pixels and declared absent"):
        measured({}, [sample])
    with pytest.raises(DataError, match="is among the samples twice: "):
        measured({}, [sample, sample])
    with pytest.raises(ConfigError, match="seed is -1; give a whole number, 0 or more"):
        measure_faithfulness(Model({}), [sample], out=None, seed=-1, progress=False)


def test_wordings() -> None:
    tumor = wordings("tumor", "breast ultrasound")
    assert tumor["breast mass"] == tumor["neoplasm"] == "synonym"
    assert "brain tumor" not in tumor
    assert (tumor["tumour"], tumor["tumors"], tumor["TUMOR"]) == ("British", "plural", "upper case")
    assert (tumor["a tumor"], tumor["the tumor"]) == ("article", "article")
    nucleus = wordings("cell nucleus", "microscopy")
    assert nucleus["cell nuclei"] == "plural"
    assert "cell nucleus" not in nucleus
    assert wordings("mitochondria", "electron microscopy")["mitochondrion"] == "synonym"
    assert wordings("eyelash", "selfie") == {
        "eyelashes": "plural",
        "EYELASH": "upper case",
        "an eyelash": "article",
        "the eyelash": "article",
    }
