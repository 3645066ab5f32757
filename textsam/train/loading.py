"""Batches of training items, loaded ahead by processes of their own where a run has some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader, Dataset

from textsam.data.dataset import TrainDataset, TrainItem
from textsam.errors import TextSAMError
from textsam.train.order import Key

__all__ = ["loaded", "readers_told"]

# Of what PyTorch and Python raise where such a process has ended, or has no file left to hand on.
_SIGNS = ("DataLoader worker", "Too many open files", "items of ancdata")


class _Keyed(Dataset["tuple[Key, TrainItem] | TextSAMError"]):
    """Items with their keys, which seed what the training step draws.

    What is wrong with one is handed on as an item: of an exception in a worker PyTorch makes one
    whose message is a traceback.
    """

    def __init__(self, items: TrainDataset) -> None:
        self.items = items

    def __getitem__(self, key: Key) -> tuple[Key, TrainItem] | TextSAMError:
        try:
            return key, self.items[key]
        except TextSAMError as error:
            return error


def _as_is(batch: list[tuple[Key, TrainItem] | TextSAMError]) -> list[Any]:
    return batch


def loaded(
    items: TrainDataset, batches: Iterable[list[Key]], *, workers: int
) -> Iterator[list[tuple[Key, TrainItem]]]:
    """The items of batches of keys, up to one that could not be made; raises what is wrong with it.

    Args:
        items: to load.
        batches: keys of each.
        workers: processes that load ahead; 0: none, the items are made when they are asked for.
    """
    loader = DataLoader(
        _Keyed(items), batch_sampler=batches, num_workers=workers, collate_fn=_as_is
    )
    for batch in loader:
        for item in batch:
            if isinstance(item, TextSAMError):
                raise item
        yield batch


@contextmanager
def readers_told(workers: int) -> Iterator[None]:
    """Raise the end of a process that loads images as a `TextSAMError` that says what to do.

    PyTorch learns of it by a signal, so its exception comes wherever the block is at that moment,
    and may have been taken there for something else.

    Args:
        workers: of the run.
    """
    try:
        yield
    except Exception as error:
        if not workers or (why := _lost_reader(error)) is None:
            raise
        raise TextSAMError(
            f"a process that loads training images has ended, or cannot hand them on ({why}). "
            "Where memory is short, or shared memory in a container, or the number of open files "
            f"(ulimit -n), set workers, now {workers}, to fewer or to 0. The same command goes on "
            "from the state saved last"
        ) from error


def _lost_reader(error: BaseException | None) -> str | None:
    """What says that a loading process is lost, of an exception or of what it came from."""
    while error is not None:
        told = str(error).partition("\n")[0].strip()
        lost = isinstance(error, EOFError | ConnectionError) or (
            isinstance(error, RuntimeError | OSError) and any(sign in told for sign in _SIGNS)
        )
        # One that begins with "Caught" is a bug in such a process, with its traceback.
        if lost and not told.startswith("Caught "):
            return told or type(error).__name__
        error = error.__cause__
    return None
