"""A run goes on with the base weights, the frame and the data it began with, or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import begin, learned, run_config, same, train, write_data
from tiny import tiny_model

from textsam.adapters import read_adapter_config
from textsam.data.sample import CocoTarget, Sample, Target
from textsam.errors import ConfigError
from textsam.train.ingredients import differences, ingredients
from textsam.train.run import Run, architecture_from, fit
from textsam.train.setup import setup


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """Base weights of one's own; the model that the tests train does not read them."""
    (tmp_path / "sam.pth").write_bytes(b"image encoder")
    (tmp_path / "text").mkdir()
    (tmp_path / "text/model.safetensors").write_bytes(b"text encoder")
    return {"sam_checkpoint": tmp_path / "sam.pth", "text_encoder": tmp_path / "text"}


def begin_with(root: Path, **options: Any) -> Run:
    config = run_config(root)
    return setup(config, tiny_model(architecture_from(config)), **options)


@pytest.mark.parametrize(
    ("begun", "resumed", "words"),
    [
        ("", "sam_checkpoint", "other base weights of the image encoder.*--sam-checkpoint"),
        ("sam_checkpoint", "", "other base weights of the image encoder.*--sam-checkpoint"),
        ("", "text_encoder", "another text encoder.*--text-encoder"),
        ("text_encoder", "", "another text encoder.*--text-encoder"),
        ("", "authors_frame", r"begun without --authors-frame \(leave it out\)"),
        ("authors_frame", "", r"begun with --authors-frame \(give it again\)"),
    ],
)
def test_other_base_weights_or_another_frame_are_refused(
    root: Path, own: dict[str, Any], begun: str, resumed: str, words: str
) -> None:
    own["authors_frame"] = True
    first, second = ({name: own[name] for name in (chosen,) if name} for chosen in (begun, resumed))
    run = fit(begin_with(root, **first), stop_after=3, progress=False)
    files = {path: path.read_bytes() for path in run.folder.rglob("*.*") if path.is_file()}
    with pytest.raises(ConfigError, match=rf"state\.pt belongs to a run.*{words}") as caught:
        begin_with(root, **second)
    assert "another `out` (or name)" in str(caught.value)
    assert {path: path.read_bytes() for path in files} == files
    again = begin_with(root, **first)
    assert again.state.step == 3
    assert same(learned(again), learned(run))
    done = fit(again, progress=False).folder
    assert read_adapter_config(done / "last").authors_frame is (begun == "authors_frame")


def test_all_that_differs_is_named_at_once(root: Path, own: dict[str, Any]) -> None:
    fit(begin_with(root), stop_after=3, progress=False)
    with pytest.raises(ConfigError) as caught:
        begin_with(root, **own, authors_frame=True)
    for words in ("--sam-checkpoint", "--text-encoder", "--authors-frame"):
        assert words in str(caught.value)


def test_own_weights_are_known_by_their_content(root: Path, own: dict[str, Any]) -> None:
    fit(begin_with(root, **own), stop_after=3, progress=False)
    for path in (own["sam_checkpoint"], own["text_encoder"]):
        path.rename(path.with_name(f"moved-{path.name}"))
    moved = {name: path.with_name(f"moved-{path.name}") for name, path in own.items()}
    assert begin_with(root, **moved).state.step == 3
    (moved["text_encoder"] / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match="another text encoder") as caught:
        begin_with(root, **moved)
    assert "image encoder" not in str(caught.value)


def add_image(root: Path) -> None:
    for kind in ("images", "masks"):
        pixels = np.zeros((48, 48), np.uint8)
        pixels[:9] = 255
        Image.fromarray(pixels).save(root / "train" / kind / "new.png")


def rename_image(root: Path) -> None:
    # The first becomes the last: the same files in another order.
    for kind in ("images", "masks"):
        (root / f"train/{kind}/000.png").rename(root / f"train/{kind}/999.png")


def remove_validation_image(root: Path) -> None:
    for kind in ("images", "masks"):
        (root / f"val/{kind}/001.png").unlink()


def change_pixel(path: Path) -> None:
    pixels = np.array(Image.open(path))
    pixels[0, 0] = 255 - pixels[0, 0]
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("change", "words", "silent"),
    [
        (add_image, "other training samples", "validation"),
        (rename_image, "other training samples", "validation"),
        (remove_validation_image, "other validation samples", "training"),
        (
            lambda root: change_pixel(root / "train/images/002.png"),
            "other pixels in training images or masks",
            "samples",
        ),
        (
            lambda root: change_pixel(root / "val/masks/001.png"),
            "other pixels in validation images or masks",
            "samples",
        ),
    ],
    ids=["added", "renamed", "removed", "image", "mask"],
)
def test_other_data_are_refused_and_the_part_is_named(
    root: Path, change: Any, words: str, silent: str
) -> None:
    train(run_config(root), stop_after=3)
    change(root)
    for _ in range(2):  # the second time as the first: the refused data left no trace
        with pytest.raises(ConfigError, match=rf"state\.pt belongs to a run.*{words}") as caught:
            begin(run_config(root))
        assert silent not in str(caught.value)


def test_files_written_anew_with_the_same_pixels_are_the_same_data(root: Path) -> None:
    run = train(run_config(root), stop_after=3)
    path = root / "train/images/002.png"
    Image.open(path).save(path, compress_level=0)
    mask = root / "val/masks/000.png"
    Image.fromarray(np.array(Image.open(mask)).astype(np.uint16)).save(mask)
    os.utime(root / "val/masks/001.png", ns=(1, 1))
    again = begin(run_config(root))
    assert again.state.step == 3
    assert same(learned(again), learned(run))
    assert begin(run_config(root)).state.made_of == again.state.made_of == run.state.made_of


def test_a_state_of_before_goes_on_and_knows_from_then_on(root: Path, own: dict[str, Any]) -> None:
    path = train(run_config(root), stop_after=3).folder / "state.pt"
    content = torch.load(path, weights_only=True)
    del content["made_of"]
    torch.save(content, path)
    again = begin_with(root, **own)
    assert again.state.step == 3
    fit(again, stop_after=4, progress=False)
    with pytest.raises(ConfigError, match="base weights"):
        begin_with(root)


def test_a_check_of_before_leaves_pixels_out_of_it(root: Path) -> None:
    """`data-check.json` of before has no digest of pixels; names and order are compared still."""
    stamp = train(run_config(root), stop_after=3).folder / "data-check.json"
    content = json.loads(stamp.read_text(encoding="utf-8"))
    assert set(content.pop("contents")) == {"train", "val"}
    stamp.write_text(json.dumps(content), encoding="utf-8")
    again = begin(run_config(root))
    assert again.state.step == 3
    assert "train_contents" in again.state.made_of, "what the state knew stays known"


def test_an_init_adapter_whose_tensors_changed_is_refused(root: Path) -> None:
    first = train(run_config(root, name="first")).folder / "last"
    other = train(run_config(root, name="other", seed=3)).folder / "last"
    config = run_config(root, init_adapter=str(first))
    train(config, stop_after=3)
    assert begin(config).state.step == 3
    for name in ("adapter.safetensors", "adapter.json"):
        (first / name).write_bytes((other / name).read_bytes())
    with pytest.raises(ConfigError, match="an init_adapter of other tensors"):
        begin(config)


SAMPLE = Sample(
    "set", "chest X-ray", "a", Path("a.png"), (Target("lung", Path("m.png"), 1, (1, 2)),), ("rib",)
)


def made_of(sample: Sample, unlabelled: tuple[str, ...] = ("a.png",)) -> dict[str, str]:
    return ingredients(
        base="1",
        text_encoder="2",
        authors_frame=False,
        parts={"train": [sample], "val": []},
        contents={},
        unlabelled=map(Path, unlabelled),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"absent": ("rib", "heart")},
        {"weight": 2.0},
        {"modality": "unknown"},
        {"targets": (Target("lung", Path("m.png"), 2, (1, 2)),)},
        {"targets": (CocoTarget("lung", Path("m.json"), (4, 4), (b"04",)),)},
    ],
)
def test_what_is_known_of_a_sample_counts_and_where_it_lies_does_not(
    change: dict[str, Any],
) -> None:
    told = differences(made_of(SAMPLE), made_of(replace(SAMPLE, **change)))
    assert told.startswith("with other training samples (")
    moved = replace(SAMPLE, image_path=Path("/elsewhere/a.png"))
    assert differences(made_of(SAMPLE), made_of(moved)) == ""


def test_unlabelled_images_and_what_one_side_does_not_know() -> None:
    now = made_of(SAMPLE, ("b.png",))
    assert differences(made_of(SAMPLE), now).startswith("with other unlabelled images")
    del now["unlabelled"]
    assert differences(made_of(SAMPLE), now) == ""
