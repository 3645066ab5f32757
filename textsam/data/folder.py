"""Find samples on disk: by a manifest's splits, or in a plain images/ + masks/ folder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from textsam.data.manifest import DatasetInfo, read_manifest, read_split
from textsam.data.problems import Problems
from textsam.data.sample import Sample, Target
from textsam.errors import ConfigError, DataError
from textsam.sections import Section

__all__ = [
    "IMAGE_SUFFIXES",
    "Selection",
    "is_system_file",
    "samples_from_folder",
    "samples_from_manifest",
    "selection_of",
    "tell_unsupported",
]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_SUFFIXES = ", ".join(sorted(IMAGE_SUFFIXES))
_PARTS = ("train", "val", "test")
# What Windows puts beside pictures by itself; names with a dot in front are hidden anyway.
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})


class Selection(Section):
    """Part of a manifest's set.

    set: its name. split: "train", or "fold1/train" for a set with folds.
    classes: concepts to keep; None keeps all.
    weight: how often its samples are wanted in training, relative to other selections' samples.
    part: keep the samples whose place, drawn from a hash of the stem, lies in [low, high) of 0…1:
        (0.1, 1) to train and (0, 0.1) to validate divide a split without a file saying so.
    prefix: keep stems that begin so, e.g. one hospital of a set.
    limit: keep this many samples, evenly spread over the split (neighbours are often alike).
    """

    set: str
    split: str
    classes: list[str] | None = None
    weight: float = Field(default=1.0, gt=0.0)
    part: tuple[float, float] = (0.0, 1.0)
    prefix: str = ""
    limit: int | None = Field(default=None, ge=1)

    @field_validator("part")
    @classmethod
    def _is_a_range(cls, part: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= part[0] < part[1] <= 1:
            raise ValueError(f"{list(part)} is not [low, high] with 0 <= low < high <= 1")
        return part


def selection_of(text: str, limit: int | None = None) -> Selection:
    """A selection as users write it: "SET/SPLIT", or "SET/SPLIT@LOW:HIGH" for a part of the split.

    Args:
        text: such as "busi/fold1/test" or "busi/fold1/test@0:0.1".
        limit: as of `Selection`.

    Raises:
        ConfigError: something else.
    """
    where, _, part = text.partition("@")
    name, _, split = where.partition("/")
    try:
        low, high = (float(edge) for edge in part.split(":")) if part else (0.0, 1.0)
    except ValueError:
        split = ""
    if not name or not split or not 0 <= low < high <= 1:
        raise ConfigError(
            f"{text}: write SET/SPLIT, e.g. busi/fold1/test, or SET/SPLIT@LOW:HIGH with "
            "0 <= LOW < HIGH <= 1"
        )
    return Selection(set=name, split=split, part=(low, high), limit=limit)


@dataclass(frozen=True)
class _Listing:
    """The files of a folder by stem: those that can be used, and those of other suffixes."""

    folder: Path
    usable: dict[str, list[Path]]
    others: dict[str, list[Path]]

    def lacks(self, stem: str) -> str:
        """What to say where there is no usable file of this stem."""
        others = self.others.get(stem)
        if not others:
            return f"{self.folder} has no {stem}.*"
        names = ", ".join(path.name for path in others)
        return f"{self.folder} has {names} alone, none of {_SUFFIXES}; save it as PNG"

    def tell_others(self, problems: Problems) -> None:
        """Warn of files that are left out."""
        names = sorted(path.name for paths in self.others.values() for path in paths)
        tell_unsupported(self.folder, names, problems)


def tell_unsupported(folder: Path, names: Sequence[str], problems: Problems) -> None:
    """Warn of files of a folder, if any, that are left out for their suffix."""
    if names:
        problems.add(
            "unsupported-file",
            folder,
            f"{len(names)} file(s) are none of {_SUFFIXES} and left out: {_listed(names)}",
        )


def is_system_file(path: Path) -> bool:
    """Whether Windows puts such a file beside pictures by itself."""
    return path.name.lower() in _SYSTEM_FILES


def _index(folder: Path) -> _Listing:
    listing = _Listing(folder, {}, {})
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.suffix.lower() in IMAGE_SUFFIXES:
                listing.usable.setdefault(path.stem, []).append(path)
            elif path.is_file() and not is_system_file(path):
                listing.others.setdefault(path.stem, []).append(path)
    return listing


def _only(stem: str, paths: Sequence[Path], problems: Problems | None) -> Path:
    if len(paths) > 1:
        listed = ", ".join(map(str, paths))
        if problems is None:
            raise DataError(f"The stem {stem!r} is ambiguous: {listed}. Keep one file.")
        problems.add("duplicate-stem", paths[0], f"{stem!r} is ambiguous: {listed}; keep one file")
    return paths[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class _Folders:
    """Index of image and mask folders, each listed once."""

    def __init__(self) -> None:
        self.known: dict[Path, _Listing] = {}

    def __call__(self, folder: Path) -> _Listing:
        if folder not in self.known:
            self.known[folder] = _index(folder)
        return self.known[folder]


def _mask_folder_and_label(key: str, info: DatasetInfo) -> tuple[str, int | None]:
    if "/" in key:
        return key, None
    pixel_values = [k for k in info.classes if "/" not in k]
    # "255" alone is the usual binary mask; beside other values it is a label like them.
    return "masks", None if pixel_values == ["255"] else int(key)


def _chosen(info: DatasetInfo, selection: Selection) -> dict[str, str]:
    if selection.classes is None:
        return dict(info.classes)
    offered = [*info.classes.values(), *info.absent]
    unknown = [c for c in selection.classes if c not in offered]
    if unknown:
        raise DataError(
            f"The set {info.name!r} has no class {', '.join(map(repr, unknown))}. It has: "
            f"{', '.join(offered)}."
        )
    return {key: c for key, c in info.classes.items() if c in selection.classes}


def _spread(stems: list[str], limit: int | None) -> list[str]:
    if limit is None or limit >= len(stems):
        return stems
    return [stems[(2 * i + 1) * len(stems) // (2 * limit)] for i in range(limit)]


def _place(stem: str) -> float:
    """A number in [0, 1) that depends on the stem alone, on every machine."""
    return zlib.crc32(stem.encode()) / 2**32


def _kept(stems: list[str], selection: Selection) -> list[str]:
    low, high = selection.part
    stems = [s for s in stems if s.startswith(selection.prefix) and low <= _place(s) < high]
    return _spread(stems, selection.limit)


def _samples(
    root: Path, info: DatasetInfo, selection: Selection, problems: Problems | None
) -> list[Sample]:
    set_folder = root / info.name
    bases = [b for b in (set_folder, *(set_folder / p for p in _PARTS)) if (b / "images").is_dir()]
    if not bases:
        raise DataError(
            f"The set {info.name!r} has no images: neither {set_folder}/images nor "
            f"{set_folder}/{{{','.join(_PARTS)}}}/images is a folder."
        )
    classes = _chosen(info, selection)
    absent = tuple(c for c in info.absent if not selection.classes or c in selection.classes)
    if not classes and not absent:
        raise DataError(
            f"The set {info.name!r} has no classes and no absent concepts: nothing is known about "
            "its images. Add 'classes' or 'absent' to the manifest."
        )
    labels = tuple(sorted(int(k) for k in info.classes if "/" not in k))
    folders = _Folders()
    samples: list[Sample] = []
    missing_images: dict[str, str] = {}
    missing_masks: dict[str, str] = {}
    for stem in _kept(read_split(root, f"{info.name}/{selection.split}"), selection):
        found = [(b, p) for b in bases for p in folders(b / "images").usable.get(stem, [])]
        if not found:
            missing_images[stem] = _unusable([folders(b / "images") for b in bases], stem)
            continue
        image_path = _only(stem, [p for _, p in found], problems)
        base = found[0][0]
        targets: list[Target] = []
        for key, concept in classes.items():
            folder, label = _mask_folder_and_label(key, info)
            paths = folders(base / folder).usable.get(stem)
            if not paths:
                mask = f"{base / folder / stem}.png"
                missing_masks[mask] = _unusable([folders(base / folder)], stem)
                continue
            mask_path = _only(stem, paths, problems)
            targets.append(Target(concept, mask_path, label, () if label is None else labels))
        samples.append(
            Sample(
                dataset=info.name,
                modality=info.modality,
                stem=stem,
                image_path=image_path,
                targets=tuple(targets),
                absent=absent,
                weight=selection.weight,
            )
        )
    where = f"The split {info.name}/{selection.split}"
    if problems is not None:
        for listing in folders.known.values():
            listing.tell_others(problems)
        for stem, instead in missing_images.items():
            told = f"{where} lists it; it is not below {set_folder}{instead}"
            problems.add("missing-image", stem, told)
        for path, instead in missing_masks.items():
            problems.add("missing-mask", path, f"{where} needs it{instead}")
        return samples
    if missing_images:
        raise DataError(
            f"{where}: {len(missing_images)} images are not below {set_folder}: "
            f"{_listed([stem + instead for stem, instead in missing_images.items()])}."
        )
    if missing_masks:
        raise DataError(
            f"{where}: {len(missing_masks)} masks are missing: "
            f"{_listed([path + instead for path, instead in missing_masks.items()])}."
        )
    return samples


def _unusable(listings: Sequence[_Listing], stem: str) -> str:
    """What to add where a file is missing and one of its name cannot be used."""
    others = [str(path) for listing in listings for path in listing.others.get(stem, ())]
    if not others:
        return ""
    return f" (but {', '.join(others)}, none of {_SUFFIXES}; save it as PNG)"


def samples_from_manifest(
    root: str | Path, selections: Sequence[Selection], *, problems: Problems | None = None
) -> list[Sample]:
    """The samples of the selections, in their order, from a data root with a manifest.

    Images are `SET/images/STEM.*` or `SET/{train,val,test}/images/STEM.*` with `masks/STEM.*` (or
    `masks/CLASS/STEM.*`, as the manifest says) beside `images`; a stem is looked for in all of
    these, whatever the split is called. Nothing but folder listings is read.
    problems: takes what is missing, ambiguous or selected twice, file by file, and names of files
        that are left out for their suffix; the search goes on with what is there. None raises.
    Raises DataError for an unknown set, split or class, for files that are missing (named and
    counted) or ambiguous, and for an image that is selected twice.
    """
    root = Path(root)
    manifest = read_manifest(root)
    samples: list[Sample] = []
    seen: dict[Path, str] = {}
    for selection in selections:
        part = f"{selection.set}/{selection.split}"
        with nullcontext() if problems is None else problems.source(root / part):
            if selection.set not in manifest:
                raise DataError(
                    f"There is no set {selection.set!r} in {root}. It has: {', '.join(manifest)}."
                )
            for sample in _samples(root, manifest[selection.set], selection, problems):
                if sample.image_path in seen:
                    raise DataError(
                        f"{sample.name} is selected by {seen[sample.image_path]!r} and again by "
                        f"{part!r}. Use 'weight' to see samples more often."
                    )
                seen[sample.image_path] = part
                samples.append(sample)
    if not samples and problems is None:
        raise DataError("No samples are selected: the list of selections is empty.")
    return samples


def _check_layout(folder: Path, base: Path) -> None:
    """Refuse what is no plain folder, and say what it is instead.

    base: `folder`, or a part of it.
    """
    inside = [p for p in _PARTS if (folder / p / "images").is_dir()]
    hint = "A plain folder holds images/ and masks/, a data root of several sets manifest.json."
    if inside and not (base / "images").exists():
        whose = "Its parts" if base == folder else f"The parts of {folder}"
        hint = f"{whose} are: {', '.join(inside)}; name one as the split."
    if not base.exists():
        raise DataError(f"{base} has no folder 'images', as it does not exist. {hint}")
    if not base.is_dir():
        raise DataError(
            f"{base} is a file. {hint} A COCO file is named as such: --coco NAME=FILE.json,FOLDER, "
            "or data.train_coco of a configuration."
        )
    for name in ("images", "masks"):
        if (base / name).is_file():
            raise DataError(f"{base / name} is a file, not a folder. {hint}")
        if not (base / name).is_dir():
            raise DataError(f"{base} has no folder {name!r}. {hint}")


def samples_from_folder(
    folder: str | Path,
    concept: str,
    *,
    split: str | None = None,
    label: int | None = None,
    modality: str = "unknown",
    dataset: str | None = None,
    weight: float = 1.0,
    problems: Problems | None = None,
) -> list[Sample]:
    """The samples of `folder`/images and `folder`/masks, files paired by stem, sorted by stem.

    concept: what the masks show.
    split: "train", "val" or "test": use `folder`/SPLIT/images and `folder`/SPLIT/masks.
    label: the concept's pixel value in label maps; None for 0/255 masks.
    modality: one of `textsam.prompts.MODALITIES`, or any other text, for which no concept is ever
        assumed absent.
    dataset: name in tables; default: the folder's name.
    weight: how often each sample is wanted in training, relative to others.
    problems: takes what does not pair, file by file, and names of files that are left out for
        their suffix; the pairs are returned. None raises.
    Raises DataError when a folder is missing or empty, when images have no mask or masks no image
    (named and counted), and when two files share a stem.
    """
    folder = Path(folder)
    if split is not None and split not in _PARTS:
        raise DataError(f"Unknown split {split!r}: choose from {', '.join(_PARTS)}.")
    base = folder if split is None else folder / split
    _check_layout(folder, base)
    image_files, mask_files = _index(base / "images"), _index(base / "masks")
    images, masks = image_files.usable, mask_files.usable
    if problems is not None:
        image_files.tell_others(problems)
        mask_files.tell_others(problems)
    if not images:
        others = sorted(p.name for paths in image_files.others.values() for p in paths)
        instead = f" but {len(others)} other file(s): {_listed(others)}" if others else ""
        raise DataError(f"{base / 'images'} holds no image ({_SUFFIXES}){instead}.")
    lacking = sorted(set(images) - set(masks))
    orphans = sorted(set(masks) - set(images))
    if problems is not None:
        for stem in lacking:
            problems.add("missing-mask", images[stem][0], mask_files.lacks(stem))
        for stem in orphans:
            problems.add("mask-without-image", masks[stem][0], image_files.lacks(stem))
    elif lacking:
        named = _listed([stem + _unusable([mask_files], stem) for stem in lacking])
        raise DataError(f"{base}: {len(lacking)} of {len(images)} images have no mask: {named}.")
    elif orphans:
        named = _listed([stem + _unusable([image_files], stem) for stem in orphans])
        raise DataError(f"{base}: {len(orphans)} of {len(masks)} masks have no image: {named}.")
    return [
        Sample(
            dataset=dataset or folder.resolve().name,
            modality=modality,
            stem=stem,
            image_path=_only(stem, images[stem], problems),
            targets=(Target(concept, _only(stem, masks[stem], problems), label),),
            weight=weight,
        )
        for stem in sorted(set(images) & set(masks))
    ]
