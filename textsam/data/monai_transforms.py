"""Random transforms of MONAI after our own changes, named in a configuration and seeded per item.

Only transforms that image and masks can share, or that leave geometry alone. Masks are resampled by
nearest pixel and stay binary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from textsam.errors import ConfigError
from textsam.sections import Section

__all__ = ["INTENSITY", "SPATIAL", "MonaiTransforms", "TransformSettings"]

SPATIAL = ("Rand2DElastic", "RandAffine", "RandGridDistortion")
"""Change image and masks alike."""

INTENSITY = (
    "RandAdjustContrast",
    "RandBiasField",
    "RandCoarseDropout",
    "RandGaussianNoise",
    "RandGaussianSharpen",
    "RandGaussianSmooth",
    "RandGibbsNoise",
    "RandHistogramShift",
    "RandRicianNoise",
    "RandScaleIntensity",
    "RandShiftIntensity",
)
"""Change the image alone."""

# Side of the image that transforms are tried out on.
_TRIED_PX = 64

_OURS = {"keys", "mode", "allow_missing_keys", "device", "lazy"}


class TransformSettings(Section):
    """One transform of MONAI.

    Attributes:
        name: as `monai.transforms` calls it, without the "d" of its dictionary version.
        args: by name; images are in [0, 1], channels first.
    """

    name: str
    args: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SPATIAL + INTENSITY:
            raise ValueError(f"{value!r} is none of {', '.join(SPATIAL + INTENSITY)}")
        return value

    @model_validator(mode="after")
    def _free(self) -> Self:
        # Elsewhere it is the size of what is cut out, not of the result.
        ours = _OURS | ({"spatial_size"} if self.name in SPATIAL else set())
        if taken := sorted(self.args.keys() & ours):
            raise ValueError(f"{', '.join(taken)} cannot be set: image and masks decide")
        return self


class MonaiTransforms:
    """Apply transforms one after another; all that is random comes from the generator given.

    Args:
        settings: in their order.
        keep_fraction: a spatial transform that leaves a mask less of its area is left out.

    Raises:
        ConfigError: arguments that the transform does not take.
    """

    def __init__(self, settings: Sequence[TransformSettings], keep_fraction: float) -> None:
        import monai.transforms

        self.keep_fraction = keep_fraction
        self._transforms: list[tuple[bool, Any]] = []
        for one in settings:
            spatial = one.name in SPATIAL
            kind = getattr(monai.transforms, one.name + "d")
            options: dict[str, Any] = {"keys": ["image"]}
            if spatial:
                options = {"keys": ["image", "masks"], "mode": ("bilinear", "nearest")}
                options["padding_mode"] = "zeros"
            try:
                self._transforms.append((spatial, kind(**{**options, **one.args})))
                _try_out(kind(**{**options, **one.args}))
            except Exception as error:  # whatever MONAI raises says that it does not take them
                raise ConfigError(f"augment.extra, {one.name} with {one.args}: {error}") from error

    def __call__(
        self,
        image: NDArray[np.uint8],
        masks: list[NDArray[np.bool_]],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
        """The changed image and masks.

        Args:
            image: (H, W) grey or (H, W, 3), in [0, 255].
            masks: each (H, W).
            rng: of this item.
        """
        shown = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        # A transform needs at least one channel.
        stacked = np.stack(masks or [np.zeros(image.shape[:2], dtype=np.bool_)])
        data = {
            "image": shown.astype(np.float32) / np.float32(255),
            "masks": stacked.astype(np.float32),
        }
        for spatial, transform in self._transforms:
            # The state is set at every call: nothing of an earlier item is left in it.
            transform.set_random_state(seed=int(rng.integers(2**32)))
            # Copies, as some transforms write into what they are given.
            changed = transform({name: values.copy() for name, values in data.items()})
            after = {name: np.asarray(changed[name], dtype=np.float32) for name in data}
            if spatial and not self._kept(data["masks"], after["masks"]):
                continue
            data = after
        picture = np.rint(np.clip(data["image"], 0, 1) * 255).astype(np.uint8)
        result = picture[0] if image.ndim == 2 else np.ascontiguousarray(picture.transpose(1, 2, 0))
        return result, [data["masks"][number] > 0.5 for number in range(len(masks))]

    def _kept(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
        areas = before.sum((1, 2)), (after > 0.5).sum((1, 2))
        return all(now >= self.keep_fraction * was for was, now in zip(*areas, strict=True))


def _try_out(transform: Any) -> None:
    """Change a made-up image: some arguments are looked at in use alone, which may be late."""
    transform.prob = 1.0
    transform.set_random_state(seed=0)
    ramp = np.linspace(0, 1, _TRIED_PX**2, dtype=np.float32).reshape(1, _TRIED_PX, _TRIED_PX)
    transform({"image": ramp.copy(), "masks": np.round(ramp)})
