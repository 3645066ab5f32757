"""Weight files: tensors come back as stored; code in a pickle is named, and never run."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from textsam.errors import WeightsError
from textsam.tensors import load_tensors


class Touch:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def example() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "a.weight": torch.randn(4, 3, generator=generator),
        "a.count": torch.tensor(7, dtype=torch.int64),
        "half": torch.randn(5, generator=generator).to(torch.bfloat16),
    }


def assert_same(loaded: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(loaded) == set(expected)
    for name, tensor in expected.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].device.type == "cpu"
        assert torch.equal(loaded[name], tensor)


def test_safetensors_round_trip(tmp_path: Path) -> None:
    save_file(example(), tmp_path / "w.safetensors")
    assert_same(load_tensors(tmp_path / "w.safetensors"), example())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".PTH"])
def test_torch_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(example(), path)
    assert_same(load_tensors(str(path)), example())


def test_torch_file_from_before_the_zip_format(tmp_path: Path) -> None:
    torch.save(example(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert_same(load_tensors(tmp_path / "w.pth"), example())


def test_reading_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(example(), path)
    before = path.read_bytes()
    load_tensors(path)["a.weight"].fill_(0.0)  # mapped memory is private
    assert path.read_bytes() == before


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_a_training_checkpoint_is_unwrapped(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper: example(), "epoch": 3}, tmp_path / "w.pth")
    assert_same(load_tensors(tmp_path / "w.pth"), example())


def test_key_chooses_a_part(tmp_path: Path) -> None:
    other = {"b": torch.ones(2)}
    torch.save({"model": example(), "ema": other}, tmp_path / "w.pth")
    assert_same(load_tensors(tmp_path / "w.pth", key="ema"), other)
    with pytest.raises(WeightsError, match=r"no key 'best'\. It has: 'model', 'ema'"):
        load_tensors(tmp_path / "w.pth", key="best")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "pickle protocol 2"])
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, kind: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / "w.pth"
    content = {"a": torch.ones(2), "b": Touch(trap)}
    if kind.startswith("pickle"):
        protocol = 2 if kind.endswith("2") else 5
        path.write_bytes(pickle.dumps({"b": Touch(trap)}, protocol=protocol))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(WeightsError, match=r"would run code: it calls .*Path") as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)
    assert "safetensors" in str(caught.value)
    assert not trap.exists()
    if kind.startswith("pickle"):
        pickle.loads(path.read_bytes())
        assert trap.exists()  # the trap does work


def test_a_call_inside_torch_is_left_to_the_restricted_reader(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return torch.random.manual_seed, (1,)  # under the name pickle looks it up by

    torch.save({"a": Call()}, tmp_path / "w.pth")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.raises(WeightsError, match="objects other than tensors") as caught:
        load_tensors(tmp_path / "w.pth")
    assert torch.equal(torch.get_rng_state(), state)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"w{suffix}"
    tensors = {"w": torch.randn(5000)}
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match="cut short") as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)
    assert "fetch it again" in str(caught.value)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.99])
def test_truncated_legacy(tmp_path: Path, share: float) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.randn(5000)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(len(data) * share))])
    with pytest.raises(WeightsError, match="cut short"):
        load_tensors(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "the file is empty"),
        ("w.pth", b"<!DOCTYPE html><html></html>", "a web page"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("w.pth", b"random bytes, no format at all", "not a checkpoint"),
        ("w.pth", pickle.dumps({"a": 1}), "torch.save did not write"),
        ("w.npz", b"PK\x03\x04", "unknown suffix '.npz'"),
        ("w", b"abc", "unknown suffix ''"),
    ],
)
def test_foreign_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weight file"):
        load_tensors(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="this is a folder"):
        load_tensors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lr": 0.1, "w": torch.ones(1)}, "under 'lr' it holds no tensor"),
        ({}, "it holds nothing"),
        ([torch.ones(1)], "holds a list"),
    ],
)
def test_not_a_mapping_of_tensors(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_tensors(tmp_path / "w.pth")


def test_a_storage_that_lacks_in_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    # The storage's key stands in the object and, last, in the list of what follows.
    key = re.findall(rb"cpu.*?X\x0b?.*?([0-9]{6,})", content, re.DOTALL)[0]
    cut = content.rindex(key)
    path.write_bytes(content[:cut] + key[::-1] + content[cut + len(key) :])
    with pytest.raises(WeightsError, match=r"PyTorch cannot read it.*fetch it again") as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (b"PK\x01\x02", {6: 99}),  # a version of the format nobody has yet
        (b"PK\x06\x07", {16: 7}),  # one of several disks
    ],
)
def test_a_damaged_directory_of_a_zip(tmp_path: Path, place: bytes, value: dict[int, int]) -> None:
    path = tmp_path / "w.pth"
    torch.save(example(), path)
    content = bytearray(path.read_bytes())
    for offset, byte in value.items():
        content[content.index(place) + offset] = byte
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"not a checkpoint written by torch\.save") as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)


def test_a_name_too_long_for_a_file_is_said() -> None:
    with pytest.raises(WeightsError, match=r"cannot be read \(File name too long\)"):
        load_tensors("w" * 300 + ".pth")
