"""Training configurations: what is read, what replaces it, and what is refused by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from textsam.config import TrainConfig, read_config
from textsam.errors import ConfigError
from textsam.sections import read_sections
from textsam.train.settings import ContextSettings

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("stages/*.yaml")])
MINIMAL: dict[str, Any] = {
    "name": "toy",
    "data": {
        "root": "data",
        "train_folders": [{"folder": "a", "concept": "tumor"}],
        "val_folders": [{"folder": "b", "concept": "tumor"}],
    },
    "context": {"depth": 6},
}
FLIPS = {
    f"{name}_p": 0.0
    for name in (
        "rot90", "affine", "gamma", "brightness", "contrast", "channel", "grey", "invert", "blur",
        "noise", "speckle", "low_resolution", "marks",
    )
}  # fmt: skip


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}), encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(path, overrides)
    return str(caught.value)


def test_defaults_are_the_paper_s(tmp_path: Path) -> None:
    config = read_config(write(tmp_path))
    assert config.preset == "lite"
    assert (config.context.n_tokens, config.tuning.rank, config.tuning.encoder) == (4, 16, "lora")
    assert config.tuning.encoder_targets == ("qkv.q", "qkv.v")
    assert (config.optim.lr, config.optim.weight_decay, config.optim.schedule) == (
        1e-3, 0.01, "cosine",
    )  # fmt: skip
    assert (config.epochs, config.batch_size, config.select) == (5, 1, "val_loss")
    assert (config.loss.bce, config.loss.dice, config.geometry.probability) == (1, 1, 0)
    assert (config.adapter.normalise, config.adapter.scale, config.refine) == (True, 1.0, 2)


def test_overrides_replace_values_with_their_types(tmp_path: Path) -> None:
    path = write(tmp_path, optim={"lr": 0.5, "weight_decay": 0.25})
    config = read_config(
        path,
        [
            "name=other",
            "optim.lr=3.0e-4",
            "seed=7",
            "adapter.normalise=false",
            "cache=null",
            "val_every=20",
            "tuning.encoder_targets=[qkv.q, qkv.v, proj]",
            "data.train_folders=[{folder: c, concept: lung, weight: 2}]",
            " loss.iou = 0.5",
        ],
    )
    assert (config.name, config.seed, config.cache, config.val_every) == ("other", 7, None, 20)
    assert config.optim.lr == 3e-4
    assert config.optim.weight_decay == 0.25, "a sibling of an override stays"
    assert config.adapter.normalise is False
    assert config.tuning.encoder_targets == ("qkv.q", "qkv.v", "proj")
    (folder,) = config.data.train_folders
    assert (folder.folder, folder.concept, folder.weight) == ("c", "lung", 2.0)
    assert config.data.val_folders[0].folder == "b"
    assert config.loss.iou == 0.5


@pytest.mark.parametrize(
    "name", ["../../evil", "a/b", "a\\b", "/tmp", "..", ".a", "", "a b", "a\n"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(write(tmp_path, name=name))
    assert f"{name!r} cannot be the name of a folder; use letters, digits" in message
    assert "cannot be the name" in refusal(write(tmp_path), "name=../evil")


@pytest.mark.parametrize("name", ["text-fold1", "recipe_112.a", "lite+kinds", "größe", "7"])
def test_a_name_is_kept(tmp_path: Path, name: str) -> None:
    assert read_config(write(tmp_path, name=name)).name == name


def test_a_rate_may_be_written_without_a_decimal_point(tmp_path: Path) -> None:
    # YAML 1.1 takes 3e-4 for text.
    assert read_config(write(tmp_path), ["optim.lr=3e-4"]).optim.lr == 3e-4


def test_the_last_override_counts_and_values_may_hold_an_equals_sign(tmp_path: Path) -> None:
    config = read_config(write(tmp_path), ["seed=1", "seed=2", "terms=a=b"])
    assert (config.seed, config.terms) == (2, "a=b")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr", "write it as a.b=value"),
        ("=3", "write it as a.b=value"),
        ("name.first=3", "'name' is a value, not a section"),
        ("seed=[1", "not YAML"),
        ("optim.learning_rate=1", "optim.learning_rate"),
        ("optimizer.lr=1", "optimizer"),
    ],
)
def test_bad_overrides_are_named(tmp_path: Path, override: str, words: str) -> None:
    assert words in refusal(write(tmp_path), override)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"epoch": 3}, "epoch"),
        ({"tuning": {"ranks": 4}}, "tuning.ranks"),
        ({"tuning": {"rank": 0}}, "tuning.rank"),
        ({"tuning": {"encoder": "lorra"}}, "tuning.encoder"),
        ({"context": {"n_tokens": 0, "depth": 6}}, "context.n_tokens"),
        ({"context": {"depth": 0}}, "context.depth"),
        ({"adapter": {"scale": 0}}, "adapter.scale"),
        ({"optim": {"lr": -1}}, "optim.lr"),
        ({"optim": {"lr": "fast"}}, "optim.lr"),
        ({"optim": {"schedule": "step"}}, "optim.schedule"),
        ({"optim": {"lr_final_fraction": 1.5}}, "optim.lr_final_fraction"),
        ({"loss": {"dice": -0.1}}, "loss.dice"),
        ({"loss": {"bce": 0, "dice": 0}}, "nothing would be learned"),
        ({"loss": {"dice": 0, "empty": 1}}, "within the Dice term"),
        ({"geometry": {"in_validation": True}}, "geometry.probability is 0"),
        ({"geometry": {"probability": 1.1}}, "geometry.probability"),
        ({"augment": {"flip_horizontal_p": 2}}, "augment.flip_horizontal_p"),
        ({"augment": {"scale": [1.3, 0.7]}}, "augment.scale"),
        ({"prompts": {"max_positives": 0}}, "prompts.max_positives"),
        ({"precision": "float16"}, "precision"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": math.inf}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"optim": {"lr": math.inf}}, "optim.lr"),
        ({"augment": {"gamma": [math.nan, math.nan]}}, "augment.gamma"),
        ({"geometry": {"kinds": {"box": math.nan}}}, "geometry.kinds"),
        ({"batch_size": 0}, "batch_size"),
        ({"val_every": 0}, "val_every"),
        ({"select": "dice"}, "select"),
        ({"workers": -1}, "workers"),
        ({"preset": "vit_x"}, "preset"),
        ({"context": {"depth": 7}}, "context.depth"),
        ({"data": {"root": "d", "val_folders": MINIMAL["data"]["val_folders"]}}, "data.train"),
        ({"data": {"root": "d", "train": [{"set": "s", "split": "t"}]}}, "data.val"),
        (
            {"data": {**MINIMAL["data"], "train": [{"set": "s", "split": "t", "weight": 0}]}},
            "data.train.0.weight",
        ),
        (
            {
                "data": {
                    **MINIMAL["data"],
                    "train": [{"set": "s", "split": "t", "weight": math.inf}],
                }
            },
            "data.train.0.weight",
        ),
        ({"data": {**MINIMAL["data"], "val_folders": [{"folder": "a"}]}}, "data.val_folders.0"),
        (
            {"data": {**MINIMAL["data"], "val_folders": [{"folder": "a", "concept": " !"}]}},
            "data.val_folders.0.concept",
        ),
        (
            {
                "data": {
                    **MINIMAL["data"],
                    "val_coco": [{"images": "a", "annotations": "b", "concepts": {"1": ""}}],
                }
            },
            "data.val_coco.0.concepts.1",
        ),
        *(
            (
                {"data": {**MINIMAL["data"], "train": [{"set": "s", "split": "t", "part": part}]}},
                "data.train.0.part",
            )
            for part in ([0.5, 0.2], [0, 5], [-0.1, 1], [0.5, 0.5])
        ),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    path = write(tmp_path, **changes)
    message = refusal(path)
    assert str(path) in message
    assert field in message.removeprefix(str(path))


def test_every_wrong_field_is_named_at_once(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, epochs=0, batch_size=0, tuning={"rank": 0}))
    assert all(field in message for field in ("epochs", "batch_size", "tuning.rank"))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: lite\n", encoding="utf-8")
    message = refusal(path)
    assert "name: Field required" in message
    assert "data: Field required" in message


def test_depth_is_bounded_by_the_text_encoder_of_the_preset(tmp_path: Path) -> None:
    message = refusal(write(tmp_path), "context.depth=7")
    assert "context.depth is 7" in message
    assert "6 layers" in message
    assert read_config(write(tmp_path), ["context.depth=6"]).context.depth == 6
    assert read_config(write(tmp_path, preset="vit_b"), ["context.depth=12"]).context.depth == 12
    assert "12 layers" in refusal(write(tmp_path, preset="vit_b"), "context.depth=13")


@pytest.mark.parametrize(
    ("changes", "depth"),
    [
        ({}, 6),
        ({"preset": "vit_b"}, 12),
        ({"context": {"n_tokens": 2}}, 6),
        ({"context": ContextSettings(n_tokens=2)}, 6),
        ({"context": {"depth": 1}}, 1),
        ({"preset": "vit_b", "context": ContextSettings(depth=3)}, 3),
    ],
)
def test_the_default_depth_is_all_layers_of_the_text_encoder(
    changes: dict[str, Any], depth: int
) -> None:
    smallest = {name: MINIMAL[name] for name in ("name", "data")}
    config = TrainConfig.model_validate({**smallest, **changes})
    assert config.context.depth == depth
    # What is recorded says the number, and says it again when it is read back.
    recorded = config.model_dump(mode="json")
    assert recorded["context"]["depth"] == depth
    assert TrainConfig.model_validate(recorded) == config


def test_the_ready_configurations_of_lite_scale_the_token_as_the_document_says() -> None:
    configs = [read_config(path) for path in CONFIGS]
    assert {(c.preset, c.adapter.scale) for c in configs} == {("lite", 16), ("vit_b", 1)}


def test_the_cache_needs_a_frozen_encoder_and_flips_only(tmp_path: Path) -> None:
    frozen, flips = {"encoder": "frozen"}, {**FLIPS, "flip_vertical_p": 0.5}
    config = read_config(write(tmp_path, cache="emb", tuning=frozen, augment=flips))
    assert config.cache == "emb"
    for encoder in ("lora", "full"):
        message = refusal(write(tmp_path, cache="emb", tuning={"encoder": encoder}, augment=flips))
        assert f"frozen, not '{encoder}'" in message
    for name in FLIPS:
        wrong = {**flips, name: 0.01}
        message = refusal(write(tmp_path, cache="emb", tuning=frozen, augment=wrong))
        assert "flips only" in message, name
    assert "flips only" in refusal(write(tmp_path, cache="emb", tuning=frozen))


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [1", "is not YAML"), ("- a\n- b\n", "holds list"), ("", "holds NoneType")],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    assert words in refusal(path)
    assert str(path) in refusal(path)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("seed: 1\nseed: 2\n", ", line 13: 'seed' is given twice; what the first says"),
        ("optim: {lr: 1.0e-4}\nseed: 1\noptim: {grad_clip: 1.0}\n", "line 14: 'optim' is given"),
        ("optim: {lr: 1.0e-4, warmup_steps: 3, lr: 1.0e-5}\n", "line 12: 'lr' is given twice"),
        ("prompts:\n  - {a: 1}\n  - {b: 1, b: 1}\n", "line 14: 'b' is given twice"),
    ],
)
def test_a_setting_given_twice_is_refused(tmp_path: Path, more: str, words: str) -> None:
    path = write(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") == 11
    path.write_text(text + more, encoding="utf-8")
    assert words in refusal(path)


@pytest.mark.parametrize(
    "assignment", ["optim={lr: 1.0e-4, lr: 1.0e-5}", "optim={cells: {}, lr: 1.0e-4, lr: 1.0e-5}"]
)
def test_a_setting_given_twice_on_the_command_line_is_refused(
    tmp_path: Path, assignment: str
) -> None:
    message = refusal(write(tmp_path), assignment)
    assert message.startswith(f"--set {assignment!r}: 'lr' is given twice; what the first says")


def test_a_setting_given_twice_in_a_file_with_braces_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "run-{}.yaml"
    path.write_text("seed: 1\nseed: 2\n", encoding="utf-8")
    assert refusal(path).startswith(f"{path}, line 2: 'seed' is given twice")


def test_what_is_written_once_and_referred_to_is_not_given_twice(tmp_path: Path) -> None:
    path = write(tmp_path)
    text = path.read_text(encoding="utf-8")
    # A merge may replace what it takes over.
    text += "progressive:\n  - &half {side_px: 112, share: 0.5}\n"
    text += "  - {<<: *half, side_px: 168, share: 0.25}\n"
    path.write_text(text, encoding="utf-8")
    sides = [(part.side_px, part.share) for part in read_config(path).progressive]
    assert sides == [(112, 0.5), (168, 0.25)]
    path.write_text(text + "prompts: &one {negatives: 3}\n", encoding="utf-8")
    assert read_config(path).prompts.negatives == 3
    # Of two merges none is lost, and a number is another key than a text.
    path.write_text("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\nd: {1: x, '1': y}\n")
    settings = read_sections(path, "missing")
    assert (settings["c"], settings["d"]) == ({"x": 1, "y": 2}, {1: "x", "1": "y"})


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("optim.rl=1", "optim.rl: unknown; known are lr, lr_encoder, lr_text,"),
        ("optim.lr_encodr=1", "optim.lr_encodr: unknown; did you mean lr_encoder?"),
        ("optm.lr=1", "optm: unknown; did you mean optim?"),
        ("data.zzz=1", "data.zzz: unknown; known are root, train, val, train_folders,"),
        ("progressive=[{side_pxx: 112, share: 0.5}]", "side_pxx: unknown; did you mean side_px?"),
        ("self_prompt.distillation.zzz=1", "zzz: unknown; known are weight, temperature"),
        # A right one with a wrong value, with that.
        ("epochs=-1", "epochs: Input should be greater than 0, got -1"),
        ("epochs=", "epochs: Input should be a valid number, got None"),
        ("preset=vit_x", "configuration: preset is 'vit_x'; choose one of lite, "),
        ("precision=half", "precision: Input should be 'float32' or 'bfloat16', got 'half'"),
        ("optim.lr=1e-3x", "unable to parse string as a number, got '1e-3x'"),
    ],
)
def test_a_wrong_setting_is_told_with_what_helps(
    tmp_path: Path, assignment: str, words: str
) -> None:
    assert words in refusal(write(tmp_path), assignment)


def test_known_settings_are_listed_once_however_many_are_not(tmp_path: Path) -> None:
    message = refusal(write(tmp_path), "optim.xx=1", "optim.yy=1", "zz=1")
    assert message.count("known are lr, lr_encoder") == 1
    assert message.count("known are name, preset") == 1
    assert "optim.yy: unknown; " in message


def test_a_missing_file_says_where_the_ready_ones_are(tmp_path: Path) -> None:
    message = refusal(tmp_path / "none.yaml")
    assert str(tmp_path / "none.yaml") in message
    assert "configs/" in message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_ready_configurations_are_valid(path: Path) -> None:
    config = read_config(path)
    assert isinstance(config, TrainConfig)
    assert config.name.startswith(path.stem)
    assert config.terms, "a ready configuration states the terms of its data"
