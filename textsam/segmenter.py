"""The object users hold: a loaded model that answers words about images."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsam.adapters import AdapterConfig
from textsam.errors import PromptError
from textsam.io.raster import Image, read_image
from textsam.model.build import BuiltModel
from textsam.preprocess import Frame
from textsam.prompts import canonical, nearest, normalise
from textsam.refine import Geometry, Pass, decode_passes
from textsam.result import Segmentation

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["Segmenter", "UnknownPromptWarning"]

_KEPT_EMBEDDINGS = 4


class UnknownPromptWarning(UserWarning):
    """A prompt that the adapter was not trained for: its answer is a guess."""


@dataclass(frozen=True)
class _Question:
    """A prompt as asked, what it means, and the text that is encoded."""

    asked: str
    concept: str | None
    text: str


class Segmenter:
    """Segment images by words.

    An image is encoded once and its embedding kept, keyed by content, so that further prompts on
    the same image are cheap; each prompt is encoded once.

    Args:
        built: a model with its adapter loaded, merged, in eval mode and on `device`.
        config: of the adapter.
        device: where the model is.
        precision: of the image encoder.
        fingerprint: tells adapters of one name apart, e.g. a digest of the adapter's file.
    """

    def __init__(
        self,
        built: BuiltModel,
        config: AdapterConfig,
        *,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        fingerprint: str = "",
    ) -> None:
        self.built = built
        self.config = config
        self.device = device
        self.precision = precision
        self.fingerprint = fingerprint
        self._tokens: dict[str, Tensor] = {}
        self._embeddings: OrderedDict[str, tuple[Tensor, Frame]] = OrderedDict()

    @property
    def prompts(self) -> tuple[str, ...]:
        """The concepts the adapter was trained for; each also answers to its synonyms."""
        return self.config.prompts

    @property
    def adapter_name(self) -> str:
        """Name of the adapter."""
        return self.config.name

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return self.config.preset

    @overload
    def segment(  # type: ignore[overload-overlap]  # a str is a Sequence[str]; it comes first
        self,
        image: str | Path | PIL.Image.Image | NDArray[Any] | Image,
        prompt: str,
        *,
        refine: int | None = None,
        points: Any = None,
        boxes: Any = None,
        strict: bool = False,
    ) -> Segmentation: ...

    @overload
    def segment(
        self,
        image: str | Path | PIL.Image.Image | NDArray[Any] | Image,
        prompt: Sequence[str],
        *,
        refine: int | None = None,
        points: Any = None,
        boxes: Any = None,
        strict: bool = False,
    ) -> list[Segmentation]: ...

    def segment(
        self,
        image: str | Path | PIL.Image.Image | NDArray[Any] | Image,
        prompt: str | Sequence[str],
        *,
        refine: int | None = None,
        points: Any = None,
        boxes: Any = None,
        strict: bool = False,
    ) -> Segmentation | list[Segmentation]:
        """Find what the prompt names.

        Args:
            image: path, Pillow image, or array (H, W) or (H, W, 3); see `textsam.io.raster`.
            prompt: a word or several; a list gives a list, and the image is encoded once.
            refine: refinement passes; default: what the adapter asks for.
            points: manual points that join the text: (x, y) or (x, y, label) or a list of them, in
                pixels of the image, label 1 for inside and 0 for outside. With a list of prompts,
                a list with one entry (or None) per prompt.
            boxes: a manual box (x_min, y_min, x_max, y_max) that joins the text; with a list of
                prompts, a list with one entry (or None) per prompt.
            strict: raise for a prompt the adapter was not trained for, instead of warning.

        Returns:
            One `Segmentation` per prompt. What is not there has an empty mask and `found=False`.

        Raises:
            ImageError: the image cannot be used.
            PromptError: an empty prompt, geometry outside the image, or, with `strict`, an unknown
                prompt.
        """
        single = isinstance(prompt, str)
        asked = _asked(prompt)
        if refine is not None and not (isinstance(refine, int | np.integer) and refine >= 0):
            raise PromptError(f"refine is {refine!r}; give 0 or more passes, a whole number")
        questions = []
        for text in asked:  # a loop, so that the warning points at the caller
            questions.append(self._question(text, strict))  # noqa: PERF401
        picture = read_image(image)
        manual = _manual_geometry(
            [points] if single else _per_prompt("points", points, len(asked)),
            [boxes] if single else _per_prompt("boxes", boxes, len(asked)),
            picture.size_px,
        )
        config = self.config
        times = [
            config.refine_for.get(q.concept or "", config.refine) if refine is None else refine
            for q in questions
        ]
        threshold = config.mask_threshold
        with torch.inference_mode():
            embedding, frame = self._embedding(picture)
            tokens = torch.stack([self._token(q.text) for q in questions])
            final = decode_passes(
                self.built.model,
                embedding,
                tokens,
                frame,
                refine=times,
                manual=manual,
                threshold_logit=float(np.log(threshold / (1 - threshold))),
                authors_frame=config.authors_frame,
            )[-1]
            probabilities = [
                frame.logits_to_image(logits[None].float())[0, 0].sigmoid().cpu().numpy()
                for logits in final.logits
            ]
        answers = [
            self._answer(picture, question, final, index, probabilities[index], times[index])
            for index, question in enumerate(questions)
        ]
        return answers[0] if single else answers

    def _question(self, asked: str, strict: bool) -> _Question:
        text = normalise(asked)
        concept = canonical(text, self.prompts)
        if concept is not None:
            return _Question(asked, concept, concept)
        close = nearest(text, self.prompts)
        hint = f"did you mean {', '.join(close)}? It" if close else "it"
        message = (
            f"the adapter {self.adapter_name!r} was not trained for the prompt {asked!r}; {hint} "
            f"knows: {', '.join(self.prompts)}"
        )
        if strict:
            raise PromptError(message)
        warnings.warn(message, UnknownPromptWarning, stacklevel=3)
        return _Question(asked, None, text)

    def _token(self, text: str) -> Tensor:
        if text not in self._tokens:
            self._tokens[text] = self.built.model.encode_text([text])[0]
        return self._tokens[text]

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def _embedding(self, image: Image) -> tuple[Tensor, Frame]:
        key = image.sha256()
        if key in self._embeddings:
            self._embeddings.move_to_end(key)
            return self._embeddings[key]
        pixels, frame = self.built.preprocessor(image.pixels)
        batch = pixels[None].to(self.device, memory_format=torch.channels_last)
        with self._autocast():
            embedding = self.built.model.encode_image(batch).float()
        self._embeddings[key] = (embedding, frame)
        if len(self._embeddings) > _KEPT_EMBEDDINGS:
            self._embeddings.popitem(last=False)
        return embedding, frame

    def _answer(
        self,
        image: Image,
        question: _Question,
        final: Pass,
        index: int,
        probability: NDArray[np.float32],
        refined: int,
    ) -> Segmentation:
        mask = final.masks[index]
        if self.config.score == "iou_head":
            score = float(final.iou[index, 0].clamp(0, 1))
        else:
            score = float(probability[mask].mean()) if mask.any() else 0.0
        found = bool(mask.any()) and score >= self.config.found_threshold
        extra: dict[str, object] = {"concept": question.concept, "refine": refined}
        if mask.any() and not found:
            extra["rejected_area_px"] = int(mask.sum())
        return Segmentation(
            mask=mask.copy() if found else np.zeros_like(mask),
            probability=probability,
            score=score,
            found=found,
            prompt=question.asked,
            image=image,
            adapter=self.adapter_name,
            model=self.preset,
            extra=extra,
        )


def _asked(prompt: str | Sequence[str]) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    # A set has no order for the answers to follow, and bytes would be a list of numbers.
    if not isinstance(prompt, Sequence | np.ndarray) or isinstance(prompt, bytes):
        raise PromptError(f"the prompt is {prompt!r}; give a word or a list of words")
    if not len(prompt):
        raise PromptError("the list of prompts is empty; give at least one word")
    return list(prompt)


def _per_prompt(name: str, values: Any, count: int) -> list[Any]:
    if values is None:
        return [None] * count
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise PromptError(f"{name} is {values!r}; give a list with one entry (or None) per prompt")
    if len(values) != count:
        raise PromptError(
            f"{name} has {len(values)} entries for {count} prompts; give one per prompt, or None "
            "for a prompt without"
        )
    return list(values)


def _manual_geometry(
    points: Sequence[Any], boxes: Sequence[Any], size_px: tuple[int, int]
) -> list[Geometry | None]:
    geometries: list[Geometry | None] = []
    for given_points, given_box in zip(points, boxes, strict=True):
        if given_points is None and given_box is None:
            geometries.append(None)
            continue
        coordinates, labels = _read_points(given_points, size_px)
        geometries.append(Geometry(coordinates, labels, _read_box(given_box, size_px)))
    return geometries


def _read_points(
    given: Any, size_px: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if given is None:
        return np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
    try:
        array = np.atleast_2d(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError):
        array = np.zeros((0, 0))
    if array.ndim != 2 or array.shape[1] not in (2, 3) or not np.isfinite(array).all():
        raise PromptError(f"points are {given!r}; give (x, y) or (x, y, label), or a list of these")
    labels = np.ones(len(array), dtype=np.int64)
    if array.shape[1] == 3:
        if not np.isin(array[:, 2], (0, 1)).all():
            raise PromptError(f"point labels are {array[:, 2].tolist()}; give 1 inside, 0 outside")
        labels = array[:, 2].astype(np.int64)
    _check_inside("point", array[:, :2], size_px)
    return array[:, :2].copy(), labels


def _read_box(given: Any, size_px: tuple[int, int]) -> NDArray[np.float64] | None:
    if given is None:
        return None
    try:
        box = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        box = np.zeros(0)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise PromptError(f"the box is {given!r}; give (x_min, y_min, x_max, y_max)")
    if box[0] > box[2] or box[1] > box[3]:
        raise PromptError(
            f"the box {given!r} has its corners swapped; give (x_min, y_min, x_max, y_max)"
        )
    _check_inside("box corner", box.reshape(2, 2), size_px)
    return box


def _check_inside(what: str, points: NDArray[np.float64], size_px: tuple[int, int]) -> None:
    height, width = size_px
    for x, y in points:
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise PromptError(
                f"the {what} ({x:g}, {y:g}) is outside the image of {width}×{height} px "
                "(width × height); coordinates are (x, y) in pixels, from 0"
            )
