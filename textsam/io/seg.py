"""Masks as DICOM Segmentation instances (SEG, PS3.3 A.51), written with highdicom.

One segment per prompt. The images of a series that have a place in the patient share one instance;
images without one (most ultrasound, endoscopy, photographs) get one instance each. UIDs follow from
the sources and the question, so that asking again gives the same UIDs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import textsam
from textsam.errors import ConfigError, ImageError, PromptError, TextSAMError
from textsam.io.atomic import atomic_path, told_as
from textsam.io.dicom.guard import damage_reported
from textsam.io.seg_facts import SegmentFacts
from textsam.io.seg_identity import SegIdentity, seg_identity
from textsam.io.seg_source import FrameGeometry, SegGroup, group_frames
from textsam.result import Segmentation

if TYPE_CHECKING:
    from pydicom import Dataset

    from textsam.io.dicom import DicomStack

__all__ = ["SegIdentity", "seg_datasets", "seg_identity", "write_seg"]

# Between where an answer and a header say an image lies; floating-point noise is below 1e-6.
_PLACE_TOLERANCE_MM = 0.01


def seg_datasets(
    stack: DicomStack,
    answers: Mapping[int, Sequence[Segmentation]],
    *,
    fractional: bool = False,
    series_description: str | None = None,
    model_identity: str = "",
    settings: str = "",
) -> Iterator[Dataset]:
    """Make SEG instances, one after the other, in the order of the images.

    Args:
        stack: the images; their headers say what the masks refer to.
        answers: index of an image -> its answers, one per prompt, the same prompts in the same
            order for every image. Each entry is looked up once, those of one instance together.
        fractional: store probabilities (FRACTIONAL, PROBABILITY, 255 steps) and not masks (BINARY).
            Probabilities are stored also where the answer was "not found".
        series_description: of the new series, at most 64 characters; None names the prompts.
        model_identity: tells adapters of one name apart (`Segmenter.identity`).
        settings: further options the answers depend on, as text; they enter the UIDs.

    Yields:
        Complete instances, file meta information included: `save_as(path,
        enforce_file_format=True)` writes them.

    Raises:
        ConfigError: no answers, or an index outside the stack.
        PromptError: images answered for different prompts.
        ImageError: headers that a SEG cannot refer to, or masks of another size or place.
        TextSAMError: pydicom or highdicom are not installed.
    """
    _require_highdicom()
    prompts: tuple[str, ...] = ()
    identity: SegIdentity | None = None
    for number, group in enumerate(group_frames(stack, answers), start=1):
        gathered = _gather(stack, group, answers, prompts, fractional)
        prompts = tuple(segment.prompt for segment in gathered.segments)
        if identity is None:
            identity = seg_identity(
                stack,
                prompts,
                model_identity,
                fractional=fractional,
                settings=settings,
                indices=answers,
            )
        yield _dataset(gathered, identity, number, series_description, model_identity)


def write_seg(
    path_or_folder: str | Path,
    stack: DicomStack,
    answers: Mapping[int, Sequence[Segmentation]],
    *,
    fractional: bool = False,
    series_description: str | None = None,
    model_identity: str = "",
    settings: str = "",
) -> list[Path]:
    """Write SEG files and return their paths.

    Args:
        path_or_folder: a path ending in ".dcm" where the answers make one instance (a series with
            positions, or a single image); otherwise a folder, which gets seg-0001.dcm,
            seg-0002.dcm and so on. `len(seg_identity(...).instance_uids)` tells how many there
            will be.

    The other arguments, and errors, are those of `seg_datasets`. A further ConfigError: a path
    ending in ".dcm" for several instances; nothing is written then.
    """
    target = Path(path_or_folder)
    groups = group_frames(stack, answers)
    single = target.suffix.lower() == ".dcm"
    if single and len(groups) > 1:
        raise ConfigError(
            f"{stack.source}: its answers make {len(groups)} SEG instances, and {target} is one "
            "file; give a folder"
        )
    written: list[Path] = []
    datasets = seg_datasets(
        stack,
        answers,
        fractional=fractional,
        series_description=series_description,
        model_identity=model_identity,
        settings=settings,
    )
    for number, dataset in enumerate(datasets, start=1):
        path = target if single else target / f"seg-{number:04d}.dcm"
        with told_as(TextSAMError, path), atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
        written.append(path)
    return written


def _require_highdicom() -> None:
    missing = [name for name in ("pydicom", "highdicom") if find_spec(name) is None]
    if missing:
        raise TextSAMError(
            f"writing DICOM segmentations needs {' and '.join(missing)}, not installed here; run "
            '`pip install "textsam[medical]"`'
        )


def _check_prompts(
    stack: DicomStack, index: int, asked: tuple[str, ...], prompts: tuple[str, ...]
) -> None:
    if not asked:
        raise PromptError(f"{stack.source}: image {index} has no answer; give one per prompt")
    if asked != prompts:
        raise PromptError(
            f"{stack.source}: image {index} was asked {', '.join(map(repr, asked))}, others "
            f"{', '.join(map(repr, prompts))}; ask the same prompts of every image"
        )


@dataclass
class _Gathered:
    """The answers of one instance, without the images.

    source: what was opened, for messages.
    group: which images.
    headers: (header, frame from 0) of each.
    pixels: (N, H, W, S), uint8 masks or float32 probabilities.
    segments: facts about each prompt.
    """

    source: str
    group: SegGroup
    headers: list[tuple[Dataset, int]]
    pixels: NDArray[Any]
    segments: list[SegmentFacts]


def _gather(
    stack: DicomStack,
    group: SegGroup,
    answers: Mapping[int, Sequence[Segmentation]],
    prompts: tuple[str, ...],
    fractional: bool,
) -> _Gathered:
    headers = stack.headers
    gathered: _Gathered | None = None
    for at, index in enumerate(group.indices):
        file, frame = stack.where(index)
        header, given = headers[file], answers[index]
        asked = tuple(answer.prompt for answer in given)
        prompts = prompts or asked
        _check_prompts(stack, index, asked, prompts)
        geometry = None if group.geometry is None else group.geometry[at]
        _check_fit(stack, index, header, given, geometry)
        if gathered is None:
            shape = (len(group.indices), *given[0].image.size_px, len(given))
            pixels: NDArray[Any] = np.zeros(shape, np.float32 if fractional else np.uint8)
            facts = [SegmentFacts.of(answer) for answer in given]
            gathered = _Gathered(stack.source, group, [], pixels, facts)
        gathered.headers.append((header, frame))
        for number, (answer, segment) in enumerate(zip(given, gathered.segments, strict=True)):
            stored = answer.probability if fractional else answer.mask
            gathered.pixels[at, :, :, number] = stored
            segment.count(answer)
    assert gathered is not None  # groups are never empty
    return gathered


def _dataset(
    gathered: _Gathered,
    identity: SegIdentity,
    number: int,
    series_description: str | None,
    model_identity: str,
) -> Dataset:
    from highdicom.seg import Segmentation as Seg

    from textsam.io import seg_header

    group, sources, pixels = gathered.group, gathered.headers, gathered.pixels
    geometry = group.geometry or (None,)
    fractional = pixels.dtype == np.float32
    prompts = [segment.prompt for segment in gathered.segments]
    title = series_description or f"TextSAM: {', '.join(prompts)}"
    what = "no DICOM segmentation can be made that refers to it"
    with damage_reported(gathered.source, what):
        descriptions = seg_header.segment_descriptions(gathered.segments, identity, model_identity)
        made = Seg(
            source_images=[
                seg_header.stand_in(header, at, geometry[at], geometry[0], group.thickness_mm)
                for at, (header, _) in enumerate(sources)
            ],
            pixel_array=pixels,
            segmentation_type="FRACTIONAL" if fractional else "BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=identity.series_uid,
            series_number=_series_number(sources[0][0]),
            sop_instance_uid=identity.instance_uids[number - 1],
            instance_number=number,
            manufacturer="TextSAM",
            manufacturer_model_name="textsam",
            software_versions=textsam.__version__,
            device_serial_number=model_identity[:64] or "unknown",
            content_label="TEXTSAM",
            content_description=seg_header.line(title, 64),
            series_description=seg_header.line(title, 64),
            omit_empty_frames=_all_somewhere(pixels),
            coding_schemes=seg_header.local_schemes(descriptions),
            **seg_header.character_set(sources[0][0], [*prompts, title]),
        )
        return seg_header.restore(made, sources)


def _all_somewhere(pixels: NDArray[Any]) -> bool:
    """Whether each segment has a stored value over 0 in some image.

    Empty frames are left out then. A segment that is nowhere would be left without any frame, which
    readers do not expect, so all frames are stored where there is one.
    """
    most = pixels.max(axis=(0, 1, 2))
    return bool((np.rint(most * 255) if pixels.dtype == np.float32 else most).all())


def _check_fit(
    stack: DicomStack,
    index: int,
    header: Dataset,
    given: Sequence[Segmentation],
    geometry: FrameGeometry | None,
) -> None:
    """Refuse answers that are not of this image: a mask must never be filed with another."""
    size = (int(header.Rows), int(header.Columns))
    for answer in given:
        if answer.image.size_px != size:
            raise ImageError(
                f"{stack.source}: image {index} has {size[0]} rows and {size[1]} columns, its "
                f"answer {answer.image.height} and {answer.image.width}; segment the image as "
                "the stack reads it"
            )
        placement = answer.image.placement
        if geometry is None or placement is None or placement.affine_mm is None:
            continue
        corners = np.array([[0, 0, 0, 1], [size[1] - 1, size[0] - 1, 0, 1]]).T
        apart_mm = np.abs((placement.affine_mm - geometry.affine_mm) @ corners).max()
        if apart_mm > _PLACE_TOLERANCE_MM:
            raise ImageError(
                f"{stack.source}: the answer for image {index} lies {apart_mm:g} mm from where its "
                "header says; give every image its own answers"
            )


def _series_number(header: Dataset) -> int:
    """Far from the source's own series, and the same every time."""
    try:
        number = int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return 9000 + min(max(number, 0), 90_000)
