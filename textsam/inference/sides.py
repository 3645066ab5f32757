"""A model at all sides it looks at images at, and the views at each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from textsam.errors import ConfigError
from textsam.inference.decoded import Decoded, mean_of_views
from textsam.inference.encoded import Encodings
from textsam.inference.prepare import Prepared
from textsam.inference.view import Asked, View
from textsam.inference.views import Views
from textsam.model.build import BuiltModel

__all__ = ["Sides"]


class Sides:
    """Answers of one model at several sides of its square, plain and mirrored.

    Args:
        models: the same model at different sides; the first one's is the adapter's own.
        views: of which the answers are averaged, besides the plain one at the side asked for.
        device: where the models are.
        precision: of the image encoder.

    Attributes:
        own_px: the adapter's own side.
        encodings: at that side, of images and words.

    Raises:
        ConfigError: views at a side at which there is no model.
    """

    def __init__(
        self,
        models: Sequence[BuiltModel],
        views: Views,
        *,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self.views = views
        self.own_px = models[0].preprocessor.side_px
        ways = (False, True) if views.mirrored else (False,)
        # Of each side the plain view, and the mirrored one.
        self._at: dict[int, list[View]] = {}
        for built in models:
            encodings = Encodings(built.model, device, precision)
            at = [View(built, encodings, mirrored=way) for way in ways]
            self._at[built.preprocessor.side_px] = at
        self.encodings = self._at[self.own_px][0].encodings
        self.require(views.sides_px, "views")

    def require(self, sides_px: Iterable[int], who: str) -> None:
        """Raise `ConfigError` unless there is a model at each of these sides."""
        if lacking := sorted(set(sides_px) - self._at.keys()):
            known = ", ".join(map(str, sorted(self._at)))
            raise ConfigError(
                f"{who}: to look at images at {', '.join(map(str, lacking))} px needs a model at "
                f"that side, and there are models at {known} px; give the others in `further`"
            )

    def decode(
        self,
        images: Sequence[Prepared],
        asked: Asked,
        sides_px: Sequence[tuple[int, ...]],
        embeddings: Sequence[Tensor] | None = None,
    ) -> list[list[Decoded]]:
        """Ask C questions of each of B images, each at its sides and by all views, and average.

        Args:
            images: as the plain view at the adapter's own side sees them.
            asked: the questions.
            sides_px: (C,) of the model's square.
            embeddings: (B,) of the images at the adapter's own side, where they are known.

        Returns:
            B lists of C answers, in the frames of the images' regions.
        """
        answers: list[dict[int, Decoded]] = [{} for _ in images]
        for sides in dict.fromkeys(sides_px):
            places = [place for place, own in enumerate(sides_px) if own == sides]
            together = self._decode_at(images, asked.some(places), sides, embeddings)
            for row, found in enumerate(answers):
                start = row * len(places)
                found.update(zip(places, together[start : start + len(places)], strict=True))
        return [[found[place] for place in range(len(sides_px))] for found in answers]

    def _decode_at(
        self,
        images: Sequence[Prepared],
        asked: Asked,
        sides_px: Sequence[int],
        embeddings: Sequence[Tensor] | None,
    ) -> list[Decoded]:
        """B × C answers, image after image; arguments as of `decode`, all at the same sides."""
        by_view = []
        for at in dict.fromkeys((*sides_px, *self.views.sides_px)):
            fitted = [self._at[at][0].fit(image) for image in images]
            for view in self._at[at]:
                known = embeddings if at == self.own_px and not view.mirrored else None
                by_view.append(view.decode([view.see(image) for image in fitted], asked, known))
        return [mean_of_views(own, asked.threshold) for own in zip(*by_view, strict=True)]
