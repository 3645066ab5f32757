"""Find the samples of a plain folder: images/ and masks/, paired by stem."""

from __future__ import annotations

from pathlib import Path

from textsam.data.listing import (
    PARTS,
    SUFFIXES,
    list_folder,
    listed,
    the_only,
    told_as_data,
    unusable_instead,
)
from textsam.data.named import unaskable
from textsam.data.problems import Problems
from textsam.data.sample import Sample, Target
from textsam.errors import DataError

__all__ = ["samples_from_folder"]


def _check_layout(folder: Path, base: Path) -> None:
    """Refuse what is no plain folder, and say what it is instead.

    base: `folder`, or a part of it.
    """
    inside = [p for p in PARTS if (folder / p / "images").is_dir()]
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

    concept: what the masks show, a text that can be asked for.
    split: "train", "val" or "test": use `folder`/SPLIT/images and `folder`/SPLIT/masks.
    label: the concept's pixel value in label maps; None for 0/255 masks.
    modality: one of `textsam.prompts.MODALITIES`, or any other text, for which no concept is ever
        assumed absent.
    dataset: name in tables; default: the folder's name.
    weight: how often each sample is wanted in training, relative to others.
    problems: takes what does not pair, file by file, and names of files that are left out for
        their suffix, or as they are in folders inside images/; the pairs are returned. None raises.
    Raises DataError for a concept that cannot be asked for, when a folder is missing or empty, when
    images have no mask or masks no image (named and counted), and when two files share a stem.
    """
    folder = Path(folder)
    if split is not None and split not in PARTS:
        raise DataError(f"Unknown split {split!r}: choose from {', '.join(PARTS)}.")
    if fault := unaskable(concept):
        raise DataError(f"{folder}: the concept {concept!r} cannot be asked for. {fault}")
    base = folder if split is None else folder / split
    with told_as_data(base):
        _check_layout(folder, base)
    image_files, mask_files = list_folder(base / "images"), list_folder(base / "masks")
    images, masks = image_files.usable, mask_files.usable
    if problems is not None:
        image_files.tell_others(problems)
        mask_files.tell_others(problems)
        image_files.tell_folders(problems)
    if not images:
        others = sorted(p.name for paths in image_files.others.values() for p in paths)
        instead = f" but {len(others)} other file(s): {listed(others)}" if others else ""
        if image_files.folders:
            instead += f"; folders in it are not looked into: {listed(image_files.folders)}"
        raise DataError(f"{base / 'images'} holds no image ({SUFFIXES}){instead}.")
    lacking = sorted(set(images) - set(masks))
    orphans = sorted(set(masks) - set(images))
    if problems is not None:
        for stem in lacking:
            problems.add("missing-mask", images[stem][0], mask_files.lacks(stem))
        for stem in orphans:
            problems.add("mask-without-image", masks[stem][0], image_files.lacks(stem))
    elif lacking:
        named = listed([stem + unusable_instead([mask_files], stem) for stem in lacking])
        raise DataError(f"{base}: {len(lacking)} of {len(images)} images have no mask: {named}.")
    elif orphans:
        named = listed([stem + unusable_instead([image_files], stem) for stem in orphans])
        raise DataError(f"{base}: {len(orphans)} of {len(masks)} masks have no image: {named}.")
    return [
        Sample(
            dataset=dataset or folder.resolve().name,
            modality=modality,
            stem=stem,
            image_path=the_only(stem, images[stem], problems),
            targets=(Target(concept, the_only(stem, masks[stem], problems), label),),
            weight=weight,
        )
        for stem in sorted(set(images) & set(masks))
    ]
