"""Inputs in, records out: batches reach over the borders of inputs, records come one by one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from textsam.errors import OutputError, PromptError, TextSAMError
from textsam.folder.manifest import InputRecord
from textsam.folder.opened import Opened, open_ahead
from textsam.folder.outputs import OutputWriter
from textsam.folder.plan import Input, Plan
from textsam.io.coco import encode_rle
from textsam.io.dicom import NoPictureError
from textsam.io.image import Image

if TYPE_CHECKING:
    from textsam.inference.batch import BatchAnswer
    from textsam.inference.segmenter import Segmenter

__all__ = ["Listener", "process"]


class Listener:
    """Who wants to know how a run goes, such as a progress bar.

    Called while a run goes on, in the thread that runs it; here each call does nothing.
    """

    def planned(self, plan: Plan) -> None:
        """The run begins."""

    def skipped(self, record: InputRecord) -> None:
        """An input was done by an earlier run."""

    def answered(self, item: Input, result: dict[str, Any]) -> None:
        """One prompt was answered on one image; `result` is an entry of `InputRecord.results`."""

    def failed(self, item: Input, frame: int | None, error: str) -> None:
        """An image of an input failed, or, where `frame` is None, the input."""

    def finished(self, record: InputRecord) -> None:
        """All of an input is written, and its line in the manifest."""


def process(
    segmenter: Segmenter,
    plan: Plan,
    inputs: Sequence[Input],
    listener: Listener,
    *,
    batch_size: int | None = None,
) -> Generator[InputRecord]:
    """Segment inputs and write their outputs; yield a record when all of one's are written.

    Held in memory are the images of a few batches, and of an input what a format of the whole input
    needs; neither grows with the number of inputs.

    Args:
        segmenter: answers.
        plan: of the run.
        inputs: those to do.
        listener: is told of answers and failures.
        batch_size: as for `Segmenter.segment_batch`.

    Raises:
        OutputError: outputs cannot be written any more.
        PromptError: a prompt that the adapter cannot be asked.
    """
    model, options = segmenter.identity, plan.options.fingerprint()
    waiting: deque[tuple[_Job, int]] = deque()

    def begin(opened: Opened) -> _Job:
        record = InputRecord(
            input=opened.item.name,
            base=opened.item.base,
            files=opened.files,
            prompts=list(plan.prompts),
            adapter=segmenter.adapter_name,
            model=model,
            options=options,
        )
        return _Job(plan, opened, record, listener)

    def images() -> Generator[Callable[[], Image]]:
        with closing(open_ahead(inputs, plan.options)) as opening:
            for opened in opening:
                job = begin(opened)
                for frame in job.frames:
                    waiting.append((job, frame))
                    yield partial(opened.read, frame)

    with closing(images()) as reading:
        for answer in segmenter.segment_batch(
            reading,
            list(plan.prompts),
            batch_size=batch_size,
            refine=plan.options.refine,
            strict=plan.options.strict,
        ):
            job, frame = waiting.popleft()
            if job.take(frame, answer):
                yield job.finish()


class _Job:
    """Takes the answers about one input, in order, and makes its record.

    Args:
        plan: of the run.
        opened: the input.
        record: about it, still without outputs and results.
        listener: is told of answers and failures.
    """

    def __init__(self, plan: Plan, opened: Opened, record: InputRecord, listener: Listener) -> None:
        self.opened = opened
        self.record = record
        self.frames = list(opened.frames) or [0]
        self._listener = listener
        self._left = len(self.frames)
        self._writer: OutputWriter | None = None
        if opened.stack is not None:
            self._writer = OutputWriter(
                plan, opened.item, opened.stack, opened.formats, record.model
            )

    def take(self, frame: int, answer: BatchAnswer) -> bool:
        """Write the answers about one image; tell whether it was the input's last.

        Raises:
            OutputError: outputs cannot be written any more.
            PromptError: as it is about every image, it ends the run.
        """
        self._left -= 1
        self.record.seconds += answer.seconds
        if isinstance(answer.error, PromptError):
            raise answer.error
        if isinstance(answer.error, NoPictureError) and not self.opened.item.named:
            self.record.status = "no picture"
            self.record.failures.append({"frame": None, "error": str(answer.error)})
        elif answer.error is not None or self._writer is None:
            self._fail(frame, str(answer.error))
        else:
            self._write(self._writer, frame, answer)
        return self._left == 0

    def finish(self) -> InputRecord:
        """Write what needs all images, and complete the record.

        Raises:
            OutputError: outputs cannot be written any more.
        """
        record, writer = self.record, self._writer
        if writer is not None:
            if writer.whole and record.failures:
                self._fail(
                    None,
                    f"{self.opened.item.path}: no {' or '.join(writer.whole)} file is written, as "
                    f"{len(record.failures)} of its images failed",
                )
            elif writer.whole:
                self._write_whole(writer)
            record.outputs = writer.sizes()
        if record.failures and record.status == "done":
            record.status = "failed"
        record.finished = time.time()
        return record

    def _write(self, writer: OutputWriter, frame: int, answer: BatchAnswer) -> None:
        try:
            files = writer.add(frame, answer.answers)
        except OutputError:
            raise
        except TextSAMError as error:
            self._fail(frame, str(error))
            return
        for result, written in zip(answer.answers, files, strict=True):
            entry = {
                **result.to_dict(),
                "frame": frame if writer.numbered else None,
                "files": written,
                "seconds": round(answer.seconds, 4),
            }
            placement = result.image.placement
            if placement is not None and placement.frame is not None:
                # The files of a series lie in one folder; the input is called by the first.
                name = PurePosixPath(self.record.input).with_name(Path(result.image.source).name)
                entry["in_file"] = {"name": str(name), "frame": placement.frame}
            if "coco" in self.opened.formats and result.box is not None:
                entry["rle"] = encode_rle(result.mask)
            self.record.results.append(entry)
            self._listener.answered(self.opened.item, entry)

    def _write_whole(self, writer: OutputWriter) -> None:
        for name in writer.whole:
            try:
                files = writer.finish(name)
            except OutputError:
                raise
            except TextSAMError as error:
                self._fail(None, str(error))  # the other formats may be possible
                continue
            for number, entry in enumerate(self.record.results):
                entry["files"].update(files[number % len(files)])

    def _fail(self, frame: int | None, error: str) -> None:
        numbered = self._writer is not None and self._writer.numbered
        number = frame if numbered else None
        self.record.failures.append({"frame": number, "error": error})
        self._listener.failed(self.opened.item, number, error)
