"""What the smaller benchmark scripts write down: of one adapter, of one machine, and all of it."""

from __future__ import annotations

import http.client
import itertools
import json
import shutil
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

import textsam
from textsam.data.augment import Augment
from textsam.data.augment_config import AugmentConfig
from textsam.data.folder import samples_from_folder

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not in this copy of the project", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import averages  # noqa: E402
import candidates  # noqa: E402
import changed  # noqa: E402
import load  # noqa: E402
import looks  # noqa: E402
import model_card  # noqa: E402
import precision  # noqa: E402
import saliency  # noqa: E402


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "200, KeyError"),
        (b"nonsense\r\n\r\n", "BadStatusLine"),
    ],
)
def test_an_answer_that_is_cut_short_or_none_is_a_lost_request(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, problem: str
) -> None:
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve() -> None:
            while not asked.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection, connection.makefile("rb") as request:
                    # Whoever closes with a part of the request unread resets the connection, and
                    # the client may see that in place of the answer.
                    request.readline()
                    headers = http.client.parse_headers(request)
                    request.read(int(headers["Content-Length"]))
                    connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        counts = load.Counts()
        # A second at each look: time for some requests, on the slowest machine as well.
        ticks = itertools.count()
        monkeypatch.setattr(load, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
        try:
            load.Client(0, server.getsockname()[1], [b"x"], ["right"], 10, counts).run()
        finally:
            asked.set()
            serving.join()
    assert counts.requests > 0
    assert counts.lost == counts.requests == counts.problems[problem]


def card(folder: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Write the generalist's card from copies, with settings of its adapter changed."""
    shutil.copytree(ROOT / "weights" / "generalist", folder / "weights")
    if not (folder / "results").exists():
        shutil.copytree(ROOT / "benchmarks" / "results" / "generalist", folder / "results")
    path = folder / "weights" / "adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")
    arguments = ["model_card.py", str(folder / "weights"), str(folder / "results")]
    monkeypatch.setattr(sys, "argv", arguments)
    model_card.main()
    return (folder / "weights" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    "change",
    [
        {"tensors_sha256": "0" * 64},
        {"found_threshold": 0.5},
        {"score_map": [[0.0, 0.0], [1.0, 1.0]]},
        {"sides_for": {"tumor": [112]}},
        {"kinds": None},
    ],
)
def test_a_card_is_not_written_from_figures_of_another_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    with pytest.raises(SystemExit, match=r"summary.*faithfulness\.json.*evaluate it again"):
        card(tmp_path, change, monkeypatch)


def test_a_card_is_not_written_with_some_figures_from_before_a_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    card(tmp_path, {}, monkeypatch)
    shutil.rmtree(tmp_path / "weights")
    record = json.loads((results / "beside.json").read_text("utf-8"))
    before = json.dumps({**record, "identity": "0" * 64})
    (results / "beside.json").write_text(before, "utf-8")
    with pytest.raises(SystemExit, match=r"results: beside\.json: not of the adapter"):
        card(tmp_path, {}, monkeypatch)


def test_a_card_of_figures_of_its_own_adapter_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = card(tmp_path, {}, monkeypatch)
    (own,) = [line for line in text.splitlines() if line.startswith("| busi | tumor |")]
    shipped = (ROOT / "weights" / "generalist" / "README.md").read_text("utf-8")
    assert own in shipped.splitlines()


def measure_candidates(
    out: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> dict[str, dict[str, Any]]:
    def worker(*_: Any, **__: Any) -> Any:
        facts = {"seconds": 1.0, "fastest": 1.0, "first": 1.0, "moved": 0.0}
        return SimpleNamespace(returncode=0, stdout=json.dumps(facts), stderr="")

    monkeypatch.setattr(candidates.subprocess, "run", worker)
    monkeypatch.setattr(sys, "argv", ["candidates.py", "lite", "--out", str(out), *more])
    candidates.main()
    content = json.loads(out.read_text("utf-8"))
    return {row["candidate"]: row for row in content["rows"]}


def test_a_card_says_what_of_a_set_was_taken() -> None:
    plain = {"set": "heads", "split": "train", "part": [0, 1], "prefix": "", "limit": None}
    assert model_card._selection({**plain, "weight": 1}) == "- `heads` train"
    some = {**plain, "numbers": [823, 918], "part": [0, 0.7], "prefix": "9", "limit": 4}
    assert model_card._selection({**some, "weight": 2.5}) == (
        "- `heads` train, hashes of names in 0–0.7, names in 9*, 823 to 918, 4 of them, weight 2.5"
    )


def test_candidates_of_another_machine_are_measured_again_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "candidates.json"
    assert list(measure_candidates(out, monkeypatch)) == list(candidates.CANDIDATES["lite"])
    # On the same machine single ones are done again, in their place, and the others are kept.
    again = measure_candidates(out, monkeypatch, "--only", "folded")
    assert list(again) == list(candidates.CANDIDATES["lite"])
    earlier = json.loads(out.read_text("utf-8"))
    earlier["torch"] = "1.0"
    for row in earlier["rows"]:
        row["seconds"] = 9.0
    out.write_text(json.dumps(earlier), "utf-8")
    with pytest.raises(SystemExit, match=r"'torch': '1\.0'.*measure these again"):
        measure_candidates(out, monkeypatch, "--only", "folded")
    rows = measure_candidates(out, monkeypatch)
    assert {row["seconds"] for row in rows.values()} == {1.0}


def test_an_unknown_candidate_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        measure_candidates(tmp_path / "c.json", monkeypatch, "--only", "chunks")
    assert "--only chunks: choose from bfloat16, channels_last" in capsys.readouterr().err


def test_precision_says_that_an_adapter_knows_nothing_of_the_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SimpleNamespace(prompts=("spleen",))
    monkeypatch.setattr(textsam, "load_model", lambda *_, **__: known, raising=False)
    monkeypatch.setattr("textsam.data.sets.samples_from_manifest", lambda *_: [])
    out = tmp_path / "precision.json"
    monkeypatch.setattr(sys, "argv", ["precision.py", "--adapter", "mine", "--out", str(out)])
    with pytest.raises(SystemExit, match="mine knows nothing that the sets show, only spleen"):
        precision.main()
    assert not out.exists()


@pytest.mark.parametrize(("dice", "told"), [((0.4, 0.6), "50.0 ± 10.0"), ((0.4,), "40.0 ± 0.0")])
def test_saliency_deviations_are_of_the_population(dice: tuple[float, ...], told: str) -> None:
    rows = [saliency.Row("x", 0.5, True, value, 1.0, 0.0) for value in dice]
    text = saliency.table(rows, "boxes", "here", "command")
    assert f"box and five points | {told} |" in text


def test_looks_are_the_whole_image_and_squares_around_what_is_there(tmp_path: Path) -> None:
    image = np.zeros((100, 160, 3), np.uint8)
    image[30:50, 60:90] = 200  # 20 x 30 px
    for name, pixels in (("images", image), ("masks", image[..., 0])):
        (tmp_path / name).mkdir()
        PILImage.fromarray(pixels).save(tmp_path / name / "0.png")
    (sample,) = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    assert list(looks.looks(sample, ("lung",), 0)) == []
    found = list(looks.looks(sample, ("tumor",), 0))
    assert [name for _, name, *_ in found] == ["whole", "1.2 x", "1.8 x", "2.7 x"]
    assert [pixels.shape[:2] for *_, pixels, _ in found] == [
        (100, 160),
        (36, 36),
        (54, 54),
        (81, 81),
    ]
    for _, _, pixels, mask in found:
        assert mask.sum() == 600
        assert np.array_equal(mask, pixels[..., 0] == 200)


def test_looks_ask_by_the_adapters_word_for_what_the_data_show(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        PILImage.new("L", (50, 40), 255).save(tmp_path / name / "0.png")
    (sample,) = samples_from_folder(tmp_path, "lesion", modality="breast ultrasound")
    assert [concept for concept, *_ in looks.looks(sample, ("tumor",), 0)] == ["tumor"]


def test_the_table_of_looks_has_one_figure_for_each_adapter() -> None:
    found = {("busi", "tumor"): {"whole": [[0.5, 0.7], [0.8, 0.9]], "1.2 x": [[0.1], [0.3]]}}
    assert looks.table(found).splitlines()[2] == (
        "| busi | tumor | 60.0 → 85.0 (2) | 10.0 → 30.0 (1) | – | – |"
    )


def test_looks_leave_out_an_adapter_that_does_not_know_the_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        PILImage.new("L", (50, 40), 255).save(tmp_path / name / "0.png")
    samples = samples_from_folder(tmp_path, "tumor", modality="breast ultrasound")
    whole = SimpleNamespace(mask=np.ones((40, 50), bool))
    words = {"a": ("lung",), "b": ("tumor",), "c": ("lung",)}

    def opened(folder: Path, _: bool) -> list[Any]:
        return [
            SimpleNamespace(
                adapter_name=folder.name,
                prompts=words[folder.name],
                segment=lambda *_, **__: whole,
            )
        ]

    monkeypatch.setattr(looks, "open_minded", opened)
    monkeypatch.setattr(looks, "read_config", lambda *_: SimpleNamespace(data=None))
    monkeypatch.setattr(looks, "samples_of", lambda *_: samples)
    out = tmp_path / "looks.md"
    assert looks.main(["x.yaml", "a", "b", "c", "-o", str(out)]) == 0
    (row,) = [line for line in out.read_text(encoding="utf-8").splitlines() if " tumor " in line]
    assert row.split(" | ")[2] == "– → 100.0 → – (1)"


def test_changed_images_are_the_same_at_every_call_and_stay_in_place(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90), dtype=np.uint8)
    for name, shown in (("images", pixels), ("masks", np.where(pixels > 200, 255, 0))):
        (tmp_path / name).mkdir()
        PILImage.fromarray(shown.astype(np.uint8)).save(tmp_path / name / "0.png")
    (sample,) = samples_from_folder(tmp_path, "tumour", modality="breast ultrasound")
    change = Augment(AugmentConfig(gamma_p=1.0).in_place())
    once, again = ([*changed.looks(sample, change, 2)] for _ in range(2))
    assert [look for look, *_ in once] == ["as it is", "changed", "changed"]
    assert np.array_equal(once[0][1][..., 0], pixels)
    assert len({image.tobytes() for _, image, _ in once}) == 3
    for (_, image, masks), (_, other, _) in zip(once, again, strict=True):
        assert np.array_equal(image, other)
        assert np.array_equal(masks["tumour"], pixels > 200)
    known = SimpleNamespace(prompts=("tumor", "lung"))
    absent = replace(sample, targets=(), absent=("lungs", "polyp"))
    assert [c for c, _ in changed.questions(known, sample, once[0][2])] == ["tumor"]
    assert [*changed.questions(known, absent, {})] == [("lung", None)]


def test_the_table_of_changed_images_counts_each_adapters_answers() -> None:
    there = [changed.Answer(0.8, 0.9, True), changed.Answer(0.0, 0.1, False)]
    absent = [changed.Answer(None, 0.5, True), changed.Answer(None, 0.0, False)]
    found = {
        ("busi", "tumor"): {
            "as it is": [[*there, *absent], []],
            "changed": [[there[0]], [there[1]]],
        }
    }
    # Off by 0.1, 0.1, 0.5 and 0 of four; all in bins of their own but the lowest two.
    assert changed.table(found).splitlines()[2:] == [
        "| busi | tumor | as it is | 2 | 40.0 → – | 1 → – | 17.5 → – | 1 → – of 2 |",
        "| busi | tumor | changed | 1 | 80.0 → 0.0 | 0 → 1 | 10.0 → 10.0 | – |",
    ]


def test_an_average_is_called_by_its_parts_names() -> None:
    parts = [Path("weights/generalist"), Path("runs/generalist/best"), Path("runs/x/averaged")]
    assert [averages._name(part) for part in parts] == ["generalist", "generalist", "x"]
