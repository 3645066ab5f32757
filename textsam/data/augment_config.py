"""What `textsam.data.augment` changes in training images, how often and how far."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from textsam.data.heal import HealWay
from textsam.data.monai_transforms import TransformSettings
from textsam.sections import Section

__all__ = ["AugmentConfig"]

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the range {value} is not (low, high)")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]


class AugmentConfig(Section):
    """Probabilities and ranges of `Augment`; a probability of 0 switches a change off.

    scale: magnification, above 1 crops and below 1 leaves a black border.
    translate: largest shift as a fraction of each side, either way.
    rotate_deg: largest rotation either way, in degrees.
    keep_fraction: a concept must keep this fraction of its (scaled) area, or the affine change is
        drawn again (`affine_draws` times at most, then left out): a crop must not push the object
        out of the image.
    gamma: exponent on intensities in [0, 1]. brightness: added, contrast: factor about mid-grey,
        channel_gain: factor per colour channel (colour images only).
    blur_sigma_px: of a Gaussian. noise_sd: of additive Gaussian noise, as a fraction of full
        scale. speckle_sd: of multiplicative Gaussian noise. low_resolution: factor of the size to
        which the image is reduced before it is enlarged again.
    gain: factor of a field that varies smoothly over the image, as time gain and lighting do.
    levels: fraction of the darkest and of the brightest pixels that are clipped before what is left
        is stretched to the full range. Models here take images stretched to their own darkest and
        brightest pixel, which undoes most of brightness and contrast, and nothing of this.
    grain: size in px of the grains of noise and speckle, log-uniform.
    no_up: modalities without an up, whose images are also mirrored vertically and turned by
        quarters, each half of the time.
    marks_count: most caliper crosses and texts drawn.
    absent_crop_p: of cutting out a part of the image that shows none of its annotated concepts
        (`textsam.data.absent_crop`), where there is one: a true negative from the same scanner.
    close_crop_p: of cutting out a square around one object instead (`textsam.data.close_crop`),
        close_crop: its side as a multiple of the object's longer side, log-uniform.
    heal: kinds of image whose objects can be covered, and from where: "mirrored" or "beside"
        (`textsam.data.heal`). heal_p: of covering everything annotated, a negative that is a whole
        image; and of covering another place instead, so that traces of it tell nothing.
    extra: transforms of MONAI applied last (`textsam.data.monai_transforms`).
    """

    flip_horizontal_p: Probability = 0.5
    flip_vertical_p: Probability = 0.0
    rot90_p: Probability = 0.0
    affine_p: Probability = 0.7
    scale: Range = (0.7, 1.3)
    translate: float = Field(default=0.1, ge=0.0, le=0.5)
    rotate_deg: float = Field(default=10.0, ge=0.0, le=180.0)
    keep_fraction: Probability = 0.25
    affine_draws: int = Field(default=3, ge=1, le=20)
    gamma_p: Probability = 0.4
    gamma: Range = (0.6, 1.6)
    brightness_p: Probability = 0.3
    brightness: Range = (-0.15, 0.15)
    contrast_p: Probability = 0.3
    contrast: Range = (0.7, 1.4)
    channel_p: Probability = 0.3
    channel_gain: Range = (0.85, 1.15)
    grey_p: Probability = 0.05
    invert_p: Probability = 0.02
    blur_p: Probability = 0.15
    blur_sigma_px: Range = (0.4, 1.5)
    noise_p: Probability = 0.2
    noise_sd: Range = (0.01, 0.06)
    speckle_p: Probability = 0.15
    speckle_sd: Range = (0.05, 0.2)
    low_resolution_p: Probability = 0.15
    low_resolution: Range = (0.4, 0.8)
    gain_p: Probability = 0.0
    gain: Range = (0.6, 1.6)
    levels_p: Probability = 0.0
    levels: Range = (0.0, 0.03)
    grain: Range = (1.0, 1.0)
    no_up: tuple[str, ...] = ()
    marks_p: Probability = 0.1
    marks_count: int = Field(default=4, ge=1, le=20)
    absent_crop_p: Probability = 0.0
    close_crop_p: Probability = 0.0
    close_crop: Range = (1.3, 3.0)
    heal_p: Probability = 0.0
    heal: dict[str, HealWay] = Field(default_factory=dict)
    extra: tuple[TransformSettings, ...] = ()

    def of_kind(self, modality: str) -> Self:
        """The same for images of a modality."""
        turned = {"flip_vertical_p": 0.5, "rot90_p": 0.5}
        return self.model_copy(update=turned if modality in self.no_up else {})

    def in_place(self) -> Self:
        """The same, but nothing is moved, cut out or covered, unless `extra` does."""
        moving = ("flip_horizontal", "flip_vertical", "rot90", "affine")
        hiding = ("absent_crop", "close_crop", "heal")
        off: dict[str, object] = {f"{name}_p": 0.0 for name in (*moving, *hiding)}
        return self.model_copy(update={**off, "no_up": (), "heal": {}})

    def only_flips(self) -> bool:
        """Whether an image can come out in four ways at most: as it is and mirrored."""
        probabilities = {n: v for n, v in self.model_dump().items() if n.endswith("_p")}
        others = any(v for n, v in probabilities.items() if not n.startswith("flip_"))
        return not others and not self.extra and not self.no_up

    def looks_at_masks(self) -> list[str]:
        """Settings by which what the masks show decides what becomes of the image."""
        names = ("affine_p", "extra") if self.keep_fraction else ()
        names = (*names, "absent_crop_p", "close_crop_p", "heal_p")
        return [name for name in names if getattr(self, name)]

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name in ("scale", "gamma", "contrast", "channel_gain", "low_resolution", "gain"):
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("blur_sigma_px", "noise_sd", "speckle_sd"):
            if getattr(self, name)[0] < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.heal_p and not self.heal:
            raise ValueError("heal_p needs heal: kinds of image, such as {brain MRI: mirrored}")
        if self.close_crop[0] < 1:
            raise ValueError(f"close_crop is at least the object itself, 1, got {self.close_crop}")
        if self.grain[0] < 1:
            raise ValueError(f"grain is in whole pixels at least, got {self.grain}")
        if not 0 <= self.levels[0] <= self.levels[1] < 0.5:
            raise ValueError(f"levels are fractions below 0.5, got {self.levels}")
        if self.low_resolution[1] > 1:
            raise ValueError(f"low_resolution is a reduction, got {self.low_resolution}")
        return self
