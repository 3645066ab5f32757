"""One training step's forward pass: images and prompts in, losses out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from textsam.data.dataset import TrainItem
from textsam.inference.refinement import RefineWith, points_and_box
from textsam.model.build import BuiltModel
from textsam.train.answers import Answers, Posed
from textsam.train.asking import Asking
from textsam.train.cache import EmbeddingCache
from textsam.train.losses import (
    LossParts,
    batch_losses,
    distillation_loss,
    mask_losses,
    mixed,
)
from textsam.train.order import Key
from textsam.train.settings import GeometrySettings, SelfPromptSettings
from textsam.train.simulate import Given, given_by_truth, weighted_choice

__all__ = ["Forward"]


class Forward:
    """Images and prompts to losses, with the settings of a run.

    Args:
        built: model and preprocessing.
        device: where the model is.
        precision: "float32", or "bfloat16" for autocast in encoder and decoder.
        geometry: simulated geometric prompts.
        self_prompt: passes over each image, and what they take from each other.
        seed: of the run.
        cache: of embeddings, for a frozen encoder.
        empty_weight: as in `mask_losses`.
    """

    def __init__(
        self,
        built: BuiltModel,
        *,
        device: torch.device,
        precision: str,
        geometry: GeometrySettings,
        seed: int,
        self_prompt: SelfPromptSettings | None = None,
        cache: EmbeddingCache | None = None,
        empty_weight: float = 0.0,
    ) -> None:
        self.built = built
        self.device = device
        self.precision = precision
        self.geometry = geometry
        self.self_prompt = self_prompt or SelfPromptSettings()
        self.seed = seed
        self.cache = cache
        self.empty_weight = empty_weight
        self.asking = Asking(built.model, device)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    @contextmanager
    def _text_noise(self, key: Key) -> Iterator[None]:
        """Seed the text encoder's dropout, where it is on, so that a resumed run draws the same."""
        if not self.built.model.text_encoder.training:
            yield
            return
        seed = int(np.random.SeedSequence((self.seed, *key, 0xD0)).generate_state(1)[0])
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield

    def embed(self, items: Sequence[TrainItem]) -> Tensor:
        """(B, 256, h, h) float32 embeddings of the items' images."""
        # One copy to the device, not one an image: each would wait for all work before it.
        squares = torch.stack([item.image for item in items]).to(self.device).float()
        images = [
            self.built.preprocessor.normalise_and_pad(self._valid(square, item))
            for square, item in zip(squares, items, strict=True)
        ]
        encode: Callable[[Tensor], Tensor] = self.built.model.encode_image
        if self.cache is not None:
            with torch.no_grad(), self._autocast():
                return torch.cat([self.cache(image, encode) for image in images])
        batch = torch.stack(images).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            return encode(batch).float()

    def words(self, prompts: Sequence[str]) -> Tensor | None:
        """(n, 256) tokens of prompts, or None for a model that takes no text."""
        if not self.built.model.takes_text:
            return None
        return self.built.model.encode_text(prompts)

    def validation_draws(self, key: Key) -> np.random.Generator | None:
        """What draws the geometry of a validation image: always the same; None: it gets none."""
        if not self.geometry.in_validation:
            return None
        return np.random.default_rng((self.seed, *key, 0x7A1))

    def decode(
        self,
        item: TrainItem,
        embedding: Tensor,
        tokens: Tensor | None,
        rng: np.random.Generator | None,
    ) -> Answers:
        """Decode one item's prompts in all passes, some of them with simulated geometry.

        In each further pass a prompt has its word, if it has one, and what the mask before gives,
        without a gradient. A prompt whose mask is empty keeps its answer: nothing is made up.

        Args:
            item: with n prompts.
            embedding: (1, 256, h, h) of its image.
            tokens: (n, 256) of its prompts; None for a model that takes no text.
            rng: draws geometry; None simulates none.
        """
        posed = self._posed(item, embedding, tokens, rng)
        passes = [self.asking.ask(embedding, posed.tokens, posed.given, posed.worded)]
        draws = rng if rng is not None else np.random.default_rng((self.seed, 0x5E1F))
        for _ in range(1, self.self_prompt.passes):
            passes.append(self._again(item, embedding, posed.tokens, passes[-1], draws))
        native = None if item.native_targets is None else item.native_targets[posed.order]
        targets = self._valid(item.targets[posed.order], item) if native is None else native
        return Answers(
            logits=[self._fitted(logits, item, native) for logits, _ in passes],
            iou=[iou for _, iou in passes],
            targets=targets.to(self.device),
            order=posed.order,
        )

    def _posed(
        self,
        item: TrainItem,
        embedding: Tensor,
        tokens: Tensor | None,
        rng: np.random.Generator | None,
    ) -> Posed:
        """What the first pass over an item is asked; arguments as of `decode`."""
        present = item.targets.flatten(1).bool().any(1)
        count = len(present)
        if rng is None or rng.random() >= self.geometry.probability or not bool(present.any()):
            return Posed(list(range(count)), tokens, [None] * count)
        # Present prompts first, so that they are one group.
        order = [*torch.nonzero(present)[:, 0].tolist(), *torch.nonzero(~present)[:, 0].tolist()]
        tokens = None if tokens is None else tokens[order]
        given, worded = self._geometry(
            item, embedding, tokens, item.targets[order], int(present.sum()), rng
        )
        return Posed(order, tokens, [*given, *[None] * (count - len(given))], worded)

    def _geometry(
        self,
        item: TrainItem,
        embedding: Tensor,
        tokens: Tensor | None,
        targets: Tensor,
        present: int,
        rng: np.random.Generator,
    ) -> tuple[Sequence[Given | None], bool]:
        """Simulated geometry for the `present` first prompts, and whether their words are said.

        Nothing is drawn for what the settings leave no choice of, so that a run with the default
        settings draws what it always has.
        """
        policy = self.geometry
        kind = weighted_choice(policy.kinds, rng)
        worded = policy.text_p >= 1 or rng.random() < policy.text_p
        earlier = kind.has_mask or (policy.earlier_p > 0 and rng.random() < policy.earlier_p)
        # Without padding: a box is as little moved out of the image as a user's can be.
        inside = self._valid(targets[:present], item)
        truths = [target.numpy().astype(bool) for target in inside]
        if not earlier:
            return [given_by_truth(truth, kind, policy, rng) for truth in truths], worded
        own = None if tokens is None else tokens[:present]
        with torch.no_grad():
            if own is not None:
                before = self.asking.ask(embedding, own, [None] * present)[0]
            else:
                boxes = [given_by_truth(truth, RefineWith.BOX, policy, rng) for truth in truths]
                before = self.asking.ask(embedding, None, boxes)[0]
        return self._from_output(before, item, kind, rng), worded

    def _again(
        self,
        item: TrainItem,
        embedding: Tensor,
        tokens: Tensor | None,
        before: tuple[Tensor, Tensor],
        rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        """One more pass, prompted by the one before."""
        given = self._from_output(before[0], item, self.self_prompt.gives, rng)
        due = [i for i, own in enumerate(given) if own is not None]
        if not due:
            return before
        words = None if tokens is None else tokens[due]
        now = self.asking.ask(embedding, words, [given[i] for i in due])
        picks = list(range(len(given)))
        for row, index in enumerate(due):
            picks[index] = len(given) + row
        return torch.cat([before[0], now[0]])[picks], torch.cat([before[1], now[1]])[picks]

    def _from_output(
        self, logits: Tensor, item: TrainItem, kind: RefineWith, rng: np.random.Generator
    ) -> list[Given | None]:
        """What masks give the next pass, as at inference; None for an empty one."""
        own = logits.detach()
        masks = (self._valid(self._enlarged(own, item), item)[:, 0] > 0).cpu().numpy()
        found = [points_and_box(mask, kind, rng) for mask in masks]
        return [
            None if one is None else Given(*one, mask=own[i].float() if kind.has_mask else None)
            for i, one in enumerate(found)
        ]

    @staticmethod
    def _enlarged(logits: Tensor, item: TrainItem) -> Tensor:
        side = item.targets.shape[-1]
        if logits.shape[-1] == side:
            return logits
        return F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)

    @staticmethod
    def _valid(square: Tensor, item: TrainItem) -> Tensor:
        height, width = item.size_px
        return square[..., :height, :width]

    def _fitted(self, logits: Tensor, item: TrainItem, native: Tensor | None) -> Tensor:
        """Logits where they are compared with the targets."""
        logits = self._valid(self._enlarged(logits, item), item)
        if native is None:
            return logits
        return F.interpolate(logits, native.shape[-2:], mode="bilinear", align_corners=False)

    def losses(self, keys: Sequence[Key], items: Sequence[TrainItem]) -> list[LossParts]:
        """The losses of a batch, one entry per image.

        Args:
            keys: of the items; they seed the simulated geometry.
            items: as many.
        """
        embeddings = self.embed(items)
        prompts = [prompt for item in items for prompt in item.prompts]
        distinct = sorted(set(prompts))
        with self._text_noise(keys[0]):
            tokens = self.words(distinct)
        row = {prompt: index for index, prompt in enumerate(distinct)}
        own: Sequence[Tensor | None] = [None] * len(items)
        if tokens is not None:
            rows = tokens[[row[prompt] for prompt in prompts]]
            own = torch.split(rows, [len(item.prompts) for item in items])
        # Split, not sliced: each slice's gradient would be as large as all embeddings together.
        asked = [
            (item, embedding, words, np.random.default_rng((self.seed, *key, 0x6E0)))
            for key, item, embedding, words in zip(
                keys, items, torch.split(embeddings, 1), own, strict=True
            )
        ]
        alike = all(item.native_targets is None for item in items)
        plain = self.self_prompt.passes == 1 and not self.self_prompt.weights
        if len(items) > 1 and alike and plain:
            return self._together(asked)
        results = []
        for one in asked:
            with self._autocast():
                answers = self.decode(*one)
            results.append(self._loss(answers))
        return results

    def _together(
        self, asked: Sequence[tuple[TrainItem, Tensor, Tensor | None, np.random.Generator]]
    ) -> list[LossParts]:
        """The losses of several items whose prompts are decoded at once.

        As `decode` and `_loss` one by one, to rounding. The fewer and larger the kernels, the less
        a GPU waits for the next.

        Args:
            asked: the arguments of `decode` of each item.
        """
        groups: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
        rows: dict[int, list[tuple[int, int]]] = {}
        targets = []
        with self._autocast():
            for number, (item, embedding, tokens, rng) in enumerate(asked):
                posed = self._posed(item, embedding, tokens, rng)
                targets.append(item.targets[posed.order])
                for members, sparse, dense in self.asking.groups(
                    posed.tokens, posed.given, posed.worded
                ):
                    length, own = sparse.shape[1], (len(members), -1, -1, -1)
                    prompt = (embedding.expand(own), sparse, dense.expand(own))
                    groups.setdefault(length, []).append(prompt)
                    rows.setdefault(length, []).extend((number, place) for place in members)
            logits, iou = [], []
            for group in groups.values():
                answer = self.asking.model.decode(*map(torch.cat, zip(*group, strict=True)))
                logits.append(answer[0])
                iou.append(answer[1])
        places = [place for group in rows.values() for place in group]
        back = sorted(range(len(places)), key=places.__getitem__)
        square = self._enlarged(torch.cat(logits)[back], asked[0][0])
        return batch_losses(
            square.float(),
            torch.cat(iou)[back].float(),
            torch.cat(targets).to(self.device),
            sizes_px=[item.size_px for item, *_ in asked],
            counts=[len(own) for own in targets],
            empty_weight=self.empty_weight,
        )

    def _loss(self, answers: Answers) -> LossParts:
        passes = [
            mask_losses(
                logits.float(), iou.float(), answers.targets, empty_weight=self.empty_weight
            )
            for logits, iou in zip(answers.logits, answers.iou, strict=True)
        ]
        parts = mixed(passes, self.self_prompt.weights)
        wanted = self.self_prompt.distillation
        if wanted.weight:
            teacher = answers.logits[-1].float()
            pulls = [
                distillation_loss(logits.float(), teacher, wanted.temperature)
                for logits in answers.logits[:-1]
            ]
            parts.distillation = torch.stack(pulls).mean()
            parts.distillation_weight = wanted.weight
        return parts
