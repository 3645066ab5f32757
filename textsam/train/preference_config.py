"""Settings of preference optimisation, the second stage of a run with few labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from textsam.data.selection import Selection
from textsam.sections import Section

__all__ = ["PreferenceSettings", "Strategy"]

Strategy = Literal["best-only", "rating", "ranking"]


class PreferenceSettings(Section):
    """Stage 2 of Konwer et al. (CVPR 2025): candidate masks are rated, better ones preferred.

    The run's `init_adapter` is where it begins and, frozen, the reference of the loss.

    Attributes:
        unlabelled: which of `data.train` count as images without labels: their masks are shown to
            the virtual rater and to nothing else. That they show what they are asked for is taken
            as known. What is not named here is labelled and trained on
            as ever. Nothing named at all is supervised training of what `learns`, to compare with.
        unlabelled_folders: the same for folders of `data.train_folders`, by their `folder`.
        strategy: "ranking" orders candidates by IoU with the truth; "rating" by the ratings 1 to 4,
            so that candidates of one rating tie; "best-only" compares the best with the worst.
        cuts: probabilities at which the map is cut into candidates, rising.
        candidates: whose map is cut: the model's as it stands ("current", rated anew at every
            step), or the frozen one's ("reference", the same candidates and ratings in every
            epoch).
        beta_outer: β1, weight of the best and the worst candidate.
        beta_inner: β2, weight of the second and the last but one.
        dilate_px: how far the region where candidates disagree is grown before the log-likelihood
            is averaged over it, in pixels of the frame the loss is computed in.
        noise: share of ratings in which two adjacent candidates are confused.
        weight: of the preference loss of an unlabelled image.
        anchor: of the supervised loss of a labelled image.
        learns: what learns in this stage. The image encoder does not, whatever `tuning` says:
            model and reference share its embeddings.
    """

    unlabelled: tuple[Selection, ...] = ()
    unlabelled_folders: tuple[str, ...] = ()
    strategy: Strategy = "ranking"
    cuts: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6)
    candidates: Literal["current", "reference"] = "current"
    beta_outer: float = Field(1.0, gt=0)
    beta_inner: float = Field(0.5, ge=0)
    dilate_px: int = Field(2, ge=0)
    noise: float = Field(0.0, ge=0, le=1)
    weight: float = Field(1.0, ge=0)
    anchor: float = Field(0.5, ge=0)
    learns: Literal["decoder", "decoder+text"] = "decoder"

    @property
    def has_unlabelled(self) -> bool:
        """Whether any image counts as unlabelled."""
        return bool(self.unlabelled or self.unlabelled_folders)

    @model_validator(mode="after")
    def _cuts_rise(self) -> PreferenceSettings:
        rising = all(a < b for a, b in zip(self.cuts, self.cuts[1:], strict=False))
        if len(self.cuts) < 2 or not rising or self.cuts[0] <= 0 or self.cuts[-1] >= 1:
            raise ValueError(
                f"cuts are {list(self.cuts)}; give two or more, rising, between 0 and 1"
            )
        return self
