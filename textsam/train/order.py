"""In which order samples are seen: a function of seed and epoch, so that a run can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from textsam.data.dataset import epoch_order
from textsam.data.sample import Sample

__all__ = ["Key", "Order"]

Key = tuple[int, int, int]


class Order:
    """The endless sequence of (epoch, index, repeat) keys of a run.

    Args:
        samples: with their weights; one epoch holds as many keys as the weights sum to.
        seed: of the run.
    """

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self.samples = samples
        self.seed = seed
        self.epoch_length = max(1, round(sum(sample.weight for sample in samples)))

    def batches(self, size: int, start: int = 0) -> Iterator[list[Key]]:
        """Batches of `size` keys for ever, beginning with batch number `start`.

        Batches run across the border of two epochs, so that each is full.
        """
        epoch, skip = divmod(start * size, self.epoch_length)
        batch: list[Key] = []
        while True:
            keys = epoch_order(self.samples, epoch, seed=self.seed, length=self.epoch_length)
            for key in keys[skip:]:
                batch.append(key)
                if len(batch) == size:
                    yield batch
                    batch = []
            epoch, skip = epoch + 1, 0
