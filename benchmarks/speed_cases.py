"""The cases of the speed benchmark: which contender does what, in turns, as long as time allows."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from speed_process import HERE, Worker, available_mib, code_digest, environment, machine
from speed_report import read, rows_of, write

__all__ = ["Benchmark", "agreement"]


class Benchmark:
    """One command: what is asked for, what is there already, and the time left.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.device: str = arguments.device
        self.repeats: int = 1 if arguments.quick else arguments.repeats
        self.deadline = time.monotonic() + 60 * arguments.minutes
        self.unfinished: list[str] = []
        self.record = read(arguments.out)
        if arguments.fresh:
            self.record = {"header": {}, "rows": [], "samples": {}}
        self._check_machine()
        self.code = code_digest()

    def _check_machine(self) -> None:
        here, header = machine(), self.record["header"]
        here["device"] = self.device
        if self.device.startswith("cuda"):
            import torch

            here["gpu"] = torch.cuda.get_device_name(self.device)
        asked = self.arguments.threads or os.environ.get("OMP_NUM_THREADS")
        here["threads"] = str(asked or "as torch chooses")
        differ = [key for key, value in here.items() if header.get(key, value) != value]
        if differ:
            raise SystemExit(
                f"{self.arguments.out} was measured with another {', '.join(differ)}; give another "
                "--out, or --fresh to begin anew"
            )
        command = " ".join(["python benchmarks/speed.py", *sys.argv[1:]])
        commands = [item for item in header.get("commands", []) if item != command]
        self.record["header"] = {
            **here,
            "date": datetime.now(UTC).date().isoformat(),
            "seeds": "images by number; weights of vit_b by tensor name",
            "load_at_start": [*header.get("load_at_start", []), round(os.getloadavg()[0], 2)],
            "commands": [*commands, command],
        }

    def group(self, name: str) -> dict[str, Any]:
        """The samples of a group, emptied when they were taken of other code."""
        groups = self.record["samples"]
        codes = self.record.setdefault("code", {})
        if name in groups and codes.get(name) != self.code:
            print(f"{name}: the code has changed, measuring anew")
            del groups[name]
        codes[name] = self.code
        samples: dict[str, Any] = groups.setdefault(name, {})
        return samples

    def save(self) -> None:
        """Write what there is; a group without samples is no row."""
        groups = self.record["samples"]
        full = {name: group for name, group in groups.items() if any(group.values())}
        self.record["rows"] = rows_of(full)
        write(self.arguments.out, self.record)

    def time_for(self, seconds: float, what: str) -> bool:
        """Is there time for work of this length? If not, it is noted as left to do."""
        if time.monotonic() + seconds < self.deadline:
            return True
        if what not in self.unfinished:
            self.unfinished.append(what)
        return False

    def worker(self, contender: str, preset: str, precision: str = "float32") -> Worker:
        """Start a contender."""
        options = ["--preset", preset, "--precision", precision, "--device", self.device]
        options += ["--work", str(self.work)]
        if self.arguments.threads:
            options += ["--threads", str(self.arguments.threads)]
        started = Worker(contender, options)
        self.record["header"]["torch_threads"] = started.hello["threads"]
        return started

    def _rounds(self, group: dict[str, Any], names: Sequence[str], what: str) -> Iterator[int]:
        """Numbers of the rounds still to run, as long as the slowest so far would fit."""
        done = min(len(group.get(name, {}).get("seconds", [])) for name in names)
        longest = 0.0
        for number in range(done, self.repeats):
            if not self.time_for(longest, what):
                return
            began = time.monotonic()
            yield number
            longest = max(longest, 1.1 * (time.monotonic() - began))
            self.save()

    def masks(self, preset: str) -> None:
        """Case a."""
        group = self.group(f"a {preset}")
        contenders = {
            "authors": ("authors", "float32"),
            "ours float32": ("ours", "float32"),
            "ours bfloat16": ("ours", "bfloat16"),
        }
        if preset == "lite":
            contenders["plain"] = ("plain", "float32")
        names = list(contenders)
        if not self._needed(group, names) or not self.time_for(30, f"a {preset}"):
            return
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(self.worker(kind, preset, precision))
                for name, (kind, precision) in contenders.items()
            }
            for worker in workers.values():
                worker.ask(seed=0, warm=True)
            for number in self._rounds(group, names, f"a {preset}"):
                answers = {}
                for name in names if number % 2 == 0 else reversed(names):
                    answers[name] = workers[name].ask(seed=1 + number)
                    keep(group, name, answers[name])
                note_agreement(group, answers)

    def _needed(self, group: dict[str, Any], names: Sequence[str]) -> bool:
        return any(len(group.get(n, {}).get("seconds", [])) < self.repeats for n in names)

    def prompts(self, preset: str) -> None:
        """Case b."""
        group = self.group(f"b {preset}")
        for precision in ("float32", "bfloat16"):
            for refine in (0, 2):
                base = f"ours {precision} refine{refine}"
                known = group.get(f"{base} known", {})
                if len(known.get("first", [])) >= self.repeats:
                    continue
                if not self.time_for(60 if preset != "lite" else 15, f"b {preset}"):
                    return
                with self.worker("ours", preset, precision) as worker:
                    worker.ask(seed=0)
                    for number in range(1 + self.repeats):
                        # The first time round the words themselves are new to the process.
                        answer = worker.ask(seed=1 + number, refine=refine, words=True)
                        kind = "known" if number else "new"
                        samples = group.setdefault(f"{base} {kind}", {"first": []})
                        samples["first"].append(answer["seconds"])
                        for seconds in answer["further"]:
                            keep(group, f"{base} {kind}", {**answer, "seconds": seconds})
                self.save()

    def training(self, preset: str) -> None:
        """Case c."""
        group = self.group(f"c {preset}")
        contenders = {
            "authors": ("authors-training", "float32"),
            "ours float32": ("ours-training", "float32"),
            "ours bfloat16": ("ours-training", "bfloat16"),
        }
        names = list(contenders)
        if not self._needed(group, names) or not self.time_for(30, f"c {preset}"):
            return
        available = available_mib()
        wanted = 14_000 if preset != "lite" and self.device == "cpu" else 3_000
        if available is not None and available < wanted:
            raise SystemExit(
                f"case c of {preset} takes up to {wanted} MiB, {available} MiB are available; "
                "end other programs first"
            )
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(self.worker(kind, preset, precision))
                for name, (kind, precision) in contenders.items()
            }
            for worker in workers.values():
                worker.ask(seed=0)
            for number in self._rounds(group, names, f"c {preset}"):
                for name in names if number % 2 == 0 else reversed(names):
                    answer = workers[name].ask(seed=0)
                    keep(group, name, answer)
                    group[name].setdefault("loss", []).append(round(answer["loss"], 5))

    def cold(self, preset: str) -> None:
        """Case d."""
        group = self.group(f"d {preset}")
        name = "ours auto"
        if not self._needed(group, [name]):
            return
        command = [sys.executable, str(HERE / "speed_cold.py"), *self._cold_options(preset)]
        subprocess.run(
            [*command, "--started", "0"], check=True, capture_output=True, env=environment()
        )
        for _ in self._rounds(group, [name], f"d {preset}"):
            started = time.monotonic()
            done = subprocess.run(
                [*command, "--started", repr(started)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
            stages = json.loads(done.stdout.splitlines()[-1])
            stages.pop("found")
            keep(group, name, {"seconds": stages["total"] - stages["encoder"]})
            kept = group[name].setdefault("stages", {})
            for stage, seconds in stages.items():
                kept.setdefault(stage, []).append(round(seconds, 4))

    def _cold_options(self, preset: str) -> list[str]:
        from PIL import Image
        from speed_models import WANTED, picture, stage

        staged = stage(preset, self.work)
        image = self.work / "cold.png"
        Image.fromarray(picture(1)[0]).save(image)
        options = ["--preset", preset, "--adapter", str(staged.adapter), "--device", self.device]
        options += ["--image", str(image), "--word", WANTED[preset]]
        if staged.sam is not None:
            options += ["--sam", str(staged.sam), "--text", str(staged.text)]
        return options

    def folder(self, preset: str) -> None:
        """Case e."""
        counts = (20, 50) if self.arguments.quick else self.arguments.images
        for count in counts:
            group = self.group(f"e {preset} {count:04d}")
            name = "ours bfloat16"
            if group.get(name):
                continue
            if not self.time_for(20, f"e {preset} {count}"):
                return
            with self.worker("ours-folder", preset, "bfloat16") as worker:
                worker.ask(count=2, minutes=5)
                minutes = (self.deadline - time.monotonic()) / 60
                answer = worker.ask(count=count, minutes=minutes)
            keep(group, name, {**answer, "seconds": answer["seconds"] / answer["done"]})
            for key in ("done", "failed", "memory_mib"):
                group[name].setdefault(key, []).append(answer[key])
            self.save()

    def gpu(self, preset: str) -> None:
        """Case g."""
        if not self.device.startswith("cuda"):
            print("case g needs --device cuda: left out")
            return
        group = self.group(f"g {preset}")
        if group or not self.time_for(60, f"g {preset}"):
            return
        command = [sys.executable, str(HERE / "speed_gpu.py"), "--preset", preset]
        command += ["--device", self.device, "--work", str(self.work)]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment()
        )
        for line in done.stdout.splitlines():
            answer = json.loads(line)
            name = f"batch {answer['batch']}"
            for key, value in answer.items():
                values = value if isinstance(value, list) else [value]
                group.setdefault(name, {}).setdefault(key, []).extend(values)
        self.save()


def keep(group: dict[str, Any], name: str, answer: dict[str, Any]) -> None:
    """Add one sample to a contender's."""
    samples = group.setdefault(name, {})
    for key in ("seconds", "peak_mib", "loaded_mib"):
        if answer.get(key) is not None:
            samples.setdefault(key, []).append(round(answer[key], 4))


def note_agreement(group: dict[str, Any], answers: dict[str, dict[str, Any]]) -> None:
    """Compare the masks of one round, and keep the worst."""
    logits = {name: np.load(answer["answer"]) for name, answer in answers.items()}
    for answer in answers.values():
        Path(answer["answer"]).unlink()
    for one, other in (
        ("ours float32", "authors"),
        ("ours bfloat16", "authors"),
        ("ours float32", "plain"),
        ("ours bfloat16", "plain"),
        ("ours bfloat16", "ours float32"),
    ):
        if other not in logits:
            continue
        now = agreement(logits[one], logits[other])
        kept = group[one].setdefault(f"agreement with {other}", now)
        kept["iou"] = min(kept["iou"], now["iou"])
        for key in ("max_logit_difference", "mean_logit_difference"):
            kept[key] = max(kept[key], now[key])


def agreement(ours: Any, theirs: Any) -> dict[str, float]:
    """IoU of the masks at logit 0, logit differences, and how much of the image the mask is.

    Logits beyond 9 are left out of the differences: ours are taken from probabilities, which
    float32 no longer resolves there.
    """
    a, b = ours > 0, theirs > 0
    difference = np.abs(ours - theirs)[np.abs(theirs) < 9]
    return {
        "iou": float((a & b).sum() / max(1, (a | b).sum())),
        "max_logit_difference": float(difference.max()),
        "mean_logit_difference": float(difference.mean()),
        "logit_deviation": float(theirs.std()),
        "mask_share": float(b.mean()),
    }
