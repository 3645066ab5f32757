"""The log of a run: a CSV that survives a resume, and TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from textsam.io.atomic import atomic_path, told_as_output

__all__ = ["RunLog"]


class RunLog:
    """Append named numbers per step to `log.csv` (long form: step, name, value) and TensorBoard.

    Args:
        folder: of the run.
        step: of the state resumed from; later lines are of steps that will be taken again, and
            are dropped.
        tensorboard: also write event files, if the package is there.

    Raises:
        OutputError: a file cannot be written; so do `write` and leaving the log.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = True) -> None:
        self.path = folder / "log.csv"
        self._events_folder = folder / "tensorboard"
        kept = []
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                # A kill may leave a line half written, and a power failure zeros; they are of a
                # step after the state.
                rows = [row for row in csv.reader(file) if len(row) == 3 and row[0].isdigit()]
            kept = [row for row in rows if int(row[0]) <= step]
        with (
            told_as_output(self.path),
            atomic_path(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([("step", "name", "value"), *kept])
        self._events = None
        if tensorboard and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            with told_as_output(self._events_folder):
                self._events = SummaryWriter(str(self._events_folder), purge_step=step + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            with told_as_output(self._events_folder):
                self._events.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step."""
        with (
            told_as_output(self.path),
            self.path.open("a", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows((step, name, f"{v:.6g}") for name, v in values.items())
        if self._events is not None:
            with told_as_output(self._events_folder):
                for name, value in values.items():
                    self._events.add_scalar(name, value, step)
