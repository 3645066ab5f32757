"""Self-prompting and self-distillation, and the sampling of training prompts: three tables.

    python benchmarks/self_prompting.py --data data

Trains and evaluates the cells of `configs/methods/` as `textsam ablate` does, and keeps the tables
in `benchmarks/results/methods/`. Kill it, and give the command again: what is finished is skipped.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from textsam.ablate.run import ablate
from textsam.io.atomic import atomic_path

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "methods"
TABLES = ("self-prompting-busi", "self-prompting-polyp", "prompt-sampling")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not done yet, and copy the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="with manifest.json")
    parser.add_argument("--tables", default=",".join(TABLES), help=f"of {', '.join(TABLES)}")
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/methods"))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", action="append", default=[], help="as `textsam train --set`")
    options = parser.parse_args(arguments)
    names = options.tables.split(",")
    if unknown := set(names) - set(TABLES):
        parser.error(f"--tables {', '.join(sorted(unknown))}: choose of {', '.join(TABLES)}")
    complete = True
    for name in names:
        command = f"python benchmarks/self_prompting.py --tables {name} --seeds {options.seeds}"
        command += "".join(f" --set {shlex.quote(change)}" for change in options.set)
        result = ablate(
            CONFIGS / f"{name}.yaml",
            out=options.work,
            seeds=[int(seed) for seed in options.seeds.split(",")],
            overrides=[f"data.root={options.data}", *options.set],
            command=command,
        )
        complete &= result.complete
        for outcome in result.outcomes:
            if outcome.state in ("failed", "busy"):
                print(f"{outcome.cell}: {outcome.message}", file=sys.stderr)
        for suffix in (".md", ".csv"):
            with atomic_path(options.out / f"{name}{suffix}") as temporary:
                shutil.copyfile(result.folder / f"{name}{suffix}", temporary)
        print(result.table)
    return 0 if complete else 1


if __name__ == "__main__":
    from textsam.allocator import keep_freed_memory

    keep_freed_memory()
    sys.exit(main())
