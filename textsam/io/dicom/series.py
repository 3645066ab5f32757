"""Open DICOM files: one file, or the files of one series in their order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from textsam.errors import ImageError
from textsam.io.dicom.geometry import perpendicular_axes
from textsam.io.dicom.groups import FrameHeader
from textsam.io.dicom.guard import damage_reported, require_pydicom
from textsam.io.dicom.header import DicomFile, NoPictureError, read_file
from textsam.io.dicom.stack import DicomStack
from textsam.io.dicom.values import numbers_or_none, text, whole_number
from textsam.io.file_kind import DICOM_SUFFIXES, kind_of_file
from textsam.io.limits import Limits

__all__ = ["open_dicom", "open_series"]

_SAME_ORIENTATION = 1e-3
_LISTED_SERIES = 20


def open_dicom(
    path: str | Path, *, limits: Limits | None = None, window: int = 0, crop: bool = True
) -> DicomStack:
    """Open one DICOM file, of one frame or several.

    Args:
        path: the file.
        limits: what it may ask for; None takes the defaults.
        window: which VOI LUT or window is shown, from 0, VOI LUTs first; -1 shows all values.
        crop: give ultrasound images the region their header calls tissue as `region_px`.

    Returns:
        The frames in the order of the file. Grey values go through modality LUT or rescale, then
        VOI LUT or window, and are shown as in a viewer: 0 black, 255 white, MONOCHROME1 inverted.
        Without a VOI LUT or window, up to 8 unsigned bits are shown as they are, other values from
        their minimum to their maximum. Padding is black. Colour comes as RGB.

    Raises:
        ImageError: not a DICOM image, damaged, over a limit, or compressed in a way no decoder is
            installed for. Limits are checked before pixels are decoded.
        ConfigError: a `window` that is not a whole number from -1.
    """
    limits = limits or Limits()
    return DicomStack(str(path), [read_file(path, limits)], limits=limits, window=window, crop=crop)


def open_series(
    folder_or_paths: str | Path | Iterable[str | Path],
    *,
    limits: Limits | None = None,
    window: int = 0,
    crop: bool = True,
    series_uid: str | None = None,
    skip_no_picture: bool = False,
) -> DicomStack:
    """Open the files of one series as one stack.

    Args:
        folder_or_paths: a folder, of which the files directly inside it are taken, or the files
            themselves. In a folder, files that are not DICOM, DICOMDIR, and objects without a
            picture are passed over; a damaged DICOM file is an error all the same. Of files that
            are named, each must be a DICOM image, unless `skip_no_picture` says otherwise.
        limits: what the files may ask for, `max_images` for all together; None takes the defaults.
        window, crop: as for `open_dicom`.
        series_uid: Series Instance UID of the series to take, needed where there are several.
        skip_no_picture: of files that are named, too, pass over objects without a picture. Where
            none of them has one, that is an error all the same.

    Returns:
        The images in order of their position along the normal of the image plane (rows x columns),
        where all files have the same orientation; else of their Instance Number, where each file
        has another one; else of their names. Files at the same position follow their Instance
        Number.

    Raises:
        ImageError: no series or several, a damaged file, the same image twice, or what
            `open_dicom` raises.
        ConfigError: as `open_dicom`.
    """
    limits = limits or Limits()
    if isinstance(folder_or_paths, str | os.PathLike):
        folder = Path(folder_or_paths)
        source = str(folder)
        files = _files_in(folder, limits)
    else:
        paths = [Path(path) for path in folder_or_paths]
        if not paths:
            raise ImageError("open_series got no files; pass the files of a series, or its folder")
        source = str(paths[0].parent)
        limits.check_images(len(paths), source)
        files = _read_all(paths, limits, source, skip_no_picture=skip_no_picture)
        if not files:
            read_file(paths[0], limits)  # raises, and says what it holds instead
    with damage_reported(source, "the DICOM headers cannot be read"):
        chosen = _one_series(files, series_uid, source)
        _refuse_twins(chosen, source)
        ordered = _in_order(chosen)
    return DicomStack(source, ordered, limits=limits, window=window, crop=crop)


def _files_in(folder: Path, limits: Limits) -> list[DicomFile]:
    if not folder.is_dir():
        return [read_file(folder, limits)]
    source = str(folder)
    require_pydicom(source)
    try:
        paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise ImageError(
            f"{source}: the folder cannot be read ({error.strerror}); check its permissions"
        ) from error
    # A file that its name calls DICOM and that is none is damaged, not of another kind.
    candidates = [
        p for p in paths if p.suffix.lower() in DICOM_SUFFIXES or kind_of_file(p) == "dicom"
    ]
    limits.check_images(len(candidates), source)
    files = _read_all(candidates, limits, source, skip_no_picture=True)
    if not files:
        inside = any(p.is_dir() for p in folder.iterdir())
        raise ImageError(
            f"{source}: {len(candidates)} DICOM files and no image among them"
            f"{'; pass one of the folders inside it' if inside else '; pass a folder of images'}"
        )
    return files


def _read_all(
    paths: Sequence[Path], limits: Limits, source: str, *, skip_no_picture: bool = False
) -> list[DicomFile]:
    files: list[DicomFile] = []
    frames = header_bytes = 0
    for path in paths:
        try:
            file = read_file(path, limits)
        except NoPictureError:
            if not skip_no_picture:
                raise
            continue
        files.append(file)
        frames += file.layout.frames
        header_bytes += file.header_bytes
        limits.check_images(frames, source)
        # All headers are kept.
        limits.check_inflated(header_bytes, source)
    return files


def _one_series(files: list[DicomFile], series_uid: str | None, source: str) -> list[DicomFile]:
    series: dict[str, list[DicomFile]] = {}
    for file in files:
        uid = text(file.header, "SeriesInstanceUID", str(file.path))
        series.setdefault(uid, []).append(file)
    if series_uid is not None:
        if series_uid in series:
            return series[series_uid]
        raise ImageError(f"{source}: there is no series {series_uid}; there are\n{_listed(series)}")
    if len(series) > 1:
        raise ImageError(
            f"{source}: {len(series)} series; choose one by its UID with series_uid=...\n"
            f"{_listed(series)}"
        )
    return files


def _listed(series: dict[str, list[DicomFile]]) -> str:
    lines = []
    for uid, files in list(series.items())[:_LISTED_SERIES]:
        header, source = files[0].header, str(files[0].path)
        described = [
            text(header, keyword, source)[:64]
            for keyword in ("Modality", "SeriesNumber", "SeriesDescription")
        ]
        images = sum(file.layout.frames for file in files)
        about = ", ".join(part for part in described if part)
        lines.append(f"  {uid or '(without UID)'}: {images} images{', ' + about if about else ''}")
    if len(series) > _LISTED_SERIES:
        lines.append(f"  and {len(series) - _LISTED_SERIES} more")
    return "\n".join(lines)


def _refuse_twins(files: list[DicomFile], source: str) -> None:
    seen: dict[str, DicomFile] = {}
    for file in files:
        uid = text(file.header, "SOPInstanceUID", source)
        if uid and uid in seen:
            raise ImageError(
                f"{source}: {seen[uid].path.name} and {file.path.name} are the same image (equal "
                "SOP Instance UID); remove one of them"
            )
        seen[uid] = file


def _in_order(files: list[DicomFile]) -> list[DicomFile]:
    numbers = [whole_number(file.header, "InstanceNumber", str(file.path)) for file in files]
    places = _places_mm(files)
    names = [file.path.name for file in files]
    if places is not None:
        keys: list[tuple[float | int | str, ...]] = [
            # Equal to a micrometre is the same position.
            (round(place, 3), -1 if number is None else number, name)
            for place, number, name in zip(places, numbers, names, strict=True)
        ]
    elif None not in numbers and len(set(numbers)) == len(numbers):
        keys = [(number or 0,) for number in numbers]
    else:
        keys = [(name,) for name in names]
    order = sorted(range(len(files)), key=keys.__getitem__)
    return [files[number] for number in order]


def _places_mm(files: list[DicomFile]) -> list[float] | None:
    """Positions along the common normal, None where there is none or a position is missing."""
    places: list[float] = []
    common: tuple[float, ...] | None = None
    for file in files:
        source, header = str(file.path), FrameHeader(file.header, 0, str(file.path))
        planes = header.of("PlaneOrientationSequence"), header.of("PlanePositionSequence")
        orientation = numbers_or_none(planes[0], "ImageOrientationPatient", 6, source)
        position = numbers_or_none(planes[1], "ImagePositionPatient", 3, source)
        if orientation is None or position is None:
            return None
        common = common or orientation
        axes = perpendicular_axes(common)
        if axes is None or not np.allclose(orientation, common, atol=_SAME_ORIENTATION, rtol=0):
            return None
        places.append(float(np.cross(*axes) @ np.asarray(position)))
    return places
