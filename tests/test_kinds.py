"""Kinds of image: told apart by their embeddings, and what cannot be in one is not answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from runs import ONLY_FLIPS
from scipy.stats import multivariate_normal
from tiny import loud_model, tiny_config, tiny_segmenter, write_images_and_masks

from textsam.adapters import read_adapter_config
from textsam.calibrate.finish import finish_adapter
from textsam.calibrate.kinds import discriminant, fit_kinds
from textsam.checkpoint import save_adapter
from textsam.data.augment_config import AugmentConfig
from textsam.data.folder import samples_from_folder
from textsam.errors import AdapterError
from textsam.frame import SquareGeometry
from textsam.inference.kinds import ImageKinds, Remainder, Spread, mean_embedding
from textsam.inference.ready import ready_segmenter
from textsam.inference.segmenter import Segmenter, UnknownPromptWarning
from textsam.model.tuning import trainable_state
from textsam.vocabulary import CONCEPTS, IMAGE_KINDS, MODALITIES


def always(kind: str, *others: str, channels: int = 256) -> ImageKinds:
    """Takes every image for `kind`."""
    names = (kind, *others)
    rows = tuple((0.0,) * channels for _ in names)
    return ImageKinds(
        names=names, weights=rows, biases=(9.0, *(0.0 for _ in others)), threshold=0.05
    )


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def test_every_modality_is_of_a_kind() -> None:
    assert set(IMAGE_KINDS) == set(MODALITIES)
    assert IMAGE_KINDS["brain MRI"] == IMAGE_KINDS["cardiac MRI"]
    assert IMAGE_KINDS["endoscopic ultrasound"] != IMAGE_KINDS["breast ultrasound"]
    for concept in CONCEPTS.values():
        assert set(concept.modalities) <= set(IMAGE_KINDS)


def test_kinds_of_another_models_embeddings_are_refused_before_the_first_image() -> None:
    def ready(channels: int) -> Segmenter:
        config = tiny_config(kinds=always("ultrasound", "X-ray", channels=channels))
        return ready_segmenter(
            loud_model(), config, device=torch.device("cpu"), precision=torch.float32
        )

    with pytest.raises(AdapterError, match=r"by 255 channels.*'lite' have 256.*--kinds"):
        ready(255)
    assert ready(256).config.kinds == always("ultrasound", "X-ray")


def test_the_mean_leaves_padding_out() -> None:
    embedding = np.arange(32.0).reshape(2, 4, 4)
    # 50 x 100 px in a square of 64: 32 rows of it are image, which is 2 of 4 cells.
    wide = mean_embedding(embedding, SquareGeometry((50, 100), 64))
    assert wide.tolist() == [np.arange(8).mean(), 16 + np.arange(8).mean()]
    # A cell that is image in part counts: 36 px are 2.25 cells.
    some = mean_embedding(embedding, SquareGeometry((100, 56), 64))
    assert some[0] == embedding[0, :, :3].mean()


def test_the_discriminant_is_bayes_rule_for_equal_covariances() -> None:
    rng = np.random.default_rng(3)
    centres = {"MRI": np.zeros(3), "X-ray": np.array([1.0, 2.0, 0.0])}
    mixing = rng.normal(size=(3, 3))
    rows, kinds = [], []
    for kind, count in (("MRI", 40), ("X-ray", 10)):  # the larger group is not the likelier one
        rows.append(centres[kind] + rng.normal(size=(count, 3)) @ mixing)
        kinds += [kind] * count
    told = discriminant(np.concatenate(rows), kinds)
    assert told.names == ("MRI", "X-ray")
    inside = [np.cov(group, rowvar=False, bias=True) for group in rows]
    covariance = sum(inside) / 2
    covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / 3 * np.eye(3)
    for point in rng.normal(size=(5, 3)):
        densities = [
            # A root of the density halves its log: the temperature.
            multivariate_normal(group.mean(axis=0), covariance).pdf(point) ** 0.5
            for group in rows
        ]
        expected = densities[1] / sum(densities)
        near = told.model_copy(update={"spread": None}).look(point)
        assert near.probabilities["X-ray"] == pytest.approx(expected, rel=1e-5)
        assert near.likeliest == ("X-ray" if expected > 0.5 else "MRI")


def test_the_farthest_image_fitted_on_is_as_far_as_familiar_goes() -> None:
    rng = np.random.default_rng(8)
    # Two kinds apart along the first axis. What tells them apart, and nothing else, is looked at.
    rows = rng.normal(size=(60, 3))
    rows[30:, 0] += 20
    told = discriminant(rows, ["MRI"] * 30 + ["X-ray"] * 30)
    assert told.spread is not None
    assert not any(told.look(row).unfamiliar for row in rows)
    inside = [np.cov(rows[part], rowvar=False, bias=True) for part in (slice(30), slice(30, 60))]
    covariance = sum(inside) / 2
    covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / 3 * np.eye(3)
    centres = np.stack([rows[:30].mean(axis=0), rows[30:].mean(axis=0)])
    # The scores span a plane of the three dimensions, in which this is the distance.
    basis = np.linalg.solve(covariance, centres.T)
    metric = basis @ np.linalg.inv(basis.T @ covariance @ basis) @ basis.T
    offsets = rows[:, None] - centres[None]
    distances = np.einsum("nki,ij,nkj->nk", offsets, metric, offsets).min(axis=1)
    assert told.spread.reach == pytest.approx(distances.max(), rel=1e-3)
    assert told.spread.distance(told.scores(rows[7])) == pytest.approx(distances[7], rel=1e-3)
    # With less than all of them, those that lie farthest are unfamiliar.
    most = discriminant(rows, ["MRI"] * 30 + ["X-ray"] * 30, covered=0.9)
    assert most.spread is not None
    assert most.spread.reach == pytest.approx(np.sort(distances)[53], rel=1e-3)
    assert sum(most.look(row).unfamiliar for row in rows) == 6
    # Half-way between the two, and beyond one of them, it is like none.
    for far in ([10.0, 0.0, 0.0], [-20.0, 0.0, 0.0]):
        look = told.look(np.array(far))
        assert look.unfamiliar
        assert not look.probabilities


def test_an_image_with_something_else_is_unfamiliar_though_it_lies_near_a_kind() -> None:
    rng = np.random.default_rng(4)
    # Two kinds apart along the first of 40 channels; all vary much in 8, and hardly in the rest.
    rows = rng.normal(size=(160, 40)) * np.where(np.arange(40) < 8, 3.0, 0.01)
    rows[80:, 0] += 60
    kinds = ["MRI"] * 80 + ["X-ray"] * 80
    told = discriminant(rows, kinds)
    assert told.remainder is not None
    assert not any(told.look(row).unfamiliar for row in rows)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
    assert (np.diff(values) > 0).all()
    offsets = rows - rows.mean(axis=0)
    # 32 directions of the 40 are left out.
    lengths = np.linalg.norm(offsets @ vectors[:, :8], axis=1)
    assert told.remainder.length(rows[11]) == pytest.approx(lengths[11], rel=1e-3)
    assert told.remainder.reach == pytest.approx(lengths.max(), rel=1e-3)
    # The same kind as before, with something that no image had.
    odd = rows[11] + 5 * lengths.max() * vectors[:, 0]
    before, look = told.look(rows[11]), told.look(odd)
    assert look.unfamiliar
    assert look.likeliest == before.likeliest == "MRI"
    assert look.probabilities["MRI"] == pytest.approx(before.probabilities["MRI"], abs=1e-3)
    most = discriminant(rows, kinds, covered=0.9)
    assert most.remainder is not None
    assert most.remainder.reach == pytest.approx(np.sort(lengths)[143], rel=1e-3)


def test_directions_through_few_images_say_nothing_of_others() -> None:
    rng = np.random.default_rng(4)
    kinds = ["MRI", "X-ray"] * 64
    assert discriminant(rng.normal(size=(128, 40)), kinds).remainder is not None
    assert discriminant(rng.normal(size=(126, 40)), kinds[:126]).remainder is None
    assert discriminant(rng.normal(size=(128, 32)), kinds).remainder is None


def test_an_unfamiliar_image_near_a_kind_says_so_and_still_rules_out() -> None:
    plain = tiny_segmenter().segment(picture(), ["tumor", "lung"])
    nothing = Remainder(centre=(0.0,) * 256, directions=((1.0, *[0.0] * 255),), reach=1e-6)
    kinds = always("dermoscopy", "X-ray").model_copy(update={"remainder": nothing})
    tumor, lung = tiny_segmenter(kinds=kinds).segment(picture(), ["tumor", "lung"])
    assert tumor.extra == {**plain[0].extra, "unfamiliar": True}
    assert tumor.score == plain[0].score
    assert not lung.found
    assert lung.extra["not_in"] == "dermoscopy"
    assert lung.extra["unfamiliar"]


def test_a_remainder_of_other_channels_is_refused() -> None:
    kinds = always("dermoscopy", "X-ray").model_dump()
    wrong = {"centre": (0.0,) * 256, "directions": ((1.0, 0.0),), "reach": 1.0}
    with pytest.raises(ValidationError, match="256 channels, so the centre and the directions"):
        ImageKinds(**{**kinds, "remainder": wrong})


def test_in_an_unfamiliar_image_nothing_is_ruled_out_and_the_answer_says_so() -> None:
    plain = tiny_segmenter().segment(picture(), "lung")
    one_kind = always("dermoscopy", "X-ray")
    nowhere = Spread(centres=((1e6, 1e6),) * 2, precision=((1.0, 0.0), (0.0, 1.0)), reach=4.0)
    lost = tiny_segmenter(kinds=one_kind.model_copy(update={"spread": nowhere}))
    lung = lost.segment(picture(), "lung")
    assert lung.found
    assert lung.score == plain.score
    assert lung.extra == {**plain.extra, "unfamiliar": True}
    shown = lost.segment(picture(), "lung", boxes=(5, 5, 40, 30))
    assert "unfamiliar" not in shown.extra, "who shows a place knows what is there"
    here = Spread(centres=((9.0, 0.0),) * 2, precision=nowhere.precision, reach=4.0)
    known = tiny_segmenter(kinds=one_kind.model_copy(update={"spread": here}))
    assert known.segment(picture(), "lung").extra["not_in"] == "dermoscopy"


def test_only_what_no_likely_kind_can_show_is_ruled_out() -> None:
    kinds = always("dermoscopy", "X-ray", "ultrasound")
    assert kinds.rules_out("lung", {"X-ray": 0.049, "dermoscopy": 0.951})
    assert not kinds.rules_out("lung", {"X-ray": 0.05, "dermoscopy": 0.95})
    # A radiograph may show a mass, and so may a scan.
    assert not kinds.rules_out("tumor", {"ultrasound": 0.03, "MRI": 0.03, "fundus": 0.94})
    assert not kinds.rules_out("pelican", {"MRI": 1.0}), "outside the vocabulary"
    assert not kinds.rules_out(None, {"MRI": 1.0})
    assert not kinds.rules_out("polyp", {"MRI": 0.9, "X-ray": 0.1}), "no colonoscopy was seen"


def test_an_answer_that_is_ruled_out_is_empty_and_says_why() -> None:
    plain = tiny_segmenter().segment(picture(), ["tumor", "lung"])
    assert plain[1].found
    rules = tiny_segmenter(kinds=always("dermoscopy", "X-ray"))
    tumor, lung = rules.segment(picture(), ["tumor", "lung"])
    assert np.array_equal(tumor.mask, plain[0].mask)
    assert tumor.extra == plain[0].extra
    assert tumor.score == plain[0].score
    assert (lung.found, lung.score, lung.area_px) == (False, 0.0, 0)
    assert lung.extra["not_in"] == "dermoscopy"
    assert lung.extra["rejected_area_px"] == plain[1].area_px
    assert np.array_equal(lung.probability, plain[1].probability)
    right = tiny_segmenter(kinds=always("X-ray", "dermoscopy")).segment(picture(), "lung")
    assert right.found
    assert "not_in" not in right.extra
    # A word that this adapter was not trained for is a guess, and nothing is known of it.
    with pytest.warns(UnknownPromptWarning):
        polyp = tiny_segmenter(kinds=always("dermoscopy", "colonoscopy")).segment(
            picture(), "polyp"
        )
    assert polyp.found
    assert "not_in" not in polyp.extra


def test_a_place_that_is_shown_is_not_ruled_out() -> None:
    rules = tiny_segmenter(kinds=always("dermoscopy", "X-ray"))
    shown = rules.segment(picture(), "lung", boxes=(5, 5, 40, 30))
    assert shown.found
    assert shown.mask.any()


def test_a_batch_larger_than_what_is_kept_is_told_apart_image_by_image() -> None:
    rules = tiny_segmenter(kinds=always("dermoscopy", "X-ray"))
    pictures = [np.roll(picture(), shift, axis=0) for shift in range(6)]
    answers = list(rules.segment_batch(pictures, ["lung"], batch_size=6))
    assert [answer.answers[0].extra["not_in"] for answer in answers] == ["dermoscopy"] * 6


def test_images_of_one_batch_are_each_of_their_own_kind() -> None:
    pictures = [picture(), 255 - picture(), picture()]
    one, other, _ = (tiny_segmenter().mean_embedding(pixels) for pixels in pictures)
    apart = (other - one) / np.square(other - one).sum() * 100
    kinds = ImageKinds(
        names=("X-ray", "dermoscopy"),
        weights=((0.0,) * 256, tuple(apart)),
        biases=(0.0, -apart @ (one + other) / 2),
        threshold=0.05,
    )
    rules = tiny_segmenter(kinds=kinds)
    answers = rules.segment_batch(pictures, "lung", batch_size=3)
    assert [one.answers[0].extra.get("not_in") for one in answers] == [None, "dermoscopy", None]


def samples(folder: Path, modality: str, seed: int) -> list[Any]:
    write_images_and_masks(folder, 8, seed=seed)
    found = samples_from_folder(folder, "tumor", modality=modality)
    return list(found)


def test_kinds_are_fitted_on_images_and_hold_on_others(tmp_path: Path) -> None:
    from PIL import Image

    segmenter = tiny_segmenter()
    scans = samples(tmp_path / "scans", "breast ultrasound", 0)
    heads = samples(tmp_path / "heads", "brain MRI", 1)
    for sample in heads:  # stripes tell them apart
        pixels = np.array(Image.open(sample.image_path).convert("L"))
        pixels[::4] = 255
        Image.fromarray(pixels).save(sample.image_path)
    flips = AugmentConfig.model_validate(ONLY_FLIPS)
    told = fit_kinds(
        segmenter, [*scans[:5], *heads[:5]], per_modality=5, augment=flips, progress=False
    )
    assert told is not None
    assert set(told.names) == {"ultrasound", "MRI"}
    # Five images each say little of how far is far.
    told = told.model_copy(update={"spread": None})
    for kind, group in (("ultrasound", scans[5:]), ("MRI", heads[5:])):
        for sample in group:
            pixels = np.array(Image.open(sample.image_path).convert("RGB"))
            look = told.look(segmenter.mean_embedding(pixels))
            assert look.likeliest == kind
    assert fit_kinds(segmenter, scans, augment=flips, progress=False) is None, "one kind alone"
    assert fit_kinds(segmenter, [*scans, *heads[:3]], augment=flips, progress=False) is None, (
        "three images say too little of a kind"
    )


def test_kinds_are_fitted_on_images_changed_as_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = {name: 0.0 for name in AugmentConfig.model_fields if name.endswith("_p")}
    augment = AugmentConfig(**{**off, "absent_crop_p": 1.0, "no_up": ("dermoscopy",)})
    shown = []
    for modality in ("dermoscopy", "brain MRI"):
        write_images_and_masks(tmp_path / modality, 8, side=160)  # room for a part beside
        shown += samples_from_folder(tmp_path / modality, "tumor", modality=modality)
    segmenter = tiny_segmenter()
    seen: list[NDArray[np.uint8]] = []

    def watched(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.append(pixels)
        return np.random.default_rng(len(seen)).normal(size=3)

    monkeypatch.setattr(segmenter, "mean_embedding", watched)
    assert fit_kinds(segmenter, shown, augment=augment, progress=False) is not None
    changed = [not np.array_equal(*pair) for pair in zip(seen[::2], seen[1::2], strict=True)]
    # Skin has no up; a head has. No part is cut out beside the object.
    assert len(changed) == 16
    assert any(changed[:8])
    assert not any(changed[8:])


def test_what_kinds_rule_out_counts_as_empty_and_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textsam.calibrate.decide.MIN_DICE", 0.0)
    # A skin image cannot show a cell nucleus, and the tiny model finds one in anything.
    shown = samples(tmp_path / "data", "dermoscopy", 0)[:3]
    segmenter = tiny_segmenter()
    folder = save_adapter(
        tmp_path / "adapter", segmenter.config, trainable_state(loud_model().model)
    )
    rates = []
    for number, kinds in enumerate((None, always("dermoscopy", "light microscopy"))):
        out = tmp_path / f"finished-{number}"
        rates.append(
            finish_adapter(
                segmenter,
                folder,
                shown,
                out,
                passes=0,
                empty_modality=0.0,
                kinds=kinds,
                progress=False,
            ).empty_modality
        )
        assert read_adapter_config(out).kinds == kinds
    # "lung" is ruled out by the vocabulary only where X-ray is known, and here it is not.
    assert rates[0] == 0.0
    assert rates[1] == 0.5
    # Finished once more without a word of kinds it keeps them, as it keeps sides and cut.
    before = read_adapter_config(tmp_path / "finished-1")
    told = segmenter.with_config(segmenter.config.model_copy(update={"kinds": before.kinds}))
    again = finish_adapter(
        told,
        tmp_path / "finished-1",
        shown,
        tmp_path / "again",
        passes=0,
        empty_modality=0.0,
        progress=False,
    )
    assert again.empty_modality == 0.5
    assert read_adapter_config(tmp_path / "again").kinds == before.kinds


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("MRI",)},
        {"biases": (0.0,)},
        {"weights": ((0.0, 1.0), (0.0,))},
        {"weights": ((0.0,),)},
        {"threshold": 0.0},
        {"spread": {"centres": ((0.0,), (1.0,)), "precision": ((1.0, 0.0),) * 2, "reach": 1.0}},
        {"spread": {"centres": ((0.0, 1.0),) * 2, "precision": ((1.0, 0.0),), "reach": 1.0}},
        {"spread": {"centres": ((0.0, 1.0),) * 2, "precision": ((1.0, 0.0),) * 2, "reach": 0.0}},
    ],
)
def test_what_is_no_discriminant_is_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "names": ("MRI", "X-ray"),
        "weights": ((0.0,), (1.0,)),
        "biases": (0.0, 0.0),
        "threshold": 0.05,
    }
    ImageKinds(**good)
    with pytest.raises(ValidationError):
        ImageKinds(**{**good, **change})
