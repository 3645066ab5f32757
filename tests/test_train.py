"""Training: what it learns, what it leaves alone, and what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import ONLY_FLIPS, begin, learned, log_rows, logged, run_config, same, train, write_data
from safetensors.torch import load_file
from tiny import tiny_model, write_images_and_masks
from torch import Tensor

from textsam.adapters import read_adapter_config
from textsam.checkpoint import architecture_of, load_adapter
from textsam.data.dataset import TrainItem
from textsam.errors import AdapterError, ConfigError, OutputError, TextSAMError
from textsam.model.build import BuiltModel
from textsam.model.tuning import merge_for_inference, trainable_parameters
from textsam.train import run as run_module
from textsam.train import setup as setting_up
from textsam.train.answers import Answers
from textsam.train.losses import emptiness_loss, mask_losses
from textsam.train.run import fit
from textsam.train.validate import Validation


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def logits_of(built: BuiltModel, prompt: str = "tumor") -> Tensor:
    side = built.preprocessor.side_px
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(3))
    built.model.eval()
    with torch.inference_mode():
        tokens = built.model.encode_text([prompt])
        return built.model(built.model.encode_image(image), tokens)[0]


def test_a_learnable_toy_is_learned(root: Path) -> None:
    config = run_config(
        root,
        epochs=14,
        optim={"lr": 3e-3},
        prompts={"negatives": 0},
        val_every=14,
        select="val_dice",
    )
    run = begin(config)
    before = run_module.validate(run.forward, run.val_set, run.val_keys, config.loss)
    fit(run, progress=False)
    loss = logged(run, "loss")
    assert len(loss) == 42
    first, final = (np.mean([loss[s] for s in steps]) for steps in (range(1, 6), range(38, 43)))
    assert final < 0.6 * first
    after = logged(run, "val_dice")[42]
    assert after > 0.6 > before.dice
    assert logged(run, f"val_dice/{root.name}/tumor")[42] == after
    iou = logged(run, "val_iou")[42]
    assert logged(run, f"val_iou/{root.name}/tumor")[42] == iou
    assert 0 < iou < after
    assert logged(run, "val_loss")[42] < before.loss


def test_only_what_should_learn_changes(root: Path) -> None:
    run = begin(run_config(root, geometry={"probability": 0.5}))
    model = run.built.model
    everything = [*model.named_parameters(), *model.named_buffers()]
    before = {name: tensor.detach().clone() for name, tensor in everything}
    fit(run, progress=False)
    changed = {name for name, tensor in everything if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if should_learn(name)}
    # Not one of the names was misspelt above: all five kinds are there, and far more is frozen.
    kinds = ("context.", "adapter.", "mask_decoder.iou_token", "image_encoder.", "mask_decoder.t")
    assert all(any(name.startswith(kind) for name in changed) for kind in kinds)
    assert len(before) > 2 * len(changed)


def test_a_folder_that_cannot_be_made_is_refused_before_the_data_are_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = root / "afile"
    file.write_bytes(b"kept")
    read: list[object] = []
    monkeypatch.setattr(setting_up, "checked_data", lambda *_, **__: read.append(1))
    with pytest.raises(OutputError, match=r"afile.toy cannot be made, as .*afile is a file"):
        begin(run_config(root, out=str(file)))
    assert (read, file.read_bytes()) == ([], b"kept")


def should_learn(name: str) -> bool:
    """The paper's list: context, adapter, LoRA on q and v, the decoder but for its transformer."""
    if name.startswith(("context.", "adapter.")):
        return True
    if name.startswith(tuple(f"mask_decoder.output_hypernetworks_mlps.{i}." for i in (1, 2, 3))):
        return False  # of the masks that are not made
    if name.startswith("mask_decoder.") and not name.startswith("mask_decoder.transformer."):
        return True
    layer, is_lora, _ = name.partition(".lora_")
    return bool(is_lora) and layer.endswith((".qkv.q", ".qkv.v", ".q_proj", ".v_proj"))


def test_the_adapter_written_reproduces_the_model(root: Path) -> None:
    run = train(run_config(root, loss={"iou": 0.5}, adapter={"scale": 4.0}, terms="CC0", refine=1))
    for name in ("best", "last"):
        config = read_adapter_config(run.folder / name)
        assert (config.name, config.preset, config.prompts) == ("toy", "lite", ("tumor",))
        assert (config.refine, config.terms, config.score) == (1, "CC0", "iou_head")
        assert config.base.keys() == {"litemedsam", "minilm"}
    # As `load_model` does: the architecture comes from the folder, the base weights from elsewhere.
    config = read_adapter_config(run.folder / "last")
    assert (config.architecture.token_scale, config.architecture.context_depth) == (4.0, 3)
    fresh = tiny_model(architecture_of(config.architecture))
    fresh.model.image_encoder.to(memory_format=torch.channels_last)  # or sums round differently
    wanted = logits_of(run.built)
    assert not torch.allclose(logits_of(fresh), wanted, atol=1e-2)
    assert load_adapter(run.folder / "last", fresh) == config
    assert torch.equal(logits_of(fresh), wanted)
    merge_for_inference(fresh.model)
    torch.testing.assert_close(logits_of(fresh), wanted, rtol=1e-4, atol=1e-4)


def test_an_adapter_file_says_how_it_was_made(root: Path) -> None:
    run = train(run_config(root))
    text = (run.folder / "last" / "adapter.json").read_text(encoding="utf-8")
    made = json.loads(text)["training"]
    assert (made["step"], made["total_steps"]) == (6, 6)
    assert made["config"]["optim"]["lr"] == 1e-3
    assert made["data"]["train_folders"][0]["concept"] == "tumor"
    assert str(root) not in text, "a card that travels names no folder of this machine"


@pytest.mark.parametrize(("select", "best_step"), [("val_loss", 2), ("val_dice", 4), ("last", 6)])
def test_the_best_adapter_is_chosen_as_asked(
    root: Path, monkeypatch: pytest.MonkeyPatch, select: str, best_step: int
) -> None:
    answers = iter([Validation(0.3, 0.2), Validation(0.5, 0.6), Validation(0.4, 0.3)])
    monkeypatch.setattr(run_module, "validate", lambda *_: next(answers))
    run = begin(run_config(root, select=select, val_every=2))
    snapshots = {}
    write = run_module.save_adapter

    def remember(folder: Path, config: object, tensors: dict[str, Tensor]) -> Path:
        snapshots[run.state.step, folder.name] = tensors
        return write(folder, config, tensors)

    monkeypatch.setattr(run_module, "save_adapter", remember)
    fit(run, progress=False)
    assert read_adapter_config(run.folder / "best").training["step"] == best_step
    assert same(
        load_file(run.folder / "best" / "adapter.safetensors"), snapshots[best_step, "best"]
    )
    assert read_adapter_config(run.folder / "last").training["step"] == 6
    assert same(load_file(run.folder / "last" / "adapter.safetensors"), learned(run))


def test_the_best_so_far_survives_a_resume(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Validation(0.3, 0.3), Validation(0.5, 0.2), Validation(0.4, 0.1)])
    monkeypatch.setattr(run_module, "validate", lambda *_: next(answers))
    train(run_config(root, val_every=2), stop_after=3)
    resumed = train(run_config(root, val_every=2))
    assert resumed.state.best == 0.3
    assert read_adapter_config(resumed.folder / "best").training["step"] == 2


def test_validation_tells_no_number_of_what_it_was_not_shown(tmp_path: Path) -> None:
    write_images_and_masks(tmp_path / "train", 2)
    write_images_and_masks(tmp_path / "val", 2, seed=1)
    for mask in (tmp_path / "val" / "masks").iterdir():
        with Image.open(mask) as shown:
            Image.new("L", shown.size).save(mask)
    data = {**run_config(tmp_path).data.model_dump(), "allow": ["empty-class"]}
    empty = train(run_config(tmp_path, name="empty", data=data, select="last", epochs=1))
    assert {"val_loss", "val_false_positive_rate"} == {
        row[1] for row in log_rows(empty) if row[1].startswith("val_")
    }
    data |= {"train_folders": data["val_folders"], "val_folders": data["train_folders"]}
    full = begin(run_config(tmp_path, name="full", data=data, prompts={"negatives": 0}))
    found = run_module.validate(full.forward, full.val_set, full.val_keys, full.config.loss)
    assert found.false_positive_rate is None
    assert found.line() == (
        f"val loss {found.loss:.4f}, Dice {found.dice:.4f}, IoU {found.iou:.4f}"
    )


def test_validation_counts_by_hand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(run_config(root))
    sample = run.val_set.samples[0]
    other = replace(sample, dataset="elsewhere")
    left, right, nothing = torch.zeros(3, 2, 4)
    left[:, :2], right[:, 2:] = 1, 1
    # (image, concepts, masks said, truths)
    cases = {
        (0, 0, 0): (sample, ["tumor", "lung"], [left, nothing], [left, nothing]),
        (0, 1, 0): (sample, ["tumor"], [torch.ones(2, 4)], [left]),
        (0, 2, 0): (
            other,
            ["tumor", "lung", "dog"],
            [right, left, nothing],
            [left, nothing, nothing],
        ),
    }
    said = {key: 8 * torch.stack(masks)[:, None] - 4 for key, (_, _, masks, _) in cases.items()}
    items = {
        key: TrainItem(
            image=torch.zeros(3, 64, 64, dtype=torch.uint8),
            size_px=(64, 64),
            prompts=concepts,
            concepts=concepts,
            targets=torch.stack(truths).to(torch.uint8),
            sample=which,
        )
        for key, (which, concepts, _, truths) in cases.items()
    }

    def decode(item: TrainItem, *_: object) -> Answers:
        (key,) = (key for key in items if items[key] is item)
        count = len(item.prompts)
        # Only the last pass is judged.
        passes = [-said[key], said[key]]
        return Answers(passes, [torch.full((count, 1), 0.5)] * 2, item.targets, [*range(count)])

    monkeypatch.setattr(run.forward, "decode", decode)
    result = run_module.validate(run.forward, items, list(items), run.config.loss)  # type: ignore[arg-type]
    # Dice 1 and 2·4 / (8 + 4) in one set, 0 in the other; the sets count alike.
    first, second = f"{root.name}/tumor", "elsewhere/tumor"
    assert result.dice_by_group == pytest.approx({first: (1 + 2 / 3) / 2, second: 0.0})
    # A Dice of 2/3 is an IoU of 1/2.
    assert result.iou_by_group == pytest.approx({first: (1 + 1 / 2) / 2, second: 0.0})
    assert result.iou == pytest.approx(0.375)
    assert result.dice == pytest.approx((1 + 2 / 3) / 4)
    assert result.false_positive_rate == pytest.approx(1 / 3)
    parts = [
        mask_losses(said[key], torch.full((len(i.prompts), 1), 0.5), i.targets)
        for key, i in items.items()
    ]
    assert result.loss == pytest.approx(float(sum(p.bce + p.dice for p in parts)) / 3)
    # The loss is that of training, with what empty masks weigh there.
    run.forward.empty_weight = 3.0
    weighed = run_module.validate(run.forward, items, list(items), run.config.loss)  # type: ignore[arg-type]
    assert weighed.dice == result.dice
    empty = [said[0, 0, 0][1:, 0], said[0, 2, 0][1:, 0]]
    more = 3.0 * sum(float(emptiness_loss(logits).mean()) for logits in empty) / 3
    assert weighed.loss - result.loss == pytest.approx(more, rel=1e-4)
    assert more > 0.1
    assert run.built.model.training


def test_validation_once_per_epoch_and_at_the_end(root: Path) -> None:
    run = train(run_config(root, epochs=7 / 3))
    assert run.total_steps == 7
    assert list(logged(run, "val_loss")) == [3, 6, 7]


def test_progress_goes_to_standard_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(begin(run_config(root, epochs=1.0)), progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert "val loss" in said.err


def test_a_run_continues_from_an_adapter(root: Path) -> None:
    first = train(run_config(root))
    adapter = str(first.folder / "last")
    second = begin(run_config(root, name="second", init_adapter=adapter))
    assert second.state.step == 0
    assert same(learned(second), learned(first))
    # Once begun, the run goes on from its own state, not from the adapter again.
    fit(second, stop_after=3, progress=False)
    again = begin(run_config(root, name="second", init_adapter=adapter))
    assert again.state.step == 3
    assert same(learned(again), learned(second))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"tuning": {"rank": 4}}, AdapterError, "of another shape"),
        ({"context": {"depth": 2}}, AdapterError, "unknown: context.deep.1"),
        ({"adapter": {"scale": 16.0}}, ConfigError, "adapter.scale"),
        ({"adapter": {"normalise": False}}, ConfigError, "adapter.normalise"),
    ],
)
def test_an_adapter_of_another_shape_is_not_continued(
    root: Path, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    adapter = train(run_config(root), stop_after=1).folder / "last"
    with pytest.raises(error, match=words):
        begin(run_config(root, name="second", init_adapter=str(adapter), **changes))


def test_an_adapter_of_another_model_is_not_continued_though_its_tensors_fit(root: Path) -> None:
    frozen = {"encoder": "frozen", "rank": 2}
    first = train(run_config(root, preset="vit_b", tuning=frozen), stop_after=1)
    adapter = str(first.folder / "last")
    second = run_config(root, name="second", preset="vit_b", tuning=frozen, init_adapter=adapter)
    assert same(learned(begin(second)), learned(first))
    larger = run_config(root, name="third", preset="vit_l", tuning=frozen, init_adapter=adapter)
    with pytest.raises(ConfigError, match=r"preset is 'vit_l', and .*'toy' belongs to 'vit_b'"):
        begin(larger)
    other = root / "other.pth"
    other.write_bytes(b"other base weights")
    fourth = second.model_copy(update={"name": "fourth"})
    with pytest.raises(AdapterError, match="'toy' was trained on sam_vit_b with sha256 ec2df627"):
        run_module.setup(
            fourth, tiny_model(run_module.architecture_from(fourth)), sam_checkpoint=other
        )
    fifth = second.model_copy(update={"name": "fifth"})
    speaking = tiny_model(run_module.architecture_from(fifth))
    with torch.no_grad():
        speaking.model.text_encoder.bert.encoder.layer[0].output.dense.bias += 1
    with pytest.raises(AdapterError, match="'toy' was trained on biomedclip with sha256"):
        run_module.setup(fifth, speaking)
    for name in ("third", "fourth", "fifth"):
        assert not (root / "runs" / name).exists()


@pytest.mark.parametrize("limit", [None, 1])
def test_choosing_by_dice_where_no_validation_image_has_one_is_refused(
    root: Path, limit: int | None
) -> None:
    masks = sorted((root / "val" / "masks").iterdir())
    for path in masks[:1] if limit else masks:
        Image.fromarray(np.zeros((48, 48), np.uint8)).save(path)
    data = {**run_config(root).data.model_dump(), "allow": ["empty-class"]}
    empty = {"data": data, "val_limit": limit}
    told = f"select is 'val_dice', and none of the {limit or 3} validation images"
    with pytest.raises(ConfigError, match=told):
        begin(run_config(root, select="val_dice", **empty))
    assert not (root / "runs").exists()
    begin(run_config(root, select="val_loss", **empty))
    if limit:
        begin(run_config(root, name="all", select="val_dice", **{**empty, "val_limit": None}))


def test_an_image_in_training_and_validation_is_refused(root: Path) -> None:
    folders = [{"folder": ".", "split": "train", "concept": "tumor"}]
    data = {"root": str(root), "train_folders": folders, "val_folders": folders}
    with pytest.raises(ConfigError, match=r"6 images are in training and validation.*000\.png"):
        begin(run_config(root, data=data))
    assert not (root / "runs" / "toy" / "state.pt").exists()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_loader_processes_change_nothing(root: Path) -> None:
    # Every change of the augmentation, so that any draw out of turn would show.
    runs = [
        train(run_config(root, name=f"w{n}", epochs=1, workers=n, augment={}), stop_after=3)
        for n in (0, 2)
    ]
    assert same(learned(runs[0]), learned(runs[1]))
    assert log_rows(runs[0]) == log_rows(runs[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_after_the_check_is_told_as_ever(root: Path, workers: int) -> None:
    run = begin(run_config(root, workers=workers))
    for path in (root / "train" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(TextSAMError) as caught:
        fit(run)
    assert "Traceback" not in str(caught.value)
    assert "000" in str(caught.value) or "images" in str(caught.value)


def test_spellings_of_one_word_are_one_concept(root: Path) -> None:
    write_images_and_masks(root / "elsewhere", 4, seed=5)
    data = {
        "root": str(root),
        "train_folders": [
            {"folder": ".", "split": "train", "concept": "tumor"},
            {"folder": "elsewhere", "concept": "Tumours"},
        ],
        "val_folders": [{"folder": ".", "split": "val", "concept": "tumour"}],
    }
    run = begin(run_config(root, data=data))
    # "tumour" asked of the adapter is "tumor", so the other could never be asked for.
    assert run.vocabulary == ("tumor",)
    assert {t.concept for s in run.train_set.samples for t in s.targets} == {"tumor"}
    item = run.val_set[run.val_keys[0]]
    assert item.concepts[0] == item.prompts[0] == "tumor", "asked as it will be used"
    fit(run, progress=False)
    assert read_adapter_config(run.folder / "best").prompts == ("tumor",)


def test_no_step_is_no_step(root: Path) -> None:
    assert fit(begin(run_config(root)), stop_after=0).state.step == 0


def test_kinds_of_image_that_nobody_knows_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"augment\.no_up names 'dermoscpy'"):
        begin(run_config(root, augment={"no_up": ["dermoscopy", "dermoscpy"]}))


def test_the_seed_decides_the_run(root: Path) -> None:
    one, other = (train(run_config(root, name=f"s{seed}", seed=seed), 3) for seed in (1, 2))
    assert not same(learned(one), learned(other))
    assert logged(one, "loss") != logged(other, "loss")


def test_accumulated_batches_are_one_large_batch(root: Path) -> None:
    whole = train(run_config(root, name="whole", batch_size=4, epochs=2), stop_after=1)
    parts = train(
        run_config(root, name="parts", batch_size=2, accumulate=2, epochs=2), stop_after=1
    )
    assert whole.total_steps == parts.total_steps == 3
    assert logged(parts, "loss")[1] == pytest.approx(logged(whole, "loss")[1], rel=1e-4)
    assert logged(parts, "bce")[1] == pytest.approx(logged(whole, "bce")[1], rel=1e-4)


def test_parts_of_the_model_have_rates_of_their_own(root: Path) -> None:
    optim = {"lr": 1e-3, "lr_encoder": 1e-4, "lr_text": 1e-2, "warmup_steps": 1}
    run = train(run_config(root, optim=optim), stop_after=1)
    rates = {
        id(parameter): group["base_lr"]
        for group in run.optimiser.param_groups
        for parameter in group["params"]
    }
    wanted = {"image_encoder": 1e-4, "mask_decoder": 1e-3, "context": 1e-2, "adapter": 1e-2}
    for name, parameter in trainable_parameters(run.built.model).items():
        assert rates[id(parameter)] == wanted[name.split(".")[0]], name
    assert logged(run, "lr_factor") == {1: 0.5}
    assert {group["lr"] for group in run.optimiser.param_groups} == {5e-5, 5e-4, 5e-3}


def test_clipping_bounds_the_step(root: Path) -> None:
    run = train(run_config(root, optim={"lr": 1e-3, "grad_clip": 1e-3}), stop_after=1)
    assert logged(run, "grad_norm")[1] > 1e-3
    norm = torch.stack(
        [
            p.grad.norm()
            for p in trainable_parameters(run.built.model).values()
            if p.grad is not None
        ]
    ).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_flips_are_in_the_augmentation_of_the_toy() -> None:
    # `ONLY_FLIPS` names every other change; a new one must be named there too.
    from textsam.data.augment_config import AugmentConfig

    assert AugmentConfig.model_validate(ONLY_FLIPS).only_flips()


def test_the_loss_can_be_computed_in_the_image_s_own_pixels(root: Path) -> None:
    loss = {"resolution": "image"}
    run = begin(run_config(root, loss=loss, augment={**ONLY_FLIPS, "flip_vertical_p": 0.0}))
    key = (0, 0, 0)
    item = run.train_set[key]
    # The discs are 48 px large, the tiny model sees 64.
    assert item.native_targets is not None
    assert item.native_targets.shape == (len(item.prompts), 48, 48)
    assert item.targets.shape[-2:] == (64, 64)
    run.built.model.eval()
    embedding = run.forward.embed([item])
    tokens = run.built.model.encode_text(item.prompts)
    with torch.no_grad():
        answers = run.forward.decode(item, embedding, tokens, None)
        (logits,), targets = answers.logits, answers.targets
        low = run.built.model(embedding, tokens)[0]
    assert torch.equal(targets, item.native_targets)
    square = torch.nn.functional.interpolate(low, (64, 64), mode="bilinear")
    expected = torch.nn.functional.interpolate(square, (48, 48), mode="bilinear")
    assert torch.equal(logits, expected)
    (parts,) = run.forward.losses([key], [item])
    by_hand = mask_losses(logits, torch.zeros(len(item.prompts), 1), item.native_targets)
    assert float(parts.bce.detach()) == pytest.approx(float(by_hand.bce), abs=1e-6)
    assert float(parts.dice.detach()) == pytest.approx(float(by_hand.dice), abs=1e-6)
    result = run_module.validate(run.forward, run.val_set, [(0, 0, 0)], run.config.loss)
    assert result.loss == pytest.approx(_loss_in_own_pixels(run), abs=1e-5)
    assert begin(run_config(root, name="other")).train_set[key].native_targets is None


def _loss_in_own_pixels(run: run_module.Run) -> float:
    item = run.val_set[(0, 0, 0)]
    assert item.native_targets is not None
    with torch.no_grad():
        tokens = run.built.model.eval().encode_text(item.prompts)
        low = run.built.model(run.forward.embed([item]), tokens)[0]
    square = torch.nn.functional.interpolate(low, (64, 64), mode="bilinear")
    own = torch.nn.functional.interpolate(square, (48, 48), mode="bilinear")
    parts = mask_losses(own, torch.zeros(len(item.prompts), 1), item.native_targets)
    return float(parts.bce + parts.dice)


def test_native_masks_follow_prompts_that_geometry_reorders(root: Path) -> None:
    config = run_config(
        root,
        loss={"resolution": "image"},
        geometry={"probability": 1.0},
        prompts={"negatives": 2, "distractor_p": 1.0},
    )
    run = begin(config)
    item = run.train_set[(0, 1, 0)]
    assert item.native_targets is not None
    # Absent first, so that the order of decoding is another one than that of the item.
    turned = replace(
        item,
        prompts=item.prompts[::-1],
        concepts=item.concepts[::-1],
        targets=item.targets.flip(0),
        native_targets=item.native_targets.flip(0),
    )
    tokens = run.built.model.encode_text(turned.prompts)
    embedding = run.forward.embed([turned])
    answers = run.forward.decode(turned, embedding, tokens, np.random.default_rng(0))
    targets = answers.targets
    assert answers.order == [2, 0, 1]
    assert targets.flatten(1).any(1).tolist() == [True, False, False]


def test_dropout_of_the_text_encoder_is_on_only_where_asked_and_follows_the_seed(
    root: Path,
) -> None:
    context = {"n_tokens": 4, "depth": 3}
    silent = begin(run_config(root))
    noisy_config = run_config(root, name="noisy", context={**context, "text_dropout": True})
    noisy = begin(noisy_config)

    def losses(run: run_module.Run, epoch: int) -> float:
        key = (epoch, 0, 0)
        item = run.train_set[(0, 0, 0)]
        (parts,) = run.forward.losses([key], [item])
        return float(parts.bce.detach())

    assert not silent.built.model.text_encoder.training
    assert losses(silent, 0) == losses(silent, 1)
    assert noisy.built.model.text_encoder.training
    state = torch.get_rng_state()
    assert losses(noisy, 0) == losses(noisy, 0)
    assert losses(noisy, 0) != losses(noisy, 1)
    assert losses(noisy, 0) != losses(silent, 0)
    assert torch.equal(torch.get_rng_state(), state)
    # Nothing of it at inference, and a resumed run draws what an uninterrupted one draws.
    assert torch.equal(logits_of(noisy.built), logits_of(silent.built))
    short = {"context": {**context, "text_dropout": True}, "epochs": 2 / 3, "save_every": 1}
    whole = train(run_config(root, name="whole", **short))
    parts = run_config(root, name="parts", **short)
    train(parts, stop_after=1)
    assert whole.state.step == 2
    assert same(learned(whole), learned(train(parts)))


def test_a_step_over_accumulated_batches_logs_the_mean_and_its_gradient(root: Path) -> None:
    settings = {"optim": {"lr": 1e-3, "grad_clip": 1e-6}, "loss": {"iou": 0.5}}
    run = begin(run_config(root, name="by-hand", batch_size=3, **settings))
    run.built.model.train()
    loss, _ = run_module.batch_loss(run, next(run_module.batches_at(run, run.side_px)))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in trainable_parameters(run.built.model).values()]
    length = torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt()
    assert length > 0.01
    accumulated = run_config(root, name="accumulated", batch_size=1, accumulate=3, **settings)
    done = train(accumulated, stop_after=1)
    assert logged(done, "loss")[1] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert logged(done, "grad_norm")[1] == pytest.approx(float(length), rel=1e-3)
