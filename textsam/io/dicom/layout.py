"""How the pixels of a file are stored, taken from its header and checked against the limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textsam.errors import ImageError
from textsam.io.dicom.values import text, whole_number
from textsam.io.limits import Limits
from textsam.io.pixels import check_size

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["BIG_ENDIAN", "PixelLayout", "read_layout"]

BIG_ENDIAN = "1.2.840.10008.1.2.2"
"""UID of Explicit VR Big Endian, the one transfer syntax of that byte order."""

_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True)
class PixelLayout:
    """The Image Pixel module (PS3.3 C.7.6.3) of one file.

    Attributes:
        rows, columns, samples, frames: sizes, all at least 1; samples is 1 or 3.
        bits_allocated, bits_stored, high_bit: where the bits of a value lie.
        signed: two's complement values.
        planar: 1 where colours lie in separate planes.
        photometric: Photometric Interpretation.
        syntax: Transfer Syntax UID.
        compressed: whether frames are encapsulated (PS3.5 A.4).
        keyword: "PixelData", "FloatPixelData" or "DoubleFloatPixelData".
        vr: the VR of that element.
        offset: where its value begins, in bytes from the start of the (inflated) body or file.
        length: of its value in bytes, None where it is undefined, as it is when compressed.
    """

    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: int
    photometric: str
    syntax: str
    compressed: bool
    keyword: str
    vr: str
    offset: int
    length: int | None

    @property
    def little_endian(self) -> bool:
        """Byte order of values and lookup tables."""
        return self.syntax != BIG_ENDIAN

    @property
    def floating(self) -> bool:
        """Whether the values are floating-point numbers."""
        return self.keyword != "PixelData"

    @property
    def stored_frame_bits(self) -> int:
        """Size of one uncompressed frame as it lies in the file, in bits."""
        bits = self.rows * self.columns * self.samples * self.bits_allocated
        # Two values of colour for every four of brightness (PS3.3 C.7.6.3.1.2).
        return bits // 3 * 2 if self.photometric == "YBR_FULL_422" else bits

    def pixel_options(self) -> dict[str, Any]:
        """What pydicom's decoders want to be told."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "samples_per_pixel": self.samples,
            "number_of_frames": self.frames,
            "bits_allocated": self.bits_allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": int(self.signed),
            "planar_configuration": self.planar,
            "photometric_interpretation": self.photometric,
            "pixel_keyword": self.keyword,
            "pixel_vr": self.vr,
        }


def read_layout(
    header: Dataset,
    source: str,
    limits: Limits,
    syntax: str,
    keyword: str,
    vr: str,
    place: tuple[int, int | None],
) -> PixelLayout:
    """Read and check the layout.

    Args:
        header: the elements before the pixel data.
        source: how the file is called in messages.
        limits: what the file may ask for.
        syntax: Transfer Syntax UID.
        keyword: which element holds the pixels.
        vr: its VR.
        place: offset and length (None: undefined) of its value in bytes.

    Raises:
        ImageError: an element is missing, impossible, contradicts another, or is over a limit.
    """
    from pydicom.uid import UID

    def needed(name: str) -> int:
        value = whole_number(header, name, source)
        if value is None:
            raise ImageError(
                f"{source}: the header has pixel data and no {name}; the file is damaged: export "
                "it again"
            )
        return value

    check_size(needed("Rows"), needed("Columns"), source, limits.max_pixels)
    frames = whole_number(header, "NumberOfFrames", source, 1) or 0
    if frames < 1:
        raise ImageError(
            f"{source}: the header's NumberOfFrames is {frames}; the file is damaged: export it "
            "again"
        )
    limits.check_images(frames, source)
    floating = keyword != "PixelData"
    allocated = needed("BitsAllocated")
    stored = allocated if floating else needed("BitsStored")
    known = UID(syntax)
    compressed = known.is_transfer_syntax and not known.is_private and known.is_encapsulated
    layout = PixelLayout(
        rows=needed("Rows"),
        columns=needed("Columns"),
        samples=needed("SamplesPerPixel"),
        frames=frames,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=whole_number(header, "HighBit", source, stored - 1) or 0,
        signed=not floating and needed("PixelRepresentation") == 1,
        planar=whole_number(header, "PlanarConfiguration", source, 0) or 0,
        photometric=text(header, "PhotometricInterpretation", source).upper(),
        syntax=syntax,
        compressed=compressed,
        keyword=keyword,
        vr=vr,
        offset=place[0],
        length=place[1],
    )
    _check_values(layout, source)
    _check_amount(layout, source, limits)
    return layout


def _check_values(layout: PixelLayout, source: str) -> None:
    photometric, samples = layout.photometric, layout.samples
    if photometric not in (*_GREY, *_COLOUR):
        raise ImageError(
            f"{source}: Photometric Interpretation {photometric[:20]!r} is not supported; convert "
            f"the file to one of {', '.join((*_GREY, *_COLOUR))}"
        )
    if samples != (1 if photometric in _GREY else 3):
        raise ImageError(
            f"{source}: the header says {photometric} with {samples} samples per pixel, which "
            "contradict each other; the file is damaged: export it again"
        )
    bits, stored = layout.bits_allocated, layout.bits_stored
    widths = {"FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}
    if bits not in widths.get(layout.keyword, (1, 8, 16, 32, 64)):
        raise ImageError(
            f"{source}: {bits} bits allocated for a value of {layout.keyword} are not supported; "
            "convert the file to 8 or 16 bits allocated"
        )
    if not 1 <= stored <= bits or not stored - 1 <= layout.high_bit < bits:
        raise ImageError(
            f"{source}: the header says {stored} bits stored up to bit {layout.high_bit} in "
            f"{bits} bits allocated, which is not possible; the file is damaged: export it again"
        )
    if samples == 3 and (layout.signed or layout.floating or bits == 1 or layout.planar > 1):
        raise ImageError(
            f"{source}: colour pixels that are signed, floating-point, of 1 bit or in planar "
            f"configuration {layout.planar} have no defined meaning; convert the file to RGB of 8 "
            "bits"
        )


def _check_amount(layout: PixelLayout, source: str, limits: Limits) -> None:
    values = layout.rows * layout.columns * layout.samples
    limits.check_inflated(values * ((layout.bits_allocated + 7) // 8), source)
    if layout.compressed != (layout.length is None):
        is_so = "compressed" if layout.compressed else "uncompressed"
        raise ImageError(
            f"{source}: the transfer syntax says {is_so} pixels, the pixel data element is of the "
            "other kind; the file is damaged: export it again"
        )
    if layout.length is None:
        return
    needed = (layout.frames * layout.stored_frame_bits + 7) // 8
    if layout.length < needed:
        raise ImageError(
            f"{source}: {layout.frames} frames of {layout.rows} rows x {layout.columns} columns "
            f"need {needed:,} bytes, the pixel data element has {layout.length:,}; the header is "
            "wrong: export the file again"
        )
    full = layout.frames * values * layout.bits_allocated // 8
    if layout.photometric == "YBR_FULL_422" and layout.length >= full:
        # Left over from before the file was decompressed; read so, colours would be noise.
        raise ImageError(
            f"{source}: the header says YBR_FULL_422, which stores colours of every second pixel, "
            "and the pixel data has those of all; the header is wrong: export the file again, as "
            "RGB"
        )
