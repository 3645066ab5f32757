"""Train and measure on a GPU machine that reaches no network.

Such a machine starts bare, takes files in parts of limited size and runs commands for minutes, so
the work is cut to fit: everything needed is packed into one archive, sent in parts, and all work
goes on from its last state in every further command.

Here, once (wheels of what the GPU machine lacks, the packed data, split into parts):

    python benchmarks/gpu.py pack --data data --config configs/generalist.yaml \
        --config configs/busi.yaml --native busi --to gpu_pack

There, one command per part, and then this one until it exits with 0; with 75 something is left, and
with anything else something has failed: the last line tells what.

    python3 benchmarks/gpu.py receive gpu_pack/part-0
    python3 benchmarks/gpu.py session --minutes 9 --out OUT --train configs/generalist.yaml \
        --ablate configs/ablations/rank.yaml --ablate configs/ablations/context.yaml

Where minutes are few, trainings side by side fill the card, each as long as the time allows; the
next command goes on with them (`gpu_together`), and `--more-minutes` plans for its time, too. They
need less to be sent, and adapters to go on from can be in the parts instead of in the checkout:

    python benchmarks/gpu.py pack --data data --config configs/generalist.yaml --side 352 \
        --without-test --small-text --adapter weights/generalist-stage9 --to gpu_pack
    python3 benchmarks/gpu.py together \
        configs/generalist.yaml,init_adapter=/tmp/textsam-gpu/adapters/generalist-stage9,workers=2 \
        configs/busi.yaml,workers=2 --minutes 9 --more-minutes 2.5 --out OUT

`session` does the BUSI benchmark, then the trainings, each finished into an adapter folder in half
precision, then the ablations and, with `--methods NAME`, the tables of `configs/methods/`. Each of
its parts is also a command of its own:

    python3 benchmarks/gpu.py busi --minutes 9 --out OUT -- --only text,box
    python3 benchmarks/gpu.py train configs/generalist.yaml --minutes 9 --out OUT
    python3 benchmarks/gpu.py finish configs/generalist.yaml --out OUT
    python3 benchmarks/gpu.py ablate configs/ablations/rank.yaml --minutes 9 --out OUT
    python3 benchmarks/gpu.py methods levels --minutes 9 --out OUT
    python3 benchmarks/gpu.py measure --sets busi/fold1/test --out OUT
    python3 benchmarks/gpu.py speed --out OUT

Few files come back, each of them small: an adapter with its log, in half precision, as NAME.tar.gz
(`gpu_back`; from `finish` calibrated, in place of the other), the BUSI benchmark as `busi.tar.gz`
and an archive per fold, `ablations.tar.gz`, `methods.tar.gz`.

`speed` is `benchmarks/speed.py` on the card, in the slices it cuts itself into. It needs no data,
only the wheels.

Image files are stored at `--side` pixels, more than the `lite` model sees, so that cropping in
training loses little; sets named with `--native` stay as they are, as figures at native size
need them. `gpu_pack/` is not part of the repository. Where what travels at once is limited, a part
(`--part-mib`) and the checkout beside it have to fit; `pack` says how much that is. Folders of
`weights/` that no configuration begins with can be left out of the checkout.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from gpu_back import bring_back
from gpu_files import PLACE, REPOSITORY, pack, receive
from gpu_together import one, side_by_side

if TYPE_CHECKING:
    from textsam.config import TrainConfig

UNFINISHED = 75
# Script in benchmarks/ -> its options for states, for results, and for the device.
METHODS = {
    "levels": (
        *("--out", PLACE / "ablations", "--results", PLACE / "methods"),
        *("--device", "cuda"),
    ),
    "prompt_tokens": ("--work", PLACE / "prompt-tokens", "--out", PLACE / "methods"),
    "self_prompting": ("--work", PLACE / "ablations", "--out", PLACE / "methods"),
    "preference": (
        *("--work", PLACE / "preference", "--out", PLACE / "methods" / "preference.json"),
        *("--device", "cuda"),
    ),
}


def _use_packed() -> None:
    for place in (PLACE / "site", REPOSITORY):
        sys.path.insert(0, str(place))


def train(arguments: argparse.Namespace) -> int:
    """Train for some minutes; call again to go on. The adapter so far comes back."""
    # Loading and the check of the data are part of the minutes.
    deadline = time.monotonic() + 60 * arguments.minutes
    _use_packed()
    import torch

    from textsam.train.run import fit, setup

    run = setup(_config(arguments))
    began, start = run.state.step, time.monotonic()
    while run.state.step < run.total_steps and time.monotonic() < deadline:
        fit(run, stop_after=run.state.step + arguments.slice, progress=False)
    seconds = time.monotonic() - start
    images = (run.state.step - began) * run.config.batch_size * run.config.accumulate
    rate = images / max(seconds, 1e-9)
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    print(f"step {run.state.step} of {run.total_steps}: {rate:.1f} images/s, {memory:.1f} GiB")
    if arguments.out:
        facts = {"step": run.state.step, "total_steps": run.total_steps}
        bring_back(run.folder, Path(arguments.out) / f"{run.config.name}.tar.gz", facts)
    return 0 if run.state.step >= run.total_steps else UNFINISHED


def _config(arguments: argparse.Namespace) -> TrainConfig:
    from textsam.config import read_config

    overrides = [f"data.root={PLACE / 'data'}", f"out={PLACE / 'runs'}", *arguments.set]
    return read_config(arguments.config, overrides)


def finish(arguments: argparse.Namespace) -> int:
    """Calibrate a finished training; the adapter comes back in place of the one `train` sends."""
    _use_packed()
    config = _config(arguments)
    run = PLACE / "runs" / config.name
    finished = PLACE / "finished" / config.name
    command = [sys.executable, "-m", "textsam", "calibrate", str(run / "best"), arguments.config]
    command += ["-o", str(finished), "--set", f"data.root={PLACE / 'data'}"]
    command += [part for assignment in arguments.set for part in ("--set", assignment)]
    done = subprocess.run(command, env=_environment(), check=False, cwd=REPOSITORY)
    if done.returncode == 0:
        shutil.copy(run / "log.csv", finished)
        _bundle(Path(arguments.out) / f"{config.name}.tar.gz", finished, ("*",))
    return done.returncode


def busi(arguments: argparse.Namespace) -> int:
    """Go on with the BUSI benchmark; its figures, cases and the adapters of `text` come back."""
    kept = PLACE / "busi"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "busi.py")]
    command += ["--data", str(PLACE / "data"), "--work", str(kept / "work")]
    command += ["--minutes", str(arguments.minutes), "--out", str(kept / "busi.json")]
    command += ["--set", f"workers={arguments.workers}", *arguments.more]
    done = subprocess.run(command, env=_environment(), check=False)
    patterns = ("busi.json", "busi.md", "*.csv", "job.json")
    _bundle(Path(arguments.out) / "busi.tar.gz", kept, patterns)
    _use_packed()
    for folder in sorted((kept / "work").glob("text-fold*")):
        bring_back(folder, Path(arguments.out) / f"{folder.name}.tar.gz", {})
    return done.returncode


def ablate(arguments: argparse.Namespace) -> int:
    """Go on with an ablation; a cell that the time cuts short goes on from its last state."""
    kept = PLACE / "ablations"
    command = [sys.executable, "-m", "textsam", "ablate", arguments.file, "--out", str(kept)]
    command += ["--set", f"data.root={PLACE / 'data'}", *arguments.more]
    code = _interrupted(command, arguments.minutes)
    patterns = ("*.csv", "*.md", "*.png", "*.json")
    _bundle(Path(arguments.out) / "ablations.tar.gz", kept, patterns)
    return code


def methods(arguments: argparse.Namespace) -> int:
    """Go on with the table of a method."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / f"{arguments.name}.py")]
    command += ["--data", str(PLACE / "data"), *map(str, METHODS[arguments.name])]
    code = _interrupted([*command, *arguments.more], arguments.minutes)
    _bundle(Path(arguments.out) / "methods.tar.gz", PLACE / "methods", ("*",))
    return code


def _interrupted(command: list[str], minutes: float) -> int:
    """Run a command that writes its state as it goes, and break it off when the time is up."""
    try:
        done = subprocess.run(
            command, env=_environment(), check=False, cwd=REPOSITORY, timeout=60 * minutes
        )
    except subprocess.TimeoutExpired:
        return UNFINISHED
    return done.returncode


def session(arguments: argparse.Namespace) -> int:
    """Do what is left of everything, in order, until the time is up.

    What fails is told and left for the next session, and the others go on; of a training that
    failed nothing can be finished.

    Returns:
        The status of the first that failed, else 75 where something is left, else 0.
    """
    deadline = time.monotonic() + 60 * arguments.minutes
    script = [sys.executable, str(Path(__file__).resolve())]
    out = ["--out", arguments.out]
    works: list[tuple[str, list[str]]] = []
    if not arguments.without_busi:
        works.append(("busi", ["busi", *out]))
    for path in arguments.train:
        works += [
            (f"train {path}", ["train", path, "--slice", "50", *out]),
            (f"finish {path}", ["finish", path, *out]),
        ]
    works += [(f"ablate {path}", ["ablate", path, *out]) for path in arguments.ablate]
    works += [(f"methods {name}", ["methods", name, *out]) for name in arguments.methods]
    marks = PLACE / "done"
    marks.mkdir(parents=True, exist_ok=True)
    failed: dict[str, int] = {}
    left = False
    for name, command in works:
        mark = marks / quote(name, safe="")  # a path of many folders as one name
        if mark.exists():
            continue
        if command[0] == "finish" and f"train {command[1]}" in failed:
            print(f"left: {name}, as its training failed")
            continue
        minutes = (deadline - time.monotonic()) / 60
        # Less than this would go into loading the model.
        if minutes < 0.75:
            print(f"left: {name} and what follows")
            left = True
            break
        timed = [] if command[0] == "finish" else ["--minutes", f"{minutes:.2f}"]
        print(f"{name}: {minutes:.1f} minutes", flush=True)
        code = subprocess.run([*script, *command, *timed], check=False).returncode
        if code == UNFINISHED:
            print(f"{name}: unfinished")
            left = True
            break
        if code:
            print(f"{name}: failed with {code}", flush=True)
            failed[name] = code
        else:
            mark.touch()
    if failed:
        print("failed: " + ", ".join(f"{name} ({code})" for name, code in failed.items()))
        return next(iter(failed.values()))
    if left:
        return UNFINISHED
    print("nothing is left")
    return 0


def _bundle(target: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    """Pack what matches below a folder into one file: few files come back, and none from deep."""
    if not folder.is_dir():
        return
    with tarfile.open(target, "w:gz") as tar:
        for path in sorted({path for pattern in patterns for path in folder.rglob(pattern)}):
            tar.add(path, arcname=path.relative_to(folder))


def _environment() -> dict[str, str]:
    paths = [str(PLACE / "site"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def measure(arguments: argparse.Namespace) -> None:
    """Evaluate the best adapter on splits of the packed data and time it."""
    _use_packed()
    from textsam.api import load_model
    from textsam.data.selection import selection_of
    from textsam.data.sets import samples_from_manifest
    from textsam.evaluate import evaluate

    adapter = arguments.adapter or str(PLACE / "runs" / arguments.run / "best")
    segmenter = load_model("lite", adapter, arguments.device)
    samples = samples_from_manifest(PLACE / "data", [selection_of(s) for s in arguments.sets])
    summary = evaluate(segmenter, samples, out=Path(arguments.out), progress=False)
    print(f"{platform.node()} {platform.machine()}: {adapter}")
    print(summary.table())


def together(arguments: argparse.Namespace) -> int:
    """Train several configurations side by side, each as long as the time allows."""
    _use_packed()
    script = Path(__file__).resolve()
    return side_by_side(
        script, arguments.works, arguments.minutes, Path(arguments.out), arguments.more_minutes
    )


def one_of_them(arguments: argparse.Namespace) -> int:
    """One of the trainings side by side; `together` starts it."""
    _use_packed()
    more, out = arguments.more_minutes, Path(arguments.out)
    return one(arguments.name, arguments.works, arguments.until, out, more)


def speed(arguments: argparse.Namespace) -> int:
    """Run what is left of the speed benchmark; exits with 75 while something is."""
    out = Path(arguments.out) / "speed-gpu.json"
    kept = PLACE / "speed-gpu.json"  # OUT is empty at every command, this place is not
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "speed.py"), "--device", "cuda"]
    command += ["--cases", "a,b,c,e,g", "--minutes", str(arguments.minutes), "--out", str(kept)]
    done = subprocess.run(command, env=_environment(), check=False)
    for suffix in (".json", ".md", ".samples.json"):
        if kept.with_suffix(suffix).exists():
            shutil.copy(kept.with_suffix(suffix), out.with_suffix(suffix))
    return done.returncode


def main() -> int:
    """Read the command and call it; its exit status, 75 where something is left to do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("pack")
    p.add_argument("--data", default="data")
    p.add_argument("--config", action="append", required=True)
    p.add_argument("--to", default="gpu_pack")
    p.add_argument("--side", type=int, default=384)
    p.add_argument("--native", action="append", default=[], help="a set to keep as it is")
    p.add_argument("--without-test", action="store_true", help="leave test parts here")
    p.add_argument("--small-text", action="store_true", help="MiniLM's known words; for together")
    p.add_argument("--adapter", action="append", default=[], help="a folder to go on from")
    p.add_argument("--part-mib", type=int, default=40, help="most of a part")
    p.add_argument("--python", default="3.12")
    p.set_defaults(call=pack)
    p = commands.add_parser("receive")
    p.add_argument("part")
    p.set_defaults(call=receive)
    p = commands.add_parser("train")
    p.add_argument("config")
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--slice", type=int, default=50, help="steps between looks at the clock")
    p.add_argument("--set", action="append", default=[])
    p.add_argument("--out")
    p.set_defaults(call=train)
    p = commands.add_parser("finish")
    p.add_argument("config")
    p.add_argument("--set", action="append", default=[])
    p.add_argument("--out", required=True)
    p.set_defaults(call=finish)
    p = commands.add_parser("busi")
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--workers", type=int, default=8)
    p.add_argument("--out", required=True)
    p.add_argument("more", nargs="*", help="after --: options of busi.py")
    p.set_defaults(call=busi)
    p = commands.add_parser("ablate")
    p.add_argument("file")
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--out", required=True)
    p.add_argument("more", nargs="*", help="after --: options of textsam ablate")
    p.set_defaults(call=ablate)
    p = commands.add_parser("methods")
    p.add_argument("name", choices=METHODS)
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--out", required=True)
    p.add_argument("more", nargs="*", help="after --: options of the script")
    p.set_defaults(call=methods)
    p = commands.add_parser("session")
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--without-busi", action="store_true")
    p.add_argument("--train", action="append", default=[], help="configuration to train, finish")
    p.add_argument("--ablate", action="append", default=[], help="ablation to do")
    p.add_argument("--methods", action="append", default=[], choices=METHODS)
    p.add_argument("--out", required=True)
    p.set_defaults(call=session)
    p = commands.add_parser("measure")
    p.add_argument("--adapter")
    p.add_argument("--run", default="generalist")
    p.add_argument("--sets", nargs="+", required=True)
    p.add_argument("--device", default="auto")
    p.add_argument("--out", required=True)
    p.set_defaults(call=measure)
    p = commands.add_parser("together")
    p.add_argument("works", nargs="+", help="CONFIG[,a.b=value…]")
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--more-minutes", type=float, default=0, help="that the next command will have")
    p.add_argument("--out", required=True)
    p.set_defaults(call=together)
    p = commands.add_parser("one")
    p.add_argument("name")
    p.add_argument("--works", nargs="+", required=True)
    p.add_argument("--until", type=float, required=True)
    p.add_argument("--more-minutes", type=float, default=0)
    p.add_argument("--out", required=True)
    p.set_defaults(call=one_of_them)
    p = commands.add_parser("speed")
    p.add_argument("--minutes", type=float, default=8.0)
    p.add_argument("--out", required=True)
    p.set_defaults(call=speed)
    arguments = parser.parse_args()
    return arguments.call(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
