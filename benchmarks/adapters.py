"""Every number of the shipped adapters' model cards, made anew.

    python benchmarks/adapters.py generalist research --data data

from the root of the repository, since the cards name files relative to it.
For each adapter: accuracy on the test splits (`textsam evaluate`), whether the word decides
(`textsam evaluate --faithfulness`), what comes back from parts of images beside the thing asked
for (`benchmarks/beside.py`), then the card (`benchmarks/model_card.py`). Results are in
`benchmarks/results/NAME/`. An evaluation that was stopped goes on where it was. `--steps card`
writes the cards alone.

On two cores the whole takes about an hour; `--threads 1` and one adapter per process use both cores
better than one process with two threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHIPPABLE = (
    "busi/fold1/test",
    "busi_normal/train@0.1:0.3",
    "braintumor/test",
    "dsb2018/test",
    "cxr_lung/test",
    "usgra/test",
    "isbi2012/test",
)
RESEARCH = (
    *SHIPPABLE,
    "cvc_clinicdb/test",
    "ph2/test",
    "drive/test",
    "acdc/test",
    "vnc_em/test",
)
TEST_SETS = {"generalist": SHIPPABLE, "research": RESEARCH}
# Sets whose objects leave room beside them.
BESIDE = {
    "generalist": ("busi/fold1/test", "braintumor/test"),
    "research": ("busi/fold1/test", "braintumor/test", "cvc_clinicdb/test"),
}
# Faithfulness asks some thirty prompts of an image.
FAITHFULNESS_LIMIT = 25
STEPS = ("evaluate", "faithfulness", "beside", "card")


def commands(name: str, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Step -> command, for one adapter."""
    adapter = Path(arguments.weights) / name
    results = Path("benchmarks") / "results" / name
    sets = [part for where in TEST_SETS[name] for part in ("--set", where)]
    beside = [part for where in BESIDE[name] for part in ("--set", where)]
    data, precision = arguments.data, arguments.precision
    evaluate = [sys.executable, "-m", "textsam", "evaluate", data, *sets]
    common = ["--adapter", str(adapter), "--precision", precision]
    limit = ["--limit", str(FAITHFULNESS_LIMIT)]
    script = [sys.executable, str(HERE / "beside.py"), "--data", data, *beside]
    return {
        "evaluate": [*evaluate, *common, "-o", str(results)],
        "faithfulness": [
            *(*evaluate, *common, *limit, "--faithfulness"),
            *("-o", str(results / "faithfulness")),
        ],
        "beside": [*script, *common, "-o", str(results / "beside.json")],
        "card": [sys.executable, str(HERE / "model_card.py"), str(adapter), str(results)],
    }


def main() -> None:
    """Run the steps, adapter by adapter; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", choices=TEST_SETS)
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="weights")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--threads", type=int, default=0, help="per process; 0: as PyTorch likes")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    arguments = parser.parse_args()
    environment = dict(os.environ)
    if arguments.threads:
        environment["OMP_NUM_THREADS"] = str(arguments.threads)
    for name in arguments.names:
        for step in arguments.steps:
            command = commands(name, arguments)[step]
            print("+", " ".join(command[1:]), flush=True)
            subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
