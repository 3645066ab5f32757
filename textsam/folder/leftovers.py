"""Files that an earlier run wrote about an input that has changed since, and this run did not."""

from __future__ import annotations

from pathlib import Path

from textsam.caller import warn_caller
from textsam.errors import TextSAMWarning
from textsam.folder.manifest import InputRecord

__all__ = ["LeftoverWarning", "warn_of_leftovers"]


class LeftoverWarning(TextSAMWarning):
    """Files lie beside the outputs of a run that answer what an input held before."""


def warn_of_leftovers(before: InputRecord, now: InputRecord, out: Path) -> None:
    """Warn of outputs of an earlier record that are no answers to what the input holds now.

    Such are the masks of the last slices of a stack that has become shorter. They are left where
    they are: a stack may be short because it is still being copied.

    Args:
        before: the record of the earlier run.
        now: the record of this one, about the same input.
        out: the output folder.
    """
    # An input that cannot be read has no files; what is left of it may be as good as ever.
    if not now.files or now.files == before.files:
        return
    left = [name for name in before.outputs if name not in now.outputs and (out / name).is_file()]
    if not left:
        return
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    warn_caller(
        f"{now.input} has changed since an earlier run, which left files in {out} that answer what "
        f"it held before: {min(left)}{more}; delete those you do not need",
        LeftoverWarning,
    )
