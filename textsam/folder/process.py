"""Inputs in, records out: batches reach over the borders of inputs, records come one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from textsam.folder.job import InputJob
from textsam.folder.listener import Listener
from textsam.folder.manifest import InputRecord
from textsam.folder.opened import Opened, open_ahead
from textsam.folder.plan import Input, Plan
from textsam.io.image import Image

if TYPE_CHECKING:
    from textsam.inference.segmenter import Segmenter

__all__ = ["process"]


def process(
    segmenter: Segmenter,
    plan: Plan,
    inputs: Sequence[Input],
    *,
    batch_size: int | None = None,
    listener: Listener | None = None,
) -> Generator[InputRecord]:
    """Segment inputs and write their outputs; yield a record when all of one's are written.

    Held in memory are the images of a few batches, and of an input what a format of the whole input
    needs; neither grows with the number of inputs.

    Args:
        segmenter: answers.
        plan: of the run.
        inputs: those to do.
        batch_size: as for `Segmenter.segment_batch`.
        listener: is told of answers and failures.

    Raises:
        OutputError: outputs cannot be written any more.
        PromptError: a prompt that the adapter cannot be asked.
    """
    told = listener or Listener()
    model, options = segmenter.identity, plan.options.fingerprint()
    waiting: deque[tuple[InputJob, int]] = deque()

    def begin(opened: Opened) -> InputJob:
        record = InputRecord(
            input=opened.item.name,
            base=opened.item.base,
            files=opened.files,
            prompts=list(plan.prompts),
            adapter=segmenter.adapter_name,
            model=model,
            options=options,
        )
        return InputJob(plan, opened, record, segmenter.identity, told)

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
