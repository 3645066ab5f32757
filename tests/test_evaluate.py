"""`evaluate` with a stand-in for the segmenter whose answers, and hence scores, are known."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import NOTHING, PROMPTS, SHAPE, Fake, Mask, Store, rows, square
from PIL import Image as PILImage

import textsam
from textsam.data.sample import Sample, Target
from textsam.errors import ConfigError, DataError, OutputError, TextSAMError
from textsam.evaluate import evaluate
from textsam.evaluate.cases import read_cases
from textsam.evaluate.summary import AbsenceResult, Spread, summarise
from textsam.prompts import certainly_absent
from textsam.result import Segmentation

# A square of 10 px and the same 5 px to the right: see tests/test_metrics.py for the contour.
SHIFTED_NSD = 1 - (math.sqrt(2) + 9 + 2 + 3) / (36 + 2 * math.sqrt(2))
CORNER, EDGE = math.sqrt(3) / 8, math.sqrt(2) / 2
SHIFTED_SLAB = 1 - (2 * CORNER + 9 * EDGE + 2 * EDGE + 9) / (4 * CORNER + 36 * EDGE + 81)


@pytest.fixture
def make(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


@pytest.fixture
def samples(make: Store) -> list[Sample]:
    """Four images of two sets; the last is of a set of normal scans."""
    return [
        make(tumor=square(10, 10)),
        make(tumor=square(20, 20)),
        make(tumor=NOTHING),
        make("bus_normal", absent=("tumor",)),
    ]


@pytest.fixture
def answers() -> dict[tuple[int, str], Mask]:
    """Image 0 is 5 px off, 1 is missed, 2 and 3 are found though absent."""
    return {
        (0, "tumor"): square(10, 15),
        (2, "tumor"): square(0, 0, 4),
        (3, "tumor"): square(0, 0, 3),
    }


def timeless(out: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(out)]


def test_every_case_is_written(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    fake = Fake(answers)
    evaluate(fake, samples, out=tmp_path, negatives=0, refine=3, progress=False)
    assert fake.calls == [(number, ["tumor"], 3) for number in range(4)]
    common = {"concept": "tumor", "prompt": "tumor", "box_shift": ""}
    missing = {"dice": "", "iou": "", "nsd_3px": "", "nsd_slab": "", "hd95_px": ""}
    assert timeless(tmp_path) == [
        {
            "dataset": "bus",
            "stem": "case0",
            **common,
            "kind": "present",
            "dice": "0.5",
            "iou": "0.333333",
            "nsd_3px": str(round(SHIFTED_NSD, 6)),
            "nsd_slab": str(round(SHIFTED_SLAB, 6)),
            "hd95_px": "5.0",
            "score": "0.875",
            "found": "true",
            "area_px": "100",
            "truth_area_px": "100",
        },
        {
            "dataset": "bus",
            "stem": "case1",
            **common,
            "kind": "present",
            "dice": "0.0",
            "iou": "0.0",
            "nsd_3px": "0.0",
            "nsd_slab": "0.0",
            "hd95_px": "inf",
            "score": "0.25",
            "found": "false",
            "area_px": "0",
            "truth_area_px": "100",
        },
        {
            "dataset": "bus",
            "stem": "case2",
            **common,
            "kind": "absent_annotated",
            **missing,
            "score": "0.875",
            "found": "true",
            "area_px": "16",
            "truth_area_px": "0",
        },
        {
            "dataset": "bus_normal",
            "stem": "case3",
            **common,
            "kind": "absent_annotated",
            **missing,
            "score": "0.875",
            "found": "true",
            "area_px": "9",
            "truth_area_px": "0",
        },
    ]
    assert all(float(row["seconds"]) > 0 for row in rows(tmp_path))


def test_summary(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    summary = evaluate(Fake(answers), samples, out=tmp_path, negatives=1, progress=False)
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content == summary.to_dict()
    half = round(SHIFTED_NSD, 6) / 2
    assert content["concepts"] == [
        {
            "dataset": "bus",
            "concept": "tumor",
            "box_shift": None,
            "n": 2,
            "dice": {"mean": 0.25, "std": 0.25, "median": 0.25},
            "iou": dict.fromkeys(("mean", "std", "median"), pytest.approx(1 / 6, abs=1e-6)),
            "nsd_3px": dict.fromkeys(("mean", "std", "median"), pytest.approx(half, abs=1e-6)),
            "nsd_slab": dict.fromkeys(
                ("mean", "std", "median"), pytest.approx(SHIFTED_SLAB / 2, abs=1e-6)
            ),
            # Of the one image that was answered: the missed one has no distance.
            "hd95_px": {"mean": 5.0, "std": 0.0, "median": 5.0},
            "missed": 1,
        }
    ]
    assert content["absences"] == [
        {
            "dataset": dataset,
            "kind": kind,
            "n": n,
            "false_positives": wrong,
            "false_positive_rate": wrong / n,
        }
        for dataset, kind, n, wrong in (
            ("bus", "absent_annotated", 1, 1),
            ("bus", "absent_modality", 3, 0),
            ("bus_normal", "absent_annotated", 1, 1),
            ("bus_normal", "absent_modality", 1, 0),
        )
    ]
    assert [(r["dataset"], r["n"], r["false_positive_rate"]) for r in content["all_absences"]] == [
        (None, 2, 1.0),
        (None, 4, 0.0),
    ]
    assert content["images"] == 4
    assert content["unasked_images"] == 0
    assert content["skipped"] == {}
    assert content["settings"]["adapter"] == "fake"
    assert content["settings"]["refine"] is None
    assert content["versions"]["textsam"] == textsam.__version__
    assert set(content["versions"]) == {"textsam", "python", "torch", "monai", "numpy"}
    assert content["machine"]["cpu_count"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", content["date"])
    seconds = {row["stem"]: float(row["seconds"]) for row in rows(tmp_path)}
    assert content["seconds_per_image"]["mean"] == pytest.approx(
        sum(seconds.values()) / 4, abs=1e-6
    )
    # Time is told by image, however many questions each was asked.
    uneven = [
        replace(case, seconds=9.0 if case.stem == "case0" else 1.0)
        for case in read_cases(tmp_path)[0]
        if case.stem == "case0" or case.kind != "absent_modality"
    ]
    again = summarise(uneven, {}, skipped={}, unasked_images=2)
    assert (again.images, again.unasked_images, again.seconds_per_image.mean) == (4, 2, 3.0)
    answered = [case for case in uneven if case.stem != "case1"]
    (concept,) = summarise(answered, {}, skipped={}, unasked_images=0).concepts
    assert (concept.n, concept.missed) == (1, 0)


def test_the_slab_has_a_tolerance_of_its_own(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    evaluate(Fake(answers), samples[:1], out=tmp_path, slab_tolerance_px=5, progress=False)
    # The squares are 5 px apart, so that all of both surfaces agrees.
    assert rows(tmp_path)[0]["nsd_slab"] == "1.0"
    assert rows(tmp_path)[0]["nsd_3px"] == str(round(SHIFTED_NSD, 6))
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"slab_tolerance_px is .*; give a finite 0 or more"):
            evaluate(Fake(answers), samples, out=None, slab_tolerance_px=wrong, progress=False)


def test_table(samples: list[Sample], answers: dict[tuple[int, str], Mask]) -> None:
    summary = evaluate(Fake(answers), samples, out=None, negatives=0, progress=False)
    table = summary.table()
    nsd, slab = (f"{50 * v:.2f} ± {50 * v:.2f}" for v in (SHIFTED_NSD, SHIFTED_SLAB))
    hd95, median = "HD95 px | median Dice % | missed", "5.0 ± 0.0 | 25.00 | 1"
    assert table.splitlines()[:9] == [
        f"| set | concept | n | Dice % | IoU % | NSD 3 px % | slab NSD 3 px % | {hd95} |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| bus | tumor | 2 | 25.00 ± 25.00 | 16.67 ± 16.67 | {nsd} | {slab} | {median} |",
        "",
        "| set | absent because | n | false positives | rate % |",
        "| --- | --- | ---: | ---: | ---: |",
        "| bus | absent_annotated | 1 | 1 | 100.0 |",
        "| bus_normal | absent_annotated | 1 | 1 | 100.0 |",
        "| all sets | absent_annotated | 2 | 2 | 100.0 |",
    ]
    assert "adapter fake, preset lite, refine as the adapter asks, prompts text; 4 images" in table
    other = replace(
        summary,
        concepts=(replace(summary.concepts[0], dice=Spread(0.6, 0.1, 0.9)),),
        absences=(AbsenceResult("bus", "absent_modality", 3, 1),),
        seconds_per_image=Spread(2.0, 0.5, 1.0),
    )
    assert "| bus | tumor | 2 | 60.00 ± 10.00 |" in other.table()
    assert "5.0 ± 0.0 | 90.00 | 1 |" in other.table()
    assert "| bus | absent_modality | 3 | 1 | 33.3 |" in other.table()
    assert "4 images, 2 s per image (median 1 s)" in other.table()
    assert other.to_dict()["absences"][0]["false_positive_rate"] == 0.333333


def test_a_second_evaluation_into_a_folder_waits_for_the_first(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    class Meets(Fake):
        """Another evaluation into the same folder begins while this one is at its second image."""

        def segment(self, *given: Any, **options: Any) -> list[Segmentation]:
            if len(self.calls) == 1:
                with pytest.raises(DataError, match="another process is measuring into this"):
                    evaluate(Fake(answers), samples, out=out, negatives=0, progress=False)
            return super().segment(*given, **options)

    evaluate(Meets(answers), samples, out=out, negatives=0, progress=False)
    assert [row["stem"] for row in rows(out)] == ["case0", "case1", "case2", "case3"]
    # Neither an end nor a kill leaves it locked.
    killed = Fake(answers, stop_at=0)
    with pytest.raises(KeyboardInterrupt):
        evaluate(killed, samples, out=out, negatives=0, progress=False, resume=False)
    evaluate(Fake(answers), samples, out=out, negatives=0, progress=False)
    assert len(rows(out)) == 4


def test_the_folder_is_not_needed(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    with_files = evaluate(Fake(answers), samples, out=tmp_path / "a", progress=False)
    without = evaluate(Fake(answers), samples, out=None, progress=False)
    assert without.concepts == with_files.concepts
    assert without.absences == with_files.absences
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "cases.csv",
        "evaluation.json",
        "summary.json",
        "worst.png",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "data"]


def test_all_prompts_of_an_image_in_one_call(make: Store, tmp_path: Path) -> None:
    heart = make(
        "heart",
        "cardiac MRI",
        myocardium=square(0, 0),
        left_ventricle=square(12, 12),
        right_ventricle=NOTHING,
    )
    fake = Fake(
        {(0, "left ventricle"): square(12, 12)},
        prompts=("myocardium", "left ventricle", "right ventricle", "polyp"),
    )
    evaluate(fake, [heart], out=tmp_path, progress=False)
    asked = ["myocardium", "left ventricle", "right ventricle", "polyp"]
    assert fake.calls == [(0, asked, None)]
    assert [(r["prompt"], r["kind"], r["dice"]) for r in rows(tmp_path)] == [
        ("myocardium", "present", "0.0"),
        ("left ventricle", "present", "1.0"),
        ("right ventricle", "absent_annotated", ""),
        ("polyp", "absent_modality", ""),
    ]
    assert len({r["seconds"] for r in rows(tmp_path)}) == 1


def test_concepts_are_asked_in_the_adapters_words(make: Store, tmp_path: Path) -> None:
    sample = make(tumour=square(0, 0))
    fake = Fake({(0, "tumor"): square(0, 0)})
    evaluate(fake, [sample], out=tmp_path, negatives=0, progress=False)
    assert fake.calls == [(0, ["tumor"], None)]
    (row,) = rows(tmp_path)
    assert (row["concept"], row["prompt"], row["dice"]) == ("tumour", "tumor", "1.0")


def test_concepts_that_are_one_prompt_are_united(make: Store, tmp_path: Path) -> None:
    sample = make(mass=square(0, 0), neoplasm=square(20, 20))
    fake = Fake({(0, "tumor"): square(0, 0)})
    evaluate(fake, [sample], out=tmp_path, negatives=0, progress=False)
    (row,) = rows(tmp_path)
    assert (row["concept"], row["truth_area_px"]) == ("mass + neoplasm", "200")
    assert float(row["dice"]) == pytest.approx(2 * 100 / 300, abs=1e-6)


def test_unknown_concepts_are_skipped_and_counted(make: Store) -> None:
    samples = [
        make(tumor=square(0, 0), duct=square(3, 3)),
        make(duct=square(3, 3)),
        make("other", absent=("duct",)),
    ]
    fake = Fake({})
    summary = evaluate(fake, samples, out=None, negatives=0, progress=False)
    assert fake.calls == [(0, ["tumor"], None)]
    assert summary.skipped == {"bus/duct": 2, "other/duct": 1}
    assert (summary.images, summary.unasked_images) == (1, 2)
    assert "bus/duct (2), other/duct (1)" in summary.table()


def test_negatives_cannot_be_in_the_image(samples: list[Sample]) -> None:
    fake = Fake({})
    evaluate(fake, samples, out=None, negatives=99, progress=False)
    wanted = {p for p in PROMPTS if certainly_absent(p, "breast ultrasound")}
    assert wanted == {"polyp", "skin lesion", "cell nucleus", "myocardium"}
    for _, asked, _ in fake.calls:
        assert asked[0] == "tumor"
        assert len(asked) == len(set(asked))
        assert set(asked[1:]) == wanted


def test_negatives_depend_on_seed_and_stem_alone(samples: list[Sample]) -> None:
    def drawn(n: int, seed: int, prompts: Sequence[str] = PROMPTS) -> dict[int, list[str]]:
        fake = Fake({}, prompts)
        evaluate(fake, samples, out=None, negatives=n, seed=seed, progress=False)
        return {number: asked[1:] for number, asked, _ in fake.calls}

    first = drawn(2, 0)
    assert drawn(2, 0, PROMPTS[::-1]) == first
    assert {number: asked[:1] for number, asked in first.items()} == drawn(1, 0)
    assert drawn(2, 1) != first
    # On every machine and in every version: otherwise old numbers cannot be repeated.
    assert first[0] == ["skin lesion", "myocardium"]


def test_an_unknown_modality_has_no_negatives(make: Store) -> None:
    fake = Fake({})
    sample = make(modality="unknown", tumor=square(0, 0))
    evaluate(fake, [sample], out=None, negatives=5, progress=False)
    assert fake.calls == [(0, ["tumor"], None)]


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_a_kill_and_a_resume_equal_one_go(
    samples: list[Sample],
    answers: dict[tuple[int, str], Mask],
    tmp_path: Path,
    stop_at: int,
) -> None:
    whole = evaluate(Fake(answers), samples, out=tmp_path / "whole", progress=False)
    killed = Fake(answers, stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        evaluate(killed, samples, out=tmp_path / "cut", progress=False)
    assert len(rows(tmp_path / "cut")) == 2 * stop_at
    assert not (tmp_path / "cut" / "summary.json").exists()
    resumed = Fake(answers)
    summary = evaluate(resumed, samples, out=tmp_path / "cut", worst=0, progress=False)
    assert [number for number, _, _ in resumed.calls] == list(range(stop_at, 4))
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "whole")
    assert summary.concepts == whole.concepts
    assert summary.absences == whole.absences


def test_a_finished_evaluation_is_only_summed_up_again(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    first = evaluate(Fake(answers), samples, out=tmp_path, progress=False)
    cases = (tmp_path / "cases.csv").read_bytes()
    again = Fake(answers)
    second = evaluate(again, samples, out=tmp_path, progress=False)
    assert again.calls == []
    assert (tmp_path / "cases.csv").read_bytes() == cases
    assert {**second.to_dict(), "date": ""} == {**first.to_dict(), "date": ""}


@pytest.mark.parametrize("prompts", ["text", "geometry"])
def test_a_name_that_is_no_text_is_evaluated_and_resumed(
    make: Store, tmp_path: Path, prompts: str
) -> None:
    # As `os.fsdecode` gives a name that is no UTF-8.
    named = [make(stem="scan\udcff", tumor=square(10, 10))]
    negatives = 1 if prompts == "text" else 0
    options: dict[str, Any] = {"out": tmp_path, "prompts": prompts, "negatives": negatives}
    evaluate(Fake({}), named, progress=False, **options)
    again = Fake({})
    evaluate(again, named, progress=False, **options)
    assert again.calls == []


def test_a_file_cut_anywhere_is_resumed(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    evaluate(Fake(answers), samples[:3], out=tmp_path, progress=False)
    path = tmp_path / "cases.csv"
    whole, expected = path.read_bytes(), timeless(tmp_path)
    ends = [match.end() for match in re.finditer(rb"\n", whole)]
    for cut in sorted({*range(0, len(whole), 23), *ends, *(end - 1 for end in ends)}):
        path.write_bytes(whole[:cut])
        fake = Fake(answers)
        evaluate(fake, samples[:3], out=tmp_path, worst=0, progress=False)
        assert timeless(tmp_path) == expected, cut
        # The header's line, then two lines per image; an image with one of them is asked again.
        complete = max(0, sum(end <= cut for end in ends) - 1) // 2
        assert [number for number, _, _ in fake.calls] == list(range(complete, 3)), cut


def test_more_samples_are_added_to_finished_ones(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    evaluate(Fake(answers), samples[:2], out=tmp_path, progress=False)
    more = Fake(answers)
    summary = evaluate(more, samples, out=tmp_path, worst=0, progress=False)
    assert [number for number, _, _ in more.calls] == [2, 3]
    assert summary.images == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "adapter was 'fake' and is 'other'"),
        ({"prompts": ("tumor",)}, "prompts was"),
        ({"refine": 1}, "refine was None and is 1"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"negatives": 2}, "negatives was 1 and is 2"),
        ({"fingerprint": "b"}, "fingerprint was None and is 'b'"),
        ({"identity": "c"}, "identity was None and is 'c'"),
        # Hashes beside what they are of would say no more.
        (
            {"identity": "c", "views": "112,mirrored"},
            "measurement: views was None and is '112,mirrored'\\.",
        ),
    ],
)
def test_another_evaluation_is_not_resumed(
    samples: list[Sample], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    evaluate(Fake({}), samples[:1], out=tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    options = {k: v for k, v in change.items() if k in ("refine", "seed", "negatives")}
    fake = Fake({}, change.get("prompts", PROMPTS), change.get("name", "fake"))
    for name in ("fingerprint", "identity", "views"):
        if name in change:
            setattr(fake, name, change[name])
    with pytest.raises(DataError, match=message):
        evaluate(fake, samples, out=tmp_path, progress=False, **options)
    assert fake.calls == []
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before
    evaluate(fake, samples, out=tmp_path, progress=False, resume=False, **options)
    assert len(fake.calls) == 4
    assert json.loads((tmp_path / "evaluation.json").read_text())["adapter"] == fake.adapter_name


def test_further_views_are_on_record_and_told(samples: list[Sample], tmp_path: Path) -> None:
    fake = Fake({})
    evaluate(fake, samples, out=tmp_path / "plain", progress=False)
    fake.views = "112,mirrored"  # type: ignore[attr-defined]
    summary = evaluate(fake, samples, out=tmp_path / "six", progress=False)
    records = [
        json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("plain", "six")
    ]
    assert "views" not in records[0]
    assert records[1]["views"] == "112,mirrored"
    assert ", views 112,mirrored;" in summary.table().splitlines()[-1]


def correct(sample: Sample) -> None:
    """Overwrite the sample's mask by a square of 6 px."""
    (target,) = sample.targets
    assert isinstance(target, Target)
    PILImage.fromarray(square(3, 3, 6).astype(np.uint8) * 255).save(target.mask_path)


@pytest.mark.parametrize("change", ["mask", "image", "another root", "absent", "modality"])
def test_an_evaluation_of_other_files_is_not_resumed(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    evaluate(Fake(answers), samples, out=out, negatives=0, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    now = list(samples)
    if change == "mask":
        correct(samples[1])
    elif change == "image":
        PILImage.fromarray(np.full(SHAPE, 77, dtype=np.uint8)).save(samples[1].image_path)
    elif change == "another root":
        other = Store(tmp_path / "elsewhere")
        other.count = 1
        now[1] = other(tumor=square(19, 20))
    elif change == "absent":
        now[1] = replace(samples[1], absent=("a thing the adapter does not know",))
    else:
        now[1] = replace(samples[1], modality="endoscopic ultrasound")
    assert [sample.name for sample in now] == [sample.name for sample in samples]
    again = Fake(answers)
    with pytest.raises(DataError, match=r"other data: .* has changed for bus/case1\. .*resume="):
        evaluate(again, now, out=out, negatives=0, progress=False)
    assert again.calls == []
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    evaluate(again, now, out=out, negatives=0, progress=False, resume=False)
    assert len(again.calls) == 4


def test_files_that_have_moved_are_the_same_files(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    evaluate(Fake(answers), samples, out=tmp_path / "out", progress=False)
    (tmp_path / "data").rename(tmp_path / "moved")

    def there(path: Path) -> Path:
        return tmp_path / "moved" / path.relative_to(tmp_path / "data")

    moved = []
    for sample in samples:
        targets = [t for t in sample.targets if isinstance(t, Target)]
        at = tuple(replace(target, mask_path=there(target.mask_path)) for target in targets)
        path = there(sample.image_path)
        moved.append(replace(sample, image_path=path, targets=at, weight=3.0))
    again = Fake(answers)
    evaluate(again, moved, out=tmp_path / "out", progress=False)
    assert again.calls == []


def test_an_image_not_yet_asked_may_change(
    samples: list[Sample], answers: dict[tuple[int, str], Mask], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(Fake(answers, stop_at=1), samples, out=tmp_path / "out", progress=False)
    correct(samples[1])
    evaluate(Fake(answers), samples, out=tmp_path / "out", worst=0, progress=False)
    assert rows(tmp_path / "out")[2]["dice"] == "0.0"
    assert [row["truth_area_px"] for row in rows(tmp_path / "out")[2:3]] == ["36"]


def test_results_that_do_not_say_of_which_files_are_not_gone_on_with(
    samples: list[Sample], tmp_path: Path
) -> None:
    evaluate(Fake({}), samples, out=tmp_path, progress=False)
    path = tmp_path / "evaluation.json"
    header = json.loads(path.read_text())
    contents = header.pop("contents")
    assert {len(digest) for stems in contents.values() for digest in stems.values()} == {16}
    assert {name: list(stems) for name, stems in contents.items()} == {
        "bus": ["case0", "case1", "case2"],
        "bus_normal": ["case3"],
    }
    path.write_text(json.dumps(header))
    with pytest.raises(DataError, match="does not say what the images and masks of its rows were"):
        evaluate(Fake({}), samples, out=tmp_path, progress=False)


def test_cases_of_other_samples_are_refused(samples: list[Sample], tmp_path: Path) -> None:
    evaluate(Fake({}), samples, out=tmp_path, progress=False)
    with pytest.raises(DataError, match=r"cases of bus_normal/case3 .* \(image not in it\)"):
        evaluate(Fake({}), samples[:3], out=tmp_path, progress=False)


def test_cases_without_a_header_are_refused(samples: list[Sample], tmp_path: Path) -> None:
    evaluate(Fake({}), samples, out=tmp_path, progress=False)
    (tmp_path / "evaluation.json").unlink()
    with pytest.raises(DataError, match=r"evaluation\.json .* cannot be read"):
        evaluate(Fake({}), samples, out=tmp_path, progress=False)
    (tmp_path / "evaluation.json").write_text("[1]")
    with pytest.raises(DataError, match="does not describe a measurement"):
        evaluate(Fake({}), samples, out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("present", "perhaps", "row 2 is damaged"),
        ("false", "no", "row 2 is damaged"),
        ("case0,", "case0,,", "row 2 is damaged"),
        ("stem,", "name,", "has the columns dataset, name"),
    ],
)
def test_a_damaged_file_is_refused(
    samples: list[Sample], tmp_path: Path, old: str, new: str, message: str
) -> None:
    evaluate(Fake({}), samples[:1], out=tmp_path, progress=False)
    path = tmp_path / "cases.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        evaluate(Fake({}), samples[:1], out=tmp_path, progress=False)


def test_samples_that_cannot_be_evaluated(make: Store) -> None:
    with pytest.raises(DataError, match="no samples"):
        evaluate(Fake({}), [], out=None, progress=False)
    twice = [make(tumor=NOTHING, stem="a"), make(tumor=NOTHING, stem="a")]
    with pytest.raises(DataError, match="bus/a is among the samples twice"):
        evaluate(Fake({}), twice, out=None, progress=False)
    with pytest.raises(DataError, match="knows polyp, the samples are about bus/tumor"):
        evaluate(Fake({}, ["polyp"]), twice[:1], out=None, negatives=0, progress=False)
    contradiction = make(mass=square(0, 0), absent=("tumor",))
    with pytest.raises(DataError, match=r"'mass' is annotated with pixels, and 'tumor'"):
        evaluate(Fake({}), [contradiction], out=None, progress=False)
    with pytest.raises(ConfigError, match="negatives is -1"):
        evaluate(Fake({}), twice[:1], out=None, negatives=-1, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 1.5}, "negatives is 1.5; give a whole number, 0 or more"),
        ({"worst": None}, "worst is None; give a whole number"),
        ({"seed": None}, "seed is None; give a whole number"),
        ({"seed": -3}, "seed is -3; give a whole number"),
        ({"seed": True}, "seed is True; give a whole number"),
        ({"slab_tolerance_px": "3"}, "slab_tolerance_px is '3'; give a finite 0 or more"),
        ({"box_shifts": 0.1, "prompts": "geometry"}, "box_shifts is 0.1; give a sequence"),
        ({"box_shifts": "0.1", "prompts": "geometry"}, "box_shifts is '0.1'; give a sequence"),
        ({"box_shifts": ["0.1"], "prompts": "geometry"}, "the box shift '0.1' is not in"),
    ],
    ids=str,
)
def test_options_of_a_wrong_type_are_refused_before_anything_is_asked(
    samples: list[Sample], options: dict[str, Any], message: str
) -> None:
    fake = Fake({})
    with pytest.raises(ConfigError, match=message):
        evaluate(fake, samples, out=None, progress=False, **options)
    assert not fake.calls


def test_numbers_of_numpy_and_folders_as_text(samples: list[Sample], tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "negatives": np.int64(0),
        "seed": np.int32(4),
        "box_shifts": np.array([0.25], dtype=np.float32),
        "slab_tolerance_px": np.float32(2),
    }
    evaluate(
        Fake({}), samples, out=str(tmp_path / "a"), prompts="geometry", progress=False, **options
    )
    content = json.loads((tmp_path / "a" / "evaluation.json").read_text(encoding="utf-8"))
    assert (content["seed"], content["box_shifts"], content["slab_tolerance_px"]) == (4, [0.25], 2)
    assert (tmp_path / "a" / "summary.json").is_file()


def test_results_need_a_folder(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    with pytest.raises(DataError, match="out is a file"):
        evaluate(Fake({}), samples, out=tmp_path / "out", progress=False)
    assert (tmp_path / "out").read_text() == "kept"


def test_a_folder_that_cannot_be_made_or_locked_is_told(
    samples: list[Sample], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "open" / ".measuring.lock").mkdir(parents=True)
    for out in (tmp_path / "file" / "deeper", tmp_path / "open"):
        with pytest.raises(OutputError, match=rf"{re.escape(str(out))}: cannot be written"):
            evaluate(Fake({}), samples, out=out, progress=False)


@pytest.mark.parametrize("name", ["cases.csv", "evaluation.json", "summary.json"])
def test_a_full_disk_is_told_and_the_rest_is_measured_later(
    samples: list[Sample],
    answers: dict[tuple[int, str], Mask],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    replace_, open_ = Path.replace, Path.open

    def full(path: Path) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")

    def refusing_replace(self: Path, target: Path) -> Path:
        if name != "cases.csv":  # its header fits
            full(target)
        return replace_(self, target)

    def refusing_open(self: Path, mode: str = "r", *more: Any, **others: Any) -> Any:
        if mode == "a":
            full(self)
        return open_(self, mode, *more, **others)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refusing_replace)
        patched.setattr(Path, "open", refusing_open)
        with pytest.raises(OutputError, match=f"{name}: cannot be written .*; free space"):
            evaluate(Fake(answers), samples, out=out, progress=False)
    evaluate(Fake(answers), samples, out=out, progress=False)
    evaluate(Fake(answers), samples, out=tmp_path / "whole", progress=False)
    assert timeless(out) == timeless(tmp_path / "whole")


def test_a_segmenter_that_answers_too_little(samples: list[Sample], tmp_path: Path) -> None:
    class Short(Fake):
        def segment(self, *arguments: Any, **options: Any) -> list[Segmentation]:
            return super().segment(*arguments, **options)[:-1]

    with pytest.raises(TextSAMError, match="1 answers to 2 prompts"):
        evaluate(Short({}), samples, out=tmp_path, progress=False)
    assert rows(tmp_path) == []


def test_the_bar_leaves_standard_output_alone(
    samples: list[Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(Fake({}), samples, out=None, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "4/4" in shown.err
