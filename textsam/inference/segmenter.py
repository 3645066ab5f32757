"""The object users hold: a loaded model that answers words about images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from textsam.adapters import AdapterConfig
from textsam.errors import PromptError
from textsam.inference.answered import answered
from textsam.inference.batch import BatchAnswer, batches
from textsam.inference.encoded import means_of
from textsam.inference.forked import do_without_lost_threads
from textsam.inference.manual import manual_geometry, per_prompt
from textsam.inference.passes import Refine, passes_for
from textsam.inference.prepare import ImageLike, Prepared, prepare
from textsam.inference.question import Question, as_list, understood, warned
from textsam.inference.refine import Geometry
from textsam.inference.refinement import RefineWith, refine_with_of
from textsam.inference.settle import Settle
from textsam.inference.sides import Sides
from textsam.inference.views import Views
from textsam.model.build import BuiltModel
from textsam.result import Segmentation
from textsam.spelling import CorrectedPromptWarning, UnknownPromptWarning

__all__ = ["CorrectedPromptWarning", "Segmenter", "UnknownPromptWarning"]


class Segmenter:
    """Segment images by words.

    An image is encoded once and its embedding kept, keyed by content, so that further prompts on
    the same image are cheap; each prompt is encoded once.

    Args:
        built: a model with its adapter loaded, merged, in eval mode and on `device`.
        config: of the adapter.
        device: where the model is.
        precision: of the image encoder.
        further: the same model at other sides, for `views` and for `config.sides_for`.
        views: ways of looking at an image besides the plain one; the answers of all are averaged
            (see `textsam.inference.views`).
        fingerprint: tells adapters of one name apart, e.g. a digest of the adapter's file.
        own_weights: digest of base weights that the user gave; empty: they are the registry's.

    Raises:
        ConfigError: views or the adapter name a side at which there is no model.
    """

    def __init__(
        self,
        built: BuiltModel,
        config: AdapterConfig,
        *,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        further: Sequence[BuiltModel] = (),
        views: Views = Views(),  # noqa: B008  # frozen
        fingerprint: str = "",
        own_weights: str = "",
    ) -> None:
        do_without_lost_threads()
        self.built = built
        self.config = config
        self.device = device
        self.precision = precision
        self.fingerprint = fingerprint
        self.own_weights = own_weights
        self.further = tuple(further)
        self.views = views
        self._sides = Sides([built, *self.further], views, device=device, precision=precision)
        self._sides.require(chain(*config.sides_for.values()), f"the adapter {config.name!r}")

    def with_config(self, config: AdapterConfig, *, views: Views | None = None) -> Segmenter:
        """The same model, judged by another configuration of its adapter.

        Args:
            config: instead of its own.
            views: instead of its own; None leaves them.
        """
        return Segmenter(
            self.built,
            config,
            device=self.device,
            precision=self.precision,
            further=self.further,
            views=self.views if views is None else views,
            fingerprint=self.fingerprint,
            own_weights=self.own_weights,
        )

    @property
    def prompts(self) -> tuple[str, ...]:
        """The concepts the adapter was trained for; each also answers to its synonyms."""
        return self.config.prompts

    @property
    def adapter_name(self) -> str:
        """Name of the adapter."""
        return self.config.name

    @property
    def identity(self) -> str:
        """Hash of all that answers depend on besides image, prompt and options.

        The adapter's tensors and settings, the preset, the precision, and base weights and views
        that the user gave, as 64 hexadecimal digits.
        """
        facts = [
            self.preset,
            self.fingerprint,
            self.config.model_dump(mode="json"),
            str(self.precision),
            *([self.own_weights] if self.own_weights else []),
            *([f"views {self.views}"] if str(self.views) else []),
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def models(self) -> dict[int, BuiltModel]:
        """Side in pixels -> the model at it, the adapter's own first."""
        return {one.preprocessor.side_px: one for one in (self.built, *self.further)}

    @property
    def own_side_px(self) -> int:
        """The side of the model's square for all concepts that `config.sides_for` does not name."""
        return self._sides.own_px

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return self.config.preset

    @overload
    def segment(  # type: ignore[overload-overlap]  # a str is a Sequence[str]; it comes first
        self,
        image: ImageLike,
        prompt: str | None,
        *,
        refine: Refine | None = None,
        points: Any = None,
        boxes: Any = None,
        strict: bool = False,
        refine_with: str | None = None,
        seed: int = 0,
    ) -> Segmentation: ...

    @overload
    def segment(
        self,
        image: ImageLike,
        prompt: Sequence[str | None],
        *,
        refine: Refine | None = None,
        points: Any = None,
        boxes: Any = None,
        strict: bool = False,
        refine_with: str | None = None,
        seed: int = 0,
    ) -> list[Segmentation]: ...

    def segment(
        self,
        image: ImageLike,
        prompt: str | Sequence[str | None] | None,
        *,
        refine: Refine | None = None,
        points: Any = None,
        boxes: Any = None,
        strict: bool = False,
        refine_with: str | None = None,
        seed: int = 0,
    ) -> Segmentation | list[Segmentation]:
        """Find what the prompt names, or what points and a box show.

        Args:
            image: path, Pillow image, or array (H, W) or (H, W, 3); see `textsam.io.raster`.
            prompt: a word or several; a list gives a list, and the image is encoded once. None,
                alone or in the list, asks by points and box alone, without any text.
            refine: refinement passes; default: what the adapter asks for, none without a word.
                "settle", or a `textsam.inference.settle.Settle`, refines until the mask changes no
                more.
            points: manual points that join the text: (x, y) or (x, y, label) or a list of them, in
                pixels of the image, label 1 for inside and 0 for outside. With a list of prompts,
                a list with one entry (or None) per prompt.
            boxes: a manual box (x_min, y_min, x_max, y_max) that joins the text; with a list of
                prompts, a list with one entry (or None) per prompt.
            strict: raise for a prompt the adapter was not trained for, instead of warning.
            refine_with: what refinement, if there is any, takes from a mask, a `RefineWith` or its
                name; default: what the adapter asks for.
            seed: of random refinement points, together with image and prompt.

        Returns:
            One `Segmentation` per prompt. What is not there has an empty mask and `found=False`.
            Without a word, `prompt` is "" and any mask counts as found: whoever shows a place has
            said that something is there.

        Raises:
            ImageError: the image cannot be used.
            PromptError: an empty prompt, geometry outside the image, neither word nor geometry, an
                unknown `refine_with` or, with `strict`, an unknown prompt.
        """
        single = prompt is None or isinstance(prompt, str)
        questions = self.questions(prompt, strict=strict, shown=True)
        gives = self.config.refine_with if refine_with is None else refine_with_of(refine_with)
        passes = self.passes(questions, refine, gives)
        prepared = self.prepare(image)
        manual = manual_geometry(
            [points] if single else per_prompt("points", points, len(questions)),
            [boxes] if single else per_prompt("boxes", boxes, len(questions)),
            prepared.image.size_px,
            prepared.image.region_px,
        )
        if any(q.text is None and own is None for q, own in zip(questions, manual, strict=True)):
            raise PromptError(
                "the prompt is None and has no geometry; give a word, a point or a box"
            )
        (answers,) = self.answer(
            [prepared], questions, passes, manual, refine_with=gives, seed=seed
        )
        return answers[0] if single else answers

    def segment_batch(
        self,
        images: Iterable[ImageLike],
        prompts: str | Sequence[str],
        *,
        batch_size: int | None = None,
        refine: Refine | None = None,
        strict: bool = False,
    ) -> Iterator[BatchAnswer]:
        """Segment images one after another in memory that does not grow with their number.

        Files are read and resized by threads while the model works. A bad image is an answer with
        an `error`, and the others go on.

        Args:
            images: as for `segment`, or callables without arguments that return an `Image`; read
                as they are needed.
            prompts: asked of every image.
            batch_size: images encoded at once; None takes 1 on a CPU, where more gain nothing, and
                16 elsewhere. Where the device's memory does not hold them, half as many are tried.
            refine, strict: as for `segment`.

        Yields:
            One answer per image, in order. With a batch size of 1 it is what `segment` returns;
            larger batches differ in the last bits of the logits.

        Raises:
            PromptError: as `segment`, before the first image is read.
            ConfigError: a batch size below 1.
            ImageError: `images` is a single image, not several.
        """
        questions = self.questions(prompts, strict=strict)
        passes = self.passes(questions, refine)
        size = batch_size if batch_size is not None else 1 if self.device.type == "cpu" else 16
        return batches(
            images,
            self.prepare,
            lambda prepared: self.answer(prepared, questions, passes),
            batch_size=size,
        )

    def questions(
        self,
        prompt: str | Sequence[str | None] | None,
        *,
        strict: bool = False,
        shown: bool = False,
    ) -> list[Question]:
        """What prompts mean to this adapter.

        Args:
            prompt: a word or several.
            strict: raise for a prompt the adapter was not trained for, instead of warning.
            shown: None, alone or in the list, asks by geometry alone.

        Raises:
            PromptError: no word where there has to be one, an empty prompt or, with `strict`, an
                unknown one.
        """
        texts: list[Any] = [None] if shown and prompt is None else as_list(prompt)
        known = (self.adapter_name, self.prompts)
        return [
            Question("", None, None)
            if shown and text is None
            else warned(text, *known, strict=strict)
            for text in texts
        ]

    def passes(
        self,
        questions: Sequence[Question],
        refine: Refine | None,
        refine_with: RefineWith | None = None,
    ) -> Sequence[int | Settle]:
        """Refinement passes per question: as asked, or what the adapter says of each concept.

        A question by geometry alone is not refined unless asked: the adapter speaks of words.
        Where refinement takes nothing from a mask there is none.

        Raises:
            PromptError: neither a whole number of at least 0 nor a rule for settling.
        """
        return passes_for(questions, refine, self.config, refine_with)

    def prepare(self, image: ImageLike) -> Prepared:
        """Read an image and make it the model's input. Safe to call from several threads.

        Raises:
            ImageError: the image cannot be used.
        """
        do_without_lost_threads()
        return prepare(image, self.built.preprocessor)

    def answer(
        self,
        images: Sequence[Prepared],
        questions: Sequence[Question],
        passes: Sequence[int | Settle],
        manual: Sequence[Geometry | None] | None = None,
        *,
        refine_with: RefineWith | None = None,
        seed: int = 0,
    ) -> list[list[Segmentation]]:
        """Ask the same questions of each image; images are encoded together, prompts decoded.

        Args:
            images: B, prepared.
            questions: C.
            passes: (C,) refinement passes, or rules for settling.
            manual: (C,) geometry in the image's frame, or None; the same for every image.
            refine_with: what refinement takes from a mask; None: what the adapter asks for.
            seed: of random refinement points.

        Returns:
            B lists of C results.
        """
        do_without_lost_threads()
        gives = self.config.refine_with if refine_with is None else refine_with
        geometry = list(manual) if manual is not None else [None] * len(questions)
        return answered(
            self._sides,
            self.config,
            images,
            questions,
            geometry=geometry,
            passes=passes,
            gives=gives,
            seed=seed,
        )

    def mean_embedding(self, image: ImageLike) -> NDArray[np.float64]:
        """(256,) mean of an image's embedding, by which kinds of image are told apart.

        Raises:
            ImageError: the image cannot be used.
        """
        prepared = [self.prepare(image)]
        with torch.inference_mode():
            (mean,) = means_of(self._sides.encodings.embed(prepared), prepared)
        return mean

    def understood(self, asked: str) -> Question:
        """What one prompt means to this adapter, without a warning; see `Question.doubt`.

        A known name, synonym or other wording is the concept. A misspelling of one
        (`textsam.spelling`) is the concept too, with a doubt; any other text stands for itself.

        Raises:
            PromptError: an empty or too long prompt.
        """
        return understood(asked, self.adapter_name, self.prompts)
