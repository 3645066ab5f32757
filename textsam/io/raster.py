"""Raster images in, masks out: the one place where pixels enter and leave TextSAM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from textsam.errors import ImageError
from textsam.io.atomic import atomic_path, told_as
from textsam.io.image import Image
from textsam.io.limits import Limits, max_pixels_limit
from textsam.io.paths import existing_file
from textsam.io.pillow import array_from_pillow
from textsam.io.pixels import check_dtype, check_shape, check_size, to_rgb

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

__all__ = ["read_image", "write_mask", "write_picture"]

_MASK_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "TIFF": {"compression": "tiff_deflate"},
    "JPEG": {"quality": 95},
}
_PICTURE_FORMATS = {**_MASK_FORMATS, ".jpg": "JPEG", ".jpeg": "JPEG"}


def read_image(
    source: str | Path | PIL.Image.Image | NDArray[Any] | Image,
    *,
    max_pixels: int | None = None,
) -> Image:
    """Read an image from a file, a Pillow image or an array, in whatever depth it comes.

    Args:
        source: one of

            * a path to a PNG, JPEG, BMP or TIFF file with one page, of 1 to 16 bits a channel,
              int32, uint32 or float32. The EXIF orientation is applied; palettes are resolved;
              CMYK is converted without a colour profile. A DICOM or NIfTI file works too where it
              holds a single image, with the values and the place in the patient that
              `textsam.io.open.open_stack` gives it.
            * a Pillow image, of which the current frame is read. Pillow itself holds 16-bit colour
              in 8 bits; give the path to keep all bits.
            * an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), channels last, in the order red,
              green, blue[, alpha]; bool, integer, float16, float32 or float64. It is copied.
            * an Image, returned as it is once its size has been checked.
        max_pixels: most pixels (height x width) accepted. None takes the environment variable
            TEXTSAM_MAX_PIXELS, else 100,000,000.

    Returns:
        An Image with values in [0, 255]. uint8 values are kept; bool becomes 0 and 255; float
        images within [0, 1] are multiplied by 255; all other values, 16-bit files included, are
        stretched linearly from the minimum and maximum of the whole image to 0 and 255 (a constant
        image becomes 0). Alpha is dropped where the image is opaque, else the image is composited
        over black. Grey is repeated to three channels.

    Raises:
        ImageError: a missing, unreadable, truncated or multi-page file; an array of the wrong
            shape or dtype; NaN or infinite values; a side under 8 pixels; more than `max_pixels`.
            Sizes are checked from the header or shape, before memory is spent on pixels.
        ConfigError: a limit that is not a positive whole number.
    """
    limit = max_pixels_limit(max_pixels)
    if isinstance(source, Image):
        check_size(source.height, source.width, source.source, limit)
        return source
    if isinstance(source, str | os.PathLike):
        return _only_image(existing_file(source), limit)
    if isinstance(source, PIL.Image.Image):
        check_size(source.height, source.width, "PIL", limit)
        return Image(to_rgb(array_from_pillow(source, "PIL"), "PIL"), "PIL")
    if isinstance(source, np.ndarray):
        return Image(to_rgb(_checked_array(source, limit), "array"), "array")
    raise ImageError(_not_an_image(source))


def _only_image(path: Path, limit: int) -> Image:
    from textsam.io.open import open_stack

    # A limit on pixels that was raised allows the file of so many pixels, too.
    stack = open_stack(
        path, limits=Limits(max_bytes=max(Limits.max_bytes, 16 * limit), max_pixels=limit)
    )
    if len(stack) != 1:
        # Of the formats, NIfTI alone has a direction to choose, and Pillow alone opens TIFF.
        further = {
            "nifti": ", which takes axis= for the direction of slices (on the command line: "
            "--frame and --axis)",
            "dicom": " (on the command line: --frame)",
            "raster": " (on the command line: --frame), or open it with "
            "`page = PIL.Image.open(path)`, `page.seek(0)` and pass `page`",
        }[stack.format]
        raise ImageError(
            f"{path}: the file holds several pages, frames or slices ({len(stack)}) and it is not "
            "known which one is meant; choose one with textsam.io.open.open_stack(path)[0]"
            f"{further}"
        )
    return stack[0]


def _checked_array(array: NDArray[Any], limit: int) -> NDArray[Any]:
    check_dtype(array, "array")
    check_shape(array.shape, "array")
    check_size(array.shape[0], array.shape[1], "array", limit)
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise ImageError(
                "array: some values of the masked array are masked out; say what they should be "
                "with image.filled(value)"
            )
        return array.data
    return np.asarray(array)


def _not_an_image(source: object) -> str:
    name = f"{type(source).__module__}.{type(source).__qualname__}"
    if name.startswith("torch."):
        shape = tuple(getattr(source, "shape", ()))
        return (
            f"a torch tensor of shape {shape} is not accepted as an image; pass an array with "
            "channels last: tensor.detach().cpu().numpy(), after tensor.permute(1, 2, 0) where it "
            "is (C, H, W)"
        )
    if isinstance(source, list | tuple):
        return (
            f"a {type(source).__name__} of {len(source)} is not accepted as an image; pass one "
            "image at a time, and numbers as numpy.asarray(rows)"
        )
    if isinstance(source, bytes | bytearray) or hasattr(source, "read"):
        return (
            f"{name} is not accepted as an image; pass a path, or open it first with PIL.Image.open"
        )
    return (
        f"{name} is not accepted as an image; pass a path, a PIL.Image.Image or a numpy array "
        "(H, W) or (H, W, 3)"
    )


def write_mask(mask: NDArray[np.bool_], path: str | Path) -> Path:
    """Write a mask as an 8-bit grey file with 0 outside and 255 inside.

    Args:
        mask: (H, W) bool.
        path: a name ending in .png, .tif or .tiff; parent folders are made. The file appears
            complete or not at all.

    Returns:
        The path written.

    Raises:
        ImageError: not a two-dimensional bool array, another file type (JPEG would blur the edge
            of a mask), or a file that cannot be written.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
        got = f"{getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')}".strip()
        raise ImageError(f"{path}: a mask must be a bool array (H, W), got {got}; use mask > 0")
    if mask.size == 0:
        raise ImageError(
            f"{path}: the mask is empty, shape {mask.shape}; there is nothing to write"
        )
    values = np.where(mask, np.uint8(255), np.uint8(0))
    return _write(PIL.Image.fromarray(values), Path(path), _MASK_FORMATS)


def write_picture(
    picture: PIL.Image.Image, path: str | Path, *, pnginfo: PngInfo | None = None
) -> Path:
    """Write a picture such as an overlay, complete or not at all.

    Args:
        picture: any Pillow image the file type can hold.
        path: a name ending in .png, .tif, .tiff, .jpg or .jpeg; parent folders are made.
        pnginfo: texts to put into a PNG; other file types do without.

    Returns:
        The path written.

    Raises:
        ImageError: another file type, or a file that cannot be written.
    """
    return _write(picture, Path(path), _PICTURE_FORMATS, pnginfo=pnginfo)


def _write(
    picture: PIL.Image.Image,
    path: Path,
    formats: dict[str, str],
    *,
    pnginfo: PngInfo | None = None,
) -> Path:
    file_format = formats.get(path.suffix.lower())
    if file_format is None:
        raise ImageError(
            f"{path}: the file type {path.suffix!r} cannot be written here; use a name ending in "
            f"{', '.join(formats)}"
        )
    options = dict(_SAVE_OPTIONS.get(file_format, {}))
    if pnginfo is not None and file_format == "PNG":
        options["pnginfo"] = pnginfo
    with told_as(ImageError, path), atomic_path(path, suffix=path.suffix) as temporary:
        picture.save(temporary, format=file_format, **options)
    return path
