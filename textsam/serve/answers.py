"""What goes back: JSON with masks in it, one mask as PNG, or a DICOM segmentation."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from starlette.responses import Response

from textsam import __version__
from textsam.errors import ImageError
from textsam.serve.upload import SOURCE, Upload

if TYPE_CHECKING:
    from textsam.io.image import Image
    from textsam.result import Segmentation

__all__ = ["MaskEncoding", "check_seg", "json_answer", "png_answer", "run_lengths", "seg_answer"]

MaskEncoding = Literal["rle", "png"]
ANSWER_FORMAT = 1

# Most of the time of a PNG goes into the last tenth of its compression.
_QUICK_PNG, _USUAL_PNG = 1, -1


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """A mask as COCO writes it uncompressed: {"size": [H, W], "counts": [...]}.

    Counts are the lengths of alternating runs of outside and inside, outside first, down the
    columns from left to right (github.com/cocodataset/cocoapi, PythonAPI/pycocotools/mask.py).
    """
    flat = np.asarray(mask, dtype=np.bool_).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    if flat[0]:
        counts.insert(0, 0)
    return {"size": [int(side) for side in mask.shape], "counts": counts}


def json_answer(
    results: Sequence[Segmentation],
    upload: Upload,
    *,
    masks: MaskEncoding,
    overlay: bool,
    preview: bool,
    warnings: Sequence[str],
    seconds: float,
) -> Response:
    """Everything about all prompts of one image; the keys are described in docs/server.md."""
    first = results[0]
    image = first.image
    body: dict[str, Any] = {
        "format": ANSWER_FORMAT,
        "textsam": __version__,
        "model": first.model,
        "adapter": first.adapter,
        "image": {
            "height": image.height,
            "width": image.width,
            "sha256": image.sha256(),
            "spacing_mm": image.spacing_mm,
            "region_px": image.region_px,
            "type": upload.kind if upload.kind != "gzip" else "nifti",
            "frame": upload.index,
            "frames": len(upload.stack),
        },
        "results": [_result(result, masks, overlay) for result in results],
        "warnings": list(warnings),
        "seconds": round(seconds, 4),
    }
    if preview:
        body["preview"] = _base64(_png(PIL.Image.fromarray(_seen(image)), quick=True))
    text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    return Response(text.encode(), media_type="application/json")


def _result(result: Segmentation, masks: MaskEncoding, overlay: bool) -> dict[str, Any]:
    whole = result.to_dict()
    # The same for all results; once for the answer is enough.
    entry = {key: whole[key] for key in whole if key not in ("image", "model", "adapter")}
    if masks == "rle":
        entry["mask"] = {"encoding": "rle", **run_lengths(result.mask)}
    else:
        entry["mask"] = {"encoding": "png", "data": _base64(_mask_png(result))}
    if overlay:
        entry["overlay"] = _base64(_png(result.overlay(), quick=True))
    return entry


def png_answer(result: Segmentation) -> Response:
    """The mask as 8-bit grey PNG, 0 outside and 255 inside."""
    headers = {
        "X-TextSAM-Found": str(result.found).lower(),
        "X-TextSAM-Score": f"{result.score:.4f}",
    }
    return Response(_mask_png(result), media_type="image/png", headers=headers)


def check_seg(upload: Upload) -> None:
    """Refuse, before the model works, what no DICOM segmentation can be made of.

    Raises:
        ImageError: the upload is no DICOM file, or none that a segmentation can refer to.
    """
    from textsam.io.dicom import DicomStack
    from textsam.io.seg_source import group_frames

    if not isinstance(upload.stack, DicomStack):
        raise ImageError(
            f"{SOURCE}: format=seg refers to a DICOM image, and this is no DICOM file; take "
            "format=json or format=png"
        )
    with upload.without_path():
        group_frames(upload.stack, [upload.index])


def seg_answer(
    results: Sequence[Segmentation], upload: Upload, *, model_identity: str, refine: int | None
) -> Response:
    """A DICOM segmentation that refers to the uploaded DICOM image.

    Args:
        results: one per prompt.
        upload: the file they are of.
        model_identity: of the model and its settings.
        refine: as asked. With the view of the upload it enters the UIDs, so that answers that
            differ in either are not taken for one.

    Raises:
        ImageError: the upload is no DICOM file, or none that a segmentation can refer to.
    """
    from textsam.io.dicom import DicomStack
    from textsam.io.seg import seg_datasets

    assert isinstance(upload.stack, DicomStack)  # check_seg has seen to it
    settings = json.dumps({"refine": refine, "window": upload.window})
    with upload.without_path():
        (dataset,) = seg_datasets(
            upload.stack, {upload.index: results}, model_identity=model_identity, settings=settings
        )
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    headers = {"Content-Disposition": 'attachment; filename="segmentation.dcm"'}
    return Response(buffer.getvalue(), media_type="application/dicom", headers=headers)


def _seen(image: Image) -> NDArray[np.uint8]:
    if image.pixels.dtype == np.uint8:
        return np.ascontiguousarray(image.pixels)
    seen: NDArray[np.uint8] = np.rint(image.pixels).astype(np.uint8)
    return seen


def _mask_png(result: Segmentation) -> bytes:
    return _png(PIL.Image.fromarray(np.where(result.mask, np.uint8(255), np.uint8(0))))


def _png(picture: PIL.Image.Image, *, quick: bool = False) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=_QUICK_PNG if quick else _USUAL_PNG)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
