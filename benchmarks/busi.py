"""Tumours in breast ultrasound: the three published BUSI folds, by a word alone and by its rivals.

    python benchmarks/busi.py --data data --minutes 8

does what is left for eight minutes and exits with 75 while something is; give the command again
until it exits with 0. On a CPU and on a GPU. The arms are described in `busi_arms`, the scores in
`busi_score`; figures of finished folds are written to `--out` as they come, JSON and Markdown, and
the scores of all their images beside it, `NAME-cases.csv`. What `--out` had is replaced; with
`--keep` the arms and folds stay that `--work` has not done, such as those of another machine.

    python benchmarks/busi.py --data data --only text --folds 1 --epochs 2      # a quick look

`--data` is a folder with `manifest.json`, `splits.json` and `busi/`, see docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import busi_arms
from busi_arms import ARMS, CONCEPT, Job, fold_config
from busi_report import cases_path_of, read_report, write_report
from busi_score import Case, append_case, fold_figures, read_cases, score, write_cases
from busi_unet import UNetSettings

from textsam.allocator import keep_freed_memory
from textsam.data.sample import load_sample
from textsam.errors import TextSAMError
from textsam.io.atomic import atomic_path

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = REPOSITORY / "configs" / "busi.yaml"
DEFAULT_FURTHER = REPOSITORY / "configs" / "busi-further.yaml"
UNFINISHED = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is left until the time is up; 0 when nothing is left, 75 while something is."""
    options = parse(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        print("error: busi.py runs in one process; time slices would part the others")
        return 2
    deadline = time.monotonic() + 60 * options.minutes
    try:
        jobs = [make_job(options, arm, fold) for arm in options.only for fold in options.folds]
        finished = True
        for job in jobs:
            finished = work_on(job, deadline)
            report(options)
            if not finished:
                break
    except TextSAMError as error:
        print(f"error: {error}")
        return 2
    return 0 if finished else UNFINISHED


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="data", help="folder with manifest.json and splits.json")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    parser.add_argument("--further", type=Path, default=DEFAULT_FURTHER, help="--config of further")
    parser.add_argument("--folds", type=_numbers, default=[1, 2, 3], help="such as 1,2,3")
    parser.add_argument("--only", type=_arms, default=list(ARMS), help=f"of {','.join(ARMS)}")
    parser.add_argument("--epochs", type=float, help="of the adapters; default: the file's")
    parser.add_argument("--unet-epochs", type=float, default=UNetSettings.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], help="of --config: a.b=value")
    parser.add_argument("--minutes", type=float, default=1e6, help="then stop, to be gone on with")
    parser.add_argument("--slice", type=int, default=25, help="steps between looks at the clock")
    parser.add_argument("--work", type=Path, default=Path("runs/busi"), help="states and cases")
    default_out = REPOSITORY / "benchmarks" / "results" / "busi.json"
    parser.add_argument("--out", type=Path, default=default_out)
    parser.add_argument("--keep", action="store_true", help="what --out has besides")
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _arms(text: str) -> list[str]:
    arms = text.split(",")
    if unknown := sorted(set(arms) - set(ARMS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(ARMS)}")
    return [arm for arm in ARMS if arm in arms]


def make_job(options: argparse.Namespace, arm: str, fold: int) -> Job:
    """The job of an arm on a fold, as the command line wants it."""
    overrides = [] if arm == "further" else [*options.set]
    overrides += [f"data.root={options.data}", f"seed={options.seed}", f"device={options.device}"]
    if options.epochs is not None:
        overrides.append(f"epochs={options.epochs}")
    path = options.further if arm == "further" else options.config
    config = fold_config(path, fold, arm, options.work, overrides)
    unet = UNetSettings(epochs=options.unet_epochs)
    begins = make_job(options, "text", fold) if arm in ("further", "averaged") else None
    return Job(arm, fold, config, unet, options.slice, begins)


def work_on(job: Job, deadline: float) -> bool:
    """Go on with a job; whether it is done.

    Raises:
        TextSAMError: the folder's earlier work was done with other settings.
    """
    began = time.monotonic()
    facts = read_facts(job)
    if facts["state"] == "done":
        return True
    if job.begins is not None:
        lender = lender_of(job, job.begins)
        if job.arm == "averaged":
            facts.update(state="trained", refine=lender["refine"])
            write_facts(job, facts, began)
    if facts["state"] == "training":
        if busi_arms.train_arm(job, deadline):
            facts["state"] = "trained"
        write_facts(job, facts, began)
        if facts["state"] != "trained" or time.monotonic() > deadline:
            return False
        began = time.monotonic()
    done = evaluate(job, facts, deadline)
    if done:
        facts["state"] = "done"
        facts["machine"], facts["date"] = machine(job), datetime.now(UTC).date().isoformat()
    write_facts(job, facts, began)
    return done


def lender_of(job: Job, begins: Job) -> dict[str, Any]:
    """What is known of the job whose adapter another takes; raises `TextSAMError` if not done."""
    lender = read_facts(begins)
    if lender["state"] != "done":
        raise TextSAMError(
            f"{job.arm}, fold {job.fold}: the adapter of `{begins.arm}` is not done; add "
            f"{begins.arm} to --only"
        )
    return lender


def evaluate(job: Job, facts: dict[str, Any], deadline: float) -> bool:
    """Score test images until done or until the deadline; whether all are."""
    path = job.folder / "cases.csv"
    samples = job.test_samples()
    known = read_cases(path)
    left = [sample for sample in samples if sample.stem not in known]
    if not left:
        return True
    predict, facts["refine"] = busi_arms.predictor_of(job, facts["refine"])
    for sample in left:
        pixels, masks = load_sample(sample)
        began = time.perf_counter()
        probability, mask = predict(pixels, masks[CONCEPT])
        seconds = time.perf_counter() - began
        append_case(path, score(sample.stem, probability, mask, masks[CONCEPT], seconds))
        if time.monotonic() > deadline and sample is not left[-1]:
            print(f"{job.folder.name}: {len(read_cases(path))} of {len(samples)} test images")
            return False
    print(f"{job.folder.name}: all {len(samples)} test images", flush=True)
    return True


def read_facts(job: Job) -> dict[str, Any]:
    """What is known of a job; raises `TextSAMError` if it was begun with other settings."""
    path = job.folder / "job.json"
    if not path.exists():
        return {
            "fingerprint": job.fingerprint,
            "arm": job.arm,
            "fold": job.fold,
            "seed": job.config.seed,
            "epochs": {"box": None, "unet": job.unet.epochs}.get(job.arm, job.config.epochs),
            "refine": None,
            "state": "training",
            "minutes": 0.0,
            "machine": None,
            "date": None,
        }
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if facts["fingerprint"] != job.fingerprint:
        raise TextSAMError(
            f"{job.folder} was begun with other settings; use the same, another --work, or remove "
            "the folder"
        )
    return facts


def write_facts(job: Job, facts: dict[str, Any], began: float) -> None:
    """Keep the facts, with the minutes since `began` added."""
    facts["minutes"] = round(facts["minutes"] + (time.monotonic() - began) / 60, 3)
    with atomic_path(job.folder / "job.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def machine(job: Job) -> str:
    """What it ran on, in words."""
    import torch

    words = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    if job.config.device != "cpu" and torch.cuda.is_available():
        words += f", {torch.cuda.get_device_name()}"
    return words


def report(options: argparse.Namespace) -> None:
    """Write the figures of every finished job of these settings, asked for now or before."""
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    scored: dict[tuple[str, int], list[Case]] = {}
    for path in sorted(options.work.glob("*/job.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["state"] != "done":
            continue
        job = make_job(options, facts["arm"], facts["fold"])
        if facts["fingerprint"] != job.fingerprint:
            print(f"left out of the report: {path.parent}, done with other settings")
            continue
        cases = read_cases(path.parent / "cases.csv")
        ordered = [cases[sample.stem] for sample in job.test_samples()]
        scored[facts["arm"], facts["fold"]] = ordered
        kept = ("seed", "epochs", "refine", "minutes", "machine", "date")
        row = {"fold": facts["fold"], **fold_figures(ordered), **{n: facts[n] for n in kept}}
        results[facts["arm"]].append(row)
    if not any(results.values()):
        return
    if options.keep and options.out.exists():
        for arm, row, cases in read_report(options.out):
            if (arm, row["fold"]) not in scored:
                results[arm].append(row)
                scored[arm, row["fold"]] = cases
    for rows in results.values():
        rows.sort(key=lambda row: row["fold"])
    every = [row for rows in results.values() for row in rows]
    seeds = sorted({row["seed"] for row in every})
    facts = {
        "command": command(options, results),
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "date": max(row["date"] for row in every),
        "machine": "; ".join(sorted({row["machine"] for row in every})),
    }
    write_report(options.out, results, facts)
    write_cases(
        cases_path_of(options.out), {key: scored[key] for key in sorted(scored, key=_place)}
    )


def _place(key: tuple[str, int]) -> tuple[int, int]:
    arm, fold = key
    return ARMS.index(arm), fold


def command(options: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> str:
    """The command that makes the figures, without where this machine keeps its files."""
    folds = sorted({row["fold"] for rows in results.values() for row in rows})
    parts = ["python", "benchmarks/busi.py", "--data", "data"]
    for option, path, default, arms in (
        ("--config", options.config, DEFAULT_CONFIG, set(ARMS)),
        ("--further", options.further, DEFAULT_FURTHER, {"further"}),
    ):
        if path.resolve() != default and any(results[arm] for arm in arms):
            near = path.resolve().is_relative_to(REPOSITORY)
            told = path.resolve().relative_to(REPOSITORY).as_posix() if near else path.name
            parts += [option, told]
    parts += ["--folds", ",".join(map(str, folds))]
    parts += ["--only", ",".join(arm for arm in ARMS if results[arm])]
    if options.epochs is not None:
        parts += ["--epochs", f"{options.epochs:g}"]
    parts += ["--unet-epochs", f"{options.unet_epochs:g}"] if results["unet"] else []
    parts += ["--seed", str(options.seed)]
    for assignment in options.set:
        if not assignment.startswith(("data.root=", "out=", "device=", "workers=", "save_every=")):
            parts += ["--set", assignment]
    return shlex.join(parts)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
