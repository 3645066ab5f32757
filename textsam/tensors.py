"""Read named tensors from a weight file without ever running code that the file carries.

A PyTorch checkpoint is a pickle, and a pickle may call any function when it is read. Here a file is
looked at first: one that names anything but tensors is refused with the names it wanted to call,
and the rest is read by PyTorch's restricted reader.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from textsam.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_tensors"]

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# The first bytes of a torch.save file from before the zip format: a pickled number.
_LEGACY_HEAD = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_LEGACY_PICKLES = 5  # magic, version, system, the object, the storage keys; raw bytes follow
_HARMLESS = frozenset({"collections.OrderedDict", "_codecs.encode"})
_STRING_OPCODES = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})


def load_tensors(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name, on the CPU.

    Args:
        path: `.safetensors`, or `.pth`, `.pt`, `.bin`, `.ckpt` as written by `torch.save`.
        key: take the mapping under this key of a checkpoint. Without it, a checkpoint that wraps
            its weights under exactly one of `state_dict`, `model_state_dict` or `model` is
            unwrapped, and anything else must be a plain mapping of names to tensors.

    Returns:
        Names to tensors, with dtypes and shapes as stored. Tensors of a zip checkpoint are mapped
        from the file: their memory is only taken when they are read, and the file must stay.

    Raises:
        WeightsError: missing, empty, truncated or foreign file, unknown suffix, a pickle that
            would run code, or content that is not a mapping of names to tensors.
    """
    path = Path(path)
    _check_is_file(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        content: object = _read_safetensors(path)
    elif suffix in _TORCH_SUFFIXES:
        content = _read_torch(path)
    else:
        raise WeightsError(
            f"{path}: unknown suffix {suffix!r} for a weight file. Known: .safetensors, "
            f"{', '.join(_TORCH_SUFFIXES)}. Rename the file if its content is one of these."
        )
    return _named_tensors(path, content, key)


def _check_is_file(path: Path) -> None:
    try:
        if not path.exists():
            raise WeightsError(f"{path}: no such weight file. Check the path.")
        if not path.is_file():
            raise WeightsError(f"{path}: a weight file is expected, this is a folder.")
        with path.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}). Check the path and its permissions."
        ) from error
    if not head:
        raise WeightsError(f"{path}: the file is empty. Fetch it again.")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path}: a git-lfs pointer, not the weights. Run 'git lfs pull' in its repository."
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise WeightsError(f"{path}: a web page, not weights. Fetch the file itself again.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}). It was cut short or damaged: fetch "
            "it again."
        ) from error


def _read_torch(path: Path) -> object:
    import torch

    is_zip = _is_zip(path)
    _refuse_code(path, is_zip)
    try:
        # mmap needs the zip format.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        # Torch's own message recommends weights_only=False, which is what must not be done.
        raise WeightsError(
            f"{path}: holds objects other than tensors, or is damaged; it is not read. Save the "
            "weights alone (a dict of names to tensors) as .safetensors."
        ) from error
    except Exception as error:  # of a damaged file PyTorch raises whatever it stumbles over
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{path}: PyTorch cannot read it ({reason}). It was cut short or damaged: fetch it "
            "again."
        ) from error


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True  # a damaged one, which reading it says


def _refuse_code(path: Path, is_zip: bool) -> None:
    """Look at the pickle's instructions, without carrying them out, for functions it would call."""
    with path.open("rb") as stream:
        head = stream.read(len(_LEGACY_HEAD))
    if not is_zip and head.startswith(b"PK"):
        raise WeightsError(
            f"{path}: the end of the file is missing ({path.stat().st_size} bytes are there). It "
            "was cut short: fetch it again."
        )
    try:
        names = _zip_names(path) if is_zip else _pickle_names(path)
    except Exception as error:  # as of what a damaged one makes zipfile and pickletools do
        raise WeightsError(
            f"{path}: not a checkpoint written by torch.save ({error}). It was cut short or is "
            "another kind of file: fetch it again."
        ) from error
    code = sorted(name for name in names if not _is_harmless(name))
    if code:
        raise WeightsError(
            f"{path}: refused, as reading it would run code: it calls {', '.join(code)}. Nothing "
            "was run. Ask its author for a .safetensors file, or for a plain dict of tensors."
        )
    if not is_zip and head != _LEGACY_HEAD:
        raise WeightsError(
            f"{path}: a pickle that torch.save did not write. Save the weights as .safetensors."
        )


def _is_harmless(name: str) -> bool:
    # What of torch itself may be called is decided by torch's restricted reader.
    return name in _HARMLESS or name.startswith("torch.")


def _zip_names(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".pkl")]
        if not members:
            raise ValueError("no pickle in the archive")
        names: set[str] = set()
        for member in members:
            with archive.open(member) as stream:
                names |= _names_in_pickle(stream)
        return names


def _pickle_names(path: Path) -> set[str]:
    names: set[str] = set()
    with path.open("rb") as stream:
        legacy = stream.read(len(_LEGACY_HEAD)) == _LEGACY_HEAD
        stream.seek(0)
        for _ in range(_LEGACY_PICKLES if legacy else 1):
            names |= _names_in_pickle(stream)
    return names


def _names_in_pickle(stream: IO[bytes]) -> set[str]:
    names: set[str] = set()
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _STRING_OPCODES:
            strings.append(str(argument))
        elif opcode.name in ("GLOBAL", "INST"):
            names.add(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]) or "an unnamed function")
    return names


def _named_tensors(path: Path, content: object, key: str | None) -> dict[str, Tensor]:
    import torch

    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: holds a {type(content).__name__}, not a mapping of names to tensors."
        )
    if key is not None:
        if key not in content:
            raise WeightsError(f"{path}: no key {key!r}. It has: {_some(content)}.")
        return _named_tensors(path, content[key], None)
    wrappers = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    if len(wrappers) == 1:
        return _named_tensors(path, content[wrappers[0]], None)
    other = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if other or not content:
        what = f"under {_some(other)} it holds no tensor" if other else "it holds nothing"
        raise WeightsError(
            f"{path}: not a mapping of names to tensors: {what}. Say with key= which part to take."
        )
    return {str(name): value for name, value in content.items()}


def _some(names: object) -> str:
    listed = [repr(name) for name in names]  # type: ignore[attr-defined]
    return ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")
