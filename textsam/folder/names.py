"""Names of what is written: one per image and prompt, no two alike, the same at every call."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

__all__ = [
    "ABOUT_ALL",
    "IMAGE_SUFFIXES",
    "RASTER_ENDS",
    "SHEET_NAME",
    "TILE_FOLDER",
    "answer_name",
    "bases",
    "distinct",
    "sheet_of",
    "slugs",
    "stem_of",
]

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nii", ".nii.gz", ".dcm", ".dicom",
    ".ima",
)  # fmt: skip
"""Ends of file names that say "image". Files named otherwise are known by their first bytes."""

RASTER_ENDS = {"png": ".png", "tiff": ".tiff"}
"""What names of masks end in, by format."""

TILE_FOLDER = "thumbnails"
"""Where the small pictures of contact sheets lie in the output folder."""

SHEET_NAME = re.compile(r"sheet(-\d+-of-\d+)?-\d{3,}\.png")
"""What pages of contact sheets are called."""

ABOUT_ALL = {"summary": ".csv", "report": ".json", "coco": ".json"}
"""Files about all inputs of a run, and what their names end in; sheets have numbers as well."""

_LONGEST_SLUG = 60


def slugs(prompts: Sequence[str]) -> list[str]:
    """File-name parts for prompts, distinct even where the letters are not Latin."""
    made: list[str] = []
    for number, prompt in enumerate(prompts, start=1):
        # Without underscores, the last one in a mask's name separates image and prompt.
        slug = re.sub(r"[\W_]+", "-", prompt.strip().lower()).strip("-")[:_LONGEST_SLUG]
        # Slices end in _0003 and overlays in _overlay: a prompt must not look like either.
        if re.fullmatch(r"\d+|overlay", slug):
            slug = f"prompt-{slug}"
        made.append(slug or f"prompt-{number}")
    return distinct(made)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that was there before, in whatever case."""
    # Case is ignored because OUT may lie on a disk that ignores it.
    taken: set[str] = set()
    result: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.casefold())
        result.append(candidate)
    return result


def sheet_of(name: str) -> str | None:
    """The name of the contact sheets that a file of this name would be a page of."""
    page = re.fullmatch(r"(.+)-\d{3,}\.png", name)
    return None if page is None else page[1]


def answer_name(base: str, slug: str, frame: int | None) -> str:
    """What files about one image and prompt are called, without the ends that tell them apart.

    Args:
        base: of the input.
        slug: of the prompt.
        frame: number of the image, None where the input is one picture.
    """
    return f"{base}_{slug}" if frame is None else f"{base}_{slug}_{frame:04d}"


def stem_of(name: str) -> str:
    """A file name without the end that says what kind of image it is.

    Other dots stay: DICOM files are often named by a UID, of which every number counts.
    """
    lower = name.lower()
    for suffix in sorted(IMAGE_SUFFIXES, key=len, reverse=True):
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def bases(paths: Sequence[str]) -> list[str]:
    """Where the outputs of each input go: its folder and a name of its own in that folder.

    Args:
        paths: relative POSIX paths of the inputs.

    Returns:
        Relative POSIX paths, all different. The name is the file's without its suffix; where two
        files of a folder differ in their suffix alone, the suffix becomes part of the name.
    """
    folders = [PurePosixPath(path).parent for path in paths]
    stems = [stem_of(PurePosixPath(path).name) for path in paths]
    count = Counter(zip(folders, stems, strict=True))
    names = [
        str(
            folder
            / (stem if count[folder, stem] == 1 else PurePosixPath(path).name.replace(".", "_"))
        )
        for path, folder, stem in zip(paths, folders, stems, strict=True)
    ]
    return distinct(names)
