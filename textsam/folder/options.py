"""What to write and how to read: everything that decides what the outputs of an input are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from textsam.errors import ConfigError, ImageError
from textsam.io.limits import Limits

if TYPE_CHECKING:
    from textsam.io.stack import Stack

__all__ = ["Format", "Options", "formats_for"]

Format = Literal["png", "tiff", "nifti", "seg", "coco"]
_KNOWN = ", ".join(get_args(Format))


@dataclass(frozen=True)
class Options:
    """How inputs are read, asked and written.

    Attributes:
        formats: what to write. "png" and "tiff": one mask file per image and prompt. "nifti": one
            volume per prompt of a volume, a DICOM series or a single image. "seg": a DICOM
            segmentation, of DICOM inputs. "coco": one COCO file of the run. An input gets those of
            the formats that its kind can have; one that can have none of them fails.
        frame: the one image to take of each input, from 0; None takes all.
        axis: of NIfTI volumes, the array axis to slice along; None lets the reader decide.
        window: of DICOM files with several, which window (VOI) to show, from 0; -1 shows all
            values.
        crop: keep to the part of a DICOM image that shows the subject, where the file says it.
        overlay: also draw each mask over its image.
        sheet: also draw contact sheets of all answers.
        fractional: DICOM segmentations hold probabilities instead of 0 and 1.
        refine: refinement passes; None takes what the adapter asks for, "settle" refines until the
            mask changes no more.
        strict: raise for a prompt the adapter was not trained for.
        limits: the most that one input may ask of the machine.

    Raises:
        ConfigError: a value that cannot be, or options that contradict each other.
    """

    formats: tuple[Format, ...] = ("png",)
    frame: int | None = None
    axis: int | None = None
    window: int = 0
    crop: bool = True
    overlay: bool = False
    sheet: bool = False
    fractional: bool = False
    refine: int | Literal["settle"] | None = None
    strict: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        formats = (self.formats,) if isinstance(self.formats, str) else tuple(self.formats)
        if not formats:
            raise ConfigError("no format to write is given; choose one of " + _KNOWN)
        for name in formats:
            if name not in get_args(Format):
                raise ConfigError(f"the format {name!r} is unknown; choose one of {_KNOWN}")
        object.__setattr__(self, "formats", tuple(dict.fromkeys(formats)))
        for label in ("frame", "axis", "refine"):
            value = getattr(self, label)
            if value is None or (label == "refine" and value == "settle"):
                continue
            if not _is_whole(value) or value < 0:
                raise ConfigError(f"{label} is {value!r}; it is a whole number, counted from 0")
        if not _is_whole(self.window) or self.window < -1:
            raise ConfigError(f"window is {self.window!r}; it is counted from 0, -1 shows all")
        if self.axis is not None and self.axis > 2:
            raise ConfigError(f"axis is {self.axis}; a volume has the axes 0, 1 and 2")
        if self.frame is not None and "nifti" in self.formats:
            raise ConfigError("a NIfTI volume needs all its slices; leave out frame or the format")
        if self.fractional and "seg" not in self.formats:
            raise ConfigError("fractional is for DICOM segmentations; add the format seg")

    def reading(self) -> str:
        """What decides the answers, and not how they are written, as JSON text."""
        names = ("frame", "axis", "window", "crop", "refine")
        return json.dumps({name: getattr(self, name) for name in names})

    def fingerprint(self) -> str:
        """Hash of all that decides what is written, as 64 hexadecimal digits.

        Left out are `strict` and `limits`, which decide only whether something is written.
        """
        facts: dict[str, Any] = {
            "reading": self.reading(),
            "formats": sorted(self.formats),
            "overlay": self.overlay,
            "sheet": self.sheet,
            "fractional": self.fractional,
        }
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def formats_for(stack: Stack, wanted: Sequence[Format]) -> tuple[Format, ...]:
    """Those of the formats that an input can have.

    A DICOM segmentation is about DICOM images, and pages of a TIFF make no volume. Whether the
    images of a DICOM input make one turns out when it is written, unless NIfTI is all that would
    be: then they would be segmented for nothing.

    Raises:
        ImageError: none of them.
        TextSAMError: nothing but NIfTI is to be written, and nibabel is not installed.
    """
    unfit: set[Format] = set()
    if stack.format != "dicom":
        unfit.add("seg")
    if stack.format == "raster" and len(stack) > 1:
        unfit.add("nifti")
    fitting = tuple(name for name in wanted if name not in unfit)
    if not fitting:
        raise ImageError(
            f"{stack.source}: none of the formats asked for ({', '.join(wanted)}) fits this "
            f"{stack.format} file: seg is for DICOM images, nifti for volumes and single images; "
            "add the format png"
        )
    if set(fitting) == {"nifti"}:
        from textsam.io.nifti_out import check_nifti

        check_nifti(stack)
    return fitting


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
