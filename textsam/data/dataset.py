"""Training items: an image at the model's size, prompts to ask of it, and the masks they mean.

Everything random in an item comes from (seed, epoch, index, repeat), so that a run resumes exactly
and the number of loader processes does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage

from textsam.data.ask import PromptSampler
from textsam.data.sample import Sample, load_sample
from textsam.errors import DataError
from textsam.frame import SquareGeometry

__all__ = ["TrainDataset", "TrainItem", "epoch_order"]

AugmentFunction = Callable[
    [NDArray[np.uint8], Sequence[NDArray[np.bool_]], np.random.Generator],
    tuple[NDArray[np.uint8], list[NDArray[np.bool_]]],
]
Key = int | tuple[int, int] | tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class TrainItem:
    """One image and what was asked of it.

    image: (3, S, S) uint8, RGB in [0, 255]; resized so that its long side is S, in the top left
        corner, zeros to the right and below.
    size_px: (height, width) of the part that is image.
    prompts, concepts: the n texts as asked, and the concept each one means (or the text itself).
    targets: (n, S, S) uint8 in {0, 1}, padded like the image; all 0 for an absent concept.
    sample: what the image is, for messages and per-set figures.
    native_targets: (n, H, W) uint8 in {0, 1}, the same masks in the image's own pixels (after
        augmentation); None where nobody asked for them.
    """

    image: torch.Tensor
    size_px: tuple[int, int]
    prompts: list[str]
    concepts: list[str]
    targets: torch.Tensor
    sample: Sample
    native_targets: torch.Tensor | None = None

    @property
    def dataset(self) -> str:
        """The set the image belongs to."""
        return self.sample.dataset


class TrainDataset(torch.utils.data.Dataset[TrainItem]):
    """Samples as `TrainItem`s at the model's input size.

    samples: what to draw from. size_px: side of the model's square input. prompts: what to ask.
    augment: a callable such as `textsam.data.augment.Augment`, or None. augment_for: others, for
    images of some modalities. seed: of everything random. native_targets: items carry their masks
    in the image's own pixels, too.

    A key is (epoch, index, repeat) as `epoch_order` gives, (epoch, index) or a plain index; epoch
    and repeat are 0 where they are not given.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        size_px: int,
        prompts: PromptSampler,
        augment: AugmentFunction | None = None,
        augment_for: Mapping[str, AugmentFunction] | None = None,
        seed: int = 0,
        native_targets: bool = False,
    ) -> None:
        if not samples:
            raise DataError("A training data set needs at least one sample.")
        if size_px < 8:
            raise DataError(f"The model's input side must be 8 px at least, got {size_px}.")
        if seed < 0:
            raise DataError(f"The seed must not be negative, got {seed}.")
        self.samples = tuple(samples)
        self.size_px = size_px
        self.prompts = prompts
        self.augment = augment
        self.augment_for = dict(augment_for or {})
        self.seed = seed
        self.native_targets = native_targets

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> TrainItem:
        """The item of a key. Raises DataError for a sample that cannot be read or asked."""
        epoch, index, repeat = self._parts(key)
        sample = self.samples[index]
        rng = np.random.default_rng((self.seed, epoch, index, repeat))
        image, masks = load_sample(sample)
        if not self.native_targets:
            # Augmentation far above the model's resolution costs time and shows nothing.
            image, masks = _shrink(image, masks, long_side_px=2 * self.size_px)
        names = list(masks)
        arrays = list(masks.values())
        augment = self.augment_for.get(sample.modality, self.augment)
        if augment is not None:
            image, arrays = augment(image, arrays, rng)
        present = [n for n, m in zip(names, arrays, strict=True) if m.any()]
        empty = [n for n in names if n not in present]
        asks = self.prompts(sample, present, empty, rng)

        height, width = _fitted(image.shape[0], image.shape[1], self.size_px)
        square = np.zeros((self.size_px, self.size_px, 3), dtype=np.uint8)
        square[:height, :width] = _resize_image(image, height, width)
        targets = np.zeros((len(asks), self.size_px, self.size_px), dtype=np.uint8)
        native = np.zeros((len(asks), *image.shape[:2]), dtype=np.uint8)
        for number, ask in enumerate(asks):
            if ask.present:
                mask = arrays[names.index(ask.concept)]
                targets[number, :height, :width] = _resize_mask(mask, height, width)
                native[number] = mask
        return TrainItem(
            image=torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1))),
            size_px=(height, width),
            prompts=[ask.text for ask in asks],
            concepts=[ask.concept for ask in asks],
            targets=torch.from_numpy(targets),
            sample=sample,
            native_targets=torch.from_numpy(native) if self.native_targets else None,
        )

    def _parts(self, key: Key) -> tuple[int, int, int]:
        if not isinstance(key, tuple):
            epoch, index, repeat = 0, int(key), 0
        elif len(key) == 2:
            (epoch, index), repeat = key, 0
        else:
            epoch, index, repeat = key
        if not 0 <= index < len(self.samples):
            # IndexError, not DataError: it is what ends iteration over a sequence.
            raise IndexError(f"Sample {index} of {len(self.samples)}.")
        return epoch, index, repeat


def epoch_order(
    samples: Sequence[Sample], epoch: int, *, seed: int, length: int | None = None
) -> list[tuple[int, int, int]]:
    """The keys (epoch, index, repeat) of one epoch, in random order; a pure function.

    length: items in the epoch, default one per sample. Sample i appears length·w_i/Σw times,
    rounded up or down at random so that the expectation is exact; a sample that appears again has
    repeat 1, 2, …, and is augmented anew. With equal weights and the default length every sample
    appears exactly once. Raises DataError without samples or with a length below 1.
    """
    total = len(samples) if length is None else length
    if not samples or total < 1:
        raise DataError(f"An epoch needs at least one sample, got {min(len(samples), total)}.")
    # A spawned stream: the items' generators use the keys (seed, epoch, index, repeat).
    rng = np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=(1,)))
    weights = np.array([sample.weight for sample in samples], dtype=np.float64)
    # Systematic sampling: equally spaced ticks with one random offset on the cumulative weights.
    # The samples are shuffled first, so that neighbours do not share their fate.
    shuffled = rng.permutation(len(samples))
    # Rounding to a millionth keeps integer edges integer: equal weights give exactly one each.
    edges = np.round(np.cumsum(weights[shuffled]) * (total / weights.sum()), 6)
    ticks = np.arange(total) + rng.uniform(0.001, 0.999)
    counts = np.bincount(np.searchsorted(edges, ticks), minlength=len(samples))
    keys = [
        (epoch, int(index), repeat)
        for index, count in zip(shuffled, counts, strict=True)
        for repeat in range(int(count))
    ]
    return [keys[i] for i in rng.permutation(len(keys))]


def _fitted(height: int, width: int, long_side_px: int) -> tuple[int, int]:
    return SquareGeometry((height, width), long_side_px).valid_px


def _shrink(
    image: NDArray[np.uint8], masks: dict[str, NDArray[np.bool_]], long_side_px: int
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
    if max(image.shape[:2]) <= 1.25 * long_side_px:
        return image, masks
    height, width = _fitted(image.shape[0], image.shape[1], long_side_px)
    small = {name: _resize_mask(mask, height, width) for name, mask in masks.items()}
    return _resize_image(image, height, width), small


def _resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    # PIL widens the bilinear kernel when it reduces, which is the antialiasing.
    picture = PILImage.fromarray(image)
    return np.asarray(picture.resize((width, height), PILImage.Resampling.BILINEAR))


def _resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Foreground where at least half of the area is (BOX is nearest when enlarging).

    A mask with pixels never becomes empty: an object thinner than half a pixel keeps the pixels it
    covers most, or the prompt's truth would be false.
    """
    if mask.shape == (height, width):
        return mask
    picture = PILImage.fromarray(mask.astype(np.uint8) * 255)
    cover = np.asarray(picture.resize((width, height), PILImage.Resampling.BOX))
    small: NDArray[np.bool_] = cover >= 128
    if not small.any() and mask.any():
        peak = int(cover.max())
        if peak == 0:
            y, x = np.argwhere(mask)[0]
            small[y * height // mask.shape[0], x * width // mask.shape[1]] = True
        else:
            small = cover >= max(1, (peak + 1) // 2)
    return small
