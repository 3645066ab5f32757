"""From stored grey values to what a viewer shows: modality, then VOI, then polarity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.dicom.groups import FrameHeader
from textsam.io.dicom.layout import PixelLayout
from textsam.io.dicom.lookup import LookupTable, read_lookup
from textsam.io.dicom.values import first_item, numbers
from textsam.io.dicom.voi import Window, choose_voi
from textsam.io.pixels import stretched

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["show_grey"]

_Floats = NDArray[np.float32] | NDArray[np.float64]


def show_grey(
    stored: NDArray[Any],
    layout: PixelLayout,
    header: FrameHeader,
    window: int,
    source: str,
) -> NDArray[Any]:
    """Shown brightness of a MONOCHROME1 or MONOCHROME2 frame.

    Args:
        stored: (H, W) stored values.
        layout: of the file.
        header: as it holds for the frame.
        window: which VOI LUT or window, from 0; see `choose_voi`.
        source: how the frame is called in messages.

    Returns:
        (H, W), 0 black to 255 white: uint8 where up to 8 bits are stored, else float32. Padding is
        black.

    Raises:
        ImageError: what the header says of the values cannot be used, or they are not finite.
    """
    if layout.floating:
        _refuse_not_finite(stored, source)
    padding = _padding(stored, layout, header.header, source)
    # Slopes and windows of any size are legal; what leaves the numbers there are is seen to below.
    with np.errstate(over="ignore", invalid="ignore"):
        shown = _shown(stored, layout, header, window, padding, source)
    if layout.photometric == "MONOCHROME1":
        shown = 255.0 - shown
    if padding is not None:
        shown[padding] = 0.0
    # Rounding may lead out of the range by the last digit.
    np.clip(shown, 0.0, 255.0, out=shown)
    return np.rint(shown).astype(np.uint8) if layout.bits_stored <= 8 else shown.astype(np.float32)


def _shown(
    stored: NDArray[Any],
    layout: PixelLayout,
    header: FrameHeader,
    window: int,
    padding: NDArray[np.bool_] | None,
    source: str,
) -> NDArray[Any]:
    """(H, W) in [0, 255] before polarity, padding aside."""
    values, converted, signed = _modality(stored, layout, header, source)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(
            f"{source}: the rescale slope and intercept lead to values that are no numbers; the "
            "file is damaged: export it again"
        )
    voi = choose_voi(header.of("FrameVOILUTSequence"), window, signed, layout.little_endian, source)
    if isinstance(voi, LookupTable):
        return voi.apply(values).astype(np.float32) * np.float32(255.0 / voi.full)
    if isinstance(voi, Window):
        return voi.apply(_floating(values, layout)) * 255.0
    if layout.bits_stored <= 8 and not layout.signed and not converted:
        # As in a raster file: 8 bits are shown as they are.
        return np.asarray(_floating(values, layout) * (255.0 / (2**layout.bits_stored - 1)))
    return _stretched(_floating(values, layout), padding)


def _refuse_not_finite(stored: NDArray[Any], source: str) -> None:
    bad = int(np.count_nonzero(~np.isfinite(stored)))
    if bad:
        raise ImageError(
            f"{source}: {bad:,} of {stored.size:,} pixels are NaN or infinite; replace them and "
            "export the file again"
        )


def _floating(values: NDArray[Any], layout: PixelLayout) -> _Floats:
    # float32 holds whole numbers of 24 bits.
    if layout.bits_allocated > 16:
        return values.astype(np.float64, copy=False)
    return values.astype(np.float32, copy=False)


def _padding(
    stored: NDArray[Any], layout: PixelLayout, header: Dataset, source: str
) -> NDArray[np.bool_] | None:
    """Where pixels are no part of the image (PS3.3 C.7.5.1.1.2), None where none is."""
    keyword = {
        "PixelData": "PixelPaddingValue",
        "FloatPixelData": "FloatPixelPaddingValue",
        "DoubleFloatPixelData": "DoubleFloatPixelPaddingValue",
    }[layout.keyword]
    found = numbers(header, keyword, source)
    if not found:
        return None
    limit = numbers(header, keyword.replace("Value", "RangeLimit"), source)
    ends = [_as_stored(value, layout) for value in (found[0], *limit[:1])]
    padding = (stored >= min(ends)) & (stored <= max(ends))
    return padding if padding.any() else None


def _as_stored(value: float, layout: PixelLayout) -> float:
    # The element is 16 bits wide, and often written without the sign that the pixels have.
    if layout.signed and value >= 1 << 15:
        return value - (1 << 16)
    return value + (1 << 16) if not layout.signed and not layout.floating and value < 0 else value


def _modality(
    stored: NDArray[Any],
    layout: PixelLayout,
    header: FrameHeader,
    source: str,
) -> tuple[NDArray[Any], bool, bool]:
    """Values in the modality's units (PS3.3 C.11.1), whether that changed them, and whether there
    could be negative ones. Raise ImageError for a slope of 0.

    The last is a matter of the header alone: the sign of a VOI LUT's first input depends on it, and
    must not differ between slices with and without negative values.
    """
    signed = layout.signed or layout.floating
    table = first_item(header.header, "ModalityLUTSequence", source)
    if table is not None and not layout.floating:
        lookup = read_lookup(table, layout.signed, layout.little_endian, source)
        return lookup.apply(stored), True, False
    dataset = header.of("PixelValueTransformationSequence")
    slope = numbers(dataset, "RescaleSlope", source) or (1.0,)
    intercept = numbers(dataset, "RescaleIntercept", source) or (0.0,)
    if (slope[0], intercept[0]) == (1.0, 0.0):
        return stored, False, signed
    if slope[0] == 0:
        raise ImageError(
            f"{source}: the rescale slope is 0, which makes all pixels equal; the header is wrong: "
            "export the file again"
        )
    values = _floating(stored, layout)
    largest = 2.0**layout.bits_stored - 1
    ends = (-(largest + 1) / 2, (largest - 1) / 2) if layout.signed else (0.0, largest)
    signed = layout.floating or min(end * slope[0] for end in ends) + intercept[0] < 0
    return values * values.dtype.type(slope[0]) + values.dtype.type(intercept[0]), True, signed


def _stretched(values: _Floats, padding: NDArray[np.bool_] | None) -> NDArray[Any]:
    """The smallest value to 0, the largest to 255; a constant image to 0."""
    inside = values if padding is None else values[~padding]
    if inside.size == 0:
        return np.zeros(values.shape, np.float32)
    return stretched(values, float(inside.min()), float(inside.max()))
