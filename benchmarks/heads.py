"""What small heads on the frozen decoder's tokens could tell, that the predicted IoU does not.

    python benchmarks/heads.py configs/generalist.yaml weights/generalist --data data \\
        -o benchmarks/results/generalist/heads.md

Two questions. *Presence*: is what the word means in the image? *A second look*: the parts of the
word's probability map become boxes, which are asked again with the word; which of the answers is
best? Heads learn from the training images of a configuration, augmented as it says, and are asked
on its validation images, whole and cut beside what they show. The network stays as it is: what is
compared is what its tokens hold, at the adapter's own side, without threshold and kinds of image.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata
from torch import Tensor, nn

from textsam.adapters import read_adapter_config
from textsam.api import load_model
from textsam.config import TrainConfig, read_config
from textsam.data.ask import PromptSampler
from textsam.data.augment import Augment, by_kind
from textsam.data.augment_config import AugmentConfig
from textsam.data.dataset import TrainDataset, TrainItem, epoch_order
from textsam.data.sources import samples_of
from textsam.evaluate.tables import markdown
from textsam.frame import box_and_centroid
from textsam.inference.refine import Geometry, decode_passes
from textsam.inference.segmenter import Segmenter
from textsam.io.atomic import save_text
from textsam.metrics import dice
from textsam.progress import with_bar

CUTS = (0.05, 0.2, 0.5)
PARTS = 3
HIDDEN = 64
SEEDS = (0, 1, 2)
EPOCHS = 40
FOUND = (0.95, 0.98)
_TOKENS_SMALLER = 5.0
BESIDE, KNOWN, OTHER = "cut beside it", "annotated as absent", "other kind of image"


@dataclass
class Look:
    """One answer: the decoder's IoU and mask tokens (512,), plain facts (7,), and its Dice.

    The facts are predicted IoU, logarithm of the area, mean probability inside, the highest of the
    map, and by how much the first three differ from those of the plain answer.
    """

    tokens: NDArray[np.float32]
    facts: NDArray[np.float32]
    dice: float

    @property
    def iou(self) -> float:
        """As the decoder predicts it."""
        return float(self.facts[0])


@dataclass
class Asked:
    """One word of one image.

    Attributes:
        group: set and concept.
        absent: why it is not there; "" where it is.
        word: (256,) its token.
        looks: the plain answer first; where the word means something absent only that.
    """

    group: tuple[str, str]
    absent: str
    word: NDArray[np.float32]
    looks: list[Look]


class Decoder:
    """Ask a segmenter's network, and keep the tokens its heads read."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.model = segmenter.built.model
        self.encodings = segmenter._sides.encodings
        fast: Any = self.model.fast_decoder
        self._kept: dict[str, Tensor] = {}
        for name, module in (("iou", fast.iou), ("mask", fast.filters)):
            module.register_forward_pre_hook(
                lambda _module, inputs, name=name: self._kept.update({name: inputs[0].flatten()})
            )

    @torch.inference_mode()
    def ask(self, item: TrainItem, place: int, prepared: Any, embedding: Tensor) -> Asked:
        """The answers to one prompt of an item."""
        height, width = item.size_px
        truth = item.targets[place, :height, :width].numpy().astype(bool)
        word = self.encodings.token(item.prompts[place])

        def look(box: NDArray[np.float64] | None, plain: Look | None) -> tuple[Look, Any]:
            none = (np.zeros((0, 2)), np.zeros(0, dtype=np.int64))
            manual = None if box is None else Geometry(*none, box=box)
            done = decode_passes(
                self.model, embedding, [word], prepared.frame, refine=[0], manual=[manual]
            )[-1]
            tokens = torch.cat([self._kept["iou"], self._kept["mask"]]).float().numpy()
            logits = prepared.frame.logits_to_image(done.logits[0][None].float())[0, 0]
            chance, mask = logits.sigmoid().numpy(), done.masks[0]
            iou, area = float(done.iou[0, 0]), float(np.log(mask.mean() + 1e-4))
            inside = float(chance[mask].mean()) if mask.any() else 0.0
            own = (iou, area, inside, float(chance.max()))
            base = own[:3] if plain is None else plain.facts[:3]
            facts = (*own, *(a - b for a, b in zip(own, base, strict=False)))
            score = dice(mask, truth) if truth.any() else 0.0
            return Look(tokens, np.array(facts, dtype=np.float32), score), chance

        plain, chance = look(None, None)
        absent = "" if truth.any() else why_absent(item, place)
        looks = [plain]
        if not absent:
            looks += [look(box, plain)[0] for box in boxes_of(chance)]
        group = (item.dataset, item.concepts[place])
        return Asked(group, absent, word.float().numpy().ravel(), looks)


def why_absent(item: TrainItem, place: int) -> str:
    """Where it is known from that a concept is not there."""
    concept, sample = item.concepts[place], item.sample
    if concept in sample.absent:
        return KNOWN
    return BESIDE if any(target.concept == concept for target in sample.targets) else OTHER


def boxes_of(chance: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
    """Boxes of the likeliest parts of a probability map (H, W), cut at several heights."""
    seen = set()
    for cut in CUTS:
        labels, count = ndimage.label(chance > cut)
        numbers = range(1, count + 1)
        weights = np.asarray(ndimage.sum_labels(chance, labels, numbers))
        for place in np.argsort(-weights)[:PARTS]:
            part = labels == place + 1
            found = box_and_centroid(part)
            if found is None or part.sum() < 9:
                continue
            key = tuple(np.round(found[0] / 4).astype(int))
            if key not in seen:
                seen.add(key)
                yield found[0]


def collect(
    decoder: Decoder, dataset: TrainDataset, what: str, length: int | None = None
) -> list[Asked]:
    """Ask everything that the items of an epoch ask, of this length or of one item per image."""
    rows = []
    order = epoch_order(dataset.samples, 0, seed=dataset.seed, length=length)
    for key in with_bar(order, what, shown=True):
        item = dataset[key]
        height, width = item.size_px
        pixels = np.ascontiguousarray(item.image[:, :height, :width].permute(1, 2, 0).numpy())
        prepared = decoder.segmenter.prepare(pixels)
        with torch.inference_mode():
            embedding = decoder.encodings.embed([prepared])[0]
        rows += [decoder.ask(item, i, prepared, embedding) for i in range(len(item.prompts))]
    return rows


def head(width: int, hidden: int) -> nn.Module:
    """A linear layer, or one hidden layer with GELU and dropout."""
    if not hidden:
        return nn.Linear(width, 1)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.3), nn.Linear(hidden, 1))


class Inputs:
    """What a head reads, normalised by the training rows.

    Args:
        rows: of training.
        tokens: whether the decoder's and the word's tokens are read, beside the plain facts.
    """

    def __init__(self, rows: Sequence[Asked], tokens: bool) -> None:
        self.tokens = tokens
        every = np.concatenate([self._raw(row) for row in rows])
        self.mean, self.deviation = every.mean(0), every.std(0) + 1e-3
        # Hundreds of numbers of equal weight would drown the few facts, and be learnt by heart.
        self.deviation[len(rows[0].looks[0].facts) :] *= _TOKENS_SMALLER

    def _raw(self, row: Asked) -> NDArray[np.float32]:
        facts = np.stack([look.facts for look in row.looks])
        if not self.tokens:
            return facts
        words = np.repeat(row.word[None], len(row.looks), 0)
        return np.concatenate([facts, np.stack([look.tokens for look in row.looks]), words], 1)

    def __call__(self, row: Asked) -> Tensor:
        """(looks, width) of one row."""
        return torch.from_numpy((self._raw(row) - self.mean) / self.deviation).float()


def learnt(
    rows: Sequence[Asked], asked: Sequence[Asked], *, tokens: bool, hidden: int, ranks: bool
) -> list[NDArray[np.float64]]:
    """What a head says of each look of `asked`, the mean of several seeds.

    Args:
        rows: of training.
        asked: of validation.
        tokens, hidden: of `Inputs` and `head`.
        ranks: learn the Dice of every look of what is there; else whether the thing is there.
    """
    rows = [row for row in rows if not row.absent] if ranks else list(rows)
    inputs = Inputs(rows, tokens)
    given = [inputs(row) if ranks else inputs(row)[:1] for row in rows]
    wanted = [
        torch.tensor([look.dice for look in row.looks] if ranks else [float(not row.absent)])
        for row in rows
    ]
    said = [np.zeros(len(row.looks)) for row in asked]
    for seed in SEEDS:
        torch.manual_seed(seed)
        net = head(given[0].shape[1], hidden)
        optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.1)
        for _ in range(EPOCHS):
            for places in torch.split(torch.randperm(len(given)), 32):
                logits = net(torch.cat([given[i] for i in places]))[:, 0]
                truth = torch.cat([wanted[i] for i in places]).float()
                loss = nn.functional.binary_cross_entropy_with_logits(logits, truth)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        net.eval()
        with torch.inference_mode():
            for place, row in enumerate(asked):
                said[place] += net(inputs(row))[:, 0].sigmoid().double().numpy() / len(SEEDS)
    return said


def answered(there: Sequence[float], absent: Sequence[float], found: float) -> float:
    """Share of absent things above the threshold at which this share of what is there is found."""
    return float((np.asarray(absent) >= np.quantile(there, 1 - found)).mean())


def ranking_area(there: Sequence[float], absent: Sequence[float]) -> float:
    """The chance that something there is scored above something absent, ties half (ROC AUC)."""
    order = rankdata([*there, *absent])
    n = len(there)
    return float((order[:n].sum() - n * (n + 1) / 2) / (n * len(absent)))


HEADS = (
    ("linear, plain facts", False, 0),
    ("linear, facts and tokens", True, 0),
    (f"{HIDDEN} hidden, plain facts", False, HIDDEN),
    (f"{HIDDEN} hidden, facts and tokens", True, HIDDEN),
)


def presence_table(train: Sequence[Asked], val: Sequence[Asked]) -> str:
    """A row per way to score, a column per kind of absence: "98.1 (7.4, 16.8)".

    That is the area under the ROC curve, and the shares answered at `FOUND`.
    """
    ways: dict[str, list[float]] = {
        "predicted IoU, as shipped": [row.looks[0].iou for row in val],
        "highest probability": [float(row.looks[0].facts[3]) for row in val],
    }
    for name, tokens, hidden in HEADS:
        said = learnt(train, val, tokens=tokens, hidden=hidden, ranks=False)
        ways[name] = [float(one[0]) for one in said]
    kinds = [kind for kind in (BESIDE, KNOWN, OTHER) if any(row.absent == kind for row in val)]
    rows = []
    for name, scores in ways.items():
        of: dict[str, list[float]] = defaultdict(list)
        for row, score in zip(val, scores, strict=True):
            of[row.absent].append(score)
        cells = [name]
        for kind in kinds:
            shares = ", ".join(f"{100 * answered(of[''], of[kind], found):.1f}" for found in FOUND)
            cells.append(f"{100 * ranking_area(of[''], of[kind]):.1f} ({shares})")
        rows.append(cells)
    counts = {kind: sum(row.absent == kind for row in val) for kind in kinds}
    there = sum(not row.absent for row in val)
    names = [f"{kind} ({counts[kind]})" for kind in kinds]
    return markdown([f"score of {there} that are there, against", *names], rows, left=1)


def second_look_table(train: Sequence[Asked], val: Sequence[Asked]) -> str:
    """A row per set and concept, a column per way to choose among the looks: mean Dice."""
    asked = [row for row in val if not row.absent]
    ways: dict[str, list[NDArray[np.float64]]] = {
        "the word alone": [np.eye(1, len(row.looks))[0] for row in asked],
        "predicted IoU": [np.array([look.iou for look in row.looks]) for row in asked],
        "its product with the mean probability": [
            np.array([look.iou * look.facts[2] for look in row.looks]) for row in asked
        ],
    }
    for name, tokens, hidden in HEADS:
        ways[name] = learnt(train, asked, tokens=tokens, hidden=hidden, ranks=True)
    ways["the truth"] = [np.array([look.dice for look in row.looks]) for row in asked]
    cells = []
    for group in sorted({row.group for row in asked}):
        own = [number for number, row in enumerate(asked) if row.group == group]
        means = [
            np.mean([asked[n].looks[int(np.argmax(scores[n]))].dice for n in own])
            for scores in ways.values()
        ]
        cells.append([*group, len(own), *(f"{100 * mean:.1f}" for mean in means)])
    return markdown(["set", "concept", "n", *ways], cells, left=2)


def datasets(config: TrainConfig, prompts: Sequence[str], side_px: int) -> list[TrainDataset]:
    """Training images as augmented, and validation images whole and cut beside what they show."""
    off = {name: 0.0 for name in AugmentConfig.model_fields if name.endswith("_p")}
    crops = Augment(AugmentConfig.model_validate({**off, "absent_crop_p": 1.0}))
    everything = config.prompts.model_copy(
        update={"max_positives": 9, "negatives": 9, "synonym_p": 0.0, "distractor_p": 0.0}
    )
    plain = PromptSampler(prompts, everything)
    train = samples_of(config.data, "train")
    val = samples_of(config.data, "val")
    shown = [sample for sample in val if sample.targets]
    return [
        TrainDataset(
            train,
            size_px=side_px,
            prompts=PromptSampler(prompts, config.prompts),
            augment=Augment(config.augment),
            augment_for=by_kind(config.augment),
            seed=config.seed,
        ),
        TrainDataset(val, size_px=side_px, prompts=plain, seed=config.seed),
        TrainDataset(shown, size_px=side_px, prompts=plain, augment=crops, seed=config.seed),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect answers, teach the heads and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path, help="whose images are asked")
    parser.add_argument("adapter", type=Path, help="its folder")
    parser.add_argument("--data", default="data", help="folder with manifest.json and splits.json")
    parser.add_argument("--images", type=int, help="of training; default: an epoch by the weights")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own choice")
    parser.add_argument("-o", "--out", type=Path, required=True, help="Markdown to write")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    config = read_config(options.config, [f"data.root={options.data}"])
    record = read_adapter_config(options.adapter)
    segmenter = load_model(record.preset, options.adapter, device="cpu", precision="bfloat16")
    decoder = Decoder(segmenter)
    own = segmenter.own_side_px
    training, whole, beside = datasets(config, segmenter.prompts, own)
    length = options.images or round(sum(sample.weight for sample in training.samples))
    train = collect(decoder, training, "training images", length)
    # Cut beside what they show, images are asked only what the cut took away.
    crops = [row for row in collect(decoder, beside, "cut") if row.absent == BESIDE]
    val = [*collect(decoder, whole, "validation images"), *crops]
    images = f" --images {options.images}" if options.images else ""
    made = (
        f"`python benchmarks/heads.py {options.config.as_posix()} {options.adapter.as_posix()} "
        f"--data data{images}`, {os.cpu_count()} CPU cores, {platform.machine()}, "
        f"{datetime.now(UTC).date()}, seeds {', '.join(map(str, SEEDS))}. Heads learnt from "
        f"{len(train)} questions about {length} augmented images."
    )
    found = " and ".join(f"{100 * share:g}" for share in FOUND)
    presence = (
        "Presence: area under the ROC curve in percent, and in brackets how many in 100 that are "
        f"absent get a mask where {found} in 100 that are there do."
    )
    second = "A second look: mean Dice in percent of the look that each way prefers."
    parts = (made, presence, presence_table(train, val), second, second_look_table(train, val))
    save_text(options.out, "\n\n".join(parts) + "\n")
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
