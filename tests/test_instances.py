"""Objects to ask for by box: the EPFL stacks in miniature, tiles, and one mask per object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from textsam.data.epfl import prepare_epfl
from textsam.data.folder import samples_from_folder
from textsam.data.instances import ObjectSettings, objects_of, tiles_of, write_objects
from textsam.data.sample import load_sample
from textsam.errors import DataError


def write_stack(path: Path, pages: NDArray[np.uint8]) -> None:
    first, *rest = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=rest)


@pytest.fixture
def epfl(tmp_path: Path) -> Path:
    """Stacks of 4 and 5 slices; slice i has the grey value i, and i + 1 pixels of truth."""
    folder = tmp_path / "epfl"
    folder.mkdir()
    for name, count in (("training", 4), ("testing", 5)):
        images = np.repeat(np.arange(count, dtype=np.uint8)[:, None], 192, 1).reshape(-1, 12, 16)
        masks = np.zeros_like(images)
        for number in range(count):
            masks[number, 2, : number + 1] = 255
        write_stack(folder / f"{name}.tif", images)
        write_stack(folder / f"{name}_groundtruth.tif", masks)
    return folder


def test_the_stacks_become_a_plain_folder_with_half_of_the_test_part_for_validation(
    epfl: Path, tmp_path: Path
) -> None:
    assert prepare_epfl(epfl, tmp_path / "out") == {"train": 4, "val": 2, "test": 3}
    for part, numbers in (("train", range(4)), ("val", range(2)), ("test", range(2, 5))):
        samples = samples_from_folder(tmp_path / "out", "mitochondria", split=part)
        assert [s.stem for s in samples] == [f"{n:03d}" for n in numbers]
        for number, sample in zip(numbers, samples, strict=True):
            pixels, masks = load_sample(sample)
            assert np.unique(pixels).tolist() == [number]
            assert int(masks["mitochondria"].sum()) == number + 1
            assert masks["mitochondria"].shape == (12, 16)


def test_stacks_that_do_not_fit_are_refused_and_leave_nothing(epfl: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_stack(epfl / "testing_groundtruth.tif", np.zeros((4, 12, 16), dtype=np.uint8))
    with pytest.raises(DataError, match=r"testing\.tif has 5 slices, testing_groundtruth\.tif 4"):
        prepare_epfl(epfl, out)
    write_stack(epfl / "testing_groundtruth.tif", np.full((5, 12, 16), 7, dtype=np.uint8))
    with pytest.raises(DataError, match=r"values \[7\]; 0 and 255"):
        prepare_epfl(epfl, out)
    write_stack(epfl / "testing_groundtruth.tif", np.zeros((5, 16, 12), dtype=np.uint8))
    words = r"testing_groundtruth\.tif, slice 0: the truth is \(16, 12\), its image \(12, 16\)"
    with pytest.raises(DataError, match=words):
        prepare_epfl(epfl, out)
    for name in ("testing", "testing_groundtruth"):
        write_stack(epfl / f"{name}.tif", np.zeros((1, 12, 16), dtype=np.uint8))
    with pytest.raises(DataError, match=r"testing\.tif has 1 slice; two or more are needed"):
        prepare_epfl(epfl, out)
    (epfl / "testing.tif").write_bytes((epfl / "training.tif").read_bytes()[:20])
    with pytest.raises(DataError, match="cannot be read"):
        prepare_epfl(epfl, out)
    (epfl / "training.tif").unlink()
    with pytest.raises(DataError, match="does not exist; give the folder"):
        prepare_epfl(epfl, out)
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["epfl"]


@pytest.mark.parametrize(
    ("size", "grid"), [((512, 512), (2, 2)), ((7, 11), (3, 2)), ((5, 5), (1, 1))]
)
def test_tiles_cover_an_image_once(size: tuple[int, int], grid: tuple[int, int]) -> None:
    seen = np.zeros(size, dtype=int)
    tiles = tiles_of(size, grid)
    for rows, columns in tiles:
        seen[rows, columns] += 1
    assert len(tiles) == grid[0] * grid[1]
    assert (seen == 1).all()


def test_objects_are_joined_by_edges_and_not_by_corners() -> None:
    mask = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]], dtype=bool)
    found = objects_of(mask, 1)
    assert [int(one.sum()) for one in found] == [2, 3]
    assert np.array_equal(found[0] | found[1], mask)
    assert [int(one.sum()) for one in objects_of(mask, 3)] == [3]


def test_each_mask_is_one_object_and_the_seed_draws_them(tmp_path: Path) -> None:
    mask = np.zeros((20, 40), dtype=bool)
    for x in range(0, 40, 4):
        mask[3:9, x : x + 2] = True  # ten bars, five per tile
    pixels = np.dstack([np.arange(800, dtype=np.uint16).reshape(20, 40) % 256] * 3).astype(np.uint8)
    settings = ObjectSettings(grid=(1, 2), min_area_px=12, most=3)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        own = ObjectSettings(grid=(1, 2), min_area_px=12, most=3, seed=seed)
        slices = (
            [("s0", pixels, mask)] if name != "b" else [("s9", pixels, mask), ("s0", pixels, mask)]
        )
        counts = write_objects([("test", slices)], tmp_path / name, own)
        assert counts == {"test": 6 * len(slices)}
    samples = samples_from_folder(tmp_path / "a", "cell", split="test")
    together: dict[str, int] = {}
    for sample in samples:
        image, masks = load_sample(sample)
        tile = int(sample.stem.split("_")[1])
        columns = slice(20 * tile, 20 * tile + 20)
        assert np.array_equal(image, pixels[:, columns])
        assert int(masks["cell"].sum()) == 12
        assert not (masks["cell"] & ~mask[:, columns]).any()
        together[sample.stem] = int(np.flatnonzero(masks["cell"].any(0))[0])
    assert len(set(zip((s.split("_")[1] for s in together), together.values(), strict=True))) == 6
    names = {n: sorted(p.name for p in (tmp_path / n / "test/masks").glob("s0*")) for n in "abc"}
    assert names["a"] == names["b"], "what is drawn does not depend on the other images"
    assert names["a"] != names["c"]
    with pytest.raises(DataError, match="no object of 13 px"):
        write_objects(
            [("test", [("s0", pixels, mask)])],
            tmp_path / "d",
            ObjectSettings(grid=settings.grid, min_area_px=13),
        )
    assert not (tmp_path / "d").exists()
