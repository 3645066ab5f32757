"""One contender of the speed benchmark in a process of its own, so that its memory is its own.

    python benchmarks/speed_worker.py CONTENDER --preset lite --device cpu --work FOLDER

Reads one JSON request a line from standard input and answers with one line each on standard output.
Not meant to be called by hand; `benchmarks/speed.py` does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from speed_clock import memory_mib, reset_peak, timed
from speed_models import (
    WANTED,
    WORDS,
    Staged,
    load_authors,
    load_ours,
    picture,
    stage,
    train_settings,
)

REFINE = 2


class Contender(ABC):
    """What can be asked to work; a request's other fields are arguments of `work`."""

    def __init__(self, staged: Staged, device: str, precision: str, work: Path) -> None:
        self.staged, self.device, self.precision, self.folder = staged, device, precision, work
        self.wanted = WANTED[staged.preset]
        self.load()

    @abstractmethod
    def load(self) -> None:
        """Load the model."""

    @abstractmethod
    def work(self, **request: Any) -> dict[str, Any]:
        """Do one piece; the answer holds its "seconds"."""


class Ours(Contender):
    """The library: image to mask, and further words on an image."""

    def load(self) -> None:
        """As a user does."""
        self.segmenter = load_ours(self.staged, self.precision, self.device)

    def work(
        self, *, seed: int, refine: int = REFINE, words: bool = False, **_: Any
    ) -> dict[str, Any]:
        """Segment the image of a seed; with `words`, ask for all other words after it."""
        pixels, _truth = picture(seed)

        def ask(word: str) -> Any:
            return self.segmenter.segment(pixels, word, refine=refine)

        seconds, answer = timed(self.device, lambda: ask(self.wanted))
        result: dict[str, Any] = {"seconds": seconds}
        if words:
            others = [word for word in WORDS if word != self.wanted]
            result["further"] = [timed(self.device, lambda w=w: ask(w))[0] for w in others]
        else:
            path = self.folder / f"answer-{os.getpid()}-{seed}.npy"
            np.save(path, _logits(answer.probability))
            result["answer"] = str(path)
        return result


def _logits(probability: Any) -> Any:
    p = np.clip(probability.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.log(p / (1 - p)).astype(np.float32)


class Authors(Contender):
    """The authors' procedure, or with `once` the same modules without its repetitions."""

    once = False

    def load(self) -> None:
        """Their model on the same files."""
        self.model = load_authors(self.staged, self.device)

    def work(self, *, seed: int, refine: int = REFINE, warm: bool = False, **_: Any) -> Any:
        """Segment the image of a seed; to warm up, one pass does: all three are alike."""
        pixels, _truth = picture(seed)
        passes = 0 if warm else refine
        seconds, logits = timed(
            self.device, lambda: self.model.segment(pixels, self.wanted, passes, once=self.once)
        )
        path = self.folder / f"answer-{os.getpid()}-{seed}.npy"
        np.save(path, logits)
        return {"seconds": seconds, "answer": str(path)}


class Plain(Authors):
    """The packages' own modules in float32, the image encoded once."""

    once = True


class AuthorsTraining(Contender):
    """The authors' training step: float32, text padded, everything in training mode."""

    def load(self) -> None:
        """Their model and AdamW over it."""
        from authors_procedure import training_loss

        self.model = load_authors(self.staged, self.device)
        self.model.train()
        for module in self.model.image_encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()  # `lite` is ours; its batch norms learn nothing from one image
        self.loss = training_loss
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def work(self, *, seed: int, **_: Any) -> dict[str, Any]:
        """Forward, loss, backward, optimiser."""
        pixels, truth = picture(seed)

        def step() -> float:
            loss = self.loss(self.model, pixels, "tumor", truth)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            return float(loss.detach())

        seconds, loss = timed(self.device, step)
        return {"seconds": seconds, "loss": loss}


class OursTraining(Contender):
    """The library's training step with the paper's recipe, `configs/eus.yaml`."""

    def load(self) -> None:
        """A run as `textsam train` sets it up."""
        from textsam.config import read_config
        from textsam.train.run import setup

        data = self.folder / "training"
        for number, part in enumerate(("train", "val")):
            for name, array in zip(("images", "masks"), picture(number), strict=True):
                (data / part / name).mkdir(parents=True, exist_ok=True)
                values = array.astype(np.uint8) * (255 if name == "masks" else 1)
                Image.fromarray(values).save(data / part / name / f"{number}.png")
        recipe = Path(__file__).resolve().parents[1] / "configs" / "eus.yaml"
        settings = train_settings(self.staged, data, self.precision, self.device)
        config = read_config(recipe, settings)
        self.run = setup(config, sam_checkpoint=self.staged.sam, text_encoder=self.staged.text)

    def work(self, **_: Any) -> dict[str, Any]:
        """Forward, loss, backward, optimiser; the image is read and resized before."""
        from textsam.train.run import _optimiser_step

        key = (0, 0, 0)
        batches = itertools.repeat([(key, self.run.train_set[key])])
        seconds, measured = timed(self.device, lambda: _optimiser_step(self.run, batches))
        self.run.state.step += 1
        return {"seconds": seconds, "loss": measured["loss"][0]}


class OursFolder(Contender):
    """A folder of images through the library's batches."""

    def load(self) -> None:
        """As a user does."""
        self.segmenter = load_ours(self.staged, self.precision, self.device)

    def work(self, *, count: int, minutes: float, batch_size: int | None = None, **_: Any) -> Any:
        """Segment `count` image files, or as many as the minutes allow, and watch the memory."""
        folder = self.folder / "folder"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:04d}.png" for number in range(count)]
        for number, path in enumerate(paths):
            if not path.is_file():
                Image.fromarray(picture(number, (192, 256))[0]).save(path)
        reset_peak(self.device)
        memory: list[float | None] = []
        done = failed = 0
        deadline = time.perf_counter() + 60 * minutes
        began = time.perf_counter()
        for answer in self.segmenter.segment_batch(
            paths, self.wanted, batch_size=batch_size, refine=REFINE
        ):
            done += 1
            failed += answer.error is not None
            if done % max(1, count // 20) == 0:
                memory.append(memory_mib(self.device)[0])
            if time.perf_counter() > deadline:
                break
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "done": done, "failed": failed, "memory_mib": memory}


CONTENDERS: dict[str, type[Contender]] = {
    "authors": Authors,
    "plain": Plain,
    "ours": Ours,
    "authors-training": AuthorsTraining,
    "ours-training": OursTraining,
    "ours-folder": OursFolder,
}


def serve(contender: Contender, device: str, answer: Any, requests: Any) -> None:
    """Answer requests until there are no more."""
    loaded, _ = memory_mib(device)
    reset_peak(device)
    hello = {"loaded_mib": loaded, "threads": torch.get_num_threads()}
    print(json.dumps(hello), file=answer, flush=True)
    for line in requests:
        result = contender.work(**json.loads(line))
        _, peak = memory_mib(device)
        result |= {"loaded_mib": loaded, "peak_mib": peak}
        print(json.dumps(result), file=answer, flush=True)


def main() -> None:
    """Load and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    # Libraries may print; the answers must not be among that.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    training = arguments.contender.endswith("training")
    staged = stage(arguments.preset, arguments.work, training=training)
    contender = CONTENDERS[arguments.contender](
        staged, arguments.device, arguments.precision, arguments.work
    )
    serve(contender, arguments.device, channel, sys.stdin)


if __name__ == "__main__":
    main()
