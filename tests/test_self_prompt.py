"""Self-prompting and self-distillation: passes in training, their gradients, and what is off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import begin, learned, logged, run_config, same, train, write_data
from torch import Tensor

from textsam.adapters import read_adapter_config
from textsam.data.dataset import TrainItem
from textsam.inference.refinement import RefineWith
from textsam.preprocess import Frame
from textsam.train.losses import LossParts, distillation_loss, mask_losses, mixed
from textsam.train.run import Run, batch_loss, batches_at
from textsam.train.settings import GeometrySettings
from textsam.train.simulate import Given, simulated_geometry
from textsam.train.step import Forward

TWICE: dict[str, Any] = {
    "passes": 2,
    "gives": "box",
    "distillation": {"weight": 0.5, "temperature": 2.0},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def blob(*sides: int) -> Tensor:
    """(n, 1, 16, 16) logits, positive in a corner of so many cells."""
    logits = torch.full((len(sides), 1, 16, 16), -4.0)
    for row, side in enumerate(sides):
        logits[row, :, 2 : 2 + side, 2 : 2 + side] = 4.0
    return logits


def the_loop_of_before(run: Run, key: tuple[int, int, int], item: TrainItem) -> LossParts:
    """One pass, with text, centroid and box for present concepts, as it was first written."""
    model, policy = run.built.model, run.config.geometry
    # Words go through the encoder together, and the last bit of one depends on its neighbours.
    words = sorted(set(item.prompts))
    tokens = model.encode_text(words)[[words.index(prompt) for prompt in item.prompts]]
    embedding = run.forward.embed([item])
    rng = np.random.default_rng((run.config.seed, *key, 0x6E0))
    targets = item.targets
    present = targets.flatten(1).bool().any(1)
    if rng.random() < policy.probability and bool(present.any()):
        pairs = [
            simulated_geometry(target.numpy().astype(bool), policy.jitter, rng)
            for target in targets[present]
        ]
        points = torch.tensor(np.stack([p for p, _ in pairs]), dtype=torch.float32)[:, None]
        boxes = torch.tensor(np.stack([b for _, b in pairs]), dtype=torch.float32)
        prompt = model.prompt_tokens(tokens[present], (points, torch.ones(len(pairs), 1)), boxes)
        parts = [model.decode(embedding, *prompt)]
        if not bool(present.all()):
            parts.append(model(embedding, tokens[~present]))
        logits = torch.cat([part[0] for part in parts])
        iou = torch.cat([part[1] for part in parts])
        targets = torch.cat([targets[present], targets[~present]])
    else:
        logits, iou = model(embedding, tokens)
    logits = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
    return mask_losses(logits, iou, targets)


@pytest.mark.parametrize("settings", [{}, {"self_prompt": {"passes": 1}}, {"seed": 5}])
def test_with_the_defaults_it_is_the_loop_of_before_bit_for_bit(
    root: Path, settings: dict[str, Any]
) -> None:
    geometry = {"probability": 0.6, "jitter": 0.2}
    prompts = {"negatives": 2, "distractor_p": 1.0}
    run = begin(run_config(root, geometry=geometry, prompts=prompts, **settings))
    geometric = 0
    for key in [(0, i, 0) for i in range(6)]:
        item = run.train_set[key]
        (ours,) = run.forward.losses([key], [item])
        theirs = the_loop_of_before(run, key, item)
        for name in ("bce", "dice", "iou"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), (key, name)
        assert ours.distillation is None
        geometric += np.random.default_rng((run.config.seed, *key, 0x6E0)).random() < 0.6
    assert 0 < geometric < 6, "both kinds of images were seen"


def test_distillation_is_the_divergence_by_hand_and_nothing_where_both_agree() -> None:
    student = torch.tensor([[[[0.3, -1.2], [2.0, 0.0]]]], requires_grad=True)
    teacher = torch.tensor([[[[1.0, -3.0], [2.0, 0.5]]]], requires_grad=True)
    heat = 2.0
    loss = distillation_loss(student, teacher, heat)
    p, q = (torch.sigmoid(x.detach().double() / heat) for x in (teacher, student))
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert float(loss.detach()) == pytest.approx(float(heat**2 * divergence.mean()), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None, "the teacher gets no gradient at all"
    # d/ds of T²·KL = T·(σ(s/T) − σ(t/T)), a mean over four pixels.
    expected = (heat * (q - p) / 4).float()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected, rtol=1e-4, atol=1e-6)
    assert float(distillation_loss(student.detach(), student.detach())) == pytest.approx(
        0, abs=1e-7
    )
    swapped = distillation_loss(teacher, student, heat)
    assert float(swapped.detach()) != pytest.approx(float(loss.detach()), rel=1e-2)


def test_passes_are_mixed_by_weight() -> None:
    one, other = (
        LossParts(*(torch.tensor(v) for v in values)) for values in ((1.0, 2, 3), (5, 6, 7))
    )
    assert mixed([one]) is one
    assert float(mixed([one, other]).bce) == 3.0
    half = mixed([one, other], (1.0, 0.5))
    assert [float(v) for v in (half.bce, half.dice, half.iou)] == [3.5, 5.0, 6.5]


def test_the_weight_of_a_single_pass_counts_whatever_the_batch(root: Path) -> None:
    found = []
    for size in (1, 2):
        for weights in ([], [0.25]):
            own = {"passes": 1, "weights": weights}
            run = begin(
                run_config(root, name=f"{size}-{len(found)}", batch_size=size, self_prompt=own)
            )
            mean, _ = batch_loss(run, next(batches_at(run, run.side_px)))
            found.append(float(mean.detach()))
    assert found[1] == pytest.approx(found[0] / 4, rel=1e-5)
    assert found[3] == pytest.approx(found[2] / 4, rel=1e-5)


def test_several_images_at_once_have_all_their_passes(root: Path) -> None:
    run = begin(run_config(root, self_prompt=TWICE))
    keys = [(0, 0, 0), (0, 1, 0)]
    with torch.no_grad():
        parts = run.forward.losses(keys, [run.train_set[key] for key in keys])
    assert all(part.distillation is not None for part in parts)
    assert [part.distillation_weight for part in parts] == [0.5, 0.5]


class Recorder:
    """Notes what `Forward` asks the decoder, and answers from a list where it has one."""

    def __init__(self, run: Run, answers: list[Tensor] | None = None) -> None:
        self.asked: list[list[Given | None]] = []
        self.words: list[list[float] | None] = []
        self.worded: list[bool] = []
        self.answers = answers
        ask = run.forward.asking.ask

        def noted(
            embedding: Tensor, tokens: Tensor | None, given: Any, worded: bool = True
        ) -> tuple[Tensor, Tensor]:
            self.asked.append(list(given))
            self.words.append(None if tokens is None else tokens[:, 0].tolist())
            self.worded.append(worded)
            if self.answers is None:
                return ask(embedding, tokens, given, worded)
            logits = self.answers.pop(0)
            return logits, torch.full((len(logits), 1), float(len(self.asked)))

        run.forward.asking.ask = noted  # type: ignore[method-assign]


def test_the_box_of_a_pass_is_that_of_the_mask_before_and_empty_masks_keep_their_answer(
    root: Path,
) -> None:
    run = begin(run_config(root, self_prompt=TWICE, prompts={"negatives": 1, "distractor_p": 1.0}))
    item = run.train_set[(0, 0, 0)]
    assert len(item.prompts) == 2
    first = blob(5, 0).requires_grad_()
    second = blob(7).requires_grad_()
    recorder = Recorder(run, [first, second])
    answers = run.forward.decode(item, torch.zeros(1), torch.zeros(2, 256), None)
    (again,) = recorder.asked[1]
    assert again is not None
    assert again.box is not None
    # Cells 2 … 6 of 16 are pixels 8 … 27 of 64.
    assert again.box.tolist() == [8, 8, 27, 27]
    assert again.points.shape == (0, 2)
    assert again.mask is None
    assert torch.equal(answers.logits[1][1], answers.logits[0][1]), "the empty one keeps its answer"
    assert not torch.equal(answers.logits[1][0], answers.logits[0][0])
    assert [pair[:, 0].tolist() for pair in answers.iou] == [[1, 1], [2, 1]]
    run.forward._loss(answers).total(1, 1, 0).backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert second.grad is not None
    assert all(bool(row.any()) for row in (*first.grad, *second.grad)), "both passes learn"


ORDER = [1, 0, 2]  # of the present thing, which is asked for between two absent ones
NUMBERED = torch.arange(3.0)[:, None].expand(3, 256)


def between_absent_ones(root: Path, **settings: Any) -> tuple[Run, TrainItem]:
    run = begin(run_config(root, prompts={"negatives": 2, "distractor_p": 1.0}, **settings))
    item = run.train_set[(0, 0, 0)]
    prompts = [item.prompts[place] for place in ORDER]
    return run, replace(item, prompts=prompts, targets=item.targets[ORDER])


def box_of(mask: Tensor) -> list[int]:
    ys, xs = (np.flatnonzero(mask.numpy().any(axis)) for axis in (1, 0))
    return [xs[0], ys[0], xs[-1], ys[-1]]


def boxes_of(asked: list[Given | None]) -> list[list[float] | None]:
    return [None if one is None or one.box is None else one.box.tolist() for one in asked]


def test_words_and_targets_follow_their_prompts_through_all_passes(root: Path) -> None:
    geometry = {"probability": 1.0, "jitter": 0.0, "kinds": {"box": 1}}
    own = {**TWICE, "passes": 3}
    run, item = between_absent_ones(root, geometry=geometry, self_prompt=own)
    recorder = Recorder(run, [blob(5, 0, 3), blob(7, 9), blob(4, 6)])
    answers = run.forward.decode(item, torch.zeros(1), NUMBERED, np.random.default_rng(0))
    assert answers.order == ORDER
    assert torch.equal(answers.targets, item.targets[ORDER])
    assert recorder.words == [ORDER, [1, 2], [1, 2]]
    assert [boxes_of(asked) for asked in recorder.asked] == [
        [box_of(item.targets[1]), None, None],
        [[8, 8, 27, 27], [8, 8, 19, 19]],
        [[8, 8, 35, 35], [8, 8, 43, 43]],  # of the second pass, not of the first
    ]
    assert [iou[:, 0].tolist() for iou in answers.iou] == [[1, 1, 1], [2, 1, 2], [3, 1, 3]]
    *earlier, last = answers.logits
    pull = sum(float(distillation_loss(logits, last, 2.0)) for logits in earlier) / 2
    parts = run.forward._loss(answers)
    assert parts.distillation is not None
    assert float(parts.distillation) == pytest.approx(pull)
    assert float(parts.total(0, 0, 0)) == pytest.approx(0.5 * pull)


def test_where_no_mask_is_left_the_last_answer_stays(root: Path) -> None:
    run, item = between_absent_ones(root, self_prompt=TWICE)
    recorder = Recorder(run, [blob(0, 0, 0)])
    answers = run.forward.decode(item, torch.zeros(1), NUMBERED, None)
    assert len(recorder.asked) == 1
    assert torch.equal(answers.logits[1], answers.logits[0])
    assert torch.equal(answers.iou[1], answers.iou[0])


@pytest.mark.parametrize("text", [True, False])
def test_geometry_of_an_earlier_answer_is_that_to_the_word_or_the_truth_s_box(
    root: Path, text: bool
) -> None:
    kinds = {"probability": 1.0, "jitter": 0.0, "kinds": {"box": 1}}
    run, item = between_absent_ones(root, geometry={**kinds, "earlier_p": 1.0, "text_p": 0.0})
    recorder = Recorder(run, [blob(5), blob(5, 0, 0)])
    words = NUMBERED if text else None
    run.forward.decode(item, torch.zeros(1), words, np.random.default_rng(0))
    assert recorder.words == ([[1], ORDER] if text else [None, None])
    before, after = map(boxes_of, recorder.asked)
    assert before == [None if text else box_of(item.targets[1])]
    assert after == [[8, 8, 27, 27], None, None]
    assert recorder.worded == [True, False], "the geometry comes without the word"


def test_validation_geometry_is_drawn_by_seed_and_key_where_asked(root: Path) -> None:
    forward = begin(run_config(root)).forward

    def first(key: tuple[int, int, int], seed: int = 0) -> float | None:
        forward.seed = seed
        draws = forward.validation_draws(key)
        return None if draws is None else draws.random()

    assert first((0, 0, 0)) is None
    forward.geometry = GeometrySettings(probability=1.0, in_validation=True)
    assert first((0, 0, 0)) == first((0, 0, 0))
    assert len({first((0, 0, 0)), first((0, 1, 0)), first((0, 0, 0), 1)}) == 3


def test_beyond_the_image_the_encoder_sees_zeros(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(run_config(root))
    seen: list[Tensor] = []
    encode = run.built.model.encode_image
    monkeypatch.setattr(run.built.model, "encode_image", lambda x: seen.append(x) or encode(x))
    run.forward.embed([replace(run.train_set[(0, 0, 0)], size_px=(40, 23))])
    (square,) = seen[0]
    assert not square[:, 40:].any()
    assert not square[:, :, 23:].any()
    assert square[:, :40, :23].flatten(1).any(1).all()


def test_the_pull_reaches_the_earlier_pass_alone(root: Path) -> None:
    run = begin(run_config(root, self_prompt=TWICE, prompts={"negatives": 0}))
    item = run.train_set[(0, 0, 0)]
    first, second = blob(5).requires_grad_(), blob(7).requires_grad_()
    Recorder(run, [first, second])
    answers = run.forward.decode(item, torch.zeros(1), torch.zeros(1, 256), None)
    pull = run.forward._loss(answers).distillation
    assert pull is not None
    pull.backward()  # type: ignore[no-untyped-call]
    assert second.grad is None
    assert first.grad is not None
    # Where the later pass sees more, the earlier one's logits must rise: a negative gradient.
    assert bool((first.grad[0, 0, 7:9, 7:9] < 0).all())


def test_a_mask_is_given_as_it_is_and_without_a_gradient(root: Path) -> None:
    settings = {"passes": 2, "gives": "box+mask"}
    run = begin(run_config(root, self_prompt=settings, prompts={"negatives": 0}))
    item = run.train_set[(0, 0, 0)]
    first = blob(5).requires_grad_()
    recorder = Recorder(run, [first, blob(7)])
    run.forward.decode(item, torch.zeros(1), torch.zeros(1, 256), None)
    (again,) = recorder.asked[1]
    assert again is not None
    assert again.mask is not None
    assert torch.equal(again.mask, first.detach()[0])
    assert not again.mask.requires_grad


@pytest.mark.parametrize("gives", ["box", "box+centroid", "mask", "box+5points"])
def test_training_asks_as_inference_refines(root: Path, gives: str) -> None:
    """Both loops give the same second answer, up to where their masks are cut."""
    from tiny import loud_model

    from textsam.inference.refine import decode_passes
    from textsam.train.run import architecture_from

    config = run_config(
        root,
        self_prompt={"passes": 2, "gives": gives},
        adapter={"normalise": True, "scale": 16.0},
        tuning={"rank": 4},
    )
    run = begin(config)
    built = loud_model(architecture_from(config))
    forward = Forward(
        built,
        device=torch.device("cpu"),
        precision="float32",
        geometry=config.geometry,
        self_prompt=config.self_prompt,
        seed=0,
    )
    built.model.eval()
    item = run.val_set[(0, 0, 0)]
    # An image of 64 x 48 px in a square of 64, padding beside it. Of the image's own size, since
    # training takes boxes in the square's pixels and inference in the image's.
    frame = Frame((64, 48), 64)
    assert frame.valid_px == (64, 48)
    one = replace(
        item,
        size_px=frame.valid_px,
        prompts=["tumor"],
        concepts=["tumor"],
        targets=item.targets[:1],
    )
    with torch.inference_mode():
        embedding = forward.embed([one])
        tokens = built.model.encode_text(["tumor"])
        ours = forward.decode(one, embedding, tokens, None)
        theirs = decode_passes(
            built.model,
            embedding,
            tokens,
            frame,
            refine=[1],
            gives=RefineWith(gives),
            draws=[(0, "a", "tumor")],
        )
    assert bool((ours.logits[0] > 0).any())
    enlarged = [
        F.interpolate(p.logits, (64, 64), mode="bilinear", align_corners=False)[..., :48]
        for p in theirs
    ]
    torch.testing.assert_close(ours.logits[0], enlarged[0], rtol=1e-4, atol=1e-4)
    if gives != "box+5points":  # whose points are drawn by other generators
        torch.testing.assert_close(ours.logits[1], enlarged[1], rtol=1e-3, atol=1e-3)
    assert (ours.logits[1] - ours.logits[0]).abs().max() > 1e-3


BUSY: dict[str, Any] = {
    "self_prompt": {**TWICE, "gives": "box+point", "passes": 3},
    "geometry": {
        "probability": 0.7,
        "kinds": {"box": 1, "point": 1, "box+mask": 1},
        "earlier_p": 0.4,
        "text_p": 0.5,
    },
    "prompts": {"negatives": 1, "distractor_p": 1.0},
}


def test_a_killed_run_ends_as_one_that_was_not(root: Path) -> None:
    whole = train(run_config(root, **BUSY))
    config = run_config(root, **{**BUSY, "out": str(root / "other")})
    train(config, stop_after=4)
    resumed = train(config)
    assert same(learned(resumed), learned(whole))
    assert resumed.state.best == whole.state.best
    assert min(logged(whole, "distillation").values()) >= 0
    record = read_adapter_config(whole.folder / "best")
    assert (record.refine, record.refine_with.value) == (2, "box+point")


def test_without_words_the_first_pass_is_asked_nothing(root: Path) -> None:
    run = begin(
        run_config(root, text=False, self_prompt=TWICE, prompts={"negatives": 0}, augment={})
    )
    recorder = Recorder(run)
    key = (0, 0, 0)
    (parts,) = run.forward.losses([key], [run.train_set[key]])
    parts.total(1, 1, 0).backward()  # type: ignore[no-untyped-call]
    assert recorder.asked[0] == [None]
    grown = {n for n, p in run.built.model.named_parameters() if p.grad is not None}
    assert not any(name.startswith(("context.", "adapter.")) for name in grown)
    assert any(name.startswith("mask_decoder.") for name in grown)
