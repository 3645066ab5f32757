"""ONNX export: the same answers without PyTorch, and files that are refused when damaged."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import skimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image as PILImage
from tiny import loud_model, tiny_config, tiny_segmenter
from typer.testing import CliRunner

import textsam
from textsam import api
from textsam.cli import app
from textsam.errors import AdapterError, ConfigError, PromptError, TextSAMError, WeightsError
from textsam.export import OnnxSegmenter, export_onnx, write
from textsam.export.frame import SquareFrame, model_input, sigmoid
from textsam.export.plain import plain_blocks
from textsam.export.record import ExportRecord, Normalisation, Parity, read_record, write_record
from textsam.export.session import open_session
from textsam.inference.cut import Cut
from textsam.inference.kinds import ImageKinds, Spread
from textsam.inference.segmenter import CorrectedPromptWarning, Segmenter, UnknownPromptWarning
from textsam.io.image import Image
from textsam.metrics import iou
from textsam.model import chunked_mlp, relpos_attention
from textsam.model.tuning import merge_for_inference
from textsam.preprocess import Frame, MinMaxPixels, Preprocessor, StandardPixels
from textsam.result import Segmentation
from textsam.weights.checksum import sha256_of

FILES = {"encoder.onnx", "decoder.onnx", "tokens.safetensors", "export.json"}
WORDS = ("tumors", "lung", "nuclei", "the dog")


def standard_segmenter(**changes: Any) -> Segmenter:
    """A tiny ViT with SAM's own normalisation, as `vit_b` has."""
    built = loud_model()
    merge_for_inference(built.model)
    built.preprocessor = Preprocessor(built.backbone.side_px, StandardPixels())
    config = tiny_config(preset="vit_b", terms="CC0", **changes)
    return Segmenter(built, config, device=torch.device("cpu"), fingerprint="ab" * 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("export") / "new" / "tiny"
    return export_onnx(standard_segmenter(), target, prompts=["a dog", "Tumours", "dog"])


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def traced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For exports of the model of `folder`: its graphs, as to trace them again takes long."""

    def copied(target: Path, *_: object) -> Parity:
        for name in ("encoder.onnx", "decoder.onnx"):
            shutil.copy2(folder / name, target)
        return read_record(folder).parity

    monkeypatch.setattr(write, "_write_graphs", copied)


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth blobs: masks with an edge, not noise."""
    rng = np.random.default_rng(seed)
    coarse = PILImage.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), PILImage.Resampling.BICUBIC))


def assert_alike(found: Segmentation, wanted: Segmentation, *, atol: float = 1e-4) -> None:
    assert found.mask.any() == wanted.mask.any()
    if wanted.mask.any():
        assert iou(found.mask, wanted.mask) >= 0.999
    np.testing.assert_allclose(found.probability, wanted.probability, rtol=0, atol=atol)
    assert found.score == pytest.approx(wanted.score, abs=atol)
    for name in ("found", "prompt", "adapter", "model"):
        assert getattr(found, name) == getattr(wanted, name), name
    # A pixel at the threshold may fall on either side, in a mask that is not shown too.
    areas = [one.extra.get("rejected_area_px", 0) for one in (found, wanted)]
    assert areas[0] == pytest.approx(areas[1], rel=1e-3, abs=1)
    rest = [{**one.extra, "rejected_area_px": 0} for one in (found, wanted)]
    assert rest[0] == rest[1]
    assert found.image.sha256() == wanted.image.sha256()


IMAGES = {
    "square": picture(64, 64),
    "wide": picture(50, 90, 1),
    "tall": picture(131, 70, 2),
    "thin": picture(8, 200, 3),
    "float": picture(40, 60, 4)[..., 0].astype(np.float32) * 7 - 300,
    "region": Image(picture(80, 100, 5), "array", region_px=(10, 20, 79, 69)),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.filterwarnings("ignore::textsam.inference.segmenter.UnknownPromptWarning")
def test_the_same_answers_as_pytorch(folder: Path, name: str) -> None:
    exported, original = OnnxSegmenter(folder, threads=1), standard_segmenter()
    areas = set()
    for refine in (None, 0, 2):
        wanted = original.segment(IMAGES[name], WORDS, refine=refine)
        for found, want in zip(
            exported.segment(IMAGES[name], WORDS, refine=refine), wanted, strict=True
        ):
            assert_alike(found, want)
            areas.add(want.area_px)
    # The comparison is of masks that words and refinement change.
    assert len(areas) > 3


def test_a_misspelt_prompt_is_corrected_with_a_warning(folder: Path) -> None:
    exported = OnnxSegmenter(folder, threads=1)
    with pytest.warns(CorrectedPromptWarning, match="'tumro'; it is answered as 'tumor'") as seen:
        answer = exported.segment(IMAGES["wide"], "tumro")
    assert [warning.filename for warning in seen] == [__file__]
    with pytest.warns(CorrectedPromptWarning):
        assert_alike(answer, standard_segmenter().segment(IMAGES["wide"], "tumro"))


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "iou_head"},
        {"mask_threshold": 0.7},
        {"cut": Cut(sharpness=0.001)},
        {"authors_frame": True, "refine": 2},
        {"refine": 0, "refine_for": {"lung": 2}},
        {"found_threshold": 1.0},
        {"score_map": ((0.0, 0.0), (0.6, 0.1), (1.0, 0.9))},
        {"score_map_for": {"lung": ((0.0, 0.0), (0.6, 0.1), (1.0, 0.9))}},
        {"score": "iou_head", "score_map": ((0.0, 0.3), (1.0, 0.9)), "found_threshold": 0.6},
    ],
    ids=str,
)
def test_the_adapters_settings_count(folder: Path, changes: dict[str, Any]) -> None:
    exported, original = OnnxSegmenter(folder, threads=1), standard_segmenter(**changes)
    plain = standard_segmenter().segment(IMAGES["wide"], ["tumor", "lung"])
    exported.record = exported.record.model_copy(update=changes)
    wanted = original.segment(IMAGES["wide"], ["tumor", "lung"])
    for found, want in zip(
        exported.segment(IMAGES["wide"], ["tumor", "lung"]), wanted, strict=True
    ):
        assert_alike(found, want)
    # Each setting changes an answer, else nothing was compared.
    assert [(a.score, a.area_px) for a in wanted] != [(a.score, a.area_px) for a in plain]


def test_the_record_says_what_was_exported(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    record = read_record(folder)
    assert (record.preset, record.adapter, record.fingerprint) == ("vit_b", "tiny", "ab" * 32)
    assert (record.prompts, record.words) == (("tumor", "lung", "cell nucleus"), ("dog",))
    assert (record.side_px, record.opset, record.refine, record.terms) == (64, 18, 1, "CC0")
    assert record.normalise.kind == "standard"
    assert record.normalise.mean == pytest.approx((123.675, 116.28, 103.53))
    assert record.versions["textsam"] == textsam.__version__
    assert set(record.versions) == {"textsam", "torch", "onnx", "onnxscript", "onnxruntime"}
    assert 0 < record.parity.logits < 1e-4
    assert dict(record.files) == {
        name: sha256_of(folder / name) for name in FILES - {"export.json"}
    }


def test_the_graphs_are_plain_onnx_of_the_promised_shapes(folder: Path) -> None:
    shapes = {}
    for name in ("encoder.onnx", "decoder.onnx"):
        model = onnx.load(folder / name)
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        for value in (*model.graph.input, *model.graph.output):
            kind = value.type.tensor_type
            dims = [dim.dim_value or dim.dim_param for dim in kind.shape.dim]
            shapes[f"{name}:{value.name}"] = dims
            wanted = onnx.TensorProto.INT64 if value.name == "labels" else onnx.TensorProto.FLOAT
            assert kind.elem_type == wanted
        # No stack traces, which would hold paths of the machine that exported.
        assert b".py" not in (folder / name).read_bytes()
    assert shapes == {
        "encoder.onnx:image": [1, 3, 64, 64],
        "encoder.onnx:embedding": [1, 256, 8, 8],
        "decoder.onnx:embedding": [1, 256, 8, 8],
        "decoder.onnx:text_tokens": ["prompts", 256],
        "decoder.onnx:points": ["prompts", "points", 2],
        "decoder.onnx:labels": ["prompts", "points"],
        "decoder.onnx:logits": ["prompts", 1, 32, 32],
        "decoder.onnx:iou": ["prompts", 1],
    }


@pytest.mark.parametrize("box", [False, True], ids=["no box", "box"])
@pytest.mark.parametrize("points", [0, 1, 3])
@pytest.mark.parametrize("prompts", [1, 4])
def test_the_decoder_takes_every_kind_of_geometry(
    folder: Path, prompts: int, points: int, box: bool
) -> None:
    model = standard_segmenter().built.model
    generator = torch.Generator().manual_seed(points)
    embedding = torch.randn((1, 256, 8, 8), generator=generator)
    tokens = torch.randn((prompts, 256), generator=generator) * 4
    coordinates = torch.rand((prompts, points, 2), generator=generator) * 64
    kinds = torch.randint(0, 2, (prompts, points), generator=generator)
    corners = torch.rand((prompts, 4), generator=generator) * 64
    with torch.inference_mode():
        sparse, dense = model.prompt_tokens(
            tokens, (coordinates, kinds) if points else None, corners if box else None
        )
        logits, predicted = model.decode(embedding, sparse, dense)
    # Labels 2 and 3 are a box's corners; points without a box are followed by padding, -1.
    if box:
        coordinates = torch.cat([coordinates, corners.reshape(-1, 2, 2)], 1)
        kinds = torch.cat([kinds, torch.tensor([[2, 3]] * prompts)], 1)
    elif points:
        coordinates = torch.cat([coordinates, torch.zeros(prompts, 1, 2)], 1)
        kinds = torch.cat([kinds, torch.tensor([[-1]] * prompts)], 1)
    found = open_session(folder / "decoder.onnx", threads=1).run(
        ["logits", "iou"],
        {
            "embedding": embedding.numpy(),
            "text_tokens": tokens.numpy(),
            "points": coordinates.numpy(),
            "labels": kinds.numpy(),
        },
    )
    assert logits.abs().max() > 1
    np.testing.assert_allclose(found[0], logits.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found[1], predicted.numpy(), rtol=0, atol=1e-5)


def listed_packages() -> set[str]:
    """Top-level modules of the packages docs/export.md installs, and of what these depend on."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    block = text.partition("needs only these packages")[2].split("```")[1].strip().splitlines()
    assert block[0] == "pip install --no-deps ."
    wanted, found = block[1].removeprefix("pip install ").split(), set[str]()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name not in found:
            found.add(name)
            needs = map(Requirement, requires(name) or ())
            wanted += [one.name for one in needs if not one.marker or one.marker.evaluate()]
    assert "torch" not in found
    modules = packages_distributions().items()
    return {module for module, of in modules if found & {canonicalize_name(name) for name in of}}


def test_answers_need_the_listed_packages_alone(folder: Path, tmp_path: Path) -> None:
    PILImage.fromarray(picture(50, 90, 1)).save(tmp_path / "a.png")
    barred = set(packages_distributions()) - listed_packages() - {"textsam"}
    assert {"torch", "skimage", "yaml"} <= barred
    code = (
        "import json, sys\n"
        "barred = set(json.loads(sys.stdin.read()))\n"
        "class Bar:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name.partition('.')[0] in barred:\n"
        "            raise ModuleNotFoundError(f'barred: {name}', name=name)\n"
        "sys.meta_path.insert(0, Bar)\n"
        "for name in barred & set(sys.modules):\n"
        "    del sys.modules[name]\n"
        "from textsam.export import OnnxSegmenter\n"
        "answer = OnnxSegmenter(sys.argv[1], threads=1).segment(sys.argv[2], 'tumour')\n"
        "answer.save(sys.argv[3])\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "a.png", tmp_path / "mask.png"],
        check=True,
        cwd=Path(textsam.__file__).parent.parent,
        input=json.dumps(sorted(barred)),
        text=True,
    )
    wanted = standard_segmenter().segment(tmp_path / "a.png", "tumor")
    with PILImage.open(tmp_path / "mask.png") as file:
        assert iou(np.asarray(file) > 0, wanted.mask) >= 0.999


def test_one_word_gives_one_answer_and_the_image_is_encoded_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = OnnxSegmenter(folder, threads=1)
    calls: list[int] = []
    (side_px, encoder), *_ = exported._encoders.items()

    class Counting:
        def run(self, *arguments: Any) -> Any:
            calls.append(1)
            return encoder.run(*arguments)

    monkeypatch.setitem(exported._encoders, side_px, Counting())
    one = exported.segment(IMAGES["wide"], "Lungs")
    assert isinstance(one, Segmentation)
    assert (one.prompt, one.extra["concept"]) == ("Lungs", "lung")
    both = exported.segment(IMAGES["wide"], ["lung", "tumor"])
    assert np.array_equal(both[0].mask, one.mask)
    assert len(calls) == 1
    whole = dataclasses.replace(IMAGES["region"], region_px=None)  # type: ignore[type-var]
    exported.segment(IMAGES["region"], "lung")
    exported.segment(whole, "lung")
    assert len(calls) == 3


def test_prompts_that_cannot_be_answered(folder: Path) -> None:
    exported = OnnxSegmenter(folder)
    assert exported.prompts == ("tumor", "lung", "cell nucleus")
    with pytest.raises(PromptError, match="'left lung' is not in this export; did you mean lung"):
        exported.segment(IMAGES["wide"], "left lung")
    with pytest.raises(PromptError, match=r"export; it knows: .* again with --prompt 'zebra'"):
        exported.segment(IMAGES["wide"], "zebra")
    with pytest.raises(PromptError, match="list of prompts is empty"):
        exported.segment(IMAGES["wide"], [])
    for refine in (-1, 1.5, "1"):
        with pytest.raises(PromptError, match=f"refine is {refine!r}; give 0 or more passes"):
            exported.segment(IMAGES["wide"], "lung", refine=refine)  # type: ignore[call-overload]
    # A set has no order for the answers to follow.
    for prompt in (None, b"lung", {"lung"}):
        with pytest.raises(PromptError, match="give a word or a list of words"):
            exported.segment(IMAGES["wide"], prompt)


def rewrite(folder: Path, **changes: Any) -> None:
    write_record(folder, read_record(folder).model_copy(update=changes))


def forge(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and its checksum."""
    (folder / name).write_bytes(content)
    rewrite(folder, files={**read_record(folder).files, name: sha256_of(folder / name)})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "no record": (lambda f: (f / "export.json").unlink(), AdapterError, "cannot be read"),
    "record cut": (lambda f: cut(f / "export.json"), AdapterError, "not an export's record"),
    "record binary": (
        lambda f: (f / "export.json").write_bytes(b"\xff\xfe\x00"),
        AdapterError,
        "not text",
    ),
    "record of the future": (
        lambda f: (f / "export.json").write_text(
            json.dumps({**json.loads((f / "export.json").read_text()), "format": 2})
        ),
        AdapterError,
        "format: ",
    ),
    "no encoder": (lambda f: (f / "encoder.onnx").unlink(), WeightsError, "missing"),
    "decoder cut": (lambda f: cut(f / "decoder.onnx"), WeightsError, "cut short or changed"),
    "encoder changed": (
        lambda f: change_a_byte(f / "encoder.onnx"),
        WeightsError,
        "cut short or changed",
    ),
    "tokens changed": (
        lambda f: change_a_byte(f / "tokens.safetensors"),
        WeightsError,
        "cut short or changed",
    ),
    "no checksum": (
        lambda f: rewrite(f, files={"encoder.onnx": sha256_of(f / "encoder.onnx")}),
        WeightsError,
        "names no checksum of decoder.onnx",
    ),
    "not a graph": (
        lambda f: forge(f, "decoder.onnx", b"no graph"),
        WeightsError,
        "decoder.onnx is not an ONNX graph",
    ),
    "side of another": (
        lambda f: rewrite(f, side_px=read_record(f).side_px + 32),
        WeightsError,
        r"encoder\.onnx takes squares of \d+ px, export\.json beside it says \d+",
    ),
    "not tokens": (
        lambda f: forge(f, "tokens.safetensors", b"no tokens"),
        WeightsError,
        "not a whole safetensors file",
    ),
    "tokens of others": (
        lambda f: forge(
            f,
            "tokens.safetensors",
            safetensors.numpy.save({"tokens": np.zeros((3, 256), np.float32)}),
        ),
        WeightsError,
        r"float32 \(3, 256\) where 3 concepts and 1 words",
    ),
    "no table": (
        lambda f: forge(f, "tokens.safetensors", safetensors.numpy.save({"x": np.zeros(3)})),
        WeightsError,
        "holds no table",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_exports_are_refused(copy: Path, name: str) -> None:
    damage, error, message = DAMAGE[name]
    damage(copy)
    with pytest.raises(error, match=message) as caught:
        OnnxSegmenter(copy)
    assert "again" in str(caught.value)


def test_runtime_settings_are_checked(folder: Path) -> None:
    for threads in (0, 1.5, "2"):
        with pytest.raises(ConfigError, match=f"threads is {threads!r}; give 1 or more"):
            OnnxSegmenter(folder, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="providers is 'CPUExecutionProvider'; give a list"):
        OnnxSegmenter(folder, providers="CPUExecutionProvider")
    with pytest.raises(ConfigError, match=r"no 'MoonExecutionProvider'; it has .*CPU"):
        OnnxSegmenter(folder, providers=["MoonExecutionProvider"])


def test_running_without_onnxruntime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TextSAMError, match=r'pip install "textsam\[export\]"'):
        OnnxSegmenter(folder)


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_exporting_without_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TextSAMError, match=rf'{library}.*pip install "textsam\[export\]"'):
        export_onnx(standard_segmenter(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"opset": 17}, "opset is 17; give 18 to 23"), ({"opset": 24}, "opset is 24"),
     ({"opset": "18"}, "opset is '18'"), ({"refine": -1}, "refine is -1"),
     ({"refine": 1.5}, "refine is 1.5; give 0 or more"), ({"refine": "1"}, "refine is '1'")],
)  # fmt: skip
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_onnx(standard_segmenter(), tmp_path / "out", **options)


def test_models_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='bfloat16; load it with device="cpu"'):
        export_onnx(tiny_segmenter(precision=torch.bfloat16), tmp_path / "out")
    strange = standard_segmenter()
    strange.built.preprocessor = Preprocessor(64, lambda pixels: pixels)
    with pytest.raises(ConfigError, match="has no name in an export"):
        export_onnx(strange, tmp_path / "out")
    with pytest.raises(PromptError, match="is empty"):
        export_onnx(standard_segmenter(), tmp_path / "out", prompts=["!"])
    for rules in ({"refine": 1}, {"refine": 0, "refine_for": {"lung": 2}}):
        by_box = standard_segmenter(refine_with="box", **rules)
        with pytest.raises(ConfigError, match=r"refines with 'box', an export with 'box.centroid'"):
            export_onnx(by_box, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_an_adapter_that_refines_otherwise_does_not_refine_in_its_export(tmp_path: Path) -> None:
    original = standard_segmenter(refine=0, refine_with="point")
    exported = OnnxSegmenter(export_onnx(original, tmp_path / "out"), threads=1)
    image = IMAGES["wide"]
    for refine in (None, 0):
        found = exported.segment(image, "lung", refine=refine)
        assert_alike(found, original.segment(image, "lung", refine=refine))
    with pytest.raises(PromptError, match=r"refine is 2, and the adapter refines with 'point'"):
        exported.segment(image, "lung", refine=2)


@pytest.mark.usefixtures("traced")
def test_kinds_of_image_rule_out_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(2, 256))
    kinds = ImageKinds(
        names=("dermoscopy", "X-ray"),
        weights=tuple(tuple(map(float, row)) for row in weights),
        biases=(0.0, 0.0),
        threshold=0.4,
        spread=Spread(centres=((0.0, 0.0),) * 2, precision=((1.0, 0.0), (0.0, 1.0)), reach=1500.0),
    )
    segmenter = tiny_segmenter(kinds=kinds)
    exported = OnnxSegmenter(export_onnx(segmenter, tmp_path / "export"), threads=1)
    seen = set()
    for seed in range(6):
        image = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        image = np.where(rng.random(3) < 0.5, image, 255 - image // (seed + 1)).astype(np.uint8)
        ours, theirs = segmenter.segment(image, "lung"), exported.segment(image, "lung")
        assert theirs.extra.get("not_in") == ours.extra.get("not_in")
        assert theirs.extra.get("unfamiliar") == ours.extra.get("unfamiliar")
        assert theirs.found == ours.found
        seen.add("unfamiliar" if "unfamiliar" in ours.extra else ours.extra.get("not_in"))
    assert {"dermoscopy", "unfamiliar"} <= seen


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept", encoding="utf-8")
    for target in (tmp_path / "out", tmp_path / "out" / "mine"):
        with pytest.raises(ConfigError, match="is not an empty folder"):
            export_onnx(standard_segmenter(), target)
    assert (tmp_path / "out" / "mine").read_text(encoding="utf-8") == "kept"


def test_the_current_folder_is_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target in (".", tmp_path, tmp_path / "new" / ".."):
        with pytest.raises(ConfigError, match="is the current folder; give a folder to make in it"):
            export_onnx(standard_segmenter(), target)
    assert list(tmp_path.iterdir()) == []


def test_names_that_onnx_cannot_be_given_are_said(folder: Path, tmp_path: Path) -> None:
    named = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ConfigError, match="name that is no UTF-8"):
        export_onnx(standard_segmenter(), named)
    assert list(tmp_path.iterdir()) == []
    try:
        shutil.copytree(folder, named)
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    with pytest.raises(ConfigError, match=r"caf\\udce9.* has a name that is no UTF-8"):
        OnnxSegmenter(named)


def test_a_link_to_an_empty_folder_stays_and_leads_to_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk", target_is_directory=True)
    with write._folder_in_one_piece(tmp_path / "link") as temporary:
        (temporary / "file").write_text("whole", encoding="utf-8")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "file").read_text(encoding="utf-8") == "whole"


def test_what_is_stored_of_further_words() -> None:
    known = ("tumor", "lung")
    # Of these a segmenter answers two as the tumor.
    assert write._further_words(["A dog", "tumro", "tumours", "dog"], known) == ("dog",)


def test_one_further_prompt_is_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def stop(prompts: Any, _concepts: Any) -> None:
        asked.append(list(prompts))
        raise TextSAMError("enough")

    monkeypatch.setattr(write, "_further_words", stop)
    with pytest.raises(TextSAMError, match="enough"):
        export_onnx(standard_segmenter(), tmp_path / "out", prompts="dog")
    assert asked == [["dog"]]


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def fail(folder: Path, *_: object) -> None:
        seen.append({path.name for path in folder.iterdir()})
        raise OSError("no space left")

    monkeypatch.setattr(write, "_write_graphs", fail)
    with pytest.raises(TextSAMError, match=r"out: the folder cannot be written \(no space left\)"):
        export_onnx(standard_segmenter(), tmp_path / "out")
    assert seen == [{"tokens.safetensors"}]
    assert list(tmp_path.iterdir()) == []


def test_graphs_that_differ_from_pytorch_are_refused() -> None:
    wanted = torch.tensor([0.0, 10.0])
    near = np.array([0.0, 10.009], np.float32)
    assert write._difference("logits", near, wanted) == pytest.approx(0.009, abs=1e-5)
    for wrong in (np.array([0.0, 10.011], np.float32), np.array([np.nan, 10.0], np.float32)):
        with pytest.raises(TextSAMError, match=r"differs from PyTorch by .* in logits: nothing"):
            write._difference("logits", wrong, wanted)


def test_command_with_weights_in_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models over 2 GB, which protocol buffers cannot hold, and a newer operator set."""
    asked: list[Any] = []

    def load_model(*arguments: Any, **named: Any) -> Segmenter:
        asked.append((arguments, named))
        return tiny_segmenter(refine_for={"lung": 0})

    monkeypatch.setattr(api, "load_model", load_model)
    monkeypatch.setattr(write, "_INLINE_BYTES", 0)
    out = tmp_path / "out"
    out.mkdir()
    done = CliRunner().invoke(
        app,
        ["export", "--format", "onnx", "-o", str(out), "--model", "vit_h", "--adapter", "mine",
         "--prompt", "dog", "--prompt", "red car", "--opset", "20", "--refine", "2"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"{out}: onnx, " in done.stdout
    assert asked[0][0] == ("vit_h", "mine", "cpu", "float32")
    assert {path.name for path in out.iterdir()} == FILES | {
        "encoder.onnx.data",
        "decoder.onnx.data",
    }
    record = read_record(out)
    assert (record.opset, record.refine, record.refine_for) == (20, 2, {})
    assert (record.words, record.normalise.kind) == (("dog", "red car"), "min_max")
    assert onnx.load(out / "decoder.onnx").opset_import[0].version == 20
    exported, original = OnnxSegmenter(out, threads=1), tiny_segmenter(refine=2)
    with pytest.warns(UnknownPromptWarning):
        wanted = original.segment(IMAGES["tall"], ["tumor", "lung", "red car"])
    for found, want in zip(
        exported.segment(IMAGES["tall"], ["tumor", "lung", "red car"]), wanted, strict=True
    ):
        assert_alike(found, want)
    change_a_byte(out / "encoder.onnx.data")
    with pytest.raises(WeightsError, match=r"encoder\.onnx\.data has sha256"):
        OnnxSegmenter(out)


def test_blocks_are_plain_for_the_graph_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relpos_attention, "_CHUNK_SCORES", 64)
    monkeypatch.setattr(relpos_attention, "_CHUNK_TOKENS", 16)
    monkeypatch.setattr(chunked_mlp, "_CHUNK_TOKENS", 16)
    encoder = standard_segmenter().built.model.image_encoder
    modules = dict(encoder.named_modules())
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 4 - 2
    ours = (relpos_attention.RelativePositionAttention, chunked_mlp.ChunkedMlp)
    assert sum(isinstance(module, ours) for module in modules.values()) == 4

    with torch.inference_mode():
        wanted = encoder(images)
        with plain_blocks(encoder):
            assert not any(isinstance(module, ours) for module in encoder.modules())
            np.testing.assert_allclose(encoder(images), wanted, rtol=0, atol=1e-5)
            graph = torch.export.export(encoder, (images[:1],)).graph
    assert dict(encoder.named_modules()) == modules
    assert wanted.abs().max() > 1
    # A graph has no loops: in chunks this small it would have thousands of nodes.
    assert len(graph.nodes) < 400


def test_blocks_come_back_after_an_error() -> None:
    encoder = standard_segmenter().built.model.image_encoder
    modules = dict(encoder.named_modules())

    def fail() -> None:
        with plain_blocks(encoder):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert dict(encoder.named_modules()) == modules


def test_a_model_rearranged_for_speed_is_refused(tmp_path: Path) -> None:
    segmenter = tiny_segmenter()
    segmenter.built.model.fast_decoder = torch.nn.Identity()
    with pytest.raises(ConfigError, match="plain=True"):
        export_onnx(segmenter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "load_model", lambda *_, **__: tiny_segmenter())
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    done = CliRunner().invoke(app, ["export", "-o", str(taken)])
    assert done.exit_code == 1
    assert "not an empty folder" in done.stderr
    for wrong in (["--format", "tflite"], ["--opset", "17"], ["--refine", "-1"]):
        assert CliRunner().invoke(app, ["export", "-o", str(tmp_path / "o"), *wrong]).exit_code == 2
    assert CliRunner().invoke(app, ["export"]).exit_code == 2


sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))


@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from([32, 64, 100]), st.integers(0, 9))
def test_logits_reach_the_image_as_in_pytorch(
    size_px: tuple[int, int], side_px: int, seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, 10, (32, 32)).astype(np.float32)
    found = SquareFrame(size_px, side_px).logits_to_image(logits)
    wanted = Frame(size_px, side_px).logits_to_image(torch.from_numpy(logits)[None, None])[0, 0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(
    sizes,
    st.sampled_from(["standard", "min_max"]),
    st.sampled_from([np.uint8, np.float32]),
    st.integers(0, 9),
)
def test_pixels_reach_the_model_as_in_pytorch(
    size_px: tuple[int, int], kind: str, dtype: type, seed: int
) -> None:
    pixels = np.random.default_rng(seed).uniform(0, 255, (*size_px, 3)).astype(dtype)
    standard = StandardPixels()
    rule = Normalisation(
        kind=kind,  # type: ignore[arg-type]
        mean=tuple(standard.mean.flatten().tolist()),
        std=tuple(standard.std.flatten().tolist()),
    )
    found, frame = model_input(pixels, 64, rule)
    own = standard if kind == "standard" else MinMaxPixels()
    wanted, _ = Preprocessor(64, own)(pixels)
    assert frame == SquareFrame(size_px, 64)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], wanted.numpy())


def test_a_constant_image_is_normalised_to_zero() -> None:
    pixels = np.full((20, 30, 3), 7, np.uint8)
    found, _ = model_input(pixels, 64, Normalisation(kind="min_max"))
    assert not found.any()


def test_sigmoid_of_any_logit() -> None:
    logits = np.array([-1e30, -200, -3, 0, 1e-3, 3, 200, 1e30], np.float32)
    found = sigmoid(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.from_numpy(logits).sigmoid().numpy(), atol=1e-7)


def test_a_record_survives_its_file(tmp_path: Path, folder: Path) -> None:
    record = read_record(folder).model_copy(update={"words": ("Läsion", "肿瘤")})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert isinstance(record, ExportRecord)


def phantom() -> NDArray[np.uint8]:
    """A drawn section: bright oval, darker parts, a lump."""
    y, x = np.mgrid[:300, :380]
    body = ((x - 190) / 160) ** 2 + ((y - 150) / 120) ** 2 < 1
    lump = (x - 240) ** 2 + (y - 130) ** 2 < 28**2
    holes = (abs(x - 190) > 60) & (((abs(x - 190) - 85) / 40) ** 2 + ((y - 160) / 70) ** 2 < 1)
    noise = np.random.default_rng(3).normal(0, 6, y.shape)
    return np.clip(30 + 110 * body - 90 * holes + 80 * lump + noise, 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_the_shipped_adapter_answers_alike(tmp_path: Path) -> None:
    original = textsam.load_model("lite", device="cpu", precision="float32", plain=True)
    exported = OnnxSegmenter(export_onnx(original, tmp_path / "lite"), threads=1)
    bundled = Path(skimage.data.__file__).parent
    images: dict[str, Any] = {"phantom": phantom()}
    for name in ("ihc.png", "coins.png", "camera.png", "retina.jpg"):
        images[name] = bundled / name
    found_areas = 0
    for name, image in images.items():
        for refine in (None, 1):
            wanted = original.segment(image, original.prompts, refine=refine)
            answers = exported.segment(image, exported.prompts, refine=refine)
            for found, want in zip(answers, wanted, strict=True):
                assert_alike(found, want, atol=2e-3)
                found_areas += want.area_px
        prepared = original.prepare(image)
        with torch.inference_mode():
            embedding = original.built.model.encode_image(prepared.pixels[None])
            tokens = torch.stack(
                [original._sides.encodings.token(text) for text in original.prompts]
            )
            logits, predicted = original.built.model(embedding, tokens)
        got = exported._encoders[exported.record.side_px].run(
            None, {"image": prepared.pixels[None].numpy()}
        )[0]
        np.testing.assert_allclose(got, embedding.numpy(), rtol=0, atol=1e-4, err_msg=name)
        n = len(original.prompts)
        empty = {"points": np.zeros((n, 0, 2), np.float32), "labels": np.zeros((n, 0), np.int64)}
        answer = exported._decoders[exported.record.side_px].run(
            None, {"embedding": got, "text_tokens": exported._tokens, **empty}
        )
        np.testing.assert_allclose(answer[0], logits.numpy(), rtol=0, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(answer[1], predicted.numpy(), rtol=0, atol=1e-4, err_msg=name)
    assert found_areas > 10_000
    assert exported.record.parity.logits < 1e-3
    assert onnxruntime.get_available_providers()
