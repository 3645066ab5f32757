"""What a segmentation returns: the mask, how sure the model is, and what it was asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textsam.errors import TextSAMError
from textsam.io.atomic import save_text
from textsam.io.image import Image
from textsam.io.raster import write_mask

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["Segmentation"]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One prompt answered on one image.

    Pixel frame: x is the column, y the row, the origin is the centre of the top-left pixel.

    Attributes:
        mask: (H, W) bool in the image's own size; True where the prompt's subject is. All False
            when `found` is False.
        probability: (H, W) float32 in [0, 1], the model's probability per pixel, 0 outside of
            `image.region_px`; kept also when nothing was found.
        score: in [0, 1], how sure the model is of the answer as a whole.
        found: whether the prompt's subject is in the image at all.
        prompt: the text asked for.
        image: the image as the model saw it.
        adapter: name of the adapter in use.
        model: name of the base model in use.
        extra: further facts about this answer, values that JSON can hold.

    Raises:
        TextSAMError: parts that contradict each other, such as a mask of another size than the
            image or a probability outside [0, 1].
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    score: float
    found: bool
    prompt: str
    image: Image
    adapter: str
    model: str
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = self.image.size_px
        if self.mask.dtype != np.bool_ or self.mask.shape != size:
            raise TextSAMError(
                f"Segmentation.mask must be bool of the image's size {size}, got {self.mask.dtype} "
                f"{self.mask.shape}; threshold and resize it first"
            )
        if self.probability.dtype != np.float32 or self.probability.shape != size:
            raise TextSAMError(
                f"Segmentation.probability must be float32 of the image's size {size}, got "
                f"{self.probability.dtype} {self.probability.shape}; convert and resize it first"
            )
        low, high = float(self.probability.min()), float(self.probability.max())
        if not (low >= 0.0 and high <= 1.0):
            raise TextSAMError(
                f"Segmentation.probability must lie in [0, 1], got {low:g} to {high:g}; apply the "
                "sigmoid to logits first"
            )
        if not 0.0 <= float(self.score) <= 1.0:
            raise TextSAMError(f"Segmentation.score must lie in [0, 1], got {self.score!r}")
        if not self.found and bool(self.mask.any()):
            raise TextSAMError(
                f"Segmentation of {self.prompt!r}: found is False but the mask has "
                f"{self.area_px} pixels; clear the mask or set found"
            )
        object.__setattr__(self, "score", float(self.score))
        object.__setattr__(self, "found", bool(self.found))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Smallest box around the mask as inclusive (x_min, y_min, x_max, y_max), None if empty."""
        columns = np.flatnonzero(self.mask.any(axis=0))
        if columns.size == 0:
            return None
        rows = np.flatnonzero(self.mask.any(axis=1))
        return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])

    @property
    def centroid(self) -> tuple[float, float] | None:
        """Mean position of the mask's pixels as (x, y) in pixels, None if the mask is empty."""
        per_column = np.count_nonzero(self.mask, axis=0)
        area = int(per_column.sum())
        if area == 0:
            return None
        per_row = np.count_nonzero(self.mask, axis=1)
        x = int(per_column @ np.arange(per_column.size)) / area
        y = int(per_row @ np.arange(per_row.size)) / area
        return x, y

    @property
    def centroid_mm(self) -> tuple[float, float, float] | None:
        """The centroid in the patient as (x, y, z) in mm, to left, back and head (LPS).

        None if the mask is empty or the image's place in the patient is unknown.
        """
        centroid = self.centroid
        if centroid is None or self.image.placement is None:
            return None
        return self.image.placement.to_patient_mm(*centroid)

    @property
    def area_px(self) -> int:
        """Number of pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def area_mm2(self) -> float | None:
        """Area of the mask in mm², None where the image's pixel spacing is unknown."""
        if self.image.spacing_mm is None:
            return None
        row_mm, column_mm = self.image.spacing_mm
        slant = 1.0 if self.image.placement is None else self.image.placement.slant
        return self.area_px * row_mm * column_mm * slant

    def save(self, path: str | Path) -> Path:
        """Write the mask as an 8-bit grey PNG or TIFF, 0 outside and 255 inside; see `write_mask`.

        Raises:
            ImageError: another file type, or a file that cannot be written.
        """
        return write_mask(self.mask, path)

    def overlay(
        self, alpha: float = 0.45, colour: str | tuple[int, int, int] | None = None
    ) -> PIL.Image.Image:
        """Draw the mask over the image: tint, contour, and a caption with prompt and score.

        Args:
            alpha: strength of the tint in [0, 1]; 0 leaves the contour alone.
            colour: a name or "#rrggbb", or red, green, blue in 0 to 255; None takes orange.

        Returns:
            An RGB picture in the image's own size. Images with a side under 256 pixels are enlarged
            by a whole factor first, and given a border for the caption where they are still too
            small to hold it.

        Raises:
            ConfigError: `alpha` or `colour` cannot be used.
        """
        from textsam.overlay import draw_overlay

        text = f"{self.score:.2f}" if self.found else f"{self.score:.2f} not found"
        return draw_overlay(self.image.pixels, self.mask, self.prompt, text, alpha, colour)

    def to_dict(self) -> dict[str, Any]:
        """The answer without its arrays, ready for JSON. The keys are stable:

        =========== ==========================================================================
        prompt      str, the text asked for
        found       bool
        score       float in [0, 1], rounded to 4 digits
        box         [x_min, y_min, x_max, y_max], inclusive pixels, or None when the mask is empty
        centroid    [x, y] in pixels, rounded to 3 digits, or None when the mask is empty
        centroid_mm [x, y, z] in mm, to the patient's left, back and head, rounded to 3 digits, or
                    None where the mask is empty or the image's place in the patient is unknown
        area_px     int, pixels in the mask
        area_mm2    float, rounded to 9 significant digits, or None where the pixel spacing is
                    unknown
        image       {"source": str, "index": int, "height": int, "width": int, "sha256": str}: the
                    number of the slice, page or frame in what was opened, a file or a series,
                    from 0; the hash is of the decoded pixels (`Image.sha256`), not of the file
        model       str, name of the base model
        adapter     str, name of the adapter
        extra       dict, as given; tuples become lists, paths text, numpy numbers plain numbers,
                    and numbers that are not finite None, which JSON has no other word for
        =========== ==========================================================================

        Raises:
            TextSAMError: `extra` holds something JSON cannot, such as an array.
        """
        box, centroid, centroid_mm = self.box, self.centroid, self.centroid_mm
        area_mm2 = self.area_mm2
        placement = self.image.placement
        return {
            "prompt": self.prompt,
            "found": self.found,
            "score": round(self.score, 4),
            "box": None if box is None else list(box),
            "centroid": None if centroid is None else [round(value, 3) for value in centroid],
            "centroid_mm": None if centroid_mm is None else [round(v, 3) for v in centroid_mm],
            "area_px": self.area_px,
            "area_mm2": None if area_mm2 is None else float(f"{area_mm2:.9g}"),
            "image": {
                "source": self.image.source,
                "index": 0 if placement is None else placement.index,
                "height": self.image.height,
                "width": self.image.width,
                "sha256": self.image.sha256(),
            },
            "model": self.model,
            "adapter": self.adapter,
            "extra": _plain(self.extra, "extra"),
        }

    def save_json(self, path: str | Path) -> Path:
        """Write `to_dict` as indented UTF-8 JSON, complete or not at all, and return the path.

        Raises:
            TextSAMError: `extra` holds something JSON cannot, or the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        return save_text(path, text + "\n")

    def __repr__(self) -> str:
        return (
            f"Segmentation(prompt={self.prompt!r}, found={self.found}, score={self.score:.4f}, "
            f"box={self.box}, area_px={self.area_px}, size_px={self.image.size_px}, "
            f"adapter={self.adapter!r}, model={self.model!r})"
        )


def _plain(value: object, where: str) -> Any:
    """Copy `value` as JSON types; `where` names it in the error."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TextSAMError(f"{where} has the key {wrong[0]!r}; JSON keys must be text")
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TextSAMError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold; put numbers, text, lists "
        "and dicts there, and save arrays to a file of their own"
    )
