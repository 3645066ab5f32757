"""Digests of samples: what they depend on, and that those of earlier results stay as they were."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from textsam.data.digests import FileDigests
from textsam.data.sample import CocoTarget, Sample, Target
from textsam.errors import DataError


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    image, mask = tmp_path / "a.png", tmp_path / "a_mask.png"
    image.write_bytes(b"image")
    mask.write_bytes(b"mask")
    coco = CocoTarget("polyp", tmp_path / "all.json", (4, 5), (b"\x01\x02",))
    targets = (Target("tumor", mask, 2, (1, 2)), coco)
    return Sample("bus", "breast ultrasound", "a", image, targets, ("cyst",), 2.0)


def test_samples_have_the_digest_that_finished_ablations_record(sample: Sample) -> None:
    targets = [["tumor", 2, [1, 2], sha256(b"mask")], ["polyp", [4, 5], ["0102"]]]
    known = ["bus", "breast ultrasound", "a", 2.0, ["cyst"], sha256(b"image"), targets]
    text = json.dumps(known).encode()
    assert FileDigests().of_samples([sample]) == sha256(text)
    assert FileDigests().of_samples([sample, sample]) == sha256(text + text)


def test_one_sample_is_told_by_what_it_shows(sample: Sample, tmp_path: Path) -> None:
    first = FileDigests().of_sample(sample)
    same = replace(sample, dataset="other", stem="b", weight=1.0)
    assert FileDigests().of_sample(same) == first
    tumor, polyp = sample.targets
    others = [
        replace(sample, modality="brain MRI"),
        replace(sample, absent=()),
        replace(sample, targets=(tumor,)),
        replace(sample, targets=(tumor, replace(polyp, concept="lesion"))),
        replace(sample, image_path=tmp_path / "a_mask.png"),
    ]
    assert len({first, *map(FileDigests().of_sample, others)}) == 1 + len(others)
    (tmp_path / "a_mask.png").write_bytes(b"corrected")
    assert FileDigests().of_sample(sample) != first
    sample.image_path.unlink()
    with pytest.raises(DataError, match=r"a\.png cannot be read: No such file"):
        FileDigests().of_sample(sample)
