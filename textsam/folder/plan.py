"""What a run will do: which inputs, in which order, under which names, before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath

from textsam.errors import ConfigError, PromptError
from textsam.folder.find import find_images, is_dicom, real_path
from textsam.folder.manifest import outputs_before
from textsam.folder.names import (
    ABOUT_ALL,
    IMAGE_SUFFIXES,
    SHEET_NAME,
    TILE_FOLDER,
    bases,
    sheet_of,
    slugs,
)
from textsam.folder.options import Options
from textsam.prompts import normalise

__all__ = ["Input", "Plan", "make_plan", "shard_of"]


@dataclass(frozen=True)
class Input:
    """One thing to segment: a file, or the DICOM files of one series.

    Attributes:
        name: what the run calls it: its path relative to the folder given, with "/" between; of a
            series, that of its first file.
        paths: the files.
        base: where its outputs go: a path relative to the output folder, to which the prompt and
            the format's suffix are added.
        named: it was given by its own name, not found in a folder.
    """

    name: str
    paths: tuple[Path, ...]
    base: str
    named: bool = True

    @property
    def path(self) -> Path:
        """The file, or the first of them."""
        return self.paths[0]


@dataclass(frozen=True)
class Plan:
    """A run that can begin.

    Attributes:
        inputs: those of this shard, in order.
        prompts: as asked.
        slugs: per prompt, its part of file names.
        out: folder to write into.
        options: what to write and how to read.
        shard: (number from 1, count).
        mask_file: where the one mask goes, None for names made from input and prompt.
    """

    inputs: tuple[Input, ...]
    prompts: tuple[str, ...]
    slugs: tuple[str, ...]
    out: Path
    options: Options
    shard: tuple[int, int] = (1, 1)
    mask_file: Path | None = None

    @property
    def label(self) -> str:
        """The shard as part of a file name."""
        return f"{self.shard[0]}-of-{self.shard[1]}"

    def about_all(self, name: str) -> str:
        """What a file about all inputs is called, without its suffix.

        Of one file given by its own name, that of its outputs: calls for one file each can share
        `out`, and none replaces what another said.
        """
        if self.shard[1] == 1 and len(self.inputs) == 1 and self.inputs[0].named:
            return f"{self.inputs[0].base}_{name}"
        return f"{name}-{self.label}" if self.shard[1] > 1 else name


def make_plan(
    sources: str | Path | Sequence[str | Path],
    prompts: str | Sequence[str],
    out: str | Path,
    options: Options | None = None,
    *,
    recursive: bool = False,
    series: bool = False,
    shard: tuple[int, int] = (1, 1),
    mask_file: str | Path | None = None,
) -> Plan:
    """Find the inputs and name the outputs; nothing is written and no pixel read.

    Args:
        sources: a file or a folder, or several.
        prompts: a word or several.
        out: folder to write into; it need not exist.
        options: what to write and how to read.
        recursive: also take the images in the folders inside a folder; the outputs lie in folders
            of the same names.
        series: make the DICOM files of one folder and one series (by SeriesInstanceUID) one input.
            Otherwise each file is its own.
        shard: (i, n), the i-th of n parts, from 1: every n-th input of all, which are sorted by
            name. The parts are disjoint and complete while the folder does not change.
        mask_file: file for the mask of a single image and prompt.

    Raises:
        ConfigError: no input, a shard that does not exist, or an output that would be written over
            an input.
        PromptError: a prompt that cannot be used.
    """
    options = options or Options()
    asked = (prompts,) if isinstance(prompts, str) else tuple(prompts or ())
    if not asked:
        raise PromptError("the list of prompts is empty; give at least one word")
    for prompt in asked:
        normalise(prompt)  # a bad prompt is one error, not one per image
    number, count = shard
    if not 1 <= number <= count:
        raise ConfigError(f"the shard {number}/{count} does not exist; give i/n with 1 <= i <= n")
    out = Path(out)
    many = list(map(Path, [sources] if isinstance(sources, str | Path) else sources))
    if not many:
        raise ConfigError("the list of sources is empty; give a file or a folder")
    named = {source for source in many if not source.is_dir()}
    found: list[tuple[str, tuple[Path, ...]]] = []
    for source in many:
        prefix = f"{_name_of(source)}/" if len(many) > 1 and source.is_dir() else ""
        found += [
            (prefix + name, paths) for name, paths in _found_in(source, out, recursive, series)
        ]
    found.sort(key=lambda pair: pair[0])
    _check_found(found, many, recursive)
    inputs = [
        Input(name, paths, base, named=paths[0] in named)
        for (name, paths), base in zip(found, bases([name for name, _ in found]), strict=True)
    ]
    _keep_inside(inputs, out)
    if mask_file is not None and (len(inputs) > 1 or len(asked) > 1):
        raise ConfigError(f"{mask_file} is a file, and there is more than one mask to write")
    if mask_file is not None and Path(mask_file).parent != out:
        raise ConfigError(f"the mask file {mask_file} is not in the folder of outputs, {out}")
    plan = Plan(
        inputs=tuple(inputs),
        prompts=asked,
        slugs=tuple(slugs(asked)),
        out=out,
        options=options,
        shard=(number, count),
        mask_file=None if mask_file is None else Path(mask_file),
    )
    _keep_inputs(plan)
    return replace(plan, inputs=shard_of(plan.inputs, number, count))


def shard_of(inputs: Sequence[Input], number: int, count: int) -> tuple[Input, ...]:
    """The `number`-th of `count` parts, from 1: every `count`-th input."""
    return tuple(inputs[number - 1 :: count])


def _name_of(folder: Path) -> str:
    """What a folder is called among several sources, and its part of the output folder."""
    # "." and what ends in ".." have a name elsewhere; links keep the one they were given by.
    name = real_path(folder).name if folder.name in ("", "..") else folder.name
    if not name:
        raise ConfigError(
            f"{folder}: the folder has no name for its part of the outputs; give it in a call of "
            "its own"
        )
    return name


def _keep_inside(inputs: Sequence[Input], out: Path) -> None:
    """Refuse names that lead out of the output folder."""
    for item in inputs:
        base = PurePosixPath(item.base)
        if base.is_absolute() or ".." in base.parts:
            raise ConfigError(
                f"{item.path}: its outputs, {base}, would lie outside of {out}; give the file, or "
                "the folder it is in, by its own name"
            )


def _found_in(
    source: Path, out: Path, recursive: bool, series: bool
) -> list[tuple[str, tuple[Path, ...]]]:
    if not source.is_dir():
        return [(source.name, (source,))]
    names = find_images(source, recursive=recursive, skip=out)
    if real_path(source).is_relative_to(real_path(out)):
        # The outputs lie between the inputs; those of an earlier run are no inputs of this one.
        earlier = outputs_before(out)
        names = [name for name in names if real_path(source / name) not in earlier]
    if series:
        return _by_series(source, names)
    return [(name, (source / name,)) for name in names]


def _by_series(source: Path, names: Sequence[str]) -> list[tuple[str, tuple[Path, ...]]]:
    """Inputs with the files of one folder and series together; others stay alone."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        uid = _series_uid(source / name)
        folder = str(PurePosixPath(name).parent)
        groups.setdefault((folder, uid) if uid else (name, ""), []).append(name)
    return [(group[0], tuple(source / name for name in group)) for group in groups.values()]


def _series_uid(path: Path) -> str | None:
    if not is_dicom(path):
        return None
    try:
        import pydicom
    except ImportError as error:
        raise ConfigError(
            'grouping DICOM files by series needs pydicom; pip install "textsam[medical]"'
        ) from error
    try:
        header = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
        return str(header.get("SeriesInstanceUID") or "") or None
    except Exception:  # noqa: BLE001 - damaged files raise anything; opening it later reports it
        return None


def _check_found(
    found: Sequence[tuple[str, tuple[Path, ...]]], sources: Sequence[Path], recursive: bool
) -> None:
    if not found:
        where = "" if recursive else " directly inside it"
        raise ConfigError(
            f"{', '.join(map(str, sources))} holds no image; read are files named "
            f"{', '.join(IMAGE_SUFFIXES)} or that begin as such files do,{where or ' in it'}"
        )
    names = [name for name, _ in found]
    double = {name for name, following in pairwise(names) if name == following}
    if double:
        raise ConfigError(
            f"two inputs are both called {min(double)!r}; give the folder they are in, or one call "
            "for each"
        )


def _keep_inputs(plan: Plan) -> None:
    """Refuse to write over a file that is to be read.

    How many images an input holds is not known yet, so names with a slice number count as well.
    """
    root = real_path(plan.out if plan.mask_file is None else plan.mask_file.parent)
    inside = [
        (path, place.relative_to(root).as_posix())
        for item in plan.inputs
        for path in item.paths
        # What a link leads to, and the link itself.
        for place in {real_path(path), real_path(path.parent) / path.name}
        if place.is_relative_to(root)
    ]
    if not inside:
        return
    if plan.mask_file is None:
        written = {f"{item.base}_{slug}" for item in plan.inputs for slug in plan.slugs}
        written |= {f"{item.base}_seg" for item in plan.inputs}
    else:
        written = {plan.mask_file.name, plan.mask_file.stem}
    written |= {plan.about_all(name) + end for name, end in ABOUT_ALL.items()}
    sheet = plan.about_all("sheet") if plan.options.sheet else None
    for path, name in inside:
        small = re.sub(r"(_\d{4,})?\.jpg$", "", name.removeprefix(f"{TILE_FOLDER}/"))
        if (
            name in written
            or _without_ends(name) in written
            or (sheet and (SHEET_NAME.fullmatch(name) or sheet_of(name) == sheet))
            or (sheet and name.startswith(f"{TILE_FOLDER}/") and small in written)
        ):
            left = "" if plan.mask_file else ", or, if a killed run left it there, delete it"
            raise ConfigError(
                f"{path}: an output of this name would overwrite an input image; give another "
                f"-o{left}"
            )


def _without_ends(name: str) -> str:
    """A name as a run would write it, without slice number, overlay and suffix."""
    return re.sub(r"(_\d{4,})?(_overlay)?\.(png|tiff|nii\.gz|dcm)$", "", name)
