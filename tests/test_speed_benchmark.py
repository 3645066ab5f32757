"""The speed benchmark compares like with like, and keeps its books."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import randomise_lora, tiny_backbone, tiny_config, tiny_text_encoder, tiny_vit_backbone

from textsam.inference.segmenter import Segmenter
from textsam.model.backbones import Backbone
from textsam.model.build import Architecture, BuiltModel, assemble
from textsam.model.tuning import Tuning, merge_for_inference, trainable_parameters, trainable_state

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not in this copy of the project", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import speed_cases  # noqa: E402
import speed_models  # noqa: E402
import speed_report  # noqa: E402
from authors_procedure import (  # noqa: E402
    AuthorsModel,
    RawParts,
    Trained,
    box_and_centre,
    training_loss,
)
from speed_process import code_digest, machine  # noqa: E402

WORD = "tumor"


@dataclass
class Pair:
    """Ours, not merged, and the authors' on the same weights."""

    ours: BuiltModel
    authors: AuthorsModel

    def segmenter(self) -> Segmenter:
        """Ours as a user has it: merged."""
        built = copy.deepcopy(self.ours)
        merge_for_inference(built.model)
        config = tiny_config(prompts=(WORD, "lung"), refine=2, found_threshold=0.0)
        return Segmenter(built, config, device=torch.device("cpu"))


def pair_of(
    make: Callable[[], Backbone], tuning: Tuning, *, per_head: bool, depth: int = 2
) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        backbone, encoder = make(), tiny_text_encoder(layers=3)
        for parameter in encoder.parameters():
            if parameter.ndim == 2:
                parameter.data *= 12
        for mlp in backbone.mask_decoder.output_hypernetworks_mlps:
            for parameter in mlp.layers[-1].parameters():
                parameter.data *= 30
        raw = copy.deepcopy((backbone, encoder))
        architecture = Architecture(context_depth=depth, token_scale=16.0, tuning=tuning)
        built = assemble(backbone, encoder, architecture)
        for parameter in trainable_parameters(built.model).values():
            parameter.data += torch.randn_like(parameter) * 0.02
        randomise_lora(built.model)
    built.model.train()
    built.model.eval()
    parts = RawParts(
        image_encoder=raw[0].image_encoder,
        prompt_encoder=raw[0].prompt_encoder,
        mask_decoder=raw[0].mask_decoder,
        bert=raw[1].bert,
        projection=raw[1].projection,
        tokenizer=raw[1].tokenizer,
        pooling=raw[1].pooling,
        side_px=raw[0].side_px,
        normalise=raw[0].normalise,
        max_tokens=raw[1].max_tokens,
        qkv_per_head=per_head,
    )
    trained = Trained(trainable_state(built.model), scale=16.0)
    return Pair(built, AuthorsModel(parts, trained))


@pytest.fixture(scope="module")
def sam() -> Pair:
    return pair_of(tiny_backbone, Tuning(rank=4), per_head=False)


def image() -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = speed_models.picture(4, (40, 60))[0]
    return pixels


def logits_of(segmenter: Segmenter, refine: int) -> NDArray[np.float64]:
    answer = segmenter.segment(image(), WORD, refine=refine)
    probability = answer.probability.astype(np.float64)
    return np.log(probability / (1 - probability))


def test_the_emulation_answers_as_our_library_does(sam: Pair) -> None:
    ours = logits_of(sam.segmenter(), 2)
    theirs = sam.authors.segment(image(), WORD, 2)
    assert 0.02 < (theirs > 0).mean() < 0.98, "a mask of everything or nothing shows nothing"
    assert theirs.std() > 0.3
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    np.testing.assert_array_equal(ours > 0, theirs > 0)
    # What is compared depends on every part: text, context, refinement.
    assert np.abs(sam.authors.segment(image(), "lung", 2) - theirs).max() > 0.02
    assert np.abs(sam.authors.segment(image(), WORD, 0) - theirs).max() > 0.02


@pytest.mark.parametrize("tuning", [Tuning(rank=2), Tuning(encoder="full", decoder="heads")])
def test_the_emulation_knows_tinyvit(tuning: Tuning) -> None:
    pair = pair_of(tiny_vit_backbone, tuning, per_head=True, depth=3)
    theirs = pair.authors.segment(image(), WORD, 1)
    np.testing.assert_allclose(logits_of(pair.segmenter(), 1), theirs, atol=5e-3)


def test_the_procedure_runs_everything_in_every_pass_and_plain_modules_once(sam: Pair) -> None:
    authors = sam.authors
    runs: list[str] = []
    lengths: list[int] = []
    hooks = [
        authors.image_encoder.register_forward_hook(lambda *_: runs.append("image")),
        authors.mask_decoder.register_forward_hook(lambda *_: runs.append("decoder")),
        authors.bert.encoder.layer[0].register_forward_hook(
            lambda _, arguments, __: lengths.append(tuple(arguments[0].shape))
        ),
    ]
    try:
        repeated = authors.segment(image(), WORD, 2)
        assert runs == ["image", "decoder"] * 3
        assert [shape[:2] for shape in lengths] == [(2, 32)] * 3
        runs.clear()
        lengths.clear()
        once = authors.segment(image(), WORD, 2, once=True)
        assert runs == ["image", *["decoder"] * 3]
        assert len(lengths) == 1
        assert lengths[0][1] < 16
    finally:
        for hook in hooks:
            hook.remove()
    np.testing.assert_allclose(once, repeated, atol=1e-4)


def test_lora_is_not_merged_and_frozen_weights_stay_frozen(sam: Pair) -> None:
    learning = [p for p in sam.authors.parameters() if p.requires_grad]
    ours = trainable_parameters(sam.ours.model)
    assert sum(p.numel() for p in learning) == sum(p.numel() for p in ours.values())
    kinds = [type(module).__name__ for module in sam.authors.modules()]
    assert kinds.count("LoraQkv") == 2
    assert kinds.count("LoraLinear") == 14


def test_gradients_are_those_of_our_model(sam: Pair) -> None:
    pixels, truth = speed_models.picture(4, (40, 60))
    authors, model = copy.deepcopy(sam.authors), copy.deepcopy(sam.ours.model)
    training_loss(authors, pixels, WORD, truth).backward()
    square, frame = sam.ours.preprocessor(pixels)
    logits, _ = model(model.encode_image(square[None]), model.encode_text([WORD]))
    ours = frame.logits_to_image(logits)[0, 0]
    target = torch.from_numpy(truth).float()
    chance = ours.sigmoid()
    overlap, sizes = (chance * target).sum(), chance.square().sum() + target.sum()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(ours, target)
    (loss + 1 - 2 * overlap / sizes).backward()
    own = trainable_parameters(model)
    block = "image_encoder.blocks.0.attn.qkv"
    for theirs, mine in (
        ("context.1", "context.deep.0"),
        ("fc1.weight", "adapter.fc1.weight"),
        (f"{block}.q.0.weight", f"{block}.q.lora_A.weight"),
        (f"{block}.v.1.weight", f"{block}.v.lora_B.weight"),
        ("mask_decoder.mask_tokens.weight", "mask_decoder.mask_tokens.weight"),
    ):
        expected = own[mine].grad
        given = authors.get_parameter(theirs).grad
        assert expected is not None
        assert given is not None
        assert float(expected.abs().max()) > 0, mine
        scale = float(expected.abs().max())
        torch.testing.assert_close(given, expected, atol=2e-3 * scale, rtol=1e-2)


def test_an_empty_mask_is_not_refined_silently() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        box_and_centre(np.zeros((4, 5), dtype=bool))
    box, centre = box_and_centre(np.pad(np.ones((2, 3), dtype=bool), ((1, 1), (2, 0))))
    assert box.tolist() == [2, 1, 4, 2]
    assert centre.tolist() == [3, 1.5]


def test_the_emulation_uses_the_packages_own_attention() -> None:
    """A faster attention put into these classes would be timed as the authors'."""
    from segment_anything.modeling import image_encoder

    assert image_encoder.Attention.forward.__module__ == "segment_anything.modeling.image_encoder"
    source = (BENCHMARKS / "authors_procedure.py").read_text(encoding="utf-8")
    assert "import textsam" not in source
    assert "from textsam" not in source


@pytest.mark.slow
def test_lite_with_its_real_weights_gives_the_same_logits(tmp_path: Path) -> None:
    staged = speed_models.stage("lite", tmp_path)
    pixels, truth = speed_models.picture(1, (200, 256))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = speed_models.load_authors(staged, "cpu").segment(pixels, "cell nucleus", 0)
    ours = speed_models.load_ours(staged, "float32", "cpu").segment(
        pixels, "cell nucleus", refine=0
    )
    figures = speed_cases.agreement(_logits(ours.probability), theirs)
    assert figures["iou"] > 0.999
    assert figures["max_logit_difference"] < 1e-2
    assert ((theirs > 0) & truth).sum() / ((theirs > 0) | truth).sum() > 0.8


def _logits(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.clip(probability.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.log(p / (1 - p))


def test_agreement_counts_pixels_and_logits() -> None:
    ours = np.array([[1.0, 1.0, -1.0, 12.0]])
    theirs = np.array([[1.5, -0.5, -1.0, 20.0]])
    figures = speed_cases.agreement(ours, theirs)
    assert figures["iou"] == pytest.approx(2 / 3)
    assert figures["max_logit_difference"] == pytest.approx(1.5)
    assert figures["mask_share"] == 0.5


def samples() -> dict[str, dict[str, dict[str, Any]]]:
    def of(*seconds: float, **more: Any) -> dict[str, Any]:
        return {"seconds": list(seconds), "peak_mib": [100.0, 90.0], "loaded_mib": [50.0], **more}

    agreement = {"iou": 0.9995, "max_logit_difference": 0.01}
    ours = {"agreement with authors": agreement, "agreement with plain": agreement}
    stages = ("total", "python", "import", "load", "first_mask", "encoder")
    return {
        "a lite": {
            "authors": of(9, 8, 10, 12),
            "plain": of(4.0),
            "ours float32": of(3.0, **ours),
            "ours bfloat16": of(1.0, **ours),
        },
        "a vit_b": {
            "authors": of(60, 62),
            "ours float32": of(20.0, **ours),
            "ours bfloat16": of(13.0, **ours),
        },
        "b lite": {
            "ours bfloat16 refine2 known": of(0.04, first=[1.0]),
            "ours bfloat16 refine0 known": of(0.06, first=[1.0]),
        },
        "c vit_b": {
            "authors": {**of(90.0, loss=[1.2]), "peak_mib": [11000]},
            "ours bfloat16": {**of(40.0, loss=[1.3]), "peak_mib": [5000]},
        },
        "d lite": {"ours auto": of(5.0, stages={stage: [1.0] for stage in stages})},
        "e lite 0100": {
            "ours bfloat16": of(
                0.5, done=[100], failed=[0], memory_mib=[[500.0 + i // 5 for i in range(20)]]
            )
        },
        "g vit_b": {
            "batch 8": of(
                0.1,
                images_per_s=[80.0],
                tflop_per_image=[0.97],
                matmul_tflops=[600.0],
                share_of_matmul=[0.13],
            )
        },
    }


def test_every_row_has_the_promised_fields_and_a_verdict() -> None:
    rows = speed_report.rows_of(samples())
    assert all(set(speed_report.FIELDS) <= set(row) for row in rows)
    of = {(row["case"], row["name"]): row for row in rows}
    lite = of["a", "lite float32"]
    assert (lite["ours_s"], lite["authors_s"], lite["ratio"]) == (3, 9.5, 3.17)
    assert (lite["authors_min_s"], lite["authors_q25_s"], lite["authors_q75_s"]) == (8, 8.75, 10.5)
    assert (lite["peak_mib_ours"], lite["loaded_mib_authors"], lite["authors_n"]) == (100, 50, 4)
    assert of["a", "lite bfloat16 against plain"]["ratio"] == 4
    assert of["a", "lite bfloat16 against plain"]["met"] is True
    assert of["a", "vit_b float32"]["met"] is True
    assert of["a", "vit_b bfloat16"]["met"] is False  # 61 / 13 is less than 5
    marginal = of["b", "lite bfloat16, 2 refinements, known word"]
    assert (marginal["share_of_first"], marginal["met"]) == (0.04, True)
    assert marginal["authors_s"] == 9.5
    assert of["b", "lite bfloat16, 0 refinements, known word"]["met"] is False
    assert of["c", "vit_b bfloat16"]["met"] is True
    assert of["d", "lite auto"]["met"] is True
    assert of["e", "lite bfloat16, 100 images"]["images_per_s"] == 2
    assert of["e", "lite bfloat16, 100 images"]["growth_mib_per_100"] == pytest.approx(4, abs=1)


def test_a_promise_that_could_not_be_measured_is_neither_kept_nor_broken() -> None:
    groups = samples()
    for contender in groups["c vit_b"].values():
        contender["peak_mib"] = [None]
    (row,) = [row for row in speed_report.rows_of(groups) if row["case"] == "c"]
    assert row["peak_mib_ours"] is None
    assert row["met"] is None


def test_growth_is_of_the_second_half() -> None:
    rising_then_flat = [*range(0, 100, 10), *[100.0] * 10]
    assert speed_report.growth(rising_then_flat, 200) == 0
    assert speed_report.growth([float(i) for i in range(20)], 200) == pytest.approx(10)
    assert speed_report.growth([1.0, 2.0], 20) is None


class FakeWorker:
    """Answers at once; masks differ by one pixel from the authors'."""

    asked: list[str]

    def __init__(self, contender: str, options: list[str], folder: Path) -> None:
        self.name, self.folder, self.hello = contender, folder, {"threads": 1}

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def ask(self, *, seed: int, warm: bool = False, **_: Any) -> dict[str, Any]:
        FakeWorker.asked.append(f"{self.name} {'warm' if warm else seed}")
        logits = np.full((4, 4), -1.0)
        logits[:2] = 1
        if self.name == "ours":
            logits[0, 0] = -1
        path = self.folder / f"{len(FakeWorker.asked)}.npy"
        np.save(path, logits)
        return {"seconds": 1.0 if self.name == "ours" else 4.0, "answer": str(path)}


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    FakeWorker.asked = []
    monkeypatch.setattr(
        speed_cases, "Worker", lambda name, options: FakeWorker(name, options, tmp_path)
    )
    monkeypatch.setattr(sys, "argv", ["speed.py", "--cases", "a"])

    def begin(**changes: Any) -> Any:
        arguments = {
            "work": tmp_path,
            "device": "cpu",
            "quick": False,
            "repeats": 3,
            "minutes": 9.0,
            "fresh": False,
            "threads": None,
            "images": [20],
            "out": tmp_path / "speed.json",
        }
        return speed_cases.Benchmark(argparse.Namespace(**{**arguments, **changes}))

    return begin


def test_contenders_take_turns_after_a_warm_up_and_the_worst_agreement_is_kept(
    benchmark: Callable[..., Any], tmp_path: Path
) -> None:
    run = benchmark()
    run.masks("vit_b")
    run.save()
    assert FakeWorker.asked == [
        *["authors warm", "ours warm", "ours warm"],
        *["authors 1", "ours 1", "ours 1"],
        *["ours 2", "ours 2", "authors 2"],
        *["authors 3", "ours 3", "ours 3"],
    ]
    record = json.loads((tmp_path / "speed.samples.json").read_text(encoding="utf-8"))
    rows = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert len(list(tmp_path.glob("*.npy"))) == 3, "only the warm-ups' answers may be left"
    assert {"processor", "cores", "torch", "threads", "date", "seeds", "commands"} <= set(
        record["header"]
    )
    assert record["header"]["commands"] == ["python benchmarks/speed.py --cases a"]
    (row,) = [row for row in rows if row["name"] == "vit_b float32"]
    assert (row["ours_n"], row["ratio"], row["agreement"]["iou"]) == (3, 4, 7 / 8)
    assert row["met"] is False  # fast enough, and the masks do not agree
    table = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| a | vit_b float32 |" in table
    assert "**no**" in table


def test_a_run_cut_off_goes_on_where_it_stopped(benchmark: Callable[..., Any]) -> None:
    run = benchmark(minutes=0.0)
    run.masks("vit_b")
    assert run.unfinished == ["a vit_b"]
    assert not FakeWorker.asked
    benchmark(repeats=2).masks("vit_b")
    FakeWorker.asked.clear()
    run = benchmark(repeats=3)
    run.masks("vit_b")
    assert [item for item in FakeWorker.asked if "warm" not in item] == [
        *["authors 3", "ours 3", "ours 3"]
    ]
    FakeWorker.asked.clear()
    benchmark(repeats=3).masks("vit_b")
    assert not FakeWorker.asked


def test_the_encoder_s_share_of_a_gpu_waits_for_time_too(
    benchmark: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "a card")
    run = benchmark(minutes=0.0, device="cuda")
    run.gpu("lite")  # with time it would start a process on the GPU
    assert run.unfinished == ["g lite"]


def test_a_table_of_a_gpu_names_it_and_takes_no_other_s_samples(
    benchmark: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "a card")
    run = benchmark(device="cuda")
    run.save()
    assert "- gpu: a card" in (tmp_path / "speed.md").read_text(encoding="utf-8")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "another card")
    with pytest.raises(SystemExit, match="another gpu"):
        benchmark(device="cuda")


def test_samples_of_other_code_are_dropped_and_of_another_machine_refused(
    benchmark: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark(repeats=2).masks("vit_b")
    with monkeypatch.context() as patched:
        patched.setattr(speed_cases, "code_digest", lambda: "other")
        run = benchmark(repeats=2)
        run.masks("vit_b")
        assert len(run.record["samples"]["a vit_b"]["authors"]["seconds"]) == 2
        assert len([item for item in FakeWorker.asked if item == "authors 1"]) == 2
    path = tmp_path / "speed.samples.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["header"]["cores"] = 4096
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(SystemExit, match="another cores"):
        benchmark()
    assert benchmark(fresh=True).record["samples"] == {}


def test_the_machine_and_the_code_have_names() -> None:
    assert {"processor", "cores", "torch", "python"} <= set(machine())
    assert len(code_digest()) == 16


def test_pictures_are_made_by_number() -> None:
    first, truth = speed_models.picture(1)
    assert first.shape == (457, 711, 3)
    assert first.dtype == np.uint8
    assert 0.1 < truth.mean() < 0.5
    assert first[truth].mean() > first[~truth].mean() + 50
    np.testing.assert_array_equal(first, speed_models.picture(1)[0])
    assert (first != speed_models.picture(2)[0]).any()
