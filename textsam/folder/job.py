"""One input on its way through a run: its answers are written, and what became of it noted."""

from __future__ import annotations

import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from textsam.errors import OutputError, PromptError, TextSAMError
from textsam.folder.listener import Listener
from textsam.folder.manifest import InputRecord
from textsam.folder.opened import Opened
from textsam.folder.outputs import OutputWriter
from textsam.folder.plan import Plan
from textsam.io.coco import encode_rle
from textsam.io.dicom import NoPictureError

if TYPE_CHECKING:
    from textsam.inference.batch import BatchAnswer

__all__ = ["InputJob"]


class InputJob:
    """Takes the answers about one input, in order, and makes its record.

    Args:
        plan: of the run.
        opened: the input.
        record: about it, still without outputs and results.
        fingerprint: of the model and its settings.
        listener: is told of answers and failures.
    """

    def __init__(
        self, plan: Plan, opened: Opened, record: InputRecord, fingerprint: str, listener: Listener
    ) -> None:
        self.opened = opened
        self.record = record
        self.frames = list(opened.frames) or [0]
        self._listener = listener
        self._left = len(self.frames)
        self._writer: OutputWriter | None = None
        if opened.stack is not None:
            self._writer = OutputWriter(
                plan, opened.item, opened.stack, opened.formats, fingerprint
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
