"""The work of one run, in steps that can be shown and stopped; knows neither Qt nor napari."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from textsam.adapters import Written, as_written
from textsam.errors import TextSAMError
from textsam.presets import PRESETS

if TYPE_CHECKING:
    from textsam.inference.segmenter import Segmenter
    from textsam.napari_plugin.planes import Planes
    from textsam.result import Segmentation

__all__ = ["Load", "Outcome", "load", "load_kept", "segment_planes"]

Load: TypeAlias = "Callable[[str, str | None], Segmenter]"
"""Preset and adapter (a name, a folder, or None for the preset's own) -> the model."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run came to.

    Attributes:
        model: preset and adapter, as text.
        answers: number of a plane -> its answers, one per prompt; empty after an error.
        failed: number of a plane -> why it has no answers.
        error: what stopped the run, or None.
    """

    model: str
    answers: Mapping[int, Sequence[Segmentation]] = field(default_factory=dict)
    failed: Mapping[int, TextSAMError] = field(default_factory=dict)
    error: TextSAMError | None = None


def load(preset: str, adapter: str | None) -> Segmenter:
    """Load a model on the best device.

    Raises:
        TextSAMError: as `textsam.load_model`.
    """
    from textsam.napari_plugin.native import separate_triton

    separate_triton()  # before the next line, which imports torch
    from textsam.api import load_model

    return load_model(preset, adapter)


def load_kept(preset: str, adapter: str | None) -> Segmenter:
    """The model loaded last, unless another is asked for or its adapter was written again since.

    Two panels of one session share it.

    Raises:
        TextSAMError: as `textsam.load_model`.
    """
    name = adapter if adapter is not None else PRESETS[preset].default_adapter
    if name is None:
        return load(preset, adapter)  # says what is missing
    folder, written = as_written(name)
    if written is None:
        return load(preset, adapter)  # says what is missing
    return _last(preset, str(folder), written)


@lru_cache(maxsize=1)
def _last(preset: str, adapter: str, _written: Written) -> Segmenter:
    return load(preset, adapter)


def segment_planes(
    load_segmenter: Load,
    preset: str,
    adapter: str | None,
    planes: Planes,
    prompts: Sequence[str],
    refine: int | None,
) -> Generator[int, None, Outcome]:
    """Segment planes, yielding how many are done, from 0 when the model is loaded.

    Errors of the family `TextSAMError` are part of the outcome: they are for the user to read. A
    plane that fails leaves the others their answers; where all fail, so does the run.
    """
    name = preset
    try:
        segmenter = load_segmenter(preset, adapter)
        name = f"{segmenter.preset} / {segmenter.adapter_name}"
        yield 0
        answers: dict[int, Sequence[Segmentation]] = {}
        failed: dict[int, TextSAMError] = {}
        readers = [plane.read for plane in planes.planes]
        for answer in segmenter.segment_batch(readers, list(prompts), refine=refine):
            if answer.error is not None:
                failed[answer.index] = answer.error
            else:
                answers[answer.index] = answer.answers
            yield answer.index + 1
    except TextSAMError as error:
        return Outcome(name, error=error)
    if not answers:
        return Outcome(name, failed=failed, error=next(iter(failed.values())))
    return Outcome(name, answers, failed)
