"""Kinds of image: told apart by their embeddings, and what cannot be in one is not answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from runs import ONLY_FLIPS
from scipy.stats import multivariate_normal
from tiny import loud_model, tiny_segmenter, write_images_and_masks

from textsam.adapters import read_adapter_config
from textsam.checkpoint import save_adapter
from textsam.data.augment import AugmentConfig
from textsam.data.folder import samples_from_folder
from textsam.export import OnnxSegmenter, export_onnx
from textsam.finish import finish_adapter
from textsam.frame import SquareGeometry
from textsam.kinds import ImageKinds, mean_embedding
from textsam.kinds_fit import discriminant, fit_kinds
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
    for concept in CONCEPTS.values():
        assert set(concept.modalities) <= set(IMAGE_KINDS)


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
        assert told.probabilities(point)["X-ray"] == pytest.approx(expected, rel=1e-5)


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


def test_an_export_rules_out_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(2, 256))
    kinds = ImageKinds(
        names=("dermoscopy", "X-ray"),
        weights=tuple(tuple(map(float, row)) for row in weights),
        biases=(0.0, 0.0),
        threshold=0.4,
    )
    segmenter = tiny_segmenter(kinds=kinds)
    onnx = OnnxSegmenter(export_onnx(segmenter, tmp_path / "export"))
    seen = set()
    for seed in range(6):
        image = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        image = np.where(rng.random(3) < 0.5, image, 255 - image // (seed + 1)).astype(np.uint8)
        ours, theirs = segmenter.segment(image, "lung"), onnx.segment(image, "lung")
        assert theirs.extra.get("not_in") == ours.extra.get("not_in")
        assert theirs.found == ours.found
        seen.add(ours.extra.get("not_in"))
    assert "dermoscopy" in seen


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
    for kind, group in (("ultrasound", scans[5:]), ("MRI", heads[5:])):
        for sample in group:
            pixels = np.array(Image.open(sample.image_path).convert("RGB"))
            shares = told.probabilities(segmenter.mean_embedding(pixels))
            assert shares[kind] > 0.5
    assert fit_kinds(segmenter, scans, augment=flips, progress=False) is None, "one kind alone"
    assert fit_kinds(segmenter, [*scans, *heads[:3]], augment=flips, progress=False) is None, (
        "three images say too little of a kind"
    )


def test_what_kinds_rule_out_counts_as_empty_and_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textsam.calibrate.MIN_DICE", 0.0)
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


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("MRI",)},
        {"biases": (0.0,)},
        {"weights": ((0.0, 1.0), (0.0,))},
        {"weights": ((0.0,),)},
        {"threshold": 0.0},
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
