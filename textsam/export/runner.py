"""`OnnxSegmenter`: answers from an exported folder, with numpy, Pillow and ONNX Runtime alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from textsam.caller import warn_caller
from textsam.errors import PromptError, WeightsError
from textsam.export.frame import SquareFrame, model_input, sigmoid
from textsam.export.record import (
    DECODER_FILE,
    ENCODER_FILE,
    RECORD_FILE,
    TOKENS_FILE,
    ExportRecord,
    check_files,
    read_record,
)
from textsam.export.session import open_session
from textsam.frame import box_and_centroid
from textsam.inference.decoded import Decoded, cut_out, mean_of_views
from textsam.inference.judgement import judge
from textsam.inference.kinds import UNLOOKED, mean_embedding
from textsam.inference.question import as_list
from textsam.inference.refinement import RefineWith
from textsam.io.image import Image
from textsam.io.raster import read_image
from textsam.prompts import canonical, nearest, normalise
from textsam.result import Segmentation
from textsam.spelling import CorrectedPromptWarning, corrected, unknown_message

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["OnnxSegmenter"]

_TOKEN_CHANNELS = 256
_INSIDE, _FIRST_CORNER, _LAST_CORNER = 1, 2, 3


@dataclass(frozen=True)
class _Pass:
    """One decoded prompt: (H, W) logits of the image, the mask they give, and predicted IoU."""

    logits: NDArray[np.float32]
    mask: NDArray[np.bool_]
    iou: float


@dataclass(frozen=True)
class _Embedded:
    """An image as the encoder of a side sees it: (1, 256, h, w) embedding, and where it lies."""

    embedding: NDArray[np.float32]
    frame: SquareFrame


class OnnxSegmenter:
    """Segment images by words with files that `export_onnx` wrote; no torch is imported.

    Answers are those of the `Segmenter` that was exported, to rounding. The last image's embedding
    is kept, so that further prompts on the same image are cheap. One thread at a time.

    Args:
        folder: an exported folder.
        threads: that compute one graph together; None lets ONNX Runtime choose.
        providers: of ONNX Runtime, in order of preference.

    Attributes:
        record: what `export.json` says.

    Raises:
        AdapterError: not an exported folder, or its record is damaged.
        WeightsError: a file is missing, damaged or of another export.
        ConfigError: threads or providers that cannot be used, or a name that is no UTF-8.
        TextSAMError: onnxruntime is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        folder = Path(folder)
        self.record: ExportRecord = read_record(folder)
        check_files(folder, self.record)
        self._tokens = _read_tokens(folder / TOKENS_FILE, self.record)
        self._encoders, self._decoders = (
            {
                side_px: open_session(
                    folder / self.record.graph_file(name, side_px),
                    threads=threads,
                    providers=providers,
                )
                for side_px in self.record.sides_px
            }
            for name in (ENCODER_FILE, DECODER_FILE)
        )
        for side_px, encoder in self._encoders.items():
            _check_side(folder / self.record.graph_file(ENCODER_FILE, side_px), encoder, side_px)
        self._last: dict[int, tuple[str, _Embedded]] = {}

    @property
    def prompts(self) -> tuple[str, ...]:
        """The adapter's concepts; each also answers to its synonyms."""
        return self.record.prompts

    @overload
    def segment(  # type: ignore[overload-overlap]  # a str is a Sequence[str]; it comes first
        self,
        image: str | Path | PIL.Image.Image | NDArray[Any] | Image,
        prompt: str,
        *,
        refine: int | None = None,
    ) -> Segmentation: ...

    @overload
    def segment(
        self,
        image: str | Path | PIL.Image.Image | NDArray[Any] | Image,
        prompt: Sequence[str],
        *,
        refine: int | None = None,
    ) -> list[Segmentation]: ...

    def segment(
        self,
        image: str | Path | PIL.Image.Image | NDArray[Any] | Image,
        prompt: str | Sequence[str],
        *,
        refine: int | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Find what the prompt names.

        Args:
            image: path, Pillow image, or array (H, W) or (H, W, 3); see `read_image`.
            prompt: a word or several; a list gives a list, and the image is encoded once.
            refine: refinement passes; default: what was recorded at export.

        Returns:
            One `Segmentation` per prompt. What is not there has an empty mask and `found=False`.

        Raises:
            ImageError: the image cannot be used.
            PromptError: no prompt, one that is empty, or one whose token was not exported; passes
                that are not a whole number of at least 0, or that the adapter makes otherwise than
                an export can.
        """
        asked = as_list(prompt)
        if refine is not None and not (isinstance(refine, int | np.integer) and refine >= 0):
            raise PromptError(f"refine is {refine!r}; give 0 or more passes, a whole number")
        gives = self.record.refine_with
        if refine and gives is not RefineWith.BOX_CENTROID:
            raise PromptError(
                f"refine is {refine}, and the adapter refines with {gives.value!r}, an export with "
                f"{RefineWith.BOX_CENTROID.value!r} alone; leave out refine, or use the adapter "
                "itself"
            )
        questions = [(text, *self._token(text)) for text in asked]
        picture = read_image(image)
        answers = [
            self._answer(picture, text, concept, token, refine)
            for text, concept, token in questions
        ]
        return answers[0] if isinstance(prompt, str) else answers

    def _token(self, asked: str) -> tuple[str | None, NDArray[np.float32]]:
        """The concept a text means, if any, and its (1, 256) token."""
        record, text = self.record, normalise(asked)
        concept = canonical(text, record.prompts)
        if concept is None and text not in record.words:
            concept = corrected(text, record.prompts)
            if concept is not None:
                doubt = unknown_message(record.adapter, asked, record.prompts, answered=True)
                warn_caller(doubt, CorrectedPromptWarning)
        if concept is not None:
            row = record.prompts.index(concept)
        elif text in record.words:
            row = len(record.prompts) + record.words.index(text)
        else:
            known = (*record.prompts, *record.words)
            close = nearest(text, known)
            hint = f"did you mean {', '.join(close)}? It" if close else "it"
            raise PromptError(
                f"the prompt {asked!r} is not in this export; {hint} knows: {', '.join(known)}. "
                f"Export again with --prompt {text!r}"
            )
        return concept, self._tokens[row : row + 1]

    def _embedded(self, image: Image, side_px: int) -> _Embedded:
        key = f"{image.sha256()} {image.region_px}"
        last = self._last.get(side_px)
        if last is None or last[0] != key:
            pixels, frame = model_input(
                image.pixels[_region(image)], side_px, self.record.normalise
            )
            embedding = self._encoders[side_px].run(None, {"image": pixels})[0]
            last = self._last[side_px] = (key, _Embedded(embedding, frame))
        return last[1]

    def _decode(
        self,
        embedded: _Embedded,
        token: NDArray[np.float32],
        points: NDArray[np.float64],
        labels: Sequence[int],
    ) -> _Pass:
        frame = embedded.frame
        logits, iou = self._decoders[frame.side_px].run(
            None,
            {
                "embedding": embedded.embedding,
                "text_tokens": token,
                "points": points.reshape(1, -1, 2).astype(np.float32),
                "labels": np.array([labels], dtype=np.int64),
            },
        )
        threshold = self.record.mask_threshold
        full = frame.logits_to_image(logits[0, 0])
        return _Pass(full, full > np.log(threshold / (1 - threshold)), float(iou[0, 0]))

    def _at_side(
        self, image: Image, side_px: int, token: NDArray[np.float32], times: int
    ) -> Decoded:
        """What the graphs of a side say of a token, after some refinement passes."""
        embedded = self._embedded(image, side_px)
        final = self._decode(embedded, token, np.zeros((0, 2)), ())
        for _ in range(times):
            geometry = box_and_centroid(final.mask)
            if geometry is None:
                break
            box, centroid = geometry
            points = np.vstack([centroid, box[:2], box[2:]])
            if not self.record.authors_frame:
                points = embedded.frame.to_model(points)
            corners = (_INSIDE, _FIRST_CORNER, _LAST_CORNER)
            final = self._decode(embedded, token, points, corners)
        return Decoded(sigmoid(final.logits), final.mask, final.iou)

    def _answer(
        self,
        image: Image,
        asked: str,
        concept: str | None,
        token: NDArray[np.float32],
        refine: int | None,
    ) -> Segmentation:
        record = self.record
        wanted = record.refine_for.get(concept or "", record.refine) if refine is None else refine
        times = int(wanted)
        sides_px = record.sides_for.get(concept or "", (record.side_px,))
        answer = mean_of_views(
            [self._at_side(image, side_px, token, times) for side_px in sides_px],
            record.mask_threshold,
        )
        answer = cut_out(answer, record.cut, record.mask_threshold)
        inner = answer.probability
        look = UNLOOKED
        if record.kinds is not None:
            own = self._embedded(image, record.side_px)
            look = record.kinds.look(mean_embedding(own.embedding[0], own.frame))
        judgement = judge(record, answer.mask, inner, iou=answer.iou, concept=concept, look=look)
        extra: dict[str, object] = {"concept": concept, "refine": times}
        if record.refine_with is not RefineWith.BOX_CENTROID:
            extra["refine_with"] = record.refine_with.value
        if sides_px != (record.side_px,):
            extra["sides_px"] = list(sides_px)
        if answer.cut is not None:
            extra["cut"] = answer.cut
        extra.update(judgement.remarks)
        mask = np.zeros(image.size_px, dtype=bool)
        probability = np.zeros(image.size_px, dtype=np.float32)
        probability[_region(image)] = inner
        if judgement.found:
            mask[_region(image)] = answer.mask
        return Segmentation(
            mask=mask,
            probability=probability,
            score=judgement.score,
            found=judgement.found,
            prompt=asked,
            image=image,
            adapter=record.adapter,
            model=record.preset,
            extra=extra,
        )


def _region(image: Image) -> tuple[slice, slice]:
    """The rows and columns of the image that the model sees."""
    if image.region_px is None:
        return slice(None), slice(None)
    x_min, y_min, x_max, y_max = image.region_px
    return slice(y_min, y_max + 1), slice(x_min, x_max + 1)


def _check_side(path: Path, encoder: Any, side_px: int) -> None:
    """Refuse a graph of another square than the record says: the record has no checksum."""
    takes = encoder.get_inputs()[0].shape
    if takes[-2:] != [side_px, side_px]:
        raise WeightsError(
            f"{path} takes squares of {takes[-1]} px, {RECORD_FILE} beside it says {side_px}; copy "
            "the folder again, or export the model again"
        )


def _read_tokens(path: Path, record: ExportRecord) -> NDArray[np.float32]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    wanted = (len(record.prompts) + len(record.words), _TOKEN_CHANNELS)
    try:
        tokens = load_file(path).get("tokens")
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}); export the model again"
        ) from error
    if tokens is None or tokens.shape != wanted or tokens.dtype != np.float32:
        got = "no table" if tokens is None else f"{tokens.dtype} {tokens.shape}"
        raise WeightsError(
            f"{path} holds {got} where {len(record.prompts)} concepts and {len(record.words)} "
            f"words need float32 {wanted}; export the model again"
        )
    return tokens
