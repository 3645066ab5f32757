"""`manifest.json` and `splits.json`: what a collection of image-mask sets contains.

`manifest.json`: set name -> {"modality", "classes", "terms", "note"?, "images"?, "absent"?}. A key
of "classes" is a pixel value of the set's mask files ("255", or "1", "2", … of a label map) or a
mask folder ("masks/mitochondria"); its value is the concept. "absent" lists concepts that no image
of the set shows. "note" and "images", how many there are, are for readers alone. Other keys are
refused: a misspelt one would be left out unseen.

`splits.json`: "SET" or "SET/FOLD" -> {"train": [stems], "val": […], "test": […]}.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from textsam.data.named import unaskable
from textsam.errors import DataError
from textsam.prompts import canonical_key

__all__ = ["DatasetInfo", "read_json", "read_manifest", "read_split", "split_names"]

MANIFEST_NAME = "manifest.json"
SPLITS_NAME = "splits.json"
NORMAL_SUFFIX = "_normal"
_KEYS = ("modality", "classes", "absent", "terms", "note", "images")


@dataclass(frozen=True)
class DatasetInfo:
    """One set of a manifest.

    classes: pixel value (as text) or mask folder -> concept; empty for a set without masks.
    absent: concepts that no image of the set shows. A set named X_normal without classes of its
        own and without an explicit "absent" is X's negative counterpart: X's classes are absent.
    terms: the data's licence, as the manifest words it.
    """

    name: str
    modality: str
    classes: Mapping[str, str]
    terms: str
    note: str = ""
    absent: tuple[str, ...] = ()


class _TwiceError(Exception):
    """A key that an object has already."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, none of whose keys hides another."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _TwiceError(key)
        content[key] = value
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError where there is none, or it has a key twice."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except _TwiceError as error:
        raise DataError(
            f"{path} has the key {error.args[0]!r} twice in one object, and what the first says "
            "would be lost. Keep one of the two, or join them."
        ) from None
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist. A data root holds {MANIFEST_NAME}, {SPLITS_NAME} and one "
            "folder per set."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, not a {type(content).__name__}.")
    return content


def _text(entry: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str):
        raise DataError(f"{where} needs a text {key!r}, got {value!r}.")
    return value


def _is_class_key(key: str) -> bool:
    if "/" in key:
        return not key.startswith("/") and ".." not in key.split("/")
    # No format of images has a value of more than ten digits.
    return key.isascii() and key.isdigit() and len(key) <= 10 and int(key) > 0


def _info(path: Path, name: str, content: Mapping[str, Any]) -> DatasetInfo:
    where = f"{path}: set {name!r}"
    entry = content[name]
    if not isinstance(entry, dict):
        raise DataError(f"{where} must be a JSON object, got {entry!r}.")
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(key.casefold(), _KEYS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(
                f"{where} has a key {key!r}, which means nothing; {hint}There are "
                f"{', '.join(_KEYS)}. Anything else can be said in 'note'."
            )
    classes = entry.get("classes", {})
    if not isinstance(classes, dict) or not all(isinstance(v, str) and v for v in classes.values()):
        raise DataError(f"{where}: 'classes' must map pixel values or folders to concepts.")
    for key in classes:
        if not _is_class_key(key):
            raise DataError(
                f"{where}: class key {key!r} is neither a positive pixel value ('255') nor a mask "
                "folder ('masks/NAME')."
            )
    places: dict[int | PurePosixPath, str] = {}
    for key in classes:
        other = places.setdefault(PurePosixPath(key) if "/" in key else int(key), key)
        if other != key:
            raise DataError(f"{where}: class keys {other!r} and {key!r} are the same; keep one.")
    absent = entry.get("absent", [])
    if not isinstance(absent, list) or not all(isinstance(v, str) for v in absent):
        raise DataError(f"{where}: 'absent' must be a list of concepts, got {absent!r}.")
    for concept in (*classes.values(), *absent):
        if fault := unaskable(concept):
            raise DataError(f"{where}: the concept {concept!r} cannot be asked for. {fault}")
    base = content.get(name.removesuffix(NORMAL_SUFFIX))
    if not classes and not absent and name.endswith(NORMAL_SUFFIX) and isinstance(base, dict):
        base_classes = base.get("classes", {})
        absent = list(base_classes.values()) if isinstance(base_classes, dict) else []
    shown = {canonical_key(concept) for concept in classes.values()}
    both = sorted(concept for concept in absent if canonical_key(concept) in shown)
    if both:
        raise DataError(f"{where}: {', '.join(both)} cannot be both a class and absent.")
    return DatasetInfo(
        name=name,
        modality=_text(entry, "modality", where),
        classes=dict(classes),
        terms=_text(entry, "terms", where),
        note=_text(entry, "note", where, ""),
        absent=tuple(dict.fromkeys(absent)),
    )


def read_manifest(root: str | Path) -> dict[str, DatasetInfo]:
    """The sets of `root`/manifest.json by name. Raises DataError for anything malformed."""
    path = Path(root) / MANIFEST_NAME
    content = read_json(path)
    return {name: _info(path, name, content) for name in content}


def _read_splits(root: str | Path) -> dict[str, list[str]]:
    path = Path(root) / SPLITS_NAME
    splits: dict[str, list[str]] = {}
    for key, parts in read_json(path).items():
        if not isinstance(parts, dict):
            raise DataError(f"{path}: {key!r} must map split names to lists of stems.")
        seen: dict[str, str] = {}
        for part, stems in parts.items():
            name = f"{key}/{part}"
            if not isinstance(stems, list) or not all(isinstance(s, str) for s in stems):
                raise DataError(f"{path}: {name!r} must be a list of stems (texts).")
            # As `list_folder` has them.
            own = [unicodedata.normalize("NFC", stem) for stem in stems]
            for stem in own:
                if stem in seen:
                    raise DataError(
                        f"{path}: {stem!r} is listed in {seen[stem]!r} and again in {name!r}; "
                        "the parts of a split must not overlap."
                    )
                seen[stem] = name
            splits[name] = own
    return splits


def split_names(root: str | Path) -> list[str]:
    """Every split of `root`/splits.json, such as "busi/fold1/train"."""
    return list(_read_splits(root))


def read_split(root: str | Path, name: str) -> list[str]:
    """The stems of a split named "SET/PART" or "SET/FOLD/PART", in the file's order.

    Raises DataError for an unknown name (the set's splits are listed), an empty split, a stem
    listed twice, and parts of one split that overlap.
    """
    splits = _read_splits(root)
    if name not in splits:
        set_name = name.partition("/")[0]
        own = [s for s in splits if s.partition("/")[0] == set_name] or list(splits)
        raise DataError(
            f"There is no split {name.rstrip('/')!r} in {Path(root) / SPLITS_NAME}. Choose from: "
            f"{', '.join(own)}."
        )
    if not splits[name]:
        raise DataError(f"The split {name!r} in {Path(root) / SPLITS_NAME} is empty.")
    return list(splits[name])
