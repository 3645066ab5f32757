"""One step of preference optimisation: labelled images anchor, unlabelled ones are rated."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textsam.config import TrainConfig
from textsam.data.dataset import TrainItem
from textsam.data.sample import Sample
from textsam.data.sets import samples_from_manifest
from textsam.data.sources import samples_in
from textsam.errors import ConfigError
from textsam.model.textsam import TextSAM
from textsam.model.tuning import trainable_parameters
from textsam.train.asking import Asking
from textsam.train.losses import LossParts
from textsam.train.order import Key
from textsam.train.preference import AnchorParts, PreferenceParts, preference_margin
from textsam.train.preference_config import PreferenceSettings
from textsam.train.rater import candidate_masks, candidate_weights, iou_of
from textsam.train.step import Forward

__all__ = ["PreferenceForward", "frozen_copy", "learns_in_stage_two", "unlabelled_images"]


def frozen_copy(model: TextSAM) -> TextSAM:
    """The model as it stands, for ever: decoder, context, text adapter and learned tokens copied.

    Image encoder, prompt encoder and text encoder are the model's own; they do not learn in stage
    two, and copies would be the larger part of its memory.
    """

    def own(module: nn.Module) -> nn.Module:
        return copy.deepcopy(module).requires_grad_(False).eval()

    frozen = copy.copy(model)
    # A shallow copy shares the table of parts; give it one of its own before exchanging any.
    frozen._modules = dict(model._modules)
    for name in ("mask_decoder", "context", "adapter", "learned_tokens"):
        if (part := getattr(model, name)) is not None:
            setattr(frozen, name, own(part))
    return frozen


def learns_in_stage_two(name: str, settings: PreferenceSettings) -> bool:
    """Whether the trainable parameter of this name learns in stage two."""
    text = settings.learns == "decoder+text" and name.startswith(("context.", "adapter."))
    return text or name.startswith(("mask_decoder.", "learned_tokens."))


def unlabelled_images(config: TrainConfig, samples: Sequence[Sample]) -> frozenset[Path]:
    """Image files of the training samples that count as unlabelled.

    Args:
        config: with a `preference` section.
        samples: of its training part.

    Raises:
        ConfigError: a selection or folder that is not trained on.
    """
    settings = config.preference
    if settings is None:
        return frozenset()
    known = {sample.image_path for sample in samples}
    root = Path(config.data.root)
    found: set[Path] = set()
    if settings.unlabelled:
        found = {s.image_path for s in samples_from_manifest(root, settings.unlabelled)}
        if stray := sorted(found - known):
            raise ConfigError(
                f"preference.unlabelled has {len(stray)} images that are not in data.train, e.g. "
                f"{stray[0]}; data.train must hold labelled and unlabelled images"
            )
    for folder in settings.unlabelled_folders:
        items = [item for item in config.data.train_folders if item.folder == folder]
        if not items:
            raise ConfigError(
                f"preference.unlabelled_folders has {folder!r}, which is no folder of "
                "data.train_folders"
            )
        # What the folder itself gives: another folder, with labels, may lie inside of it.
        found |= {sample.image_path for sample in samples_in(root, folders=items)}
    return frozenset(found & known)


class PreferenceForward(Forward):
    """As `Forward`, but unlabelled images give a preference loss.

    Args:
        plain: the forward pass of the run, whose parts and settings are taken over. Its model must
            be as stage one left it.
        settings: of stage two.
        unlabelled: image files whose truth is for the rater alone.
    """

    def __init__(
        self, plain: Forward, settings: PreferenceSettings, unlabelled: frozenset[Path]
    ) -> None:
        super().__init__(
            plain.built,
            device=plain.device,
            precision=plain.precision,
            geometry=plain.geometry,
            seed=plain.seed,
            self_prompt=plain.self_prompt,
            cache=plain.cache,
            empty_weight=plain.empty_weight,
        )
        self.settings = settings
        self.unlabelled = unlabelled
        self.reference = frozen_copy(plain.built.model)

    @contextmanager
    def _only_learning(self) -> Iterator[None]:
        """No gradients for what does not learn in stage two, though it belongs to the adapter."""
        resting = [
            parameter
            for name, parameter in trainable_parameters(self.built.model).items()
            if not learns_in_stage_two(name, self.settings)
        ]
        for parameter in resting:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in resting:
                parameter.requires_grad_(True)

    def losses(self, keys: Sequence[Key], items: Sequence[TrainItem]) -> list[LossParts]:
        """The losses of a batch, one entry per image, in its order.

        Args:
            keys: of the items; they seed simulated geometry and the rater's mistakes.
            items: as many. Of an unlabelled one the truth is rated with and used for nothing else.
        """
        rated = [item.sample.image_path in self.unlabelled for item in items]
        parts: dict[int, LossParts] = {}
        with self._only_learning():
            known = [number for number, is_rated in enumerate(rated) if not is_rated]
            if known:
                supervised = super().losses(
                    [keys[number] for number in known], [items[number] for number in known]
                )
                for number, inner in zip(known, supervised, strict=True):
                    parts[number] = AnchorParts(inner, self.settings.anchor)
            for number, is_rated in enumerate(rated):
                if is_rated:
                    parts[number] = self._preference(keys[number], items[number])
        return [parts[number] for number in range(len(items))]

    def _preference(self, key: Key, item: TrainItem) -> PreferenceParts:
        settings = self.settings
        embedding = self.embed([item])
        with self._text_noise(key):
            tokens = self.words(item.prompts)
        with self._autocast():
            answers = self.decode(item, embedding, tokens, None)
        logits, targets = answers.logits[-1], answers.targets
        old = self._reference_logits(key, item, embedding, tokens)
        logits, old = logits[:, 0].float(), old[:, 0].float()
        losses = []
        margins: list[float] = []
        for number, truth in enumerate(targets.bool()):
            cut = logits[number].detach() if settings.candidates == "current" else old[number]
            candidates = candidate_masks(cut.sigmoid(), settings.cuts)
            weights = candidate_weights(
                iou_of(candidates, truth),
                settings.strategy,
                beta_outer=settings.beta_outer,
                beta_inner=settings.beta_inner,
                noise=settings.noise,
                rng=self._rater(key, number),
            )
            if not weights.any():
                # Nothing is preferred. The graph stays, so that a batch of ties has gradients: 0.
                losses.append(logits[number].sum() * 0)
                continue
            margin = preference_margin(
                logits[number],
                old[number],
                candidates,
                torch.from_numpy(weights).to(logits.device),
                settings.dilate_px,
            )
            losses.append(-F.logsigmoid(margin))
            margins.append(float(margin.detach()))
        nothing = logits.new_zeros(())
        return PreferenceParts(
            bce=nothing,
            dice=nothing,
            iou=nothing,
            preference=torch.stack(losses).mean(),
            weight=settings.weight,
            correct=sum(m > 0 for m in margins) / len(margins) if margins else None,
            skipped=1 - len(margins) / len(losses),
        )

    @torch.no_grad()
    def _reference_logits(
        self, key: Key, item: TrainItem, embedding: Tensor, tokens: Tensor | None
    ) -> Tensor:
        """(n, 1, h, w) logits of the frozen model in the frame of `decode`."""
        tokens = None if tokens is None else tokens.detach()
        if self.settings.learns == "decoder+text":
            with self._text_noise(key):
                tokens = None if tokens is None else self.reference.encode_text(item.prompts)
        learning = self.asking
        try:
            self.asking = Asking(self.reference, self.device)
            with self._autocast():
                answers = self.decode(item, embedding.detach(), tokens, None)
        finally:
            self.asking = learning
        return answers.logits[-1]

    def _rater(self, key: Key, number: int) -> np.random.Generator:
        """Draws the rater's mistakes on one prompt of one image.

        The reference's candidates are rated once for all epochs, so a mistake stays.
        """
        case = key if self.settings.candidates == "current" else (key[1],)
        return np.random.default_rng((self.seed, *case, number, 0xA7E))
