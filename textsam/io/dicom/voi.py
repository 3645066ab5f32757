"""VOI: which values are shown between black and white (PS3.3 C.11.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.dicom.lookup import LookupTable, read_lookup
from textsam.io.dicom.values import numbers, text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["NO_WINDOW", "Window", "choose_voi"]

NO_WINDOW = -1
"""As `window`: disregard what the file suggests and show all values it has."""

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class Window:
    """A window: centre and width in the units of the modality, and the function between.

    Attributes:
        centre, width: in output units of the modality transform (for CT: HU).
        function: "LINEAR", "LINEAR_EXACT" or "SIGMOID".
    """

    centre: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values`, floating-point, mapped to [0, 1] as PS3.3 C.11.2.1.2 and C.11.2.1.3 say."""
        if self.function == "SIGMOID":
            # Beyond 60 nothing changes in float32, and exp does not overflow.
            steep = np.clip(-4.0 * (values - self.centre) / self.width, -60.0, 60.0)
            return np.asarray(1.0 / (1.0 + np.exp(steep)))
        half, whole = (0.5, 1.0) if self.function == "LINEAR" else (0.0, 0.0)
        centre, width = self.centre - half, self.width - whole
        if values.dtype.type(width) == 0:
            return np.asarray(values > centre, dtype=values.dtype)
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)

    def check(self, source: str) -> None:
        """Raise ImageError where the standard does not permit the window."""
        if self.function not in _FUNCTIONS:
            raise ImageError(
                f"{source}: the VOI LUT function {self.function[:20]!r} is not one of "
                f"{', '.join(_FUNCTIONS)}; choose window={NO_WINDOW} to show all values"
            )
        if not (self.width >= 1 if self.function == "LINEAR" else self.width > 0):
            raise ImageError(
                f"{source}: a window of width {self.width:g} is not possible; choose another one "
                f"with window=..., or window={NO_WINDOW} to show all values"
            )


def choose_voi(
    dataset: Dataset, window: int, signed: bool, little_endian: bool, source: str
) -> Window | LookupTable | None:
    """What the file suggests to show: VOI LUTs are counted first, windows after them.

    Args:
        dataset: the header or the frame's own group.
        window: which of them, from 0, or NO_WINDOW.
        signed: whether values may be negative.
        little_endian: of the file.
        source: how the file is called in messages.

    Returns:
        None where the file suggests nothing and `window` is 0, and for NO_WINDOW.

    Raises:
        ImageError: there is no such one, or it cannot be used.
    """
    if window == NO_WINDOW:
        return None
    tables = list(dataset.get("VOILUTSequence") or [])
    centres = numbers(dataset, "WindowCenter", source)
    widths = numbers(dataset, "WindowWidth", source)
    windows = list(zip(centres, widths, strict=False))
    count = len(tables) + len(windows)
    if count == 0 and window == 0:
        return None
    if window >= count:
        known = ", ".join(
            [f"{n}: lookup table" for n in range(len(tables))]
            + [f"{n + len(tables)}: {c:g}/{w:g}" for n, (c, w) in enumerate(windows[:16])]
        )
        raise ImageError(
            f"{source}: there is no window {window}, the file has {count} (counted from 0"
            f"{'; centre/width ' + known if count else ''}); choose one of them, or "
            f"window={NO_WINDOW} to show all values"
        )
    if window < len(tables):
        return read_lookup(tables[window], signed, little_endian, source)
    function = text(dataset, "VOILUTFunction", source).upper() or "LINEAR"
    chosen = Window(*windows[window - len(tables)], function)
    chosen.check(source)
    return chosen
