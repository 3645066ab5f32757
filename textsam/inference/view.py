"""One view of an image: at a side of the model's square, plain or mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from textsam.inference.decoded import Decoded
from textsam.inference.encoded import Encodings
from textsam.inference.prepare import Prepared, prepare
from textsam.inference.refine import Geometry, decode_passes
from textsam.inference.refinement import RefineWith
from textsam.inference.settle import Settle
from textsam.model.build import BuiltModel

__all__ = ["Asked", "View"]


@dataclass(frozen=True)
class Asked:
    """C questions as the decoder needs them, and how it is to answer.

    Attributes:
        texts: (C,) words, or None for geometry alone; random points are drawn by them.
        tokens: (C,) of (256,), or None.
        geometry: (C,) in the image's frame, or None.
        passes: (C,) of refinement, or rules for settling.
        gives: what refinement takes from a mask.
        threshold: probability above which a pixel belongs to a mask.
        authors_frame: as of `decode_passes`.
        seed: of random refinement points.
    """

    texts: Sequence[str | None]
    tokens: Sequence[Tensor | None]
    geometry: Sequence[Geometry | None]
    passes: Sequence[int | Settle]
    gives: RefineWith
    threshold: float
    authors_frame: bool
    seed: int

    def some(self, places: Sequence[int]) -> Asked:
        """The questions at these places alone."""
        return replace(
            self,
            texts=[self.texts[i] for i in places],
            tokens=[self.tokens[i] for i in places],
            geometry=[self.geometry[i] for i in places],
            passes=[self.passes[i] for i in places],
        )


class View:
    """One way of looking at images: a model at one side, and whether they are mirrored.

    Args:
        built: the model.
        encodings: of its image encoder.
        mirrored: left and right of an image are exchanged before it is encoded, and exchanged back
            in the answer.
    """

    def __init__(self, built: BuiltModel, encodings: Encodings, *, mirrored: bool = False) -> None:
        self.built = built
        self.encodings = encodings
        self.mirrored = mirrored

    def fit(self, image: Prepared) -> Prepared:
        """An image that was prepared for a model of any side, at the side of this one."""
        if image.frame.side_px == self.built.preprocessor.side_px:
            return image
        return prepare(image.image, self.built.preprocessor)

    def see(self, image: Prepared) -> Prepared:
        """An image of this model's side, plain, as this view sees it."""
        if not self.mirrored:
            return image
        # The padding stays where it is, to the right.
        width = image.frame.valid_px[1]
        pixels = image.pixels.clone()
        pixels[..., :width] = image.pixels[..., :width].flip(-1)
        return replace(image, pixels=pixels, key=f"{image.key} mirrored")

    def decode(
        self, images: Sequence[Prepared], asked: Asked, embeddings: Sequence[Tensor] | None = None
    ) -> list[Decoded]:
        """Ask the same C questions of each of B images.

        Args:
            images: as this view sees them.
            asked: the questions.
            embeddings: (B,) of (1, 256, h, h), where they are known.

        Returns:
            B × C answers, image after image, in the frames of the images' regions, not mirrored.
        """
        if embeddings is None:
            embeddings = self.encodings.embed(images)
        frames = [image.frame for image in images for _ in asked.texts]
        threshold_logit = float(np.log(asked.threshold / (1 - asked.threshold)))
        final = decode_passes(
            self.built.model,
            [embedding for embedding in embeddings for _ in asked.texts],
            list(asked.tokens) * len(images),
            frames,
            refine=list(asked.passes) * len(images),
            manual=[self._shown(own, image) for image in images for own in asked.geometry],
            threshold_logit=threshold_logit,
            authors_frame=asked.authors_frame,
            gives=asked.gives,
            draws=[(asked.seed, image.key, text or "") for image in images for text in asked.texts],
        )[-1]
        answers = []
        for index, frame in enumerate(frames):
            logits = frame.logits_to_image(final.logits[index][None].float())[0, 0]
            # As `final.masks` has it, without enlarging the logits once more.
            mask = (logits > threshold_logit).cpu().numpy()
            probability = logits.sigmoid().cpu().numpy()
            if self.mirrored:
                probability, mask = probability[:, ::-1], mask[:, ::-1]
            iou = float(final.iou[index, 0])
            answers.append(Decoded(probability, mask, iou, final.settled.get(index)))
        return answers

    def _shown(self, geometry: Geometry | None, image: Prepared) -> Geometry | None:
        """Manual geometry in the frame of the image's region, as this view sees it."""
        own = image.to_region(geometry)
        if own is None or not self.mirrored:
            return own
        last = image.frame.image_px[1] - 1
        points = own.points.copy()
        points[:, 0] = last - points[:, 0]
        box = own.box
        if box is not None:
            box = np.array([last - box[2], box[1], last - box[0], box[3]])
        return replace(own, points=points, box=box)
