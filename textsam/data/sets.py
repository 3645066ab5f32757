"""Find the samples of a data root by its manifest and its splits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from textsam.data.listing import (
    IMAGE_SUFFIXES,
    PARTS,
    Listing,
    list_folder,
    listed,
    the_only,
    unusable_instead,
)
from textsam.data.manifest import DatasetInfo, read_manifest, read_split
from textsam.data.problems import Problems
from textsam.data.sample import Sample, Target
from textsam.data.selection import Selection, kept
from textsam.errors import DataError

__all__ = ["samples_from_manifest"]


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


def _samples(
    root: Path, info: DatasetInfo, selection: Selection, problems: Problems | None
) -> list[Sample]:
    set_folder = root / info.name
    bases = [b for b in (set_folder, *(set_folder / p for p in PARTS)) if (b / "images").is_dir()]
    if not bases:
        raise DataError(
            f"The set {info.name!r} has no images: neither {set_folder}/images nor "
            f"{set_folder}/{{{','.join(PARTS)}}}/images is a folder."
        )
    classes = _chosen(info, selection)
    absent = tuple(c for c in info.absent if not selection.classes or c in selection.classes)
    if not classes and not absent:
        raise DataError(
            f"The set {info.name!r} has no classes and no absent concepts: nothing is known about "
            "its images. Add 'classes' or 'absent' to the manifest."
        )
    labels = tuple(sorted(int(k) for k in info.classes if "/" not in k))
    known: dict[Path, Listing] = {}

    def listing_of(folder: Path) -> Listing:
        if folder not in known:
            known[folder] = list_folder(folder)
        return known[folder]

    samples: list[Sample] = []
    missing_images: dict[str, str] = {}
    missing_masks: dict[str, str] = {}
    for stem in kept(read_split(root, f"{info.name}/{selection.split}"), selection):
        found = [(b, p) for b in bases for p in listing_of(b / "images").usable.get(stem, [])]
        if not found:
            listings = [listing_of(b / "images") for b in bases]
            suffixed = Path(stem).suffix.lower() in IMAGE_SUFFIXES
            hint = " (names are listed without suffix)" if suffixed else ""
            missing_images[stem] = unusable_instead(listings, stem) or hint
            continue
        image_path = the_only(stem, [p for _, p in found], problems)
        base = found[0][0]
        targets: list[Target] = []
        for key, concept in classes.items():
            folder, label = _mask_folder_and_label(key, info)
            masks = listing_of(base / folder)
            paths = masks.usable.get(stem)
            if not paths:
                mask = f"{base / folder / stem}.png"
                missing_masks[mask] = unusable_instead([masks], stem)
                continue
            mask_path = the_only(stem, paths, problems)
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
        for listing in known.values():
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
            f"{listed([stem + instead for stem, instead in missing_images.items()])}."
        )
    if missing_masks:
        raise DataError(
            f"{where}: {len(missing_masks)} masks are missing: "
            f"{listed([path + instead for path, instead in missing_masks.items()])}."
        )
    return samples


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
