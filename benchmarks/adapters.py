"""Every number of the shipped adapters' model cards, made anew.

    python benchmarks/adapters.py generalist research --data data

from the root of the repository, since the cards name files relative to it.
For each adapter: accuracy on the test splits (`textsam evaluate`), whether the word decides
(`textsam evaluate --faithfulness`), what comes back where the thing asked for is not, in parts of
images beside it and in wholes in which it is covered (`benchmarks/beside.py`), then the card
(`benchmarks/model_card.py`). Results are in `benchmarks/results/NAME/`. An evaluation that was
stopped goes on where it was. `--steps card` writes the cards alone.

`--threads 1` and one adapter per process use two cores better than one process with two threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Test splits, of the large ones the part whose names' hashes lie in the range given: a card is made
# on two cores in well under an hour. `--whole` takes all.
TEST_SETS = {
    "generalist": (
        "busi/fold1/test",
        "busi_normal/train@0.1:0.3",
        "braintumor/test@0:0.7",
        "dsb2018/test@0:0.5",
        "cxr_lung/test@0:0.4",
        "usgra/test",
        "isbi2012/test",
    ),
    "research": (
        "busi/fold1/test@0:0.4",
        "busi_normal/train@0.1:0.3",
        "braintumor/test@0:0.4",
        "dsb2018/test@0:0.3",
        "cxr_lung/test@0:0.3",
        "usgra/test",
        "isbi2012/test",
        "cvc_clinicdb/test",
        "ph2/test",
        "drive/test",
        "acdc/test@0:0.5",
        "vnc_em/test",
    ),
}
# Sets whose objects leave room beside them.
BESIDE = {
    "generalist": ("busi/fold1/test@0:0.5", "braintumor/test"),
    "research": ("busi/fold1/test@0:0.3", "braintumor/test", "cvc_clinicdb/test@0:0.5", "ph2/test"),
}
# Faithfulness asks some thirty prompts of an image.
FAITHFULNESS_LIMIT = 10
STEPS = ("evaluate", "faithfulness", "beside", "card")


def _options(sets: tuple[str, ...], whole: bool) -> list[str]:
    # A range that leaves out training images is no matter of cost.
    kept = (s.partition("@0:")[0] if whole else s for s in sets)
    return [part for where in kept for part in ("--set", where)]


def commands(name: str, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Step -> command, for one adapter."""
    adapter = Path(arguments.weights) / name
    results = Path("benchmarks") / "results" / name
    sets = _options(TEST_SETS[name], arguments.whole)
    beside = _options(BESIDE[name], arguments.whole)
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
        "card": [
            *(sys.executable, str(HERE / "model_card.py"), str(adapter), str(results)),
            *(["--no-pictures"] if name == "research" else []),
        ],
    }


def main() -> None:
    """Run the steps, adapter by adapter; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", choices=TEST_SETS)
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="weights")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--whole", action="store_true", help="all of every test split")
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
