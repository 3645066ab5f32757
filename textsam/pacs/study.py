"""`segment_study`: the images of a study from the archive, their segmentations back to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from textsam.errors import LimitError, OutputError, PacsError, TextSAMError
from textsam.inference.settle import Settle
from textsam.io.seg import seg_datasets, seg_identity
from textsam.io.temporary import temporary_folder
from textsam.pacs.answers import SEGMENTATION_STORAGE
from textsam.pacs.client import PacsClient
from textsam.pacs.plan import Chosen, plan_study
from textsam.pacs.summary import SeriesSummary, StudySummary
from textsam.result import Segmentation

if TYPE_CHECKING:
    from textsam.inference.batch import BatchAnswer
    from textsam.inference.segmenter import Segmenter
    from textsam.io.dicom import DicomStack
    from textsam.io.seg import SegIdentity

__all__ = ["segment_study"]

# Archives may list an object some moments after they took it.
_CONFIRM_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class _Order:
    """What is asked of every series."""

    segmenter: Segmenter
    client: PacsClient
    study_uid: str
    prompts: tuple[str, ...]
    fractional: bool
    refine: int | None
    window: int
    crop: bool
    settings: str


def segment_study(
    segmenter: Segmenter,
    client: PacsClient,
    study_uid: str,
    prompts: str | Sequence[str],
    *,
    series_uid: str | None = None,
    fractional: bool = False,
    refine: int | None = None,
    window: int = 0,
    crop: bool = True,
    strict: bool = False,
    on_series: Callable[[SeriesSummary], None] | None = None,
) -> StudySummary:
    """Segment the image series of a study and store the answers beside them as DICOM SEG.

    Each series is fetched into a temporary folder, which is removed again. A series is stored when
    every image in it has been answered, and not at all otherwise; its SEG objects form one new
    series of the same study, with one segment per prompt. What is not in the images is stored too,
    as an empty segment. In the end, the archive is asked whether it lists the objects as
    segmentations that refer to the series.

    The UIDs follow from the images, the prompts, the adapter and its settings, so the same question
    is recognised: nothing is segmented or sent again. What a run that broke off did not store is
    stored by the next.

    Args:
        segmenter: the model.
        client: from `connect`.
        study_uid: StudyInstanceUID.
        prompts: what to segment, a word or several.
        series_uid: SeriesInstanceUID to take alone; None takes every series with images.
        fractional: store probabilities instead of masks.
        refine: refinement passes; None does what the adapter asks for.
        window: which window of grey values is shown to the model, see `open_series`.
        crop: of ultrasound, show the model the region that the header calls tissue.
        strict: refuse prompts the adapter was not trained for, instead of warning.
        on_series: called with each series when it is done.

    Returns:
        What was done. A series that failed is in it with its error; the others go on.

    Raises:
        PromptError: a prompt that cannot be used.
        PacsError: the archive cannot be asked for the study, or the study has no images that can
            be segmented.
    """
    questions = segmenter.questions(prompts, strict=strict)
    words = tuple(question.asked for question in questions)
    settings = _settings(segmenter.passes(questions, refine), window, crop)
    plan = plan_study(client, study_uid, series_uid)
    order = _Order(segmenter, client, study_uid, words, fractional, refine, window, crop, settings)
    done: list[SeriesSummary] = []
    for refused in plan.refused:
        done.append(
            SeriesSummary(refused.series_uid, refused.modality, 0, "failed", error=refused.error)
        )
        if on_series is not None:
            on_series(done[-1])
    for chosen in plan.chosen:
        began = time.perf_counter()
        try:
            summary = _segment_series(order, chosen)
        except TextSAMError as error:
            summary = SeriesSummary(
                chosen.series_uid, chosen.modality, chosen.frames, "failed", error=str(error)
            )
        summary = replace(summary, seconds=time.perf_counter() - began)
        done.append(summary)
        if on_series is not None:
            on_series(summary)
    return StudySummary(
        server=client.address.label,
        study_uid=study_uid,
        prompts=words,
        model=segmenter.preset,
        adapter=segmenter.adapter_name,
        fractional=fractional,
        series=tuple(done),
        skipped=plan.skipped,
    )


def _settings(passes: Sequence[int | Settle], window: int, crop: bool) -> str:
    """What answers depend on besides images, prompts and the model, as text."""
    told = [one.model_dump() if isinstance(one, Settle) else one for one in passes]
    return json.dumps({"passes": told, "window": window, "crop": crop}, sort_keys=True)


def _segment_series(order: _Order, chosen: Chosen) -> SeriesSummary:
    from textsam.io.dicom import open_series

    client = order.client
    with temporary_folder("textsam-pacs-", _no_folder) as folder:
        paths = _download(order, chosen, folder)
        stack = open_series(paths, limits=client.limits, window=order.window, crop=order.crop)
        _check_same(client, stack, order.study_uid, chosen.series_uid)
        identity = seg_identity(
            stack,
            order.prompts,
            order.segmenter.identity,
            fractional=order.fractional,
            settings=order.settings,
        )
        listed = {e.sop_instance_uid for e in client.find(order.study_uid, identity.series_uid)}
        missing = [uid for uid in identity.instance_uids if uid not in listed]
        summary = SeriesSummary(
            chosen.series_uid,
            chosen.modality,
            len(stack),
            "already there",
            seg_series_uid=identity.series_uid,
            seg_instance_uids=identity.instance_uids,
        )
        if missing:
            found, warnings = _segment_and_store(order, stack, missing)
            summary = replace(summary, status="stored", found=found, warnings=warnings)
    # Also of what was there: the run that sent it may have failed at this.
    _confirm(client, order.study_uid, chosen, identity)
    return summary


def _no_folder(error: OSError) -> OutputError:
    return OutputError(
        f"no temporary folder for the images can be made ({error.strerror or error}); free "
        "space, or set TMPDIR to a folder that can be written to"
    )


def _download(order: _Order, chosen: Chosen, folder: Path) -> list[Path]:
    paths: list[Path] = []
    room_bytes = order.client.limits.max_bytes
    for instance in chosen.instances:
        # Named by UID, so that an error about the file says which one it is in the archive.
        path = folder / f"{instance.sop_instance_uid}.dcm"
        room_bytes -= order.client.download(
            order.study_uid, chosen.series_uid, instance.sop_instance_uid, path, room_bytes
        )
        if room_bytes < 0:
            raise LimitError(
                f"series {chosen.series_uid} has more than {order.client.limits.max_bytes:,} "
                "bytes, the limit; raise --max-bytes (max_bytes of Limits)"
            )
        paths.append(path)
    return paths


def _check_same(client: PacsClient, stack: DicomStack, study_uid: str, series_uid: str) -> None:
    """Raise PacsError unless the files hold what they were fetched as.

    The SEG will refer to the instance, and takes its study, and the patient, from the file.
    """
    where = {"SeriesInstanceUID": series_uid, "StudyInstanceUID": study_uid}
    for path, header in zip(stack.paths, stack.headers, strict=True):
        what = f"{client.address.label}: what the archive sends as instance {path.stem} says that"
        remedy = "look whether the archive changes what is stored"
        uid = header.get("SOPInstanceUID", "")
        if uid != path.stem:
            raise PacsError(f"{what} it is {uid or 'nothing'}; {remedy}")
        for keyword, asked in where.items():
            uid = header.get(keyword, "")
            if uid != asked:
                raise PacsError(
                    f"{what} its {keyword} is {uid or 'empty'} and not {asked}, and so would be "
                    f"that of its segmentation; {remedy}"
                )


def _segment_and_store(
    order: _Order, stack: DicomStack, missing: Sequence[str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns per prompt how many images have it, and the archive's warnings."""
    images = [partial(stack.read, index) for index in range(len(stack))]
    answers = _Answers(
        order.segmenter.segment_batch(images, list(order.prompts), refine=order.refine),
        len(stack),
        keep_probability=order.fractional,
    )
    with closing(answers):
        # All are made before the first is sent: an image that fails must not leave half an answer.
        datasets = list(
            seg_datasets(
                stack,
                answers,
                fractional=order.fractional,
                model_identity=order.segmenter.identity,
                settings=order.settings,
            )
        )
    # The model may have taken an hour: a connection from before can have been dropped meanwhile by
    # a firewall without a word, and an object is sent once.
    order.client.close()
    told = {
        dataset.SOPInstanceUID: order.client.store(dataset, order.study_uid)
        for dataset in datasets
        if dataset.SOPInstanceUID in missing
    }
    warnings = tuple(f"{uid}: {warning}" for uid, warning in told.items() if warning)
    return dict(zip(order.prompts, answers.found, strict=True)), warnings


def _confirm(client: PacsClient, study_uid: str, chosen: Chosen, identity: SegIdentity) -> None:
    """Raise PacsError unless the archive lists the objects as SEG that refer to the series."""
    wanted = set(identity.instance_uids)
    for pause_s in _CONFIRM_PAUSES_S:
        time.sleep(pause_s)
        entries = [
            entry
            for entry in client.find(study_uid, identity.series_uid)
            if entry.sop_instance_uid in wanted
        ]
        if len(entries) == len(wanted):
            break
    label = client.address.label
    if len(entries) < len(wanted):
        raise PacsError(
            f"{label}: of {len(wanted)} segmentations that were sent, the archive lists "
            f"{len(entries)} in series {identity.series_uid}; look into its log, and run this again"
        )
    for entry in entries:
        uid = entry.sop_instance_uid
        if entry.sop_class_uid != SEGMENTATION_STORAGE:
            raise PacsError(
                f"{label}: the archive lists {uid} as class {entry.sop_class_uid} and not as a "
                "segmentation; another object has its UID"
            )
        referenced = client.referenced_series(study_uid, identity.series_uid, uid)
        if referenced != {chosen.series_uid}:
            raise PacsError(
                f"{label}: segmentation {uid} does not refer to series {chosen.series_uid} as the "
                "archive gives it back; look whether the archive changes what is stored"
            )


class _Answers(Mapping[int, Sequence[Segmentation]]):
    """Index of an image -> its answers, made when they are asked for, and given away once.

    Only what a SEG needs is kept of an answer: a series may have a thousand images, and the pixels
    and probabilities of all of them together do not fit into memory.

    Attributes:
        found: per prompt, in how many images it was found so far.
    """

    def __init__(self, batch: Iterator[BatchAnswer], count: int, *, keep_probability: bool) -> None:
        self._batch = batch
        self._count = count
        self._keep_probability = keep_probability
        self._waiting: dict[int, tuple[Segmentation, ...]] = {}
        self.found: list[int] = []

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._count))

    def __getitem__(self, index: int) -> tuple[Segmentation, ...]:
        while index not in self._waiting:
            answer = next(self._batch, None)
            if answer is None:
                raise KeyError(index)
            if answer.error is not None:
                raise answer.error
            hits = [int(one.found) for one in answer.answers]
            self.found = [a + b for a, b in zip(self.found or [0] * len(hits), hits, strict=True)]
            self._waiting[answer.index] = tuple(self._light(one) for one in answer.answers)
        return self._waiting.pop(index)

    def close(self) -> None:
        """Stop reading ahead."""
        cast("Generator[BatchAnswer]", self._batch).close()

    def _light(self, answer: Segmentation) -> Segmentation:
        size = answer.image.size_px
        blank = np.broadcast_to(np.uint8(0), (*size, 3))
        probability = answer.probability
        if not self._keep_probability:
            probability = np.broadcast_to(np.float32(0), size)
        return replace(answer, image=replace(answer.image, pixels=blank), probability=probability)
